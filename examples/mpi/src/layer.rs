//! A layer of one mechanism: made-up inputs by token, and the library's calls on them.

use std::collections::BTreeMap;
use std::ops::Range;
use subquad::{Args, Context, ContextOptions, Desc, Error, Mode, Plan, Role, View, ViewMut};

const HEADS: usize = 3;
const D: usize = 24;
const E: usize = 20;

/// A tensor.
#[derive(Clone, Debug)]
pub struct Array {
    pub shape: Vec<i64>,
    pub data: Vec<f32>,
}

/// Tensors by role.
pub type Arrays = BTreeMap<Role, Array>;

impl Array {
    fn zeros(shape: &[usize]) -> Array {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        Array { data: vec![0.0; shape.iter().product::<i64>() as usize], shape }
    }

    fn view(&self) -> Result<View<'_>, Error> {
        View::new(&self.data, &self.shape)
    }

    fn view_mut(&mut self) -> Result<ViewMut<'_>, Error> {
        ViewMut::new(&mut self.data, &self.shape)
    }

    /// These tokens of `[1, H, T]` or `[1, H, T, channels]`.
    pub fn tokens(&self, range: Range<usize>) -> Array {
        let n = self.shape[2] as usize;
        let width = self.shape.get(3).map_or(1, |&w| w as usize);
        let mut part = self.clone();
        part.shape[2] = range.len() as i64;
        part.data.clear();
        for head in 0..HEADS {
            let at = |t: usize| (head * n + t) * width;
            part.data.extend_from_slice(&self.data[at(range.start)..at(range.end)]);
        }
        part
    }

    /// Largest difference, relative to the largest value.
    pub fn difference(&self, other: &Array) -> f32 {
        assert_eq!(self.shape, other.shape);
        let top = other.data.iter().fold(1e-6f32, |top, x| top.max(x.abs()));
        let off = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() } else { f32::INFINITY };
        self.data.iter().zip(&other.data).map(off).fold(0.0, f32::max) / top
    }
}

/// A number between −1 and 1 that depends on nothing but these.
fn number(role: Role, head: usize, token: usize, channel: usize) -> f32 {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for part in [role.id() as usize, head, token, channel] {
        x = (x ^ part as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^= x >> 32;
    }
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// A planned mechanism.
pub struct Layer {
    plan: Plan,
    mechanism: &'static str,
}

impl Layer {
    pub fn new(mechanism: &'static str) -> Result<Layer, Error> {
        let context = Context::new(ContextOptions::new())?;
        let heads = HEADS as i64;
        let desc = Desc::new(mechanism).heads(heads, heads, heads).dims(D as i64, E as i64);
        Ok(Layer { plan: Plan::new(&context, &desc)?, mechanism })
    }

    fn made(role: Role, tokens: Range<usize>, width: Option<usize>, value: impl Fn(f32) -> f32) -> Array {
        let shape: Vec<usize> = [1, HEADS, tokens.len()].into_iter().chain(width).collect();
        let mut array = Array::zeros(&shape);
        array.data.clear();
        for head in 0..HEADS {
            for token in tokens.clone() {
                array.data.extend((0..width.unwrap_or(1)).map(|c| value(number(role, head, token, c))));
            }
        }
        array
    }

    /// Inputs of these tokens of the sequence.
    pub fn inputs(&self, tokens: Range<usize>) -> Arrays {
        let made = |role, width, value: fn(f32) -> f32| (role, Layer::made(role, tokens.clone(), width, value));
        let mut inputs = Arrays::from([
            made(Role::Q, Some(D), |x| x),
            made(Role::K, Some(D), |x| 0.3 * x),
            made(Role::V, Some(E), |x| x),
        ]);
        let per_channel = if self.mechanism == "kda" { Some(D) } else { None };
        inputs.extend([made(Role::G, per_channel, |x| -0.02 * (1.0 + x))]);
        if self.mechanism != "simple_gla" {
            inputs.extend([made(Role::BETA, None, |x| 0.5 + 0.5 * x)]);
        }
        inputs
    }

    /// Gradient of the outputs of these tokens.
    pub fn dout(&self, tokens: Range<usize>) -> Array {
        Layer::made(Role::OUT.grad(), tokens, Some(E), |x| x)
    }

    pub fn empty_state(&self) -> Array {
        Array::zeros(&[1, HEADS, D, E])
    }

    /// The block's own part of the state, and what it does to an incoming one.
    pub fn summarise(&self, inputs: &Arrays) -> Result<(Array, Array), Error> {
        let mut local = self.empty_state();
        let shape: &[usize] = match self.mechanism {
            "simple_gla" => &[1, HEADS],
            _ => &[1, HEADS, D, D],
        };
        let mut transition = Array::zeros(shape);
        let mut args = Args::new();
        for (&role, array) in inputs.iter().filter(|(role, _)| **role != Role::Q) {
            args = args.input(role, array.view()?);
        }
        args = args.output(Role::STATE_OUT, local.view_mut()?);
        args = args.output(Role::MSG_TRANSITION, transition.view_mut()?);
        self.plan.summarise(&args, &mut vec![0; self.plan.segment_workspace_size()?])?;
        Ok((local, transition))
    }

    /// `M S_in + S⁰`, or with `Mᵀ` for gradients.
    pub fn combine(
        &self,
        state: &Array,
        local: &Array,
        transition: &Array,
        transposed: bool,
    ) -> Result<Array, Error> {
        let mut out = self.empty_state();
        let shape = &transition.shape;
        let transition = if transposed && shape.len() == 4 {
            let (d, h) = (D as i64, HEADS as i64);
            View::strided(&transition.data, shape, &[h * d * d, d * d, 1, d])?
        } else {
            transition.view()?
        };
        let args = Args::new()
            .input(Role::STATE_IN, state.view()?)
            .input(Role::MSG_LOCAL, local.view()?)
            .input(Role::MSG_TRANSITION, transition)
            .output(Role::STATE_OUT, out.view_mut()?);
        self.plan.combine(&args, &mut vec![0; self.plan.segment_workspace_size()?])?;
        Ok(out)
    }

    /// Outputs of the block.
    pub fn forward(&self, inputs: &Arrays, state: &Array) -> Result<Array, Error> {
        let n = inputs[&Role::Q].shape[2] as usize;
        let mut out = Array::zeros(&[1, HEADS, n, E]);
        let mut args = Args::new().input(Role::STATE_IN, state.view()?);
        for (&role, array) in inputs {
            args = args.input(role, array.view()?);
        }
        args = args.output(Role::OUT, out.view_mut()?);
        self.plan.execute(Mode::Causal, &args, &mut vec![0; self.plan.workspace_size()])?;
        Ok(out)
    }

    /// Gradients of the block's inputs and of the incoming state.
    pub fn backward(
        &self,
        inputs: &Arrays,
        state: &Array,
        dout: &Array,
        dstate: Option<&Array>,
    ) -> Result<Arrays, Error> {
        let n = inputs[&Role::Q].shape[2] as usize;
        let mut gradients: Arrays =
            inputs.iter().map(|(role, array)| (role.grad(), array.clone())).collect();
        gradients.insert(Role::STATE_IN.grad(), state.clone());
        let mut args = Args::new().input(Role::STATE_IN, state.view()?).input(Role::OUT.grad(), dout.view()?);
        for (&role, array) in inputs {
            args = args.input(role, array.view()?);
        }
        if let Some(dstate) = dstate {
            args = args.input(Role::STATE_OUT.grad(), dstate.view()?);
        }
        for (&role, array) in &mut gradients {
            args = args.output(role, array.view_mut()?);
        }
        let size = self.plan.backward_workspace_size(1, n, n)?;
        self.plan.backward(Mode::Causal, &args, &mut vec![0; size])?;
        Ok(gradients)
    }

    /// Arrays of the same roles for other tokens.
    pub fn like(&self, results: &Arrays, tokens: Range<usize>) -> Arrays {
        let mut arrays = Arrays::new();
        for (&role, array) in results.iter().filter(|(role, _)| **role != Role::STATE_IN.grad()) {
            let mut shape = array.shape.clone();
            shape[2] = tokens.len() as i64;
            let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
            arrays.insert(role, Array::zeros(&shape));
        }
        arrays
    }
}
