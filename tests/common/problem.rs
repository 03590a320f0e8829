//! Random problems of every mechanism of this version, made from the catalogue: parameters, heads, shapes by the
//! text of the roles, values by the roles' names.

use super::golden::Array;
use super::support::{self, Rng};
use std::collections::BTreeMap;
use subquad::catalog::{self, Default, Mechanism, RoleKind, RoleSpec, StepKind};
use subquad::{Context, ContextOptions, Desc, Isa, Mode, Plan, Role, Value};

use super::params::{P, values};
#[allow(unused_imports, reason = "each test target uses a part")]
pub use super::params::{random_params, required, variants};
#[allow(unused_imports, reason = "each test target uses a part")]
pub use super::run::{assert_lively, assert_same_bits, execute, index_of, out_of, workspace};
pub use super::strided::Strided;

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

    pub(super) fn given(&self, name: &str) -> Option<&Value> {
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

    pub(super) fn role_spec(&self, role: Role) -> &'static RoleSpec {
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
