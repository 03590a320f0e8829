//! The backward call of a problem: what it has besides the tensors of the forward call.

use super::inputs::{Tensor, check_memory, len};
use super::problem::Problem;
use crate::random::Random;
use crate::values::Values;
use anyhow::Result;
use subquad::{DType, Plan, Role};

/// A call, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// [`Plan::execute`].
    Forward,
    /// [`Plan::backward`], after it.
    Backward,
}

impl Pass {
    /// The one whose time a problem asks for.
    pub fn timed(problem: &Problem) -> Pass {
        if problem.grad { Pass::Backward } else { Pass::Forward }
    }

    /// Bytes of workspace that a call needs.
    pub fn workspace_size(self, problem: &Problem, plan: &Plan) -> Result<usize> {
        let [batch, n_q, n_k] = [problem.batch, problem.n_queries, problem.n_keys].map(|n| n as usize);
        match self {
            Pass::Forward => Ok(plan.workspace_size()),
            Pass::Backward => Ok(plan.backward_workspace_size(batch, n_q, n_k)?),
        }
    }
}

/// Memory for the calls of a problem, one after the other.
pub fn workspace(problem: &Problem, plan: &Plan) -> Result<Vec<u8>> {
    let most = Pass::timed(problem).workspace_size(problem, plan)?.max(plan.workspace_size());
    check_memory(problem, most)?;
    Ok(vec![0; most])
}

/// What backward takes of forward's results where it takes any, both or none.
pub const TAKEN: [Role; 2] = [Role::OUT, Role::LSE];

/// A gradient for each of these tensors that has one, `f32` whatever the tensor's type: random of what forward
/// writes, to be written of what it reads.
pub fn tensors(problem: &Problem, list: &[Tensor]) -> Result<Vec<Tensor>> {
    let differentiable =
        |tensor: &&Tensor| problem.mechanism.role(tensor.role).is_some_and(|spec| spec.differentiable);
    let own: Vec<_> = list.iter().filter(differentiable).collect();
    let elements = own.iter().map(|tensor| len(&tensor.shape));
    check_memory(problem, elements.sum::<usize>().saturating_mul(DType::F32.size()))?;
    let gradient = |(seed, tensor): (usize, &&Tensor)| {
        let n = len(&tensor.shape);
        // Away from the seeds of the tensors themselves.
        let mut random = Random::new(1000 + seed as u64);
        let data = if tensor.output { (0..n).map(|_| random.normal()).collect() } else { vec![0.0; n] };
        let (role, shape, data) = (tensor.role.grad(), tensor.shape.clone(), Values::new(data, DType::F32));
        Tensor { role, role_out: None, output: !tensor.output, shape, data }
    };
    Ok(own.iter().enumerate().map(gradient).collect())
}

#[cfg(test)]
mod tests {
    use super::super::inputs::{Given, Roles, Tensors};
    use super::super::problem::{Overrides, Problem};
    use super::Pass;

    fn tensors(text: &str) -> (Problem, Roles, Tensors) {
        let problem = Problem::parse_all(text, Overrides::default()).unwrap().remove(0);
        let roles = Roles::of(&problem).unwrap();
        let tensors = Tensors::generate(&problem, &problem.plan().unwrap(), &roles, &Given::new()).unwrap();
        (problem, roles, tensors)
    }

    #[test]
    fn every_input_and_the_state_have_a_gradient() {
        let text = "mechanism=gated_delta_rule,grad=1,H=2,D=16,T=20,dtype=bf16,with=state_in+state_out";
        let (_, _, mut tensors) = tensors(text);
        let mut written: Vec<_> = tensors.results().map(|(role, _)| role.to_string()).collect();
        written.sort();
        assert_eq!(written, ["dbeta", "dg", "dk", "dq", "dstate_in", "dv", "out", "state_out"]);
        let (rows, gates, states) = (2 * 20 * 16, 2 * 20, 2 * 16 * 16);
        // What forward reads, then gradients of what it writes and of what it reads.
        let read = 2 * 3 * rows + 4 * (2 * gates + states);
        assert_eq!(
            tensors.bytes(Pass::Backward),
            read + 4 * (rows + states) + 4 * (3 * rows + 2 * gates + states)
        );
        assert_eq!(tensors.bytes(Pass::Forward), read + 2 * rows + 4 * states);
    }

    #[test]
    fn attention_gets_its_outputs_where_it_takes_them() {
        for (mechanism, takes) in
            [("softmax", true), ("integral,signals=2", true), ("parallax", false), ("gla", false)]
        {
            let text = format!("mechanism={mechanism},grad=1,H=2,D=16,T=20");
            let (problem, roles, mut tensors) = tensors(&text);
            assert_eq!(roles.takes_outputs, takes, "{text}");
            let plan = problem.plan().unwrap();
            tensors.run(&plan, problem.mode, &mut super::workspace(&problem, &plan).unwrap()).unwrap();
            let written: Vec<_> = tensors.results().filter(|(role, _)| role.is_grad()).collect();
            assert!(written.len() >= 3 && written.iter().all(|(_, data)| data.iter().any(|&x| x != 0.0)));
        }
    }
}
