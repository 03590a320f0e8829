//! Exact attention on pairs of `bf16`: which plans use them, the same bits however queries are cut into calls, and nothing
//! of what a row does not see. Their errors are held by `bf16_dot.rs` and `types.rs`.

use crate::common::oracle;
use crate::common::problem::{self, Problem, Strided, Tensors, context_of};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, Types, unit};
use subquad::simd::has_bf16_dot;
use subquad::{DType, Flags, Isa, Mode, Plan, Role};

const NAMES: [&str; 7] = ["softmax", "focal", "fox", "bswa", "diff", "integral", "parallax"];

const BF16: Types = Types { qkv: DType::Bf16, out: DType::F32, state: DType::F32, others: DType::Bf16 };

/// Scores on pairs, scores and sums, and both on rounded rows.
const WAYS: [(Types, Flags); 3] = [(BF16, Flags::NONE), (BF16, Flags::BF16_DOT), (PLAIN, Flags::BF16_DOT)];

fn plan(isa: Isa, (types, flags): (Types, Flags), p: &Problem) -> Plan {
    let desc = types.desc(p.desc()).flags(flags);
    Plan::new(&context_of(isa), &desc).unwrap_or_else(|error| panic!("{types:?}, {p}: {error}"))
}

fn run(way: (Types, Flags), p: &Problem) -> Tensors {
    way.0.run_plain(&plan(Isa::best(), way, p), &way.0.round(p))
}

/// Every mechanism in its modes but steps, in every way.
fn each(t: i64, s: i64, mut f: impl FnMut(&mut Rng, (Types, Flags), Problem)) {
    for (name, way) in NAMES.into_iter().flat_map(|name| WAYS.map(|way| (name, way))) {
        let modes = Problem::named(name).mechanism.modes;
        for &mode in modes.iter().filter(|&&mode| mode != Mode::Step) {
            let rng = &mut Rng::new(seed());
            let mut p =
                Problem::named(name).sized([4, 2, 2], rng.pick(&[(24, 20), (33, 17), (64, 64)]), 2, t);
            (p.mode, p.s) = (mode, if mode == Mode::Bidirectional { t } else { s });
            if p.mechanism.param("window_left").is_some() && rng.one_in(2) {
                p = p.param("window_left", 20);
            }
            let p = p.fill(rng, false);
            f(rng, way, p);
        }
    }
}

/// The same bits, one NaN being as good as another.
#[track_caller]
fn assert_same(got: &Tensors, want: &Tensors, what: impl Fn() -> String) {
    for (role, want) in want {
        assert_eq!(got[role].shape, want.shape, "{}", what());
        for (g, w) in got[role].data.iter().zip(&want.data) {
            assert!(
                g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(),
                "{role}: {g:e} for {w:e}, {}",
                what()
            );
        }
    }
}

#[test]
fn which_plans() {
    let others = ["fam_block", "hard_retrieval", "srformer", "dnas", "lla", "gau", "flash"];
    for isa in problem::isas() {
        for name in NAMES.into_iter().chain(others) {
            let p = Problem::named(name).sized([1; 3], (24, 24), 1, 16);
            let kernels = [(PLAIN, Flags::NONE), WAYS[0], WAYS[1], WAYS[2]].map(|way| {
                let desc = way.0.desc(p.desc()).flags(way.1);
                Plan::new(&context_of(isa), &desc).map(|plan| plan.info().kernel)
            });
            let [plain, scores, both, rounded] = kernels;
            let plain = plain.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!plain.contains("bf16"), "{name}: {plain}");
            // Some take no `bf16` at all.
            let pairs =
                [scores, both, rounded].map(|kernel| kernel.is_ok_and(|name| name.contains("matmul_bf16")));
            assert_eq!(pairs, [NAMES.contains(&name) && has_bf16_dot(isa); 3], "{name} on {isa}");
        }
    }
}

/// Queries of a call that come in two.
#[test]
fn pieces() {
    each(150, 170, |rng, way, mut p| {
        // One sequence of values has some that are infinite as `bf16`.
        let v = p.inputs.get_mut(&Role::V).unwrap();
        let half = v.data.len() / 2;
        (0..3).for_each(|_| v.data[half + rng.below(half)] = f32::MAX);
        let all = run(way, &p);
        if p.mode != Mode::Causal {
            return;
        }
        let part = p.tokens(41..150, 0..170);
        let want = all.iter().map(|(&role, array)| (role, array.pick(p.axis(role, "T").unwrap(), 41..150)));
        assert_same(&run(way, &part), &want.collect(), || format!("{way:?}, {p}"));
    });
}

#[test]
fn others_in_the_batch() {
    for t in [16, 20, 70] {
        each(t, 200, |_, way, p| {
            let all = run(way, &p);
            let want = all.iter().map(|(&role, array)| (role, array.pick(0, [1]))).collect();
            assert_same(&run(way, &p.batch(&[1])), &want, || format!("{way:?}, {p}"));
        });
    }
}

/// Keys and values outside a row's window, its length or its mask do not reach it, whatever they hold.
#[test]
fn what_is_not_visible() {
    each(90, 90, |rng, way, mut p| {
        p.indices.push((Role::KEY_LEN, vec![61, 80]));
        let want = run(way, &p);
        let mut bad = p.clone();
        for role in [Role::K, Role::V] {
            let shape = bad.inputs[&role].shape.clone();
            for (i, x) in bad.inputs.get_mut(&role).unwrap().data.iter_mut().enumerate() {
                let index = problem::index_of(i, &shape);
                // Keys beyond the length, and one that only some rows see.
                if index[2] >= [61, 80][index[0]] || index[2] == 30 {
                    *x = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX]);
                }
            }
        }
        let got = run(way, &bad);
        let windowed = p.params.iter().any(|(name, _)| *name == "window_left");
        let mut reached = 0;
        for (role, want) in &want {
            let axis = p.axis(*role, "T").unwrap();
            for (i, (g, w)) in got[role].data.iter().zip(&want.data).enumerate() {
                let position = problem::index_of(i, &want.shape)[axis];
                let blocks = p.mechanism.name == "bswa" && position / 8 != 30 / 8;
                let hidden = p.mode == Mode::Causal && position < 30 || windowed && position > 50 || blocks;
                assert!(!hidden || g.to_bits() == w.to_bits(), "{role} {i} at {position}: {way:?}, {p}");
                reached += usize::from(!g.is_finite());
            }
        }
        assert!(reached > 0, "nothing was reached: {way:?}, {p}");
    });
}

/// A forget gate of −inf hides all that came before, and so does a bias.
#[test]
fn gates_and_biases_that_hide() {
    for (way, role) in WAYS.into_iter().flat_map(|way| [Role::G, Role::BIAS].map(|role| (way, role))) {
        let rng = &mut Rng::new(seed());
        let name = if role == Role::G { "fox" } else { "softmax" };
        let mut p = Problem::named(name).sized([4, 2, 2], (24, 20), 2, 70);
        (p.mode, p.s) = (Mode::Causal, 200);
        let mut p = p.fill(rng, false);
        let mut values = p.values(rng, role);
        values.data.iter_mut().filter(|_| rng.one_in(9)).for_each(|x| *x = f32::NEG_INFINITY);
        p.inputs.insert(role, values);
        let p = way.0.round(&p);
        let roundings = if way.1 == Flags::NONE { 0.0 } else { 4.0 * unit(DType::Bf16) / oracle::U };
        oracle::check(&run(way, &p), &oracle::expect_rounded(&p, roundings), || format!("{way:?}, {p}"));
    }
}

/// Weights are divided by the sum of what they were rounded to: equal values come out as they are.
#[test]
fn equal_values() {
    each(150, 150, |_, way, mut p| {
        p.inputs.remove(&Role::SINK);
        p.inputs.get_mut(&Role::V).unwrap().data.fill(1.0);
        if p.mechanism.name == "diff" {
            p.inputs.get_mut(&Role::LAM).unwrap().data.fill(0.5);
        }
        let want = if p.mechanism.name == "diff" { 0.5 } else { 1.0 };
        let out = &run(way, &p)[&Role::OUT].data;
        let off = out.iter().map(|x| (x - want).abs()).fold(0.0, f32::max);
        assert!(off < 4e-6, "{off:e}: {way:?}, {p}");
    });
}

/// Values as pairs, keys in place: any layout gives the same bits.
#[test]
fn rows_that_are_not_pairs() {
    each(40, 70, |rng, way, p| {
        let plan = plan(Isa::best(), way, &p);
        let p = way.0.round(&p);
        let want = way.0.run_plain(&plan, &p);
        for _ in 0..4 {
            let got = way.0.run(&plan, &p, |_, array| Strided::random(rng, array));
            assert_same(&got, &want, || format!("{way:?}, {p}"));
        }
    });
}
