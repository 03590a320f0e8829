//! Mechanisms of `docs/spec/other.md`.
//!
//! Generated from `docs/spec/catalog.json` by `SUBQUAD_BLESS=1 cargo test --test catalog`: do not edit.

use crate::catalog::{Default, Mechanism, Mode, Param, ParamKind, Range, Role, RoleSpec, StepKind};

pub(super) static MECHANISMS: &[Mechanism] = &[Mechanism {
    name: "rfaconv",
    title: "Receptive-field attention convolution",
    page: "other.md",
    section: "1",
    engines: &["transform"],
    modes: &[Mode::Transform],
    refused: &[],
    conditions: &[],
    step: StepKind::None,
    gradient: true,
    params: &[
        Param::new("form", ParamKind::Word, Range::Words(&["group", "unfold"]), Default::Word("group")),
        Param::new("stride", ParamKind::Int, Range::AtLeast(1.0), Default::Int(1)),
        Param::new("activation", ParamKind::Word, Range::Words(&["relu", "identity"]), Default::Word("relu")),
    ],
    roles: &[
        RoleSpec::input(Role::X, &["B,C,Hi,Wi"]).required().differentiable(),
        RoleSpec::input(Role::W_ATT, &["C,K", "C,K,K"]).required().differentiable(),
        RoleSpec::input(Role::B_ATT, &["C,K"]).differentiable().note("unfold"),
        RoleSpec::input(Role::W_FEAT, &["C,K,K"]).differentiable().note("group"),
        RoleSpec::input(Role::FEAT_SCALE, &["C*K"]).differentiable(),
        RoleSpec::input(Role::FEAT_SHIFT, &["C*K"]).differentiable(),
        RoleSpec::input(Role::W_CONV, &["O,C,K"]).required().differentiable(),
        RoleSpec::input(Role::OUT_SCALE, &["O"]).required().differentiable(),
        RoleSpec::input(Role::OUT_SHIFT, &["O"]).required().differentiable(),
        RoleSpec::output(Role::OUT, &["B,O,Ho,Wo"]).differentiable(),
    ],
    same_as: "",
}];
