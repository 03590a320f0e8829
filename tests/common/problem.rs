//! Random problems of every mechanism of this version, made from the catalogue: parameters, heads, shapes by the
//! text of the roles, values by the roles' names.

use super::golden::Array;
use super::support::Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use subquad::catalog::{self, Default, Mechanism, Param, ParamKind, RoleKind, RoleSpec};
use subquad::{
    Args, Context, ContextOptions, Desc, Error, Isa, MAX_RANK, Mode, Plan, Role, Value, View, ViewMut,
};

/// Tensors by role.
pub type Tensors = BTreeMap<Role, Array>;

/// A description with the inputs of one call.
#[derive(Clone, Debug)]
pub struct Problem {
    pub mechanism: &'static Mechanism,
    pub params: Vec<(&'static str, Value)>,
    pub mode: Mode,
    /// Of `q`, `k`, `v`.
    pub heads: [i64; 3],
    pub d: i64,
    pub e: i64,
    pub b: i64,
    pub t: i64,
    pub s: i64,
    /// Bind `shift_in` and `shift_out` where there is a shift.
    pub shift: bool,
    pub inputs: Tensors,
    pub indices: Vec<(Role, Vec<i32>)>,
}

/// Every mechanism that this version computes.
pub fn mechanisms() -> Vec<&'static Mechanism> {
    let all: Vec<_> = subquad::mechanisms().map(|name| catalog::find(name).unwrap()).collect();
    assert!(all.len() >= 10, "mechanisms are missing");
    all
}

/// The instruction sets of this machine; says which ones it lacks.
pub fn isas() -> Vec<Isa> {
    let (there, missing): (Vec<_>, Vec<_>) = Isa::ALL.into_iter().partition(|isa| isa.available());
    println!("skipped, as this machine lacks them: {missing:?}");
    there
}

pub fn context() -> Context {
    Context::new(ContextOptions::new()).unwrap()
}

pub fn context_of(isa: Isa) -> Context {
    Context::new(ContextOptions::new().max_isa(isa)).unwrap()
}

/// Values of a parameter that a test may try; the default is not among them.
fn values(param: &Param) -> Vec<Value> {
    let above = |low: f64| vec![Value::Real(low + 0.3), Value::Real(low + 0.01)];
    match (param.kind, param.range) {
        (ParamKind::Word, catalog::Range::Words(words)) => {
            words.iter().filter(|word| param.default != Default::Word(word)).map(|&w| w.into()).collect()
        }
        (ParamKind::Bool, _) => vec![Value::Int((param.default != Default::Bool(true)).into())],
        (ParamKind::Real, catalog::Range::Above(low) | catalog::Range::AtLeast(low)) => above(low),
        (ParamKind::Reals, catalog::Range::Count(n)) => {
            vec![Value::Reals((0..n).map(|i| 0.4 + i as f64).collect()), Value::Reals(vec![1.5; n])]
        }
        other => panic!("no values for parameter {}: {other:?}", param.name),
    }
}

/// Whether the page of the mechanism rules these parameters out together.
fn contradicts(mechanism: &Mechanism, params: &[(&'static str, Value)]) -> bool {
    let word = |name: &str| params.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
    let denominator =
        mechanism.name == "linear" && word("normalize").is_none_or(|w| w == "denominator".into());
    word("feature_map") == Some("exp".into()) && !denominator
}

/// The defaults, then each parameter with each of its other values.
pub fn variants(mechanism: &'static Mechanism) -> Vec<Vec<(&'static str, Value)>> {
    let single = mechanism.params.iter().flat_map(|param| {
        values(param).into_iter().map(|value| {
            let mut params = vec![(param.name, value.clone())];
            // Parameters that only speak with another one.
            match param.name {
                "norm_eps" => params.push(("normalize", "rms_head".into())),
                "gate_activation" => params.push(("normalize", "rms_gate".into())),
                "l2norm_eps" | "l2norm_mode" => params.push(("l2norm_qk", 1i64.into())),
                _ => {}
            }
            params
        })
    });
    let all = std::iter::once(vec![]).chain(single);
    all.filter(|params| !contradicts(mechanism, params)).collect()
}

/// Any parameters.
pub fn random_params(rng: &mut Rng, mechanism: &'static Mechanism) -> Vec<(&'static str, Value)> {
    loop {
        let mut params = Vec::new();
        for param in mechanism.params {
            if rng.one_in(2) {
                let values = values(param);
                params.push((param.name, values[rng.below(values.len())].clone()));
            }
        }
        if !contradicts(mechanism, &params) {
            return params;
        }
    }
}

/// Head counts that mechanisms may accept, plain ones first.
const HEADS: [[i64; 3]; 9] =
    [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 2, 2], [6, 2, 2], [2, 2, 4], [2, 2, 6], [4, 2, 4], [4, 4, 2]];

/// Head counts that the mechanism accepts.
pub fn heads(mechanism: &'static Mechanism) -> Vec<[i64; 3]> {
    let context = context_of(Isa::Scalar);
    let plans = |&[q, k, v]: &[i64; 3]| {
        let desc = Desc::new(mechanism.name).heads(q, k, v);
        Plan::new(&context, &desc).is_ok()
    };
    let all: Vec<_> = HEADS.into_iter().filter(plans).collect();
    assert!(all.starts_with(&HEADS[..3]), "{} refuses plain heads", mechanism.name);
    all
}

impl Problem {
    /// A problem without inputs: two heads, mode causal, `T = S = 37`.
    pub fn new(mechanism: &'static Mechanism, params: Vec<(&'static str, Value)>) -> Problem {
        Problem {
            mechanism,
            params,
            mode: Mode::Causal,
            heads: [2, 2, 2],
            d: 24,
            e: 20,
            b: 2,
            t: 37,
            s: 37,
            shift: false,
            inputs: Tensors::new(),
            indices: Vec::new(),
        }
    }

    pub fn named(name: &str) -> Problem {
        Problem::new(catalog::find(name).unwrap(), vec![])
    }

    pub fn param(mut self, name: &'static str, value: impl Into<Value>) -> Problem {
        self.params.push((name, value.into()));
        self
    }

    /// Heads, dimensions and lengths.
    pub fn sized(mut self, heads: [i64; 3], (d, e): (i64, i64), b: i64, t: i64) -> Problem {
        (self.heads, self.d, self.e, self.b, self.t, self.s) = (heads, d, e, b, t, t);
        self
    }

    pub fn desc(&self) -> Desc {
        let [q, k, v] = self.heads;
        let desc = Desc::new(self.mechanism.name).modes(self.mode).heads(q, k, v).dims(self.d, self.e);
        self.params.iter().fold(desc, |desc, (name, value)| desc.param(name, value.clone()))
    }

    pub fn plan(&self, context: &Context) -> Plan {
        Plan::new(context, &self.desc()).unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    /// A word parameter, or the catalogue's default; empty where the mechanism has none.
    pub fn word(&self, name: &str) -> String {
        let default = match self.mechanism.param(name).map(|param| param.default) {
            Some(Default::Word(word)) => word,
            _ => "",
        };
        match self.given(name) {
            Some(Value::Word(word)) => word.clone(),
            _ => default.to_owned(),
        }
    }

    /// A real parameter, or the catalogue's default.
    pub fn real(&self, name: &str) -> f64 {
        match (self.given(name), self.mechanism.param(name).map(|param| param.default)) {
            (Some(&Value::Real(x)), _) | (None, Some(Default::Real(x))) => x,
            (None, Some(Default::Expr(text))) => {
                let root = 1.0 / (self.d as f64).sqrt();
                match text {
                    "1/sqrt(D)" => root,
                    "1 if normalize == denominator else 1/sqrt(D)" => {
                        if self.word("normalize") == "denominator" { 1.0 } else { root }
                    }
                    _ => panic!("default {text}"),
                }
            }
            other => panic!("parameter {name}: {other:?}"),
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        match (self.given(name), self.mechanism.param(name).map(|param| param.default)) {
            (Some(value), _) => *value == Value::Int(1),
            (None, default) => default == Some(Default::Bool(true)),
        }
    }

    fn given(&self, name: &str) -> Option<&Value> {
        self.params.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    pub fn has_denominator(&self) -> bool {
        self.mechanism.name == "linear1p" || self.word("normalize") == "denominator"
    }

    pub fn has_shift(&self) -> bool {
        self.word("feature_map") == "exp"
    }

    /// Whether each output is linear in `v` and the incoming state.
    pub fn is_linear_in_v(&self) -> bool {
        !self.has_denominator() && matches!(self.word("normalize").as_str(), "" | "none")
    }

    /// A size by its name in the catalogue.
    fn size(&self, name: &str) -> i64 {
        let [q, k, v] = self.heads;
        match name.trim() {
            "B" => self.b,
            "T" => self.t,
            "S" => self.s,
            "H" => q,
            "Hk" => k,
            "Hv" => v,
            "Hs" => k.max(v),
            "Ho" => q.max(k).max(v),
            "D" | "M" => self.d,
            "E" => self.e,
            number => number.parse().unwrap_or_else(|_| panic!("size {number}")),
        }
    }

    fn role_spec(&self, role: Role) -> &'static RoleSpec {
        self.mechanism.role(role).unwrap_or_else(|| panic!("{} has no role {role}", self.mechanism.name))
    }

    /// The sizes along the axes of a role, as the catalogue writes them.
    pub fn axes(&self, role: Role) -> Vec<&'static str> {
        let per_head = self.word("normalize") == "srms_all" && role == Role::OUT_NORM_WEIGHT;
        self.role_spec(role).shapes[usize::from(per_head)].split(',').collect()
    }

    /// The shape of a role.
    pub fn shape(&self, role: Role) -> Vec<i64> {
        let sum = |text: &str| -> i64 {
            text.split('+').map(|term| term.split('*').map(|name| self.size(name)).product::<i64>()).sum()
        };
        self.axes(role).into_iter().map(sum).collect()
    }

    /// The axis of a role with this size, such as `T`.
    pub fn axis(&self, role: Role, size: &str) -> Option<usize> {
        self.axes(role).iter().position(|&own| own == size)
    }

    /// Whether parameters let this role be bound.
    pub fn takes(&self, role: Role) -> bool {
        let normalize = self.word("normalize");
        match role {
            Role::GATE => normalize == "rms_gate",
            Role::OUT_NORM_WEIGHT => matches!(normalize.as_str(), "rms_head" | "rms_gate" | "srms_all"),
            Role::Z_IN | Role::Z_OUT => self.has_denominator(),
            Role::SHIFT_IN | Role::SHIFT_OUT => self.has_shift() && self.shift,
            _ => true,
        }
    }

    /// Roles of a kind that parameters let be bound.
    pub fn roles(&self, kind: RoleKind) -> impl Iterator<Item = Role> + '_ {
        let specs = self.mechanism.roles.iter().filter(move |spec| spec.kind == kind);
        specs.map(|spec| spec.role).filter(|&role| self.takes(role))
    }

    /// Random inputs: what must be bound, optional roles now and then, the state if `state`.
    pub fn fill(mut self, rng: &mut Rng, state: bool) -> Problem {
        let roles: Vec<Role> = self.roles(RoleKind::Input).collect();
        for role in roles {
            let spec = self.role_spec(role);
            let must = spec.required || role == Role::GATE;
            // One role of a group is enough: in turn the first, the last, or all.
            let group = || self.mechanism.roles.iter().filter(|other| other.one_of == spec.one_of);
            let wanted = if spec.one_of.is_empty() {
                must || rng.one_in(2)
            } else {
                let last = group().next_back().unwrap().role == role;
                let bound = group().any(|other| self.inputs.contains_key(&other.role));
                (last && !bound) || rng.one_in(2)
            };
            if wanted {
                let values = self.values(rng, role);
                self.inputs.insert(role, values);
            }
        }
        if state {
            self.fill_state(rng);
        }
        self
    }

    pub fn fill_state(&mut self, rng: &mut Rng) {
        let roles: Vec<Role> = self.roles(RoleKind::StateIn).collect();
        for role in roles {
            let values = self.values(rng, role);
            self.inputs.insert(role, values);
        }
    }

    /// Ordinary values of a role: decays at most 1, gains within (0, 1), keys about as long as 1.
    pub fn values(&self, rng: &mut Rng, role: Role) -> Array {
        let shape = self.shape(role);
        let width = (self.d as f32).sqrt();
        let delta = self.mechanism.role(Role::BETA).is_some() && !self.flag("l2norm_qk");
        let mut one = || -> f32 {
            let x = rng.signed();
            match role {
                Role::K if delta => x / width,
                Role::Q | Role::K => 1.5 * x,
                Role::G | Role::GV if rng.one_in(5) => 0.0,
                Role::G | Role::GV => -x.abs().powi(3) * 3.0,
                Role::BETA => 0.5 + 0.5 * x,
                Role::DT => 0.75 + 0.75 * x,
                Role::DT_RAW => 2.0 * x,
                Role::DECAY_RATE => -1.05 + x,
                Role::OUT_NORM_WEIGHT => 1.0 + 0.5 * x,
                Role::GATE => 3.0 * x,
                Role::Z_IN => 2.0 + x,
                Role::SHIFT_IN => 1.5 + x,
                Role::V | Role::STATE_IN | Role::D_SKIP | Role::DT_BIAS => x,
                other => panic!("no values for role {other}"),
            }
        };
        let n = shape.iter().product::<i64>();
        Array { data: (0..n).map(|_| one()).collect(), shape }
    }

    /// Outputs to write, not numbers yet.
    pub fn outputs(&self) -> Tensors {
        let roles = self.roles(RoleKind::Output).chain(self.roles(RoleKind::StateOut));
        roles.map(|role| (role, Array::filled(&self.shape(role), f32::NAN))).collect()
    }

    /// Runs the problem as one call.
    pub fn run(&self, context: &Context) -> Tensors {
        self.run_plan(&self.plan(context))
    }

    pub fn run_plan(&self, plan: &Plan) -> Tensors {
        let mut outputs = self.outputs();
        execute(plan, self.mode, &self.inputs, &self.indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{self}: {error}"));
        outputs
    }

    /// The problem of some of its tokens: entries of the axes `T` and `S` of every input.
    pub fn tokens(&self, queries: Range<i64>, keys: Range<i64>) -> Problem {
        let mut part = self.clone();
        (part.t, part.s) = (queries.end - queries.start, keys.end - keys.start);
        for (&role, array) in &mut part.inputs {
            for (size, range) in [("T", &queries), ("S", &keys)] {
                if let Some(axis) = self.axis(role, size) {
                    *array = array.pick(axis, range.start as usize..range.end as usize);
                }
            }
        }
        part
    }

    /// Takes what a call carried out as what the next one carries in.
    pub fn carry(&mut self, outputs: &Tensors) {
        let carried: Vec<Role> = self.roles(RoleKind::StateIn).collect();
        for role in carried {
            self.inputs.insert(role, outputs[&out_of(role)].clone());
        }
    }

    /// The problem with the entries of the batch in this order.
    pub fn batch(&self, order: &[usize]) -> Problem {
        let mut part = self.clone();
        part.b = order.len() as i64;
        for (&role, array) in &mut part.inputs {
            if let Some(axis) = self.axis(role, "B") {
                *array = array.pick(axis, order.iter().copied());
            }
        }
        part
    }

    /// Runs it as several calls that end at these tokens, the last one at the end; joins what they give.
    pub fn run_pieces(&self, plan: &Plan, ends: &[i64]) -> Tensors {
        let (mut next, mut start) = (self.clone(), 0);
        let mut pieces = Vec::new();
        let mut last = Tensors::new();
        for &end in ends {
            let mut part = self.tokens(start..end, start..end);
            for role in self.roles(RoleKind::StateIn) {
                if let Some(state) = next.inputs.get(&role) {
                    part.inputs.insert(role, state.clone());
                }
            }
            last = part.run_plan(plan);
            pieces.push(last[&Role::OUT].clone());
            next.carry(&last);
            start = end;
        }
        last.insert(Role::OUT, Array::join(2, &pieces));
        last
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { mechanism, params, mode, heads, d, e, b, t, s, .. } = self;
        let bound: Vec<_> = self.inputs.keys().map(|role| role.to_string()).collect();
        let name = mechanism.name;
        write!(
            f,
            "{name} {mode} {params:?} heads {heads:?} D={d} E={e} B={b} T={t} S={s} {}",
            bound.join(",")
        )
    }
}

/// The role that carries out what this one carries in.
pub fn out_of(role: Role) -> Role {
    match role {
        Role::STATE_IN => Role::STATE_OUT,
        Role::Z_IN => Role::Z_OUT,
        Role::SHIFT_IN => Role::SHIFT_OUT,
        other => panic!("{other} carries nothing"),
    }
}

/// A workspace full of NaN: nothing may be read before it is written.
pub fn workspace(plan: &Plan) -> Vec<u8> {
    vec![0xff; plan.workspace_size()]
}

/// One call on contiguous tensors.
pub fn execute(
    plan: &Plan,
    mode: Mode,
    inputs: &Tensors,
    indices: &[(Role, Vec<i32>)],
    outputs: &mut Tensors,
) -> Result<(), Error> {
    let mut args = Args::new();
    for (&role, array) in inputs {
        args = args.input(role, View::new(&array.data, &array.shape)?);
    }
    for (role, values) in indices {
        args = args.input(*role, View::new(values, &[values.len() as i64])?);
    }
    for (&role, array) in outputs {
        args = args.output(role, ViewMut::new(&mut array.data, &array.shape)?);
    }
    plan.execute(mode, &args, &mut workspace(plan))
}

/// Panics unless both hold the same roles with the same shapes and bits.
#[track_caller]
pub fn assert_same_bits(got: &Tensors, want: &Tensors, what: impl Fn() -> String) {
    assert!(got.keys().eq(want.keys()), "{}", what());
    for (role, want) in want {
        let got = &got[role];
        assert_eq!(got.shape, want.shape, "{role} of {}", what());
        for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
            let at = || index_of(i, &want.shape);
            assert!(g.to_bits() == w.to_bits(), "{role}{:?} is {g:e} for {w:e}: {}", at(), what());
        }
    }
}

/// The indices of element `i`.
pub fn index_of(mut i: usize, shape: &[i64]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = i % shape[axis] as usize;
        i /= shape[axis] as usize;
    }
    index
}

/// Panics unless every number is finite and the outputs are not all alike: a result that could tell something.
#[track_caller]
pub fn assert_lively(tensors: &Tensors, what: impl Fn() -> String) {
    for (role, array) in tensors {
        assert!(array.data.iter().all(|x| x.is_finite()), "{role} is not finite: {}", what());
        let all_alike = array.data.len() > 1 && array.data.windows(2).all(|w| w[0] == w[1]);
        assert!(*role != Role::OUT || !all_alike, "{role} says nothing: {}", what());
    }
}

/// Memory that holds one tensor in any arrangement, with NaN between its elements.
pub struct Strided {
    pub memory: Vec<f32>,
    pub first: usize,
    pub shape: Vec<i64>,
    pub stride: Vec<i64>,
}

impl Strided {
    /// A copy of `array`: axes from the outermost to the innermost in this order, `pad` elements after the extent
    /// of each (the innermost axis: `1 + pad` from one element to the next), axes of `reversed` backwards.
    pub fn new(array: &Array, order: &[usize], pad: &[usize], reversed: &[bool]) -> Strided {
        let rank = array.shape.len();
        assert!(rank <= MAX_RANK && order.len() == rank);
        let (mut stride, mut step, mut first) = (vec![0i64; rank], 1i64, 0i64);
        for &axis in order.iter().rev() {
            step += pad[axis] as i64;
            stride[axis] = step;
            step *= array.shape[axis].max(1);
        }
        let end = 1 + (0..rank).map(|a| (array.shape[a].max(1) - 1) * stride[a]).sum::<i64>();
        for axis in (0..rank).filter(|&axis| reversed[axis]) {
            first += (array.shape[axis].max(1) - 1) * stride[axis];
            stride[axis] = -stride[axis];
        }
        let memory = vec![f32::NAN; end as usize];
        let mut strided = Strided { memory, first: first as usize, shape: array.shape.clone(), stride };
        for (at, &x) in strided.places().into_iter().zip(&array.data) {
            strided.memory[at] = x;
        }
        strided
    }

    /// Any arrangement.
    pub fn random(rng: &mut Rng, array: &Array) -> Strided {
        let rank = array.shape.len();
        let mut order: Vec<usize> = (0..rank).collect();
        if !rng.one_in(3) {
            for i in (1..rank).rev() {
                order.swap(i, rng.below(i + 1));
            }
        }
        let pad: Vec<usize> = (0..rank).map(|_| if rng.one_in(2) { 0 } else { rng.below(4) }).collect();
        let reversed: Vec<bool> = (0..rank).map(|_| rng.one_in(4)).collect();
        Strided::new(array, &order, &pad, &reversed)
    }

    /// The same along an axis for `n` entries: stride 0. The axis has one entry.
    pub fn broadcast(mut self, axis: usize, n: i64) -> Strided {
        assert_eq!(self.shape[axis], 1);
        (self.shape[axis], self.stride[axis]) = (n, 0);
        self
    }

    /// Where the elements lie, in row-major order.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![self.first as i64];
        for (&n, &stride) in self.shape.iter().zip(&self.stride) {
            places = places.iter().flat_map(|&at| (0..n).map(move |i| at + i * stride)).collect();
        }
        places.into_iter().map(|at| at as usize).collect()
    }

    /// The tensor, contiguous again. Panics if anything between its elements has changed.
    pub fn read(&self) -> Array {
        let mut mine = vec![false; self.memory.len()];
        let places = self.places();
        places.iter().for_each(|&at| mine[at] = true);
        let data = places.iter().map(|&at| self.memory[at]).collect();
        let nan = f32::NAN.to_bits();
        let foreign = |(x, mine): (&f32, &bool)| *mine || x.to_bits() == nan;
        assert!(self.memory.iter().zip(&mine).all(foreign), "memory between the elements was written");
        Array { shape: self.shape.clone(), data }
    }

    pub fn layout(&self) -> subquad::Layout {
        subquad::Layout::strided(&self.shape, &self.stride).unwrap()
    }

    pub fn view(&self) -> View<'_> {
        let data = self.memory[self.first.min(self.memory.len())..].as_ptr();
        // SAFETY: every element lies in `memory`, which is borrowed.
        unsafe { View::from_raw(data.cast(), subquad::DType::F32, self.layout()) }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let layout = self.layout();
        let data = self.memory.as_mut_ptr().wrapping_add(self.first);
        // SAFETY: every element lies in `memory`, which is borrowed mutably.
        unsafe { ViewMut::from_raw(data.cast(), subquad::DType::F32, layout) }
    }
}
