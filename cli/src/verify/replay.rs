//! From a reference file to calls, and from their results to a comparison.

use super::Settings;
use super::cabi::{self, Engine, Param, Plan, Problem, Value};
use super::compare::Compared;
use super::gradient;
use super::reference::{Data, Reference, Tensor};
use crate::shape::{self, Names};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Range;
use subquad::catalog::{self, Default, Mechanism, ParamKind, RoleKind, RoleSpec, StepKind};
use subquad::{DType, Mode, Role};
use subquad_capi::{subquad_in, subquad_out};

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
}

/// The parameter that says where a call begins in its sequence, where a mechanism has one: it goes along.
const POSITION: &str = "position0";

fn string(text: &str) -> Result<CString, Stop> {
    CString::new(text).map_err(|_| Stop::Fail(format!("`{text}` has a NUL in it")))
}

/// Runs a file.
pub fn replay(reference: &Reference, engine: &Engine, settings: &Settings) -> Result<Replayed, Stop> {
    let Some(mechanism) = catalog::find(&reference.mechanism) else {
        return Err(Stop::Skip(format!("the catalogue has no mechanism `{}`", reference.mechanism)));
    };
    let Some(mode) = Mode::from_name(&reference.mode) else {
        return Err(Stop::Fail(format!("its metadata has mode = `{}`, which is none", reference.mode)));
    };
    let roles = roles(reference, mechanism)?;
    let names = sizes(reference, mechanism, &roles);
    let own_mode = mode;
    let mode = if settings.step { as_step(mechanism, mode, &names) } else { mode };
    let mut problem = problem(reference, mechanism, mode, &names, settings.dtype)?;
    let plan = |problem: &Problem| {
        Plan::new(engine, problem).map_err(|fault| match fault.is_unsupported() {
            true => Stop::Skip(fault.text().to_owned()),
            false => Stop::Fail(fault.to_string()),
        })
    };
    let first = plan(&problem)?;
    if settings.dtype != DType::F32 {
        return Err(Stop::Skip(format!("verify has no tolerances for {} yet", settings.dtype)));
    }
    let mut run = Run::new(reference, mechanism, mode, roles, first, &names)?;
    let pieces = run.pieces(settings.split, &names);
    for (i, tokens) in pieces.iter().enumerate() {
        if let (1.., Some(&position0)) = (i, names.get(POSITION)) {
            problem.params.retain(|param| param.name.as_bytes() != POSITION.as_bytes());
            let value = Value::Int(position0 + tokens.start);
            problem.params.push(Param { name: string(POSITION)?, value });
            run.plan = plan(&problem)?;
        }
        run.call(tokens, i == 0, i + 1 == pieces.len())?;
    }
    let mut replayed = Replayed { calls: pieces.len(), compared: run.compare(), no_gradient: None };
    if settings.gradients && reference.has_gradient() {
        // Steps have none: they are the whole sequence's.
        let own = self::problem(reference, mechanism, own_mode, &names, settings.dtype)?;
        match gradient::replay(reference, mechanism, own_mode, &mut plan(&own)?, &names) {
            Ok(compared) => replayed.compared.extend(compared),
            Err(Stop::Skip(reason)) => replayed.no_gradient = Some(reason),
            Err(stop) => return Err(stop),
        }
    }
    Ok(replayed)
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
    dtype: DType,
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
    for size in ["M", "P", "F"] {
        if let Some(&extent) = names.get(size) {
            params.push(Param { name: string(size)?, value: Value::Int(extent) });
        }
    }
    Ok(Problem {
        mechanism: string(mechanism.name)?,
        mode: mode as u32,
        heads: [first(&["H", "Hk"]), heads_k, heads_v],
        dims: [dim_qk, dim_v],
        dtype,
        params,
    })
}

/// A parameter's value; `Some(None)` where the file leaves it out by saying null.
fn value(kind: Option<ParamKind>, json: &Json) -> Option<Option<Value>> {
    let number = |json: &Json| match json.as_i64() {
        Some(x) => Some(Value::Int(x)),
        None => json.as_f64().map(Value::Real),
    };
    Some(Some(match json {
        Json::Null => return Some(None),
        Json::Bool(x) => Value::Int((*x).into()),
        Json::Number(_) => number(json)?,
        Json::String(text) if kind == Some(ParamKind::U64) => Value::Int(text.parse::<u64>().ok()? as i64),
        Json::String(text) => Value::Word(CString::new(text.as_str()).ok()?),
        Json::Array(list) => match list.iter().map(Json::as_i64).collect() {
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
    data: Vec<f32>,
}

/// A file under way.
struct Run<'a> {
    reference: &'a Reference,
    mode: Mode,
    recurrent: bool,
    roles: Vec<(String, &'static RoleSpec)>,
    plan: Plan,
    outputs: BTreeMap<String, Data>,
    carried: Vec<Carried>,
}

impl<'a> Run<'a> {
    fn new(
        reference: &'a Reference,
        mechanism: &Mechanism,
        mode: Mode,
        roles: Vec<(String, &'static RoleSpec)>,
        plan: Plan,
        names: &Names,
    ) -> Result<Run<'a>, Stop> {
        let batch = names.get("B").copied().unwrap_or(1);
        let components = plan.components().map_err(|fault| Stop::Fail(fault.to_string()))?;
        let mut carried = Vec::new();
        for part in components {
            let shape = [&[batch], &part.shape[..]].concat();
            let len = shape.iter().product::<i64>() as usize;
            let data = match reference.tensors.get(&part.role_in) {
                Some(Tensor { data: Data::F32(values), .. }) if values.len() == len => values.clone(),
                Some(tensor) => {
                    let (name, given) = (&part.role_in, &tensor.shape);
                    return Err(Stop::Fail(format!("{name} has shape {given:?}, the plan's is {shape:?}")));
                }
                None => vec![part.initial; len],
            };
            let (role_in, role_out) = (part.role_in, part.role_out);
            carried.push(Carried { role_in, role_out, shape, initial: part.initial, data });
        }
        let mut outputs = BTreeMap::new();
        for (name, _) in roles.iter().filter(|(_, spec)| spec.kind == RoleKind::Output) {
            outputs.insert(name.clone(), unwritten(name, &reference.tensors[name])?);
        }
        let recurrent = mechanism.step == StepKind::Recurrent;
        Ok(Run { reference, mode, recurrent, roles, plan, outputs, carried })
    }

    /// The tokens of each call: a recurrent step takes one, and a causal file can be split anywhere if every
    /// token has a query and a key.
    fn pieces(&self, split: Option<i64>, names: &Names) -> Vec<Range<i64>> {
        let (t, s) = (names.get("T").copied().unwrap_or(1), names.get("S").copied());
        let tied = s.is_none_or(|s| s == t) && self.recurrent && !self.carried.is_empty();
        let piece = match (self.mode, split) {
            (Mode::Step, _) if tied => 1,
            (Mode::Causal, Some(n)) if tied => n,
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
                RoleKind::Input => inputs.push(input(bound, dtype_and_address(name, &tensor.data)?)),
                RoleKind::Output => {
                    let data = self.outputs.get_mut(name).map(address_mut);
                    outputs.extend(data.map(|data| output(bound, data)));
                }
                _ => {}
            }
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
            let data = (DType::F32 as u32, part.data.as_mut_ptr().cast::<u8>());
            let bound = |name: &str| Bound::whole(name, &part.shape);
            if reads {
                inputs.push(input(bound(&part.role_in), (data.0, data.1.cast_const())));
            }
            if writes {
                outputs.push(output(bound(&part.role_out), data));
            }
        }
        // SAFETY: every tensor lies in a vector of this struct or of the file with that shape; outputs and
        // carried tensors are borrowed mutably for the call.
        let result = unsafe { self.plan.execute(self.mode as u32, &inputs, &outputs) };
        result.map_err(|fault| Stop::Fail(fault.to_string()))
    }

    /// The part of a tensor that belongs to these tokens: all of it, but for axes of tokens.
    fn slice(&self, name: &str, spec: &RoleSpec, tensor: &Tensor, tokens: &Range<i64>) -> Bound {
        let mut bound = Bound::whole(name, &tensor.shape);
        if !self.recurrent || ![Mode::Causal, Mode::Step].contains(&self.mode) {
            return bound;
        }
        let shapes = spec.shapes.iter().filter_map(|text| shape::parse(text));
        let Some(axes) = shapes.into_iter().find(|axes| axes.len() == tensor.shape.len()) else {
            return bound;
        };
        for (axis, _) in axes.iter().enumerate().filter(|(_, axis)| axis.is("T") || axis.is("S")) {
            // A tensor with another number of tokens is no part of a split: `pieces` did not split then.
            if tokens.end <= tensor.shape[axis] && tokens.end - tokens.start < tensor.shape[axis] {
                bound.shape[axis] = tokens.end - tokens.start;
                bound.offset += tokens.start * bound.stride[axis];
            }
        }
        bound
    }

    fn compare(&self) -> Vec<Compared> {
        let reals = |name: &str, given: &[f32], expected: &[f32]| {
            let (tolerance, allowance) = (self.reference.tolerance(name), self.reference.allowance(name));
            Compared::reals(name, given, expected, tolerance, allowance)
        };
        let outputs =
            self.outputs.iter().map(|(name, data)| (name, data, &self.reference.tensors[name].data));
        let mut compared: Vec<_> = outputs
            .filter_map(|(name, given, expected)| match (given, expected) {
                (Data::F32(given), Data::F32(expected)) => Some(reals(name, given, expected)),
                (Data::I32(given), Data::I32(expected)) => Some(Compared::integers(name, given, expected)),
                _ => None,
            })
            .collect();
        for part in &self.carried {
            if let Some(Tensor { data: Data::F32(expected), .. }) = self.reference.tensors.get(&part.role_out)
            {
                compared.push(reals(&part.role_out, &part.data, expected));
            }
        }
        compared
    }
}

/// Memory for an output, filled with what no result can be.
fn unwritten(name: &str, expected: &Tensor) -> Result<Data, Stop> {
    match &expected.data {
        Data::F32(values) => Ok(Data::F32(vec![f32::NAN; values.len()])),
        Data::I32(values) => Ok(Data::I32(vec![i32::MIN; values.len()])),
        Data::Other(dtype) => Err(no_type(name, dtype)),
    }
}

pub(super) fn no_type(name: &str, dtype: &str) -> Stop {
    Stop::Skip(format!("{name} has type {dtype}, which this version does not take"))
}

pub(super) fn dtype_and_address(name: &str, data: &Data) -> Result<(u32, *const u8), Stop> {
    match data {
        Data::F32(values) => Ok((DType::F32 as u32, values.as_ptr().cast())),
        Data::I32(values) => Ok((DType::I32 as u32, values.as_ptr().cast())),
        Data::Other(dtype) => Err(no_type(name, dtype)),
    }
}

fn address_mut(data: &mut Data) -> (u32, *mut u8) {
    match data {
        Data::F32(values) => (DType::F32 as u32, values.as_mut_ptr().cast()),
        Data::I32(values) => (DType::I32 as u32, values.as_mut_ptr().cast()),
        Data::Other(_) => (0, std::ptr::null_mut()),
    }
}

/// Role, extents, strides and first element of a tensor, in elements of 4 bytes.
pub(super) struct Bound {
    role: u32,
    rank: usize,
    shape: [i64; 5],
    stride: [i64; 5],
    offset: i64,
}

impl Bound {
    /// All of a row-major tensor.
    pub(super) fn whole(name: &str, extents: &[i64]) -> Bound {
        // More than five axes are the library's to refuse.
        let (rank, role) = (extents.len(), cabi::role_id(name));
        let mut bound = Bound { role, rank, shape: [1; 5], stride: [0; 5], offset: 0 };
        let mut step = 1;
        for axis in (0..rank.min(5)).rev() {
            (bound.shape[axis], bound.stride[axis]) = (extents[axis], step);
            step *= extents[axis];
        }
        bound
    }
}

pub(super) fn input(bound: Bound, (dtype, data): (u32, *const u8)) -> subquad_in {
    let Bound { role, rank, shape, stride, offset } = bound;
    let data = data.wrapping_offset(4 * offset as isize).cast();
    subquad_in { role, dtype, rank: rank as u32, reserved0: 0, data, shape, stride, reserved: [0; 2] }
}

pub(super) fn output(bound: Bound, (dtype, data): (u32, *mut u8)) -> subquad_out {
    let Bound { role, rank, shape, stride, offset } = bound;
    let data = data.wrapping_offset(4 * offset as isize).cast();
    subquad_out { role, dtype, rank: rank as u32, reserved0: 0, data, shape, stride, reserved: [0; 2] }
}
