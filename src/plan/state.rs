//! The state of one sequence: its tensors, and a layout for them in one piece of memory.

use super::Use;
use super::shape::{Dim, Sizes};
use crate::catalog::{Role, RoleKind, RoleSpec};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// One tensor of the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateComponent {
    /// Role that reads it.
    pub role_in: Role,
    /// Role that writes it.
    pub role_out: Role,
    /// Element type.
    pub dtype: DType,
    /// Number of axes without the batch.
    pub rank: usize,
    /// Extents without the batch, `[Hs, M, E]` or `[Hs, M]`; 1 past `rank`.
    pub shape: [i64; 3],
    /// Where it begins in the memory of one sequence, row-major from there on.
    pub offset_bytes: usize,
    /// Value of every element before the first token.
    pub initial: f32,
}

/// The state of one sequence.
///
/// The state is plain numbers in the shapes of the mechanism's page, row-major: `state [Hs, D, E]` of the plan's
/// `dtype_state`, then what the mechanism keeps beside it; normalisers, shifts, logarithms of sums and counts are
/// `f32`. Any strided tensor of those extents can be bound instead, so the transposed `[E, D]` of other engines needs
/// strides, not a conversion.
#[derive(Clone, Debug, PartialEq)]
pub struct StateLayout {
    /// Its tensors.
    pub components: Vec<StateComponent>,
    /// Bytes of all of them, each at a multiple of 64.
    pub size_bytes: usize,
}

/// Element type of a part of the state. Normalisers, shifts, logarithms of sums and counts are a hundredth of the
/// bytes, and divide or scale everything: they stay `f32`.
pub(super) fn state_dtype(role: Role, dtype_state: DType) -> DType {
    match role {
        Role::Z_IN | Role::Z_OUT | Role::SHIFT_IN | Role::SHIFT_OUT => DType::F32,
        Role::LSE_IN | Role::LSE_OUT | Role::COUNT_IN | Role::COUNT_OUT => DType::F32,
        _ => dtype_state,
    }
}

impl StateLayout {
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = (&'static RoleSpec, &'a [Dim], Use)> + Clone,
        sizes: &Sizes,
        dtype_state: DType,
    ) -> Result<StateLayout> {
        let of = |kind| {
            let usable = |usage| !matches!(usage, Use::Refused(_));
            rules.clone().filter(move |(spec, _, usage)| spec.kind == kind && usable(*usage))
        };
        let mut layout = StateLayout { components: Vec::new(), size_bytes: 0 };
        for ((spec_in, dims, _), (spec_out, ..)) in of(RoleKind::StateIn).zip(of(RoleKind::StateOut)) {
            let fault = Error::Internal("the state's shape has a size that only a call knows");
            let mut component = StateComponent {
                role_in: spec_in.role,
                role_out: spec_out.role,
                dtype: state_dtype(spec_in.role, dtype_state),
                rank: dims.len() - 1,
                shape: [1; 3],
                offset_bytes: layout.size_bytes,
                // Logarithms of sums and maxima: of nothing.
                initial: match spec_in.role {
                    Role::SHIFT_IN | Role::LSE_IN => f32::NEG_INFINITY,
                    _ => 0.0,
                },
            };
            for (extent, dim) in component.shape.iter_mut().zip(&dims[1..]) {
                *extent = dim.value(sizes).ok_or(fault.clone())?;
            }
            let size = component.dtype.size();
            let bytes = component.shape.iter().try_fold(size, |n, &x| n.checked_mul(x as usize));
            let end = bytes.and_then(|n| n.checked_next_multiple_of(64)?.checked_add(layout.size_bytes));
            layout.size_bytes = end.ok_or(Error::Unsupported {
                what: "a state of these dimensions".into(),
                why: "its size overflows".into(),
            })?;
            layout.components.push(component);
        }
        Ok(layout)
    }
}
