//! Backward calls of random cases, and what they must give: central differences of the definitions.

use super::case::Case;
use super::oracle;
use crate::common::golden::Array;
use crate::common::problem::Strided;
use crate::common::support::Rng;
use std::collections::BTreeMap;
use subquad::{Args, Context, Error, Mode, Plan, Role, View};

/// Gradients by role.
pub type Gradients = BTreeMap<Role, Array>;

/// A case with the gradient of its output.
#[derive(Clone, Debug)]
pub struct Reverse {
    pub case: Case,
    pub dout: Array,
}

impl Reverse {
    /// A case that has gradients; small, as each difference is two evaluations of all of it.
    pub fn random(rng: &mut Rng, name: &'static str, most: usize) -> Reverse {
        loop {
            let case = Case::random(rng, name);
            let pairs: usize = case.lengths.iter().map(|(t, s)| t * s).sum();
            let size = |name| case.real(name).unwrap_or(0.0) as usize;
            let more = match name {
                "lla" => case.d * case.d / 4,
                _ => size("F") * size("K") * 2 * case.heads.0,
            };
            let channels = case.d + case.e + more;
            if case.mode != Mode::Step && pairs * case.heads.0 * channels <= most {
                let shape = case.outputs[&Role::OUT].clone();
                let data = rng.values(shape.iter().product::<i64>() as usize, 1.0);
                return Reverse { case, dout: Array { shape, data } };
            }
        }
    }

    /// Everything that has a gradient, with its shape.
    pub fn wanted(&self) -> Vec<(Role, Vec<i64>)> {
        let mechanism = subquad::catalog::find(self.case.name).unwrap();
        let bound =
            self.case.inputs.iter().filter(|(role, _)| mechanism.role(**role).unwrap().differentiable);
        let mut all: Vec<_> = bound.map(|(role, array)| (role.grad(), array.shape.clone())).collect();
        if self.case.real("ridge").is_some() {
            all.push((Role::RIDGE.grad(), vec![1]));
        }
        all
    }

    /// Runs it, on tensors that are arranged at random if there is a generator. The workspace is what the plan asks for.
    pub fn run(
        &self,
        context: &Context,
        wanted: &[(Role, Vec<i64>)],
        mut rng: Option<&mut Rng>,
    ) -> Result<Gradients, Error> {
        let case = &self.case;
        let plan = Plan::new(context, &case.desc(crate::common::types::PLAIN))?;
        let mut strided = |array: &Array| match &mut rng {
            Some(rng) => Strided::random(rng, array),
            None => {
                let rank = array.shape.len();
                Strided::new(array, &Vec::from_iter(0..rank), &vec![0; rank], &vec![false; rank])
            }
        };
        let inputs: Vec<_> = case.inputs.iter().map(|(&role, array)| (role, strided(array))).collect();
        let dout = strided(&self.dout);
        let mut outputs: Vec<_> =
            wanted.iter().map(|(role, shape)| (*role, strided(&Array::filled(shape, f32::NAN)))).collect();
        let mut args = Args::new().input(Role::OUT.grad(), dout.view());
        for (role, tensor) in &inputs {
            args = args.input(*role, tensor.view());
        }
        for (role, values) in &case.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64])?);
        }
        for (role, tensor) in &mut outputs {
            args = args.output(*role, tensor.view_mut());
        }
        let most = |of: fn(&(usize, usize)) -> usize| case.lengths.iter().map(of).max().unwrap_or(0);
        let (n_q, n_k) = (most(|length| length.0), most(|length| length.1));
        const BESIDE: usize = 192;
        let size = plan.backward_workspace_size(case.lengths.len(), n_q, n_k)?;
        let mut memory = vec![0xa5; size + 2 * BESIDE];
        memory[BESIDE..BESIDE + size].fill(0xff);
        plan.backward(case.mode, &args, &mut memory[BESIDE..BESIDE + size])?;
        let mut beside = memory[..BESIDE].iter().chain(&memory[BESIDE + size..]);
        assert!(beside.all(|&byte| byte == 0xa5), "beside the workspace: {case:?}");
        Ok(outputs.iter().map(|(role, tensor)| (*role, tensor.read())).collect())
    }

    /// The derivative by an element, with a step of about this size relative to it.
    pub fn difference(&self, role: Role, at: usize, step: f32) -> f64 {
        let moved = |by: f32| {
            let mut case = self.case.clone();
            if role == Role::RIDGE && !case.inputs.contains_key(&role) {
                let ridge = case.real("ridge").unwrap() as f32;
                case.params.retain(|(name, _)| *name != "ridge");
                case.inputs.insert(role, Array::filled(&[1], ridge));
            }
            let x = &mut case.inputs.get_mut(&role).unwrap().data[at];
            *x += by * x.abs().max(1.0);
            let x = f64::from(*x);
            let out = &oracle::expect(&case)[&Role::OUT];
            (x, out.iter().zip(&self.dout.data).map(|(out, &dout)| out.value * f64::from(dout)).sum::<f64>())
        };
        let ((left, low), (right, high)) = (moved(-step), moved(step));
        (high - low) / (right - left)
    }
}
