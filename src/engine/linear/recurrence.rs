//! Settings of the one recurrence: which of its pieces a mechanism uses (`docs/spec/linear.md` 1.1, 1.2).

use super::denominator::DenominatorMode;
use super::features::Features;

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
    /// Keys, and with them the normaliser, take `1 − α` of the decay `α` per token.
    pub convex: bool,
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
            convex: false,
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
        self.features.count(d)
    }
}
