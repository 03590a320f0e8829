//! The gradients of a reference file: one backward call, and its comparison.

use super::cabi::Plan;
use super::compare::Compared;
use super::operands::{Bound, Buffer, compare_rounded, input, no_type, output, stored_input};
use super::reference::{Data, Reference, Tensor};
use super::replay::{Stop, Types};
use crate::shape::Names;
use crate::values::Values;
use subquad::catalog::{Mechanism, RoleKind};
use subquad::{DType, Mode, Role};

/// Gradients of a file, as a call wrote them.
pub struct Gradients<'a> {
    reference: &'a Reference,
    all: Vec<Wanted<'a>>,
}

/// A gradient that backward writes.
struct Wanted<'a> {
    name: &'a str,
    shape: &'a [i64],
    expected: &'a [f32],
    given: Values,
}

/// A tensor that backward reads.
struct Given<'a> {
    role: String,
    shape: &'a [i64],
    data: Buffer,
}

/// A part of the incoming state that the file leaves out.
struct Zeros {
    role: String,
    shape: Vec<i64>,
    data: Values,
}

/// Runs backward on the whole file, on tensors of the types `stored`, whose values are rounded to `values`.
pub fn replay<'a>(
    reference: &'a Reference,
    mechanism: &Mechanism,
    mode: Mode,
    plan: &mut Plan,
    names: &Names,
    (stored, values): (Types, Types),
) -> Result<Gradients<'a>, Stop> {
    let (mut given, mut wanted) = (Vec::new(), Vec::new());
    for (name, tensor) in &reference.tensors {
        let Some(role) = Role::from_name(name) else { continue };
        let Some(spec) = mechanism.role(role.base()) else {
            let owner = mechanism.name;
            return Err(Stop::Fail(format!("tensor `{name}` is no gradient of a role of {owner}")));
        };
        use RoleKind::{GradOutput, Input, Output, StateIn, StateOut};
        match (spec.kind, role.is_grad()) {
            (Input | StateIn, false) | (Output | StateOut, true) => {
                let [stored, tokens] = [stored, values].map(|types| dtype(role, spec.kind, types));
                // Gradients round no operands.
                let values = Types { tokens, bf16_dot: false, ..values };
                let data = stored_input(name, &tensor.data, stored, values)?;
                given.push(Given { role: name.clone(), shape: &tensor.shape, data });
            }
            (Input | StateIn, true) | (GradOutput, _) => {
                wanted.push(want(name, tensor, dtype(role, spec.kind, stored))?);
            }
            (Output | StateOut, false) => {}
        }
    }
    let missing = missing_states(reference, plan, names)?;
    let bound = given.iter().map(|one| input(Bound::whole(&one.role, one.shape), one.data.address()));
    let zeros = missing
        .iter()
        .map(|one| input(Bound::whole(&one.role, &one.shape), (one.data.dtype(), one.data.address())));
    let inputs: Vec<_> = bound.chain(zeros).collect();
    let targets = |one: &mut Wanted<'_>| {
        output(Bound::whole(one.name, one.shape), (one.given.dtype(), one.given.address_mut()))
    };
    let outputs: Vec<_> = wanted.iter_mut().map(targets).collect();
    let length = |name: &str| names.get(name).copied();
    let n_q = length("T").unwrap_or(1);
    let sizes = [length("B").unwrap_or(1), n_q, length("S").unwrap_or(n_q)];
    // SAFETY: inputs and outputs lie in vectors of this function, which nothing else borrows, with the shapes given.
    unsafe { plan.backward(mode as u32, sizes, &inputs, &outputs) }.map_err(|fault| {
        match fault.is_unsupported() {
            true => Stop::Skip(fault.text().to_owned()),
            false => Stop::Fail(format!("backward: {fault}")),
        }
    })?;
    Ok(Gradients { reference, all: wanted })
}

/// The type of a tensor or of its gradient. What is added up in place is `f32`, and what no plan has in other types.
fn dtype(role: Role, kind: RoleKind, types: Types) -> DType {
    match role.base() {
        Role::Z_IN | Role::Z_OUT | Role::SHIFT_IN | Role::SHIFT_OUT => DType::F32,
        Role::BIAS if role.is_grad() => DType::F32,
        _ => match kind {
            RoleKind::Input | RoleKind::Output => types.tokens,
            RoleKind::StateIn | RoleKind::StateOut => types.state,
            _ => DType::F32,
        },
    }
}

impl Gradients<'_> {
    /// With the file's, by the file's tolerances.
    pub fn compare_with_file(&self) -> Vec<Compared> {
        let compare = |one: &Wanted<'_>| {
            let tolerance = self.reference.gradient_tolerance(one.name);
            let allowance = self.reference.allowance(one.name);
            Compared::reals(one.name, &one.given.reals(), one.expected, tolerance, allowance)
        };
        self.all.iter().map(compare).collect()
    }

    /// With those of `f32` on the same values: one rounding to the type of each.
    pub fn compare_with(&self, expected: &Gradients<'_>) -> Vec<Compared> {
        let both = self.all.iter().zip(&expected.all);
        let compare = |(one, expected): (&Wanted<'_>, &Wanted<'_>)| {
            let (given, expected) = (one.given.reals(), expected.given.reals());
            compare_rounded(one.name, one.given.dtype(), &given, expected, 0.0)
        };
        both.map(compare).collect()
    }
}

/// A state comes whole: the parts that a file with a state leaves out, where they begin at zero.
fn missing_states(reference: &Reference, plan: &Plan, names: &Names) -> Result<Vec<Zeros>, Stop> {
    let batch = names.get("B").copied().unwrap_or(1);
    let components = plan.components().map_err(|fault| Stop::Fail(fault.to_string()))?;
    let (there, mut missing): (Vec<_>, Vec<_>) =
        components.into_iter().partition(|part| reference.tensors.contains_key(&part.role_in));
    missing.retain(|part| !there.is_empty() && part.initial == 0.0);
    let zeros = missing.into_iter().map(|part| {
        let shape = [&[batch], &part.shape[..]].concat();
        let len = shape.iter().product::<i64>() as usize;
        Zeros { role: part.role_in, shape, data: Values::new(vec![0.0; len], part.dtype) }
    });
    Ok(zeros.collect())
}

fn want<'a>(name: &'a str, tensor: &'a Tensor, dtype: DType) -> Result<Wanted<'a>, Stop> {
    match &tensor.data {
        Data::F32(expected) => {
            let given = Values::new(vec![f32::NAN; expected.len()], dtype);
            Ok(Wanted { name, shape: &tensor.shape, expected, given })
        }
        Data::I32(_) => Err(no_type(name, "i32")),
        Data::Other(dtype) => Err(no_type(name, dtype)),
    }
}
