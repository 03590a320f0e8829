//! `subquad demo`: every mechanism on real queries, keys and values.

use crate::bench::inputs::{self, Given, Roles, Tensors};
use crate::bench::problem::{Overrides, Problem};
use crate::bench::timing::{self, Measured};
use crate::table::{Table, bytes, digits, number, word};
use anyhow::{Context as _, Result, anyhow, bail};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use subquad::catalog::{self, Default, StepKind};
use subquad::{Mode, Role};

/// The file in the data folder.
const FILE: &str = "smollm2_qkv_l14_n2048.safetensors";
/// Mechanisms that fit on a screen, beside exact attention, headings and remarks.
const MAX_ROWS: usize = 9;

const HELP: &str = "\
The file holds q, k, v of a layer of a small language model and `out`, its exact causal softmax attention. \
Roles that the model does not have (decays, gates, write strengths) are random, in the range of trained models.

Examples:
  subquad demo
  subquad demo --data path/to/tests/data --seconds 1";

/// Options of `subquad demo`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// The folder with the sample data, or a file like it.
    #[arg(long, default_value = "tests/data")]
    data: PathBuf,
    /// Seconds to time each mechanism for.
    #[arg(long, default_value_t = 0.1)]
    seconds: f64,
    /// All mechanisms, even if they fill more than a screen.
    #[arg(long)]
    all: bool,
}

/// The command.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
        bail!("--seconds is {}, expected a number above 0, up to 3600", options.seconds);
    }
    let sample = Sample::read(&options.data)?;
    let [_, h, t, d] = sample.q.shape;
    let (hk, e) = (sample.k.shape[1], sample.v.shape[3]);
    println!(
        "{t} tokens of a language model: {h} query heads, {hk} key/value heads, D = {d}, E = {e}; 1 thread"
    );
    let table = table();
    println!("{}", table.header());
    let names: Vec<_> = subquad::mechanisms().filter(|name| recurrent(name)).collect();
    let shown = if options.all { names.len() } else { names.len().min(MAX_ROWS) };
    let mut peaks = Vec::new();
    for name in &names[..shown] {
        let row =
            Row::measure(name, &sample, options.seconds).with_context(|| format!("mechanism {name}"))?;
        peaks.push(row.prefill.peak_gflops);
        println!("{}", table.line(&row.cells()));
    }
    if shown < names.len() {
        println!("and {} more: --all", names.len() - shown);
    }
    sample.exact(options.seconds)?;
    let peak = peaks.iter().sum::<f64>() / peaks.len().max(1) as f64;
    println!("\npeak of this core, measured around each run: {peak:.0} GFLOP/s.");
    println!("vs softmax: relative error against the model's own attention, for mechanisms without gates.");
    println!(
        "This is no measure of quality: without training, linear attention does not approximate softmax.\n\
         (Answering 0 has error 1; the mean of the values so far has {:.2}.)",
        sample.error_of_mean()
    );
    Ok(ExitCode::SUCCESS)
}

/// Attention that runs over a sequence and token by token with a state of constant size.
fn recurrent(name: &str) -> bool {
    catalog::find(name).is_some_and(|mechanism| {
        let modes = [Mode::Causal, Mode::Step].iter().all(|mode| mechanism.modes.contains(mode));
        modes && mechanism.role(Role::Q).is_some() && mechanism.step == StepKind::Recurrent
    })
}

/// What a mechanism leaves to its user, in the form of a problem string: parameters without a default, as many rows
/// of a projection as channels, and as many slots of a memory.
fn choices(name: &str, t: usize, d: usize) -> String {
    let Some(mechanism) = catalog::find(name) else { return String::new() };
    let required = mechanism.params.iter().filter(|param| param.default == Default::Required);
    let mut text: String = required
        .map(|param| format!(",{}={}", param.name, if param.name == "period" { t } else { 1 }))
        .collect();
    if mechanism.roles.iter().any(|spec| spec.shapes.contains(&"P,D")) {
        text += &format!(",P={d}");
    }
    let slots = [Role::SLOT_WRITE, Role::SLOT_LOGITS, Role::BASIS];
    if slots.into_iter().any(|role| mechanism.role(role).is_some()) {
        text += &format!(",M={d}");
    }
    text
}

fn table() -> Table {
    Table::new(vec![
        word("mechanism", 16),
        number("ns/tok/head", 11),
        number("GFLOP/s", 7),
        number("% peak", 6),
        number("step us", 7),
        number("state", 8),
        word("isa", 6),
        number("vs softmax", 10),
        word("made up", 10),
    ])
}

/// What is printed of a mechanism.
struct Row {
    problem: Problem,
    prefill: Measured,
    step: Option<Measured>,
    error: Option<f64>,
    made_up: Vec<String>,
}

impl Row {
    fn measure(name: &str, sample: &Sample, seconds: f64) -> Result<Row> {
        let (problem, given) = sample.problem(name)?;
        let roles = Roles::of(&problem)?;
        let plan = problem.plan()?;
        let mut tensors = Tensors::generate(&problem, &plan, &roles, &given)?;
        tensors.run(&plan, problem.mode, &mut vec![0; plan.workspace_size()])?;
        let made_up: Vec<_> = tensors.inputs().filter(|role| !given.contains_key(role)).collect();
        let out = tensors.results().find(|(role, _)| *role == Role::OUT);
        let error = out.filter(|_| made_up.is_empty()).map(|(_, out)| relative(&out, &sample.out.data));
        let step = problem.mechanism.modes.contains(&Mode::Step).then(|| {
            let step = Problem { mode: Mode::Step, n_queries: 1, n_keys: 1, ..problem.clone() };
            timing::measure(&step, &Roles::of(&step)?, &inputs::past(&step)?, seconds / 2.0)
        });
        Ok(Row {
            prefill: timing::measure(&problem, &roles, &given, seconds)?,
            step: step.transpose()?,
            error,
            made_up: made_up.iter().map(Role::to_string).collect(),
            problem,
        })
    }

    fn cells(&self) -> Vec<String> {
        let prefill = &self.prefill;
        let dash = || "-".to_owned();
        vec![
            self.problem.mechanism.name.to_owned(),
            digits(prefill.ns_per_token_head(&self.problem)),
            format!("{:.1}", prefill.gflops()),
            format!("{:.0}{}", 100.0 * prefill.peak_fraction(), if prefill.void { "?" } else { "" }),
            self.step.as_ref().map_or_else(dash, |step| digits(1e6 * step.seconds)),
            bytes(prefill.state_bytes),
            prefill.isa.to_string(),
            self.error.map_or_else(dash, |error| format!("{error:.2}")),
            self.made_up.join(" "),
        ]
    }
}

/// A `[B, H, T, D]` tensor of the file.
struct Tensor {
    shape: [usize; 4],
    data: Vec<f32>,
}

/// Queries, keys, values and exact attention of a layer.
struct Sample {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
}

impl Sample {
    fn read(data: &Path) -> Result<Sample> {
        let path = if data.is_dir() { data.join(FILE) } else { data.to_owned() };
        let place = || format!("--data {}: {FILE} can't be read from it", data.display());
        let bytes = std::fs::read(&path).with_context(place)?;
        let file =
            SafeTensors::deserialize(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let tensor = |name: &str| Tensor::read(&file, name).with_context(|| path.display().to_string());
        let sample = Sample { q: tensor("q")?, k: tensor("k")?, v: tensor("v")?, out: tensor("out")? };
        let ([b, h, t, _], [_, hk, ..]) = (sample.q.shape, sample.k.shape);
        if b != 1 || sample.k.shape[2] != t || sample.v.shape[2] != t || hk == 0 || h % hk != 0 {
            bail!("{}: expected one sequence whose q, k and v have the same tokens", path.display());
        }
        Ok(sample)
    }

    /// The problem of a mechanism on this sample. Queries share keys as in the model where the mechanism can;
    /// where its queries have the heads of the keys, the keys and values are repeated.
    fn problem(&self, name: &str) -> Result<(Problem, Given)> {
        let ([_, h, t, d], [_, hk, ..], e) = (self.q.shape, self.k.shape, self.v.shape[3]);
        let unit = catalog::find(name).is_some_and(|mechanism| mechanism.param("l2norm_qk").is_some());
        let parse = |hk: usize| -> Result<Problem> {
            let unit = if unit { ",l2norm_qk=1" } else { "" };
            let more = choices(name, t, d);
            let text = format!("mechanism={name},mode=causal,H={h},Hk={hk},D={d},E={e},T={t}{unit}{more}");
            Ok(Problem::parse_all(&text, Overrides::default())?.remove(0))
        };
        let shared = parse(hk)?;
        let (problem, times) = if shared.plan().is_ok() { (shared, 1) } else { (parse(h)?, h / hk) };
        let repeat = |tensor: &Tensor| {
            let head = tensor.data.len() / hk;
            let heads = tensor.data.chunks_exact(head);
            heads.flat_map(|rows| std::iter::repeat_n(rows, times)).flatten().copied().collect()
        };
        let given = [(Role::Q, self.q.data.clone()), (Role::K, repeat(&self.k)), (Role::V, repeat(&self.v))];
        Ok((problem, given.into_iter().collect()))
    }

    /// Exact attention against the file's own, and what a window, alone and with a sink, makes of it.
    fn exact(&self, seconds: f64) -> Result<()> {
        println!("\nsoftmax, causal: relative error against the same   ns/tok/head  GFLOP/s  % peak");
        let sinks = self.first_logits();
        for (what, more, sink) in [
            ("all keys", "", false),
            ("the last 512", ",window_left=511", false),
            ("and the first as a sink of the mean logit", ",window_left=511,with=sink", true),
            ("the last 64", ",window_left=63", false),
            ("and the first as a sink of the mean logit", ",window_left=63,with=sink", true),
        ] {
            let (mut problem, mut given) = self.problem("softmax")?;
            let text = format!("{problem}{more}");
            problem = Problem::parse_all(&text, Overrides::default())?.remove(0);
            if sink {
                given.insert(Role::SINK, sinks.clone());
            }
            let roles = Roles::of(&problem)?;
            let plan = problem.plan()?;
            let mut tensors = Tensors::generate(&problem, &plan, &roles, &given)?;
            tensors.run(&plan, problem.mode, &mut vec![0; plan.workspace_size()])?;
            let out = tensors.results().find(|(role, _)| *role == Role::OUT);
            let error = out.map_or(f64::NAN, |(_, out)| relative(&out, &self.out.data));
            let timed = timing::measure(&problem, &roles, &given, seconds)?;
            println!(
                "  {what:<42} {error:>8.1e}  {:>11}  {:>7.1}  {:>6.0}",
                digits(timed.ns_per_token_head(&problem)),
                timed.gflops(),
                100.0 * timed.peak_fraction()
            );
        }
        Ok(())
    }

    /// The mean over queries of each head's scaled logit of the first key: a sink of that size has the weight that
    /// the first key had, and no value.
    fn first_logits(&self) -> Vec<f32> {
        let ([_, h, t, d], [_, hk, ..]) = (self.q.shape, self.k.shape);
        let dot = |head: usize, token: usize| -> f64 {
            let q = &self.q.data[(head * t + token) * d..][..d];
            let k = &self.k.data[head / (h / hk) * t * d..][..d];
            q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>() / (d as f64).sqrt()
        };
        (0..h).map(|head| ((0..t).map(|token| dot(head, token)).sum::<f64>() / t as f64) as f32).collect()
    }

    /// Relative error of the mean of the values so far, which is what attention without scores would give.
    fn error_of_mean(&self) -> f64 {
        let ([_, h, t, _], [_, hk, ..], e) = (self.q.shape, self.k.shape, self.v.shape[3]);
        let mut mean = vec![0f32; self.out.data.len()];
        for head in 0..h {
            let values = &self.v.data[head / (h / hk) * t * e..][..t * e];
            let mut sum = vec![0f64; e];
            for (token, row) in values.chunks_exact(e).enumerate() {
                for (i, &x) in row.iter().enumerate() {
                    sum[i] += f64::from(x);
                    mean[(head * t + token) * e + i] = (sum[i] / (token + 1) as f64) as f32;
                }
            }
        }
        relative(&mean, &self.out.data)
    }
}

impl Tensor {
    fn read(file: &SafeTensors<'_>, name: &str) -> Result<Tensor> {
        let view = file.tensor(name).map_err(|error| anyhow!("tensor {name}: {error}"))?;
        let shape: [usize; 4] = view
            .shape()
            .try_into()
            .map_err(|_| anyhow!("tensor {name} has shape {:?}, expected [B, H, T, D]", view.shape()))?;
        if view.dtype() != Dtype::F32 {
            bail!("tensor {name} has type {:?}, expected F32", view.dtype());
        }
        let words = view.data().as_chunks::<4>().0;
        Ok(Tensor { shape, data: words.iter().map(|word| f32::from_le_bytes(*word)).collect() })
    }
}

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let norm = |list: &mut dyn Iterator<Item = f64>| list.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b)))
}
