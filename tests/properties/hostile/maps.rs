//! Feature maps and logits beyond the range of a single.

use super::*;

/// The map `exp` far beyond what a plain exponential holds, with maxima that jump.
#[test]
fn exp_map() {
    let mut rng = Rng::new(seed());
    for mode in [Mode::Causal, Mode::Bidirectional, Mode::Cross] {
        for case in 0..60 {
            let shift = case % 2 == 0;
            let p =
                Problem::named("linear").param("feature_map", "exp").param("den_eps", rng.pick(&[0.0, 1e-6]));
            let dims = (1 + rng.below(20) as i64, 1 + rng.below(20) as i64);
            let mut p = p.sized([4, 2, 2], dims, 1, 1 + rng.below(50) as i64);
            (p.mode, p.shift) = (mode, shift);
            let mut p = p.fill(&mut rng, case % 3 == 0);
            match case % 4 {
                0 => {
                    for role in [Role::Q, Role::K] {
                        set(&mut p, role, |_| 150.0 * rng.signed());
                    }
                }
                // Jumps beyond 60 in some channels, at some tokens.
                1 => set(&mut p, Role::K, |_| rng.pick(&[-150.0, -70.0, 0.0, 0.0, 61.0, 140.0])),
                2 => {
                    let d = p.d as usize;
                    set(&mut p, Role::K, |i| (i / d) as f32 * 7.0 - 150.0 + rng.signed());
                }
                _ => set(&mut p, Role::Q, |_| rng.pick(&[-150.0, 150.0, 0.0])),
            }
            compare(&p, "exp");
            let out = &p.run(&context())[&Role::OUT];
            assert!(out.data.iter().all(|x| x.is_finite()), "{p}");
        }
    }
}

/// The same map under scales, gates and a transform: exponents of some tens to beyond a single's range.
#[test]
fn exp_map_of_others() {
    let mut rng = Rng::new(seed());
    for case in 0..60 {
        let p = match case % 3 {
            0 => Problem::named("lln").param("den_eps", rng.pick(&[0.0, 1e-6])),
            1 => Problem::named("rfa_gate").param("feature_map", "exp"),
            _ => Problem::named("dijiang").param("feature_map", "exp").param("normalize", "denominator"),
        };
        let dims = (1 + rng.below(20) as i64, 1 + rng.below(20) as i64);
        let mut p = p.sized([4, 2, 2], dims, 1, 1 + rng.below(50) as i64);
        p.mode = rng.pick(p.mechanism.modes);
        if p.mode == Mode::Step {
            (p.t, p.s) = (1, 1);
        }
        p.shift = case % 2 == 0;
        let mut p = p.fill(&mut rng, false);
        let largest = if p.mechanism.name == "lln" { 150.0 } else { 20.0 };
        for role in [Role::Q, Role::K] {
            set(&mut p, role, |_| largest * rng.signed());
        }
        compare(&p, "exp");
    }
}

/// FLatten's powers of huge and of tiny rows, and of rows that differ by many orders of magnitude between heads.
#[test]
fn focused_rows_of_any_size() {
    let mut rng = Rng::new(seed());
    for span in ["heads_joint", "head"] {
        for degree in [1i64, 2, 3, 8] {
            for sizes in [[1e4f32, 1e4], [1e15, 1e15], [1e-3, 1e6], [1e-6, 1e-5]] {
                let p = Problem::named("focused").param("norm_span", span).param("degree", degree);
                let mut p = p.sized([2, 2, 2], (11, 7), 1, 23).fill(&mut rng, false);
                for role in [Role::Q, Role::K] {
                    set(&mut p, role, |i| sizes[i / (11 * 23) % 2] * rng.signed());
                }
                compare(&p, &format!("rows of {sizes:?}"));
                let out = &p.run(&context())[&Role::OUT];
                assert!(out.data.iter().all(|x| x.is_finite()), "{p}");
            }
        }
    }
}

/// As steps, too: the shift is carried.
#[test]
fn exp_map_in_steps() {
    let mut rng = Rng::new(seed());
    for _ in 0..20 {
        let p = Problem::named("linear").param("feature_map", "exp").sized([2, 2, 2], (9, 11), 1, 40);
        let mut p = Problem { shift: true, ..p }.fill(&mut rng, false);
        set(&mut p, Role::K, |_| rng.pick(&[-150.0, -70.0, 0.0, 0.0, 61.0, 140.0]));
        let want = oracle::expect(&p);
        p.mode = Mode::Step;
        let ends: Vec<i64> = (1..=p.t).collect();
        oracle::check(&p.run_pieces(&p.plan(&context()), &ends), &want, || format!("{p}"));
    }
}

/// What saw nothing is empty in plain scale, whatever the others hold.
#[test]
fn exp_map_of_nothing() {
    let mut p = Problem::named("linear").param("feature_map", "exp").sized([1, 1, 1], (3, 2), 1, 20);
    p = p.fill(&mut Rng::new(1), false);
    set(&mut p, Role::K, |i| if i % 3 == 0 { 150.0 } else { 1.0 });
    set(&mut p, Role::V, |i| (i % 2) as f32);
    compare(&p, "values of zero beside an infinite state");
}

/// Logits far beyond what a plain exponential holds, and slots that are never written, or not for long.
#[test]
fn slot_logits() {
    let mut rng = Rng::new(seed());
    let mechanism = Problem::named("abc").mechanism;
    for &mode in mechanism.modes {
        for case in 0..12 {
            let t = if mode == Mode::Step { 1 } else { [1, 17, 100][case % 3] };
            let mut p = Problem::new(mechanism, vec![]).sized([4, 2, 2], (9, 11), 2, t);
            p.mode = mode;
            let mut p = p.fill(&mut rng, case >= 6);
            let m = p.slots() as usize;
            let rows = [-1000.0, -100.0, 0.0, 100.0, 1000.0, f32::NEG_INFINITY];
            match case % 3 {
                0 => set(&mut p, Role::SLOT_LOGITS, |_| 100.0 * rng.signed()),
                1 => set(&mut p, Role::SLOT_LOGITS, |_| rng.pick(&rows)),
                // Every other slot sees nothing at all, the others nothing at first.
                _ => set(&mut p, Role::SLOT_LOGITS, |i| {
                    let empty = (i % m).is_multiple_of(2) || i / m < 3;
                    if empty { f32::NEG_INFINITY } else { 3.0 * rng.signed() }
                }),
            }
            compare(&p, "logits");
            let got = p.run(&context());
            for (role, array) in got.iter().filter(|(role, _)| **role != Role::LSE_OUT) {
                assert!(array.data.iter().all(|x| x.is_finite()), "{role} of {p}");
            }
            assert!(got[&Role::LSE_OUT].data.iter().all(|&x| !x.is_nan() && x < 2000.0), "{p}");
        }
    }
}

/// The write weights of a slot add up to 1, however many tokens there are: a memory of equal values is that value.
#[test]
fn slots_hold_means() {
    let mut rng = Rng::new(seed());
    for size in [1.0, 100.0] {
        let p = Problem::named("abc").sized([1, 1, 1], (3, 2), 1, 20_000);
        let mut p = p.fill(&mut rng, false);
        set(&mut p, Role::SLOT_LOGITS, |_| size * rng.signed());
        set(&mut p, Role::V, |_| 1.0);
        let got = p.run(&context());
        for role in [Role::OUT, Role::STATE_V_OUT] {
            let worst = got[&role].data.iter().fold(0.0f32, |worst, x| worst.max((x - 1.0).abs()));
            assert!(worst < 1e-4, "{role}: {worst} off, logits of {size}");
        }
    }
}

/// What the mean held before its first token is nothing.
#[test]
fn means_of_no_token() {
    for mode in [Mode::Causal, Mode::Bidirectional, Mode::Step] {
        let (_, mut p) = filled(Problem::named("lavo").mechanism, [2, 2, 2], (9, 9), 1);
        p.mode = mode;
        let mut fresh = p.clone();
        fresh.inputs.retain(|role, _| !p.roles(RoleKind::StateIn).any(|state| state == *role));
        set(&mut p, Role::COUNT_IN, |_| 0.0);
        set(&mut p, Role::STATE_IN, |_| 1e30);
        assert_same_bits(&p.run(&context()), &fresh.run(&context()), || format!("{p}"));
    }
}
