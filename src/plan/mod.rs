//! From a description to a plan, and from a plan and tensors to a call: the only place that checks.
//!
//! Planning checks the description against the catalogue and fixes heads, dimensions, kernels and blocking.
//! Execution checks the tensors against the plan (`check.rs`), carves the workspace and hands over to the
//! engine. A plan is immutable and can be used from several threads at once.
#![forbid(unsafe_code)]

mod backward;
mod caches;
mod check;
mod chosen;
mod lengths;
mod memory;
mod params;
mod pieces;
mod segments;
mod shape;
mod snapshots;
mod state;

pub(crate) use params::{Params, range_error};
pub use state::{StateComponent, StateLayout};

use crate::args::Args;
use crate::catalog::{self, Mechanism, Mode, Role, RoleKind, RoleSpec};
use crate::context::Context;
use crate::desc::{Desc, Flags, Modes};
use crate::engine::call::Heads;
use crate::engine::{Engine, Extents, Settings};
use crate::error::{Error, Result};
use crate::mechanism::{self, Use};
use crate::simd::Isa;
use crate::tensor::DType;
use crate::workspace::{self, Workspace};
use check::{Bound, Pass};
use shape::{Dim, NAMED, Size, Sizes};
use std::sync::Arc;

/// Largest number of heads, and largest dimension, that a plan accepts.
pub(crate) const MAX_EXTENT: i64 = 1 << 20;

/// A problem made ready to run: heads, dimensions, kernels and blocking are fixed, lengths are free.
///
/// Cheap to clone, immutable, shared between threads. *Cost* of planning: microseconds; it allocates.
#[derive(Clone, Debug)]
pub struct Plan {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Context,
    mechanism: &'static Mechanism,
    desc: Desc,
    sizes: Sizes,
    rules: Vec<RoleRule>,
    settings: Settings,
    engine: Box<dyn Engine>,
    segments: Option<segments::Segments>,
    state: StateLayout,
}

/// A role of the mechanism, its shape made ready and its use decided by the parameters.
#[derive(Clone, Debug)]
struct RoleRule {
    spec: &'static RoleSpec,
    shapes: Vec<Vec<Dim>>,
    usage: Use,
}

/// What a plan will run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlanInfo {
    /// The mechanism's name.
    pub mechanism: &'static str,
    /// Instruction set of its kernels.
    pub isa: Isa,
    /// The engine and the tile that does the bulk of the work, as `engine:tile`.
    pub kernel: &'static str,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Value columns of the state panel that stays in L1.
    pub panel: usize,
    /// Bytes of one sequence's state.
    pub state_bytes: usize,
    /// Bytes of workspace for any call of [`Plan::execute`].
    pub workspace_bytes: usize,
    /// Modes of the plan in which [`Plan::backward`] has gradients.
    pub gradient_modes: Modes,
}

impl Plan {
    /// Plans `desc` for the instruction set and runner of `context`.
    ///
    /// # Errors
    /// Names the part of the description that is unknown, out of range or unsupported.
    pub fn new(context: &Context, desc: &Desc) -> Result<Plan> {
        let mechanism =
            catalog::find(&desc.mechanism).ok_or_else(|| Error::UnknownMechanism(desc.mechanism.clone()))?;
        let entry = mechanism::find(mechanism.name).ok_or_else(|| Error::Unsupported {
            what: format!("mechanism {}", mechanism.name),
            why: "it is in the catalogue, but not in this version".into(),
        })?;
        check_modes(mechanism, desc)?;
        check_flags(desc)?;
        check_types(desc)?;
        let heads = check_sizes(desc)?;
        let params = Params::resolve(mechanism, desc)?;
        let settings = (entry.assemble)(&params)?;
        check_engine_types(desc, &settings)?;
        let sizes = fixed_sizes(&params, heads, &settings)?;
        let rules = rules(mechanism, &params, &settings)?;
        check_head_counts(desc, heads, &sizes, &rules)?;
        let (d, e) = (desc.dim_qk as usize, desc.dim_v as usize);
        let bf16_dot = desc.flags.contains(Flags::BF16_DOT);
        let (dtype_qkv, dtype_out) = (desc.dtype_qkv, desc.dtype_out);
        let extents = Extents { heads, d, e, dtype_qkv, dtype_out, bf16_dot };
        let engine = settings.plan(context, extents)?;
        let parse = |text: &str| shape::parse_shape(text, &|name| params.integer(name));
        let segments = match desc.modes.contains(Mode::Causal) && other_type(desc).is_none() {
            true => segments::Segments::plan(context, &settings, extents, &rules, parse)?,
            false => None,
        };
        let state = rules.iter().map(|rule| (rule.spec, &rule.shapes[0][..], rule.usage));
        let state = StateLayout::new(state, &sizes, desc.dtype_state)?;
        let (context, desc) = (context.clone(), desc.clone());
        Ok(Plan {
            inner: Arc::new(Inner {
                context,
                mechanism,
                desc,
                sizes,
                rules,
                settings,
                engine,
                segments,
                state,
            }),
        })
    }

    /// The mechanism's row of the catalogue.
    pub fn mechanism(&self) -> &'static Mechanism {
        self.inner.mechanism
    }

    /// Modes it was made for.
    pub fn modes(&self) -> Modes {
        self.inner.desc.modes
    }

    /// What will run.
    pub fn info(&self) -> PlanInfo {
        let inner = &*self.inner;
        PlanInfo {
            mechanism: inner.mechanism.name,
            isa: inner.context.isa(),
            kernel: inner.engine.kernel_name(),
            chunk: inner.engine.chunk(),
            panel: inner.engine.panel(),
            state_bytes: inner.state.size_bytes,
            workspace_bytes: self.workspace_size(),
            gradient_modes: Mode::ALL
                .into_iter()
                .filter(|&mode| self.has_gradient(mode))
                .fold(Modes::NONE, |modes, mode| modes | mode),
        }
    }

    /// Bytes of workspace that any call of [`Plan::execute`] needs, whatever its mode, batch and lengths. It
    /// grows with the context's workers.
    pub fn workspace_size(&self) -> usize {
        workspace::bytes(self.inner.context.max_workers(), self.inner.engine.workspace_len())
    }

    /// The tensors that make up the state of one sequence, and a layout for them in one piece of memory.
    pub fn state_layout(&self) -> &StateLayout {
        &self.inner.state
    }

    /// Runs the plan on these tensors. The plan stays usable after any error, and an error found by the
    /// checks leaves outputs and state untouched.
    ///
    /// `T = 0` and an empty batch are fine: outputs are empty, and the state passes through. Element types,
    /// ranks and extents are those of the mechanism's page; strides are free. `g > 0` is outside the
    /// contract: nothing then bounds the state. *Allocates*: no, except for the text of an error.
    ///
    /// **Snapshots.** A call of mode causal stores the state as it is after some of its tokens, so that an engine that
    /// speculates can go back to one of them, or keep prefixes for reuse. [`Role::SNAPSHOT_AT`], i32
    /// `[n_sequences, N]`, says after how many tokens (0 to the sequence's length, ascending, −1 for none), and every
    /// part of [`Plan::state_layout`] is bound as an output `[n_sequences, N, …]` in the role
    /// [`role_out.snapshots()`](Role::snapshots), of the part's type, by sequences whatever `state_index` says. Nothing is
    /// written for −1 and for skipped sequences. A shift may be left out, as where it is carried out. A snapshot is what
    /// a call of that many tokens alone would carry out. Sequences are cut where one is taken: if that is at multiples
    /// of [`PlanInfo::chunk`] only, neither it nor anything else has other bits, otherwise they round differently.
    /// *Cost*: a store of the state each, and shorter chunks.
    ///
    /// **Caches.** In modes step and causal, mechanisms of softmax attention that take `key_len` read keys and values from a
    /// pool of pages ([`Role::PAGE_TABLE`], with `k` as `[P, Hk, page, D]`) or from rings ([`Role::KEY_START`]) as well. A
    /// sequence then has `key_len[b]` keys, the queries are the last of them, and the result has the bits that it has
    /// with these keys alone, one after the other. `bias` and `g` go by the number of a key, 0 the oldest; with pages `S` is
    /// `n · page`. *Cost*: none where 64 keys follow each other in memory, otherwise a copy of them.
    /// `docs/spec/softmax.md` 1.8 has the details and an example.
    ///
    /// **Queries in pieces.** `srformer` with parameter `gen_len` takes queries of a sequence from number
    /// [`Role::QUERY_START`] on, i32 `[B]`, in modes cross and step: a call reads what the one before has left of
    /// [`Plan::state_layout`], and has the bits of the call with all queries. `docs/spec/softmax.md` 6 says which
    /// parts may be left out.
    ///
    /// # Errors
    /// Names the tensor that is missing, unknown, of the wrong type or shape, misaligned or overlapping, or
    /// the workspace that is too small.
    pub fn execute(&self, mode: Mode, args: &Args<'_>, workspace: &mut [u8]) -> Result<()> {
        let inner = &*self.inner;
        let mut bound = Bound::new(inner);
        bound.bind(inner, Pass::Forward, mode, args)?;
        let workers = inner.context.max_workers();
        let workspace = Workspace::new(workspace, workers, inner.engine.workspace_len())?;
        inner.engine.execute(inner.context.runner(), &bound.call(mode), &workspace)
    }
}

fn check_modes(mechanism: &'static Mechanism, desc: &Desc) -> Result<()> {
    let known: u32 = Mode::ALL.iter().map(|&mode| mode as u32).sum();
    if desc.modes.0 == 0 || desc.modes.0 & !known != 0 {
        let given = desc.modes.0.into();
        return Err(Error::InvalidArgument {
            what: "desc.modes",
            given,
            expected: "a non-empty set of mode bits",
        });
    }
    for mode in Mode::ALL.into_iter().filter(|&mode| desc.modes.contains(mode)) {
        if !mechanism.modes.contains(&mode) {
            let reason = mechanism.refused.iter().find(|(refused, _)| *refused == mode);
            let why = reason.map_or("the mechanism has no such mode", |(_, why)| why);
            return Err(Error::Unsupported {
                what: format!("{} in mode {mode}", mechanism.name),
                why: why.into(),
            });
        }
    }
    Ok(())
}

fn check_flags(desc: &Desc) -> Result<()> {
    if Flags::BF16_DOT.contains(desc.flags) {
        return Ok(());
    }
    let (given, expected) = (desc.flags.bits().into(), "a set of flag bits: 1 (bf16_dot), or 0");
    Err(Error::InvalidArgument { what: "desc.flags", given, expected })
}

/// Element types of a description, by name.
fn types(desc: &Desc) -> [(&'static str, DType); 3] {
    [("dtype_qkv", desc.dtype_qkv), ("dtype_out", desc.dtype_out), ("dtype_state", desc.dtype_state)]
}

/// An element type of a description that is not `f32`.
fn other_type(desc: &Desc) -> Option<(&'static str, DType)> {
    types(desc).into_iter().find(|&(_, dtype)| dtype != DType::F32)
}

fn check_types(desc: &Desc) -> Result<()> {
    const TOKENS: (&[DType], &str) = (&[DType::F32, DType::Bf16, DType::F16], "expected f32, bf16 or f16");
    const STATE: (&[DType], &str) = (&[DType::F32, DType::Bf16], "expected f32 or bf16");
    for ((name, dtype), (known, expected)) in types(desc).into_iter().zip([TOKENS, TOKENS, STATE]) {
        if !known.contains(&dtype) {
            let what = format!("desc.{name} = {dtype}");
            return Err(Error::Unsupported { what, why: expected.into() });
        }
    }
    Ok(())
}

/// Some engines compute on `f32` tensors only.
fn check_engine_types(desc: &Desc, settings: &Settings) -> Result<()> {
    if let Some((name, dtype)) = other_type(desc).filter(|_| !settings.converts()) {
        let what = format!("desc.{name} = {dtype} for {}", desc.mechanism);
        return Err(Error::Unsupported { what, why: "the mechanism takes f32 only".into() });
    }
    Ok(())
}

fn check_sizes(desc: &Desc) -> Result<Heads> {
    let sizes = [
        ("desc.heads_q", desc.heads_q),
        ("desc.heads_k", desc.heads_k),
        ("desc.heads_v", desc.heads_v),
        ("desc.dim_qk", desc.dim_qk),
        ("desc.dim_v", desc.dim_v),
    ];
    for (what, given) in sizes {
        if !(1..=MAX_EXTENT).contains(&given) {
            return Err(Error::InvalidArgument { what, given, expected: "1 to 1048576" });
        }
    }
    let heads = Heads::new(desc.heads_q as usize, desc.heads_k as usize, desc.heads_v as usize);
    let divides = |a: i64, b: i64| a.max(b) % a.min(b) == 0;
    let pairs = [
        ("desc.heads_q", desc.heads_q, desc.heads_k, "a multiple or a divisor of desc.heads_k"),
        ("desc.heads_v", desc.heads_v, desc.heads_k, "a multiple or a divisor of desc.heads_k"),
        (
            "desc.heads_q",
            desc.heads_q,
            heads.state as i64,
            "a multiple or a divisor of max(heads_k, heads_v)",
        ),
    ];
    for (what, given, other, expected) in pairs {
        if !divides(given, other) {
            return Err(Error::InvalidArgument { what, given, expected });
        }
    }
    Ok(heads)
}

fn fixed_sizes(params: &Params, heads: Heads, settings: &Settings) -> Result<Sizes> {
    let desc = &params.desc;
    let mut sizes = Sizes::default();
    sizes.set(Size::H, desc.heads_q);
    sizes.set(Size::Hk, desc.heads_k);
    sizes.set(Size::Hv, desc.heads_v);
    sizes.set(Size::Hs, heads.state as i64);
    sizes.set(Size::Ho, heads.out as i64);
    sizes.set(Size::D, desc.dim_qk);
    sizes.set(Size::E, desc.dim_v);
    for (name, size) in NAMED {
        if let Some(extent) = params.size(name) {
            sizes.set(size, extent);
        }
    }
    if let Some(features) = settings.n_features(desc.dim_qk as usize) {
        let features = features as i64;
        if let Some(given) = params.size("M").filter(|&given| given != features) {
            return Err(range_error("M", given.to_string(), &format!("{features}, which the features have")));
        }
        sizes.set(Size::M, features);
    }
    Ok(sizes)
}

fn rules(mechanism: &'static Mechanism, params: &Params, settings: &Settings) -> Result<Vec<RoleRule>> {
    let rule = |spec: &'static RoleSpec| {
        let usage = mechanism::role_use(settings, spec.role);
        let shapes = match usage {
            Use::Shape(index) => spec.shapes.get(index..=index),
            Use::Parameter(_) => spec.shapes.get(..1),
            _ => Some(spec.shapes),
        };
        let shapes =
            shapes.filter(|shapes| !shapes.is_empty()).ok_or(Error::Internal("a role lacks a shape"))?;
        let parse = |text: &&str| {
            let mut shape = shape::parse_shape(text, &|name| params.integer(name))?;
            if usage == Use::Cached {
                shape.iter_mut().for_each(|dim| dim.rename(Size::T, Size::S));
            }
            Ok(shape)
        };
        Ok(RoleRule { spec, shapes: shapes.iter().map(parse).collect::<Result<_>>()?, usage })
    };
    mechanism.roles.iter().map(rule).collect()
}

/// The catalogue's shapes must give every tensor as many heads as the engine will read and write: where a
/// shape speaks of fewer head counts than the description has, the others have to agree.
fn check_head_counts(desc: &Desc, heads: Heads, sizes: &Sizes, rules: &[RoleRule]) -> Result<()> {
    let agree = [
        (Role::Q, heads.q, "desc.heads_q", desc.heads_q, "equal to desc.heads_k for this mechanism"),
        (Role::K, heads.k, "desc.heads_k", desc.heads_k, "equal to desc.heads_q for this mechanism"),
        (Role::V, heads.v, "desc.heads_v", desc.heads_v, "equal to desc.heads_k for this mechanism"),
        (Role::KV, heads.k, "desc.heads_k", desc.heads_k, "equal to desc.heads_q for this mechanism"),
        (Role::KV, heads.v, "desc.heads_v", desc.heads_v, "equal to desc.heads_q for this mechanism"),
        (
            Role::STATE_OUT,
            heads.state,
            "desc.heads_v",
            desc.heads_v,
            "at least desc.heads_k for this mechanism",
        ),
        (Role::OUT, heads.out, "desc.heads_q", desc.heads_q, "at least desc.heads_k for this mechanism"),
    ];
    for (role, count, what, given, expected) in agree {
        let rule = rules.iter().find(|rule| rule.spec.role == role);
        let Some(rule) = rule else { continue };
        // Companions of attention may have other axes there, or be without heads.
        let Some(Dim::Size(Size::H | Size::Hk | Size::Hv | Size::Hs | Size::Ho)) = rule.shapes[0].get(1)
        else {
            continue;
        };
        let extent = rule.shapes[0][1].value(sizes);
        if extent != Some(count as i64) {
            return Err(Error::InvalidArgument { what, given, expected });
        }
    }
    Ok(())
}

impl RoleRule {
    fn is_state(&self) -> bool {
        // What a segment does to a state lies where its state does.
        let beside = self.spec.role == Role::MSG_TRANSITION;
        beside || matches!(self.spec.kind, RoleKind::StateIn | RoleKind::StateOut)
    }
}
