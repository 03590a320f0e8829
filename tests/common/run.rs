//! Calls of problems, whole and in parts, and comparison of what they give.

use super::golden::Array;
use super::problem::{Problem, Tensors, context_of};
use std::ops::Range;
use subquad::catalog::RoleKind;
use subquad::{Args, Context, Error, Mode, Plan, Role, View, ViewMut};

impl Problem {
    /// Outputs to write, not numbers yet.
    pub fn outputs(&self) -> Tensors {
        let roles = self.roles(RoleKind::Output).chain(self.roles(RoleKind::StateOut));
        roles.map(|role| (role, Array::filled(&self.shape(role), f32::NAN))).collect()
    }

    /// Runs the problem as one call.
    pub fn run(&self, context: &Context) -> Tensors {
        self.run_plan(&self.plan(context))
    }

    pub fn run_plan(&self, plan: &Plan) -> Tensors {
        let mut outputs = self.outputs();
        execute(plan, self.mode, &self.inputs, &self.indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{self}: {error}"));
        outputs
    }

    /// The problem of some of its tokens: entries of the axes `T` and `S` of every input.
    pub fn tokens(&self, queries: Range<i64>, keys: Range<i64>) -> Problem {
        let mut part = self.clone();
        (part.t, part.s) = (queries.end - queries.start, keys.end - keys.start);
        for (&role, array) in &mut part.inputs {
            for (size, range) in [("T", &queries), ("S", &keys)] {
                if let Some(axis) = self.axis(role, size) {
                    *array = array.pick(axis, range.start as usize..range.end as usize);
                }
            }
        }
        part
    }

    /// Takes what a call carried out as what the next one carries in.
    pub fn carry(&mut self, outputs: &Tensors) {
        let carried: Vec<Role> = self.roles(RoleKind::StateIn).collect();
        for role in carried {
            self.inputs.insert(role, outputs[&out_of(role)].clone());
        }
    }

    /// The problem with the entries of the batch in this order.
    pub fn batch(&self, order: &[usize]) -> Problem {
        let mut part = self.clone();
        part.b = order.len() as i64;
        for (&role, array) in &mut part.inputs {
            if let Some(axis) = self.axis(role, "B") {
                *array = array.pick(axis, order.iter().copied());
            }
        }
        part
    }

    /// Runs it as several calls that end at these tokens, the last one at the end; joins what they give.
    pub fn run_pieces(&self, plan: &Plan, ends: &[i64]) -> Tensors {
        let (mut next, mut start) = (self.clone(), 0);
        let mut pieces = Vec::new();
        let mut last = Tensors::new();
        for &end in ends {
            let mut part = self.tokens(start..end, if self.caches() { 0 } else { start }..end);
            for role in self.roles(RoleKind::StateIn) {
                if let Some(state) = next.inputs.get(&role) {
                    part.inputs.insert(role, state.clone());
                }
            }
            let later = part.advanced(start);
            let own = (start > 0 && later.params != part.params).then(|| later.plan(&plan_context(plan)));
            last = part.run_plan(own.as_ref().unwrap_or(plan));
            pieces.push(last.clone());
            next.carry(&last);
            start = end;
        }
        for (&role, whole) in &mut last {
            if let Some(axis) = self.axis(role, "T") {
                *whole =
                    Array::join(axis, &pieces.iter().map(|piece| piece[&role].clone()).collect::<Vec<_>>());
            }
        }
        last
    }
}

/// A context of the instruction set that a plan has.
fn plan_context(plan: &Plan) -> Context {
    context_of(plan.info().isa)
}

/// The role that carries out what this one carries in.
pub fn out_of(role: Role) -> Role {
    let part = role.base_name().strip_suffix("_in").unwrap_or_else(|| panic!("{role} carries nothing"));
    Role::from_name(&format!("{part}_out")).unwrap_or_else(|| panic!("{role} has no other side"))
}

/// A workspace full of NaN: nothing may be read before it is written.
pub fn workspace(plan: &Plan) -> Vec<u8> {
    vec![0xff; plan.workspace_size()]
}

/// One call on contiguous tensors.
pub fn execute(
    plan: &Plan,
    mode: Mode,
    inputs: &Tensors,
    indices: &[(Role, Vec<i32>)],
    outputs: &mut Tensors,
) -> Result<(), Error> {
    let mut args = Args::new();
    for (&role, array) in inputs {
        args = args.input(role, View::new(&array.data, &array.shape)?);
    }
    for (role, values) in indices {
        args = args.input(*role, View::new(values, &[values.len() as i64])?);
    }
    for (&role, array) in outputs {
        args = args.output(role, ViewMut::new(&mut array.data, &array.shape)?);
    }
    plan.execute(mode, &args, &mut workspace(plan))
}

/// Panics unless both hold the same roles with the same shapes and bits.
#[track_caller]
pub fn assert_same_bits(got: &Tensors, want: &Tensors, what: impl Fn() -> String) {
    same_bits(got, want, &what);
}

#[track_caller]
fn same_bits(got: &Tensors, want: &Tensors, what: &dyn Fn() -> String) {
    assert!(got.keys().eq(want.keys()), "{}", what());
    for (role, want) in want {
        let got = &got[role];
        assert_eq!(got.shape, want.shape, "{role} of {}", what());
        for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
            let at = || index_of(i, &want.shape);
            assert!(g.to_bits() == w.to_bits(), "{role}{:?} is {g:e} for {w:e}: {}", at(), what());
        }
    }
}

/// The indices of element `i`.
pub fn index_of(mut i: usize, shape: &[i64]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = i % shape[axis] as usize;
        i /= shape[axis] as usize;
    }
    index
}

/// Panics unless every number is finite and the outputs are not all alike: a result that could tell something.
#[track_caller]
pub fn assert_lively(tensors: &Tensors, what: impl Fn() -> String) {
    for (role, array) in tensors {
        assert!(array.data.iter().all(|x| x.is_finite()), "{role} is not finite: {}", what());
        let all_alike = array.data.len() > 1 && array.data.windows(2).all(|w| w[0] == w[1]);
        assert!(*role != Role::OUT || !all_alike, "{role} says nothing: {}", what());
    }
}
