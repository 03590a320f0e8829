//! One short file per mechanism: the formula, its parameters, and the engine settings it is made of.
//!
//! A mechanism is data: [`Entry::assemble`] turns checked parameters into [`Settings`], an engine and how it is
//! set: for the linear engine, a [`Recurrence`].
#![forbid(unsafe_code)]

mod common;
mod delta_rule;
mod gated_delta_rule;
mod gla;
mod kda;
mod lasp;
mod lightning;
mod linear;
mod linear1p;
mod mamba2;
mod retention;
mod simple_gla;

use crate::catalog::Role;
use crate::engine::Settings;
use crate::engine::linear::{Decay, FeatureMap, Gain, Normaliser, Recurrence};
use crate::error::Result;
use crate::plan::Params;

/// A mechanism that this version computes.
pub(crate) struct Entry {
    /// Its name in the catalogue.
    pub name: &'static str,
    /// The engine settings for checked parameters.
    pub assemble: fn(&Params) -> Result<Settings>,
}

/// Every mechanism of this version, in the catalogue's order.
pub(crate) static ENTRIES: [&Entry; 11] = [
    &linear::ENTRY,
    &retention::ENTRY,
    &lightning::ENTRY,
    &simple_gla::ENTRY,
    &mamba2::ENTRY,
    &gla::ENTRY,
    &delta_rule::ENTRY,
    &gated_delta_rule::ENTRY,
    &kda::ENTRY,
    &linear1p::ENTRY,
    &lasp::ENTRY,
];

/// The entry of that name.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().copied().find(|entry| entry.name == name)
}

/// What a role means to a plan with these settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// As the catalogue says.
    Catalogue,
    /// As the catalogue says, with this alternative of its shapes.
    Shape(usize),
    /// Must be bound.
    Required(&'static str),
    /// Must not be bound, and why.
    Refused(&'static str),
}

/// Roles whose meaning depends on parameters.
pub(crate) fn role_use(settings: &Settings, role: Role) -> Use {
    match settings {
        Settings::Linear(recurrence) => role_of_recurrence(recurrence, role),
        Settings::Segments(settings) => match (role, settings.inner.gain) {
            (Role::BETA, Gain::Beta) => Use::Required("inner = gated_delta_rule needs it"),
            (Role::BETA, _) => Use::Refused("it is read only with inner = gated_delta_rule"),
            (Role::G, _) => Use::Shape(usize::from(settings.inner.decay != Decay::Head)),
            _ => Use::Catalogue,
        },
    }
}

fn role_of_recurrence(recurrence: &Recurrence, role: Role) -> Use {
    let normaliser = recurrence.normaliser;
    match role {
        Role::Z_IN | Role::Z_OUT if !recurrence.has_denominator() => {
            Use::Refused("z is kept only with normalize = denominator")
        }
        Role::SHIFT_IN | Role::SHIFT_OUT if recurrence.features.map != FeatureMap::Exp => {
            Use::Refused("a shift is kept only with feature_map = exp")
        }
        Role::GATE if matches!(normaliser, Normaliser::RmsGate { .. }) => {
            Use::Required("normalize = rms_gate multiplies the output by it")
        }
        Role::GATE => Use::Refused("it is read only with normalize = rms_gate"),
        Role::OUT_NORM_WEIGHT => match normaliser {
            Normaliser::RmsHead { .. } | Normaliser::RmsGate { .. } => Use::Shape(0),
            Normaliser::SrmsAll { .. } => Use::Shape(1),
            Normaliser::None | Normaliser::Denominator { .. } => {
                Use::Refused("it is read only where normalize is a norm of the output")
            }
        },
        _ => Use::Catalogue,
    }
}
