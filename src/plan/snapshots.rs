//! Snapshots of the state inside a causal call: `snapshot_at`, and for each part of the state a tensor with the extents
//! `[n_sequences, N]` in front of the part's own.

use super::check::{Bound, Pass};
use super::shape::Size;
use super::{Inner, StateComponent};
use crate::args::Side;
use crate::catalog::{Mode, Role};
use crate::error::{Error, Result};
use crate::tensor::{DType, Index, Tensor};

/// Whether a call may bind one of these roles so.
pub fn check_role(
    plan: &Inner,
    (pass, mode): (Pass, Mode),
    role: Role,
    side: Side,
    given: DType,
) -> Result<()> {
    let wrong = |why| Err(Error::WrongRole { role, why });
    let part = plan.state.components.iter().find(|part| part.role_out.snapshots() == role);
    let (own, dtype) = match part {
        Some(part) => (Side::Out, part.dtype),
        None if role == Role::SNAPSHOT_AT && !plan.state.components.is_empty() => (Side::In, DType::I32),
        None => return wrong("the plan has no such part of a state"),
    };
    match (own, side) {
        _ if pass != Pass::Forward => wrong("snapshots are taken by a forward pass"),
        _ if mode != Mode::Causal => wrong("only mode causal has a state after some of its tokens"),
        _ if plan.settings.equal_parts().is_some() => {
            wrong("the mechanism runs parts of a sequence at the same time: it has no state in between")
        }
        (Side::Out, Side::In) => wrong("it is an output"),
        (Side::In, Side::Out) => wrong("it is an input"),
        _ if given != dtype => Err(Error::WrongDType { role, given, expected: dtype.name() }),
        _ => Ok(()),
    }
}

impl Bound {
    /// Snapshots come whole, in the shapes and after the numbers of tokens that the sequences allow.
    pub fn check_snapshots(&self, plan: &Inner, n_sequences: Option<i64>) -> Result<()> {
        let role = Role::SNAPSHOT_AT;
        let Some(at) = self.get(role) else {
            return match self.iter().any(|(own, ..)| own.is_snapshot()) {
                true => Err(Error::MissingRole { role, why: "snapshots are bound" }),
                false => Ok(()),
            };
        };
        let n_sequences = n_sequences.unwrap_or(self.size(Size::B));
        check_extents(role, &at, &[(n_sequences, "the number of sequences"), (at.layout.shape[1], "")])?;
        for part in &plan.state.components {
            self.check_part(part, [n_sequences, at.layout.shape[1]])?;
        }
        let sequences = self.call(Mode::Causal).sequences;
        for sequence in (0..sequences.len()).filter_map(|i| sequences.get(i)) {
            self.check_times(&at, sequence.index, sequence.n_k)?;
        }
        Ok(())
    }

    fn check_part(&self, part: &StateComponent, [n_sequences, n]: [i64; 2]) -> Result<()> {
        let role = part.role_out.snapshots();
        let Some(tensor) = self.get(role) else {
            // Without its shift a state is in plain scale, as where it is carried out.
            if part.role_out == Role::SHIFT_OUT {
                return Ok(());
            }
            let why = "snapshot_at is bound, and a snapshot is of the whole state";
            return Err(Error::MissingRole { role, why });
        };
        let mut expected = [(0, "the extent of that part of the state"); 5];
        expected[0] = (n_sequences, "the number of sequences");
        expected[1] = (n, "snapshot_at.shape[1]");
        for (expected, &extent) in expected[2..].iter_mut().zip(&part.shape) {
            expected.0 = extent;
        }
        check_extents(role, &tensor, &expected[..2 + part.rank])
    }

    /// Numbers of tokens of one sequence, which has `most`.
    fn check_times(&self, at: &Tensor, sequence: usize, most: usize) -> Result<()> {
        let times = Index(at.index(sequence));
        let mut last = 0;
        for i in 0..times.len() {
            let given = times.get(i);
            let why = match given {
                -1 => continue,
                _ if given < 0 => "it is neither a number of tokens nor -1",
                _ if given > most as i64 => "the sequence has fewer tokens",
                _ if given < last => "numbers of tokens never fall",
                _ => {
                    last = given;
                    continue;
                }
            };
            let at = sequence * times.len() + i;
            return Err(Error::IndexValue { role: Role::SNAPSHOT_AT, at, given, why });
        }
        Ok(())
    }
}

/// Rank and extents of a tensor, each with where it comes from.
fn check_extents(role: Role, tensor: &Tensor, expected: &[(i64, &'static str)]) -> Result<()> {
    let given = tensor.layout.rank;
    if given != expected.len() {
        return Err(Error::WrongRank { role, given, expected: expected.len() });
    }
    for (axis, &(expected, from)) in expected.iter().enumerate() {
        let given = tensor.layout.shape[axis];
        if given != expected {
            return Err(Error::WrongExtent { role, axis, given, expected, from });
        }
    }
    Ok(())
}
