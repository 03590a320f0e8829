//! Tensors for a problem: which roles it needs, their shapes, and plausible values for each.

use super::gradient::{self, Pass, TAKEN};
use super::problem::Problem;
use crate::machine;
use crate::random::Random;
use crate::shape;
use crate::table;
use crate::values::Values;
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::BTreeMap;
use subquad::catalog::{RoleKind, RoleSpec};
use subquad::{Args, DType, Error, Layout, Mode, Plan, Role, View, ViewMut};

/// Values that the caller has, in place of generated ones.
pub type Given = BTreeMap<Role, Vec<f32>>;

/// Tokens that a step comes after.
const PAST: i64 = 32;

/// The state that a call starts from, where it takes one: what a few random tokens leave, computed in mode
/// causal where the mechanism has it. Random numbers would do for the time but not for the check: a normaliser
/// of them may be next to zero.
pub fn past(problem: &Problem) -> Result<Given> {
    let components = problem.plan()?.state_layout().components.clone();
    let takes = problem.mode == Mode::Step || components.iter().any(|c| problem.with.contains(&c.role_in));
    if !takes || !problem.mechanism.modes.contains(&Mode::Causal) {
        return Ok(Given::new());
    }
    let mut causal = Problem { mode: Mode::Causal, grad: false, ..problem.with_length(PAST) };
    causal.with.retain(|role| components.iter().all(|c| ![c.role_in, c.role_out].contains(role)));
    causal.with.extend(components.iter().map(|c| c.role_out));
    let (plan, roles) = (causal.plan()?, Roles::of(&causal)?);
    let mut tensors = Tensors::generate(&causal, &plan, &roles, &Given::new())?;
    tensors.run(&plan, Mode::Causal, &mut gradient::workspace(&causal, &plan)?)?;
    let role_in = |role| components.iter().find(|c| c.role_out == role).map(|c| c.role_in);
    Ok(tensors.results().filter_map(|(role, data)| Some((role_in(role)?, data))).collect())
}

/// The roles of a call.
#[derive(Clone, Debug)]
pub struct Roles {
    /// Each with the index of its shape among the catalogue's alternatives.
    list: Vec<(Role, usize)>,
    /// Backward takes what forward computed.
    pub takes_outputs: bool,
}

/// A tensor of a call.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// What it is.
    pub role: Role,
    /// Where the same memory is bound as output: what is carried is updated in place, unless backward needs it.
    pub role_out: Option<Role>,
    /// Whether the call writes it.
    pub output: bool,
    /// Extents.
    pub shape: Vec<i64>,
    /// Contiguous.
    pub data: Values,
}

/// All tensors of a problem.
#[derive(Clone, Debug)]
pub struct Tensors {
    list: Vec<Tensor>,
    /// Those of the backward call alone.
    gradients: Vec<Tensor>,
    takes_outputs: bool,
}

impl Roles {
    /// What the plan asks for: required roles, one of every group, the state in mode step, and whatever else
    /// the library reports as missing when it runs on a few tokens.
    pub fn of(problem: &Problem) -> Result<Roles> {
        problem.plan()?;
        let small = problem.reduced(4);
        let plan = small.plan()?;
        let mut roles = Roles::first_guess(problem, &plan);
        // Each turn settles one role, so there are no more turns than roles and alternatives.
        for _ in 0..4 * problem.mechanism.roles.len() {
            let mut tensors = Tensors::generate(&small, &plan, &roles, &Given::new())?;
            let mut workspace = gradient::workspace(&small, &plan)?;
            let fault = match tensors.run(&plan, small.mode, &mut workspace) {
                Ok(()) => return Ok(roles),
                Err(fault) => fault,
            };
            if !roles.mend(problem, &fault) {
                return Err(fault).with_context(|| format!("problem `{problem}`"));
            }
        }
        bail!("problem `{problem}`: no set of roles satisfies the library")
    }

    fn first_guess(problem: &Problem, plan: &Plan) -> Roles {
        let mut roles = Vec::new();
        let mut groups: Vec<&str> = Vec::new();
        let carried = |role| problem.mode == Mode::Step || problem.with.contains(&role);
        for spec in problem.mechanism.roles {
            let is_first = !spec.one_of.is_empty() && !groups.contains(&spec.one_of);
            let wanted = match spec.kind {
                RoleKind::Input => spec.required || is_first || problem.with.contains(&spec.role),
                // Values here are floats.
                RoleKind::Output => spec.required || spec.dtype != DType::I32.name(),
                RoleKind::StateIn | RoleKind::StateOut => {
                    let components = &plan.state_layout().components;
                    let kept = components.iter().any(|c| [c.role_in, c.role_out].contains(&spec.role));
                    kept && carried(spec.role)
                }
                RoleKind::GradOutput => false,
            };
            if wanted {
                groups.push(spec.one_of);
                roles.push((spec.role, 0));
            }
        }
        let bound = |role: &Role| roles.iter().any(|(own, _)| own == role);
        Roles { takes_outputs: TAKEN.iter().all(bound), list: roles }
    }

    /// Takes up a role that is missing, or the next shape of one that does not fit; keeps from backward what it does
    /// not take.
    fn mend(&mut self, problem: &Problem, fault: &Error) -> bool {
        match *fault {
            Error::MissingRole { role, .. } if self.list.iter().all(|(own, _)| *own != role) => {
                self.list.push((role, 0));
                true
            }
            Error::WrongRank { role, .. } | Error::WrongExtent { role, .. } => {
                let alternatives = problem.mechanism.role(role).map_or(0, |spec| spec.shapes.len());
                match self.list.iter_mut().find(|(own, _)| *own == role) {
                    Some((_, index)) if *index + 1 < alternatives => {
                        *index += 1;
                        true
                    }
                    _ => false,
                }
            }
            Error::WrongRole { role, .. } if TAKEN.contains(&role) => std::mem::take(&mut self.takes_outputs),
            _ => false,
        }
    }
}

impl Tensors {
    /// Allocates and fills the tensors of a problem. Equal problems have equal values.
    pub fn generate(problem: &Problem, plan: &Plan, roles: &Roles, given: &Given) -> Result<Tensors> {
        let mut list = Vec::new();
        for &(role, alternative) in &roles.list {
            let spec = problem.mechanism.role(role).ok_or_else(|| anyhow!("no role {role}"))?;
            let shape = extents(problem, plan, spec, alternative)?;
            list.push((spec, shape));
        }
        let bytes = list
            .iter()
            .map(|(spec, shape)| len(shape).saturating_mul(dtype(problem, plan, spec.role).size()));
        check_memory(problem, bytes.sum())?;
        let mut tensors = Vec::<Tensor>::new();
        for (seed, (spec, shape)) in list.into_iter().enumerate() {
            let output = matches!(spec.kind, RoleKind::Output | RoleKind::StateOut);
            let component = plan.state_layout().components.iter().find(|c| c.role_out == spec.role);
            // Backward needs the state as forward found it.
            let component = component.filter(|_| !problem.grad);
            let input = component.and_then(|c| tensors.iter_mut().find(|t| t.role == c.role_in));
            if let Some(input) = input {
                input.role_out = Some(spec.role);
                continue;
            }
            let data = match given.get(&spec.role) {
                Some(data) if data.len() == len(&shape) => data.clone(),
                Some(data) => bail!("{} has {} values, its shape {shape:?}", spec.role, data.len()),
                None if output => vec![0.0; len(&shape)],
                None => values(problem, plan, spec, &shape, seed as u64),
            };
            let data = Values::new(data, dtype(problem, plan, spec.role));
            tensors.push(Tensor { role: spec.role, role_out: None, output, shape, data });
        }
        let gradients = if problem.grad { gradient::tensors(problem, &tensors)? } else { Vec::new() };
        Ok(Tensors { list: tensors, gradients, takes_outputs: roles.takes_outputs })
    }

    /// Bytes that one call reads and writes.
    pub fn bytes(&mut self, pass: Pass) -> usize {
        let touched = |t: &Tensor| if t.role_out.is_some() { 2 } else { 1 };
        self.bound(pass).map(|(_, t)| t.data.dtype().size() * t.data.len() * touched(t)).sum()
    }

    /// The tensors of a call, and whether it writes them.
    fn bound(&mut self, pass: Pass) -> impl Iterator<Item = (bool, &mut Tensor)> {
        let (backward, takes) = (pass == Pass::Backward, self.takes_outputs);
        let own = self.list.iter_mut().filter_map(move |tensor| match tensor.output {
            output if !backward => Some((output, tensor)),
            true if !(takes && TAKEN.contains(&tensor.role)) => None,
            _ => Some((false, tensor)),
        });
        let gradients = self.gradients.iter_mut().filter(move |_| backward);
        own.chain(gradients.map(|tensor| (tensor.output, tensor)))
    }

    /// Binds everything.
    pub fn args(&mut self, pass: Pass) -> subquad::Result<Args<'_>> {
        let mut args = Args::new();
        for (output, tensor) in self.bound(pass) {
            let (dtype, layout) = (tensor.data.dtype(), Layout::contiguous(&tensor.shape)?);
            // SAFETY: the values are as many as the shape says, of this type, and borrowed as long as the views.
            args = unsafe {
                let mut view = || ViewMut::from_raw(tensor.data.address_mut(), dtype, layout);
                match tensor.role_out {
                    Some(out) => args.in_place(tensor.role, out, view()),
                    None if output => args.output(tensor.role, view()),
                    None => args.input(tensor.role, View::from_raw(tensor.data.address(), dtype, layout)),
                }
            };
        }
        Ok(args)
    }

    /// Each call of the problem once.
    pub fn run(&mut self, plan: &Plan, mode: Mode, workspace: &mut [u8]) -> subquad::Result<()> {
        plan.execute(mode, &self.args(Pass::Forward)?, workspace)?;
        if self.gradients.is_empty() {
            return Ok(());
        }
        plan.backward(mode, &self.args(Pass::Backward)?, workspace)
    }

    /// Roles that the call only reads.
    pub fn inputs(&self) -> impl Iterator<Item = Role> {
        self.list
            .iter()
            .filter(|tensor| !tensor.output && tensor.role_out.is_none())
            .map(|tensor| tensor.role)
    }

    /// What the calls wrote: role and values.
    pub fn results(&self) -> impl Iterator<Item = (Role, Vec<f32>)> {
        let all = self.list.iter().chain(&self.gradients);
        let written = all.filter(|tensor| tensor.output || tensor.role_out.is_some());
        written.map(|tensor| (tensor.role_out.unwrap_or(tensor.role), tensor.data.reals()))
    }
}

/// Element type of a role: a part of the state has the plan's.
fn dtype(problem: &Problem, plan: &Plan, role: Role) -> DType {
    let mut components = plan.state_layout().components.iter();
    let component = components.find(|part| [part.role_in, part.role_out].contains(&role));
    component.map_or(problem.dtype_of(role), |part| part.dtype)
}

/// Elements of a shape.
pub fn len(shape: &[i64]) -> usize {
    shape.iter().map(|&n| n as usize).product()
}

fn extents(problem: &Problem, plan: &Plan, spec: &RoleSpec, alternative: usize) -> Result<Vec<i64>> {
    let mut components = plan.state_layout().components.iter();
    if let Some(component) = components.find(|c| [c.role_in, c.role_out].contains(&spec.role)) {
        let own = &component.shape[..component.rank];
        return Ok([&[problem.batch], own].concat());
    }
    let text = spec.shapes[alternative];
    let axes =
        shape::parse(text).ok_or_else(|| anyhow!("the shape {text} of {} is not understood", spec.role))?;
    let names = problem.names();
    let value = |axis: &shape::Axis| {
        axis.value(&names).ok_or_else(|| anyhow!("the shape {text} of {} has an unknown size", spec.role))
    };
    axes.iter().map(value).collect()
}

/// Three quarters of the memory that is free: beyond, the machine swaps and times mean nothing.
pub fn check_memory(problem: &Problem, needed: usize) -> Result<()> {
    let Some(memory) = machine::memory() else { return Ok(()) };
    let limit = memory.available / 4 * 3;
    if needed > limit {
        bail!(
            "problem `{problem}` needs {} at once, but at most {} (3/4 of what is available) are used; \
             take fewer heads or tokens",
            table::bytes(needed),
            table::bytes(limit)
        );
    }
    Ok(())
}

fn values(problem: &Problem, plan: &Plan, spec: &RoleSpec, shape: &[i64], seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed + 1);
    let n = len(shape);
    let mut fill = |draw: &mut dyn FnMut(&mut Random) -> f32| (0..n).map(|_| draw(&mut random)).collect();
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match spec.role.base_name() {
        "q" | "k" => {
            let mut rows: Vec<f32> = fill(&mut Random::normal);
            if unit_rows(problem, spec.role) {
                rows.chunks_exact_mut(problem.dim_qk as usize).for_each(normalise);
            }
            rows
        }
        // Half a unit vector each: what is written back never grows.
        "a" | "b" => {
            let mut rows: Vec<f32> = fill(&mut Random::normal);
            for row in rows.chunks_exact_mut(problem.dim_qk as usize) {
                normalise(row);
                row.iter_mut().for_each(|x| *x *= 0.5);
            }
            rows
        }
        "g" | "gv" => fill(&mut |r| -(0.1 * r.normal()).abs()),
        "decay" => fill(&mut |r| (-(0.1 * r.normal()).abs()).exp()),
        "temperature" => fill(&mut |r| 0.5 + r.uniform()),
        "decay_rate" => fill(&mut |r| -1.0 - 15.0 * r.uniform()),
        "dt" => fill(&mut |r| 0.001 * 100f32.powf(r.uniform())),
        "dt_bias" => fill(&mut |r| -5.0 + r.normal()),
        "beta" | "erase" | "write" | "slot_write" => fill(&mut |r| sigmoid(r.normal())),
        "d_skip" => fill(&mut |_| 1.0),
        "state_in" | "memory_in" | "total_in" => fill(&mut |r| 0.1 * r.normal()),
        // Not the first: there is a state, and most queries are in the segment of the one before.
        "query_start" => fill(&mut |_| 1.0),
        "basis" => fill(&mut |r| r.normal() / (problem.dim_qk as f32).sqrt()),
        "z_in" => fill(&mut |r| 1.0 + r.uniform()),
        name if name.ends_with("norm_weight") => fill(&mut |r| 1.0 + 0.1 * r.normal()),
        _ => match plan.state_layout().components.iter().find(|c| c.role_in == spec.role) {
            Some(component) => fill(&mut |_| component.initial.max(0.0)),
            None => fill(&mut Random::normal),
        },
    }
}

/// Keys of the delta rule are unit vectors in every model: with longer ones the recurrence explodes. The
/// same for q and k where the mechanism could do it itself.
fn unit_rows(problem: &Problem, role: Role) -> bool {
    let corrects = problem.mechanism.role(Role::BETA).is_some();
    problem.mechanism.param("l2norm_qk").is_some() || (corrects && role == Role::K)
}

fn normalise(row: &mut [f32]) {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
    row.iter_mut().for_each(|x| *x /= norm);
}
