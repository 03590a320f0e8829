//! Backward calls of random problems, and what they must give: central differences of the oracle in `f64`.

use super::golden::Array;
use super::oracle::{self, Nudge};
use super::problem::{self, Problem, Tensors, index_of};
use super::support::{Rng, seed};
use std::ops::Range;
use subquad::catalog::{Mechanism, RoleKind};
use subquad::{Args, Context, Error, Mode, Plan, Role, View, ViewMut};

/// A problem with gradients of its outputs, by the role of the gradient.
#[derive(Clone, Debug)]
pub struct Backward {
    pub p: Problem,
    pub given: Tensors,
}

/// Mechanisms with gradients in mode causal, by their defaults.
pub fn mechanisms() -> Vec<&'static Mechanism> {
    let mut all = problem::mechanisms();
    all.retain(|mechanism| {
        let causal = mechanism.modes.contains(&Mode::Causal);
        let plain = Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 8), 1, 1);
        causal && plain.plan(&problem::context()).has_gradient(Mode::Causal)
    });
    assert!(all.len() >= 10, "only {} mechanisms have gradients", all.len());
    all
}

/// Random numbers.
pub fn noise(rng: &mut Rng, shape: &[i64]) -> Array {
    let n = shape.iter().product::<i64>();
    Array { shape: shape.to_vec(), data: (0..n).map(|_| rng.signed()).collect() }
}

/// Roles of these kinds that have a gradient and that parameters let be bound.
fn differentiable(p: &Problem, kinds: &[RoleKind]) -> Vec<Role> {
    let all = kinds.iter().flat_map(|&kind| p.roles(kind));
    all.filter(|&role| p.mechanism.role(role).is_some_and(|spec| spec.differentiable)).collect()
}

impl Backward {
    /// The gradient of the output, and of what is carried out now and then.
    pub fn new(rng: &mut Rng, p: Problem) -> Backward {
        let mut given = Tensors::new();
        for role in differentiable(&p, &[RoleKind::Output, RoleKind::StateOut]) {
            if role == Role::OUT || !rng.one_in(3) {
                given.insert(role.grad(), noise(rng, &p.shape(role)));
            }
        }
        Backward { p, given }
    }

    /// What is carried in and has a gradient.
    pub fn states(&self) -> Vec<Role> {
        differentiable(&self.p, &[RoleKind::StateIn])
    }

    /// Every gradient that can be asked for: of inputs that are bound, and of the state.
    pub fn wanted(&self) -> Vec<Role> {
        let mut all = differentiable(&self.p, &[RoleKind::Input]);
        all.retain(|role| self.p.inputs.contains_key(role));
        all.extend(self.states());
        all.into_iter().map(Role::grad).collect()
    }

    /// Outputs to write, not numbers yet.
    pub fn outputs(&self) -> Tensors {
        let new = |role: Role| (role, Array::filled(&self.p.shape(role.base()), f32::NAN));
        self.wanted().into_iter().map(new).collect()
    }

    /// Tensors that a call reads.
    pub fn inputs(&self) -> impl Iterator<Item = (Role, &Array)> {
        self.p.inputs.iter().chain(&self.given).map(|(&role, array)| (role, array))
    }

    /// Memory that is NaN, as large as the call needs.
    pub fn workspace(&self, plan: &Plan) -> Vec<u8> {
        let longest = |role, total: i64| {
            let offsets = self.p.indices.iter().find(|(own, _)| *own == role).map(|(_, values)| values);
            let most =
                |offsets: &Vec<i32>| offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0) as usize;
            (offsets.map_or(total as usize, most), offsets.map(|offsets| offsets.len() - 1))
        };
        let (n_q, packed) = longest(Role::CU_SEQLENS, self.p.t);
        let (n_k, _) = match longest(Role::CU_SEQLENS_K, self.p.s) {
            (_, None) if packed.is_some() => (n_q, None),
            own => own,
        };
        let sequences = packed.unwrap_or(self.p.b as usize);
        vec![0xff; plan.backward_workspace_size(sequences, n_q, n_k).unwrap()]
    }

    /// One call that writes these gradients. Panics if it writes beside the workspace.
    pub fn call(&self, plan: &Plan, outputs: &mut Tensors) -> Result<(), Error> {
        let mut args = Args::new();
        for (role, array) in self.inputs() {
            args = args.input(role, View::new(&array.data, &array.shape)?);
        }
        for (role, values) in &self.p.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64])?);
        }
        for (&role, array) in outputs {
            args = args.output(role, ViewMut::new(&mut array.data, &array.shape)?);
        }
        const BESIDE: usize = 192;
        let size = self.workspace(plan).len();
        let mut memory = vec![0xff; size + 2 * BESIDE];
        memory[..BESIDE].fill(0xa5);
        memory[BESIDE + size..].fill(0xa5);
        let result = plan.backward(self.p.mode, &args, &mut memory[BESIDE..BESIDE + size]);
        let mut beside = memory[..BESIDE].iter().chain(&memory[BESIDE + size..]);
        assert!(beside.all(|&byte| byte == 0xa5), "beside the workspace: {}", self.p);
        result
    }

    /// Every gradient.
    pub fn run_plan(&self, plan: &Plan) -> Tensors {
        let mut outputs = self.outputs();
        self.call(plan, &mut outputs).unwrap_or_else(|error| panic!("{}: {error}", self.p));
        outputs
    }

    pub fn run(&self, context: &Context) -> Tensors {
        self.run_plan(&self.p.plan(context))
    }

    /// The backward call of some of the tokens: gradients of what is carried are left as they are.
    pub fn tokens(&self, queries: Range<i64>, keys: Range<i64>) -> Backward {
        let mut part =
            Backward { p: self.p.tokens(queries.clone(), keys.clone()), given: self.given.clone() };
        for (role, array) in &mut part.given {
            for (size, range) in [("T", &queries), ("S", &keys)] {
                if let Some(axis) = self.p.axis(role.base(), size) {
                    *array = array.pick(axis, range.start as usize..range.end as usize);
                }
            }
        }
        part
    }

    /// The call with the entries of the batch in this order.
    pub fn batch(&self, order: &[usize]) -> Backward {
        let mut part = Backward { p: self.p.batch(order), given: self.given.clone() };
        for (role, array) in &mut part.given {
            if let Some(axis) = self.p.axis(role.base(), "B") {
                *array = array.pick(axis, order.iter().copied());
            }
        }
        part
    }

    /// Whether every sequence has a gradient of its own for this role.
    pub fn per_sequence(&self, role: Role) -> bool {
        self.p.axis(role.base(), "B").is_some()
    }

    /// The sum of all outputs, each times its gradient: what backward differentiates.
    fn loss(&self, nudge: Option<Nudge>) -> f64 {
        let outputs = oracle::expect_nudged(&self.p, nudge);
        let weighed = |(role, array): (&Role, &Array)| -> f64 {
            let products = outputs[&role.base()].value.iter().zip(&array.data);
            products.map(|(x, &weight)| x * f64::from(weight)).sum()
        };
        self.given.iter().map(weighed).sum()
    }

    /// The derivative by element `at` of an input, or of a state that is not bound.
    pub fn difference(&self, role: Role, at: usize, step: f64) -> f64 {
        let loss = |by: f64| self.loss(Some(Nudge { role, at, by }));
        (loss(step) - loss(-step)) / (2.0 * step)
    }
}

pub fn text(b: &Backward) -> String {
    let given: Vec<_> = b.given.keys().map(|role| role.to_string()).collect();
    format!("SUBQUAD_SEED={}: {} {}", seed(), b.p, given.join(","))
}

/// States that are not bound begin at zero, where their gradient is taken.
pub fn with_states(b: &Backward) -> Backward {
    let mut b = b.clone();
    for role in b.states() {
        let zeros = Array::filled(&b.p.shape(role), 0.0);
        b.p.inputs.entry(role).or_insert(zeros);
    }
    b
}

/// Step of the differences, in `f64`.
const STEP: f64 = 1e-6;

/// Compares gradients with differences at no more than `samples` elements of each; gives the worst error as a
/// fraction of its tolerance.
#[track_caller]
pub fn compare(rng: &mut Rng, b: &Backward, got: &Tensors, samples: usize) -> f64 {
    let reference = with_states(b);
    let mut worst = 0.0f64;
    for (&role, got) in got {
        let n = got.data.len();
        let places: Vec<usize> =
            if n <= samples { (0..n).collect() } else { (0..samples).map(|_| rng.below(n)).collect() };
        let want: Vec<f64> = places.iter().map(|&at| reference.difference(role.base(), at, STEP)).collect();
        let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (&at, &want) in places.iter().zip(&want) {
            let given = f64::from(got.data[at]);
            let tolerance = 1e-4 * want.abs() + 3e-5 * largest + 1e-5;
            let place = || index_of(at, &got.shape);
            let close = (given - want).abs() <= tolerance;
            // Next to a kink, or where a denominator is of the size of the step, differences are none.
            let sharper = || reference.difference(role.base(), at, STEP / 8.0);
            if !close && (sharper() - want).abs() > 0.25 * tolerance {
                continue;
            }
            assert!(
                close,
                "{role}{:?} is {given:e} for {want:e}, tolerance {tolerance:e}: {}",
                place(),
                text(b)
            );
            worst = worst.max((given - want).abs() / tolerance);
        }
    }
    worst
}
