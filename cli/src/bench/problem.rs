//! Problem strings: `mechanism=gla,mode=causal,H=16,D=128,T=2048,dtype=f32,threads=1,isa=auto`.

use crate::list;
use crate::shape::Names;
use anyhow::{Context as _, Result, anyhow, bail};
use std::fmt;
use subquad::catalog::{Default, Mechanism, ParamKind, StepKind};
use subquad::{Context, ContextOptions, DType, Desc, Flags, Isa, Mode, Plan, Role, ThreadPool, Value};

/// Everything but parameters that a problem string can say.
const KEYS: [&str; 17] = [
    "mechanism",
    "mode",
    "grad",
    "B",
    "H",
    "Hk",
    "Hv",
    "D",
    "E",
    "T",
    "S",
    "dtype",
    "dtype_state",
    "bf16_dot",
    "threads",
    "isa",
    "with",
];

/// Keys that a step reads where it reads a cache, unless a problem says how many.
const CACHE: i64 = 4096;

/// Sizes that neither heads nor dimensions give; they are named like parameters.
const SIZES: [&str; 4] = ["M", "P", "F", "K"];

/// One problem, with nothing left open.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its row of the catalogue.
    pub mechanism: &'static Mechanism,
    /// What is computed.
    pub mode: Mode,
    /// Gradients are computed too, and it is their time that counts.
    pub grad: bool,
    /// Sequences.
    pub batch: i64,
    /// Heads of q, k and v.
    pub heads: [i64; 3],
    /// Dimension of queries and keys.
    pub dim_qk: i64,
    /// Dimension of values.
    pub dim_v: i64,
    /// Tokens of queries.
    pub n_queries: i64,
    /// Tokens of keys.
    pub n_keys: i64,
    /// Element type of q, k, v and the output; other inputs are f32.
    pub dtype: DType,
    /// Element type of the state.
    pub dtype_state: DType,
    /// Operands of products may be rounded to `bf16`.
    pub bf16_dot: bool,
    /// Workers of the built-in pool; 1 is the calling thread alone.
    pub threads: usize,
    /// Ceiling of the instruction set; `None` is the machine's best.
    pub isa: Option<Isa>,
    /// Parameters that are not left to their default.
    pub params: Vec<(String, Value)>,
    /// Optional roles to bind as well.
    pub with: Vec<Role>,
}

/// Choices of the command line that replace what a problem string says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Ceiling of the instruction set.
    pub isa: Option<Isa>,
    /// Workers.
    pub threads: Option<usize>,
}

impl Problem {
    /// The problems that a string stands for: one for each of its lengths.
    pub fn parse_all(text: &str, overrides: Overrides) -> Result<Vec<Problem>> {
        let pairs = pairs(text)?;
        let lengths = match find(&pairs, "T") {
            Some(text) => lengths(text)?,
            None => vec![],
        };
        let template = Problem::parse(&pairs, overrides).with_context(|| format!("problem `{text}`"))?;
        if template.mode == Mode::Step || lengths.is_empty() {
            return Ok(vec![template]);
        }
        Ok(lengths.into_iter().map(|t| template.with_length(t)).collect())
    }

    fn parse(pairs: &[(&str, &str)], overrides: Overrides) -> Result<Problem> {
        let get = |key: &str| find(pairs, key);
        let mechanism = list::find(get("mechanism").ok_or_else(|| anyhow!("`mechanism=` is missing"))?)?;
        check_keys(mechanism, pairs)?;
        let mode = parse_mode(mechanism, get("mode"))?;
        let size = |key: &str, default: i64| match get(key) {
            Some(text) => extent(key, text),
            None => Ok(default),
        };
        let heads_q = size("H", 16)?;
        let heads_k = size("Hk", heads_q)?;
        let heads_v = size("Hv", heads_k)?;
        let dim_qk = size("D", 128)?;
        let step = mode == Mode::Step;
        let caches = mechanism.step == StepKind::Cache;
        for key in ["T", "S"].into_iter().filter(|key| step && !(caches && *key == "S")) {
            if let Some(given) = get(key).filter(|text| *text != "1") {
                bail!("{key} is {given}, expected 1: mode step times one token");
            }
        }
        let length = if step { 1 } else { 2048 };
        let n_keys = if step && caches { CACHE } else { length };
        let isa = match get("isa").unwrap_or("auto") {
            "auto" => None,
            word => Some(parse_isa(word)?),
        };
        let threads = size("threads", 1)?;
        let roles = get("with").into_iter().flat_map(|list| list.split('+'));
        Ok(Problem {
            mechanism,
            mode,
            grad: parse_flag("grad", get("grad"))?,
            batch: size("B", 1)?,
            heads: [heads_q, heads_k, heads_v],
            dim_qk,
            dim_v: size("E", dim_qk)?,
            n_queries: length,
            n_keys: size("S", n_keys)?,
            dtype: parse_dtype(get("dtype").unwrap_or("f32"))?,
            dtype_state: parse_dtype(get("dtype_state").unwrap_or("f32")).context("dtype_state")?,
            bf16_dot: parse_flag("bf16_dot", get("bf16_dot"))?,
            threads: overrides.threads.unwrap_or(threads as usize),
            isa: overrides.isa.or(isa),
            params: parse_params(mechanism, pairs)?,
            with: roles.map(|name| parse_role(mechanism, name)).collect::<Result<_>>()?,
        })
    }

    /// The same with another number of tokens; keys follow unless mode cross has its own number.
    pub fn with_length(&self, t: i64) -> Problem {
        let own_keys = self.mode == Mode::Cross && self.n_keys != self.n_queries;
        Problem { n_queries: t, n_keys: if own_keys { self.n_keys } else { t }, ..self.clone() }
    }

    /// A small problem of the same kind, for checking: the same dimensions, fewer heads, tokens, sequences.
    pub fn reduced(&self, max_tokens: i64) -> Problem {
        let mut heads = self.heads;
        while heads.iter().all(|h| h % 2 == 0) && heads.iter().any(|&h| h > 4) {
            heads = heads.map(|h| h / 2);
        }
        let (n_queries, n_keys) = (self.n_queries.min(max_tokens), self.n_keys.min(max_tokens));
        Problem { heads, batch: self.batch.min(2), n_queries, n_keys, ..self.clone() }
    }

    /// The plan of this problem.
    pub fn plan(&self) -> Result<Plan> {
        let mut options = ContextOptions::new();
        if let Some(isa) = self.isa {
            options = options.max_isa(isa);
        }
        if self.threads > 1 {
            options = options.runner(std::sync::Arc::new(ThreadPool::new(self.threads)?));
        }
        let [q, k, v] = self.heads;
        let mut desc = Desc::new(self.mechanism.name).modes(self.mode).heads(q, k, v);
        desc = desc.dims(self.dim_qk, self.dim_v);
        (desc.dtype_qkv, desc.dtype_out, desc.dtype_state) = (self.dtype, self.dtype, self.dtype_state);
        desc.params.clone_from(&self.params);
        if self.bf16_dot {
            desc = desc.flags(Flags::BF16_DOT);
        }
        let plan = Plan::new(&Context::new(options)?, &desc).with_context(|| format!("problem `{self}`"))?;
        if self.grad && !plan.has_gradient(self.mode) {
            // It says why there is none.
            plan.backward_workspace_size(1, 1, 1)
                .with_context(|| format!("problem `{self}`: grad is 1, expected 0"))?;
        }
        Ok(plan)
    }

    /// Parameters and roles that were asked for, as the problem string has them; mostly empty.
    pub fn extras(&self) -> String {
        let mut items: Vec<_> =
            self.params.iter().map(|(name, value)| format!("{name}={}", value_text(value))).collect();
        if !self.with.is_empty() {
            let roles: Vec<_> = self.with.iter().map(Role::to_string).collect();
            items.push(format!("with={}", roles.join("+")));
        }
        items.join(",")
    }

    /// Heads of the output and of the state.
    pub fn out_and_state_heads(&self) -> (i64, i64) {
        let [q, k, v] = self.heads;
        let state = k.max(v);
        (q.max(state), state)
    }

    /// Element type of a role.
    pub fn dtype_of(&self, role: Role) -> DType {
        match role {
            Role::Q | Role::K | Role::V | Role::OUT => self.dtype,
            Role::QUERY_START => DType::I32,
            _ => DType::F32,
        }
    }

    /// The sizes that the catalogue's shapes speak of.
    pub fn names(&self) -> Names {
        let (out, state) = self.out_and_state_heads();
        let [q, k, v] = self.heads;
        let sizes = [
            ("B", self.batch),
            ("H", q),
            ("Hk", k),
            ("Hv", v),
            ("Hs", state),
            ("Ho", out),
            ("D", self.dim_qk),
            ("E", self.dim_v),
            ("T", self.n_queries),
            ("S", self.n_keys),
        ];
        let mut names: Names = sizes.into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
        for param in self.mechanism.params {
            if let Default::Int(x) = param.default {
                names.insert(param.name.to_owned(), x);
            }
        }
        for (name, value) in &self.params {
            if let Value::Int(x) = value {
                names.insert(name.clone(), *x);
            }
        }
        names
    }
}

/// The canonical string: every size is said, parameters only where they were given.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [q, k, v] = self.heads;
        let grad = if self.grad { "grad=1," } else { "" };
        write!(f, "mechanism={},mode={},{grad}B={},", self.mechanism.name, self.mode, self.batch)?;
        write!(f, "H={q},Hk={k},Hv={v},D={},E={},T={}", self.dim_qk, self.dim_v, self.n_queries)?;
        if self.n_keys != self.n_queries {
            write!(f, ",S={}", self.n_keys)?;
        }
        let isa = self.isa.map_or("auto", Isa::name);
        write!(f, ",dtype={}", self.dtype)?;
        if self.dtype_state != DType::F32 {
            write!(f, ",dtype_state={}", self.dtype_state)?;
        }
        if self.bf16_dot {
            write!(f, ",bf16_dot=1")?;
        }
        write!(f, ",threads={},isa={isa}", self.threads)?;
        let extras = self.extras();
        if extras.is_empty() { Ok(()) } else { write!(f, ",{extras}") }
    }
}

fn value_text(value: &Value) -> String {
    fn list<T: ToString>(list: &[T]) -> String {
        list.iter().map(T::to_string).collect::<Vec<_>>().join(":")
    }
    match value {
        Value::Int(x) => x.to_string(),
        Value::Real(x) => x.to_string(),
        Value::Word(x) => x.clone(),
        Value::Ints(x) => list(x),
        Value::Reals(x) => list(x),
    }
}

fn pairs(text: &str) -> Result<Vec<(&str, &str)>> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((key, value)) = item.split_once('=') else {
            bail!("problem `{text}`: `{item}` is not `key=value`");
        };
        let (key, value) = (key.trim(), value.trim());
        if find(&found, key).is_some() {
            bail!("problem `{text}`: key `{key}` is given twice");
        }
        found.push((key, value));
    }
    Ok(found)
}

fn find<'a>(pairs: &[(&str, &'a str)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(own, _)| *own == key).map(|&(_, value)| value)
}

fn check_keys(mechanism: &Mechanism, pairs: &[(&str, &str)]) -> Result<()> {
    for (key, _) in pairs {
        if !KEYS.contains(key) && mechanism.param(key).is_none() && !has_size(mechanism, key) {
            let params: Vec<_> = mechanism.params.iter().map(|param| param.name).collect();
            bail!(
                "unknown key `{key}`; known keys are {}, and the parameters of {}: {}",
                KEYS.join(", "),
                mechanism.name,
                params.join(", ")
            );
        }
    }
    Ok(())
}

/// Whether a shape of the mechanism speaks of this size.
fn has_size(mechanism: &Mechanism, key: &str) -> bool {
    let mut shapes = mechanism.roles.iter().flat_map(|spec| spec.shapes);
    SIZES.contains(&key) && shapes.any(|shape| shape.split([',', '+', '-', '*']).any(|name| name == key))
}

fn parse_mode(mechanism: &Mechanism, text: Option<&str>) -> Result<Mode> {
    let modes: Vec<_> = mechanism.modes.iter().map(|mode| mode.name()).collect();
    let given = text.or(modes.first().copied()).unwrap_or("causal");
    match Mode::from_name(given) {
        Some(mode) if mechanism.modes.contains(&mode) => Ok(mode),
        _ => bail!("mode is `{given}`, expected one of {} for {}", modes.join(", "), mechanism.name),
    }
}

/// `2048`, `4k`, `1M`: a suffix multiplies by 1024.
fn extent(key: &str, text: &str) -> Result<i64> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let value = number.parse::<i64>().ok().and_then(|n| n.checked_mul(unit));
    let valid = value.filter(|n| (1..=1 << 40).contains(n));
    valid
        .ok_or_else(|| anyhow!("{key} is `{text}`, expected a whole number of 1 or more, such as 2048 or 2k"))
}

/// `0` or `1`; left out, `0`.
fn parse_flag(key: &str, text: Option<&str>) -> Result<bool> {
    match text {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(text) => bail!("{key} is `{text}`, expected 0 or 1"),
    }
}

/// One length, a list `1k:3k:64k`, or a range `1k..1M` in powers of two.
fn lengths(text: &str) -> Result<Vec<i64>> {
    if let Some((low, high)) = text.split_once("..") {
        let (low, high) = (extent("T", low)?, extent("T", high)?);
        if low > high {
            bail!("T is `{text}`, expected the smaller end of the range first");
        }
        let mut all: Vec<_> =
            std::iter::successors(Some(low), |t| Some(t * 2)).take_while(|&t| t < high).collect();
        all.push(high);
        return Ok(all);
    }
    text.split(':').map(|part| extent("T", part)).collect()
}

/// The instruction set of that name.
pub fn parse_isa(word: &str) -> Result<Isa> {
    let names = || Isa::ALL.into_iter().filter(|isa| isa.available()).map(Isa::name).collect::<Vec<_>>();
    match word.parse::<Isa>() {
        Ok(isa) if isa.available() => Ok(isa),
        Ok(_) => bail!("isa is `{word}`, which this machine does not have; it has {}", names().join(", ")),
        Err(()) => bail!("isa is `{word}`, expected auto or one of {}", names().join(", ")),
    }
}

/// The element type of that name.
pub fn parse_dtype(word: &str) -> Result<DType> {
    let names: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
    let found = DType::ALL.into_iter().find(|dtype| dtype.name() == word);
    found.ok_or_else(|| anyhow!("dtype is `{word}`, expected one of {}", names.join(", ")))
}

fn parse_role(mechanism: &Mechanism, name: &str) -> Result<Role> {
    let role = Role::from_name(name).filter(|role| mechanism.role(*role).is_some());
    role.ok_or_else(|| {
        let names: Vec<_> = mechanism.roles.iter().map(|spec| spec.role.to_string()).collect();
        anyhow!("with is `{name}`, expected roles of {} joined by +: {}", mechanism.name, names.join(", "))
    })
}

fn parse_params(mechanism: &Mechanism, pairs: &[(&str, &str)]) -> Result<Vec<(String, Value)>> {
    let mut params = Vec::new();
    for &(key, text) in pairs {
        if has_size(mechanism, key) {
            params.push((key.to_owned(), Value::Int(extent(key, text)?)));
        }
        let Some(param) = mechanism.param(key).filter(|_| !KEYS.contains(&key)) else { continue };
        let value = parse_value(param.kind, text);
        let kind = list::kind_name(param.kind);
        let value =
            value.ok_or_else(|| anyhow!("parameter {key} is `{text}`, expected a value of type {kind}"))?;
        params.push((key.to_owned(), value));
    }
    Ok(params)
}

fn parse_value(kind: ParamKind, text: &str) -> Option<Value> {
    Some(match kind {
        ParamKind::Int | ParamKind::U64 => Value::Int(text.parse().ok()?),
        ParamKind::Real => Value::Real(text.parse().ok()?),
        ParamKind::Bool => match text {
            "0" | "false" => Value::Int(0),
            "1" | "true" => Value::Int(1),
            _ => return None,
        },
        ParamKind::Word | ParamKind::Words => Value::Word(text.to_owned()),
        ParamKind::Ints | ParamKind::U64s => {
            Value::Ints(text.split(':').map(str::parse).collect::<Result<_, _>>().ok()?)
        }
        ParamKind::Reals => Value::Reals(text.split(':').map(str::parse).collect::<Result<_, _>>().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let found = Problem::parse_all(text, Overrides::default()).unwrap();
        found.iter().map(Problem::to_string).collect()
    }

    fn fault(text: &str) -> String {
        format!("{:#}", Problem::parse_all(text, Overrides::default()).unwrap_err())
    }

    #[test]
    fn canonical_strings_reproduce_themselves() {
        let text = "mechanism=gated_delta_rule,mode=causal,B=2,H=8,Hk=8,Hv=16,D=64,E=32,T=100,\
                    dtype=f32,threads=2,isa=scalar,l2norm_qk=1,with=state_in+state_out";
        assert_eq!(all(text), [text]);
        assert_eq!(all(&all("mechanism=gla")[0]), all("mechanism=gla"));
        let types = "mechanism=gla,dtype=f16,dtype_state=bf16";
        assert!(all(types)[0].contains(",dtype=f16,dtype_state=bf16,"));
        assert_eq!(all(&all(types)[0]), all(types));
        let grad = "mechanism=gla,T=7,grad=1";
        assert!(all(grad)[0].starts_with("mechanism=gla,mode=causal,grad=1,B=1,"));
        assert_eq!(all(&all(grad)[0]), all(grad));
        assert_eq!(all("mechanism=gla,grad=0"), all("mechanism=gla"));
        let flag = "mechanism=gla,bf16_dot=1";
        assert!(all(flag)[0].contains(",dtype=f32,bf16_dot=1,"));
        assert_eq!(all(&all(flag)[0]), all(flag));
    }

    #[test]
    fn lengths_come_as_lists_and_ranges() {
        let tokens = |text| lengths(text).unwrap();
        assert_eq!(tokens("1k..5k"), [1024, 2048, 4096, 5120]);
        assert_eq!(tokens("1k:7:1M"), [1024, 7, 1 << 20]);
        assert_eq!(all("mechanism=gla,T=16:32").len(), 2);
    }

    #[test]
    fn faults_name_key_value_and_what_is_expected() {
        assert!(fault("mechanism=gla,chunk=3").contains("unknown key `chunk`; known keys are mechanism"));
        assert!(fault("mechanism=gla,H=0").contains("H is `0`, expected a whole number"));
        assert!(fault("mechanism=gla,mode=cross").contains("expected one of causal, step for gla"));
        assert!(fault("mechanism=nope").contains("mechanism is `nope`"));
        assert!(fault("mechanism=gla,H").contains("`H` is not `key=value`"));
        assert!(fault("mechanism=gla,H=2,H=3").contains("twice"));
        assert!(fault("mechanism=gla,mode=step,T=5").contains("expected 1"));
        assert!(fault("mechanism=gla,bf16_dot=yes").contains("bf16_dot is `yes`, expected 0 or 1"));
        assert!(fault("mechanism=gla,grad=dq").contains("grad is `dq`, expected 0 or 1"));
        assert!(fault("mechanism=gla,isa=mmx").contains("isa is `mmx`"));
    }
}
