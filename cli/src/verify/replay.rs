//! From a reference file to calls, and from their results to a comparison.

use super::Settings;
use super::cabi::{self, Engine, Param, Plan, Problem, Value};
use super::compare::Compared;
use super::gradient::{self, Gradients};
use super::operands::{Bound, Buffer, compare_rounded, input, output, round, stored_input, unwritten};
use super::reference::{Data, Reference, Tensor};
use crate::shape::{self, Names};
use crate::values::{Values, rounded};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Range;
use subquad::catalog::{self, Default, Mechanism, ParamKind, RoleKind, RoleSpec, StepKind};
use subquad::{DType, Mode, Role};
use subquad_capi::SUBQUAD_FLAG_BF16_DOT;

/// Why there is nothing to compare.
pub enum Stop {
    /// Something that this version does not have.
    Skip(String),
    /// A fault of the file or of the library.
    Fail(String),
}

/// What came out.
pub struct Replayed {
    /// Number of calls.
    pub calls: usize,
    /// Every output, and every gradient.
    pub compared: Vec<Compared>,
    /// Why there are no gradients among them, where the file has some.
    pub no_gradient: Option<String>,
    /// With other types than f32: largest distance from the file's results, relative to the largest of each tensor.
    pub distance: Option<f64>,
}

/// The parameter that says where a call begins in its sequence, where a mechanism has one: it goes along.
const POSITION: &str = "position0";

fn string(text: &str) -> Result<CString, Stop> {
    CString::new(text).map_err(|_| Stop::Fail(format!("`{text}` has a NUL in it")))
}

/// Element types of a run.
#[derive(Clone, Copy, PartialEq)]
pub struct Types {
    /// Of all inputs and of the output.
    pub tokens: DType,
    /// Of the state.
    pub state: DType,
    /// Operands of products may be rounded to `bf16`; as a type of values: rows of queries, keys and values are.
    pub bf16_dot: bool,
}

/// What a result may be off by, in units of the largest value of its tensor (`docs/numerics.md`): where operands are
/// rounded, 4 of these roundings, and where they are exact but summed in another order, an eighth of one of `f16`.
const OPERANDS: f64 = 4.0 / 256.0;
const ORDER: f64 = 1.0 / 16384.0;

const F32: Types = Types { tokens: DType::F32, state: DType::F32, bf16_dot: false };

/// Runs a file, and compares: with the file's results in `f32`, else with the `f32` run on what the types can hold.
pub fn replay(reference: &Reference, engine: &Engine, settings: &Settings) -> Result<Replayed, Stop> {
    let file = File::new(reference, settings)?;
    let types = settings.types;
    // What this version does not have is said before anything is run.
    let rounds_rows = types != F32 && {
        let plan = file.plan(engine, file.mode, types, 0)?;
        let kernel = plan.kernel().map_err(|fault| Stop::Fail(fault.to_string()))?;
        types.bf16_dot && kernel.starts_with("softmax:matmul_bf16")
    };
    let (plain, calls) = file.run(engine, F32, F32)?;
    let compared = plain.compare_with_file();
    let mut replayed = Replayed { calls, compared, no_gradient: None, distance: None };
    if types != F32 && replayed.compared.iter().all(|one| one.fraction <= 1.0) {
        let values = Types { bf16_dot: false, ..types };
        let (expected, _) = file.run(engine, F32, values)?;
        let (given, calls) = file.run(engine, types, values)?;
        (replayed.calls, replayed.compared) = (calls, given.compare_with(&expected));
        if rounds_rows {
            // Few queries are not rounded.
            let (expected, _) = file.run(engine, F32, types)?;
            let nearer = |(one, other): (&mut Compared, Compared)| {
                if other.fraction < one.fraction {
                    *one = other;
                }
            };
            replayed.compared.iter_mut().zip(given.compare_with(&expected)).for_each(nearer);
        }
        replayed.distance = Some(given.distance());
    }
    if settings.gradients && reference.has_gradient() {
        match file.compare_gradients(engine, types) {
            Ok(compared) => replayed.compared.extend(compared),
            Err(Stop::Skip(reason)) => replayed.no_gradient = Some(reason),
            Err(stop) => return Err(stop),
        }
    }
    Ok(replayed)
}

/// A file with everything that follows from it.
struct File<'a> {
    reference: &'a Reference,
    mechanism: &'static Mechanism,
    /// Mode of the file.
    own_mode: Mode,
    /// Mode of the calls.
    mode: Mode,
    /// The queries come in several calls that say where they stand.
    counted: bool,
    roles: Vec<(String, &'static RoleSpec)>,
    names: Names,
    split: Option<i64>,
}

impl<'a> File<'a> {
    fn new(reference: &'a Reference, settings: &Settings) -> Result<File<'a>, Stop> {
        let Some(mechanism) = catalog::find(&reference.mechanism) else {
            return Err(Stop::Skip(format!("the catalogue has no mechanism `{}`", reference.mechanism)));
        };
        let Some(own_mode) = Mode::from_name(&reference.mode) else {
            return Err(Stop::Fail(format!("its metadata has mode = `{}`, which is none", reference.mode)));
        };
        let roles = roles(reference, mechanism)?;
        let names = sizes(reference, mechanism, &roles);
        let counted = own_mode == Mode::Cross
            && mechanism.role(Role::QUERY_START).is_some()
            && (settings.step || settings.split.is_some());
        let mode = match settings.step {
            true if counted && mechanism.modes.contains(&Mode::Step) => Mode::Step,
            true => as_step(mechanism, own_mode, &names),
            false => own_mode,
        };
        Ok(File { reference, mechanism, own_mode, mode, counted, roles, names, split: settings.split })
    }

    /// A plan for calls that begin so many tokens into the file.
    fn plan(&self, engine: &Engine, mode: Mode, types: Types, start: i64) -> Result<Plan, Stop> {
        let mut problem = problem(self.reference, self.mechanism, mode, &self.names, types)?;
        if let (true, Some(&t)) = (self.counted, self.names.get("T")) {
            // What is the number of queries unless it is given: no call has them all.
            for param in self.mechanism.params.iter().filter(|param| param.default == Default::Expr("T")) {
                if !self.reference.params.contains_key(param.name) {
                    problem.params.push(Param { name: string(param.name)?, value: Value::Int(t) });
                }
            }
        }
        if let (1.., Some(&position0)) = (start, self.names.get(POSITION)) {
            problem.params.retain(|param| param.name.as_bytes() != POSITION.as_bytes());
            let value = Value::Int(position0 + start);
            problem.params.push(Param { name: string(POSITION)?, value });
        }
        Plan::new(engine, &problem).map_err(|fault| match fault.is_unsupported() {
            true => Stop::Skip(fault.text().to_owned()),
            false => Stop::Fail(fault.to_string()),
        })
    }

    /// Runs it on tensors of the types `stored`, whose values are rounded to `values`.
    fn run(&self, engine: &Engine, stored: Types, values: Types) -> Result<(Run<'_>, usize), Stop> {
        let mut run = Run::new(self, self.plan(engine, self.mode, stored, 0)?, stored, values)?;
        let pieces = run.pieces(self.split, &self.names);
        for (i, tokens) in pieces.iter().enumerate() {
            if i > 0 && self.names.contains_key(POSITION) {
                run.plan = self.plan(engine, self.mode, stored, tokens.start)?;
            }
            run.call(tokens, i == 0, i + 1 == pieces.len())?;
        }
        Ok((run, pieces.len()))
    }

    /// The gradients, in the file's own mode: steps have none, they are the whole sequence's.
    fn gradients(&self, engine: &Engine, stored: Types, values: Types) -> Result<Gradients<'_>, Stop> {
        let mut plan = self.plan(engine, self.own_mode, stored, 0)?;
        let types = (stored, values);
        gradient::replay(self.reference, self.mechanism, self.own_mode, &mut plan, &self.names, types)
    }

    /// Compares them as outputs are compared.
    fn compare_gradients(&self, engine: &Engine, types: Types) -> Result<Vec<Compared>, Stop> {
        let compared = self.gradients(engine, F32, F32)?.compare_with_file();
        if types == F32 || compared.iter().any(|one| one.fraction > 1.0) {
            return Ok(compared);
        }
        let expected = self.gradients(engine, F32, types)?;
        Ok(self.gradients(engine, types, types)?.compare_with(&expected))
    }
}

/// Mode step in place of causal, where every token has a query and a key and the state is all that is carried.
fn as_step(mechanism: &Mechanism, mode: Mode, names: &Names) -> Mode {
    let steps = mechanism.step == StepKind::Recurrent && mechanism.modes.contains(&Mode::Step);
    let tied = names.get("T") == names.get("S");
    if mode == Mode::Causal && steps && tied { Mode::Step } else { mode }
}

/// The tensors of the forward pass that the file has, each with its row of the catalogue.
fn roles(
    reference: &Reference,
    mechanism: &'static Mechanism,
) -> Result<Vec<(String, &'static RoleSpec)>, Stop> {
    let mut found = Vec::new();
    for name in reference.tensors.keys() {
        let spec = Role::from_name(name).and_then(|role| mechanism.role(role));
        let gradient = Role::from_name(name).is_some_and(Role::is_grad);
        let kind = spec.map(|spec| spec.kind);
        match spec {
            Some(spec) if kind != Some(RoleKind::GradOutput) => found.push((name.clone(), spec)),
            Some(_) => {}
            None if gradient || name.ends_with("_allowance") => {}
            None => {
                let owner = mechanism.name;
                return Err(Stop::Fail(format!("tensor `{name}` is no role of {owner} in the catalogue")));
            }
        }
    }
    Ok(found)
}

/// Sizes that the shapes of the catalogue speak of, read from the tensors and the integer parameters.
fn sizes(reference: &Reference, mechanism: &Mechanism, roles: &[(String, &'static RoleSpec)]) -> Names {
    let mut names = Names::new();
    for param in mechanism.params {
        let given = reference.params.get(param.name).and_then(Json::as_i64);
        let default = if let Default::Int(x) = param.default { Some(x) } else { None };
        if let Some(x) = given.or(default) {
            names.insert(param.name.to_owned(), x);
        }
    }
    // In the catalogue's order, q, k and v come first: they bind most sizes, and the rest follows.
    let mut ordered: Vec<_> = roles.iter().collect();
    ordered.sort_by_key(|(_, spec)| mechanism.roles.iter().position(|other| other.role == spec.role));
    for (name, spec) in ordered {
        shape::fit(spec.shapes, &reference.tensors[name].shape, &mut names);
    }
    names
}

fn problem(
    reference: &Reference,
    mechanism: &Mechanism,
    mode: Mode,
    names: &Names,
    types: Types,
) -> Result<Problem, Stop> {
    let first = |list: &[&str]| list.iter().find_map(|&name| names.get(name).copied()).unwrap_or(1);
    let heads_k = first(&["Hk", "H"]);
    let heads_v = names.get("Hv").copied().unwrap_or(heads_k);
    let dim_qk = first(&["D"]);
    let dim_v = names.get("E").copied().unwrap_or(dim_qk);
    let mut params = Vec::new();
    for (name, json) in &reference.params {
        let kind = mechanism.param(name).map(|param| param.kind);
        let fault = || Stop::Fail(format!("parameter {name} is {json}, which is no kind of value"));
        if let Some(value) = value(kind, json).ok_or_else(fault)? {
            params.push(Param { name: string(name)?, value });
        }
    }
    // Sizes that neither heads nor dimensions give are named like parameters.
    for size in ["M", "P", "F", "K"] {
        if let Some(&extent) = names.get(size) {
            params.push(Param { name: string(size)?, value: Value::Int(extent) });
        }
    }
    Ok(Problem {
        mechanism: string(mechanism.name)?,
        mode: mode as u32,
        heads: [first(&["H", "Hk"]), heads_k, heads_v],
        dims: [dim_qk, dim_v],
        dtype: types.tokens,
        dtype_state: types.state,
        flags: if types.bf16_dot { SUBQUAD_FLAG_BF16_DOT } else { 0 },
        params,
    })
}

/// A parameter's value; `Some(None)` where the file leaves it out by saying null.
fn value(kind: Option<ParamKind>, json: &Json) -> Option<Option<Value>> {
    let number = |json: &Json| match json.as_i64() {
        Some(x) => Some(Value::Int(x)),
        None => json.as_f64().map(Value::Real),
    };
    // Integers of 64 bits may stand as text: JSON's numbers may have fewer.
    let word = |json: &Json| json.as_str().and_then(|text| text.parse::<u64>().ok()).map(|x| x as i64);
    let integer =
        |json: &Json| json.as_i64().or_else(|| word(json).filter(|_| kind == Some(ParamKind::U64s)));
    Some(Some(match json {
        Json::Null => return Some(None),
        Json::Bool(x) => Value::Int((*x).into()),
        Json::Number(_) => number(json)?,
        Json::String(_) if kind == Some(ParamKind::U64) => Value::Int(word(json)?),
        Json::String(text) => Value::Word(CString::new(text.as_str()).ok()?),
        Json::Array(list) => match list.iter().map(integer).collect() {
            Some(integers) => Value::Ints(integers),
            None => Value::Reals(list.iter().map(Json::as_f64).collect::<Option<_>>()?),
        },
        Json::Object(_) => return None,
    }))
}

/// A tensor that the calls carry from one to the next, in place.
struct Carried {
    role_in: String,
    role_out: String,
    shape: Vec<i64>,
    initial: f32,
    data: Values,
    /// Type that its values are rounded to between calls.
    values: DType,
}

/// A file under way.
struct Run<'a> {
    reference: &'a Reference,
    mode: Mode,
    recurrent: bool,
    counted: bool,
    batch: i64,
    roles: Vec<(String, &'static RoleSpec)>,
    plan: Plan,
    inputs: BTreeMap<String, Buffer>,
    outputs: BTreeMap<String, Buffer>,
    carried: Vec<Carried>,
    /// What rounded operands or another order of sums may leave, in units of the largest value of a tensor.
    operands: f64,
}

impl<'a> Run<'a> {
    fn new(file: &File<'a>, plan: Plan, stored: Types, values: Types) -> Result<Run<'a>, Stop> {
        let reference = file.reference;
        let batch = file.names.get("B").copied().unwrap_or(1);
        let fail = |fault: cabi::Fault| Stop::Fail(fault.to_string());
        let components = plan.components().map_err(fail)?;
        let rounds = plan.kernel().map_err(fail)?.contains("_bf16") && file.mode != Mode::Step;
        let operands = match (rounds, stored.bf16_dot) {
            (true, true) => OPERANDS,
            (true, false) => ORDER,
            _ => 0.0,
        };
        let mut carried = Vec::new();
        for part in components {
            let shape = [&[batch], &part.shape[..]].concat();
            let len = shape.iter().product::<i64>() as usize;
            // Normalisers, shifts, logarithms of sums and counts are f32 in every plan.
            let wide = ["z_in", "shift_in", "lse_in", "count_in"].contains(&part.role_in.as_str());
            let values = if wide { DType::F32 } else { values.state };
            let data = match reference.tensors.get(&part.role_in) {
                Some(Tensor { data: Data::F32(reals), .. }) if reals.len() == len => {
                    round(&part.role_in, reals, values)?
                }
                Some(tensor) => {
                    let (name, given) = (&part.role_in, &tensor.shape);
                    return Err(Stop::Fail(format!("{name} has shape {given:?}, the plan's is {shape:?}")));
                }
                None => vec![part.initial; len],
            };
            let data = Values::new(data, part.dtype);
            let (role_in, role_out) = (part.role_in, part.role_out);
            carried.push(Carried { role_in, role_out, shape, initial: part.initial, data, values });
        }
        let (mut inputs, mut outputs) = (BTreeMap::new(), BTreeMap::new());
        for (name, spec) in &file.roles {
            let data = &reference.tensors[name].data;
            match spec.kind {
                RoleKind::Input => {
                    inputs.insert(name.clone(), stored_input(name, data, stored.tokens, values)?)
                }
                RoleKind::Output => {
                    let dtype = if name == "out" { stored.tokens } else { DType::F32 };
                    outputs.insert(name.clone(), unwritten(name, data, dtype)?)
                }
                // A state that is given out and not taken in is an output like others.
                RoleKind::StateOut if carried.iter().all(|part| part.role_out != *name) => {
                    outputs.insert(name.clone(), unwritten(name, data, stored.state)?)
                }
                _ => None,
            };
        }
        let recurrent = file.mechanism.step == StepKind::Recurrent;
        let (mode, counted, roles) = (file.mode, file.counted, file.roles.clone());
        let run = Run {
            reference,
            mode,
            recurrent,
            counted,
            batch,
            roles,
            plan,
            inputs,
            outputs,
            carried,
            operands,
        };
        Ok(run)
    }

    /// The tokens of each call: a recurrent step takes one, and a causal file can be split anywhere if every
    /// token has a query and a key, or after any block where there are some. Counted queries can be split anywhere.
    fn pieces(&self, split: Option<i64>, names: &Names) -> Vec<Range<i64>> {
        let (t, s) = (names.get("T").copied().unwrap_or(1), names.get("S").copied());
        let tied = s.is_none_or(|s| s == t) && self.recurrent && !self.carried.is_empty();
        let piece = match (self.mode, split) {
            (Mode::Step, _) if tied || self.counted => 1,
            (Mode::Cross, Some(n)) if self.counted => n,
            // Blocks lie at absolute positions: a call begins with one.
            (Mode::Causal, Some(n)) if tied => {
                let block = names.get("block").copied().unwrap_or(1);
                ((n - 1) / block + 1).saturating_mul(block)
            }
            _ => t.max(1),
        };
        (0..t.max(1)).step_by(piece as usize).map(|start| start..(start + piece).min(t.max(1))).collect()
    }

    fn call(&mut self, tokens: &Range<i64>, first: bool, last: bool) -> Result<(), Stop> {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for (name, spec) in &self.roles {
            let tensor = &self.reference.tensors[name];
            let bound = self.slice(name, spec, tensor, tokens);
            match spec.kind {
                RoleKind::Input => {
                    inputs.extend(self.inputs.get(name).map(|data| input(bound, data.address())))
                }
                RoleKind::Output | RoleKind::StateOut => {
                    let data = self.outputs.get_mut(name).map(Buffer::address_mut);
                    outputs.extend(data.map(|data| output(bound, data)));
                }
                _ => {}
            }
        }
        let starts = vec![tokens.start as i32; self.batch as usize];
        if self.counted {
            let bound = Bound::whole(Role::QUERY_START.base_name(), &[self.batch]);
            inputs.push(input(bound, (DType::I32, starts.as_ptr().cast())));
        }
        let has = |name: &String| self.reference.tensors.contains_key(name);
        let (any_in, any_out) = (
            self.carried.iter().any(|part| has(&part.role_in)),
            self.carried.iter().any(|part| has(&part.role_out)),
        );
        for part in &mut self.carried {
            // Between calls all of the state is carried. At the ends it is the file's: a state comes whole, but
            // a part that does not begin at zero (a shift) may be left out and is then plain scale.
            let whole = part.initial == 0.0;
            let reads = if first { has(&part.role_in) || (any_in && whole) } else { true };
            let writes = if last { has(&part.role_out) || (any_out && whole) } else { true };
            if !first && part.values != part.data.dtype() {
                part.data = Values::new(rounded(&part.data.reals(), part.values), part.data.dtype());
            }
            let data = (part.data.dtype(), part.data.address_mut());
            let bound = |name: &str| Bound::whole(name, &part.shape);
            if reads {
                inputs.push(input(bound(&part.role_in), (data.0, data.1.cast_const())));
            }
            if writes {
                outputs.push(output(bound(&part.role_out), data));
            }
        }
        // SAFETY: every tensor lies in a vector of this function, of this struct or of the file with that shape; outputs and
        // carried tensors are borrowed mutably for the call.
        let result = unsafe { self.plan.execute(self.mode as u32, &inputs, &outputs) };
        result.map_err(|fault| Stop::Fail(fault.to_string()))
    }

    /// The part of a tensor that belongs to these tokens: all of it, but for axes of tokens.
    fn slice(&self, name: &str, spec: &RoleSpec, tensor: &Tensor, tokens: &Range<i64>) -> Bound {
        let mut bound = Bound::whole(name, &tensor.shape);
        let by_token = self.recurrent && [Mode::Causal, Mode::Step].contains(&self.mode);
        if !by_token && !self.counted {
            return bound;
        }
        let shapes = spec.shapes.iter().filter_map(|text| shape::parse(text));
        let Some(axes) = shapes.into_iter().find(|axes| axes.len() == tensor.shape.len()) else {
            return bound;
        };
        // Keys stay where only queries are split.
        let split = |axis: &shape::Axis| axis.is("T") || (by_token && axis.is("S"));
        for (axis, _) in axes.iter().enumerate().filter(|(_, axis)| split(axis)) {
            // A tensor with another number of tokens is no part of a split: `pieces` did not split then.
            if tokens.end <= tensor.shape[axis] && tokens.end - tokens.start < tensor.shape[axis] {
                bound.shape[axis] = tokens.end - tokens.start;
                bound.offset += tokens.start * bound.stride[axis];
            }
        }
        bound
    }

    /// Every result by its name: the outputs, and what is carried out and is in the file.
    fn results(&self) -> impl Iterator<Item = (&str, DType, Vec<f32>)> {
        let outputs = self.outputs.iter().filter_map(|(name, data)| match data {
            Buffer::Reals(values) => Some((name.as_str(), values)),
            Buffer::Integers(_) => None,
        });
        let in_file = |part: &&Carried| self.reference.tensors.contains_key(&part.role_out);
        let carried = self.carried.iter().filter(in_file).map(|part| (part.role_out.as_str(), &part.data));
        outputs.chain(carried).map(|(name, values)| (name, values.dtype(), values.reals()))
    }

    /// With the file's results, by the file's tolerances.
    fn compare_with_file(&self) -> Vec<Compared> {
        let reals = self.results().filter_map(|(name, _, given)| {
            let Data::F32(expected) = &self.reference.tensors[name].data else { return None };
            let (tolerance, allowance) = (self.reference.tolerance(name), self.reference.allowance(name));
            Some(Compared::reals(name, &given, expected, tolerance, allowance))
        });
        reals.chain(self.compare_integers()).collect()
    }

    fn compare_integers(&self) -> impl Iterator<Item = Compared> {
        self.outputs.iter().filter_map(|(name, data)| match (data, &self.reference.tensors[name].data) {
            (Buffer::Integers(given), Data::I32(expected)) => Some(Compared::integers(name, given, expected)),
            _ => None,
        })
    }

    /// With a run in `f32` on the same values: one rounding to the type of each tensor, and those of operands.
    fn compare_with(&self, expected: &Run<'_>) -> Vec<Compared> {
        let both = self.results().zip(expected.results());
        let reals = both.map(|((name, dtype, given), (_, _, expected))| {
            compare_rounded(name, dtype, &given, expected, self.operands)
        });
        reals.chain(self.compare_integers()).collect()
    }

    /// Largest distance from the file's results, relative to the largest value of each.
    fn distance(&self) -> f64 {
        let one = |(name, _, given): (&str, DType, Vec<f32>)| {
            let Data::F32(expected) = &self.reference.tensors[name].data else { return 0.0 };
            let pairs = given.iter().zip(expected).filter(|(x, r)| x != r);
            let worst = pairs.map(|(x, r)| (f64::from(*x) - f64::from(*r)).abs()).fold(0.0, f64::max);
            let largest = expected.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
            if worst == 0.0 { 0.0 } else { worst / largest }
        };
        self.results().map(one).fold(0.0, f64::max)
    }
}
