//! Values that break things, and sizes around every block: against the oracle where there is a right answer, and by
//! what stays untouched where there is none.

mod decays;
mod maps;
mod poison;
mod sizes;

use crate::common::golden::Array;
use crate::common::oracle;
use crate::common::problem::{
    self, Problem, Tensors, assert_same_bits, attention, context, isas, mechanisms,
};
use crate::common::support::{Rng, seed};
use std::hint::black_box;
use std::time::{Duration, Instant};
use subquad::catalog::{Mechanism, RoleKind};
use subquad::{Isa, Mode, Plan, Role};

/// Runs the problem on every instruction set against the oracle.
#[track_caller]
fn compare(p: &Problem, what: &str) {
    let want = oracle::expect(p);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let got = p.run(&problem::context_of(isa));
        oracle::check(&got, &want, || format!("{what} on {isa}, SUBQUAD_SEED={}: {p}", seed()));
    }
}

fn filled(mechanism: &'static Mechanism, heads: [i64; 3], dims: (i64, i64), t: i64) -> (Rng, Problem) {
    let mut rng = Rng::new(seed() ^ t as u64);
    let p = Problem::new(mechanism, vec![]).sized(heads, dims, 2, t).fill(&mut rng, true);
    (rng, p)
}

fn set(p: &mut Problem, role: Role, value: impl FnMut(usize) -> f32) {
    let array = p.inputs.get_mut(&role).unwrap_or_else(|| panic!("{role} is bound"));
    array.data = (0..array.data.len()).map(value).collect();
}

fn with_role(role: Role) -> impl Iterator<Item = &'static Mechanism> {
    mechanisms().into_iter().filter(move |mechanism| mechanism.role(role).is_some())
}

/// What scales the delta rule's reading and writing: `beta`, or a gate for each.
fn gains(mechanism: &Mechanism) -> Vec<Role> {
    let there = |role: &Role| mechanism.role(*role).is_some();
    [Role::BETA, Role::ERASE, Role::WRITE].into_iter().filter(there).collect()
}

fn delta_rules() -> impl Iterator<Item = &'static Mechanism> {
    mechanisms().into_iter().filter(|mechanism| !gains(mechanism).is_empty())
}

/// Binds `g`, and nothing in its place.
fn bind_decay(rng: &mut Rng, p: &mut Problem) {
    p.inputs.remove(&Role::DECAY_RATE);
    let values = p.values(rng, Role::G);
    p.inputs.insert(Role::G, values);
}

const DECAYS: [f32; 7] = [0.0, f32::NEG_INFINITY, -5.0, -1e-6, -300.0, -1000.0, -0.3];
