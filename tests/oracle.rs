//! Every mechanism against a scalar `f64` evaluation of its definition, over random problems, on every instruction set.

mod common;

use common::oracle;
use common::problem::{self, Problem};
use common::support::{Rng, seed};
use subquad::{Mode, Role};

/// Random sizes: all remainders, now and then a single row or column.
fn size(rng: &mut Rng) -> i64 {
    if rng.one_in(6) { 1 } else { 1 + rng.below(70) as i64 }
}

/// Runs a problem on every instruction set; gives the worst error as a fraction of its tolerance.
fn compare(problem: &Problem, isas: &[subquad::Isa]) -> f64 {
    let want = oracle::expect(problem);
    let one = |&isa: &subquad::Isa| {
        let got = problem.run(&problem::context_of(isa));
        oracle::check(&got, &want, || format!("on {isa}, SUBQUAD_SEED={}: {problem}", seed()))
    };
    isas.iter().map(one).fold(0.0, f64::max)
}

#[test]
fn every_mechanism() {
    let isas = problem::isas();
    println!("SUBQUAD_SEED={}", seed());
    for mechanism in problem::mechanisms() {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism);
        let mut worst = 0.0f64;
        for case in (0..40 + variants.len()).filter(|&case| problem::taken(case)) {
            let mut rng = Rng::new(seed().wrapping_add((case as u64) << 32));
            let rng = &mut rng;
            let params = variants.get(case).cloned();
            let params = params.unwrap_or_else(|| problem::random_params(rng, mechanism));
            let dims = (size(rng), size(rng));
            let t = if rng.one_in(8) { rng.below(3) as i64 } else { rng.below(71) as i64 };
            let mut p =
                Problem::new(mechanism, params).sized(rng.pick(&heads), dims, 1 + rng.below(2) as i64, t);
            p.mode = rng.pick(mechanism.modes);
            match p.mode {
                Mode::Step => (p.t, p.s) = (1, if p.caches() { 1 + rng.below(200) as i64 } else { 1 }),
                Mode::Cross if p.windowed() => p.s = t + rng.below(90) as i64,
                Mode::Cross => p.s = rng.below(71) as i64,
                Mode::Causal if mechanism.name == "linear1p" || p.caches() => p.s = t + rng.below(90) as i64,
                _ => {}
            }
            if mechanism.role(Role::KEY_LEN).is_some() && rng.one_in(3) {
                let lengths = (0..p.b).map(|_| rng.below(p.s as usize + 1) as i32).collect();
                p.indices.push((Role::KEY_LEN, lengths));
            }
            p.shift = rng.one_in(2);
            let state = rng.one_in(2);
            let p = p.fill(rng, state);
            worst = worst.max(compare(&p, &isas));
        }
        println!("{}: worst error {worst:.3} of the tolerance", mechanism.name);
    }
}

/// The features of the map `exp` are scaled once, after the exponential.
#[test]
fn exp_with_scale() {
    let mut rng = Rng::new(seed());
    for (scale, eps) in [(0.3, 0.3), (2.0, 1e-6), (0.01, 0.3)] {
        let p = Problem::named("linear").param("feature_map", "exp");
        let p = p.param("scale", scale).param("den_eps", eps).fill(&mut rng, true);
        compare(&p, &problem::isas());
    }
}
