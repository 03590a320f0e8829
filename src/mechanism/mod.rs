//! One short file per mechanism: the formula, its parameters, and the engine settings it is made of.
//!
//! A mechanism is data: [`Entry::assemble`] turns checked parameters into [`Settings`], an engine and how it is
//! set: for the linear engine, a [`Recurrence`].
#![forbid(unsafe_code)]

mod abc;
mod bswa;
mod causal_conv;
mod common;
mod cosformer;
mod dape_v2;
mod delta_rule;
mod diag;
mod diff;
mod dijiang;
mod dnas;
mod dpfp;
mod fam_block;
mod feature_fixation;
mod flash;
mod focal;
mod focused;
mod fox;
mod gate;
mod gated_delta_rule;
mod gau;
mod gdn2;
mod gla;
mod gsa;
mod hard_retrieval;
mod hedgehog;
mod integral;
mod kda;
mod lasp;
mod lavo;
mod lightning;
mod linear;
mod linear1p;
mod lla;
mod lln;
mod mamba2;
mod parallax;
mod retention;
mod rfa_gate;
mod rwkv6;
mod rwkv7;
mod simple_gla;
mod softmax;
mod srformer;

use crate::catalog::Role;
use crate::engine::Settings;
use crate::engine::linear::{Decay, FeatureMap, Gain, Normaliser, Projection, Recurrence};
use crate::engine::softmax::{Attention, Form};
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
pub(crate) static ENTRIES: &[&Entry] = &[
    &linear::ENTRY,
    &retention::ENTRY,
    &lightning::ENTRY,
    &simple_gla::ENTRY,
    &mamba2::ENTRY,
    &gla::ENTRY,
    &gsa::ENTRY,
    &delta_rule::ENTRY,
    &gated_delta_rule::ENTRY,
    &kda::ENTRY,
    &gdn2::ENTRY,
    &rwkv7::ENTRY,
    &rwkv6::ENTRY,
    &gate::ENTRY,
    &linear1p::ENTRY,
    &gau::ENTRY,
    &flash::ENTRY,
    &lasp::ENTRY,
    &diag::ENTRY,
    &lavo::ENTRY,
    &rfa_gate::ENTRY,
    &cosformer::ENTRY,
    &hedgehog::ENTRY,
    &dpfp::ENTRY,
    &focused::ENTRY,
    &lln::ENTRY,
    &dijiang::ENTRY,
    &softmax::ENTRY,
    &focal::ENTRY,
    &fox::ENTRY,
    &bswa::ENTRY,
    &fam_block::ENTRY,
    &srformer::ENTRY,
    &diff::ENTRY,
    &integral::ENTRY,
    &dnas::ENTRY,
    &hard_retrieval::ENTRY,
    &lla::ENTRY,
    &parallax::ENTRY,
    &dape_v2::ENTRY,
    &abc::ENTRY,
    &feature_fixation::ENTRY,
    &causal_conv::ENTRY,
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
    /// As the catalogue says, with the alternative of its shapes that this role has: the first with the first, and
    /// so on.
    Like(Role),
    /// Must be bound.
    Required(&'static str),
    /// Must not be bound, and why.
    Refused(&'static str),
    /// Must not be bound, as a parameter is in its place; its gradient, that of the parameter, may be, with the first of
    /// the shapes.
    Parameter(&'static str),
    /// May be bound in modes with an order of tokens; why not in others.
    Ordered(&'static str),
    /// Comes with this role or not at all.
    With(Role),
    /// As the catalogue says, with the key length in place of the query length: queries and keys are made of it, or
    /// belong to it, and in modes causal and step the last of its tokens are the queries.
    Cached,
}

/// Roles whose meaning depends on parameters.
pub(crate) fn role_use(settings: &Settings, role: Role) -> Use {
    match settings {
        Settings::Linear(recurrence) => role_of_recurrence(recurrence, role),
        Settings::Gate(form) => gate::role_use(*form, role),
        Settings::Softmax(attention) => match (role, attention.wants_ridge()) {
            (Role::RIDGE, Some(true)) => Use::Required("parameter ridge is not given"),
            (Role::RIDGE, Some(false)) => Use::Parameter("parameter ridge is given"),
            _ => role_of_segments(attention, role),
        },
        Settings::GatedUnit(_) => match role {
            Role::QK | Role::V | Role::BIAS => Use::Cached,
            _ => Use::Catalogue,
        },
        Settings::Conv(_) | Settings::Slots(_) | Settings::OrthogonalMemory(_) => Use::Catalogue,
        Settings::Segments(settings) => match (role, settings.inner.gain) {
            (Role::BETA, Gain::Beta) => Use::Required("inner = gated_delta_rule needs it"),
            (Role::BETA, _) => Use::Refused("it is read only with inner = gated_delta_rule"),
            (Role::G, _) => Use::Shape(usize::from(settings.inner.decay != Decay::Head)),
            _ => Use::Catalogue,
        },
    }
}

/// What is carried between calls of one sequence of queries, where segments of keys belong to these.
fn role_of_segments(attention: &Attention, role: Role) -> Use {
    let Form::Segments(segments) = &attention.form else { return Use::Catalogue };
    match role {
        Role::QUERY_START
        | Role::STATE_IN
        | Role::MEMORY_IN
        | Role::MEMORY_OUT
        | Role::TOTAL_IN
        | Role::TOTAL_OUT
        | Role::Z_IN
        | Role::Z_OUT
            if segments.gen_len.is_none() =>
        {
            Use::Refused("parameter gen_len is not given: the queries of the call are all of their sequence")
        }
        Role::Z_IN | Role::Z_OUT if !segments.normed => {
            Use::Refused("norms are kept only with normalize = key_norm")
        }
        _ => Use::Catalogue,
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
        Role::DECAY if recurrence.decay == Decay::Head => {
            Use::Ordered("a decay has no meaning without an order of tokens")
        }
        Role::W_GATE_K => Use::With(Role::B_GATE_K),
        Role::B_GATE_K => Use::With(Role::W_GATE_K),
        _ => role_of_projection(recurrence.features.projection, role),
    }
}

/// Weights of a feature map's projection.
fn role_of_projection(projection: Projection, role: Role) -> Use {
    let needed = "the projection is made of it";
    match (role, projection) {
        (Role::W, Projection::Rows { .. })
        | (Role::W_Q | Role::W_K, Projection::PerHead { .. })
        | (Role::W_QK, Projection::Shared { .. }) => Use::Required(needed),
        (Role::W, _) => Use::Refused("it is read only with feature_map = rfa"),
        (Role::SIGMA, Projection::Rows { sigma: true, .. })
        | (Role::B_Q | Role::B_K, Projection::PerHead { .. })
        | (Role::B_QK, Projection::Shared { .. }) => Use::Catalogue,
        (Role::SIGMA, Projection::Rows { .. }) => {
            Use::Refused("it is per query head, and keys take the same: heads_q has to equal heads_k")
        }
        (Role::SIGMA, _) => Use::Refused("it is read only with feature_map = rfa"),
        (Role::W_Q | Role::W_K | Role::B_Q | Role::B_K, _) => {
            Use::Refused("it is read only with form = split, and parameter F gives its width")
        }
        (Role::W_QK | Role::B_QK, _) => {
            Use::Refused("it is read only with form = concat, and parameter F gives its width")
        }
        _ => Use::Catalogue,
    }
}
