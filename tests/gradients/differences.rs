//! Against central differences of the oracle.

use super::*;

#[test]
fn finite_differences() {
    let (mut worst, mut n, mut skipped) = (0.0f64, 0, 0);
    each(small, |rng, b| {
        if !well_conditioned(&b.p) {
            skipped += 1;
            return;
        }
        n += 1;
        let got = b.run(&context());
        worst = worst.max(compare(rng, &b, &got, 10));
    });
    println!("worst error {worst:.3} of the tolerance; {skipped} problems are ill-conditioned");
    assert!(n > 3 * skipped, "{skipped} of {n} problems are ill-conditioned");
}

/// Past the tokens for which states are kept.
#[test]
fn long_sequences() {
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.step != StepKind::Cache) {
        for (t, heads, e) in [(257, [1, 1, 1], 3), (530, [2, 2, 2], 2)] {
            let mut rng = Rng::new(seed());
            let p = Problem::new(mechanism, vec![]).sized(heads, (4, e), 1, t).fill(&mut rng, true);
            let b = Backward::new(&mut rng, p);
            let worst = compare(&mut rng, &b, &b.run(&context()), 12);
            println!("{} T = {t}: {worst:.3} of the tolerance", mechanism.name);
        }
    }
}

/// States of several panels, the last one narrower, with every parameter; more than one query to a state where heads
/// may differ.
#[test]
fn several_panels() {
    let mut seen = BTreeSet::new();
    for mechanism in problem::attention() {
        for (case, params) in
            problem::variants(mechanism).into_iter().enumerate().filter(|(case, _)| problem::taken(*case))
        {
            let mut rng = Rng::new(seed().wrapping_add((case as u64) << 32));
            let most = problem::heads(mechanism).into_iter().max_by_key(|heads| heads[0] / heads[1]);
            let p = Problem::new(mechanism, params);
            // With slots, so many channels that both memories have panels.
            let dims = if p.has_slots() { (400, 626) } else { (150, 75) };
            let p = p.sized(most.unwrap(), dims, 1, 18);
            let plan = p.plan(&context());
            // Few features are a state of one panel.
            if !plan.has_gradient(p.mode) || p.e <= 2 * plan.info().panel as i64 {
                continue;
            }
            seen.insert(mechanism.name);
            let p = p.fill(&mut rng, true);
            // The bounds of two writes grow with the width faster than their errors.
            if well_conditioned(&p) || p.mechanism.name == "rwkv7" {
                let b = Backward::new(&mut rng, p);
                let worst = compare(&mut rng, &b, &b.run(&context()), 2);
                println!("{}: {worst:.3} of the tolerance", text(&b));
            }
        }
    }
    assert!(seen.len() * 100 >= 12 * problem::percent(), "states of several panels: {seen:?}");
}

#[test]
fn every_isa() {
    for isa in problem::isas() {
        let context = context_of(isa);
        for mechanism in mechanisms() {
            for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
                let mut rng = Rng::new(seed());
                let heads = problem::heads(mechanism);
                let p = Problem::new(mechanism, vec![]).sized(heads[heads.len() - 1], (5, 7), 1, 19);
                let p = Problem { mode, ..p }.fill(&mut rng, true);
                let b = Backward::new(&mut rng, p);
                let worst = compare(&mut rng, &b, &b.run(&context), 15);
                println!("{} {mode} on {isa}: {worst:.3} of the tolerance", mechanism.name);
            }
        }
    }
}

/// Decays from none to all but a reset.
#[test]
fn steep_decays() {
    let mut worst = 0.0f64;
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.role(Role::G).is_some()) {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (5, 7), 1, 45).fill(&mut rng, true);
        let mut b = Backward::new(&mut rng, p);
        let g = b.p.shape(Role::G);
        let mut steep = Array::filled(&g, 0.0);
        let decays = [0.0, -1e-6, -0.01, -3.0, -17.0, -60.0, -88.0, -104.0, -3000.0];
        steep.data.iter_mut().for_each(|g| *g = rng.pick(&decays));
        b.p.inputs.insert(Role::G, steep);
        worst = worst.max(compare(&mut rng, &b, &b.run(&context()), 30));
    }
    println!("worst error {worst:.3} of the tolerance");
}

/// Logits that write nothing, to a slot that is empty as well, and those beside which others count for nothing.
#[test]
fn extreme_logits() {
    let (mut worst, mut n) = (0.0f64, 0);
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.role(Role::SLOT_LOGITS).is_some())
    {
        for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
            for state in [false, true] {
                let mut rng = Rng::new(seed());
                let p = Problem::new(mechanism, vec![]).sized([2, 1, 1], (6, 7), 1, 45);
                let p = Problem { mode, ..p }.fill(&mut rng, state);
                let mut b = Backward::new(&mut rng, p);
                let slots = b.p.slots() as usize;
                let logits = b.p.inputs.get_mut(&Role::SLOT_LOGITS).unwrap();
                for (i, logit) in logits.data.iter_mut().enumerate() {
                    let silent = i < slots || i % slots == 3;
                    let few = [f32::NEG_INFINITY, -100.0, -1.0, 0.0, 1.0, 90.0, 100.0];
                    *logit = if silent { f32::NEG_INFINITY } else { rng.pick(&few) };
                }
                let got = b.run(&context());
                let silent = b.p.inputs[&Role::SLOT_LOGITS].data.iter().map(|x| *x == f32::NEG_INFINITY);
                for (gradient, silent) in got[&Role::SLOT_LOGITS.grad()].data.iter().zip(silent) {
                    assert!(!silent || *gradient == 0.0, "{gradient}: {}", text(&b));
                }
                worst = worst.max(compare(&mut rng, &b, &got, 60));
                n += 1;
            }
        }
    }
    println!("worst error {worst:.3} of the tolerance in {n} problems");
    assert!(n > 0);
}
