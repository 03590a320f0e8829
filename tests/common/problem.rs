//! Random problems of every mechanism of this version, made from the catalogue: parameters, heads, shapes by the
//! text of the roles, values by the roles' names.

use super::golden::Array;
use super::support::{self, Rng};
use std::collections::BTreeMap;
use std::ops::Range;
use subquad::catalog::{self, Default, Mechanism, Param, ParamKind, RoleKind, RoleSpec, StepKind};
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
    /// Which of the alternative shapes of its roles, where `x` has several.
    pub alternative: usize,
    pub inputs: Tensors,
    pub indices: Vec<(Role, Vec<i32>)>,
}

/// Mechanisms with tests of their own: one that cuts equal segments (`tests/segments.rs`), those without a softmax
/// (`tests/gated_units.rs`), and those with rows beside the sequence, integer outputs, or a ridge that is given in one of two
/// ways (`tests/attention_forms.rs`).
const APART: [&str; 10] =
    ["lasp", "gau", "flash", "diag", "fam_block", "srformer", "dnas", "hard_retrieval", "lla", "dape_v2"];

/// Every other mechanism that this version computes.
pub fn mechanisms() -> Vec<&'static Mechanism> {
    let all: Vec<_> = subquad::mechanisms().filter(|name| !APART.contains(name)).collect();
    let all: Vec<_> = all.into_iter().map(|name| catalog::find(name).unwrap()).collect();
    assert!(all.len() >= 26, "mechanisms are missing");
    all
}

/// Those with queries, keys and values.
pub fn attention() -> impl Iterator<Item = &'static Mechanism> {
    let all = [Role::Q, Role::K, Role::V];
    mechanisms().into_iter().filter(move |mechanism| all.iter().all(|&role| mechanism.role(role).is_some()))
}

/// `SUBQUAD_CASES`: how many of a test's cases beside the defaults run, in percent; slow machines take fewer.
pub fn percent() -> usize {
    std::env::var("SUBQUAD_CASES").map_or(100, |p| p.parse().expect("SUBQUAD_CASES is a number")).min(100)
}

/// Whether this case of a mechanism is among them.
pub fn taken(case: usize) -> bool {
    case == 0 || Rng::new(support::seed() ^ case as u64).below(100) < percent()
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
        (ParamKind::Real, _) if param.name == "lower_bound" => vec![Value::Real(-0.3), Value::Real(-4.5)],
        (ParamKind::Real, _) if param.name == "gain" => vec![Value::Real(2.0), Value::Real(-0.606_530_66)],
        (ParamKind::Int, catalog::Range::Between(low, high)) => {
            (low as i64..=high as i64).map(Value::Int).collect()
        }
        (ParamKind::Reals, catalog::Range::Count(n)) => {
            vec![Value::Reals((0..n).map(|i| 0.4 + i as f64).collect()), Value::Reals(vec![1.5; n])]
        }
        (ParamKind::Int, catalog::Range::AtLeast(low)) => {
            vec![Value::Int(low as i64), Value::Int(low as i64 + 4)]
        }
        // Dimensions come later, and this has to divide them.
        (ParamKind::Int, _) if param.name == "signals" => vec![Value::Int(1)],
        // How much may be left out: rather more than rounding would.
        (ParamKind::Real, _) if param.name == "prune_log_tol" => vec![Value::Real(-40.0)],
        // Beyond every position of these tests.
        (ParamKind::Real, catalog::Range::Text(_)) if param.name == "period" => vec![Value::Real(1500.0)],
        other => panic!("no values for parameter {}: {other:?}", param.name),
    }
}

/// The value of a parameter that has no default, where a test gives none.
pub fn required(name: &str) -> Value {
    match name {
        "period" => Value::Real(1100.0),
        "x_scale_q" => Value::Real(0.9),
        "x_scale_k" => Value::Real(0.7),
        "form" => "softplus".into(),
        "width" => Value::Int(4),
        "block" => Value::Int(8),
        "signals" => Value::Int(1),
        _ => panic!("no value for parameter {name}, which has no default"),
    }
}

/// Rows of a projection `w`, where there is one.
const P: i64 = 11;

/// Whether the page of the mechanism rules these parameters out together.
fn contradicts(mechanism: &Mechanism, params: &[(&'static str, Value)]) -> bool {
    let word = |name: &str| params.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
    let default = mechanism.param("normalize").map(|param| param.default);
    let denominator = match word("normalize") {
        Some(given) => given == "denominator".into(),
        // Without the parameter, what has a denominator has it always.
        None => default.map_or(mechanism.param("den_eps").is_some(), |d| d == Default::Word("denominator")),
    };
    word("feature_map") == Some("exp".into()) && !denominator
        // Of modes in which no query sees a later key; tests choose the mode after the parameters.
        || matches!(word("window_right"), Some(Value::Int(0..)))
}

/// The defaults, then each parameter with each of its other values.
pub fn variants(mechanism: &'static Mechanism) -> Vec<Vec<(&'static str, Value)>> {
    let single = mechanism.params.iter().flat_map(|param| {
        values(param).into_iter().map(|value| {
            let mut params = vec![(param.name, value.clone())];
            // Parameters that only speak with another one.
            let has = |name: &str| mechanism.param(name);
            let normalize = has("den_eps").and(has("normalize")).map(|param| param.default);
            match param.name {
                "feature_map" | "den_mode" | "den_eps" if normalize == Some(Default::Word("none")) => {
                    params.push(("normalize", "denominator".into()));
                }
                "norm_eps" => params.push(("normalize", "rms_head".into())),
                "gate_activation" => params.push(("normalize", "rms_gate".into())),
                "lower_bound" => params.push(("form", "lower_bound".into())),
                "normalizer" => params.push(("form", "logsigmoid".into())),
                "gain" => params.push(("form", "sigmoid".into())),
                "l2norm_eps" | "l2norm_mode" if has("l2norm_qk").is_some() => {
                    params.push(("l2norm_qk", 1i64.into()))
                }
                _ => {}
            }
            params
        })
    });
    let all = std::iter::once(vec![]).chain(single);
    // Projections of another width than the row, where there may be none.
    let widths: &[i64] = if mechanism.role(Role::W_QK).is_some() { &[5, 30] } else { &[] };
    let words = mechanism.param("form").map_or(&[][..], |_| &["split", "concat"]);
    let projected = widths.iter().flat_map(|&f| {
        words.iter().map(move |&form| vec![("F", Value::Int(f)), ("form", Value::from(form))])
    });
    all.chain(projected).filter(|params| !contradicts(mechanism, params)).collect()
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
    let plans = |&heads: &[i64; 3]| {
        let p = Problem::new(mechanism, vec![]).sized(heads, (8, 8), 1, 1);
        Plan::new(&context, &p.desc().modes(mechanism.modes[0])).is_ok()
    };
    let all: Vec<_> = HEADS.into_iter().filter(plans).collect();
    assert!(all.starts_with(&HEADS[..3]), "{} refuses plain heads", mechanism.name);
    all
}

impl Problem {
    /// A problem without inputs: two heads, mode causal if there is one, `T = S = 37`. Parameters that a description
    /// must give have some value.
    pub fn new(mechanism: &'static Mechanism, mut params: Vec<(&'static str, Value)>) -> Problem {
        for param in mechanism.params.iter().filter(|param| param.default == Default::Required) {
            if params.iter().all(|(name, _)| *name != param.name) {
                params.push((param.name, values(param)[0].clone()));
            }
        }
        let causal = mechanism.modes.contains(&Mode::Causal);
        Problem {
            mechanism,
            params,
            mode: if causal { Mode::Causal } else { mechanism.modes[0] },
            heads: [2, 2, 2],
            d: 24,
            e: 20,
            b: 2,
            t: 37,
            s: 37,
            shift: false,
            alternative: 0,
            inputs: Tensors::new(),
            indices: Vec::new(),
        }
    }

    pub fn named(name: &str) -> Problem {
        Problem::new(catalog::find(name).unwrap(), vec![])
    }

    pub fn param(mut self, name: &'static str, value: impl Into<Value>) -> Problem {
        self.params.retain(|(own, _)| *own != name);
        self.params.push((name, value.into()));
        self
    }

    /// Heads, dimensions and lengths; where all dimensions are one, it is `e`.
    pub fn sized(mut self, heads: [i64; 3], (d, e): (i64, i64), b: i64, t: i64) -> Problem {
        let d = if self.gates_by_values() { e } else { d };
        (self.heads, self.d, self.e, self.b, self.t, self.s) = (heads, d, e, b, t, t);
        self
    }

    pub fn desc(&self) -> Desc {
        let [q, k, v] = self.heads;
        let desc = Desc::new(self.mechanism.name).modes(self.mode).heads(q, k, v).dims(self.d, self.e);
        let desc = self.params.iter().fold(desc, |desc, (name, value)| desc.param(name, value.clone()));
        let needed = self.mechanism.params.iter().filter(|param| param.default == Default::Required);
        let missing = needed.filter(|param| self.given(param.name).is_none());
        let desc = missing.fold(desc, |desc, param| desc.param(param.name, required(param.name)));
        let desc = if self.has_slots() { desc.param("M", self.slots()) } else { desc };
        if self.is_rfa() { desc.param("P", P) } else { desc }
    }

    /// Whether features are random projections.
    pub fn is_rfa(&self) -> bool {
        self.word("feature_map") == "rfa"
    }

    /// Whether `v` is read by more than its own columns.
    pub fn gates_by_values(&self) -> bool {
        self.mechanism.role(Role::W_GATE).is_some()
    }

    /// Whether all heads of a token are read by each.
    pub fn joins_heads(&self) -> bool {
        self.word("norm_span") == "heads_joint"
    }

    /// Whether calls that follow each other are one call: not where the length of the call counts.
    pub fn splits(&self) -> bool {
        !(self.has_denominator() && self.word("den_mode") == "add_mean")
    }

    /// Whether the same holds bit for bit at multiples of a chunk: the state carries all, a shift too. Sums of gates
    /// begin where a call does.
    pub fn splits_exactly(&self) -> bool {
        self.splits() && self.is_exp() == self.has_shift() && self.mechanism.name != "fox"
    }

    /// Whether distances count, so that there may not be more queries than keys.
    pub fn windowed(&self) -> bool {
        ["window_left", "window_right"].iter().any(|name| matches!(self.given(name), Some(Value::Int(0..))))
    }

    /// Whether calls read the keys of all tokens so far, and no state.
    pub fn caches(&self) -> bool {
        self.mechanism.step == StepKind::Cache
    }

    /// The same, its first token so many further on.
    pub fn advanced(&self, tokens: i64) -> Problem {
        let mut p = self.clone();
        if self.mechanism.param("position0").is_some() {
            p.params.retain(|(name, _)| *name != "position0");
            p.params.push(("position0", (self.integer("position0") + tokens).into()));
        }
        p
    }

    /// An integer parameter, or the catalogue's default.
    pub fn integer(&self, name: &str) -> i64 {
        match (self.given(name), self.mechanism.param(name).map(|param| param.default)) {
            (Some(&Value::Int(x)), _) | (None, Some(Default::Int(x))) => x,
            other => panic!("parameter {name}: {other:?}"),
        }
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
                    "1/sqrt(D)" | "D**-0.5" => root,
                    "1/(signals*sqrt(D/signals))" => root / (self.integer("signals") as f64).sqrt(),
                    "P**-0.5" => 1.0 / (P as f64).sqrt(),
                    "1 if normalize == denominator else 1/sqrt(D)" => {
                        if self.word("normalize") == "denominator" { 1.0 } else { root }
                    }
                    _ => panic!("default {text}"),
                }
            }
            (None, Some(Default::Required)) => match required(name) {
                Value::Real(x) => x,
                other => panic!("parameter {name}: {other:?}"),
            },
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
        let always = self.mechanism.param("normalize").is_none() && self.mechanism.param("den_eps").is_some();
        always || self.word("normalize") == "denominator"
    }

    /// Whether features are exponentials, kept with a running maximum.
    pub fn is_exp(&self) -> bool {
        self.mechanism.name == "lln" || self.word("feature_map") == "exp"
    }

    pub fn has_shift(&self) -> bool {
        self.is_exp() && self.mechanism.role(Role::SHIFT_IN).is_some()
    }

    /// Whether each output is linear in `v` and the state that holds values.
    pub fn is_linear_in_v(&self) -> bool {
        let values = self.mechanism.role(Role::V).is_some();
        values && !self.has_denominator() && matches!(self.word("normalize").as_str(), "" | "none")
    }

    /// Whether the description names `M`: a number of slots, or of rows of a basis.
    pub fn has_slots(&self) -> bool {
        let own = [Role::SLOT_WRITE, Role::SLOT_LOGITS, Role::BASIS];
        own.into_iter().any(|role| self.mechanism.role(role).is_some())
    }

    /// Their number: any, but the same for the same dimensions.
    pub fn slots(&self) -> i64 {
        1 + (5 * self.d + self.e) % 37
    }

    /// The part of the incoming state that is linear in the values, where there is one.
    pub fn value_state(&self) -> Role {
        let own = self.mechanism.role(Role::STATE_V_IN).is_some();
        if own { Role::STATE_V_IN } else { Role::STATE_IN }
    }

    /// Those of these roles that are bound.
    pub fn bound(&self, roles: &[Role]) -> Vec<Role> {
        roles.iter().copied().filter(|role| self.inputs.contains_key(role)).collect()
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
            "M" if self.has_slots() => self.slots(),
            "D" => self.d,
            "E" => self.e,
            "P" => P,
            "F" => self.given("F").map_or(self.d, |_| self.integer("F")),
            "M" if self.mechanism.name == "hedgehog" => 2 * self.size("F"),
            "M" if self.is_rfa() => P * if self.word("kernel") == "arccos" { 1 } else { 2 },
            "M" => self.d,
            // One for all, in some problems.
            "B|1" => {
                if self.d % 2 == 0 {
                    self.b
                } else {
                    1
                }
            }
            "H|1" => {
                if self.e % 2 == 0 {
                    self.heads[0]
                } else {
                    1
                }
            }
            "2*H|1" => {
                if self.e % 2 == 0 {
                    2 * self.heads[0]
                } else {
                    1
                }
            }
            name if self.mechanism.param(name).is_some() => self.integer(name),
            number => number.parse().unwrap_or_else(|_| panic!("size {number}")),
        }
    }

    fn role_spec(&self, role: Role) -> &'static RoleSpec {
        self.mechanism.role(role).unwrap_or_else(|| panic!("{} has no role {role}", self.mechanism.name))
    }

    /// The sizes along the axes of a role, as the catalogue writes them.
    pub fn axes(&self, role: Role) -> Vec<&'static str> {
        let per_head = self.word("normalize") == "srms_all" && role == Role::OUT_NORM_WEIGHT;
        let shapes = self.role_spec(role).shapes;
        let index = match role {
            _ if per_head => 1,
            // One matrix, one in a list of one, one for each head.
            Role::W => (self.d + 1) as usize % 3,
            _ => self.alternative.min(shapes.len() - 1),
        };
        shapes[index].split(',').collect()
    }

    /// The shape of a role.
    pub fn shape(&self, role: Role) -> Vec<i64> {
        let product = |text: &str| match text.ends_with("|1") {
            true => self.size(text),
            false => text.split('*').map(|name| self.size(name)).product::<i64>(),
        };
        let difference = |text: &str| match text.split_once('-') {
            Some((left, right)) => product(left) - product(right),
            None => product(text),
        };
        let sum = |text: &str| -> i64 { text.split('+').map(difference).sum() };
        self.axes(role).into_iter().map(sum).collect()
    }

    /// The axis of a role with this size, such as `T`.
    pub fn axis(&self, role: Role, size: &str) -> Option<usize> {
        let varies = || if size == "B" { self.d % 2 == 0 } else { self.e % 2 == 0 };
        let is = |own: &str| own == size || own.strip_suffix("|1") == Some(size) && varies();
        self.axes(role).into_iter().position(is)
    }

    /// Whether the form of a gate has a rate.
    fn needs_rate(&self) -> bool {
        matches!(self.word("form").as_str(), "softplus" | "lower_bound")
    }

    /// Whether parameters let this role be bound.
    pub fn takes(&self, role: Role) -> bool {
        let normalize = self.word("normalize");
        match role {
            Role::GATE => normalize == "rms_gate",
            Role::OUT_NORM_WEIGHT => matches!(normalize.as_str(), "rms_head" | "rms_gate" | "srms_all"),
            Role::A_LOG | Role::DT_BIAS if self.mechanism.name == "gate" => self.needs_rate(),
            Role::Z_IN | Role::Z_OUT => self.has_denominator(),
            // Not numbers: a test that wants lengths adds them to `indices`.
            Role::KEY_LEN | Role::QUERY_LEN => false,
            Role::SHIFT_IN | Role::SHIFT_OUT => self.has_shift() && self.shift,
            Role::W => self.is_rfa(),
            Role::SIGMA => self.is_rfa() && self.heads[0] == self.heads[1],
            Role::W_Q | Role::W_K | Role::B_Q | Role::B_K => {
                self.given("F").is_some() && self.word("form") == "split"
            }
            Role::W_QK | Role::B_QK => self.given("F").is_some() && self.word("form") == "concat",
            Role::DECAY if self.axes(role).len() == 1 => matches!(self.mode, Mode::Causal | Mode::Step),
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
        let alternatives = self.mechanism.role(Role::X).map_or(1, |spec| spec.shapes.len());
        if alternatives > 1 {
            self.alternative = rng.below(alternatives);
        }
        let roles: Vec<Role> = self.roles(RoleKind::Input).collect();
        for role in roles {
            let spec = self.role_spec(role);
            let must = spec.required
                || matches!(role, Role::GATE | Role::A_LOG | Role::W | Role::W_Q | Role::W_K | Role::W_QK)
                // What comes with another role.
                || role == Role::B_GATE_K && self.inputs.contains_key(&Role::W_GATE_K);
            if role == Role::B_GATE_K && !must {
                continue;
            }
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
        let delta = [Role::BETA, Role::ERASE].iter().any(|&role| self.mechanism.role(role).is_some())
            && !self.flag("l2norm_qk");
        let mut one = || -> f32 {
            let x = rng.signed();
            match role {
                Role::K if delta => x / width,
                Role::Q | Role::K => 1.5 * x,
                Role::G | Role::GV if rng.one_in(5) => 0.0,
                Role::G | Role::GV => -x.abs().powi(3) * 3.0,
                Role::BETA | Role::ERASE | Role::WRITE => 0.5 + 0.5 * x,
                // Their product moves the state by less than a tenth.
                Role::A | Role::B => 0.5 * x / width,
                Role::BONUS => 1.5 * x,
                Role::DT => 0.75 + 0.75 * x,
                Role::DT_RAW => 2.0 * x,
                Role::DECAY_RATE => -1.05 + x,
                Role::OUT_NORM_WEIGHT => 1.0 + 0.5 * x,
                Role::GATE => 3.0 * x,
                Role::Z_IN => 2.0 + x,
                Role::DECAY => 0.5 + 0.5 * x,
                Role::W | Role::W_GATE | Role::W_GATE_K | Role::W_Q | Role::W_K | Role::W_QK => {
                    2.0 * x / width
                }
                Role::W_DIAG => 1.5 * x,
                Role::TEMPERATURE => 1.0 + 0.5 * x,
                Role::SIGMA => 1.0 + 0.3 * x,
                Role::B_Q | Role::B_K | Role::B_QK | Role::B_GATE | Role::B_GATE_K => 0.5 * x,
                Role::SHIFT_IN | Role::LSE_IN => 1.5 + x,
                Role::ALIBI_SLOPES => 0.3 + 0.3 * x,
                Role::BIAS | Role::SINK => 2.0 * x,
                Role::SCALE_BH => (1.5 + x) / width,
                Role::PROBE => x / width,
                Role::LAM => 0.4 + 0.3 * x,
                Role::SLOT_WRITE => 0.5 + 0.5 * x,
                Role::SLOT_LOGITS => 4.0 * x,
                Role::KV => 1.5 * x,
                Role::BASIS => x / width,
                Role::COUNT_IN => (5.0 + 4.0 * x).round(),
                Role::X => 3.0 * x,
                Role::V
                | Role::W_CONV
                | Role::B_CONV
                | Role::A_LOG
                | Role::STATE_IN
                | Role::STATE_K_IN
                | Role::STATE_V_IN
                | Role::D_SKIP
                | Role::DT_BIAS => x,
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
            let mut part = self.tokens(start..end, if self.caches() { 0 } else { start }..end);
            for role in self.roles(RoleKind::StateIn) {
                if let Some(state) = next.inputs.get(&role) {
                    part.inputs.insert(role, state.clone());
                }
            }
            let later = part.advanced(start);
            let own = (start > 0 && later.params != part.params).then(|| later.plan(&plan_context(plan)));
            last = part.run_plan(own.as_ref().unwrap_or(plan));
            pieces.push(last.clone());
            next.carry(&last);
            start = end;
        }
        for (&role, whole) in &mut last {
            if let Some(axis) = self.axis(role, "T") {
                *whole =
                    Array::join(axis, &pieces.iter().map(|piece| piece[&role].clone()).collect::<Vec<_>>());
            }
        }
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

/// A context of the instruction set that a plan has.
fn plan_context(plan: &Plan) -> Context {
    context_of(plan.info().isa)
}

/// The role that carries out what this one carries in.
pub fn out_of(role: Role) -> Role {
    let part = role.base_name().strip_suffix("_in").unwrap_or_else(|| panic!("{role} carries nothing"));
    Role::from_name(&format!("{part}_out")).unwrap_or_else(|| panic!("{role} has no other side"))
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
