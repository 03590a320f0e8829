//! A call allocates nothing, on any thread, and its workspace does not grow with the length or the batch.

mod common;

use common::backward::Backward;
use common::golden::Array;
use common::problem::{self, Problem, mechanisms};
use common::support::Rng;
use common::types::{self, Stored, TYPES};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use subquad::catalog::RoleKind;
use subquad::{
    Args, Context, ContextOptions, Desc, Mode, Plan, Role, Runner, Serial, ThreadPool, View, ViewMut,
};

/// The system's allocator, counting what any thread asks for while `COUNTING`.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// The tests of this file take turns: the count is the process's.
static TURN: Mutex<()> = Mutex::new(());

fn count() {
    if COUNTING.load(SeqCst) {
        CALLS.fetch_add(1, SeqCst);
    }
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and releases of `f`, by all threads of this process.
fn allocations(f: impl FnOnce()) -> usize {
    CALLS.store(0, SeqCst);
    COUNTING.store(true, SeqCst);
    f();
    COUNTING.store(false, SeqCst);
    CALLS.load(SeqCst)
}

/// What a call allocates: the least of some tries, as the test harness's own threads now and then add to the count.
fn run(plan: &Plan, p: &Problem) -> usize {
    (0..5).map(|_| run_once(plan, p)).find(|&n| n == 0).unwrap_or_else(|| run_once(plan, p))
}

/// Binds and runs the problem, counting from the first view to the end of the call.
fn run_once(plan: &Plan, p: &Problem) -> usize {
    let (mut outputs, mut memory) = (p.outputs(), problem::workspace(plan));
    let shapes: Vec<Vec<i64>> = outputs.values().map(|array| array.shape.clone()).collect();
    let mut result = Ok(());
    let n = allocations(|| {
        let mut args = Args::new();
        for (&role, array) in &p.inputs {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        for (role, values) in &p.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
        }
        for ((&role, array), shape) in outputs.iter_mut().zip(&shapes) {
            args = args.output(role, ViewMut::new(&mut array.data, shape).unwrap());
        }
        result = plan.execute(p.mode, &args, &mut memory);
    });
    result.unwrap_or_else(|error| panic!("{p}: {error}"));
    n
}

#[test]
fn execute_allocates_nothing() {
    let _turn = TURN.lock();
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) >= 2, "the counter counts");
    let runners: [Arc<dyn Runner>; 3] =
        [Arc::new(Serial), Arc::new(ThreadPool::new(1).unwrap()), Arc::new(ThreadPool::new(3).unwrap())];
    let mut calls = 0;
    for runner in runners {
        let context = Context::new(ContextOptions::new().runner(runner)).unwrap();
        for mechanism in mechanisms() {
            for params in problem::variants(mechanism) {
                for &mode in mechanism.modes {
                    let t = if mode == Mode::Step { 1 } else { 40 };
                    for (dims, heads) in [((13, 21), [2, 2, 2]), ((70, 300), [1, 1, 1])] {
                        let mut rng = Rng::new(1);
                        let p = Problem::new(mechanism, params.clone()).sized(heads, dims, 2, t);
                        let p = Problem { mode, shift: true, ..p }.fill(&mut rng, true);
                        let plan = p.plan(&context);
                        assert_eq!(run(&plan, &p), 0, "{} workers: {p}", context.max_workers());
                        calls += 1;
                    }
                }
            }
        }
    }
    assert!(calls > 500);
}

/// What a backward call allocates, the view of the workspace included.
fn backward_once(plan: &Plan, b: &Backward) -> usize {
    let (mut outputs, mut memory) = (b.outputs(), b.workspace(plan));
    let shapes: Vec<Vec<i64>> = outputs.values().map(|array| array.shape.clone()).collect();
    let mut result = Ok(());
    let n = allocations(|| {
        let mut args = Args::new();
        for (role, array) in b.inputs() {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        for (role, values) in &b.p.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
        }
        for ((&role, array), shape) in outputs.iter_mut().zip(&shapes) {
            args = args.output(role, ViewMut::new(&mut array.data, shape).unwrap());
        }
        result = plan.backward(b.p.mode, &args, &mut memory);
    });
    result.unwrap_or_else(|error| panic!("{}: {error}", b.p));
    n
}

#[test]
fn backward_allocates_nothing() {
    let _turn = TURN.lock();
    let runners: [Arc<dyn Runner>; 2] = [Arc::new(Serial), Arc::new(ThreadPool::new(3).unwrap())];
    let mut calls = 0;
    for runner in runners {
        let context = Context::new(ContextOptions::new().runner(runner)).unwrap();
        for mechanism in mechanisms() {
            for params in problem::variants(mechanism) {
                for &mode in mechanism.modes {
                    let p = Problem::new(mechanism, params.clone()).sized([2, 2, 2], (13, 21), 2, 40);
                    let mut p = Problem { mode, ..p };
                    if !p.plan(&context).has_gradient(mode) {
                        continue;
                    }
                    let mut rng = Rng::new(1);
                    if mode == Mode::Causal && mechanism.name != "linear1p" {
                        p.b = 1;
                        p.indices = vec![(Role::CU_SEQLENS, vec![0, 40])];
                    }
                    let p = p.fill(&mut rng, true);
                    let b = Backward::new(&mut rng, p);
                    let plan = b.p.plan(&context);
                    let least = (0..5).map(|_| backward_once(&plan, &b)).min();
                    assert_eq!(least, Some(0), "{} workers: {}", context.max_workers(), b.p);
                    calls += 1;
                }
            }
        }
    }
    assert!(calls > 100, "{calls} calls");
}

/// Nor with gradients of other element types, those among them that wait in the workspace.
#[test]
fn backward_of_other_types_allocates_nothing() {
    let _turn = TURN.lock();
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    for (i, mechanism) in common::backward::mechanisms().into_iter().enumerate() {
        for heads in problem::heads(mechanism) {
            let mut rng = Rng::new(1);
            let p = Problem::new(mechanism, vec![]).sized(heads, (13, 21), 2, 40).fill(&mut rng, true);
            let b = Backward::new(&mut rng, p);
            let types = TYPES[i % TYPES.len()];
            let plan = types.plan(&context, &b.p);
            let stored =
                |role: Role, array: &Array| (role, Stored::new(types::contiguous(array), types.of(role)));
            let inputs: Vec<_> = b.inputs().map(|(role, array)| stored(role, array)).collect();
            let mut outputs: Vec<_> = b.outputs().iter().map(|(&role, array)| stored(role, array)).collect();
            let mut memory = b.workspace(&plan);
            let mut call = || {
                let mut args = Args::new();
                for (role, tensor) in &inputs {
                    args = args.input(*role, tensor.view());
                }
                for (role, tensor) in &mut outputs {
                    args = args.output(*role, tensor.view_mut());
                }
                plan.backward(b.p.mode, &args, &mut memory).unwrap();
            };
            let least = (0..5).map(|_| allocations(&mut call)).min();
            assert_eq!(least, Some(0), "{types:?}, {}", b.p);
        }
    }
}

/// `lasp`, which takes the tensors of the mechanism that it runs.
#[test]
fn backward_of_segments_allocates_nothing() {
    let _turn = TURN.lock();
    let runners: [Arc<dyn Runner>; 2] = [Arc::new(Serial), Arc::new(ThreadPool::new(3).unwrap())];
    for runner in runners {
        let context = Context::new(ContextOptions::new().runner(runner)).unwrap();
        for inner in ["lightning", "gated_delta_rule"] {
            let mut rng = Rng::new(1);
            let p = Problem::named(inner).sized([2, 2, 2], (13, 21), 2, 40).fill(&mut rng, true);
            let b = Backward::new(&mut rng, p);
            let mut desc = b.p.desc().param("ranks", 4).param("inner", inner);
            desc.mechanism = "lasp".into();
            let plan = Plan::new(&context, &desc).unwrap();
            let least = (0..5).map(|_| backward_once(&plan, &b)).min();
            assert_eq!(least, Some(0), "{} workers: {}", context.max_workers(), b.p);
        }
    }
}

/// Forms of attention whose gradients have buffers of their own.
#[test]
fn backward_of_forms_allocates_nothing() {
    let _turn = TURN.lock();
    let runners: [Arc<dyn Runner>; 2] = [Arc::new(Serial), Arc::new(ThreadPool::new(3).unwrap())];
    let attention = |h, hk, e| {
        [(Role::Q, vec![2, h, 40, 13]), (Role::K, vec![2, hk, 40, 13]), (Role::V, vec![2, hk, 40, e])]
    };
    let desc = |name, mode| (Desc::new(name).modes(mode).heads(4, 2, 2).dims(13, 21), attention(4, 2, 21));
    let with = |(desc, own): (Desc, [(Role, Vec<i64>); 3]), more: &[(Role, &[i64])]| {
        let more = more.iter().map(|(role, shape)| (*role, shape.to_vec()));
        (desc, own.into_iter().chain(more).collect::<Vec<_>>())
    };
    let lla = |solver: &str| {
        let (desc, own) = desc("lla", Mode::Causal);
        (desc.param("solver", solver), own)
    };
    let (dape, own) = desc("dape_v2", Mode::Causal);
    let dape = (dape.param("F", 5).param("K", 3), own);
    let segments = Desc::new("srformer").modes(Mode::Cross).heads(2, 2, 2).dims(13, 13).param("block", 7);
    let calls = [
        with(desc("dnas", Mode::Bidirectional), &[]),
        with(desc("dnas", Mode::Bidirectional), &[(Role::BLEND, &[4])]),
        with(lla("direct"), &[(Role::RIDGE, &[1])]),
        with(lla("cg"), &[(Role::RIDGE, &[2, 4, 40])]),
        with(
            dape,
            &[
                (Role::BIAS, &[1, 4, 40, 40]),
                (Role::W_CONV1, &[5, 8, 3]),
                (Role::B_CONV1, &[5]),
                (Role::W_CONV2, &[4, 5, 3]),
                (Role::B_CONV2, &[4]),
            ],
        ),
        with(desc("hard_retrieval", Mode::Causal), &[]),
        with(
            desc("fam_block", Mode::Causal),
            &[(Role::FAM_Q, &[2, 4, 5, 13]), (Role::FAM_K, &[2, 2, 5, 13]), (Role::FAM_V, &[2, 2, 5, 21])],
        ),
        with((segments, attention(2, 2, 13)), &[(Role::W_MEM, &[13, 13])]),
    ];
    for runner in runners {
        let context = Context::new(ContextOptions::new().runner(runner)).unwrap();
        for (desc, inputs) in &calls {
            let plan = Plan::new(&context, desc).unwrap();
            let mode = Mode::ALL.into_iter().find(|&mode| desc.modes.contains(mode)).unwrap();
            let size = |shape: &[i64]| shape.iter().product::<i64>() as usize;
            let (q, v) = (&inputs[0].1, &inputs[2].1);
            let (values, dout) = (vec![0.5f32; 8 * 40 * 40], [2, q[1], 40, v[3]]);
            let differentiable = |role: Role| plan.mechanism().role(role).unwrap().differentiable;
            let wanted = inputs.iter().filter(|(role, _)| differentiable(*role));
            let mut outputs: Vec<_> =
                wanted.map(|(role, shape)| (role.grad(), shape, vec![0f32; size(shape)])).collect();
            let mut memory = vec![0; plan.backward_workspace_size(2, 40, 45).unwrap()];
            let mut once = || {
                allocations(|| {
                    let mut args = Args::new();
                    let view = |shape: &[i64]| View::new(&values[..size(shape)], shape).unwrap();
                    args = args.input(Role::OUT.grad(), view(&dout));
                    for (role, shape) in inputs {
                        args = args.input(*role, view(shape));
                    }
                    for (role, shape, data) in &mut outputs {
                        args = args.output(*role, ViewMut::new(data, shape).unwrap());
                    }
                    plan.backward(mode, &args, &mut memory).unwrap();
                })
            };
            let least = (0..5).map(|_| once()).min();
            assert_eq!(least, Some(0), "{} workers: {desc:?}", context.max_workers());
        }
    }
}

/// Nor do other element types, with or without norms that wait for their rows.
#[test]
fn other_types_allocate_nothing() {
    let _turn = TURN.lock();
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    for (i, mechanism) in types::mechanisms().enumerate() {
        for (j, params) in problem::variants(mechanism).into_iter().enumerate() {
            for &mode in mechanism.modes {
                let t = if mode == Mode::Step { 1 } else { 70 };
                let p = Problem::new(mechanism, params.clone()).sized([2, 2, 2], (13, 21), 2, t);
                let p = Problem { mode, shift: true, ..p }.fill(&mut Rng::new(1), true);
                let types = TYPES[(i + j) % TYPES.len()];
                let plan = types.plan(&context, &p);
                let stored = |(&role, array): (&Role, &Array)| {
                    (role, Stored::new(types::contiguous(array), types.of(role)))
                };
                let inputs: Vec<_> = p.inputs.iter().map(stored).collect();
                let mut outputs: Vec<_> = p.outputs().iter().map(stored).collect();
                let mut memory = problem::workspace(&plan);
                let mut call = || {
                    let mut args = Args::new();
                    for (role, tensor) in &inputs {
                        args = args.input(*role, tensor.view());
                    }
                    for (role, tensor) in &mut outputs {
                        args = args.output(*role, tensor.view_mut());
                    }
                    plan.execute(p.mode, &args, &mut memory).unwrap();
                };
                let least = (0..5).map(|_| allocations(&mut call)).min();
                assert_eq!(least, Some(0), "{types:?}, {p}");
            }
        }
    }
}

/// Nor do packed sequences and pools.
#[test]
fn ragged_calls_allocate_nothing() {
    let _turn = TURN.lock();
    let mut p = Problem::named("gated_delta_rule").sized([2, 2, 4], (16, 16), 1, 40);
    p = p.fill(&mut Rng::new(1), false);
    p.inputs.retain(|role, _| *role != Role::STATE_IN);
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(2).unwrap()))).unwrap();
    let plan = p.plan(&context);
    p.indices.push((Role::CU_SEQLENS, vec![0, 40]));
    p.indices.push((Role::STATE_INDEX, vec![0]));
    assert_eq!(run(&plan, &p), 0);
}

/// Nor do snapshots.
#[test]
fn snapshots_allocate_nothing() {
    let _turn = TURN.lock();
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    for mechanism in mechanisms().into_iter().filter(|m| m.modes.contains(&Mode::Causal)) {
        let p =
            Problem::new(mechanism, vec![]).sized([2, 2, 2], (13, 21), 2, 40).fill(&mut Rng::new(1), true);
        if p.roles(RoleKind::StateOut).next().is_none() {
            continue;
        }
        let (plan, at) = (p.plan(&context), [0, 3, 16, -1, 7, 40]);
        let (mut outputs, mut memory) = (p.outputs(), problem::workspace(&plan));
        for role in p.roles(RoleKind::StateOut) {
            let shape = [&[2, 3], &p.shape(role)[1..]].concat();
            outputs.insert(role.snapshots(), Array::filled(&shape, 0.0));
        }
        let mut call = || {
            let mut args = Args::new().input(Role::SNAPSHOT_AT, View::new(&at, &[2, 3]).unwrap());
            for (&role, array) in &p.inputs {
                args = args.input(role, View::new(&array.data, &array.shape).unwrap());
            }
            for (&role, array) in &mut outputs {
                args = args.output(role, ViewMut::new(&mut array.data, &array.shape).unwrap());
            }
            plan.execute(p.mode, &args, &mut memory).unwrap();
        };
        let least = (0..5).map(|_| allocations(&mut call)).min();
        assert_eq!(least, Some(0), "{p}");
    }
}

/// Nor do caches in pages and in rings.
#[test]
fn caches_allocate_nothing() {
    let _turn = TURN.lock();
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    for name in ["softmax", "fox", "bswa", "diff", "parallax"] {
        let p = Problem::named(name).sized([4, 2, 2], (13, 21), 2, 1);
        let mut p = Problem { mode: Mode::Step, s: 5 * 16, ..p }.fill(&mut Rng::new(1), false);
        let plan = p.plan(&context);
        p.indices = vec![(Role::KEY_LEN, vec![33, 80]), (Role::KEY_START, vec![70, 0])];
        assert_eq!(run(&plan, &p), 0, "{p}");
        let table = [2, 4, 0, -1, -1, 0, 1, 2, 3, 4];
        for role in [Role::K, Role::V] {
            let array = p.inputs.get_mut(&role).unwrap();
            (array.shape[0], array.shape[2]) = (5, 16);
            array.data.truncate(array.shape.iter().product::<i64>() as usize);
        }
        let (mut outputs, mut memory) = (p.outputs(), problem::workspace(&plan));
        let mut call = || {
            let mut args = Args::new().input(Role::PAGE_TABLE, View::new(&table, &[2, 5]).unwrap());
            args = args.input(Role::KEY_LEN, View::new(&[33, 80], &[2]).unwrap());
            for (&role, array) in &p.inputs {
                args = args.input(role, View::new(&array.data, &array.shape).unwrap());
            }
            for (&role, array) in &mut outputs {
                args = args.output(role, ViewMut::new(&mut array.data, &array.shape).unwrap());
            }
            plan.execute(p.mode, &args, &mut memory).unwrap();
        };
        let least = (0..5).map(|_| allocations(&mut call)).min();
        assert_eq!(least, Some(0), "{p}");
    }
}

/// Nor do queries of a sequence in pieces: inside a segment, and into one, with and without the products of all keys.
#[test]
fn pieces_allocate_nothing() {
    let _turn = TURN.lock();
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    let desc = Desc::new("srformer").modes(Mode::Step).heads(2, 2, 2).dims(13, 13).param("block", 7);
    let plan = Plan::new(&context, &desc.param("gen_len", 20)).unwrap();
    let values = [0.5f32; 2 * 2 * 40 * 13];
    let (row, matrix, keys) = ([2, 2, 1, 13], [2, 2, 13, 13], [2, 2, 40, 13]);
    let (mut out, mut memory) = (Array::filled(&row, 0.0), problem::workspace(&plan));
    let mut state = [(); 3].map(|()| Array::filled(&matrix, 0.5));
    let mut z = Array::filled(&[2, 2, 13], 0.5);
    for (starts, total) in [([1, 2], true), ([1, 4], true), ([1, 4], false)] {
        let mut call = || {
            let view =
                |shape: &[i64]| View::new(&values[..shape.iter().product::<i64>() as usize], shape).unwrap();
            let mut args = Args::new().input(Role::Q, view(&row)).input(Role::K, view(&keys));
            args = args.input(Role::V, view(&keys)).input(Role::W_MEM, view(&[13, 13]));
            args = args.input(Role::QUERY_START, View::new(&starts, &[2]).unwrap());
            args = args.output(Role::OUT, ViewMut::new(&mut out.data, &row).unwrap());
            let [membrane, read, all] = &mut state;
            let view = |own| ViewMut::new(own, &matrix).unwrap();
            args = args.in_place(Role::STATE_IN, Role::STATE_OUT, view(&mut membrane.data));
            args = args.in_place(Role::MEMORY_IN, Role::MEMORY_OUT, view(&mut read.data));
            if total {
                args = args.in_place(Role::TOTAL_IN, Role::TOTAL_OUT, view(&mut all.data));
                args =
                    args.in_place(Role::Z_IN, Role::Z_OUT, ViewMut::new(&mut z.data, &[2, 2, 13]).unwrap());
            }
            plan.execute(Mode::Step, &args, &mut memory).unwrap();
        };
        let least = (0..5).map(|_| allocations(&mut call)).min();
        assert_eq!(least, Some(0), "{starts:?}");
    }
}

/// Nor do corrections of outputs.
#[test]
fn corrections_allocate_nothing() {
    let _turn = TURN.lock();
    let context = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    for name in ["gla", "gated_delta_rule"] {
        let p = Problem::named(name).sized([2, 2, 2], (13, 21), 2, 40).fill(&mut Rng::new(1), true);
        let plan = p.plan(&context);
        let mut memory = vec![0; plan.segment_workspace_size().unwrap()];
        let mut out = Array::filled(&p.shape(Role::OUT), 0.0);
        let mut call = || {
            let mut args = Args::new();
            for (&role, array) in p.inputs.iter().filter(|(role, _)| ![Role::V, Role::GV].contains(role)) {
                args = args.input(role, View::new(&array.data, &array.shape).unwrap());
            }
            args = args.output(Role::OUT, ViewMut::new(&mut out.data, &out.shape).unwrap());
            plan.correct(&args, &mut memory).unwrap();
        };
        let least = (0..5).map(|_| allocations(&mut call)).min();
        assert_eq!(least, Some(0), "{p}");
    }
}

/// Errors of tensors carry their data, not text: finding them allocates nothing either.
#[test]
fn refusing_allocates_nothing() {
    let _turn = TURN.lock();
    let p = Problem::named("gla").fill(&mut Rng::new(1), true);
    let plan = p.plan(&problem::context());
    let (mut memory, data) = (problem::workspace(&plan), vec![0f32; 10_000]);
    let mut refuse = || {
        let mut found = 0;
        let view = |shape: &[i64]| View::new(&data, shape).unwrap();
        for args in [
            Args::new(),
            Args::new().input(Role::Q, view(&[1, 2, 3])),
            Args::new().input(Role::DT, view(&[1])),
            Args::new().input(Role::Q, view(&[1, 2, 3, 4])).input(Role::Q, view(&[1, 2, 3, 4])),
        ] {
            found += usize::from(plan.execute(p.mode, &args, &mut memory).is_err());
        }
        assert_eq!(found, 4);
    };
    let least = (0..5).map(|_| allocations(&mut refuse)).min();
    assert_eq!(least, Some(0));
}

/// The plan knows nothing of lengths, so its workspace cannot depend on them: the same one serves every call, and
/// it grows with the workers and nothing else.
#[test]
fn workspace_serves_every_length() {
    let _turn = TURN.lock();
    let pool = |n| Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()))).unwrap();
    let (one, four) = (pool(1), pool(4));
    for mechanism in mechanisms() {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (13, 21), 1, 1);
        let plan = p.plan(&problem::context());
        let size = plan.workspace_size();
        assert_eq!(size, plan.info().workspace_bytes);
        assert!(size < 1 << 20, "{size} bytes for a small problem");
        for (b, t) in [(1, 1), (1, 1000), (50, 3)] {
            let p = p.clone().sized(p.heads, (p.d, p.e), b, t).fill(&mut Rng::new(1), true);
            // Bytes beyond the size it asks for are not touched, nor are those before.
            let mut memory = vec![0xa5; size + 256];
            let mut outputs = p.outputs();
            let mut args = Args::new();
            for (&role, array) in &p.inputs {
                args = args.input(role, View::new(&array.data, &array.shape).unwrap());
            }
            for (&role, array) in &mut outputs {
                args = args.output(role, ViewMut::new(&mut array.data, &array.shape).unwrap());
            }
            plan.execute(p.mode, &args, &mut memory[128..128 + size]).unwrap();
            let around = memory[..128].iter().chain(&memory[128 + size..]);
            assert!(around.into_iter().all(|&byte| byte == 0xa5), "beyond the workspace: {p}");
        }
        let (single, several) = (p.plan(&one).workspace_size(), p.plan(&four).workspace_size());
        assert!(
            single < several && several <= 4 * single,
            "{single} bytes for one worker, {several} for four"
        );
    }
}
