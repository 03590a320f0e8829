//! The gradients of a call by name.

use crate::engine::call::Bindings;
use crate::engine::linear::{Recurrence, Tensors};
use std::ops::Deref;

/// Gradients by the names of what they are gradients of: those that a call gives (`out`, `state_out`, `z_out`) and
/// those that it wants (the others, where they are bound).
#[derive(Clone, Copy, Debug, Default)]
pub struct Grads(pub Tensors);

impl Deref for Grads {
    type Target = Tensors;
    fn deref(&self) -> &Tensors {
        &self.0
    }
}

impl Grads {
    /// The gradients among the tensors of a call.
    pub fn new(bound: &Bindings, recurrence: &Recurrence) -> Grads {
        Grads(Tensors::of(|role| bound.get(role.grad()), recurrence))
    }

    /// Whether a gradient of the decay is wanted, by itself or in what it is made of.
    pub fn wants_decay(&self) -> bool {
        let made_of = [self.g, self.decay, self.decay_rate, self.dt, self.dt_raw, self.dt_bias];
        made_of.iter().any(Option::is_some)
    }

    /// Whether a gradient of the tokens' gains is wanted.
    pub fn wants_gain(&self) -> bool {
        [self.beta, self.dt, self.dt_raw, self.dt_bias].iter().any(Option::is_some)
    }
}
