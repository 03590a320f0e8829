//! The gradients of a call by name.

use crate::catalog::Role;
use crate::engine::call::Bindings;
use crate::engine::linear::features::{Features, Given};
use crate::tensor::Tensor;

/// Gradients that a call gives (`out`, `state_out`, `z_out`) and wants (the others, where they are bound).
#[derive(Clone, Copy, Debug, Default)]
pub struct Grads {
    pub out: Option<Tensor>,
    pub state_out: Option<Tensor>,
    pub z_out: Option<Tensor>,
    pub q: Option<Tensor>,
    pub k: Option<Tensor>,
    pub v: Option<Tensor>,
    pub g: Option<Tensor>,
    pub gv: Option<Tensor>,
    pub beta: Option<Tensor>,
    pub erase: Option<Tensor>,
    pub write: Option<Tensor>,
    pub a: Option<Tensor>,
    pub b: Option<Tensor>,
    pub bonus: Option<Tensor>,
    pub dt: Option<Tensor>,
    pub dt_raw: Option<Tensor>,
    pub dt_bias: Option<Tensor>,
    pub decay_rate: Option<Tensor>,
    pub decay: Option<Tensor>,
    pub d_skip: Option<Tensor>,
    pub state_in: Option<Tensor>,
    pub z_in: Option<Tensor>,
    /// Those of what feature maps read.
    pub given: Given,
}

impl Grads {
    /// The gradients among the tensors of a call.
    pub fn new(bound: &Bindings, features: &Features) -> Grads {
        let get = |role: Role| bound.get(role.grad());
        Grads {
            out: get(Role::OUT),
            state_out: get(Role::STATE_OUT),
            z_out: get(Role::Z_OUT),
            q: get(Role::Q),
            k: get(Role::K),
            v: get(Role::V),
            g: get(Role::G),
            gv: get(Role::GV),
            beta: get(Role::BETA),
            erase: get(Role::ERASE),
            write: get(Role::WRITE),
            a: get(Role::A),
            b: get(Role::B),
            bonus: get(Role::BONUS),
            dt: get(Role::DT),
            dt_raw: get(Role::DT_RAW),
            dt_bias: get(Role::DT_BIAS),
            decay_rate: get(Role::DECAY_RATE),
            decay: get(Role::DECAY),
            d_skip: get(Role::D_SKIP),
            state_in: get(Role::STATE_IN),
            z_in: get(Role::Z_IN),
            given: if features.in_place() { Given::default() } else { Given::of(get) },
        }
    }

    /// Whether a gradient of the decay is wanted, by itself or in what it is made of.
    pub fn decay(&self) -> bool {
        let made_of = [self.g, self.decay, self.decay_rate, self.dt, self.dt_raw, self.dt_bias];
        made_of.iter().any(Option::is_some)
    }

    /// Whether a gradient of the tokens' gains is wanted.
    pub fn gain(&self) -> bool {
        [self.beta, self.dt, self.dt_raw, self.dt_bias].iter().any(Option::is_some)
    }
}
