//! Tensor roles: a number for each name, the same in every language.

use super::tables::ROLES;
use std::fmt;

/// What a tensor is to a call: `q`, `state_in`, …. The gradient of a role is a role too, and so are snapshots of what
/// a call carries out.
///
/// Numbers 1 to 15 are roles of the interface (where data lies in memory); from 16 on they follow the
/// catalogue's list of roles, whose order is append-only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Role(pub(in crate::catalog) u16);

impl Role {
    /// Offsets of ragged sequences along the token axis, `[n_sequences + 1]`, i32.
    pub const CU_SEQLENS: Role = Role(1);
    /// The same for the keys of mode `cross`.
    pub const CU_SEQLENS_K: Role = Role(2);
    /// Slot of each sequence in a pool of states, `[n_sequences]`, i32; −1 skips the sequence.
    pub const STATE_INDEX: Role = Role(3);
    /// Numbers of tokens of each sequence after which a snapshot of its state is wanted, `[n_sequences, N]`, i32;
    /// ascending, −1 where none is.
    pub const SNAPSHOT_AT: Role = Role(4);
    /// Pages of a cache of keys and values, `[B, n]`, i32: `k` is a pool of pages `[P, Hk, page, D]`, `v` likewise, and key
    /// `s` of sequence `b` is row `s % page` of page `page_table[b, s / page]`.
    pub const PAGE_TABLE: Role = Role(5);
    /// Oldest key of each sequence in a ring of `S` rows, `[B]`, i32: key `s` is row `(key_start[b] + s) % S`.
    pub const KEY_START: Role = Role(6);

    /// Bit that turns a role into its gradient.
    const GRAD: u16 = 0x8000;
    /// Bit that turns what a state is carried out in into its snapshots.
    const SNAPSHOT: u16 = 0x4000;
    const INTERFACE: [(Role, &'static str); 6] = [
        (Role::CU_SEQLENS, "cu_seqlens"),
        (Role::CU_SEQLENS_K, "cu_seqlens_k"),
        (Role::STATE_INDEX, "state_index"),
        (Role::SNAPSHOT_AT, "snapshot_at"),
        (Role::PAGE_TABLE, "page_table"),
        (Role::KEY_START, "key_start"),
    ];
    /// How the names of what carries a state out end.
    const OUT_END: &'static str = "_out";
    const SNAPSHOTS_END: &'static str = "_snapshots";
    const FIRST: u16 = 16;

    /// The role with this number, if there is one.
    pub fn from_id(id: u32) -> Option<Role> {
        let role = Role(u16::try_from(id).ok()?);
        let base = role.base().0;
        let known = Role::INTERFACE.iter().any(|&(r, _)| r.0 == base)
            || (Role::FIRST..Role::FIRST + ROLES.len() as u16).contains(&base);
        let carried = || !role.is_grad() && role.base_name().ends_with(Role::OUT_END);
        (known && (!role.is_snapshot() || carried())).then_some(role)
    }

    /// The role of that name; `d` + name is its gradient, `x_snapshots` those of `x_out`.
    pub fn from_name(name: &str) -> Option<Role> {
        let plain = |name: &str| {
            let interface = Role::INTERFACE.iter().find(|(_, n)| *n == name).map(|&(r, _)| r);
            let listed = || ROLES.iter().position(|n| *n == name).map(|i| Role(Role::FIRST + i as u16));
            interface.or_else(listed)
        };
        let gradient = || Some(plain(name.strip_prefix('d')?)?.grad());
        let snapshots = || {
            let part = name.strip_suffix(Role::SNAPSHOTS_END)?;
            let carried = |own: &&str| own.strip_suffix(Role::OUT_END) == Some(part);
            Some(plain(ROLES.iter().copied().find(|own| carried(own))?)?.snapshots())
        };
        plain(name).or_else(gradient).or_else(snapshots)
    }

    /// The number of this role.
    pub fn id(self) -> u32 {
        self.0.into()
    }

    /// The gradient of this role.
    pub fn grad(self) -> Role {
        Role(self.0 | Role::GRAD)
    }

    /// Whether this is the gradient of a role.
    pub fn is_grad(self) -> bool {
        self.0 & Role::GRAD != 0
    }

    /// Snapshots of what is carried out in this role, one of those that end in `_out`: `state_snapshots` of
    /// `state_out`. Others have none, and no call takes them.
    pub fn snapshots(self) -> Role {
        Role(self.0 | Role::SNAPSHOT)
    }

    /// Whether these are snapshots.
    pub fn is_snapshot(self) -> bool {
        self.0 & Role::SNAPSHOT != 0
    }

    /// The role of which this is the gradient, or snapshots; a role that is neither is its own.
    pub fn base(self) -> Role {
        Role(self.0 & !(Role::GRAD | Role::SNAPSHOT))
    }

    /// The name of [`Role::base`].
    pub fn base_name(self) -> &'static str {
        let base = self.base().0;
        match Role::INTERFACE.iter().find(|(role, _)| role.0 == base) {
            Some((_, name)) => name,
            None => ROLES[(base - Role::FIRST) as usize],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (d, name) = (if self.is_grad() { "d" } else { "" }, self.base_name());
        if self.is_snapshot() {
            let part = name.strip_suffix(Role::OUT_END).unwrap_or(name);
            return write!(f, "{d}{part}{}", Role::SNAPSHOTS_END);
        }
        write!(f, "{d}{name}")
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Role({self})")
    }
}
