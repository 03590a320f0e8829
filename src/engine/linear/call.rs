//! One call as the linear engine sees it: its tensors by name.

use super::Recurrence;
use super::features::Given;
use crate::catalog::{Mode, Role};
use crate::engine::call::{self, Bindings, Sequence, Sequences, Snapshots as Times};
use crate::tensor::Tensor;

/// The tensors of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tensors {
    pub q: Option<Tensor>,
    pub k: Option<Tensor>,
    pub v: Option<Tensor>,
    pub out: Option<Tensor>,
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
    pub gate: Option<Tensor>,
    pub out_norm_weight: Option<Tensor>,
    pub state_in: Option<Tensor>,
    pub state_out: Option<Tensor>,
    pub z_in: Option<Tensor>,
    pub z_out: Option<Tensor>,
    pub shift_in: Option<Tensor>,
    pub shift_out: Option<Tensor>,
    /// What feature maps read.
    pub given: Given,
    /// Where the decay over all tokens goes: `[slots, Hs]` or `[slots, Hs, M]`.
    pub transition: Option<Tensor>,
}

impl Tensors {
    /// The engine's tensors among those of a call. The plan refused what the recurrence does not read.
    #[inline(always)]
    pub fn new(bound: &Bindings, recurrence: &Recurrence) -> Tensors {
        Tensors::of(|role| bound.get(role), recurrence)
    }

    /// The same by what each role is bound to. In line, since it is some kilobytes.
    #[inline(always)]
    pub fn of(get: impl Fn(Role) -> Option<Tensor> + Copy, recurrence: &Recurrence) -> Tensors {
        Tensors {
            q: get(Role::Q),
            k: get(Role::K),
            v: get(Role::V),
            out: get(Role::OUT),
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
            gate: get(Role::GATE),
            out_norm_weight: get(Role::OUT_NORM_WEIGHT),
            state_in: get(Role::STATE_IN),
            state_out: get(Role::STATE_OUT),
            z_in: get(Role::Z_IN),
            z_out: get(Role::Z_OUT),
            shift_in: get(Role::SHIFT_IN),
            shift_out: get(Role::SHIFT_OUT),
            given: if recurrence.features.in_place() { Given::default() } else { Given::of(get) },
            transition: None,
        }
    }
}

/// Snapshots of the state that a call takes, and where they go: `[n_sequences, N, …]`, each like its part of the state.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots {
    pub times: Times,
    pub state: Option<Tensor>,
    pub z: Option<Tensor>,
    pub shift: Option<Tensor>,
}

impl Snapshots {
    /// Those of a call that takes some.
    fn of(call: &call::Call) -> Option<Snapshots> {
        let to = |role: Role| call.tensors.get(role.snapshots());
        let times = Times::of(call)?;
        let (state, z, shift) = (to(Role::STATE_OUT), to(Role::Z_OUT), to(Role::SHIFT_OUT));
        Some(Snapshots { times, state, z, shift })
    }
}

/// A call with its tensors looked up.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Token `t` reads tokens up to its own.
    pub causal: bool,
    /// One token per sequence.
    pub step: bool,
    /// Queries read the state. Not so in the summary of a segment, which has none.
    pub reads: bool,
    /// Outputs are added to what is there. With a recurrence that only decays `v` may then be absent: nothing is
    /// written to the state.
    pub adds: bool,
    pub sequences: Sequences,
    pub tensors: Tensors,
    pub snapshots: Option<Snapshots>,
}

impl Call {
    /// The engine's view of a checked call.
    #[inline(always)]
    pub fn new(call: &call::Call, recurrence: &Recurrence) -> Call {
        Call { snapshots: Snapshots::of(call), ..Call::with(call, Tensors::new(call.tensors, recurrence)) }
    }

    /// The same on other tensors, without snapshots.
    #[inline(always)]
    pub fn with(call: &call::Call, tensors: Tensors) -> Call {
        let causal = matches!(call.mode, Mode::Causal | Mode::Step);
        let step = call.mode == Mode::Step;
        Call { causal, step, reads: true, adds: false, sequences: call.sequences, tensors, snapshots: None }
    }

    /// Number of sequences.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Sequence `i`, or `None` if its slot says to skip it.
    pub fn sequence(&self, i: usize) -> Option<Sequence> {
        self.sequences.get(i)
    }
}
