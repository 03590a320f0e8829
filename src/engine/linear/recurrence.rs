//! Settings of the one recurrence: which of its pieces a mechanism uses (`docs/spec/linear.md` 1.1, 1.2).

use crate::engine::Transition;

/// How the state decays along its key channels, before a token is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Decay {
    /// Not at all.
    #[default]
    None,
    /// One factor per head.
    Head,
    /// One factor per token.
    Token,
    /// One factor per token and channel.
    Channel,
}

/// What the value is multiplied with before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gain {
    /// 1.
    #[default]
    None,
    /// Role `beta`.
    Beta,
    /// Mamba-2's `Δ`.
    StepSize,
}

/// Map of the rows of `q` and `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FeatureMap {
    /// The row itself.
    #[default]
    Identity,
    /// `x + 1` above zero, `eˣ` below.
    Elu1,
    /// `elu1(−x)`.
    Elu1Neg,
    /// `tanh x + 1`.
    Tanh1,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `x σ(x)`.
    Silu,
    /// Softmax over the channels.
    Softmax,
    /// `eˣ`, with a running maximum per channel.
    Exp,
}

/// Where the epsilon of an L2 norm sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L2Mode {
    /// `x (Σx² + ε)^{-1/2}`.
    SquareAdd,
    /// `x / max(‖x‖, ε)`.
    Floor,
    /// `x / (‖x‖ + ε)`.
    Add,
}

/// L2 normalisation of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L2Norm {
    pub eps: f32,
    pub mode: L2Mode,
}

/// From a row of `q` or `k` to its features.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Features {
    pub map: FeatureMap,
    pub l2norm: Option<L2Norm>,
    /// `(c, s)`: features are `[c, s·x]`.
    pub constant: Option<(f32, f32)>,
}

impl Features {
    /// Whether a factor of the row is a factor of its features.
    pub fn is_linear(&self) -> bool {
        self.map == FeatureMap::Identity && self.l2norm.is_none() && self.constant.is_none()
    }
}

/// How a denominator is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenominatorMode {
    /// `d + ε`.
    Add,
    /// `max(d, ε)`.
    Clamp,
}

/// What divides the output (`docs/spec/linear.md` 1.10).
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Normaliser {
    #[default]
    None,
    Denominator {
        mode: DenominatorMode,
        eps: f32,
    },
    RmsHead {
        eps: f32,
    },
    SrmsAll {
        eps: f32,
    },
    RmsGate {
        eps: f32,
        sigmoid: bool,
    },
}

/// One recurrence: what a mechanism hands to the engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrence {
    pub decay: Decay,
    /// Role `gv` may be bound.
    pub value_decay: bool,
    pub gain: Gain,
    /// The delta rule: `e = gain · k`, read after the decay, written along `k`.
    pub correction: bool,
    /// `d_skip · v` is added to the output.
    pub skip: bool,
    pub features: Features,
    /// Factor of the features of `q`.
    pub scale: f32,
    pub normaliser: Normaliser,
    /// State heads share key and value heads cyclically instead of in blocks.
    pub cyclic_heads: bool,
    /// Causal mode takes fewer queries than keys: they are the last positions.
    pub right_aligned: bool,
}

impl Default for Recurrence {
    fn default() -> Recurrence {
        Recurrence {
            decay: Decay::None,
            value_decay: false,
            gain: Gain::None,
            correction: false,
            skip: false,
            features: Features::default(),
            scale: 1.0,
            normaliser: Normaliser::None,
            cyclic_heads: false,
            right_aligned: false,
        }
    }
}

impl Recurrence {
    /// Whether the state has a normaliser `z`.
    pub fn has_denominator(&self) -> bool {
        matches!(self.normaliser, Normaliser::Denominator { .. })
    }

    /// Features of a row of `d` channels.
    pub fn n_features(&self, d: usize) -> usize {
        d + usize::from(self.features.constant.is_some())
    }

    /// What a segment does to an incoming state, where no decay of value channels is bound.
    pub fn transition(&self) -> Transition {
        if self.features.map == FeatureMap::Exp || self.features.constant.is_some() {
            return Transition::None;
        }
        match self.decay {
            _ if self.correction => Transition::Matrix,
            Decay::None => Transition::Same,
            Decay::Head | Decay::Token => Transition::Factor,
            Decay::Channel => Transition::Diagonal,
        }
    }
}
