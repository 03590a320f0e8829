//! Caches whose keys do not lie one after the other: in pages that `page_table` lists, or in a ring that begins at
//! `key_start` (`docs/spec/softmax.md` 1.8).

use super::Inner;
use super::check::{Bound, Pass};
use super::shape::{Dim, Size};
use crate::args::Side;
use crate::catalog::{Mode, Role};
use crate::error::{Error, Result};
use crate::tensor::{DType, Index, Table};

/// Roles that say where keys lie.
pub const ROLES: [Role; 2] = [Role::PAGE_TABLE, Role::KEY_START];

/// Whether a call may bind one of these roles so.
pub fn check_role(
    plan: &Inner,
    (pass, mode): (Pass, Mode),
    role: Role,
    side: Side,
    given: DType,
) -> Result<()> {
    let wrong = |why| Err(Error::WrongRole { role, why });
    match mode {
        _ if !plan.settings.maps_keys() => wrong("the mechanism reads no cache in pages or rings"),
        _ if pass != Pass::Forward => wrong("caches in pages and rings are read by a forward pass only"),
        Mode::Causal | Mode::Step if side == Side::Out => wrong("it is an input"),
        Mode::Causal | Mode::Step if given != DType::I32 => {
            Err(Error::WrongDType { role, given, expected: "i32" })
        }
        Mode::Causal | Mode::Step => Ok(()),
        _ => wrong("a cache is read by modes causal and step"),
    }
}

impl Bound {
    /// What goes together with these roles; a table of pages gives the key length of the call.
    pub fn check_cache_roles(&mut self) -> Result<()> {
        let (table, start) = (self.get(Role::PAGE_TABLE), self.get(Role::KEY_START));
        let (role, tensor, expected) = match (table, start) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => {
                let why = "page_table is bound, and keys lie in pages or in a ring";
                return Err(Error::WrongRole { role: Role::KEY_START, why });
            }
            (Some(table), None) => (Role::PAGE_TABLE, table, 2),
            (None, Some(start)) => (Role::KEY_START, start, 1),
        };
        if self.get(Role::CU_SEQLENS).is_some() {
            let why = "cu_seqlens is bound, and packed sequences have their keys in a row";
            return Err(Error::WrongRole { role, why });
        }
        let given = tensor.layout.rank;
        if given != expected {
            return Err(Error::WrongRank { role, given, expected });
        }
        if role == Role::PAGE_TABLE {
            if self.get(Role::KEY_LEN).is_none() {
                return Err(Error::MissingRole { role: Role::KEY_LEN, why: "page_table is bound" });
            }
            if let Some(k) = self.get(Role::K).filter(|k| k.layout.rank == 4) {
                self.set_size(Size::S, tensor.layout.shape[1].saturating_mul(k.layout.shape[2]));
            }
        }
        Ok(())
    }

    /// Whether the lengths of the call are those of its sequences, which may be 0 beside a token of a step.
    pub fn counts_keys(&self) -> bool {
        ROLES.into_iter().any(|role| self.find(role).is_some())
    }

    /// What an extent of a pool of pages has to be, and where that comes from, if this is one.
    pub fn pool_extent(&self, role: Role, dim: &Dim) -> Option<(i64, &'static str)> {
        let (axis, from) = match dim {
            Dim::Size(Size::B) => (0, "the number of pages of k"),
            Dim::Size(Size::S) => (2, "the number of rows in a page of k"),
            _ => return None,
        };
        let pool = [Role::K, Role::V].contains(&role) && self.find(Role::PAGE_TABLE).is_some();
        self.find(Role::K).filter(|_| pool).map(|k| (k.layout.shape[axis], from))
    }

    /// Every sequence's keys are there, and are no fewer than its queries in mode causal.
    pub fn check_caches(&self, mode: Mode) -> Result<()> {
        let bound = ROLES.into_iter().find_map(|role| Some((role, self.get(role)?)));
        let (Some((role, tensor)), Some(k)) = (bound, self.get(Role::K)) else { return Ok(()) };
        let (given, expected) = (tensor.layout.shape[0], self.size(Size::B));
        if given != expected {
            let from = "the batch of the call";
            return Err(Error::WrongExtent { role, axis: 0, given, expected, from });
        }
        let (pages, rows, most) = (k.layout.shape[0], k.layout.shape[2], self.size(Size::S));
        let lengths = self.get(Role::KEY_LEN).map(Index);
        for at in 0..expected as usize {
            let n = lengths.map_or(most, |lengths| lengths.get(at));
            let fault = |why| Err(Error::IndexValue { role: Role::KEY_LEN, at, given: n, why });
            match () {
                () if !(0..=most).contains(&n) && role == Role::PAGE_TABLE => {
                    return fault("a length is from 0 to the rows of the sequence's pages");
                }
                () if !(0..=most).contains(&n) => return fault("a length is from 0 to the rows of the ring"),
                () if mode == Mode::Causal && n < self.size(Size::T) => {
                    return fault("the sequence has fewer keys than queries");
                }
                () if role == Role::PAGE_TABLE => check_pages(&Table(tensor), at, (n, rows), pages)?,
                () => {
                    let given = Index(tensor).get(at);
                    if !(0..rows.max(1)).contains(&given) {
                        return Err(Error::IndexValue { role, at, given, why: "it is no row of the ring" });
                    }
                }
            }
        }
        Ok(())
    }
}

/// The pages of the `n` keys of a sequence; what follows in the table is not looked at.
fn check_pages(table: &Table, sequence: usize, (n, page): (i64, i64), pages: i64) -> Result<()> {
    let of_sequence = table.0.extent(1);
    for i in 0..(n as usize).div_ceil(page.max(1) as usize) {
        let given = table.get(sequence, i);
        if !(0..pages).contains(&given) {
            let (role, at, why) = (Role::PAGE_TABLE, sequence * of_sequence + i, "it is no page of k");
            return Err(Error::IndexValue { role, at, given, why });
        }
    }
    Ok(())
}
