//! Snapshots of the state inside a causal call: what a call of as many tokens carries out, whatever the mechanism.

mod refused;

use crate::common::golden::Array;
use crate::common::oracle;
use crate::common::problem::{self, Problem, Strided, Tensors, assert_same_bits, context, out_of};
use crate::common::refusal::{CANARY, Call, expect};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, Stored, TYPES, Types, contiguous, rounded};
use std::sync::Arc;
use subquad::catalog::{Mechanism, RoleKind};
use subquad::{Args, Context, ContextOptions, Error, Mode, Plan, Role, Serial, Status, ThreadPool, View};

/// Mechanisms with a state after each token.
fn mechanisms() -> Vec<&'static Mechanism> {
    let carries = |m: &&Mechanism| m.roles.iter().any(|spec| spec.kind == RoleKind::StateOut);
    let all: Vec<_> = problem::mechanisms().into_iter().filter(carries).collect();
    assert!(all.len() >= 25, "mechanisms are missing");
    all
}

/// Numbers of tokens `[n_sequences, N]`.
#[derive(Clone, Debug)]
struct Times {
    n: usize,
    at: Vec<i32>,
}

impl Times {
    /// `n` ascending ones for each sequence of these lengths, multiples of `step`; some are none.
    fn random(rng: &mut Rng, lengths: &[i64], n: usize, step: usize) -> Times {
        let mut at = Vec::new();
        for &length in lengths {
            let mut own: Vec<i32> =
                (0..n).map(|_| (rng.below(length as usize / step + 1) * step) as i32).collect();
            own.sort_unstable();
            own.iter_mut().filter(|_| rng.one_in(6)).for_each(|at| *at = -1);
            at.extend(own);
        }
        Times { n, at }
    }

    fn sequences(&self) -> usize {
        self.at.len() / self.n.max(1)
    }

    /// Which there are, by sequence and place.
    fn wanted(&self) -> impl Iterator<Item = (usize, usize, i64)> + '_ {
        let each = self.at.iter().enumerate().filter(|(_, at)| **at >= 0);
        each.map(|(i, &at)| (i / self.n, i % self.n, at.into()))
    }
}

/// Outputs of a call, its snapshots by the roles of the state.
struct Taken {
    outputs: Tensors,
    snapshots: Tensors,
}

/// Runs a problem on tensors of these types with snapshots; snapshots are arranged by `arrange`.
fn run(
    (types, plan): (&Types, &Plan),
    p: &Problem,
    times: &Times,
    mut outputs: Tensors,
    mut arrange: impl FnMut(&Array) -> Strided,
) -> Result<Taken, Error> {
    let n_sequences = times.sequences() as i64;
    let stored = |(&role, array): (&Role, &Array)| (role, Stored::new(contiguous(array), types.of(role)));
    let inputs: Vec<_> = p.inputs.iter().map(stored).collect();
    let mut results: Vec<_> = outputs.iter().map(stored).collect();
    let mut snapshots = Vec::new();
    for role in p.roles(RoleKind::StateOut) {
        let shape = [&[n_sequences, times.n as i64], &p.shape(role)[1..]].concat();
        snapshots.push((role, Stored::new(arrange(&Array::filled(&shape, CANARY)), types.of(role))));
    }
    let mut args = Args::new();
    for (role, tensor) in &inputs {
        args = args.input(*role, tensor.view());
    }
    for (role, values) in &p.indices {
        args = args.input(*role, View::new(values, &[values.len() as i64])?);
    }
    args = args.input(Role::SNAPSHOT_AT, View::new(&times.at, &[n_sequences, times.n as i64])?);
    for (role, tensor) in &mut results {
        args = args.output(*role, tensor.view_mut());
    }
    for (role, tensor) in &mut snapshots {
        args = args.output(role.snapshots(), tensor.view_mut());
    }
    plan.execute(p.mode, &args, &mut problem::workspace(plan))?;
    for (role, tensor) in &mut results {
        outputs.insert(*role, tensor.read());
    }
    let snapshots = snapshots.iter_mut().map(|(role, tensor)| (*role, tensor.read())).collect();
    Ok(Taken { outputs, snapshots })
}

fn run_plain(plan: &Plan, p: &Problem, times: &Times) -> Taken {
    let taken = run((&PLAIN, plan), p, times, p.outputs(), contiguous);
    taken.unwrap_or_else(|error| panic!("{times:?} {p}: {error}"))
}

impl Taken {
    /// One snapshot, as states of one sequence.
    fn state(&self, sequence: usize, nth: usize) -> Tensors {
        let one = |array: &Array| {
            let mut one = array.pick(0, [sequence]).pick(1, [nth]);
            one.shape.remove(1);
            one
        };
        self.snapshots.iter().map(|(&role, array)| (role, one(array))).collect()
    }
}

/// Calls `f` with problems of every mechanism, the defaults and each parameter's other values; the last of each has
/// several panels and several blocks of chunks.
fn each(mut f: impl FnMut(&mut Rng, Problem)) {
    each_of(&mut f);
}

/// Compiled once, not for each test.
fn each_of(f: &mut dyn FnMut(&mut Rng, Problem)) {
    for mechanism in mechanisms() {
        let heads = problem::heads(mechanism);
        let mut variants = problem::variants(mechanism);
        let n = variants.len();
        variants.push(vec![]);
        for (case, params) in variants.into_iter().enumerate().filter(|(case, _)| problem::taken(*case)) {
            let rng = &mut Rng::new(seed().wrapping_add((case as u64) << 32));
            let (dims, t) = if case == n {
                ((100 + rng.below(40) as i64, 150), 90)
            } else {
                ((1 + rng.below(40) as i64, 1 + rng.below(40) as i64), rng.below(80) as i64)
            };
            let mut p = Problem::new(mechanism, params).sized(rng.pick(&heads), dims, 2, t);
            p.mode = Mode::Causal;
            p.shift = case % 3 != 1;
            let state = case == n || rng.one_in(2);
            let p = p.fill(rng, state);
            f(rng, p);
        }
    }
}

fn text(p: &Problem, times: &Times) -> String {
    format!("SUBQUAD_SEED={}: {times:?} {p}", seed())
}

/// What a call of the first `n` tokens of a sequence carries out.
fn prefix(p: &Problem, sequence: usize, n: i64) -> Problem {
    p.batch(&[sequence]).tokens(0..n, 0..n)
}

#[test]
fn are_states_of_fewer_tokens() {
    each(|rng, p| {
        let n = 1 + rng.below(4);
        let times = Times::random(rng, &[p.t, p.t], n, 1);
        let plan = p.plan(&context());
        let arrange = |array: &Array| Strided::random(rng, array);
        let taken = run((&PLAIN, &plan), &p, &times, p.outputs(), arrange).unwrap();
        oracle::check(&taken.outputs, &oracle::expect(&p), || text(&p, &times));
        for (sequence, nth, n) in times.wanted() {
            let mut want = oracle::expect(&prefix(&p, sequence, n));
            want.remove(&Role::OUT);
            let what = || format!("after {n}: {}", text(&p, &times));
            oracle::check(&taken.state(sequence, nth), &want, what);
        }
        for (i, _) in times.at.iter().enumerate().filter(|(_, at)| **at < 0) {
            let untouched = taken.state(i / times.n, i % times.n);
            let written = untouched.values().flat_map(|array| &array.data).any(|&x| x != CANARY);
            assert!(!written, "one that nobody wants was written: {}", text(&p, &times));
        }
    });
}

/// Where chunks end, snapshots are the bits of a shorter call, and change no other bit.
#[test]
fn at_chunks() {
    each(|rng, p| {
        let times = Times::random(rng, &[p.t, p.t], 4, 16);
        let plan = p.plan(&context());
        let taken = run_plain(&plan, &p, &times);
        assert_same_bits(&taken.outputs, &p.run_plan(&plan), || text(&p, &times));
        for (sequence, nth, n) in times.wanted() {
            let mut want = prefix(&p, sequence, n).run_plan(&plan);
            want.remove(&Role::OUT);
            let what = || format!("after {n}: {}", text(&p, &times));
            assert_same_bits(&taken.state(sequence, nth), &want, what);
        }
    });
}

/// Other types round what the call has in `f32`, once.
#[test]
fn other_types() {
    let mut turn = 0;
    each(|rng, p| {
        turn += 1;
        let types = TYPES[turn % TYPES.len()];
        let p = types.round(&p);
        let times = Times::random(rng, &[p.t, p.t], 5, 1);
        let plain = run_plain(&p.plan(&context()), &p, &times);
        let plan = types.plan(&context(), &p);
        let taken = run((&types, &plan), &p, &times, p.outputs(), contiguous).unwrap();
        let round = |(&role, array): (&Role, &Array)| (role, rounded(array, types.of(role)));
        let want = plain.snapshots.iter().map(round).collect();
        assert_same_bits(&taken.snapshots, &want, || format!("{types:?} {}", text(&p, &times)));
    });
}

/// Tokens that a model speculates: a snapshot after each, of which one is gone back to.
#[test]
fn one_token_at_a_time() {
    each(|rng, p| {
        if !p.splits() || p.t == 0 {
            return;
        }
        let n = p.t.min(9);
        let p = p.tokens(0..n, 0..n);
        let times = Times { n: n as usize, at: (0..2).flat_map(|_| 1..=n as i32).collect() };
        let plan = p.plan(&context());
        let taken = run_plain(&plan, &p, &times);
        let last: Tensors = [0, 1].map(|sequence| taken.state(sequence, n as usize - 1)).into_iter().fold(
            Tensors::new(),
            |mut all, one| {
                for (role, array) in one {
                    let joined = all.get(&role).map(|first| Array::join(0, &[first.clone(), array.clone()]));
                    all.insert(role, joined.unwrap_or(array));
                }
                all
            },
        );
        let mut out = taken.outputs.clone();
        out.remove(&Role::OUT);
        assert_same_bits(&last, &out, || text(&p, &times));
        let accepted = rng.below(n as usize) as i64 + 1;
        let mut rest = p.batch(&[0]).tokens(accepted..n, accepted..n).advanced(accepted);
        rest.carry(&taken.state(0, accepted as usize - 1));
        let got = rest.run(&context());
        let mut want = oracle::expect(&p.batch(&[0]));
        want.remove(&Role::OUT);
        let mut carried = got.clone();
        carried.remove(&Role::OUT);
        oracle::check(&carried, &want, || format!("from {accepted} on, {}", text(&p, &times)));
    });
}

/// Packed sequences of a pool, in the order of the call; what is skipped is not written.
#[test]
fn ragged_and_pooled() {
    for mechanism in mechanisms() {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (20, 20), 1, 60);
        let rng = &mut Rng::new(seed());
        let mut p = p.fill(rng, false);
        p.shift = true;
        let (ends, slots) = ([0, 23, 23, 24, 60], vec![3, 0, -1, 1]);
        let lengths: Vec<i64> = ends.windows(2).map(|w| w[1] - w[0]).collect();
        let times = Times::random(rng, &lengths, 5, 1);
        let plan = p.plan(&context());
        let parts: Vec<Problem> = (0..4)
            .map(|i| {
                let mut part = p.tokens(ends[i]..ends[i + 1], ends[i]..ends[i + 1]);
                part.fill_state(rng);
                part
            })
            .collect();
        let mut packed = p.clone();
        let carried: Vec<Role> = p.roles(RoleKind::StateIn).collect();
        let mut outputs = packed.outputs();
        for role in carried {
            // Slot by slot; the third belongs to nobody.
            let states: Vec<Array> =
                [1, 3, 2, 0].iter().map(|&i: &usize| parts[i].inputs[&role].clone()).collect();
            let pool = Array::join(0, &states);
            outputs.insert(out_of(role), Array::filled(&pool.shape, CANARY));
            packed.inputs.insert(role, pool);
        }
        packed.indices.push((Role::CU_SEQLENS, ends.iter().map(|&end| end as i32).collect()));
        packed.indices.push((Role::STATE_INDEX, slots.clone()));
        let taken = run((&PLAIN, &plan), &packed, &times, outputs, contiguous).unwrap();
        for (sequence, nth, n) in times.wanted() {
            let got = taken.state(sequence, nth);
            if slots[sequence] < 0 {
                assert!(got.values().flat_map(|array| &array.data).all(|&x| x == CANARY), "{mechanism:?}");
                continue;
            }
            let alone = Times { n: 5, at: times.at[5 * sequence..][..5].to_vec() };
            let want = run_plain(&plan, &parts[sequence], &alone).state(0, nth);
            assert_same_bits(&got, &want, || format!("{sequence} after {n}: {}", text(&packed, &times)));
        }
    }
}

/// The state is carried on in the memory where it came in.
#[test]
fn in_place() {
    for mechanism in mechanisms() {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (20, 20), 2, 40);
        let mut p = Problem { shift: true, ..p }.fill(&mut Rng::new(3), true);
        let times = Times { n: 3, at: vec![2, 16, 40, 0, 39, 39] };
        let plan = p.plan(&context());
        let want = run_plain(&plan, &p, &times);
        let states: Vec<Role> = p.roles(RoleKind::StateIn).collect();
        let mut held: Tensors = states.iter().map(|role| (*role, p.inputs.remove(role).unwrap())).collect();
        let mut outputs = p.outputs();
        outputs.retain(|role, _| *role == Role::OUT);
        let mut snapshots: Tensors =
            want.snapshots.iter().map(|(&r, a)| (r, Array::filled(&a.shape, 0.0))).collect();
        let mut args = Args::new();
        for (&role, array) in &p.inputs {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        args = args.input(Role::SNAPSHOT_AT, View::new(&times.at, &[2, 3]).unwrap());
        for (&role, array) in &mut held {
            let view = subquad::ViewMut::new(&mut array.data, &array.shape).unwrap();
            args = args.in_place(role, out_of(role), view);
        }
        for (role, array) in outputs.iter_mut().map(|(&r, a)| (r, a)) {
            args = args.output(role, subquad::ViewMut::new(&mut array.data, &array.shape).unwrap());
        }
        for (role, array) in &mut snapshots {
            let view = subquad::ViewMut::new(&mut array.data, &array.shape).unwrap();
            args = args.output(role.snapshots(), view);
        }
        plan.execute(Mode::Causal, &args, &mut problem::workspace(&plan)).unwrap();
        assert_same_bits(&snapshots, &want.snapshots, || text(&p, &times));
        outputs.extend(held.into_iter().map(|(role, array)| (out_of(role), array)));
        assert_same_bits(&outputs, &want.outputs, || text(&p, &times));
    }
}

#[test]
fn any_runner() {
    let pool = |n| ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()));
    let contexts = [2, 3, 8].map(|n| Context::new(pool(n)).unwrap());
    let serial = Context::new(ContextOptions::new().runner(Arc::new(Serial))).unwrap();
    for mechanism in mechanisms() {
        let p = Problem::new(mechanism, vec![]).sized([1, 1, 1], (30, 150), 2, 70);
        let rng = &mut Rng::new(11);
        let p = p.fill(rng, true);
        let times = Times::random(rng, &[70, 70], 6, 1);
        let want = run_plain(&p.plan(&serial), &p, &times);
        for context in &contexts {
            let got = run_plain(&p.plan(context), &p, &times);
            assert_same_bits(&got.snapshots, &want.snapshots, || text(&p, &times));
            assert_same_bits(&got.outputs, &want.outputs, || text(&p, &times));
        }
    }
}

/// Where queries are the last positions, tokens are keys.
#[test]
fn fewer_queries_than_keys() {
    let mut p = Problem::named("linear1p").sized([2, 2, 2], (20, 12), 2, 9);
    p.s = 41;
    let p = p.fill(&mut Rng::new(4), true);
    let times = Times { n: 4, at: vec![5, 32, 36, 41, 0, 16, 33, -1] };
    let taken = run_plain(&p.plan(&context()), &p, &times);
    for (sequence, nth, n) in times.wanted() {
        let mut want = oracle::expect(&p.batch(&[sequence]).tokens(0..0, 0..n));
        want.remove(&Role::OUT);
        oracle::check(&taken.state(sequence, nth), &want, || format!("after {n}: {}", text(&p, &times)));
    }
}

/// Without its shift a state of exponentials goes out in plain scale, whatever the shift becomes in later chunks.
#[test]
fn plain_scale() {
    let linear = Problem::named("linear").param("feature_map", "exp");
    for (i, p) in [linear, Problem::named("lln"), Problem::named("gla")].into_iter().enumerate() {
        let exp = p.mechanism.name != "gla";
        let p = p.sized([1, 1, 1], (120, 150), 2, 90).fill(&mut Rng::new(i as u64), i == 0);
        assert!(!p.shift && p.is_exp() == exp && p.plan(&context()).info().panel < 150);
        for at in [vec![16, 32, 48, 80, 0, 16, 64, 64], vec![0, 7, 8, 90, 33, 47, 48, 49]] {
            let times = Times { n: 4, at };
            let taken = run_plain(&p.plan(&context()), &p, &times);
            for (sequence, nth, n) in times.wanted() {
                let mut want = oracle::expect(&prefix(&p, sequence, n));
                want.remove(&Role::OUT);
                let what = || format!("after {n}: {}", text(&p, &times));
                oracle::check(&taken.state(sequence, nth), &want, what);
            }
        }
    }
}

/// Norms of 16-bit outputs run segment by segment, all heads of a token in one task.
#[test]
fn with_norms() {
    for normalize in ["rms_head", "srms_all"] {
        let p = Problem::named("gla").param("normalize", normalize).sized([2, 2, 2], (20, 30), 2, 150);
        let types = TYPES[0];
        let p = types.round(&p.fill(&mut Rng::new(5), true));
        let times = Times { n: 4, at: vec![0, 64, 65, 150, 1, 70, 128, 149] };
        let plain = run_plain(&p.plan(&context()), &p, &times);
        let taken = run((&types, &types.plan(&context(), &p)), &p, &times, p.outputs(), contiguous).unwrap();
        assert_same_bits(&taken.snapshots, &plain.snapshots, || text(&p, &times));
    }
}
