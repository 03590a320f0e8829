//! Values that break things, and sizes around every block: against the oracle where there is a right answer, and by
//! what stays untouched where there is none.

mod common;

use common::golden::Array;
use common::oracle;
use common::problem::{self, Problem, Tensors, assert_same_bits, attention, context, isas, mechanisms};
use common::support::{Rng, seed};
use std::hint::black_box;
use std::time::{Duration, Instant};
use subquad::catalog::{Mechanism, RoleKind};
use subquad::{Isa, Mode, Plan, Role};

/// Runs the problem on every instruction set against the oracle.
#[track_caller]
fn compare(p: &Problem, what: &str) {
    let want = oracle::expect(p);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let got = p.run(&problem::context_of(isa));
        oracle::check(&got, &want, || format!("{what} on {isa}, SUBQUAD_SEED={}: {p}", seed()));
    }
}

fn filled(mechanism: &'static Mechanism, heads: [i64; 3], dims: (i64, i64), t: i64) -> (Rng, Problem) {
    let mut rng = Rng::new(seed() ^ t as u64);
    let p = Problem::new(mechanism, vec![]).sized(heads, dims, 2, t).fill(&mut rng, true);
    (rng, p)
}

fn set(p: &mut Problem, role: Role, value: impl FnMut(usize) -> f32) {
    let array = p.inputs.get_mut(&role).unwrap_or_else(|| panic!("{role} is bound"));
    array.data = (0..array.data.len()).map(value).collect();
}

fn with_role(role: Role) -> impl Iterator<Item = &'static Mechanism> {
    mechanisms().into_iter().filter(move |mechanism| mechanism.role(role).is_some())
}

/// What scales the delta rule's reading and writing: `beta`, or a gate for each.
fn gains(mechanism: &Mechanism) -> Vec<Role> {
    let there = |role: &Role| mechanism.role(*role).is_some();
    [Role::BETA, Role::ERASE, Role::WRITE].into_iter().filter(there).collect()
}

fn delta_rules() -> impl Iterator<Item = &'static Mechanism> {
    mechanisms().into_iter().filter(|mechanism| !gains(mechanism).is_empty())
}

/// Binds `g`, and nothing in its place.
fn bind_decay(rng: &mut Rng, p: &mut Problem) {
    p.inputs.remove(&Role::DECAY_RATE);
    let values = p.values(rng, Role::G);
    p.inputs.insert(Role::G, values);
}

const DECAYS: [f32; 7] = [0.0, f32::NEG_INFINITY, -5.0, -1e-6, -300.0, -1000.0, -0.3];

#[test]
fn decays() {
    isas();
    let mut n = 0;
    for mechanism in with_role(Role::G) {
        let (mut rng, mut p) = filled(mechanism, [2, 2, 2], (19, 21), 53);
        bind_decay(&mut rng, &mut p);
        let roles: Vec<Role> =
            [Role::G, Role::GV].into_iter().filter(|&role| mechanism.role(role).is_some()).collect();
        for role in roles {
            if !p.inputs.contains_key(&role) {
                let values = p.values(&mut rng, role);
                p.inputs.insert(role, values);
            }
            // The same at every token, then all kinds mixed.
            for decay in DECAYS {
                let mut p = p.clone();
                set(&mut p, role, |_| decay);
                compare(&p, &format!("{role} = {decay}"));
            }
            for every in [1, 3, 20] {
                let mut p = p.clone();
                set(&mut p, role, |_| if rng.one_in(every) { rng.pick(&DECAYS) } else { -0.1 });
                compare(&p, &format!("mixed {role}"));
            }
            n += 1;
        }
    }
    assert!(n >= 7, "{n} gates");
}

/// A reset leaves nothing of what came before, not even of infinities that a product would turn into NaN.
#[test]
fn reset_is_exact() {
    for mechanism in with_role(Role::G).filter(|m| m.name != "retention" && m.name != "lightning") {
        for at in [0, 1, 15, 16, 17, 40] {
            let (mut rng, mut p) = filled(mechanism, [2, 2, 2], (19, 21), 53);
            bind_decay(&mut rng, &mut p);
            let per_token = p.shape(Role::G)[3..].iter().product::<i64>() as usize;
            let t = p.t as usize;
            let old = p.inputs[&Role::G].clone();
            set(&mut p, Role::G, |i| if i / per_token % t == at { f32::NEG_INFINITY } else { old.data[i] });
            // What is read before the decay sees what came before: it does not read there.
            let early = [(Role::A, Role::A), (Role::BONUS, Role::Q)];
            for (_, role) in early.into_iter().filter(|&(there, _)| mechanism.role(there).is_some()) {
                let row = *p.shape(role).last().unwrap() as usize;
                let old = p.inputs[&role].clone();
                set(&mut p, role, |i| if i / row % t == at { 0.0 } else { old.data[i] });
            }
            let from_there = p.tokens(at as i64..p.t, at as i64..p.t);
            let mut fresh = from_there.clone();
            for role in p.roles(RoleKind::StateIn) {
                set(&mut fresh, role, |_| 0.0);
            }
            let want = oracle::expect(&fresh);
            let got = p.run(&context());
            let tail = got.iter().map(|(&role, array)| {
                (role, p.axis(role, "T").map_or(array.clone(), |axis| array.pick(axis, at..t)))
            });
            oracle::check(&tail.collect(), &want, || format!("reset at {at}: {p}"));
        }
    }
}

#[test]
fn huge_products() {
    for mechanism in attention() {
        let (_, p) = filled(mechanism, [2, 2, 2], (19, 21), 37);
        let delta = !gains(mechanism).is_empty();
        for (q, k) in [(1e15, 1e15), (1e25, 1e5), (1e-15, 1e20), (1e-30, 1e-5)] {
            // The delta rule diverges with such keys, as it should.
            let k = if delta { 1.0 } else { k };
            // Features that are products of two channels.
            let (q, k) = if mechanism.name == "dpfp" { (f32::sqrt(q), f32::sqrt(k)) } else { (q, k) };
            let mut p = p.clone();
            for (role, factor) in [(Role::Q, q), (Role::K, k), (Role::KV, k)] {
                if let Some(array) = p.inputs.get_mut(&role) {
                    array.data.iter_mut().for_each(|x| *x *= factor);
                }
            }
            if mechanism.name == "linear1p" && q * k > 1.0 {
                // Scores of both signs: the denominator is where it may be.
                set(&mut p, Role::Q, |i| q * (1 + i % 3) as f32);
                set(&mut p, Role::K, |i| k * (1 + i % 5) as f32);
                for (role, value) in [(Role::STATE_IN, 1.0), (Role::Z_IN, 1.0)] {
                    set(&mut p, role, |_| value);
                }
            }
            compare(&p, &format!("q × {q}, k × {k}"));
        }
    }
}

#[test]
fn equal_and_opposite_keys() {
    for mechanism in delta_rules() {
        for normalised in [false, true] {
            for beta in [1.0f32, 2.0, 0.5] {
                for signs in [[1.0f32, 1.0], [1.0, -1.0]] {
                    let mut rng = Rng::new(seed());
                    let p = Problem::new(mechanism, vec![("l2norm_qk", i64::from(normalised).into())]);
                    let mut p = p.sized([2, 2, 2], (24, 20), 1, 65).fill(&mut rng, true);
                    let d = p.d as usize;
                    // The same direction at each token, of length 1.
                    let row: Vec<f32> = (0..d).map(|c| ((c * c) as f32 * 0.37).sin()).collect();
                    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt() * 1.000_001;
                    set(&mut p, Role::K, |i| signs[i / d % 2] * row[i % d] / norm);
                    gains(mechanism).into_iter().for_each(|role| set(&mut p, role, |_| beta));
                    compare(&p, &format!("β = {beta}, signs {signs:?}"));
                }
            }
        }
    }
}

/// Without a gain the delta rule only reads: the state stays as it is, bit for bit, where nothing decays.
#[test]
fn beta_zero() {
    for mechanism in delta_rules() {
        let (_, mut p) = filled(mechanism, [2, 2, 2], (19, 21), 37);
        gains(mechanism).into_iter().for_each(|role| set(&mut p, role, |_| 0.0));
        compare(&p, "β = 0");
        if p.inputs.contains_key(&Role::G) {
            set(&mut p, Role::G, |_| 0.0);
        }
        for mode in [Mode::Causal, Mode::Step] {
            let mut p = if mode == Mode::Step { p.tokens(0..1, 0..1) } else { p.clone() };
            p.mode = mode;
            let got = p.run(&context());
            assert_eq!(got[&Role::STATE_OUT], p.inputs[&Role::STATE_IN], "{p}");
        }
    }
}

#[test]
fn zero_vectors() {
    for mechanism in attention() {
        for params in problem::variants(mechanism) {
            // 0 / 0 where nothing guards it.
            let guarded = |name: &str| params.iter().any(|(own, _)| *own == name);
            if mechanism.name == "linear1p" && guarded("coef") {
                continue;
            }
            let mut rng = Rng::new(seed());
            let p =
                Problem::new(mechanism, params.clone()).sized([2, 2, 2], (9, 7), 1, 21).fill(&mut rng, false);
            for roles in
                [&[Role::Q][..], &[Role::K], &[Role::V], &[Role::Q, Role::K], &[Role::Q, Role::K, Role::V]]
            {
                for every in [1, 3] {
                    let mut p = p.clone();
                    for role in p.bound(roles) {
                        let array = p.inputs.get_mut(&role).unwrap();
                        let width = *array.shape.last().unwrap() as usize;
                        for row in array.data.chunks_exact_mut(width).step_by(every) {
                            row.fill(0.0);
                        }
                    }
                    let got = p.run(&context());
                    for (role, array) in &got {
                        let finite = array.data.iter().all(|x| x.is_finite() || *role == Role::SHIFT_OUT);
                        assert!(finite, "{role} with zero rows of {roles:?}: {p}");
                    }
                    compare(&p, &format!("zero rows of {roles:?}"));
                }
            }
        }
    }
}

#[test]
fn tiny_values() {
    for mechanism in attention() {
        let (_, p) = filled(mechanism, [2, 2, 2], (19, 21), 37);
        for scale in [1e-38f32, 1e-42] {
            let state = p.value_state();
            for roles in [&[Role::V][..], &[state], &[Role::Q, Role::K, Role::KV, Role::V, state]] {
                let mut p = p.clone();
                for role in p.bound(roles) {
                    p.inputs.get_mut(&role).unwrap().data.iter_mut().for_each(|x| *x *= scale);
                }
                if roles.len() > 2 && p.has_denominator() {
                    continue;
                }
                compare(&p, &format!("{roles:?} × {scale:e}"));
            }
        }
    }
}

fn time(plan: &Plan, p: &Problem, outputs: &mut Tensors) -> Duration {
    let start = Instant::now();
    problem::execute(plan, p.mode, &p.inputs, &[], outputs).unwrap();
    start.elapsed()
}

/// A state that has decayed into denormals is flushed, and no slower than another one.
#[test]
fn decayed_states_are_fast() {
    for name in ["simple_gla", "gla", "gated_delta_rule", "gdn2", "rwkv7", "rwkv6"] {
        let (mut rng, mut p) = filled(Problem::named(name).mechanism, [1, 1, 1], (64, 64), 1024);
        p = p.batch(&[0]);
        bind_decay(&mut rng, &mut p);
        p.inputs.remove(&Role::GV);
        set(&mut p, Role::V, |_| 0.0);
        gains(p.mechanism).into_iter().for_each(|role| set(&mut p, role, |_| 0.0));
        let plan = p.plan(&context());
        let (mut normal, mut decaying) = (p.clone(), p);
        set(&mut normal, Role::G, |_| -1e-7);
        // Stays at the edge of what a normal number holds, and below.
        set(&mut decaying, Role::G, |_| -1e-3);
        set(&mut decaying, Role::STATE_IN, |i| if i % 2 == 0 { 3e-38 } else { 1e-39 });
        let mut outputs = normal.outputs();
        let (mut best, mut worst) = (Duration::MAX, Duration::MAX);
        // A shared machine only adds time: the least of many is what counts.
        for turn in 0..200 {
            best = best.min(time(&plan, &normal, &mut outputs));
            worst = worst.min(time(&plan, &decaying, &mut outputs));
            if turn > 3 && worst < best * 3 {
                break;
            }
        }
        assert!(worst < best * 3, "{name}: {worst:?} with denormals, {best:?} without");
        // Some processors take denormals in their stride; that there are none can be seen on all of them.
        let flushed = |x: &f32| x.is_finite() && !x.is_subnormal();
        let flushes = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        assert!(
            !flushes || outputs.values().all(|array| array.data.iter().all(flushed)),
            "{name}: denormals"
        );
    }
}

/// The caller's own arithmetic is not changed: denormals are what they were.
#[test]
fn mode_of_the_caller() {
    let tiny = || black_box(f32::from_bits(0x0000_1000)) * black_box(1.0);
    let (_, p) = filled(Problem::named("simple_gla").mechanism, [2, 2, 2], (8, 8), 20);
    assert_ne!(tiny(), 0.0, "this test's thread has denormals");
    p.run(&context());
    assert_ne!(tiny(), 0.0, "execute left denormals flushed");
    common::support::flushing(true, || {
        p.run(&context());
        assert!(!cfg!(target_arch = "x86_64") || tiny() == 0.0, "execute left denormals on");
    });
}

/// Where an input's element lies: batch entry, head (or channel of a convolution, which has none) and token, as far as
/// the role has such axes.
fn place(p: &Problem, role: Role, element: usize) -> [Option<usize>; 3] {
    let index = problem::index_of(element, &p.shape(role));
    let axis = |names: &[&str]| names.iter().find_map(|name| p.axis(role, name)).map(|axis| index[axis]);
    let heads: &[&str] =
        if p.mechanism.name == "causal_conv" { &["D"] } else { &["H", "Hk", "Hv", "Hs", "Ho"] };
    [axis(&["B"]), axis(heads), axis(&["T", "S"])]
}

/// A value that is not finite reaches nothing but its own head, from its own chunk on.
#[test]
fn poison_stays() {
    let mut reached = 0;
    for mechanism in mechanisms() {
        for params in problem::variants(mechanism) {
            let mut rng = Rng::new(seed());
            for mode in mechanism.modes {
                let t = if *mode == Mode::Step { 1 } else { 53 };
                let mut p = Problem::new(mechanism, params.clone()).sized([3, 3, 3], (17, 19), 2, t);
                (p.mode, p.shift) = (*mode, true);
                let p = p.fill(&mut rng, true);
                let plan = p.plan(&context());
                let clean = p.run_plan(&plan);
                let all_heads = p.word("normalize") == "srms_all";
                let roles: Vec<Role> = p.inputs.keys().copied().collect();
                for role in roles {
                    let poison = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
                    if poison == f32::NEG_INFINITY && matches!(role, Role::G | Role::GV | Role::SHIFT_IN) {
                        continue;
                    }
                    let mut p = p.clone();
                    let array = p.inputs.get_mut(&role).unwrap();
                    let element = rng.below(array.data.len());
                    array.data[element] = poison;
                    let [batch, head, token] = place(&p, role, element);
                    if head.is_none() {
                        continue; // Weights that all heads share.
                    }
                    let first = match (mode, token) {
                        (Mode::Causal, Some(token)) => token / 16 * 16,
                        _ => 0,
                    };
                    let got = p.run_plan(&plan);
                    for (own, want) in &clean {
                        for (i, (g, w)) in got[own].data.iter().zip(&want.data).enumerate() {
                            if g.to_bits() == w.to_bits() {
                                continue;
                            }
                            let [b, h, at] = place(&p, *own, i);
                            let mine = batch.is_none_or(|own| b == Some(own))
                                && (h == head || all_heads && *own == Role::OUT || p.joins_heads())
                                && at.is_none_or(|at| at >= first);
                            assert!(
                                mine,
                                "{poison} in {role}{:?} reached {own}{:?}: {p}",
                                problem::index_of(element, &p.shape(role)),
                                problem::index_of(i, &want.shape),
                            );
                            reached += usize::from(!g.is_finite());
                        }
                    }
                }
            }
        }
    }
    assert!(reached > 1000, "poison has no effect: the test sees nothing");
}

/// Columns of the state never mix: a value that is not finite stays in its column, without a norm of the output.
#[test]
fn poison_stays_in_its_column() {
    for mechanism in with_role(Role::V) {
        for (dims, mode) in [((17, 40), Mode::Causal), ((100, 150), Mode::Causal), ((17, 40), Mode::Step)] {
            let t = if mode == Mode::Step { 1 } else { 40 };
            let (mut rng, mut p) = filled(mechanism, [2, 2, 2], dims, t);
            p.mode = mode;
            let plan = p.plan(&context());
            let clean = p.run_plan(&plan);
            // Where E is D by definition, shapes are written with D.
            let values = if mechanism.role(Role::OUT).unwrap().shapes[0].ends_with('D') { "D" } else { "E" };
            let column = rng.below(dims.1 as usize);
            let role = rng.pick(&p.bound(&[Role::V, p.value_state()]));
            let role = if p.gates_by_values() { Role::STATE_IN } else { role };
            let array = p.inputs.get_mut(&role).unwrap();
            let rows = array.data.len() / dims.1 as usize;
            let at = rng.below(rows) * dims.1 as usize + column;
            array.data[at] = f32::NAN;
            let got = p.run_plan(&plan);
            let mut nans = 0;
            for (own, want) in &clean {
                for (i, (g, w)) in got[own].data.iter().zip(&want.data).enumerate() {
                    let other = i % dims.1 as usize != column || p.axes(*own).last() != Some(&values);
                    assert!(!other || g.to_bits() == w.to_bits(), "{role} column {column}, {own} {i}: {p}");
                    nans += usize::from(g.is_nan());
                }
            }
            assert!(nans > 0, "{p}");
        }
    }
}

/// Sequences that are packed side by side share chunks of the tensor, but nothing of each other.
#[test]
fn poison_stays_in_its_sequence() {
    for mechanism in mechanisms().into_iter().filter(|m| m.modes.contains(&Mode::Causal)) {
        let mut rng = Rng::new(seed());
        let mut p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (17, 19), 1, 37).fill(&mut rng, false);
        // Of each sequence, not of its tokens.
        for (role, array) in &mut p.inputs {
            if *role == Role::SCALE_BH {
                *array = array.pick(0, [0; 5]);
            }
        }
        let ends = [0, 5, 5, 21, 30, 37];
        p.indices.push((Role::CU_SEQLENS, ends.to_vec()));
        let plan = p.plan(&context());
        let states = ends.len() - 1;
        let run = |p: &Problem| {
            let mut outputs = p.outputs();
            for (_, array) in outputs.iter_mut().filter(|(role, _)| p.axis(**role, "T").is_none()) {
                *array = array.pick(0, vec![0; states]);
            }
            problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs).unwrap();
            outputs
        };
        let clean = run(&p);
        // The third sequence, tokens 5 to 20.
        let (bad, first, last) = (2, 5, 20);
        let roles: Vec<Role> =
            p.inputs.keys().copied().filter(|&role| place(&p, role, 0)[2].is_some()).collect();
        for role in roles {
            let mut p = p.clone();
            let shape = p.shape(role);
            let array = p.inputs.get_mut(&role).unwrap();
            for (i, x) in array.data.iter_mut().enumerate() {
                if (first..=last).contains(&problem::index_of(i, &shape)[2]) {
                    *x = f32::NAN;
                }
            }
            let got = run(&p);
            for (own, want) in &clean {
                for (i, (g, w)) in got[own].data.iter().zip(&want.data).enumerate() {
                    let index = problem::index_of(i, &want.shape);
                    let mine = match p.axis(*own, "T") {
                        Some(axis) => (first..=last).contains(&index[axis]),
                        None => index[0] == bad,
                    };
                    assert!(mine || g.to_bits() == w.to_bits(), "NaN in {role} reached {own}{index:?}: {p}");
                }
            }
            // Other roles may be overruled by one of their group.
            let read = matches!(role, Role::Q | Role::K | Role::V | Role::KV | Role::X);
            assert!(!read || got[&Role::OUT].data.iter().any(|x| x.is_nan()), "{role} of {p}");
        }
    }
}

/// A pass of products that overflow is infinite or NaN where it is, and elsewhere as before.
#[test]
fn overflow_stays() {
    for mechanism in attention() {
        let (_, mut p) = filled(mechanism, [2, 2, 2], (17, 19), 37);
        let plan = p.plan(&context());
        let clean = p.run_plan(&plan);
        for role in p.bound(&[Role::Q, Role::K, Role::V, Role::KV]) {
            let len = p.inputs[&role].data.len() / 2;
            // The second entry of the batch.
            p.inputs.get_mut(&role).unwrap().data[len..].iter_mut().for_each(|x| *x *= 1e37);
        }
        let got = p.run_plan(&plan);
        let first = |tensors: &Tensors| -> Tensors {
            tensors.iter().map(|(&role, array)| (role, array.pick(0, [0]))).collect()
        };
        assert_same_bits(&first(&got), &first(&clean), || format!("{p}"));
    }
}

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

const LENGTHS: [i64; 11] = [0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257];
const WIDTHS: [i64; 12] = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65];

#[test]
fn lengths_around_blocks() {
    for mechanism in mechanisms() {
        for t in LENGTHS {
            let (_, p) = filled(mechanism, [2, 2, 2], (5, 3), t);
            compare(&p, "length");
        }
        // Several panels: chunks are prepared in blocks.
        for t in [255, 256, 257] {
            let (_, p) = filled(mechanism, [1, 1, 1], (80, 150), t);
            let p = p.batch(&[0]);
            let got = p.run(&context());
            oracle::check(&got, &oracle::expect(&p), || format!("{p}"));
        }
    }
}

#[test]
fn widths_around_vectors() {
    for mechanism in mechanisms() {
        for (i, d) in WIDTHS.into_iter().enumerate() {
            for e in [1, WIDTHS[(i * 5 + 3) % 12], WIDTHS[(i * 7 + 1) % 12], 130] {
                let (_, p) = filled(mechanism, [2, 2, 2], (d, e), 19);
                compare(&p, "width");
            }
        }
    }
}

/// Every input that is not finite at once: no panic, no hang, and the plan works on.
#[test]
fn garbage_everywhere() {
    for mechanism in mechanisms() {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (17, 19), 2, 37).fill(&mut rng, true);
        let plan = p.plan(&context());
        let clean = p.run_plan(&plan);
        for _ in 0..5 {
            let mut bad = p.clone();
            for (_, array) in bad.inputs.iter_mut() {
                let n = array.data.len();
                *array = Array { data: (0..n).map(|_| rng.hostile()).collect(), shape: array.shape.clone() };
            }
            bad.run_plan(&plan);
        }
        assert_same_bits(&p.run_plan(&plan), &clean, || format!("after garbage: {p}"));
        assert!(mechanism.roles.iter().any(|spec| spec.kind == RoleKind::Output));
    }
}
