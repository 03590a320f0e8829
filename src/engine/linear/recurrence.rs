//! Settings of the one recurrence: which of its pieces a mechanism uses (`docs/spec/linear.md` 1.1, 1.2).

use super::denominator::DenominatorMode;
use super::features::{FeatureMap, Features};
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
    /// Role `write`, a factor per value channel.
    Write,
}

/// What is taken from the state beside the decay. All but the delta rule need [`Decay::Channel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Correction {
    /// Nothing.
    #[default]
    None,
    /// `S̃ − k (S̃ᵀ e)ᵀ` with `e = gain · k`.
    Delta,
    /// The same with `e = erase ⊙ k`, role `erase`.
    Erase,
    /// `S̃ + b (Sᵀ a)ᵀ`, roles `a` and `b`: read before the decay, written along a vector of its own.
    TwoWrites,
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
    pub correction: Correction,
    /// A query reads the state before its own token, and of that `diag(u) k xᵀ` (role `bonus`). Needs
    /// [`Decay::Channel`], and no correction.
    pub bonus: bool,
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
            correction: Correction::None,
            bonus: false,
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

    /// Whether something is taken from the state beside the decay.
    pub fn corrects(&self) -> bool {
        self.correction != Correction::None
    }

    /// Rank-1 writes of a token.
    pub fn writes(&self) -> usize {
        1 + usize::from(self.correction == Correction::TwoWrites)
    }

    /// Features of a row of `d` channels.
    pub fn n_features(&self, d: usize) -> usize {
        self.features.count(d)
    }

    /// Whether outputs are linear in the incoming state, so that its part can be added to them later.
    pub fn adds_up(&self) -> bool {
        self.normaliser == Normaliser::None && self.transition() != Transition::None
    }

    /// What a segment does to an incoming state, where no decay of value channels is bound.
    pub fn transition(&self) -> Transition {
        // A shift, a constant that lies elsewhere outside, features that queries take part in.
        let apart = matches!(self.features.map, FeatureMap::Exp | FeatureMap::Gated { .. });
        if apart || self.features.constant.is_some() {
            return Transition::None;
        }
        match self.decay {
            _ if self.corrects() => Transition::Matrix,
            Decay::None => Transition::Same,
            Decay::Head | Decay::Token => Transition::Factor,
            Decay::Channel => Transition::Diagonal,
        }
    }
}
