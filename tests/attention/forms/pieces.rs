//! Queries of a sequence in pieces (`docs/spec/softmax.md` 6): the bits of the call with all of them.

use super::case::Case;
use super::cases;
use crate::common::golden::Array;
use crate::common::problem::{Strided, isas};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, Stored, TYPES, Types, rounded};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use subquad::{Args, Context, ContextOptions, DType, Mode, Plan, Role, ThreadPool, View};

/// Parts of the state.
const PARTS: [(Role, Role); 4] = [
    (Role::STATE_IN, Role::STATE_OUT),
    (Role::MEMORY_IN, Role::MEMORY_OUT),
    (Role::TOTAL_IN, Role::TOTAL_OUT),
    (Role::Z_IN, Role::Z_OUT),
];

/// How the calls of a case are made.
#[derive(Clone, Copy, Debug)]
struct Manner {
    mode: Mode,
    /// The products of all keys are carried: never, now and then, always.
    total: usize,
    in_place: bool,
    /// States lie in slots of a pool.
    pooled: bool,
    /// States are rounded by the test, in place of the library.
    round: Option<Types>,
}

impl Manner {
    fn random(rng: &mut Rng) -> Manner {
        let (mode, total) = (rng.pick(&[Mode::Step, Mode::Cross]), rng.below(3));
        Manner { mode, total, in_place: rng.one_in(2), pooled: rng.one_in(2), round: None }
    }
}

/// A random case whose queries may come in pieces.
fn random(rng: &mut Rng) -> Case {
    let mut case = Case::random(rng, "srformer");
    if case.real("gen_len").is_none() {
        let longest = case.lengths.iter().map(|length| length.0).max().unwrap().max(1) as i64;
        case.params.push(("gen_len", rng.pick(&[longest, longest, 3, 33]).into()));
    }
    case.carry_all();
    case
}

/// A part of the state of every sequence, each alone in a batch, and the sequences that have it.
type State = BTreeMap<Role, Vec<Option<Array>>>;

/// The sequences of a case on their way.
struct Pieces<'a> {
    case: &'a Case,
    manner: Manner,
    types: Types,
    plan: Plan,
    done: Vec<usize>,
    state: State,
}

/// A sequence in a call: which one, unless it is skipped and only looks like it; its first query, and how many.
#[derive(Clone, Copy)]
struct Taken {
    like: usize,
    skipped: bool,
    first: usize,
    n: usize,
}

impl Taken {
    fn sequence(&self) -> Option<usize> {
        (!self.skipped).then_some(self.like)
    }
}

/// A part of the state in a call.
struct Part {
    role: Role,
    role_out: Role,
    from: Option<Stored>,
    /// `None`: not wanted, or in place.
    to: Option<Stored>,
    in_place: bool,
    before: Array,
}

/// Rows of `out`, and parts of the state, of a sequence after a call.
struct Result {
    sequence: usize,
    rows: Array,
    state: Vec<(Role, Option<Array>)>,
}

impl Pieces<'_> {
    fn new<'a>(case: &'a Case, manner: Manner, context: &Context, types: Types) -> Pieces<'a> {
        let plan = Plan::new(context, &case.desc(types).modes(manner.mode)).unwrap();
        let n = case.lengths.len();
        let state = PARTS.into_iter().map(|(role, _)| (role, vec![None; n])).collect();
        Pieces { case, manner, types, plan, done: vec![0; n], state }
    }

    /// Sequences of the next call, with queries that each still has; whether they are packed.
    fn choose(&self, rng: &mut Rng) -> (Vec<Taken>, bool) {
        let left = |i: usize| self.case.lengths[i].0 - self.done[i];
        let mut chosen: Vec<usize> = (0..self.done.len()).filter(|&i| left(i) > 0).collect();
        let one = rng.pick(&chosen);
        chosen.retain(|&i| i == one || rng.one_in(2));
        let ragged = self.manner.mode == Mode::Cross && rng.one_in(2);
        if !ragged {
            chosen.retain(|&i| self.case.lengths[i].1 == self.case.lengths[one].1);
        }
        let least = chosen.iter().map(|&i| left(i)).min().unwrap();
        let same = match self.manner.mode {
            Mode::Step => 1,
            _ if rng.one_in(3) => least,
            _ => 1 + rng.below(least),
        };
        let n = |rng: &mut Rng, i| if ragged { rng.below(left(i) + 1) } else { same };
        let take = |rng: &mut Rng, i| Taken { like: i, skipped: false, first: self.done[i], n: n(rng, i) };
        let mut taken: Vec<Taken> = chosen.iter().map(|&i| take(rng, i)).collect();
        if self.manner.pooled && rng.one_in(2) {
            let skipped = Taken { like: one, skipped: true, first: 0, n: same };
            taken.insert(rng.below(taken.len() + 1), skipped);
        }
        (taken, ragged)
    }

    /// Rows of a sequence.
    fn rows(&self, role: Role, sequence: usize, range: Range<usize>) -> Array {
        let (batch, q0, k0) = self.case.start(sequence);
        let first = if role == Role::Q { q0 } else { k0 };
        self.case.inputs[&role].pick(0, [batch]).pick(2, first + range.start..first + range.end)
    }

    /// Queries, keys, values and weights of a call.
    fn inputs(&self, taken: &[Taken], ragged: bool) -> [(Role, Array); 4] {
        let rows = |role| {
            let of = |own: &Taken| match role {
                Role::Q => self.rows(role, own.like, own.first..own.first + own.n),
                _ => self.rows(role, own.like, 0..self.case.lengths[own.like].1),
            };
            (role, Array::join(if ragged { 2 } else { 0 }, &taken.iter().map(of).collect::<Vec<_>>()))
        };
        let weights = self.case.inputs[&Role::W_MEM].clone();
        [rows(Role::Q), rows(Role::K), rows(Role::V), (Role::W_MEM, weights)]
    }

    /// Where queries stand, where sequences lie, slots of their states.
    fn indices(&self, taken: &[Taken], ragged: bool, slots: &[i32]) -> Vec<(Role, Vec<i32>)> {
        let offsets = |n: &dyn Fn(&Taken) -> usize| {
            let mut ends = vec![0i32];
            taken.iter().for_each(|own| ends.push(ends.last().unwrap() + n(own) as i32));
            ends
        };
        let mut all = vec![(Role::QUERY_START, taken.iter().map(|own| own.first as i32).collect())];
        if ragged {
            all.push((Role::CU_SEQLENS, offsets(&|own| own.n)));
            all.push((Role::CU_SEQLENS_K, offsets(&|own| self.case.lengths[own.like].1)));
        }
        if self.manner.pooled {
            all.push((Role::STATE_INDEX, slots.to_vec()));
        }
        all
    }

    /// What is bound of a part of the state: NaN where no sequence has left anything.
    fn slots(&self, role: Role, taken: &[Taken], slots: &[i32], n_slots: usize) -> Array {
        let (h, d) = (self.case.heads.0 as i64, self.case.d as i64);
        let shape = if role == Role::Z_IN { vec![1, h, d] } else { vec![1, h, d, d] };
        let mut all = vec![Array::filled(&shape, f32::NAN); n_slots];
        for (own, &slot) in taken.iter().zip(slots) {
            if let Some(state) = own.sequence().and_then(|i| self.state[&role][i].clone()) {
                all[slot as usize] = state;
            }
        }
        Array::join(0, &all)
    }

    /// The parts of the state of a call: what there is to read, and what is not of all keys or wanted now, is bound.
    fn parts(&self, rng: &mut Rng, taken: &[Taken], slots: &[i32], n_slots: usize) -> Vec<Part> {
        let sequences = || taken.iter().filter(|own| !own.skipped);
        let begun = || sequences().filter(|own| own.first > 0);
        let has_total = begun().all(|own| self.state[&Role::TOTAL_IN][own.like].is_some());
        let reads = begun().count() > 0 || rng.one_in(2);
        let with_total = self.manner.total > rng.below(2);
        let mut parts = Vec::new();
        for (role, role_out) in PARTS {
            if role == Role::Z_IN && self.case.word("normalize") == Some("none") {
                continue;
            }
            let of_keys = [Role::TOTAL_IN, Role::Z_IN].contains(&role);
            let (read, write) = (reads && (!of_keys || has_total), !of_keys || with_total);
            let (in_place, before) =
                (self.manner.in_place && read && write, self.slots(role, taken, slots, n_slots));
            let mut stored = |data: &Array| Stored::new(Strided::random(rng, data), self.types.of(role));
            let from = read.then(|| stored(&before));
            let to = (write && !in_place).then(|| stored(&Array::filled(&before.shape, f32::NAN)));
            parts.push(Part { role, role_out, from, to, in_place, before });
        }
        parts
    }

    /// One call.
    fn call(&self, rng: &mut Rng) -> Vec<Result> {
        let ((taken, ragged), manner) = (self.choose(rng), self.manner);
        let first = rng.below(3) as i32;
        let n_slots = taken.len() + if manner.pooled { 2 } else { 0 };
        let slot = |(i, own): (usize, &Taken)| match manner.pooled {
            true if own.skipped => -1,
            true => first + i as i32,
            false => i as i32,
        };
        let slots: Vec<i32> = taken.iter().enumerate().map(slot).collect();
        let (inputs, indices) = (self.inputs(&taken, ragged), self.indices(&taken, ragged, &slots));
        let mut parts = self.parts(rng, &taken, &slots, n_slots);
        let mut out = Array::filled(&inputs[0].1.shape, f32::NAN);
        let mut stored = |role, array: &Array| Stored::new(Strided::random(rng, array), self.types.of(role));
        let inputs = inputs.map(|(role, array)| (role, stored(role, &array)));
        let mut to_out = stored(Role::OUT, &out);
        let mut args = Args::new().output(Role::OUT, to_out.view_mut());
        for (role, tensor) in &inputs {
            args = args.input(*role, tensor.view());
        }
        for (role, values) in &indices {
            args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
        }
        for part in &mut parts {
            if let Some(own) = &mut part.from {
                args = match part.in_place {
                    true => args.in_place(part.role, part.role_out, own.view_mut()),
                    false => args.input(part.role, own.view()),
                };
            }
            if let Some(to) = &mut part.to {
                args = args.output(part.role_out, to.view_mut());
            }
        }
        let result = self.plan.execute(manner.mode, &args, &mut vec![0xff; self.plan.workspace_size()]);
        result.unwrap_or_else(|error| panic!("{error}: {manner:?} {indices:?} {:?}", self.case));
        out = to_out.read();
        let rows = |entry: usize| {
            let at = taken[..entry].iter().map(|own| own.n).sum();
            if ragged { out.pick(2, at..at + taken[entry].n) } else { out.pick(0, [entry]) }
        };
        let after: Vec<_> = parts.iter_mut().map(|part| (part.role, part.after())).collect();
        for slot in (0..n_slots).filter(|&slot| !slots.contains(&(slot as i32))) {
            assert!(
                after.iter().all(|(_, all)| is_nan(&all.pick(0, [slot]))),
                "a slot that nobody has is written"
            );
        }
        let mut results = Vec::new();
        for (entry, own) in taken.iter().enumerate() {
            let Some(sequence) = own.sequence() else {
                assert!(is_nan(&rows(entry)), "a sequence is written that is skipped");
                continue;
            };
            let state = after.iter().map(|(role, all)| {
                let own = all.pick(0, [slots[entry] as usize]);
                let own = manner.round.map_or(own.clone(), |types| rounded(&own, types.of(*role)));
                (*role, Some(own).filter(|own| !is_nan(own)))
            });
            results.push(Result { sequence, rows: rows(entry), state: state.collect() });
        }
        results
    }
}

impl Part {
    /// What is there after the call, NaN where nothing was wanted.
    fn after(&mut self) -> Array {
        match if self.in_place { &mut self.from } else { &mut self.to } {
            Some(tensor) => tensor.read(),
            None => Array::filled(&self.before.shape, f32::NAN),
        }
    }
}

fn is_nan(array: &Array) -> bool {
    array.data.iter().all(|x| x.is_nan())
}

fn bits(array: &Array) -> Vec<u32> {
    array.data.iter().map(|x| x.to_bits()).collect()
}

/// Runs all pieces; gives `out` by sequences, and the state that each leaves.
fn run(case: &Case, manner: Manner, context: &Context, types: Types, rng: &mut Rng) -> (Vec<Array>, State) {
    let mut pieces = Pieces::new(case, manner, context, types);
    let none = Array::filled(&[1, case.heads.0 as i64, 0, case.d as i64], 0.0);
    let mut out = vec![none; case.lengths.len()];
    while (0..out.len()).any(|i| pieces.done[i] < case.lengths[i].0) {
        for Result { sequence, rows, state } in pieces.call(rng) {
            pieces.done[sequence] += rows.shape[2] as usize;
            out[sequence] = Array::join(2, &[out[sequence].clone(), rows]);
            for (role, own) in state {
                pieces.state.get_mut(&role).unwrap()[sequence] = own;
            }
        }
    }
    (out, pieces.state)
}

/// Compares with the call that has all queries.
fn compare(case: &Case, manner: Manner, context: &Context, types: Types, rng: &mut Rng) {
    let whole = case.run(context, types, Some(rng)).unwrap();
    let (out, state) = run(case, manner, context, types, rng);
    for (i, own) in out.iter().enumerate() {
        let ((batch, q0, _), (n_q, _)) = (case.start(i), case.lengths[i]);
        let want = whole.reals[&Role::OUT].pick(0, [batch]).pick(2, q0..q0 + n_q);
        assert!(bits(own) == bits(&want), "out of sequence {i}: {manner:?} {case:?}\n{own:?}\n{want:?}");
        for (role, role_out) in PARTS {
            let Some(own) = state[&role][i].as_ref().filter(|_| n_q > 0) else { continue };
            let want = whole.reals[&role_out].pick(0, [i]);
            assert!(bits(own) == bits(&want), "{role_out} of sequence {i}: {manner:?} {case:?}");
        }
    }
}

#[test]
fn pieces_are_the_whole_call() {
    for number in 0..2 * cases() {
        let mut rng = Rng::new(seed() ^ (number as u64) << 36);
        let (case, manner) = (random(&mut rng), Manner::random(&mut rng));
        let isas = isas();
        let isa = isas[number % isas.len()];
        let options = ContextOptions::new().max_isa(isa);
        let context = match rng.below(3) {
            0 => Context::new(options.runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap(),
            _ => Context::new(options).unwrap(),
        };
        compare(&case, manner, &context, PLAIN, &mut rng);
    }
}

/// Of other types, and a 16-bit state: it is the `f32` one, rounded between the calls.
#[test]
fn pieces_of_other_types() {
    let context = Context::new(ContextOptions::new()).unwrap();
    for number in 0..cases() {
        let mut rng = Rng::new(seed() ^ (number as u64) << 37);
        let (types, case, manner) = (rng.pick(&TYPES), random(&mut rng), Manner::random(&mut rng));
        let case = case.rounded(types);
        if types.state == DType::F32 {
            compare(&case, manner, &context, types, &mut rng);
            continue;
        }
        let mut again = Rng::new(seed() ^ number as u64);
        let (out, state) = run(&case, manner, &context, types, &mut Rng::new(seed() ^ number as u64));
        let wide = Types { state: DType::F32, ..types };
        let manner = Manner { round: Some(types), ..manner };
        let (want_out, want_state) = run(&case, manner, &context, wide, &mut again);
        assert!(out.iter().map(bits).eq(want_out.iter().map(bits)), "{manner:?} {types:?} {case:?}");
        for (role, _) in PARTS {
            let all =
                |state: &State| state[&role].iter().map(|own| own.as_ref().map(bits)).collect::<Vec<_>>();
            assert!(all(&state) == all(&want_state), "{role}: {manner:?} {types:?} {case:?}");
        }
    }
}
