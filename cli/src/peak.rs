//! The peak of a core: multiply-adds on registers, as many as it can keep in flight.
//!
//! Every time that a benchmark quotes is worth something only beside this figure, measured in the same
//! second: a shared machine loses half its speed without telling.
//!
//! The loop holds 12 to 16 independent accumulators. A multiply-add takes 4 cycles on today's cores and two
//! begin per cycle, so 8 are the least; NEON cores with four pipes need 16. AVX2 has 16 registers in all:
//! 12 accumulators and two constants fit.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use subquad::Isa;

/// How long one measurement takes; the best of its slices counts.
pub const SPAN: Duration = Duration::from_millis(50);
/// A slice is short, so that some escape whatever else the machine does.
const SLICE: Duration = Duration::from_millis(2);

/// Billions of `f32` operations (a multiply-add is two) per second on the calling thread.
///
/// For `Scalar` the same with a multiply and an add, as the reference code has them.
pub fn one_thread(isa: Isa, span: Duration) -> f64 {
    let burst = Burst::calibrated(isa);
    let start = Instant::now();
    let mut best = 0f64;
    while start.elapsed() < span {
        best = best.max(burst.gflops());
    }
    best
}

/// The same for `n` threads at once, added up.
pub fn threads(isa: Isa, n: usize, span: Duration) -> f64 {
    if n <= 1 {
        return one_thread(isa, span);
    }
    let burst = Burst::calibrated(isa);
    let slices = (span.as_secs_f64() / SLICE.as_secs_f64()).ceil() as usize;
    let barrier = Barrier::new(n);
    let work = || {
        let mut found = Vec::with_capacity(slices);
        for _ in 0..slices {
            barrier.wait();
            found.push(burst.gflops());
        }
        found
    };
    let results: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..n).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().expect("the loop does not panic")).collect()
    });
    (0..slices).map(|i| results.iter().map(|found| found[i]).sum()).fold(0.0, f64::max)
}

/// A number of turns of the loop that takes about one slice.
struct Burst {
    isa: Isa,
    turns: u64,
}

impl Burst {
    fn calibrated(isa: Isa) -> Burst {
        let mut turns = 1 << 12;
        loop {
            let start = Instant::now();
            turn(isa, turns);
            let took = start.elapsed();
            if took * 4 >= SLICE {
                let scaled = turns as f64 * SLICE.as_secs_f64() / took.as_secs_f64();
                return Burst { isa, turns: (scaled as u64).max(1) };
            }
            turns *= 2;
        }
    }

    fn gflops(&self) -> f64 {
        let start = Instant::now();
        let flops_per_turn = turn(self.isa, self.turns);
        (flops_per_turn * self.turns) as f64 / start.elapsed().as_nanos() as f64
    }
}

/// Runs the loop and returns the operations of one turn.
fn turn(isa: Isa, turns: u64) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => vector::<16, _>(pulp::x86::V4::try_new(), turns),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => vector::<12, _>(pulp::x86::V3::try_new(), turns),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => vector::<16, _>(pulp::aarch64::Neon::try_new(), turns),
        _ => scalar(turns),
    }
}

fn vector<const N: usize, S: pulp::Simd>(simd: Option<S>, turns: u64) -> u64 {
    let Some(simd) = simd else { return scalar(turns) };
    simd.vectorize(Chain::<N> { turns });
    (2 * N * S::F32_LANES) as u64
}

/// `N` chains `x ← a x + b` that tend to 1: neither overflow nor denormals slow them.
struct Chain<const N: usize> {
    turns: u64,
}

impl<const N: usize> pulp::WithSimd for Chain<N> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let (a, b) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(0.5)));
        let mut x = [simd.splat_f32s(black_box(0.25)); N];
        for _ in 0..self.turns {
            for chain in &mut x {
                *chain = simd.mul_add_f32s(*chain, a, b);
            }
        }
        for chain in x {
            black_box(simd.reduce_sum_f32s(chain));
        }
    }
}

fn scalar(turns: u64) -> u64 {
    const N: usize = 12;
    let (a, b) = (black_box(0.5f32), black_box(0.5f32));
    let mut x = [black_box(0.25f32); N];
    for _ in 0..turns {
        for chain in &mut x {
            *chain = *chain * a + b;
        }
    }
    black_box(x);
    2 * N as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_has_a_peak() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let peak = one_thread(isa, Duration::from_millis(5));
            assert!(peak.is_finite() && peak > 0.01, "{isa}: {peak}");
        }
    }
}
