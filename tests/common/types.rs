//! Tensors in other element types than `f32`.

use super::backward::Backward;
use super::golden::Array;
use super::problem::{self, Problem, Strided, Tensors, workspace};
use half::{bf16, f16};
use subquad::catalog::Mechanism;
use subquad::{Args, Context, DType, Desc, Plan, Role, View, ViewMut};

/// Element types of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Types {
    pub qkv: DType,
    pub out: DType,
    pub state: DType,
    /// Gates, gains, weights, values per head: `f32` or as `qkv`.
    pub others: DType,
}

use DType::{Bf16, F16, F32};

pub const PLAIN: Types = Types { qkv: F32, out: F32, state: F32, others: F32 };

/// Each type alone and mixed.
pub const TYPES: [Types; 6] = [
    Types { qkv: Bf16, out: Bf16, state: F32, others: F32 },
    Types { qkv: F16, out: F16, state: F32, others: F16 },
    Types { qkv: Bf16, out: F32, state: Bf16, others: Bf16 },
    Types { qkv: F16, out: Bf16, state: Bf16, others: F32 },
    Types { qkv: F32, out: F16, state: Bf16, others: F32 },
    Types { qkv: Bf16, out: F16, state: F32, others: Bf16 },
];

/// Mechanisms that take them.
pub fn mechanisms() -> impl Iterator<Item = &'static Mechanism> {
    problem::mechanisms().into_iter()
}

impl Types {
    pub fn of(&self, role: Role) -> DType {
        match role.base() {
            Role::BIAS if role.is_grad() => F32,
            Role::Q | Role::K | Role::V | Role::KV => self.qkv,
            Role::OUT => self.out,
            Role::STATE_IN | Role::STATE_OUT => self.state,
            Role::MEMORY_IN | Role::MEMORY_OUT | Role::TOTAL_IN | Role::TOTAL_OUT => self.state,
            Role::STATE_K_IN | Role::STATE_K_OUT | Role::STATE_V_IN | Role::STATE_V_OUT => self.state,
            Role::Z_IN | Role::Z_OUT | Role::SHIFT_IN | Role::SHIFT_OUT => F32,
            Role::MSG_GRAD => F32,
            Role::LSE | Role::LSE_IN | Role::LSE_OUT | Role::COUNT_IN | Role::COUNT_OUT => F32,
            _ => self.others,
        }
    }

    pub fn desc(&self, desc: Desc) -> Desc {
        Desc { dtype_qkv: self.qkv, dtype_out: self.out, dtype_state: self.state, ..desc }
    }

    pub fn plan(&self, context: &Context, p: &Problem) -> Plan {
        Plan::new(context, &self.desc(p.desc())).unwrap_or_else(|error| panic!("{self:?}, {p}: {error}"))
    }

    /// The problem with inputs that these types hold exactly.
    pub fn round(&self, p: &Problem) -> Problem {
        let mut p = p.clone();
        p.inputs.iter_mut().for_each(|(&role, array)| *array = rounded(array, self.of(role)));
        p
    }

    /// Runs a problem on tensors of these types, each arranged by `arrange`; inputs are rounded.
    pub fn run(&self, plan: &Plan, p: &Problem, mut arrange: impl FnMut(Role, &Array) -> Strided) -> Tensors {
        let mut stored =
            |(&role, array): (&Role, &Array)| (role, Stored::new(arrange(role, array), self.of(role)));
        let inputs: Vec<_> = p.inputs.iter().map(&mut stored).collect();
        let mut outputs: Vec<_> = p.outputs().iter().map(&mut stored).collect();
        let mut args = Args::new();
        for (role, tensor) in &inputs {
            args = args.input(*role, tensor.view());
        }
        for (role, values) in &p.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
        }
        for (role, tensor) in &mut outputs {
            args = args.output(*role, tensor.view_mut());
        }
        let result = plan.execute(p.mode, &args, &mut workspace(plan));
        result.unwrap_or_else(|error| panic!("{self:?}, {p}: {error}"));
        outputs.iter_mut().map(|(role, tensor)| (*role, tensor.read())).collect()
    }

    /// The backward call with inputs that these types hold exactly.
    pub fn round_backward(&self, b: &Backward) -> Backward {
        let mut b = Backward { p: self.round(&b.p), given: b.given.clone() };
        b.given.iter_mut().for_each(|(&role, array)| *array = rounded(array, self.of(role)));
        b
    }

    /// Every gradient from tensors of these types, in the types `wanted`.
    pub fn run_backward(
        &self,
        wanted: &Types,
        plan: &Plan,
        b: &Backward,
        arrange: impl FnMut(Role, &Array) -> Strided,
    ) -> Tensors {
        self.backward_to(wanted, plan, b, &b.outputs(), arrange)
    }

    /// The same of these gradients, with what is there before the call.
    pub fn backward_to(
        &self,
        wanted: &Types,
        plan: &Plan,
        b: &Backward,
        outputs: &Tensors,
        mut arrange: impl FnMut(Role, &Array) -> Strided,
    ) -> Tensors {
        let inputs: Vec<_> = b
            .inputs()
            .map(|(role, array)| (role, Stored::new(arrange(role, array), self.of(role))))
            .collect();
        let stored =
            |(&role, array): (&Role, &Array)| (role, Stored::new(arrange(role, array), wanted.of(role)));
        let mut outputs: Vec<_> = outputs.iter().map(stored).collect();
        let mut args = Args::new();
        for (role, tensor) in &inputs {
            args = args.input(*role, tensor.view());
        }
        for (role, values) in &b.p.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
        }
        for (role, tensor) in &mut outputs {
            args = args.output(*role, tensor.view_mut());
        }
        const BESIDE: usize = 192;
        let size = b.workspace(plan).len();
        let mut memory = vec![0xff; size + 2 * BESIDE];
        memory[..BESIDE].fill(0xa5);
        memory[BESIDE + size..].fill(0xa5);
        let result = plan.backward(b.p.mode, &args, &mut memory[BESIDE..BESIDE + size]);
        let mut beside = memory[..BESIDE].iter().chain(&memory[BESIDE + size..]);
        assert!(beside.all(|&byte| byte == 0xa5), "beside the workspace: {self:?}, {}", b.p);
        result.unwrap_or_else(|error| panic!("{self:?}, {}: {error}", b.p));
        outputs.iter_mut().map(|(role, tensor)| (*role, tensor.read())).collect()
    }

    /// The same on contiguous tensors.
    pub fn run_plain(&self, plan: &Plan, p: &Problem) -> Tensors {
        self.run(plan, p, |_, array| contiguous(array))
    }
}

pub fn contiguous(array: &Array) -> Strided {
    let rank = array.shape.len();
    Strided::new(array, &Vec::from_iter(0..rank), &vec![0; rank], &vec![false; rank])
}

/// Half a unit in the last place of 1: one rounding.
pub fn unit(dtype: DType) -> f64 {
    match dtype {
        Bf16 => 1.0 / 256.0,
        F16 => 1.0 / 2048.0,
        _ => f64::from(f32::EPSILON) / 2.0,
    }
}

/// Half the distance of the smallest values.
pub fn tiny(dtype: DType) -> f64 {
    match dtype {
        F16 => 2f64.powi(-25),
        _ => f64::from(f32::MIN_POSITIVE),
    }
}

/// The nearest value of a type.
pub fn nearest(x: f32, dtype: DType) -> f32 {
    match dtype {
        Bf16 => bf16::from_f32(x).to_f32(),
        F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

pub fn rounded(array: &Array, dtype: DType) -> Array {
    Array { data: array.data.iter().map(|&x| nearest(x, dtype)).collect(), shape: array.shape.clone() }
}

/// A tensor in memory, in one of the types.
pub struct Stored {
    dtype: DType,
    wide: Strided,
    halves: Vec<u16>,
}

impl Stored {
    pub fn new(wide: Strided, dtype: DType) -> Stored {
        let bits = |&x: &f32| match dtype {
            Bf16 => bf16::from_f32(x).to_bits(),
            _ => f16::from_f32(x).to_bits(),
        };
        let halves = if dtype == F32 { vec![] } else { wide.memory.iter().map(bits).collect() };
        Stored { dtype, wide, halves }
    }

    pub fn view(&self) -> View<'_> {
        if self.dtype == F32 {
            return self.wide.view();
        }
        let data = self.halves.as_ptr().wrapping_add(self.wide.first);
        // SAFETY: `halves` is laid out as the `f32` memory is.
        unsafe { View::from_raw(data.cast(), self.dtype, self.wide.layout()) }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        if self.dtype == F32 {
            return self.wide.view_mut();
        }
        let data = self.halves.as_mut_ptr().wrapping_add(self.wide.first);
        // SAFETY: `halves` is laid out as the `f32` memory is.
        unsafe { ViewMut::from_raw(data.cast(), self.dtype, self.wide.layout()) }
    }

    /// The tensor as `f32`, contiguous. Panics if anything between its elements has changed.
    pub fn read(&mut self) -> Array {
        for (wide, &bits) in self.wide.memory.iter_mut().zip(&self.halves) {
            *wide = match self.dtype {
                Bf16 => bf16::from_bits(bits).to_f32(),
                _ => f16::from_bits(bits).to_f32(),
            };
        }
        self.wide.read()
    }
}
