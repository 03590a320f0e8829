//! Caches in pages (`page_table`) and in rings (`key_start`): the bits of a cache whose keys lie one after the other, and
//! nothing else is read.

mod refused;

use crate::common::golden::Array;
use crate::common::problem::{
    self, Problem, Strided, Tensors, assert_same_bits, context, context_of, index_of,
};
use crate::common::refusal::{CANARY, Call, expect};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, TYPES, Types, contiguous};
use std::sync::Arc;
use subquad::{Args, Context, ContextOptions, Mode, Plan, Role, Status, ThreadPool, View, ViewMut, catalog};

const MECHANISMS: [&str; 9] =
    ["softmax", "focal", "fox", "bswa", "diff", "integral", "parallax", "hard_retrieval", "lla"];

/// A tensor of integers.
type Table = (Role, Vec<i32>, Vec<i64>);

/// A cache, as its user keeps it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Pages(usize),
    Ring,
}

/// Sequences of lengths of their own, and the cache that holds them.
struct Case {
    /// Keys beyond a sequence's length are there, and count for nothing.
    p: Problem,
    lengths: Vec<usize>,
    types: Types,
    /// The same call with a cache: its tensors, and what says where keys lie.
    cached: Problem,
    tables: Vec<Table>,
}

/// Outputs, and the integers of `index`.
fn run(case: &Case, plan: &Plan, p: &Problem, rng: &mut Option<&mut Rng>, tables: &[Table]) -> Tensors {
    let mut outputs = p.outputs();
    let index = outputs.remove(&Role::INDEX);
    let mut integers = index.as_ref().map(|array| vec![i32::MIN; array.data.len()]);
    let mut arrange = |array: &Array| match rng {
        Some(rng) => Strided::random(rng, array),
        None => contiguous(array),
    };
    let mut store = |(&role, array): (&Role, &Array)| {
        (role, crate::common::types::Stored::new(arrange(array), case.types.of(role)))
    };
    let inputs: Vec<_> = p.inputs.iter().map(&mut store).collect();
    let mut stored: Vec<_> = outputs.iter().map(&mut store).collect();
    let mut args = Args::new();
    for (role, tensor) in &inputs {
        args = args.input(*role, tensor.view());
    }
    for (role, values, shape) in tables {
        args = args.input(*role, View::new(values, shape).unwrap());
    }
    for (role, tensor) in &mut stored {
        args = args.output(*role, tensor.view_mut());
    }
    if let (Some(integers), Some(index)) = (&mut integers, &index) {
        args = args.output(Role::INDEX, ViewMut::new(integers, &index.shape).unwrap());
    }
    let mut memory = problem::workspace(plan);
    plan.execute(p.mode, &args, &mut memory).unwrap_or_else(|error| panic!("{p}: {error}"));
    let mut outputs: Tensors = stored.iter_mut().map(|(role, tensor)| (*role, tensor.read())).collect();
    if let (Some(integers), Some(index)) = (integers, index) {
        let data = integers.into_iter().map(|i| i as f32).collect();
        outputs.insert(Role::INDEX, Array { data, ..index });
    }
    outputs
}

/// Elements of a tensor set by their indices.
fn made(shape: &[usize], f: impl Fn(&[usize]) -> f32) -> Array {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    let n = shape.iter().product::<i64>() as usize;
    Array { data: (0..n).map(|i| f(&index_of(i, &shape))).collect(), shape }
}

fn element(array: &Array, index: &[usize]) -> f32 {
    let at = index.iter().zip(&array.shape).fold(0, |at, (&i, &n)| at * n as usize + i);
    array.data[at]
}

impl Case {
    /// A problem of this mechanism and these lengths; some of its parameters and optional tensors are there.
    fn new(rng: &mut Rng, name: &str, mode: Mode, t: usize, lengths: Vec<usize>) -> Case {
        let mechanism = catalog::find(name).unwrap();
        let params = match name {
            "lla" => vec![("ridge", 0.3.into()), ("solver", rng.pick(&["cg", "direct"]).into())],
            "hard_retrieval" => vec![("smoothing", rng.pick(&[0.0, 0.3]).into())],
            "fox" if rng.one_in(2) => vec![("prune_log_tol", (-3.0).into())],
            _ => problem::random_params(rng, mechanism),
        };
        let mut p = Problem::new(mechanism, params);
        if p.windowed() {
            p = p.param("window_left", rng.pick(&[0, 3, 70]));
        }
        let heads = rng.pick(&[[1, 1, 1], [2, 2, 2], [4, 2, 2], [6, 2, 2], [8, 1, 1]]);
        let dims = rng.pick(&[(24, 20), (13, 21), (16, 32), (64, 48), (33, 16)]);
        p = p.sized(heads, dims, lengths.len() as i64, t as i64);
        (p.mode, p.s) = (mode, lengths.iter().copied().max().unwrap().max(t).max(1) as i64);
        for role in [Role::Q, Role::K, Role::V] {
            let values = p.values(rng, role);
            p.inputs.insert(role, values);
        }
        if name != "lla" {
            p = p.fill(rng, false);
        }
        let types = if rng.one_in(3) { rng.pick(&TYPES) } else { PLAIN };
        let p = types.round(&p);
        Case { cached: p.clone(), p, lengths, types, tables: vec![] }
    }

    /// Keys of all heads beyond the lengths, or that no sequence has, are no numbers.
    fn place(&mut self, rows: usize, place: impl Fn(Role, &Array) -> Array) {
        for role in [Role::K, Role::V] {
            let array = place(role, &self.p.inputs[&role]);
            self.cached.inputs.insert(role, array);
        }
        // What else is given for every key goes by its number.
        for (&role, array) in &mut self.cached.inputs {
            let Some(axis) = self.p.axis(role, "S").filter(|_| ![Role::K, Role::V].contains(&role)) else {
                continue;
            };
            let mut shape: Vec<usize> = array.shape.iter().map(|&n| n as usize).collect();
            let own = std::mem::replace(&mut shape[axis], rows);
            let old = array.clone();
            *array = made(&shape, |i| if i[axis] < own { element(&old, i) } else { f32::NAN });
        }
        let lengths = self.lengths.iter().map(|&n| n as i32).collect();
        self.tables.push((Role::KEY_LEN, lengths, vec![self.lengths.len() as i64]));
    }

    /// Pages anywhere in a pool; of equal beginnings, the first two sequences share what they can.
    fn in_pages(mut self, rng: &mut Rng, page: usize, shared: usize) -> Case {
        let b = self.lengths.len();
        let common = if b < 2 { 0 } else { shared.min(self.lengths[0]).min(self.lengths[1]) };
        for role in [Role::K, Role::V] {
            let array = self.p.inputs.get_mut(&role).unwrap();
            let old = array.clone();
            let shape: Vec<usize> = old.shape.iter().map(|&n| n as usize).collect();
            *array = made(&shape, |i| {
                let entry = if i[0] == 1 && i[2] < common { 0 } else { i[0] };
                element(&old, &[entry, i[1], i[2], i[3]])
            });
        }
        let needed = |i: usize| self.lengths[i].div_ceil(page);
        let n = (0..b).map(needed).max().unwrap() + rng.below(3);
        let pool = (0..b).map(needed).sum::<usize>() + rng.below(4);
        let mut free: Vec<usize> = (0..pool).collect();
        for i in (1..pool).rev() {
            free.swap(i, rng.below(i + 1));
        }
        let mut table = vec![-1; b * n];
        let mut owner = vec![None; pool];
        for i in 0..b {
            for j in 0..needed(i) {
                let same = i == 1 && (j + 1) * page <= common;
                table[i * n + j] = if same { table[j] } else { free.pop().unwrap() as i32 };
                owner[table[i * n + j] as usize].get_or_insert((i, j));
            }
            // What is not needed may be anything.
            table[i * n + needed(i)..(i + 1) * n].fill(rng.pick(&[-1, i32::MAX, i32::MIN]));
        }
        let lengths = self.lengths.clone();
        self.place(n * page, |_, from| {
            let [_, heads, _, channels] = [0, 1, 2, 3].map(|axis| from.shape[axis] as usize);
            made(&[pool, heads, page, channels], |i| match owner[i[0]] {
                Some((b, j)) if j * page + i[2] < lengths[b] => {
                    element(from, &[b, i[1], j * page + i[2], i[3]])
                }
                _ => f32::NAN,
            })
        });
        self.tables.push((Role::PAGE_TABLE, table, vec![b as i64, n as i64]));
        self
    }

    /// Rings of so many rows that begin anywhere.
    fn in_rings(mut self, starts: &[usize], rows: usize) -> Case {
        let lengths = self.lengths.clone();
        self.place(rows, |_, from| {
            let [b, heads, _, channels] = [0, 1, 2, 3].map(|axis| from.shape[axis] as usize);
            made(&[b, heads, rows, channels], |i| {
                let key = (i[2] + rows - starts[i[0]]) % rows;
                if key < lengths[i[0]] { element(from, &[i[0], i[1], key, i[3]]) } else { f32::NAN }
            })
        });
        let starts = starts.iter().map(|&start| start as i32).collect();
        self.tables.push((Role::KEY_START, starts, vec![lengths.len() as i64]));
        if lengths.iter().all(|&n| n == rows) {
            // As many keys as rows are what there is without a length.
            self.tables.retain(|(role, ..)| *role != Role::KEY_LEN);
        }
        self
    }

    /// Pages or rings, whatever the kind is.
    fn cached(self, rng: &mut Rng, kind: Kind) -> Case {
        let most = *self.lengths.iter().max().unwrap();
        match kind {
            Kind::Pages(page) => {
                let shared = rng.below(most + 1);
                self.in_pages(rng, page, shared)
            }
            Kind::Ring => {
                let rows = (most + rng.below(3) * rng.below(40)).max(1);
                let starts: Vec<usize> = self.lengths.iter().map(|_| rng.below(rows)).collect();
                self.in_rings(&starts, rows)
            }
        }
    }

    /// What each sequence alone gives, its keys one after the other and no others.
    fn expected(&self, plan: &Plan) -> Tensors {
        let parts: Vec<Tensors> = (0..self.lengths.len())
            .map(|i| {
                // A sequence without keys has one, which does not count.
                let n = self.lengths[i] as i64;
                let p = self.p.batch(&[i]).tokens(0..self.p.t, 0..n.max(1));
                run(self, plan, &p, &mut None, &[(Role::KEY_LEN, vec![n as i32], vec![1])])
            })
            .collect();
        let join = |role: Role| {
            let all: Vec<Array> = parts.iter().map(|part| part[&role].clone()).collect();
            (role, Array::join(0, &all))
        };
        parts[0].keys().map(|&role| join(role)).collect()
    }

    fn check(&self, context: &Context, rng: &mut Option<&mut Rng>, what: &str) {
        let plan = self.types.plan(context, &self.p);
        let want = self.expected(&plan);
        let got = run(self, &plan, &self.cached, rng, &self.tables);
        let what = || format!("{what}, lengths {:?}, {:?}: {}", self.lengths, self.types, self.p);
        assert!(want[&Role::OUT].data.iter().all(|x| x.is_finite()), "{}", what());
        assert_same_bits(&got, &want, what);
    }
}

fn times(n: usize) -> usize {
    (n * problem::percent()).div_ceil(100)
}

/// Some lengths of at least `least` keys.
fn lengths(rng: &mut Rng, least: usize, most: usize) -> Vec<usize> {
    let n = 1 + rng.below(4);
    let mut one = || {
        let any = least + rng.below(most - least + 1);
        rng.pick(&[least, any, most])
    };
    (0..n).map(|_| one()).collect()
}

const KINDS: [Kind; 7] = [
    Kind::Pages(1),
    Kind::Pages(3),
    Kind::Pages(16),
    Kind::Pages(64),
    Kind::Pages(100),
    Kind::Pages(128),
    Kind::Ring,
];

#[test]
fn steps() {
    let isas = problem::isas();
    for name in MECHANISMS {
        for number in 0..times(12) {
            for kind in KINDS {
                let mut rng = Rng::new(seed() ^ (number as u64) << 32);
                let most = rng.pick(&[5, 63, 130, 300]);
                let lengths = lengths(&mut rng, 0, most);
                let case = Case::new(&mut rng, name, Mode::Step, 1, lengths).cached(&mut rng, kind);
                for &isa in &isas {
                    let arranged = rng.one_in(2);
                    let mut arranged = arranged.then_some(&mut rng);
                    case.check(&context_of(isa), &mut arranged, &format!("{kind:?} on {isa}"));
                }
            }
        }
    }
}

/// Pieces of a prefill, their queries the last of the keys.
#[test]
fn pieces() {
    let isas = problem::isas();
    for name in MECHANISMS {
        for number in 0..times(6) {
            for kind in KINDS {
                let mut rng = Rng::new(seed() ^ (number as u64) << 33);
                let t = rng.pick(&[1, 3, 9, 20, 70]);
                let lengths = lengths(&mut rng, t, t + 150);
                let case = Case::new(&mut rng, name, Mode::Causal, t, lengths).cached(&mut rng, kind);
                for &isa in &isas {
                    let arranged = rng.one_in(2);
                    let mut arranged = arranged.then_some(&mut rng);
                    case.check(&context_of(isa), &mut arranged, &format!("{kind:?} on {isa}"));
                }
            }
        }
    }
}

/// Caches long enough for several runs of keys, whatever the number of threads.
#[test]
fn long_caches() {
    let workers =
        |n| Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()))).unwrap();
    let contexts = [1, 2, 3].map(workers);
    for name in MECHANISMS.into_iter().filter(|&name| name != "lla") {
        for kind in [Kind::Pages(16), Kind::Pages(100), Kind::Pages(256), Kind::Ring] {
            let mut rng = Rng::new(seed());
            let case = Case::new(&mut rng, name, Mode::Step, 1, vec![2500, 1025, 3000]);
            let case = case.cached(&mut rng, kind);
            for context in &contexts {
                case.check(context, &mut None, &format!("{kind:?}, {} workers", context.max_workers()));
            }
        }
    }
}

/// Every place where a ring may begin, full and not.
#[test]
fn every_start() {
    for name in ["softmax", "fox"] {
        for (rows, n) in [(1, 1), (7, 7), (70, 70), (130, 99)] {
            for start in 0..rows {
                let mut rng = Rng::new(seed() ^ rows as u64);
                let case = Case::new(&mut rng, name, Mode::Step, 1, vec![n, n]);
                let case = case.in_rings(&[start, (start + 1) % rows], rows);
                case.check(&context(), &mut None, &format!("a ring of {rows} from {start}"));
            }
        }
    }
}

/// A window over a ring of one row more: tokens overwrite the oldest, and each sees what it does in a cache of all.
#[test]
fn a_window_over_a_ring() {
    let (window, total) = (9, 40);
    let rows = window + 1;
    let mut rng = Rng::new(seed());
    let mut p = Problem::named("softmax").param("window_left", window as i64);
    p = p.sized([4, 2, 2], (24, 20), 1, total as i64);
    for role in [Role::Q, Role::K, Role::V, Role::ALIBI_SLOPES] {
        let values = p.values(&mut rng, role);
        p.inputs.insert(role, values);
    }
    let whole = p.run(&context());
    let mut step = p.tokens(0..1, 0..rows as i64);
    step.mode = Mode::Step;
    let plan = step.plan(&context());
    for t in 0..total {
        step.inputs.insert(Role::Q, p.inputs[&Role::Q].pick(2, [t]));
        let row = t % rows;
        for role in [Role::K, Role::V] {
            let (new, ring) = (&p.inputs[&role], step.inputs.get_mut(&role).unwrap());
            let shape: Vec<usize> = ring.shape.iter().map(|&n| n as usize).collect();
            let old = ring.clone();
            *ring =
                made(
                    &shape,
                    |i| {
                        if i[2] == row { element(new, &[0, i[1], t, i[3]]) } else { element(&old, i) }
                    },
                );
        }
        let n = (t + 1).min(rows);
        let start = if n < rows { 0 } else { (row + 1) % rows };
        step.indices = vec![(Role::KEY_LEN, vec![n as i32]), (Role::KEY_START, vec![start as i32])];
        let got = step.run_plan(&plan);
        let want = whole[&Role::OUT].pick(2, [t]);
        for (g, w) in got[&Role::OUT].data.iter().zip(&want.data) {
            assert!((g - w).abs() <= 1e-5, "{g} for {w} at token {t}");
        }
    }
}

/// Values that are not finite reach those that see them, wherever they lie.
#[test]
fn what_is_not_finite() {
    for kind in [Kind::Pages(16), Kind::Pages(64), Kind::Ring] {
        let mut rng = Rng::new(seed());
        let mut case = Case::new(&mut rng, "softmax", Mode::Causal, 20, vec![90, 75]);
        case.types = PLAIN;
        let v = case.p.inputs.get_mut(&Role::V).unwrap();
        let shape = v.shape.clone();
        for (i, x) in v.data.iter_mut().enumerate() {
            if index_of(i, &shape)[2] == 66 {
                *x = f32::INFINITY;
            }
        }
        case.p.params.clear();
        case.cached.params.clear();
        let case = case.cached(&mut rng, kind);
        let plan = case.p.plan(&context());
        let want = case.expected(&plan);
        let out = &want[&Role::OUT].data;
        assert!(out.iter().any(|x| x.is_finite()) && out.contains(&f32::INFINITY));
        assert_same_bits(&run(&case, &plan, &case.cached, &mut None, &case.tables), &want, || {
            format!("{kind:?}: {}", case.p)
        });
    }
}
