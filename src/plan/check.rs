//! Tensors of a call against the plan.

use super::shape::{Dim, Size, Sizes};
use super::state::state_dtype;
use super::{Inner, RoleRule, caches, memory, pieces, snapshots};
use crate::args::{Args, MAX_TENSORS, Side};
use crate::catalog::{Mode, Role, RoleKind, RoleSpec};
use crate::desc::Desc;
use crate::engine::call::{Bindings, Call, Sequences};
use crate::error::{Error, Result};
use crate::mechanism::Use;
use crate::tensor::{DType, Index, Tensor};

/// What a call computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Backward,
    /// A segment's effect on the state.
    Summary,
    /// The state that leaves a segment.
    Combination,
    /// What an incoming state adds to a segment's outputs.
    Correction,
}

/// The tensors of a call, checked.
pub struct Bound {
    tensors: Bindings,
    /// The same order.
    places: [Place; MAX_TENSORS],
    sizes: Sizes,
}

/// Where a tensor stands, and its memory.
#[derive(Clone, Copy)]
pub struct Place {
    side: Side,
    /// First address it touches and the first past it; equal where it has no element.
    span: (usize, usize),
}

impl Bound {
    /// Nothing bound yet.
    pub fn new(plan: &Inner) -> Bound {
        let places = [Place { side: Side::In, span: (0, 0) }; MAX_TENSORS];
        Bound { tensors: Bindings::NONE, places, sizes: plan.sizes }
    }

    /// Checks everything about `args` that can be wrong; reads no tensor but the index tensors.
    pub fn bind(&mut self, plan: &Inner, pass: Pass, mode: Mode, args: &Args<'_>) -> Result<()> {
        check_planned(plan, mode)?;
        for (i, (role, side, tensor)) in args.entries()?.enumerate() {
            if self.iter().any(|(own, _, place)| (own, place.side) == (role, side)) {
                return Err(Error::WrongRole { role, why: "it is bound twice" });
            }
            check_role(plan, pass, mode, role, side, tensor.dtype)?;
            self.places[i] = Place { side, span: memory::check(role, side, &tensor)? };
            self.tensors.push(role, tensor);
        }
        self.check_required(plan, pass, mode)?;
        let n_sequences = self.check_ragged(mode)?;
        self.check_cache_roles()?;
        for rule in plan.rules(pass) {
            self.check_shape(plan, rule, rule.spec.role, n_sequences)?;
        }
        if pass == Pass::Backward {
            // The sizes are known by now: a gradient that disagrees is the one that is named.
            for rule in plan.rules(pass) {
                self.check_shape(plan, rule, rule.spec.role.grad(), n_sequences)?;
            }
        }
        self.check_caches(mode)?;
        self.check_lengths(plan, pass, mode)?;
        self.check_index(plan, mode, n_sequences)?;
        self.check_starts()?;
        self.check_snapshots(plan, n_sequences)?;
        self.check_positions(plan)?;
        self.check_chosen(pass, mode)?;
        self.check_overlap()
    }
}

/// A mode that the plan was made for.
pub fn check_planned(plan: &Inner, mode: Mode) -> Result<()> {
    if plan.desc.modes.contains(mode) {
        return Ok(());
    }
    let what = format!("mode {mode} in this plan");
    Err(Error::Unsupported { what, why: "it is not among desc.modes".into() })
}

/// What some engines take from a forward call to save the work of another one; together or not at all.
const OUTPUTS: [Role; 2] = [Role::OUT, Role::LSE];

/// Roles whose gradients engines add up where they lie, so that these are `f32`.
const ADDED_UP: [Role; 1] = [Role::BIAS];

const INDEX_ROLES: [Role; 3] = [Role::CU_SEQLENS, Role::CU_SEQLENS_K, Role::STATE_INDEX];

fn check_role(plan: &Inner, pass: Pass, mode: Mode, role: Role, side: Side, dtype: DType) -> Result<()> {
    let wrong = |why| Err(Error::WrongRole { role, why });
    if role == Role::SNAPSHOT_AT || role.is_snapshot() {
        return snapshots::check_role(plan, (pass, mode), role, side, dtype);
    }
    if caches::ROLES.contains(&role) {
        return caches::check_role(plan, (pass, mode), role, side, dtype);
    }
    if INDEX_ROLES.contains(&role) {
        return match (role, mode) {
            _ if pass == Pass::Combination => wrong("states are combined one batch with another"),
            _ if plan.settings.equal_parts().is_some() => {
                wrong("the mechanism cuts a batch of sequences of one length, and keeps their states apart")
            }
            _ if side == Side::Out => wrong("it is an input"),
            (_, Mode::Transform) => wrong("a transform has no sequences"),
            _ if dtype != DType::I32 => Err(Error::WrongDType { role, given: dtype, expected: "i32" }),
            (Role::CU_SEQLENS | Role::CU_SEQLENS_K, Mode::Step) => {
                wrong("a step takes one token per sequence: bind a batch instead")
            }
            (Role::CU_SEQLENS_K, Mode::Causal) if plan.settings.keys_run_ahead() => Ok(()),
            (Role::CU_SEQLENS_K, Mode::Causal | Mode::Bidirectional) => {
                wrong("the keys are those of the queries' own tokens")
            }
            (Role::STATE_INDEX, _) if !plan.rules.iter().any(RoleRule::is_state) => {
                wrong("the mechanism has no state")
            }
            _ => Ok(()),
        };
    }
    let Some(rule) = plan.rules(pass).iter().find(|rule| rule.spec.role == role.base()) else {
        return wrong("the mechanism has no such role");
    };
    if let Use::Refused(why) = rule.usage {
        return wrong(why);
    }
    if let (Use::Parameter(why), false) = (rule.usage, role.is_grad()) {
        return wrong(why);
    }
    if let (Use::Ordered(why), Mode::Bidirectional | Mode::Cross) = (rule.usage, mode) {
        return wrong(why);
    }
    if plan.settings.counts_queries() && !role.is_grad() {
        pieces::check_role(pass, rule)?;
    }
    let expected = match pass {
        Pass::Backward if plan.settings.takes_outputs() && OUTPUTS.contains(&role) => Ok(Side::In),
        _ => side_of(pass, rule.spec, role),
    };
    match (expected, side) {
        (Err(why), _) => return wrong(why),
        (Ok(Side::Out), Side::In) => return wrong("it is an output"),
        (Ok(Side::In), Side::Out) => return wrong("it is an input"),
        (Ok(Side::In), Side::In) | (Ok(Side::Out), Side::Out) => {}
    }
    check_dtype(&plan.desc, rule, role, dtype)
}

/// Element types: `q`, `k`, `v` and `out` have those of the description, and so has the state; normalisers and
/// shifts are `f32`. Other inputs are `f32` or as `q`, `k`, `v`; what the catalogue gives another type has that one.
/// A gradient is `f32`, or as what it is the gradient of; but a bias's, which is added up where it lies, is `f32`.
fn check_dtype(desc: &Desc, rule: &RoleRule, named: Role, given: DType) -> Result<()> {
    let (role, kind) = (rule.spec.role, rule.spec.kind);
    let (one, other) = match kind {
        _ if rule.spec.dtype == DType::I32.name() => (DType::I32, DType::I32),
        RoleKind::StateIn | RoleKind::StateOut => {
            let dtype = state_dtype(role, desc.dtype_state);
            (dtype, dtype)
        }
        _ if [Role::Q, Role::K, Role::V, Role::KV].contains(&role) => (desc.dtype_qkv, desc.dtype_qkv),
        RoleKind::Input => (DType::F32, desc.dtype_qkv),
        _ if role == Role::OUT => (desc.dtype_out, desc.dtype_out),
        // A second output of the same kind.
        _ if role == Role::FAM_OUT => (DType::F32, desc.dtype_out),
        _ => (DType::F32, DType::F32),
    };
    let (one, other) = match named.is_grad() {
        true if ADDED_UP.contains(&role) => (DType::F32, DType::F32),
        true => (DType::F32, other),
        false => (one, other),
    };
    if given == one || given == other {
        return Ok(());
    }
    let expected = match (one, other) {
        (DType::F32, DType::Bf16) => "f32 or bf16",
        (DType::F32, DType::F16) => "f32 or f16",
        _ => one.name(),
    };
    Err(Error::WrongDType { role: named, given, expected })
}

/// On which side of a call a role or its gradient stands, or why on none.
fn side_of(pass: Pass, spec: &RoleSpec, role: Role) -> std::result::Result<Side, &'static str> {
    use RoleKind::{GradOutput, Input, Output, StateIn, StateOut};
    match (pass, role.is_grad(), spec.kind) {
        (Pass::Forward, false, GradOutput) => Err("it belongs to backward"),
        (_, true, _) if pass != Pass::Backward => Err("it belongs to backward"),
        (Pass::Backward, true, _) if !spec.differentiable => Err("it has no gradient"),
        (Pass::Backward, false, Output) if spec.also_input => Ok(Side::In),
        (Pass::Backward, false, Output | StateOut) => Err("backward takes its gradient in its place"),
        (_, false, Input | StateIn) | (Pass::Backward, true, Output | StateOut) => Ok(Side::In),
        _ => Ok(Side::Out),
    }
}

impl Bound {
    /// The tensor of a role.
    pub fn get(&self, role: Role) -> Option<Tensor> {
        self.tensors.get(role)
    }

    /// The same, not copied.
    pub fn find(&self, role: Role) -> Option<&Tensor> {
        self.tensors.find(role)
    }

    /// Roles and tensors.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &Tensor, &Place)> {
        self.tensors.iter().zip(&self.places).map(|((role, tensor), place)| (role, tensor, place))
    }

    fn check_required(&self, plan: &Inner, pass: Pass, mode: Mode) -> Result<()> {
        if pass == Pass::Backward {
            self.check_gradients(plan)?;
        }
        for rule in plan.rules(pass) {
            let (role, spec) = (rule.spec.role, rule.spec);
            if pass == Pass::Backward && !matches!(spec.kind, RoleKind::Input | RoleKind::StateIn) {
                continue;
            }
            let why = match rule.usage {
                Use::Required(why) => why,
                Use::With(other) if self.get(other).is_some() => "the role that it comes with is bound",
                Use::Refused(_) | Use::Parameter(_) => continue,
                _ if spec.required => "the mechanism needs it",
                _ if role == Role::OUT => "it is what the call computes",
                _ if !spec.one_of.is_empty() => {
                    let group = plan.rules(pass).iter().filter(|other| other.spec.one_of == spec.one_of);
                    if group.clone().any(|other| self.get(other.spec.role).is_some()) {
                        continue;
                    }
                    "the mechanism needs it, or another role of its group"
                }
                _ => continue,
            };
            if self.get(role).is_none() {
                return Err(Error::MissingRole { role, why });
            }
        }
        if plan.settings.counts_queries() {
            return self.check_parts(plan, mode);
        }
        // What is carried comes whole: a normaliser without its state would be silently wrong.
        let states = |kind| plan.rules(pass).iter().filter(move |rule| rule.spec.kind == kind);
        for kind in [RoleKind::StateIn, RoleKind::StateOut] {
            let bound = states(kind).filter(|rule| self.get(rule.spec.role).is_some()).count();
            let needed = states(kind).find(|rule| {
                let shift = matches!(rule.spec.role, Role::SHIFT_IN | Role::SHIFT_OUT);
                !shift && !matches!(rule.usage, Use::Refused(_)) && self.get(rule.spec.role).is_none()
            });
            if let (1.., Some(rule)) = (bound, needed) {
                let why = "another part of the state is bound, and the state comes whole";
                return Err(Error::MissingRole { role: rule.spec.role, why });
            }
        }
        Ok(())
    }

    /// Backward starts from the gradient of the output (the first, where there are several), and has gradients
    /// of inputs that are there. A state need not be: it begins empty, and that has a gradient too.
    fn check_gradients(&self, plan: &Inner) -> Result<()> {
        let mut outputs =
            plan.rules.iter().map(|rule| rule.spec).filter(|spec| spec.kind == RoleKind::Output);
        if let Some(spec) = outputs.find(|spec| spec.differentiable) {
            let role = spec.role.grad();
            if self.get(role).is_none() {
                return Err(Error::MissingRole { role, why: "backward starts from it" });
            }
        }
        let missing = OUTPUTS.into_iter().find(|&role| self.get(role).is_none());
        if let (Some(role), true) = (missing, OUTPUTS.iter().any(|&role| self.get(role).is_some())) {
            return Err(Error::MissingRole { role, why: "out and lse come together or not at all" });
        }
        for rule in plan.rules.iter().filter(|rule| rule.spec.kind == RoleKind::Input) {
            let (spec, parameter) = (rule.spec, matches!(rule.usage, Use::Parameter(_)));
            if self.get(spec.role.grad()).is_some() && self.get(spec.role).is_none() && !parameter {
                return Err(Error::MissingRole { role: spec.role, why: "its gradient is wanted" });
            }
            // What may have either type has that of the input in this call.
            if let (Some(own), Some(grad)) = (self.get(spec.role), self.get(spec.role.grad()))
                && ![DType::F32, own.dtype].contains(&grad.dtype)
            {
                let (role, given, expected) = (spec.role.grad(), grad.dtype, own.dtype.name());
                return Err(Error::WrongDType { role, given, expected });
            }
        }
        Ok(())
    }

    /// Number of sequences where `cu_seqlens` says so.
    fn check_ragged(&self, mode: Mode) -> Result<Option<i64>> {
        let rank_one = |role, tensor: &Tensor| match tensor.layout.rank {
            1 => Ok(tensor.layout.shape[0]),
            given => Err(Error::WrongRank { role, given, expected: 1 }),
        };
        if let Some(index) = self.get(Role::STATE_INDEX) {
            rank_one(Role::STATE_INDEX, &index)?;
        }
        let offsets = match self.get(Role::CU_SEQLENS) {
            Some(tensor) => Some(rank_one(Role::CU_SEQLENS, &tensor)?),
            None => None,
        };
        if let Some(given) = offsets.filter(|&n| n < 1) {
            let (role, from) = (Role::CU_SEQLENS, "the least number of offsets");
            return Err(Error::WrongExtent { role, axis: 0, given, expected: 1, from });
        }
        match (offsets, self.get(Role::CU_SEQLENS_K)) {
            (Some(expected), Some(tensor)) => {
                let role = Role::CU_SEQLENS_K;
                let given = rank_one(role, &tensor)?;
                if given != expected {
                    let from = "cu_seqlens.shape[0]";
                    return Err(Error::WrongExtent { role, axis: 0, given, expected, from });
                }
            }
            (None, Some(_)) => {
                let why = "cu_seqlens_k is bound";
                return Err(Error::MissingRole { role: Role::CU_SEQLENS, why });
            }
            (Some(_), None) if mode == Mode::Cross => {
                let why = "cu_seqlens is bound, and the keys have lengths of their own";
                return Err(Error::MissingRole { role: Role::CU_SEQLENS_K, why });
            }
            _ => {}
        }
        Ok(offsets.map(|n| n - 1))
    }

    /// Shape of the rule's role, or of its gradient, if it is bound.
    fn check_shape(
        &mut self,
        plan: &Inner,
        rule: &RoleRule,
        role: Role,
        n_sequences: Option<i64>,
    ) -> Result<()> {
        let Some(tensor) = self.tensors.find(role) else { return Ok(()) };
        let rank = tensor.layout.rank;
        let shapes = self.alternatives(plan, rule);
        let fitting = |shape: &&Vec<Dim>| shape.len() == rank;
        if let Some(sizes) = shapes.iter().filter(fitting).find_map(|shape| {
            let mut sizes = self.sizes;
            self.fit(rule, shape, role, tensor, n_sequences, &mut sizes).ok().map(|()| sizes)
        }) {
            self.sizes = sizes;
            return self.check_alike(rule, role, tensor);
        }
        match shapes.iter().find(fitting) {
            Some(shape) => self.fit(rule, shape, role, tensor, n_sequences, &mut self.sizes.clone()),
            None => {
                let expected = shapes[0].len();
                Err(Error::WrongRank { role, given: rank, expected })
            }
        }
    }

    /// The shapes that a role may have, given those of the roles before it.
    fn alternatives<'a>(&self, plan: &Inner, rule: &'a RoleRule) -> &'a [Vec<Dim>] {
        let Use::Like(other) = rule.usage else { return &rule.shapes };
        let like = plan.rules.iter().find(|rule| rule.spec.role == other);
        let rank = self.get(other).map(|tensor| tensor.layout.rank);
        let index = like.and_then(|like| like.shapes.iter().position(|shape| Some(shape.len()) == rank));
        index.and_then(|index| rule.shapes.get(index..=index)).unwrap_or(&rule.shapes)
    }

    /// Of several shapes a gradient has the one that its role has. Pools of states may differ in size.
    fn check_alike(&self, rule: &RoleRule, role: Role, tensor: &Tensor) -> Result<()> {
        let own = self.get(role.base()).filter(|_| role.is_grad() && !rule.is_state());
        let Some(own) = own else { return Ok(()) };
        let (given, expected) = (tensor.layout.rank, own.layout.rank);
        if given != expected {
            return Err(Error::WrongRank { role, given, expected });
        }
        for axis in 0..expected {
            let (given, expected) = (tensor.layout.shape[axis], own.layout.shape[axis]);
            if given != expected {
                let from = "the extent of what it is the gradient of";
                return Err(Error::WrongExtent { role, axis, given, expected, from });
            }
        }
        Ok(())
    }

    /// Compares a tensor of the right rank with one shape; sizes that only a call knows are bound.
    fn fit(
        &self,
        rule: &RoleRule,
        shape: &[Dim],
        role: Role,
        tensor: &Tensor,
        n_sequences: Option<i64>,
        sizes: &mut Sizes,
    ) -> Result<()> {
        for (axis, dim) in shape.iter().enumerate() {
            let given = tensor.layout.shape[axis];
            let batch = dim.is(Size::B);
            // What belongs to whole sequences, not to their tokens.
            let by_sequence = rule.is_state() || !shape.iter().any(|dim| dim.is(Size::T) || dim.is(Size::S));
            let (expected, from) = match (batch, n_sequences, self.pool_extent(role, dim)) {
                (.., Some((expected, from))) => (Some(expected), from),
                (true, ..) if rule.is_state() && self.get(Role::STATE_INDEX).is_some() => continue,
                (true, Some(n), _) if by_sequence => (Some(n), "the number of sequences in cu_seqlens"),
                (true, Some(_), _) => (Some(1), "the batch of packed sequences"),
                _ => (dim.value(sizes), dim.source()),
            };
            match (expected, dim) {
                (Some(_), Dim::OrOne(_)) if given == 1 => {}
                (Some(expected), _) if given != expected => {
                    return Err(Error::WrongExtent { role, axis, given, expected, from });
                }
                (None, &Dim::Size(size)) => sizes.set(size, given),
                (None, _) => return Err(Error::Internal("a shape uses a size before it is bound")),
                _ => {}
            }
        }
        Ok(())
    }

    /// No output shares memory with an input or another output, except a state with itself.
    fn check_overlap(&self) -> Result<()> {
        for (role, tensor, out) in self.iter().filter(|(.., place)| place.side == Side::Out) {
            for (other, with, place) in self.iter().filter(|(other, ..)| *other != role) {
                let shared = out.span.0 < place.span.1 && place.span.0 < out.span.1;
                if shared && !(carries(role, other) && tensor == with) {
                    return Err(Error::Overlap { role, other });
                }
            }
        }
        Ok(())
    }

    /// The sizes of the call.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Gives a size of the call its value.
    pub fn set_size(&mut self, size: Size, value: i64) {
        self.sizes.set(size, value);
    }

    /// A size of the call; 0 where no tensor has it.
    pub fn size(&self, size: Size) -> i64 {
        self.sizes.get(size).unwrap_or(0)
    }

    /// The call as the engine sees it.
    pub fn call(&self, mode: Mode) -> Call<'_> {
        let get = |role| self.get(role);
        Call {
            mode,
            sequences: Sequences {
                batch: self.size(Size::B) as usize,
                n_q: self.sizes.get(Size::T).unwrap_or(self.size(Size::S)) as usize,
                n_k: self.sizes.get(Size::S).unwrap_or(self.size(Size::T)) as usize,
                offsets_q: get(Role::CU_SEQLENS).map(Index),
                offsets_k: get(Role::CU_SEQLENS_K).or(get(Role::CU_SEQLENS)).map(Index),
                slots: get(Role::STATE_INDEX).map(Index),
            },
            tensors: &self.tensors,
        }
    }
}

/// Whether the roles are the two sides of one part of the state: `x_out` and `x_in`.
fn carries(out: Role, other: Role) -> bool {
    let part = |role: Role, end| role.base_name().strip_suffix(end).filter(|_| role == role.base());
    part(out, "_out").is_some_and(|name| part(other, "_in") == Some(name))
}
