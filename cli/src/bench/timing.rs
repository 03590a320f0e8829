//! Median time of a call, between two measurements of the peak; of backward, beside forward in the same rounds.

use super::count::Count;
use super::gradient::{self, Pass};
use super::inputs::{Given, Roles, Tensors};
use super::problem::Problem;
use crate::memory::Memory;
use crate::{machine, peak};
use anyhow::{Context as _, Result, bail};
use std::time::{Duration, Instant};
use subquad::{Mode, Plan};

/// The peak may move by this much between before and after; beyond, the run is void.
const PEAK_DRIFT: f64 = 0.05;
/// Times a run is repeated when the peak moved.
const ATTEMPTS: usize = 4;
/// A sample lasts at least this long, so that the clock's own cost of some 30 ns does not show.
const SAMPLE: Duration = Duration::from_micros(20);
/// Samples at least, however long one takes.
const MIN_SAMPLES: usize = 5;
/// Samples at most.
const MAX_SAMPLES: usize = 20_000;

/// The forward call of a problem whose gradients are timed: each of its samples comes before one of backward.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// Seconds of one call, the median.
    pub seconds: f64,
    /// Backward's time over forward's in the same round, the median.
    pub ratio: f64,
}

/// What was measured of one problem.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Seconds of one call, the median; of backward where gradients are timed.
    pub seconds: f64,
    /// Where gradients are timed: forward.
    pub forward: Option<Forward>,
    /// Interquartile range over the median.
    pub spread: f64,
    /// Calls that were timed.
    pub samples: usize,
    /// Billions of operations per second of the problem's threads on registers, mean of before and after.
    pub peak_gflops: f64,
    /// Peak of the problem's threads over that of one: 2 for two cores, little more than 1 for two threads of
    /// one core.
    pub peak_ratio: Option<f64>,
    /// The peak moved between before and after, in every attempt.
    pub void: bool,
    /// Seconds of CPU that one call took, the mean; what other programs took of the processor is not in it.
    /// Only with one thread: with a pool the calling thread waits for the others.
    pub cpu_seconds: Option<f64>,
    /// Part of the time that the calling thread really had the processor; low on a busy machine.
    pub cpu_share: Option<f64>,
    /// Operations of one call.
    pub count: Count,
    /// Bytes of the tensors of one call.
    pub bytes: usize,
    /// Bytes per second that one thread reads from memory, mean of before and after: of a step whose tensors no cache
    /// holds.
    pub memory: Option<f64>,
    /// The instruction set that ran.
    pub isa: subquad::Isa,
    /// Bytes of workspace.
    pub workspace_bytes: usize,
    /// Bytes of the state of one sequence.
    pub state_bytes: usize,
}

impl Measured {
    /// Heads that times are quoted for: the most of q, k and v.
    pub fn heads(problem: &Problem) -> i64 {
        problem.heads.into_iter().max().unwrap_or(1)
    }

    /// Nanoseconds per token and head.
    pub fn ns_per_token_head(&self, problem: &Problem) -> f64 {
        let tokens = problem.batch * problem.n_queries;
        1e9 * self.seconds / (tokens * Measured::heads(problem)) as f64
    }

    /// The same of the forward call beside backward.
    pub fn forward_ns_per_token_head(&self, problem: &Problem) -> Option<f64> {
        let forward = self.forward?;
        Some(Measured { seconds: forward.seconds, ..self.clone() }.ns_per_token_head(problem))
    }

    /// The same of the CPU's time.
    pub fn cpu_ns_per_token_head(&self, problem: &Problem) -> Option<f64> {
        self.cpu_seconds.map(|seconds| Measured { seconds, ..self.clone() }.ns_per_token_head(problem))
    }

    /// Tokens of all sequences per second.
    pub fn tokens_per_s(&self, problem: &Problem) -> f64 {
        (problem.batch * problem.n_queries) as f64 / self.seconds
    }

    /// Billions of counted operations per second; 0 where none are counted.
    pub fn gflops(&self) -> f64 {
        1e-9 * self.count.flops / self.seconds
    }

    /// Part of the peak.
    pub fn peak_fraction(&self) -> f64 {
        self.gflops() / self.peak_gflops
    }

    /// How many times the time that the unavoidable operations take at the peak.
    pub fn bound_ratio(&self) -> f64 {
        self.seconds * self.peak_gflops * 1e9 / self.count.bound
    }

    /// Bytes of tensors moved per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// Times a problem for about `seconds`.
pub fn measure(problem: &Problem, roles: &Roles, given: &Given, seconds: f64) -> Result<Measured> {
    let plan = problem.plan()?;
    let mut tensors = Tensors::generate(problem, &plan, roles, given)?;
    let mut workspace = gradient::workspace(problem, &plan)?;
    let (pass, info) = (Pass::timed(problem), plan.info());
    let (count, bytes) = (Count::of(problem, &plan, roles.takes_outputs), tensors.bytes(pass));
    let workspace_bytes = pass.workspace_size(problem, &plan)?;
    tensors.run(&plan, problem.mode, &mut workspace).with_context(|| format!("problem `{problem}`"))?;
    if let Some((role, _)) = tensors.results().find(|(_, data)| data.iter().any(|x| !x.is_finite())) {
        bail!("problem `{problem}`: {role} has values that are not finite");
    }
    let from_memory = problem.mode == Mode::Step && problem.threads == 1 && Memory::holds(bytes);
    let memory = from_memory.then(Memory::new);
    let reads = || memory.as_ref().map(Memory::bytes_per_s);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let read_before = reads();
        let before = peak::threads(info.isa, problem.threads, peak::SPAN);
        let samples = sample(&plan, problem, &mut tensors, &mut workspace, seconds)?;
        let after = peak::threads(info.isa, problem.threads, peak::SPAN);
        let read_after = reads();
        let void = (before / after - 1.0).abs() > PEAK_DRIFT;
        if void && attempts < ATTEMPTS {
            continue;
        }
        let times = samples.timed();
        let [low, median, high] = quartiles(times.iter().copied());
        let cpu_share = samples.cpu_share.filter(|_| problem.threads == 1);
        return Ok(Measured {
            seconds: median,
            forward: samples.forward_beside(),
            spread: (high - low) / median,
            samples: times.len(),
            peak_gflops: (before + after) / 2.0,
            peak_ratio: (problem.threads > 1).then(|| after / peak::one_thread(info.isa, peak::SPAN)),
            void,
            cpu_seconds: cpu_share.map(|share| share * times.iter().sum::<f64>() / times.len() as f64),
            cpu_share,
            count,
            bytes,
            memory: read_before.zip(read_after).map(|(before, after)| (before + after) / 2.0),
            isa: info.isa,
            workspace_bytes,
            state_bytes: info.state_bytes,
        });
    }
}

/// Seconds per call of every sample.
struct Samples {
    forward: Vec<f64>,
    /// Each after the forward sample of the same index.
    backward: Option<Vec<f64>>,
    /// CPU seconds over the clock's, of all samples together.
    cpu_share: Option<f64>,
}

impl Samples {
    /// Those of the pass that the problem asks for.
    fn timed(&self) -> &[f64] {
        self.backward.as_deref().unwrap_or(&self.forward)
    }

    fn forward_beside(&self) -> Option<Forward> {
        let both = self.backward.as_ref()?.iter().zip(&self.forward);
        let [_, ratio, _] = quartiles(both.map(|(backward, forward)| backward / forward));
        let [_, seconds, _] = quartiles(self.forward.iter().copied());
        Some(Forward { seconds, ratio })
    }
}

/// Calls for about `seconds`, forward and backward by turns.
fn sample(
    plan: &Plan,
    problem: &Problem,
    tensors: &mut Tensors,
    workspace: &mut [u8],
    seconds: f64,
) -> Result<Samples> {
    let mut time = |pass: Pass, calls: u32| -> Result<Duration> {
        let args = tensors.args(pass)?;
        let start = Instant::now();
        for _ in 0..calls {
            match pass {
                Pass::Forward => plan.execute(problem.mode, &args, workspace)?,
                Pass::Backward => plan.backward(problem.mode, &args, workspace)?,
            }
        }
        Ok(start.elapsed())
    };
    // The warm-up finds how many calls make a sample; it fills caches and starts the pool's threads.
    let mut calls = 1;
    while time(Pass::Forward, calls)? < SAMPLE {
        calls *= 2;
    }
    let budget = Duration::from_secs_f64(seconds);
    let (mut forward, mut backward) = (Vec::new(), problem.grad.then(Vec::new));
    let (start, cpu) = (Instant::now(), machine::thread_cpu_seconds());
    while forward.len() < MIN_SAMPLES || (start.elapsed() < budget && forward.len() < MAX_SAMPLES) {
        forward.push(time(Pass::Forward, calls)?.as_secs_f64() / f64::from(calls));
        if let Some(backward) = &mut backward {
            backward.push(time(Pass::Backward, calls)?.as_secs_f64() / f64::from(calls));
        }
    }
    let cpu = cpu.zip(machine::thread_cpu_seconds()).map(|(start, end)| end - start);
    let clock = forward.iter().chain(backward.iter().flatten()).sum::<f64>() * f64::from(calls);
    Ok(Samples { forward, backward, cpu_share: cpu.map(|cpu| cpu / clock) })
}

/// The first quartile, the median and the third quartile.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_by(f64::total_cmp);
    [1, 2, 3].map(|i| sorted[(sorted.len() - 1) * i / 4])
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn the_ratio_is_the_median_of_those_of_rounds() {
        let (forward, backward) = (vec![4.0, 1.0, 2.0], Some(vec![20.0, 3.0, 4.0]));
        let samples = Samples { forward, backward, cpu_share: None };
        assert_eq!(samples.timed(), [20.0, 3.0, 4.0]);
        let beside = samples.forward_beside().unwrap();
        assert_eq!((beside.ratio, beside.seconds), (3.0, 2.0));
        let alone = Samples { backward: None, ..samples };
        assert!(alone.forward_beside().is_none() && alone.timed() == [4.0, 1.0, 2.0]);
    }
}
