//! Summaries of segments of a sequence, and their combination: calls beside those of the mechanism, whose roles
//! are made here from its own.

use super::check::{self, Bound, Pass};
use super::shape::Dim;
use super::{Inner, Plan, RoleRule, other_type};
use crate::args::Args;
use crate::catalog::{Mode, Role, RoleKind, RoleSpec};
use crate::context::Context;
use crate::engine::call::Call;
use crate::engine::segments::Summaries;
use crate::engine::{Extents, Settings, Transition};
use crate::error::{Error, Result};
use crate::mechanism::Use;
use crate::parallel::Runner;
use crate::workspace::{self, Workspace};

/// What a plan has for segments.
#[derive(Debug)]
pub struct Segments {
    summaries: Summaries,
    pub summary: Vec<RoleRule>,
    pub combination: Vec<RoleRule>,
    /// `None`: outputs are not linear in the incoming state.
    pub correction: Option<Vec<RoleRule>>,
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
        let corrected = |rule: &RoleRule| RoleRule { usage: in_correction(rule), ..rule.clone() };
        let correction = recurrence.adds_up().then(|| rules.iter().map(corrected).collect());
        Ok(Some(Segments { summaries, summary, combination, correction }))
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

/// What a role of the mechanism is to a correction.
fn in_correction(rule: &RoleRule) -> Use {
    match (rule.spec.kind, rule.spec.role, rule.usage) {
        (_, _, Use::Refused(why)) => Use::Refused(why),
        (_, Role::V | Role::D_SKIP, _) => Use::Refused("the part of the values is in the outputs already"),
        (_, Role::GV, _) => Use::Refused("a decay of value channels is no map of the state's rows"),
        (RoleKind::StateIn, ..) => Use::Required("it is what the outputs lack"),
        (RoleKind::StateOut, ..) => Use::Refused("a correction has no state: combine gives it"),
        (.., usage) => usage,
    }
}

impl Plan {
    /// Bytes of workspace that [`Plan::summarise`], [`Plan::combine`] and [`Plan::correct`] need, whatever the lengths.
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
    /// The segment's outputs follow when its incoming state is known, by [`Plan::execute`]; or it runs from nothing at
    /// once, and [`Plan::correct`] adds what its incoming state gives. Gradients go the other way: `dstate_in` of [`Plan::backward`] without `dstate_out` is the local part, and `dS_in = Mᵀ dS_out +
    /// dS⁰` is [`Plan::combine`] with the strides of `M` swapped.
    ///
    /// *Cost*: the state's part of a causal call; a matrix as much again for `E = D`. *Allocates*: no. Since
    /// 0.1.0. *Source*: Sun et al., LASP, arXiv 2404.02882 (`docs/spec/linear.md` 10).
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the plan was not made for mode causal, the mechanism is not one recurrence, its
    /// state is kept in another form (`feature_map = exp`), or an element type is not `f32`. Otherwise those of [`Plan::execute`].
    pub fn summarise(&self, args: &Args<'_>, workspace: &mut [u8]) -> Result<()> {
        let summaries = &self.inner.segments()?.summaries;
        self.inner.run_segments(Pass::Summary, args, workspace, |runner, call, workspace| {
            summaries.summarise(runner, call, workspace)
        })
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
        let summaries = &self.inner.segments()?.summaries;
        self.inner.run_segments(Pass::Combination, args, workspace, |runner, call, workspace| {
            summaries.combine(runner, call, workspace)
        })
    }

    /// Adds to the outputs of a segment that ran from an empty state what its incoming state gives them: `out` is then
    /// that of [`Plan::execute`] with this `state_in`, within rounding. So a segment runs before its incoming state is
    /// known, while that is on its way.
    ///
    /// ```text
    /// o_i += scale · q_iᵀ M_i S_in        M_i: what tokens 1..i do to a state
    /// ```
    ///
    /// with `M_i` the product of the decays, or of matrices with a correction; the state's rows are corrected as in
    /// [`Plan::execute`], with values of zero. `args` binds the inputs of mode causal but `v` (and `d_skip`), `state_in`,
    /// and as the one output `out`, which is read and written. Ragged batches and pooled states are those of
    /// [`Plan::execute`].
    ///
    /// *Cost*: `2·D·E` FLOPs per token and head and the decay of the state where the recurrence only decays; with a
    /// correction that of a causal call. *Allocates*: no. Since 0.1.0. *Source*: Sun et al., LASP, arXiv 2404.02882
    /// (`docs/spec/linear.md` 10).
    ///
    /// # Errors
    /// [`Error::Unsupported`]: as [`Plan::summarise`], and where outputs are normalised, so that they are not sums of
    /// such parts. Otherwise those of [`Plan::execute`].
    pub fn correct(&self, args: &Args<'_>, workspace: &mut [u8]) -> Result<()> {
        let segments = self.inner.segments()?;
        if segments.correction.is_none() {
            return Err(Error::Unsupported {
                what: format!("correction of outputs of {}", self.inner.mechanism.name),
                why: "they are normalised, and so not linear in the incoming state".into(),
            });
        }
        self.inner.run_segments(Pass::Correction, args, workspace, |runner, call, workspace| {
            segments.summaries.correct(runner, call, workspace)
        })
    }
}

impl Inner {
    /// Checks a call and hands it to `run`.
    fn run_segments(
        &self,
        pass: Pass,
        args: &Args<'_>,
        workspace: &mut [u8],
        run: impl FnOnce(&dyn Runner, &Call, &Workspace) -> Result<()>,
    ) -> Result<()> {
        let mut bound = Bound::new(self);
        bound.bind(self, pass, Mode::Causal, args)?;
        let len = self.segments()?.summaries.workspace_len();
        let workspace = Workspace::new(workspace, self.context.max_workers(), len)?;
        run(self.context.runner(), &bound.call(Mode::Causal), &workspace)
    }

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
            (Pass::Correction, Some(segments)) => segments.correction.as_deref().unwrap_or_default(),
            _ => &self.rules,
        }
    }
}
