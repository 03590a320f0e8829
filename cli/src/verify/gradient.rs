//! The gradients of a reference file: one backward call, and its comparison.

use super::cabi::Plan;
use super::compare::Compared;
use super::reference::{Data, Reference, Tensor};
use super::replay::{Bound, Stop, dtype_and_address, input, no_type, output};
use crate::shape::Names;
use subquad::catalog::{Mechanism, RoleKind};
use subquad::{DType, Mode, Role};

/// A gradient that backward writes.
struct Wanted<'a> {
    name: &'a str,
    shape: &'a [i64],
    expected: &'a [f32],
    given: Vec<f32>,
}

/// A part of the incoming state that the file leaves out.
struct Zeros {
    role: String,
    shape: Vec<i64>,
    data: Vec<f32>,
}

/// Runs backward on the whole file, and compares every gradient of an input.
pub fn replay(
    reference: &Reference,
    mechanism: &Mechanism,
    mode: Mode,
    plan: &mut Plan,
    names: &Names,
) -> Result<Vec<Compared>, Stop> {
    let (mut inputs, mut wanted) = (Vec::new(), Vec::new());
    for (name, tensor) in &reference.tensors {
        let bound = || Ok(input(Bound::whole(name, &tensor.shape), dtype_and_address(name, &tensor.data)?));
        let Some(role) = Role::from_name(name) else { continue };
        let Some(spec) = mechanism.role(role.base()) else {
            let owner = mechanism.name;
            return Err(Stop::Fail(format!("tensor `{name}` is no gradient of a role of {owner}")));
        };
        use RoleKind::{GradOutput, Input, Output, StateIn, StateOut};
        match (spec.kind, role.is_grad()) {
            (Input | StateIn, false) | (Output | StateOut, true) => inputs.push(bound()?),
            (Input | StateIn, true) | (GradOutput, _) => wanted.push(want(name, tensor)?),
            (Output | StateOut, false) => {}
        }
    }
    let missing = missing_states(reference, plan, names)?;
    for Zeros { role, shape, data } in &missing {
        inputs.push(input(Bound::whole(role, shape), (DType::F32, data.as_ptr().cast())));
    }

    let targets = |one: &mut Wanted<'_>| {
        output(Bound::whole(one.name, one.shape), (DType::F32, one.given.as_mut_ptr().cast()))
    };
    let outputs: Vec<_> = wanted.iter_mut().map(targets).collect();
    let length = |name: &str| names.get(name).copied();
    let n_q = length("T").unwrap_or(1);
    let sizes = [length("B").unwrap_or(1), n_q, length("S").unwrap_or(n_q)];
    // SAFETY: inputs lie in vectors of the file and of this function, outputs in vectors that nothing else
    // borrows, all with the shapes given.
    unsafe { plan.backward(mode as u32, sizes, &inputs, &outputs) }.map_err(|fault| {
        match fault.is_unsupported() {
            true => Stop::Skip(fault.text().to_owned()),
            false => Stop::Fail(format!("backward: {fault}")),
        }
    })?;
    let compare = |one: &Wanted<'_>| {
        let (tolerance, allowance) = (reference.gradient_tolerance(one.name), reference.allowance(one.name));
        Compared::reals(one.name, &one.given, one.expected, tolerance, allowance)
    };
    Ok(wanted.iter().map(compare).collect())
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
        Zeros { role: part.role_in, shape, data: vec![0.0; len] }
    });
    Ok(zeros.collect())
}

fn want<'a>(name: &'a str, tensor: &'a Tensor) -> Result<Wanted<'a>, Stop> {
    match &tensor.data {
        Data::F32(expected) => {
            Ok(Wanted { name, shape: &tensor.shape, expected, given: vec![f32::NAN; expected.len()] })
        }
        Data::I32(_) => Err(no_type(name, "i32")),
        Data::Other(dtype) => Err(no_type(name, dtype)),
    }
}
