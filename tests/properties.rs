//! What holds for every mechanism, whatever it computes: splits, batches, strides, runners, ragged and pooled calls,
//! shared heads, in-place states. Equal means equal bits, except where a test says otherwise.
//!
//! Problems come from the catalogue: each mechanism with its defaults, with every value of every parameter, and with
//! some at random. `SUBQUAD_SEED=<seed>` repeats a run.

mod common;

use common::golden::Array;
use common::oracle;
use common::problem::{
    self, Problem, Strided, Tensors, assert_lively, assert_same_bits, context, out_of, workspace,
};
use common::support::{Rng, seed};
use std::sync::Arc;
use subquad::catalog::RoleKind;
use subquad::{Args, Context, ContextOptions, Isa, Mode, Plan, Role, Runner, ThreadPool, View, ViewMut};

const MODES: [Mode; 5] = [Mode::Causal, Mode::Bidirectional, Mode::Cross, Mode::Step, Mode::Transform];

/// Calls `f` with problems of every mechanism that has `mode`; the last of each is large enough for several panels of
/// the state and several blocks of chunks.
#[track_caller]
fn each(mode: Mode, mut f: impl FnMut(&mut Rng, Problem)) {
    let mut n = 0;
    for mechanism in problem::mechanisms().into_iter().filter(|m| m.modes.contains(&mode)) {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism);
        let cases = variants.len() + 4;
        // The last one is large.
        for case in (0..cases).filter(|&case| case + 1 == cases || problem::taken(case)) {
            let mut rng = Rng::new(seed().wrapping_add((case as u64) << 32));
            let rng = &mut rng;
            let params = variants.get(case).cloned();
            let params = params.unwrap_or_else(|| problem::random_params(rng, mechanism));
            let (dims, t) = if case + 1 == cases {
                ((100 + rng.below(40) as i64, 150), 40)
            } else {
                ((1 + rng.below(40) as i64, 1 + rng.below(40) as i64), rng.below(80) as i64)
            };
            let mut p =
                Problem::new(mechanism, params).sized(rng.pick(&heads), dims, 1 + rng.below(3) as i64, t);
            p.mode = mode;
            p.shift = true;
            match mode {
                Mode::Step => (p.t, p.s) = (1, if p.caches() { 1 + rng.below(150) as i64 } else { 1 }),
                Mode::Cross if p.windowed() => p.s = p.t + rng.below(50) as i64,
                Mode::Cross => p.s = rng.below(50) as i64,
                _ => {}
            }
            let state = rng.one_in(2);
            let p = p.fill(rng, state);
            f(rng, p);
            n += 1;
        }
    }
    assert!(n * 100 >= 10 * problem::percent(), "{n} problems of mode {mode}");
}

fn each_mode(mut f: impl FnMut(&mut Rng, Problem)) {
    MODES.into_iter().for_each(|mode| each(mode, &mut f));
}

fn text(p: &Problem) -> String {
    format!("SUBQUAD_SEED={}: {p}", seed())
}

/// The same problem with another number of tokens.
fn resized(rng: &mut Rng, p: &Problem, t: i64) -> Problem {
    let mut p = p.clone();
    (p.t, p.s) = (t, t);
    let roles: Vec<Role> = p.inputs.keys().copied().collect();
    for role in roles {
        let values = p.values(rng, role);
        p.inputs.insert(role, values);
    }
    p
}

#[test]
fn split_at_chunks() {
    each(Mode::Causal, |rng, p| {
        if !p.splits_exactly() {
            return;
        }
        let mut t = 17 + rng.below(80) as i64;
        if p.caches() {
            // Fewer queries than a chunk are summed up otherwise.
            t = (t + 15) / 16 * 16;
        }
        let p = resized(rng, &p, t);
        let plan = p.plan(&context());
        let whole = p.run_plan(&plan);
        assert_lively(&whole, || text(&p));
        let mut ends: Vec<i64> = (1..(t + 15) / 16).map(|n| 16 * n).filter(|_| rng.one_in(2)).collect();
        if ends.is_empty() {
            ends.push(16);
        }
        ends.push(t);
        assert_same_bits(&p.run_pieces(&plan, &ends), &whole, || format!("ends {ends:?}, {}", text(&p)));
    });
}

#[test]
fn split_anywhere() {
    each(Mode::Causal, |rng, mut p| {
        if !p.splits() {
            return;
        }
        // A state in plain scale too, which is not the same bits as one with its shift.
        p.shift = rng.one_in(2);
        p.inputs.remove(&Role::SHIFT_IN);
        if p.inputs.contains_key(&Role::STATE_IN) {
            p.fill_state(rng);
        }
        let t = 2 + rng.below(50) as i64;
        let p = resized(rng, &p, t);
        let plan = p.plan(&context());
        let mut ends: Vec<i64> = (0..1 + rng.below(3)).map(|_| rng.below(t as usize + 1) as i64).collect();
        ends.sort_unstable();
        ends.push(t);
        let pieces = p.run_pieces(&plan, &ends);
        oracle::check(&pieces, &oracle::expect(&p), || format!("ends {ends:?}, {}", text(&p)));
    });
}

#[test]
fn steps_are_a_prefill() {
    each(Mode::Causal, |rng, mut p| {
        if !p.mechanism.modes.contains(&Mode::Step) || !p.splits() {
            return;
        }
        p.shift = rng.one_in(2);
        p.inputs.remove(&Role::SHIFT_IN);
        if p.inputs.contains_key(&Role::STATE_IN) {
            p.fill_state(rng);
        }
        let t = 1 + rng.below(40) as i64;
        let mut p = resized(rng, &p, t);
        let want = oracle::expect(&p);
        oracle::check(&p.run(&context()), &want, || text(&p));
        p.mode = Mode::Step;
        let ends: Vec<i64> = (1..=t).collect();
        let steps = p.run_pieces(&p.plan(&context()), &ends);
        oracle::check(&steps, &want, || format!("as steps, {}", text(&p)));
    });
}

#[test]
fn batch_order() {
    each_mode(|rng, p| {
        let p = p.batch(&[0, 0, 0, 0]);
        let mut p = resized_batch(rng, &p);
        let plan = p.plan(&context());
        let whole = p.run_plan(&plan);
        let order = rng.pick(&[[3, 1, 0, 2], [1, 2, 3, 0], [2, 0, 3, 1]]);
        let permuted = p.batch(&order).run_plan(&plan);
        let by_hand = whole.iter().map(|(&role, array)| (role, array.pick(0, order))).collect();
        assert_same_bits(&permuted, &by_hand, || format!("{order:?} of {}", text(&p)));
        // One at a time, too.
        let one = rng.below(4);
        let alone = p.batch(&[one]).run_plan(&plan);
        let by_hand = whole.iter().map(|(&role, array)| (role, array.pick(0, [one]))).collect();
        assert_same_bits(&alone, &by_hand, || format!("entry {one} of {}", text(&p)));
        p.b = 4;
    });
}

/// New values for a problem whose batch has changed.
fn resized_batch(rng: &mut Rng, p: &Problem) -> Problem {
    let mut p = p.clone();
    let roles: Vec<Role> = p.inputs.keys().copied().collect();
    for role in roles {
        let values = p.values(rng, role);
        p.inputs.insert(role, values);
    }
    p
}

/// Runs a problem on these arrangements of its inputs and outputs, and gives the outputs as contiguous arrays.
fn run_strided(
    plan: &Plan,
    p: &Problem,
    inputs: &[(Role, Strided)],
    mut outputs: Vec<(Role, Strided)>,
) -> Tensors {
    let mut args = Args::new();
    for (role, strided) in inputs {
        args = args.input(*role, strided.view());
    }
    for (role, strided) in &mut outputs {
        args = args.output(*role, strided.view_mut());
    }
    plan.execute(p.mode, &args, &mut workspace(plan)).unwrap_or_else(|error| panic!("{}: {error}", text(p)));
    outputs.iter().map(|(role, strided)| (*role, strided.read())).collect()
}

#[test]
fn any_strides() {
    each_mode(|rng, p| {
        let plan = p.plan(&context());
        let plain = p.run_plan(&plan);
        for _ in 0..2 {
            let inputs: Vec<_> = p.inputs.iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            let outputs = p.outputs().iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            let got = run_strided(&plan, &p, &inputs, outputs);
            let strides: Vec<_> = inputs.iter().map(|(role, s)| (role, s.stride.clone())).collect();
            assert_same_bits(&got, &plain, || format!("{strides:?}, {}", text(&p)));
        }
    });
}

/// The layouts of other libraries: tokens before heads, padded rows, states transposed.
#[test]
fn layouts_of_others() {
    each_mode(|_, p| {
        let plan = p.plan(&context());
        let plain = p.run_plan(&plan);
        let arrange = |role: Role, array: &Array| {
            let rank = array.shape.len();
            let mut order: Vec<usize> = (0..rank).collect();
            let kind = p.mechanism.role(role).unwrap().kind;
            let state = matches!(kind, RoleKind::StateIn | RoleKind::StateOut);
            match rank {
                4 if state => order.swap(2, 3),
                3 | 4 if p.axis(role, "T").or(p.axis(role, "S")) == Some(2) => order.swap(1, 2),
                _ => {}
            }
            let mut pad = vec![0; rank];
            if rank == 4 && !state {
                pad[2] = 8;
            }
            (role, Strided::new(array, &order, &pad, &vec![false; rank]))
        };
        let inputs: Vec<_> = p.inputs.iter().map(|(&role, a)| arrange(role, a)).collect();
        let outputs = p.outputs().iter().map(|(&role, a)| arrange(role, a)).collect();
        assert_same_bits(&run_strided(&plan, &p, &inputs, outputs), &plain, || text(&p));
    });
}

#[test]
fn broadcast_inputs() {
    each_mode(|rng, mut p| {
        let plan = p.plan(&context());
        let mut inputs = Vec::new();
        let roles: Vec<Role> = p.inputs.keys().copied().collect();
        let mut broadcast = 0;
        for role in roles {
            let array = &p.inputs[&role];
            let axis = rng.below(array.shape.len());
            let n = array.shape[axis];
            if n == 0 || rng.one_in(3) {
                inputs.push((role, Strided::random(rng, array)));
                continue;
            }
            let one = array.pick(axis, [0]);
            let same = array.pick(axis, vec![0; n as usize]);
            inputs.push((role, Strided::random(rng, &one).broadcast(axis, n)));
            p.inputs.insert(role, same);
            broadcast += 1;
        }
        let outputs = p.outputs().iter().map(|(&r, a)| (r, Strided::random(rng, a))).collect();
        let got = run_strided(&plan, &p, &inputs, outputs);
        assert_same_bits(&got, &p.run_plan(&plan), || format!("{broadcast} roles, {}", text(&p)));
    });
}

/// Runs tasks last to first, each on a thread of its own kind.
struct Backwards;

impl Runner for Backwards {
    fn max_workers(&self) -> usize {
        3
    }
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let mine = (0..n_tasks).rev().filter(move |index| index % 3 == worker);
                scope.spawn(move || mine.for_each(|index| task(index, worker)));
            }
        });
    }
}

fn with_runner(runner: Arc<dyn Runner>) -> Context {
    Context::new(ContextOptions::new().runner(runner)).unwrap()
}

fn runners() -> Vec<(String, Context)> {
    let pools =
        [1, 2, 3, 8].map(|n| (format!("{n} workers"), with_runner(Arc::new(ThreadPool::new(n).unwrap()))));
    let mut all = Vec::from(pools);
    all.push(("backwards".into(), with_runner(Arc::new(Backwards))));
    all
}

#[test]
fn any_runner() {
    let runners = runners();
    each_mode(|_, p| {
        let serial = p.run(&context());
        for (name, context) in &runners {
            assert_same_bits(&p.run(context), &serial, || format!("{name}: {}", text(&p)));
        }
    });
}

/// Few heads and a wide state: workers share a head by its panels.
#[test]
fn any_runner_one_head() {
    let runners = runners();
    for mechanism in problem::mechanisms() {
        let mut rng = Rng::new(seed());
        for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
            let t = if mode == Mode::Step { 1 } else { 70 };
            let mut p = Problem::new(mechanism, vec![]).sized([1, 1, 1], (100, 777), 1, t);
            p.mode = mode;
            let p = p.fill(&mut rng, true);
            let plan = p.plan(&context());
            assert!(plan.info().panel * 3 < 777, "the state has too few panels");
            let serial = p.run_plan(&plan);
            assert_lively(&serial, || text(&p));
            for (name, context) in &runners {
                assert_same_bits(&p.run(context), &serial, || format!("{name}: {}", text(&p)));
            }
        }
    }
}

/// Some lengths that add up to `total`, empty ones among them.
fn lengths(rng: &mut Rng, n: usize, total: i64) -> Vec<i64> {
    let mut cuts: Vec<i64> = (0..n - 1).map(|_| rng.below(total as usize + 1) as i64).collect();
    cuts.sort_unstable();
    // An empty sequence at least.
    cuts[n / 2] = cuts[n / 2 - 1];
    let ends = cuts.iter().copied().chain([total]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(ends).map(|(start, end)| end - start).collect()
}

fn offsets(lengths: &[i64]) -> Vec<i32> {
    let mut all = vec![0];
    lengths.iter().for_each(|&n| all.push(all[all.len() - 1] + n as i32));
    all
}

#[test]
fn ragged_is_each_alone() {
    for mode in [Mode::Causal, Mode::Bidirectional, Mode::Cross] {
        each(mode, |rng, p| {
            if mode == Mode::Cross && p.windowed() {
                return;
            }
            let n = 4 + rng.below(3);
            let mut p = p.batch(&[0]);
            p.t = rng.below(90) as i64;
            p.s = if mode == Mode::Cross { rng.below(70) as i64 } else { p.t };
            let p = resized_batch(rng, &p);
            let (of_q, mut of_k) = (lengths(rng, n, p.t), lengths(rng, n, p.s));
            if mode != Mode::Cross {
                of_k = of_q.clone();
            }
            let (ends_q, ends_k) = (offsets(&of_q), offsets(&of_k));
            let plan = p.plan(&context());
            let states = n as i64;
            let parts: Vec<Problem> = (0..n)
                .map(|i| {
                    let range = |ends: &[i32]| i64::from(ends[i])..i64::from(ends[i + 1]);
                    let mut part = p.tokens(range(&ends_q), range(&ends_k));
                    if p.inputs.contains_key(&Role::STATE_IN) {
                        part.fill_state(rng);
                    }
                    part
                })
                .collect();
            let alone: Vec<Tensors> = parts.iter().map(|part| part.run_plan(&plan)).collect();
            let mut packed = p.clone();
            let carried: Vec<Role> =
                p.roles(RoleKind::StateIn).filter(|role| p.inputs.contains_key(role)).collect();
            for role in carried {
                let all: Vec<Array> = parts.iter().map(|part| part.inputs[&role].clone()).collect();
                packed.inputs.insert(role, Array::join(0, &all));
            }
            for (&role, array) in &mut packed.inputs {
                let of_tokens = ["T", "S"].iter().any(|size| p.axis(role, size).is_some());
                let shared = p.mechanism.role(role).unwrap().kind == RoleKind::Input && !of_tokens;
                if let Some(axis) = p.axis(role, "B").filter(|_| shared) {
                    *array = array.pick(axis, vec![0; n]);
                }
            }
            packed.indices.push((Role::CU_SEQLENS, ends_q.clone()));
            if mode == Mode::Cross {
                packed.indices.push((Role::CU_SEQLENS_K, ends_k.clone()));
            }
            let mut outputs = packed.outputs();
            for (_, array) in outputs.iter_mut().filter(|(role, _)| p.axis(**role, "T").is_none()) {
                *array = array.pick(0, vec![0; states as usize]);
            }
            problem::execute(&plan, mode, &packed.inputs, &packed.indices, &mut outputs)
                .unwrap_or_else(|error| panic!("{}: {error}", text(&packed)));
            let join = |role: Role| {
                let all: Vec<Array> = alone.iter().map(|out| out[&role].clone()).collect();
                Array::join(p.axis(role, "T").unwrap_or(0), &all)
            };
            let want = outputs.keys().map(|&role| (role, join(role))).collect();
            assert_same_bits(&outputs, &want, || format!("{of_q:?} {of_k:?} {}", text(&p)));
        });
    }
}

#[test]
fn pooled_states() {
    each_mode(|rng, p| {
        if p.mode == Mode::Transform || p.caches() {
            return;
        }
        let (b, n_slots) = (4usize, 7);
        let mut p = resized_batch(rng, &p.batch(&[0; 4]));
        p.fill_state(rng);
        let plan = p.plan(&context());
        let plain = p.run_plan(&plan);
        // Slots in disorder, with one sequence skipped.
        let mut free: Vec<i32> = (0..n_slots).collect();
        let skipped = rng.below(b);
        let slots: Vec<i32> =
            (0..b).map(|i| if i == skipped { -1 } else { free.remove(rng.below(free.len())) }).collect();
        let pool = |states: &Array, empty: f32| {
            let mut pool = states.pick(0, vec![0; n_slots as usize]);
            pool.data.fill(empty);
            let len = pool.data.len() / n_slots as usize;
            for (i, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
                pool.data[slot as usize * len..][..len].copy_from_slice(&states.data[i * len..][..len]);
            }
            pool
        };
        let mut pooled = p.clone();
        pooled.indices.push((Role::STATE_INDEX, slots.clone()));
        let carried: Vec<Role> = p.roles(RoleKind::StateIn).collect();
        for &role in &carried {
            let states = pool(&p.inputs[&role], f32::NAN);
            pooled.inputs.insert(role, states);
        }
        const CANARY: f32 = -7.25e9;
        let mut outputs = p.outputs();
        outputs.get_mut(&Role::OUT).unwrap().data.fill(CANARY);
        let mut want = Tensors::new();
        let mut out = plain[&Role::OUT].clone();
        let len = out.data.len() / b;
        out.data[skipped * len..][..len].fill(CANARY);
        want.insert(Role::OUT, out);
        for &role in &carried {
            outputs.insert(out_of(role), pool(&p.inputs[&role], CANARY));
            outputs.get_mut(&out_of(role)).unwrap().data.fill(CANARY);
            want.insert(out_of(role), pool(&plain[&out_of(role)], CANARY));
        }
        problem::execute(&plan, p.mode, &pooled.inputs, &pooled.indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", text(&pooled)));
        assert_same_bits(&outputs, &want, || format!("slots {slots:?}, {}", text(&p)));
        // In place, as engines do it: the other slots keep what they hold, even NaN.
        let mut states: Vec<(Role, Array)> =
            carried.iter().map(|&role| (role, pool(&p.inputs[&role], CANARY))).collect();
        let mut out = Array::filled(&p.shape(Role::OUT), CANARY);
        let mut args = Args::new();
        for (&role, array) in p.inputs.iter().filter(|(role, _)| !carried.contains(role)) {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        args = args.input(Role::STATE_INDEX, View::new(&slots, &[b as i64]).unwrap());
        args = args.output(Role::OUT, ViewMut::new(&mut out.data, &out.shape).unwrap());
        for (role, array) in &mut states {
            let view = ViewMut::new(&mut array.data, &array.shape).unwrap();
            args = args.in_place(*role, out_of(*role), view);
        }
        plan.execute(p.mode, &args, &mut workspace(&plan)).unwrap();
        let mut got = Tensors::from([(Role::OUT, out)]);
        got.extend(states.into_iter().map(|(role, array)| (out_of(role), array)));
        assert_same_bits(&got, &want, || format!("in place, slots {slots:?}, {}", text(&p)));
    });
}

/// Ragged sequences with pooled states, some skipped.
#[test]
fn ragged_and_pooled() {
    each(Mode::Causal, |rng, p| {
        if p.caches() {
            return;
        }
        let mut p = resized_batch(rng, &p.batch(&[0]));
        p.inputs.retain(|role, _| p.mechanism.role(*role).unwrap().kind == RoleKind::Input);
        let lengths = lengths(rng, 4, p.t);
        let ends = offsets(&lengths);
        let slots = vec![4, -1, 0, 2];
        let plan = p.plan(&context());
        let mut outputs = p.outputs();
        let mut want = outputs.clone();
        for tensors in [&mut outputs, &mut want] {
            for (role, array) in tensors.iter_mut() {
                if *role != Role::OUT {
                    *array = array.pick(0, [0; 5]);
                }
                array.data.fill(9.0);
            }
        }
        for (i, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
            let (start, end) = (i64::from(ends[i]), i64::from(ends[i + 1]));
            for (role, got) in p.tokens(start..end, start..end).run_plan(&plan) {
                let all = want.get_mut(&role).unwrap();
                if role == Role::OUT {
                    let before = all.pick(2, 0..start as usize);
                    let after = all.pick(2, end as usize..p.t as usize);
                    *all = Array::join(2, &[before, got, after]);
                } else {
                    let len = got.data.len();
                    all.data[slot as usize * len..][..len].copy_from_slice(&got.data);
                }
            }
        }
        let indices = [(Role::CU_SEQLENS, ends.clone()), (Role::STATE_INDEX, slots.clone())];
        problem::execute(&plan, p.mode, &p.inputs, &indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", text(&p)));
        assert_same_bits(&outputs, &want, || format!("{lengths:?} {}", text(&p)));
    });
}

/// Shared heads, in blocks or cyclically, are the same as heads of their own with the same contents.
#[test]
fn shared_heads() {
    let mut n = 0;
    each_mode(|rng, p| {
        let heads: Vec<_> =
            problem::heads(p.mechanism).into_iter().filter(|[q, k, v]| q != k || k != v).collect();
        if heads.is_empty() {
            return;
        }
        n += 1;
        let mut p = p.clone();
        p.heads = rng.pick(&heads);
        let shared = p.clone();
        p.inputs.retain(|&role, _| shared.takes(role));
        let p = resized_batch(rng, &p);
        let cyclic = p.word("head_map") == "cyclic";
        let [q, k, v] = p.heads.map(|n| n as usize);
        let (state, out) = (k.max(v), q.max(k).max(v));
        let read = |h: usize, of: usize, n: usize| if cyclic { h % n } else { h / (of / n) };
        let of_state: Vec<usize> = (0..out).map(|h| read(h, out, state)).collect();
        let expand = |array: &Array, axes: &[&str]| {
            let single = |name: &str| -> Option<Vec<usize>> {
                Some(match name {
                    "H" => (0..out).map(|h| read(h, out, q)).collect(),
                    "Hk" => of_state.iter().map(|&s| read(s, state, k)).collect(),
                    "Hv" => of_state.iter().map(|&s| read(s, state, v)).collect(),
                    "Hs" => of_state.clone(),
                    _ => return None,
                })
            };
            // Pairs of heads; heads that have one entry for all.
            let head = |name: &str| match name.strip_prefix("2*") {
                Some(name) => single(name).map(|all| all.iter().flat_map(|&h| [2 * h, 2 * h + 1]).collect()),
                None => single(name),
            };
            let name = |axis: usize| axes[axis].strip_suffix("|1").unwrap_or(axes[axis]);
            let own = |&axis: &usize| head(name(axis)).is_some() && array.shape[axis] > 1;
            let axis = (0..axes.len()).find(own);
            axis.map_or(array.clone(), |axis| array.pick(axis, head(name(axis)).unwrap()))
        };
        let mut own = p.clone();
        own.heads = [out as i64; 3];
        for (&role, array) in &mut own.inputs {
            *array = expand(array, &p.axes(role));
        }
        let want = own.run(&context());
        let mut got = p.run(&context());
        for (&role, array) in &mut got {
            *array = expand(array, &p.axes(role));
        }
        assert_same_bits(&got, &want, || text(&p));
    });
    assert!(n * 100 > 50 * problem::percent(), "only {n} problems with shared heads");
}

/// A state that is read and written in one place gives what two places give.
#[test]
fn in_place_state() {
    each_mode(|rng, mut p| {
        if p.caches() {
            return;
        }
        p.fill_state(rng);
        let plan = p.plan(&context());
        let want = p.run_plan(&plan);
        let strided = rng.one_in(2);
        let carried: Vec<Role> = p.roles(RoleKind::StateIn).collect();
        let mut states: Vec<(Role, Strided)> = carried
            .iter()
            .map(|&role| {
                let array = &p.inputs[&role];
                let rank = array.shape.len();
                let order: Vec<usize> = (0..rank).collect();
                let plain = Strided::new(array, &order, &vec![0; rank], &vec![false; rank]);
                (role, if strided { Strided::random(rng, array) } else { plain })
            })
            .collect();
        let mut out = Array::filled(&p.shape(Role::OUT), f32::NAN);
        let mut args = Args::new();
        for (&role, array) in p.inputs.iter().filter(|(role, _)| !carried.contains(role)) {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        args = args.output(Role::OUT, ViewMut::new(&mut out.data, &out.shape).unwrap());
        for (role, strided) in &mut states {
            args = args.in_place(*role, out_of(*role), strided.view_mut());
        }
        plan.execute(p.mode, &args, &mut workspace(&plan)).unwrap_or_else(|e| panic!("{}: {e}", text(&p)));
        let mut got = Tensors::from([(Role::OUT, out)]);
        got.extend(states.iter().map(|(role, strided)| (out_of(*role), strided.read())));
        assert_same_bits(&got, &want, || text(&p));
    });
}

/// Four times the values and state are four times the output, exactly; a sum of them is the sum, within tolerance.
#[test]
fn linear_in_values() {
    let mut linear = 0;
    each_mode(|rng, mut p| {
        // The oracle is slow where the state is large.
        if !p.is_linear_in_v() || p.t == 0 || p.d > 40 {
            return;
        }
        linear += 1;
        p.fill_state(rng);
        let plan = p.plan(&context());
        let once = p.run_plan(&plan);
        let scaled = |tensors: &mut Tensors, factor: f32, roles: &[Role]| {
            for role in roles {
                tensors.get_mut(role).unwrap().data.iter_mut().for_each(|x| *x *= factor);
            }
        };
        let mut fourfold = p.clone();
        let values = p.bound(&[Role::V, p.value_state()]);
        scaled(&mut fourfold.inputs, 4.0, &values);
        let mut want = once.clone();
        let mut linear = vec![Role::OUT];
        linear.extend(values.iter().filter(|role| **role != Role::V).map(|&role| out_of(role)));
        scaled(&mut want, 4.0, &linear);
        let got = fourfold.run_plan(&plan);
        for (role, want) in &want {
            for (&g, &w) in got[role].data.iter().zip(&want.data) {
                // What has all but decayed may be flushed in one and not in the other.
                let same = g == w || (g - w).abs() < 1e-30;
                assert!(same, "{role} is {g:e} for {w:e}: {}", text(&p));
            }
        }

        let mut other = p.clone();
        for &role in &values {
            let values = p.values(rng, role);
            other.inputs.insert(role, values);
        }
        let mut sum = p.clone();
        for role in values {
            let terms = &other.inputs[&role].data;
            sum.inputs.get_mut(&role).unwrap().data.iter_mut().zip(terms).for_each(|(x, y)| *x += y);
        }
        let (got, second) = (sum.run_plan(&plan), other.run_plan(&plan));
        let bounds = [&p, &other, &sum].map(oracle::expect);
        for (role, got) in got.into_iter().filter(|(role, _)| linear.contains(role)) {
            for (i, &x) in got.data.iter().enumerate() {
                let want = f64::from(once[&role].data[i]) + f64::from(second[&role].data[i]);
                // The sum of two inputs is rounded, too.
                let tolerance: f64 = bounds.iter().map(|bound| bound[&role].tolerance[i]).sum();
                assert!((f64::from(x) - want).abs() <= tolerance, "{role} {i}: {x} for {want}, {}", text(&p));
            }
        }
    });
    assert!(linear * 100 > 50 * problem::percent(), "only {linear} linear problems");
}

#[test]
fn nothing_to_do() {
    each_mode(|rng, mut p| {
        p.fill_state(rng);
        // No sequence.
        let none = p.batch(&[]);
        let got = none.run(&context());
        assert!(got.values().all(|array| array.data.is_empty()));
        // No token. A step always has one.
        if p.mode == Mode::Step {
            return;
        }
        (p.t, p.s) = (0, 0);
        let p = resized_batch(rng, &p);
        let mut got = p.run(&context());
        got.retain(|role, array| p.axis(*role, "T").is_none() || !array.data.is_empty());
        let carried = p.inputs.iter().filter(|(role, _)| p.roles(RoleKind::StateIn).any(|own| own == **role));
        let want: Tensors = carried.map(|(&role, array)| (out_of(role), array.clone())).collect();
        assert!(!want.is_empty() || p.roles(RoleKind::StateIn).next().is_none());
        assert_same_bits(&got, &want, || text(&p));
        // Without a state there is the initial one.
        let mut fresh = p.clone();
        fresh.inputs.retain(|role, _| p.mechanism.role(*role).unwrap().kind == RoleKind::Input);
        let got = fresh.run(&context());
        for role in p.roles(RoleKind::StateIn) {
            let log = matches!(role, Role::SHIFT_IN | Role::LSE_IN);
            let initial = if log { f32::NEG_INFINITY } else { 0.0 };
            assert!(got[&out_of(role)].data.iter().all(|&x| x == initial), "{role} of {}", text(&p));
        }
    });
}

/// The properties above on the other instruction sets, in short: strides and splits choose other paths there.
#[test]
fn every_isa() {
    for isa in problem::isas() {
        let context = problem::context_of(isa);
        each_mode(|rng, p| {
            let plan = p.plan(&context);
            let plain = p.run_plan(&plan);
            let inputs: Vec<_> = p.inputs.iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            let outputs = p.outputs().iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            assert_same_bits(&run_strided(&plan, &p, &inputs, outputs), &plain, || {
                format!("{isa}: {}", text(&p))
            });
            if p.mode == Mode::Causal && p.t > 16 && p.splits_exactly() && (!p.caches() || p.t >= 32) {
                let pieces = p.run_pieces(&plan, &[16, p.t]);
                assert_same_bits(&pieces, &plain, || format!("split, {isa}: {}", text(&p)));
            }
        });
    }
    assert!(problem::isas().contains(&Isa::Scalar));
}
