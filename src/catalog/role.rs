//! Tensor roles: a number for each name, the same in every language.

use super::tables::ROLES;
use std::fmt;

/// What a tensor is to a call: `q`, `state_in`, …. The gradient of a role is a role too.
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

    /// Bit that turns a role into its gradient.
    const GRAD: u16 = 0x8000;
    const INTERFACE: [(Role, &'static str); 3] = [
        (Role::CU_SEQLENS, "cu_seqlens"),
        (Role::CU_SEQLENS_K, "cu_seqlens_k"),
        (Role::STATE_INDEX, "state_index"),
    ];
    const FIRST: u16 = 16;

    /// The role with this number, if there is one.
    pub fn from_id(id: u32) -> Option<Role> {
        let role = Role(u16::try_from(id).ok()?);
        let base = role.0 & !Role::GRAD;
        let known = Role::INTERFACE.iter().any(|&(r, _)| r.0 == base)
            || (Role::FIRST..Role::FIRST + ROLES.len() as u16).contains(&base);
        known.then_some(role)
    }

    /// The role of that name; `d` + name is its gradient.
    pub fn from_name(name: &str) -> Option<Role> {
        let plain = |name: &str| {
            let interface = Role::INTERFACE.iter().find(|(_, n)| *n == name).map(|&(r, _)| r);
            let listed = || ROLES.iter().position(|n| *n == name).map(|i| Role(Role::FIRST + i as u16));
            interface.or_else(listed)
        };
        plain(name).or_else(|| Some(plain(name.strip_prefix('d')?)?.grad()))
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

    /// The role of which this is the gradient; a role that is none is its own.
    pub fn base(self) -> Role {
        Role(self.0 & !Role::GRAD)
    }

    /// The name, without the `d` of a gradient.
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
        write!(f, "{}{}", if self.is_grad() { "d" } else { "" }, self.base_name())
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Role({self})")
    }
}
