//! Describing a problem: mechanism, heads, dimensions, types and named parameters.

use crate::catalog::Mode;
use crate::tensor::DType;
use std::ops::BitOr;

/// A set of modes to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Modes(pub(crate) u32);

impl Modes {
    /// No mode.
    pub const NONE: Modes = Modes(0);

    /// The set of these bits of [`Mode`]; unknown bits are kept and refused at planning.
    pub const fn from_bits(bits: u32) -> Modes {
        Modes(bits)
    }

    /// The bits of the set.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether the mode is in the set.
    pub const fn contains(self, mode: Mode) -> bool {
        self.0 & mode as u32 != 0
    }

    /// Whether a mode in which no query sees a later key is in the set.
    pub(crate) const fn causal(self) -> bool {
        self.contains(Mode::Causal) || self.contains(Mode::Step)
    }
}

impl From<Mode> for Modes {
    fn from(mode: Mode) -> Modes {
        Modes(mode as u32)
    }
}

impl<T: Into<Modes>> BitOr<T> for Modes {
    type Output = Modes;
    fn bitor(self, other: T) -> Modes {
        Modes(self.0 | other.into().0)
    }
}

impl<T: Into<Modes>> BitOr<T> for Mode {
    type Output = Modes;
    fn bitor(self, other: T) -> Modes {
        Modes::from(self) | other
    }
}

/// A set of permissions. Each allows what changes results within bounds that `docs/numerics.md` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags(pub(crate) u32);

impl Flags {
    /// None.
    pub const NONE: Flags = Flags(0);
    /// Operands of matrix products may be rounded to `bf16`, whatever the tensors' types; sums and the carried state
    /// stay `f32`. It is used where the processor multiplies pairs of `bf16` (x86's AVX512_BF16), in prefill without
    /// gradients, by exact attention and by recurrences with a decay per token or head or none, with or without the delta
    /// rule; elsewhere it changes nothing. [`crate::PlanInfo::kernel`] tells.
    pub const BF16_DOT: Flags = Flags(1);

    /// The set of these bits; unknown bits are kept and refused at planning.
    pub const fn from_bits(bits: u32) -> Flags {
        Flags(bits)
    }

    /// The bits of the set.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of these are in the set.
    pub const fn contains(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Value of a named parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer; also a truth value (0, 1), and accepted where a real is asked for.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A word of the catalogue's list.
    Word(String),
    /// A list of integers; accepted where reals are asked for.
    Ints(Vec<i64>),
    /// A list of real numbers.
    Reals(Vec<f64>),
}

macro_rules! value_from {
    ($($t:ty => $make:expr),* $(,)?) => {$(
        impl From<$t> for Value {
            fn from(x: $t) -> Value {
                $make(x)
            }
        }
    )*};
}
value_from! {
    i64 => Value::Int,
    i32 => |x: i32| Value::Int(x.into()),
    bool => |x: bool| Value::Int(x.into()),
    f64 => Value::Real,
    f32 => |x: f32| Value::Real(x.into()),
    &str => |x: &str| Value::Word(x.to_owned()),
    String => Value::Word,
    Vec<i64> => Value::Ints,
    Vec<f64> => Value::Reals,
}

/// What to plan: everything but the lengths and the batch, which come with each call.
///
/// ```
/// use subquad::{Context, ContextOptions, Desc, Mode, Plan};
/// let context = Context::new(ContextOptions::new())?;
/// let desc = Desc::new("gated_delta_rule").modes(Mode::Causal | Mode::Step).heads(16, 16, 32).dims(128, 128);
/// let plan = Plan::new(&context, &desc.param("l2norm_qk", true))?;
/// assert_eq!(plan.state_layout().size_bytes, 32 * 128 * 128 * 4);
/// # Ok::<(), subquad::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Desc {
    /// Name of the mechanism in the catalogue.
    pub mechanism: String,
    /// Modes to prepare; at least one.
    pub modes: Modes,
    /// What is allowed beyond the defaults; none.
    pub flags: Flags,
    /// Heads of `q`, ≥ 1.
    pub heads_q: i64,
    /// Heads of `k`, ≥ 1. The larger of any two head counts is a multiple of the smaller.
    pub heads_k: i64,
    /// Heads of `v`, ≥ 1.
    pub heads_v: i64,
    /// Dimension `D` of queries and keys, ≥ 1.
    pub dim_qk: i64,
    /// Dimension `E` of values, ≥ 1.
    pub dim_v: i64,
    /// Element type of `q`, `k`, `v`: `F32`, `Bf16` or `F16`. Every other input (gates, weights, values per head) is
    /// `F32` or of this type, each as its view says. Arithmetic is `f32` whatever the types, unless [`Flags`] allow other.
    pub dtype_qkv: DType,
    /// Element type of `out`: `F32`, `Bf16` or `F16`, whatever the inputs are. It is rounded once, to nearest.
    pub dtype_out: DType,
    /// Element type of the state: `F32` or `Bf16`, rounded once at the end of each call. Normalisers, shifts,
    /// logarithms of sums and counts are `F32`. Mechanisms `gate`, `causal_conv` and `lasp`, gradients and summaries
    /// take `F32` in all three.
    pub dtype_state: DType,
    /// Parameters by the catalogue's names; what is not given has its default. Extents that shapes of the
    /// mechanism name and that neither heads nor dimensions give are named here too: `M` (slots, features),
    /// `P` (rows of a projection), `F` (its width).
    pub params: Vec<(String, Value)>,
}

impl Desc {
    /// One head of dimension 64, `f32`, mode causal; the builders below change that.
    pub fn new(mechanism: &str) -> Desc {
        Desc {
            mechanism: mechanism.to_owned(),
            modes: Mode::Causal.into(),
            flags: Flags::NONE,
            heads_q: 1,
            heads_k: 1,
            heads_v: 1,
            dim_qk: 64,
            dim_v: 64,
            dtype_qkv: DType::F32,
            dtype_out: DType::F32,
            dtype_state: DType::F32,
            params: Vec::new(),
        }
    }

    /// Modes to prepare.
    #[must_use]
    pub fn modes(mut self, modes: impl Into<Modes>) -> Desc {
        self.modes = modes.into();
        self
    }

    /// What is allowed beyond the defaults.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Desc {
        self.flags = flags;
        self
    }

    /// Heads of `q`, `k` and `v`.
    #[must_use]
    pub fn heads(mut self, q: i64, k: i64, v: i64) -> Desc {
        (self.heads_q, self.heads_k, self.heads_v) = (q, k, v);
        self
    }

    /// Dimensions `D` of queries and keys and `E` of values.
    #[must_use]
    pub fn dims(mut self, qk: i64, v: i64) -> Desc {
        (self.dim_qk, self.dim_v) = (qk, v);
        self
    }

    /// Element types of `q`, `k`, `v`, of `out` and of the state.
    #[must_use]
    pub fn types(mut self, qkv: DType, out: DType, state: DType) -> Desc {
        (self.dtype_qkv, self.dtype_out, self.dtype_state) = (qkv, out, state);
        self
    }

    /// One named parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Desc {
        self.params.push((name.to_owned(), value.into()));
        self
    }

    /// Parameter `scale`, the factor of `q·k`.
    #[must_use]
    pub fn scale(self, scale: f64) -> Desc {
        self.param("scale", scale)
    }

    /// Parameter `l2norm_qk`: unit queries and keys.
    #[must_use]
    pub fn l2norm_qk(self, on: bool) -> Desc {
        self.param("l2norm_qk", on)
    }

    /// Parameter `feature_map`.
    #[must_use]
    pub fn feature_map(self, word: &str) -> Desc {
        self.param("feature_map", word)
    }

    /// Parameter `normalize`.
    #[must_use]
    pub fn normalize(self, word: &str) -> Desc {
        self.param("normalize", word)
    }
}
