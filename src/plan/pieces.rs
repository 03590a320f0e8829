//! Queries of one sequence in several calls, where their numbers count: `query_start`, and what is carried from call to call
//! (`docs/spec/softmax.md` 6).

use super::check::{Bound, Pass};
use super::{Inner, RoleRule};
use crate::catalog::{Mode, Role, RoleKind};
use crate::error::{Error, Result};
use crate::mechanism::Use;
use crate::tensor::Index;

/// Parts of the state that come with another one, whatever the call.
const TOGETHER: [(Role, Role); 7] = [
    (Role::STATE_IN, Role::MEMORY_IN),
    (Role::MEMORY_IN, Role::STATE_IN),
    (Role::MEMORY_OUT, Role::STATE_OUT),
    (Role::TOTAL_IN, Role::Z_IN),
    (Role::Z_IN, Role::TOTAL_IN),
    (Role::TOTAL_OUT, Role::Z_OUT),
    (Role::Z_OUT, Role::TOTAL_OUT),
];

/// Whether a pass takes this role of such a mechanism.
pub fn check_role(pass: Pass, rule: &RoleRule) -> Result<()> {
    let (role, carried) = (rule.spec.role, rule.spec.kind == RoleKind::StateIn);
    match pass {
        Pass::Backward if carried || role == Role::QUERY_START => {
            let why = "gradients are those of all queries of a sequence: they come in one call";
            Err(Error::WrongRole { role, why })
        }
        _ => Ok(()),
    }
}

impl Bound {
    /// What has to be bound together.
    pub fn check_parts(&self, plan: &Inner, mode: Mode) -> Result<()> {
        let has = |role| self.find(role).is_some();
        let kept = |role| {
            let rule = plan.rules.iter().find(|rule| rule.spec.role == role);
            rule.is_some_and(|rule| !matches!(rule.usage, Use::Refused(_)))
        };
        let in_pieces = has(Role::QUERY_START);
        let mut states = plan.rules.iter().filter(|rule| rule.spec.kind == RoleKind::StateIn);
        let why = match mode {
            _ if in_pieces => None,
            Mode::Step => Some("a step has to know which query of its sequence it is"),
            _ if states.any(|rule| has(rule.spec.role)) => {
                Some("a state is bound, and it is that before this query")
            }
            _ => None,
        };
        if let Some(why) = why {
            return Err(Error::MissingRole { role: Role::QUERY_START, why });
        }
        // Whole calls may be asked for the membrane alone.
        let handed_on = in_pieces.then_some((Role::STATE_OUT, Role::MEMORY_OUT));
        let mut pairs = TOGETHER.into_iter().chain(handed_on);
        match pairs.find(|&(one, other)| has(one) && kept(other) && !has(other)) {
            Some((_, role)) => Err(Error::MissingRole {
                role,
                why: "another part of the state is bound, which comes with it",
            }),
            None => Ok(()),
        }
    }

    /// Values of `query_start`; there is a state unless all are 0.
    pub fn check_starts(&self) -> Result<()> {
        let role = Role::QUERY_START;
        let Some(starts) = self.get(role).map(Index) else { return Ok(()) };
        for at in 0..starts.len() {
            let given = starts.get(at);
            if given < 0 {
                return Err(Error::IndexValue { role, at, given, why: "it is the number of a query" });
            }
            if given > 0 && self.find(Role::STATE_IN).is_none() {
                let why = "query_start is not 0, and there are queries before the call";
                return Err(Error::MissingRole { role: Role::STATE_IN, why });
            }
        }
        Ok(())
    }
}
