//! Gradients against central differences of the definitions in `f64`.

use super::case::Case;
use super::cases;
use super::oracle;
use crate::common::golden::Array;
use crate::common::problem::{Strided, index_of, isas};
use crate::common::refusal::expect;
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, contiguous};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use subquad::catalog::{self, RoleKind};
use subquad::{Args, Context, ContextOptions, Error, Mode, Plan, Role, Status, ThreadPool, View};

const MECHANISMS: [&str; 3] = ["hard_retrieval", "fam_block", "srformer"];

/// Most products of a case: differences take them some hundred times.
const WORK: usize = 400_000;

type Tensors = BTreeMap<Role, Array>;

/// A call in reverse.
#[derive(Clone)]
struct Backward {
    case: Case,
    /// Gradients of outputs, by the outputs.
    given: Tensors,
    /// `index`, where the call gives it.
    index: Option<Vec<i32>>,
    /// Inputs whose gradients are wanted.
    wanted: Vec<Role>,
}

impl Backward {
    fn random(rng: &mut Rng, name: &'static str) -> Backward {
        let mut case = Case::random(rng, name);
        while case.mode == Mode::Step || case.work() > WORK {
            case = Case::random(rng, name);
        }
        if name == "fam_block" && rng.one_in(2) {
            case.params.push(("F", case.inputs[&Role::FAM_K].shape[2].into()));
        }
        let mechanism = catalog::find(name).unwrap();
        let differentiable = |role: &Role| mechanism.role(*role).is_some_and(|spec| spec.differentiable);
        let noise = |(&role, shape): (&Role, &Vec<i64>)| {
            let data = rng.values(shape.iter().product::<i64>() as usize, 1.0);
            (role, Array { shape: shape.clone(), data })
        };
        let given = case.outputs.iter().filter(|(role, _)| differentiable(role)).map(noise).collect();
        let wanted = case.inputs.keys().copied().filter(differentiable).collect();
        let index = (name == "hard_retrieval").then(|| case.any_index(rng));
        Backward { case, given, index, wanted }
    }

    /// The case without indices, if no two keys are nearly as good.
    fn with_best(&self) -> Option<Backward> {
        let case = &self.case;
        let mut clear = true;
        for at in case.queries() {
            let mut scores = oracle::scores(case, at);
            scores.sort_by(|x, y| y.total_cmp(x));
            clear &= scores.len() < 2 || scores[0] - scores[1] > 1e-5 * (1.0 + scores[0].abs());
        }
        clear.then(|| Backward { index: None, ..self.clone() })
    }

    fn run(&self, context: &Context, mut rng: Option<&mut Rng>) -> Result<Tensors, Error> {
        let case = &self.case;
        let plan = Plan::new(context, &case.desc(PLAIN))?;
        let mut stored = |array: &Array| match &mut rng {
            Some(rng) => Strided::random(rng, array),
            None => contiguous(array),
        };
        let inputs: Vec<_> = case.inputs.iter().map(|(&role, array)| (role, stored(array))).collect();
        let given: Vec<_> = self.given.iter().map(|(role, array)| (role.grad(), stored(array))).collect();
        let blank = |role: &Role| Array::filled(&case.inputs[role].shape, f32::NAN);
        let mut outputs: Vec<_> =
            self.wanted.iter().map(|role| (role.grad(), stored(&blank(role)))).collect();
        let mut args = Args::new();
        for (role, tensor) in inputs.iter().chain(&given) {
            args = args.input(*role, tensor.view());
        }
        for (role, values) in &case.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64])?);
        }
        if let Some(index) = &self.index {
            args = args.input(Role::INDEX, View::new(index, &case.outputs[&Role::OUT][..3])?);
        }
        for (role, tensor) in &mut outputs {
            args = args.output(*role, tensor.view_mut());
        }
        plan.backward(case.mode, &args, &mut vec![0xff; case.backward_workspace(&plan)?])?;
        Ok(outputs.iter().map(|(role, tensor)| (*role, tensor.read())).collect())
    }

    /// What backward differentiates by a role: outputs times their gradients.
    fn loss(&self, role: Role) -> f64 {
        let case = &self.case;
        if case.name == "hard_retrieval" {
            return self.straight_through(role);
        }
        let outputs = oracle::expect(case);
        // Next to a threshold.
        if outputs.values().flatten().any(|element| element.tolerance.is_infinite()) {
            return f64::NAN;
        }
        let weighed = |(role, array): (&Role, &Array)| -> f64 {
            outputs[role].iter().zip(&array.data).map(|(x, &weight)| x.value * f64::from(weight)).sum()
        };
        self.given.iter().map(weighed).sum()
    }

    /// Values are those of the indices, scores those of a softmax.
    fn straight_through(&self, role: Role) -> f64 {
        let (case, shape) = (&self.case, &self.case.outputs[&Role::OUT]);
        let dout = &self.given[&Role::OUT].data;
        let row = |at: [usize; 3]| {
            let [sequence, head, t] = at;
            let (batch, q0, _) = case.start(sequence);
            let row = (batch * case.heads.0 + head) * shape[2] as usize + q0 + t;
            let out = match (role, &self.index) {
                (Role::V, Some(index)) => usize::try_from(index[row]).ok(),
                (Role::V, None) => {
                    let (seen, scores) = (case.visible(sequence, t), oracle::scores(case, at));
                    let best = (0..scores.len()).max_by(|&i, &j| scores[i].total_cmp(&scores[j]));
                    best.map(|best| seen.start + best)
                }
                _ => return (row, oracle::soft_retrieval(case, at)),
            };
            let values = case.rows(Role::V, sequence, case.key_head(head));
            (row, out.map_or(vec![0.0; case.e], |key| values[key].clone()))
        };
        let product = |(row, out): (usize, Vec<f64>)| -> f64 {
            out.iter().zip(&dout[row * case.e..]).map(|(x, &weight)| x * f64::from(weight)).sum()
        };
        case.queries().into_iter().map(|at| product(row(at))).sum()
    }

    /// The derivative by an element of an input.
    fn difference(&self, role: Role, at: usize, step: f64) -> f64 {
        let loss = |by: f64| {
            let case = Case { nudge: Some((role, at, by)), ..self.case.clone() };
            Backward { case, ..self.clone() }.loss(role)
        };
        (loss(step) - loss(-step)) / (2.0 * step)
    }

    /// Compares gradients with differences at some elements of each; gives the worst error as a fraction of its tolerance.
    #[track_caller]
    fn compare(&self, rng: &mut Rng, got: &Tensors, samples: usize) -> (usize, f64) {
        const STEP: f64 = 1e-6;
        let (mut compared, mut worst) = (0, 0.0f64);
        if self.loss(Role::OUT).is_nan() {
            return (compared, worst);
        }
        for (&role, got) in got {
            assert!(got.data.iter().all(|x| x.is_finite()), "{role} is not finite: {:?}", self.case);
            let n = got.data.len();
            let places: Vec<usize> =
                if n <= samples { (0..n).collect() } else { (0..samples).map(|_| rng.below(n)).collect() };
            let want: Vec<f64> = places.iter().map(|&at| self.difference(role.base(), at, STEP)).collect();
            let largest = got.data.iter().fold(0.0f64, |m, x| m.max(x.abs().into()));
            for (&at, &want) in places.iter().zip(&want) {
                let given = f64::from(got.data[at]);
                let tolerance = 1e-4 * want.abs() + 3e-5 * largest + 1e-5;
                if want.is_nan() {
                    continue;
                }
                let close = (given - want).abs() <= tolerance;
                // Next to a kink there is no derivative.
                if !close && (self.difference(role.base(), at, STEP / 8.0) - want).abs() > 0.25 * tolerance {
                    continue;
                }
                let place = index_of(at, &got.shape);
                assert!(
                    close,
                    "{role}{place:?} is {given:e} for {want:e}, tolerance {tolerance:e}: {:?}",
                    self.case
                );
                worst = worst.max((given - want).abs() / tolerance);
                compared += usize::from(want != 0.0);
            }
        }
        (compared, worst)
    }
}

impl Case {
    /// About how many products an output takes.
    fn work(&self) -> usize {
        let pairs: usize = self.lengths.iter().map(|(n_q, n_k)| n_q * n_k).sum();
        let segments = self.lengths.iter().map(|&(n_q, n_k)| match self.real("block") {
            Some(block) => n_q.min(n_k.div_ceil(block as usize)),
            None => 0,
        });
        self.heads.0 * (pairs * (self.d + self.e) + segments.sum::<usize>() * self.d.pow(3))
    }

    /// Keys whose scores a query has.
    fn sees(&self, sequence: usize, t: usize) -> std::ops::Range<usize> {
        let Some(block) = self.real("block") else { return self.visible(sequence, t) };
        let ((n_q, n_k), block) = (self.lengths[sequence], block as usize);
        let m = n_k.div_ceil(block);
        let length = self.real("gen_len").map_or(n_q, |length| length as usize);
        let first = (t * m / length).min(m.saturating_sub(1)) * block;
        first.min(n_k)..(first + block).min(n_k)
    }

    /// Sequence, query head and token of every query.
    fn queries(&self) -> Vec<[usize; 3]> {
        let mut all = Vec::new();
        for (sequence, &(n_q, _)) in self.lengths.iter().enumerate() {
            all.extend((0..self.heads.0 * n_q).map(|i| [sequence, i / n_q, i % n_q]));
        }
        all
    }

    /// Keys that queries see, none now and then.
    fn any_index(&self, rng: &mut Rng) -> Vec<i32> {
        let shape = &self.outputs[&Role::OUT];
        let mut index = vec![-1; shape[..3].iter().product::<i64>() as usize];
        for [sequence, head, t] in self.queries() {
            let ((batch, q0, _), seen) = (self.start(sequence), self.visible(sequence, t));
            if !seen.is_empty() && !rng.one_in(8) {
                let at = (batch * self.heads.0 + head) * shape[2] as usize + q0 + t;
                index[at] = (seen.start + rng.below(seen.len())) as i32;
            }
        }
        index
    }

    fn backward_workspace(&self, plan: &Plan) -> Result<usize, Error> {
        let most = |of: fn(&(usize, usize)) -> usize| self.lengths.iter().map(of).max().unwrap_or(0);
        // The memory's rows are keys, unless the plan knows them.
        let unknown = self.inputs.get(&Role::FAM_K).filter(|_| self.real("F").is_none());
        let n_k = most(|length| length.1) + unknown.map_or(0, |memory| memory.shape[2] as usize);
        plan.backward_workspace_size(self.lengths.len(), most(|length| length.0), n_k)
    }
}

fn context() -> Context {
    Context::new(ContextOptions::new()).unwrap()
}

#[track_caller]
fn same_bits(got: &Array, want: &Array, what: impl std::fmt::Debug) {
    let bits = |array: &Array| Vec::from_iter(array.data.iter().map(|x| x.to_bits()));
    assert!(bits(got) == bits(want), "{what:?}");
}

#[test]
fn differences() {
    for name in MECHANISMS {
        let (mut compared, mut worst) = (0, 0.0f64);
        // Never so few that all may lie next to a threshold, where differences are none.
        let problems = cases().max(40) / 4;
        for number in 0..problems {
            let mut rng = Rng::new(seed() ^ (number as u64) << 36);
            let own = Backward::random(&mut rng, name);
            let best = own.index.as_ref().and_then(|_| own.with_best());
            for one in [Some(own), best].into_iter().flatten() {
                for isa in isas() {
                    let context = Context::new(ContextOptions::new().max_isa(isa)).unwrap();
                    let got = one.run(&context, Some(&mut rng)).unwrap();
                    let (n, error) = one.compare(&mut rng, &got, 4);
                    (compared, worst) = (compared + n, worst.max(error));
                }
            }
        }
        println!("{name}: {compared} compared, worst error {worst:.3} of the tolerance");
        assert!(compared >= 8 * problems, "only {compared} elements of {name} are not 0");
    }
}

/// No bit depends on threads, on strides, nor on what else is wanted.
#[test]
fn same_gradients() {
    for name in MECHANISMS {
        for number in 0..cases() / 6 {
            let mut rng = Rng::new(seed() ^ (number as u64) << 37);
            let own = Backward::random(&mut rng, name);
            let want = own.run(&context(), None).unwrap();
            for threads in [2, 5] {
                let runner = Arc::new(ThreadPool::new(threads).unwrap());
                let context = Context::new(ContextOptions::new().runner(runner)).unwrap();
                for (role, got) in own.run(&context, Some(&mut rng)).unwrap() {
                    same_bits(&got, &want[&role], (role, &own.case));
                }
            }
            for &role in &own.wanted {
                let one = Backward { wanted: vec![role], ..own.clone() };
                let got = one.run(&context(), None).unwrap();
                same_bits(&got[&role.grad()], &want[&role.grad()], (role, &own.case));
            }
        }
    }
}

/// A key or value that is NaN has no part in gradients of queries that do not see it, nor in those of keys that no query
/// sees together with it.
#[test]
fn hidden_nan() {
    for name in MECHANISMS {
        for number in 0..cases() / 3 {
            let mut rng = Rng::new(seed() ^ (number as u64) << 38);
            let own = Backward::random(&mut rng, name);
            let Some((spoilt, ..)) = own.case.with_nan(&mut rng) else { continue };
            let place = |role| spoilt.inputs[&role].data.iter().position(|x: &f32| x.is_nan());
            let (role, at) =
                [Role::K, Role::V].into_iter().find_map(|role| Some((role, place(role)?))).unwrap();
            let at = index_of(at, &spoilt.inputs[&role].shape);
            let hurt = own.rows_seeing([at[0], at[1], at[2]]);
            let (plain, got) = (own.run(&context(), None).unwrap(), Backward { case: spoilt, ..own.clone() });
            let got = got.run(&context(), None).unwrap();
            for (&role, want) in &plain {
                let width = (want.shape[3] as usize).max(1);
                for (i, (got, want)) in got[&role].data.chunks(width).zip(want.data.chunks(width)).enumerate()
                {
                    let at = index_of(i * width, &plain[&role].shape);
                    if !hurt.contains(&(role.base(), [at[0], at[1], at[2]])) {
                        let same = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-5 * (1.0 + w.abs()));
                        assert!(same, "{role}{at:?} is {got:?} for {want:?}: {:?}", own.case);
                    } else if [Role::Q, Role::FAM_Q].contains(&role.base()) {
                        assert!(got.iter().all(|x| x.is_nan()), "{role}{at:?} is {got:?}: {:?}", own.case);
                    }
                }
            }
        }
    }
}

impl Backward {
    /// Rows of inputs that the gradients of a row of keys or values `[batch, head, token]` may reach: queries that see it, and
    /// what these see.
    fn rows_seeing(&self, [batch, head, token]: [usize; 3]) -> BTreeSet<(Role, [usize; 3])> {
        let (case, mut all) = (&self.case, BTreeSet::new());
        let mut hurt = |query: (Role, [usize; 3]), sequence: usize, keys: std::ops::Range<usize>| {
            let k0 = case.start(sequence).2;
            if !(k0 + keys.start..k0 + keys.end).contains(&token) {
                return;
            }
            all.insert(query);
            for key in keys {
                all.extend([Role::K, Role::V].map(|role| (role, [batch, head, k0 + key])));
            }
            let memory = case.inputs.get(&Role::FAM_K).map_or(0, |memory| memory.shape[2] as usize);
            for row in 0..memory {
                all.extend([Role::FAM_K, Role::FAM_V].map(|role| (role, [sequence, head, row])));
            }
        };
        for [sequence, of, t] in case.queries() {
            let (own, q0, _) = case.start(sequence);
            if (own, case.key_head(of)) == (batch, head) {
                hurt((Role::Q, [batch, of, q0 + t]), sequence, case.visible(sequence, t));
            }
        }
        let Some(dout) = self.given.get(&Role::FAM_OUT) else { return all };
        for (sequence, &(n_q, n_k)) in case.lengths.iter().enumerate() {
            for (of, row) in
                (0..case.heads.0).flat_map(|of| (0..dout.shape[2] as usize).map(move |row| (of, row)))
            {
                if (case.start(sequence).0, case.key_head(of)) == (batch, head) {
                    hurt((Role::FAM_Q, [sequence, of, row]), sequence, n_k - n_q..n_k);
                }
            }
        }
        all
    }
}

/// A gradient of an output that is not finite reaches its query and what that sees.
#[test]
fn poison_of_outputs() {
    for name in MECHANISMS {
        let mut arrived = 0;
        for number in 0..cases().max(60) / 3 {
            let mut rng = Rng::new(seed() ^ (number as u64) << 39);
            let own = Backward::random(&mut rng, name);
            let Some(&[sequence, head, t]) = own.case.queries().first() else { continue };
            let ((batch, q0, k0), seen) = (own.case.start(sequence), own.case.sees(sequence, t));
            let mut hurt = own.clone();
            let row = (batch * own.case.heads.0 + head) * own.case.outputs[&Role::OUT][2] as usize + q0 + t;
            hurt.given.get_mut(&Role::OUT).unwrap().data[row * own.case.e] = f32::INFINITY;
            let (plain, got) = (own.run(&context(), None).unwrap(), hurt.run(&context(), None).unwrap());
            for role in [Role::Q, Role::K, Role::V].map(Role::grad) {
                let width = plain[&role].shape[3] as usize;
                let rows = got[&role].data.chunks(width).zip(plain[&role].data.chunks(width));
                for (i, (got, want)) in rows.enumerate() {
                    let at = index_of(i * width, &plain[&role].shape);
                    let reached = match role.base() {
                        Role::Q => at[..3] == [batch, head, q0 + t],
                        // The memory is of all keys.
                        _ if name == "srformer" => at[..2] == [batch, head],
                        _ => {
                            at[..2] == [batch, own.case.key_head(head)]
                                && (k0 + seen.start..k0 + seen.end).contains(&at[2])
                        }
                    };
                    let same = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-5 * (1.0 + w.abs()));
                    assert!(same || reached, "{role}{at:?} is {got:?} for {want:?}: {:?}", own.case);
                    // Through the memory, to keys of other segments.
                    let far = name != "srformer" || !(k0 + seen.start..k0 + seen.end).contains(&at[2]);
                    arrived +=
                        usize::from(role == Role::K.grad() && far && got.iter().any(|x| !x.is_finite()));
                }
            }
        }
        assert!(arrived > 0, "{name}: nothing arrives");
    }
}

#[track_caller]
fn refused(own: &Backward, status: Status, words: &[&str]) {
    expect(&own.run(&context(), None).expect_err("the call is refused"), status, words);
}

#[test]
fn wrong_indices() {
    let mut rng = Rng::new(seed());
    let mut own = Backward::random(&mut rng, "hard_retrieval");
    while own.case.mode != Mode::Causal || own.case.ragged || own.case.queries().is_empty() {
        own = Backward::random(&mut rng, "hard_retrieval");
    }
    own.case.indices.clear();
    let [_, head, t] = own.case.queries()[own.case.queries().len() - 1];
    let n = own.case.visible(0, 0).end as i32;
    let at = head * (t + 1);
    for (at, given) in [(0, -2), (0, i32::MIN), (0, i32::MAX), (at, n)] {
        let mut one = own.clone();
        one.index.as_mut().unwrap()[at] = given;
        refused(&one, Status::InvalidArgument, &["index", &given.to_string(), "a key that the query sees"]);
    }
    let longest = own.case.lengths[0].1 as i32;
    own.case.indices.push((Role::KEY_LEN, vec![0; own.case.lengths.len()]));
    own.index.as_mut().unwrap().fill(0);
    assert!(longest > 0);
    refused(&own, Status::InvalidArgument, &["index", "a key that the query sees"]);
    own.index.as_mut().unwrap().fill(-1);
    let none = own.run(&context(), None).unwrap();
    assert!(none.values().all(|array| array.data.iter().all(|&x| x == 0.0)), "nothing is seen");
}

/// What is no gradient of the mechanism, or comes without what it is one of.
#[test]
fn wrong_roles() {
    for name in MECHANISMS {
        let mut rng = Rng::new(seed());
        let mut own = Backward::random(&mut rng, name);
        if name == "srformer" && own.case.real("gen_len").is_none() {
            own.case.params.push(("gen_len", 20i64.into()));
        }
        let mut none = own.clone();
        none.given.remove(&Role::OUT);
        refused(&none, Status::MissingRole, &["dout", "backward starts from it"]);
        for spec in catalog::find(name).unwrap().roles.iter().filter(|spec| !spec.differentiable) {
            let mut one = own.clone();
            if matches!(spec.kind, RoleKind::Output | RoleKind::StateOut) {
                one.given.insert(spec.role, Array::filled(&[1], 0.0));
                refused(&one, Status::WrongRole, &[&spec.role.grad().to_string(), "no gradient"]);
            }
        }
        let mut short = own.clone();
        let shape = &mut short.given.get_mut(&Role::OUT).unwrap();
        **shape = Array::filled(&[shape.shape[0], shape.shape[1], shape.shape[2] + 1, shape.shape[3]], 0.0);
        refused(&short, Status::WrongShape, &["dout"]);
    }
}
