//! Summaries of segments of a sequence, and their combination: calls beside those of the mechanism, whose roles
//! are made here from its own.

use super::check::{self, Bound, Pass};
use super::shape::Dim;
use super::{Inner, Plan, RoleRule, other_type};
use crate::args::Args;
use crate::catalog::{Mode, Role, RoleKind, RoleSpec};
use crate::context::Context;
use crate::engine::segments::Summaries;
use crate::engine::{Extents, Settings, Transition};
use crate::error::{Error, Result};
use crate::mechanism::Use;
use crate::workspace::{self, Workspace};

/// What a plan has for segments.
#[derive(Debug)]
pub struct Segments {
    summaries: Summaries,
    pub summary: Vec<RoleRule>,
    pub combination: Vec<RoleRule>,
}

const fn message(role: Role, kind: RoleKind, shapes: &'static [&'static str]) -> RoleSpec {
    RoleSpec {
        role,
        kind,
        dtype: "f32",
        shapes,
        required: false,
        differentiable: false,
        one_of: "",
        also_input: false,
        note: "",
    }
}

const TRANSITIONS: &[&str] = &["B,Hs", "B,Hs,M", "B,Hs,M,M"];
static TRANSITION_OUT: RoleSpec = message(Role::MSG_TRANSITION, RoleKind::Output, TRANSITIONS);
static TRANSITION_IN: RoleSpec = message(Role::MSG_TRANSITION, RoleKind::Input, TRANSITIONS);
static LOCAL: RoleSpec = message(Role::MSG_LOCAL, RoleKind::Input, &["B,Hs,M,E"]);
static LOCAL_Z: RoleSpec = message(Role::MSG_LOCAL_Z, RoleKind::Input, &["B,Hs,M"]);

impl Segments {
    /// What `settings` needs for segments; `None` where they have none.
    pub fn plan(
        context: &Context,
        settings: &Settings,
        extents: Extents,
        rules: &[RoleRule],
        shape: impl Fn(&str) -> Result<Vec<Dim>>,
    ) -> Result<Option<Segments>> {
        let Settings::Linear(recurrence) = settings else { return Ok(None) };
        let kind = recurrence.transition();
        let index = match kind {
            Transition::None => return Ok(None),
            Transition::Same => None,
            Transition::Factor => Some(0),
            Transition::Diagonal => Some(1),
            Transition::Matrix => Some(2),
        };
        let summaries = Summaries::plan(context, *recurrence, extents, kind == Transition::Matrix)?;
        let rule = |spec: &'static RoleSpec, usage| {
            let text = match (index, spec.shapes.len()) {
                (Some(index), 3) => spec.shapes[index],
                _ => spec.shapes[0],
            };
            Ok::<_, Error>(RoleRule { spec, shapes: vec![shape(text)?], usage })
        };
        let transition = |usage| match index {
            None => Use::Refused("the tokens do nothing to an incoming state but add to it"),
            Some(_) => usage,
        };
        let mut summary = vec![rule(&TRANSITION_OUT, transition(Use::Catalogue))?];
        summary.extend(rules.iter().map(|rule| RoleRule { usage: in_summary(rule), ..rule.clone() }));
        let mut combination = vec![
            rule(
                &TRANSITION_IN,
                transition(Use::Required("it is what the segment does to the incoming state")),
            )?,
            rule(&LOCAL, Use::Required("it is the segment's own part of the state"))?,
        ];
        if recurrence.has_denominator() {
            combination
                .push(rule(&LOCAL_Z, Use::Required("it is the segment's own part of the normaliser"))?);
        }
        for rule in rules.iter().filter(|rule| rule.is_state() && !matches!(rule.usage, Use::Refused(_))) {
            let usage = Use::Required("states are what is combined");
            combination.push(RoleRule { usage, ..rule.clone() });
        }
        Ok(Some(Segments { summaries, summary, combination }))
    }
}

/// What a role of the mechanism is to a summary.
fn in_summary(rule: &RoleRule) -> Use {
    match (rule.spec.kind, rule.spec.role, rule.usage) {
        (_, _, Use::Refused(why)) => Use::Refused(why),
        (RoleKind::Output, ..) | (_, Role::Q | Role::GATE | Role::OUT_NORM_WEIGHT, _) => {
            Use::Refused("a summary has no outputs but states and messages")
        }
        (_, Role::GV, _) => Use::Refused("a decay of value channels is no map of the state's rows"),
        (RoleKind::StateIn, ..) => Use::Refused("a summary begins with an empty state"),
        (RoleKind::StateOut, ..) => Use::Required("it is what a summary computes"),
        (.., usage) => usage,
    }
}

impl Plan {
    /// Bytes of workspace that [`Plan::summarise`] and [`Plan::combine`] need, whatever the lengths.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the plan has no summaries.
    pub fn segment_workspace_size(&self) -> Result<usize> {
        let len = self.inner.segments()?.summaries.workspace_len();
        Ok(workspace::bytes(self.inner.context.max_workers(), len))
    }

    /// Summary of a segment of a sequence, for those who split a sequence over threads, processes or hosts: its
    /// final state from an empty one, `state_out` (and `z_out`), and in `msg_transition`, where it is bound, what
    /// the segment does to a state that comes in: `S_out = M S_in + S⁰`.
    ///
    /// `args` binds the inputs of mode causal but `q`, any state, and what the norm of an output reads.
    /// `msg_transition` is `[B, Hs]` where a token has one decay, `[B, Hs, D]` where each channel has its own and
    /// `[B, Hs, D, D]` with a correction; without a decay there is none. Ragged batches and pooled states are
    /// those of [`Plan::execute`].
    ///
    /// The segment's outputs follow when its incoming state is known, by [`Plan::execute`]. Gradients go the
    /// other way: `dstate_in` of [`Plan::backward`] without `dstate_out` is the local part, and `dS_in = Mᵀ dS_out +
    /// dS⁰` is [`Plan::combine`] with the strides of `M` swapped.
    ///
    /// *Cost*: the state's part of a causal call; a matrix as much again for `E = D`. *Allocates*: no. Since
    /// 0.1.0. *Source*: Sun et al., LASP, arXiv 2404.02882 (`docs/spec/linear.md` 10).
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the plan was not made for mode causal, the mechanism is not one recurrence, its
    /// state is kept in another form (`feature_map = exp`), or an element type is not `f32`. Otherwise those of [`Plan::execute`].
    pub fn summarise(&self, args: &Args<'_>, workspace: &mut [u8]) -> Result<()> {
        let inner = &*self.inner;
        let segments = inner.segments()?;
        let mut bound = Bound::new(inner);
        bound.bind(inner, Pass::Summary, Mode::Causal, args)?;
        let call = bound.call(Mode::Causal);
        let len = segments.summaries.workspace_len();
        let workspace = Workspace::new(workspace, inner.context.max_workers(), len)?;
        segments.summaries.summarise(inner.context.runner(), &call, &workspace)
    }

    /// The state that leaves a segment: `S_out = M S_in + S⁰`, from `state_in`, `msg_transition` and `msg_local`
    /// (the `state_out` of [`Plan::summarise`]), and the same for `z` with `msg_local_z`. `state_out` may be
    /// `state_in` in place.
    ///
    /// *Cost*: one pass over the state; `2·D·D·E` FLOPs per head with a matrix. *Allocates*: no. Since 0.1.0.
    ///
    /// # Errors
    /// As [`Plan::summarise`].
    pub fn combine(&self, args: &Args<'_>, workspace: &mut [u8]) -> Result<()> {
        let inner = &*self.inner;
        let segments = inner.segments()?;
        let mut bound = Bound::new(inner);
        bound.bind(inner, Pass::Combination, Mode::Causal, args)?;
        let call = bound.call(Mode::Causal);
        let len = segments.summaries.workspace_len();
        let workspace = Workspace::new(workspace, inner.context.max_workers(), len)?;
        segments.summaries.combine(inner.context.runner(), &call, &workspace)
    }
}

impl Inner {
    fn segments(&self) -> Result<&Segments> {
        check::check_planned(self, Mode::Causal)?;
        self.segments.as_ref().ok_or_else(|| {
            let what = format!("summaries of {}", self.mechanism.name);
            match other_type(&self.desc) {
                Some((name, dtype)) => Error::Unsupported {
                    what: format!("{what} with desc.{name} = {dtype}"),
                    why: "they are computed on f32 tensors only".into(),
                },
                None => Error::Unsupported {
                    what,
                    why: "its state is not that of one recurrence in plain scale".into(),
                },
            }
        })
    }

    /// The roles of a call.
    pub fn rules(&self, pass: Pass) -> &[RoleRule] {
        match (pass, &self.segments) {
            (Pass::Summary, Some(segments)) => &segments.summary,
            (Pass::Combination, Some(segments)) => &segments.combination,
            _ => &self.rules,
        }
    }
}
