//! Reference files (`docs/spec/README.md`, "Reference vectors"), replayed by name, with no mechanism-specific code.

use super::types::{PLAIN, Stored, Types, contiguous, rounded};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use subquad::catalog::{self, RoleKind, StepKind};
use subquad::{Args, Context, Desc, Error, Mode, Plan, Role, Value, View, ViewMut};

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<i64>,
    pub data: Vec<f32>,
}

impl Array {
    pub fn filled(shape: &[i64], value: f32) -> Array {
        Array { shape: shape.to_vec(), data: vec![value; shape.iter().product::<i64>() as usize] }
    }

    /// The array made of these entries of an axis, in this order.
    pub fn pick(&self, axis: usize, entries: impl IntoIterator<Item = usize> + Clone) -> Array {
        let n = self.shape[axis] as usize;
        let outer = self.shape[..axis].iter().product::<i64>() as usize;
        let inner = self.shape[axis + 1..].iter().product::<i64>() as usize;
        let mut shape = self.shape.clone();
        shape[axis] = entries.clone().into_iter().count() as i64;
        let mut data = Vec::new();
        for o in 0..outer {
            for i in entries.clone() {
                assert!(i < n);
                data.extend_from_slice(&self.data[(o * n + i) * inner..][..inner]);
            }
        }
        Array { shape, data }
    }

    /// Arrays one after the other along an axis.
    pub fn join(axis: usize, parts: &[Array]) -> Array {
        let mut shape = parts[0].shape.clone();
        shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
        let outer = shape[..axis].iter().product::<i64>() as usize;
        let mut data = Vec::new();
        for o in 0..outer {
            for part in parts {
                let len = part.shape[axis..].iter().product::<i64>() as usize;
                data.extend_from_slice(&part.data[o * len..][..len]);
            }
        }
        Array { shape, data }
    }
}

/// A reference file.
#[derive(Clone, Debug)]
pub struct Golden {
    pub path: PathBuf,
    pub meta: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, Array>,
    /// Integers, which are inputs: lengths.
    pub indices: BTreeMap<String, Vec<i32>>,
}

/// Reference files of a folder of `tests/golden`, sorted by name.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let entries = std::fs::read_dir(root).expect("tests/golden is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    files
}

impl Golden {
    pub fn read(path: &Path) -> Golden {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let meta: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let mechanism = meta["mechanism"].as_str();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let floats = all.iter().filter(|(_, view)| view.dtype() == Dtype::F32).map(|(name, view)| {
            let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let shape = view.shape().iter().map(|&n| n as i64).collect();
            (name.to_owned(), Array { shape, data: data.collect() })
        });
        let is_input = |name: &str| {
            let spec = Role::from_name(name).and_then(|role| catalog::find(mechanism)?.role(role));
            spec.is_some_and(|spec| spec.kind == RoleKind::Input)
        };
        let lengths = all.iter().filter(|(name, view)| view.dtype() == Dtype::I32 && is_input(name));
        let integers = lengths.map(|(name, view)| {
            let data = view.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
            (name.to_owned(), data.collect())
        });
        let (tensors, indices) = (floats.collect(), integers.collect());
        Golden { path: path.to_owned(), meta, tensors, indices }
    }

    pub fn mechanism(&self) -> &str {
        &self.meta["mechanism"]
    }

    pub fn mode(&self) -> Mode {
        Mode::from_name(&self.meta["mode"]).unwrap()
    }

    fn number(&self, key: &str) -> f64 {
        self.meta[key].parse().unwrap()
    }

    /// The extent that a size has in the file, by the catalogue's shapes.
    fn size(&self, size: &str) -> Option<i64> {
        let roles = catalog::find(self.mechanism())?.roles.iter();
        roles.flat_map(|spec| spec.shapes.iter().map(move |shape| (spec, shape))).find_map(|(spec, shape)| {
            let extents = &self.tensors.get(spec.role.base_name())?.shape;
            let axes: Vec<&str> = shape.split(',').collect();
            let axis = axes.iter().position(|axis| *axis == size)?;
            (axes.len() == extents.len()).then(|| extents[axis])
        })
    }

    /// The description that the file's shapes and parameters give.
    pub fn desc(&self) -> Desc {
        let size = |names: &[&str]| names.iter().find_map(|name| self.size(name));
        let heads_k = size(&["Hk", "H"]).unwrap_or(1);
        let (heads_q, heads_v) = (size(&["H", "Hk"]).unwrap_or(1), self.size("Hv").unwrap_or(heads_k));
        let dim_qk = self.size("D").unwrap_or(1);
        let mut desc = Desc::new(self.mechanism()).heads(heads_q, heads_k, heads_v);
        desc = desc.dims(dim_qk, self.size("E").unwrap_or(dim_qk)).modes(self.mode());
        for name in ["M", "P", "F", "K"] {
            if let Some(extent) = self.size(name) {
                desc = desc.param(name, extent);
            }
        }
        let params: Json = serde_json::from_str(&self.meta["params"]).unwrap();
        for (name, value) in params.as_object().unwrap() {
            desc = desc.param(name, value_of(value));
        }
        desc
    }

    /// Runs the file and gives the worst error as a fraction of the tolerance.
    pub fn replay(&self, context: &Context) -> Result<f64, Error> {
        let outputs = self.outputs(context, PLAIN, PLAIN)?;
        let mut worst = 0.0f64;
        for (name, got) in outputs {
            let Some(want) = self.tensors.get(&name) else { continue };
            assert_eq!(got.shape, want.shape, "{name}");
            worst = worst.max(self.error(&name, &got, ""));
        }
        Ok(worst)
    }

    /// Runs the file on tensors of the types `stored`, with inputs and the state after each call rounded to `values`.
    pub fn outputs(
        &self,
        context: &Context,
        stored: Types,
        values: Types,
    ) -> Result<BTreeMap<String, Array>, Error> {
        let plan = Plan::new(context, &stored.desc(self.desc()))?;
        let mut inputs = self.inputs();
        for (name, array) in &mut inputs {
            *array = rounded(array, values.of(Role::from_name(name).unwrap()));
        }
        match self.mode() {
            Mode::Step => self.steps(&plan, inputs, stored, values),
            mode => run(&plan, mode, (&inputs, &self.indices), &self.out_shape(None), stored),
        }
    }

    /// The error of a tensor as a fraction of its tolerance, which begins with `prefix` unless it has one of its own.
    fn error(&self, name: &str, got: &Array, prefix: &str) -> f64 {
        let tolerance = |key: &str| -> f64 {
            let of_role = self.meta.get(&format!("role_{key}")).and_then(|text| {
                serde_json::from_str::<Json>(text).unwrap().get(name).and_then(Json::as_f64)
            });
            of_role.unwrap_or_else(|| self.number(&format!("{prefix}{key}")))
        };
        error(&got.data, &self.tensors[name].data, tolerance("rtol"), tolerance("atol"))
    }

    pub fn has_gradient(&self) -> bool {
        self.meta.contains_key("grad_rtol")
    }

    /// Runs backward and gives the worst error as a fraction of the tolerance.
    pub fn replay_gradient(&self, context: &Context) -> Result<f64, Error> {
        let plan = Plan::new(context, &self.desc())?;
        let mut outputs: BTreeMap<String, Array> =
            self.gradients(&[RoleKind::Input, RoleKind::StateIn, RoleKind::GradOutput]).collect();
        outputs.values_mut().for_each(|array| array.data.fill(f32::NAN));
        let mut args = Args::new();
        let (inputs, given) = (self.inputs(), self.gradients(&[RoleKind::Output, RoleKind::StateOut]));
        let inputs: BTreeMap<String, Array> = inputs.into_iter().chain(given).collect();
        for (name, array) in &inputs {
            args = args.input(Role::from_name(name).unwrap(), View::new(&array.data, &array.shape)?);
        }
        for (name, values) in &self.indices {
            args = args.input(Role::from_name(name).unwrap(), View::new(values, &[values.len() as i64])?);
        }
        for (name, array) in &mut outputs {
            let shape = array.shape.clone();
            args = args.output(Role::from_name(name).unwrap(), ViewMut::new(&mut array.data, &shape)?);
        }
        let size = |name| self.size(name).unwrap_or(1) as usize;
        let n_k = self.size("S").map_or(size("T"), |s| s as usize);
        let mut workspace = vec![0xff; plan.backward_workspace_size(size("B"), size("T"), n_k)?];
        plan.backward(self.mode(), &args, &mut workspace)?;
        Ok(outputs.iter().map(|(name, got)| self.error(name, got, "grad_")).fold(0.0, f64::max))
    }

    /// The file's gradients of roles of these kinds, and roles that are gradients themselves.
    fn gradients(&self, kinds: &[RoleKind]) -> impl Iterator<Item = (String, Array)> {
        let mechanism = catalog::find(self.mechanism()).unwrap();
        self.tensors.iter().filter_map(move |(name, array)| {
            let role = Role::from_name(name)?;
            let kind = mechanism.role(role.base())?.kind;
            let gradient = role.is_grad() || kind == RoleKind::GradOutput;
            (gradient && kinds.contains(&kind)).then(|| (name.clone(), array.clone()))
        })
    }

    fn inputs(&self) -> BTreeMap<String, Array> {
        let mechanism = catalog::find(self.mechanism()).unwrap();
        let is_input = |name: &str| {
            let spec = Role::from_name(name).and_then(|role| mechanism.role(role));
            spec.is_some_and(|spec| matches!(spec.kind, RoleKind::Input | RoleKind::StateIn))
        };
        self.tensors.iter().filter(|(name, _)| is_input(name)).map(|(n, a)| (n.clone(), a.clone())).collect()
    }

    fn out_shape(&self, tokens: Option<i64>) -> Vec<i64> {
        let mut shape = self.tensors["out"].shape.clone();
        shape[2] = tokens.unwrap_or(shape[2]);
        shape
    }

    fn steps(
        &self,
        plan: &Plan,
        mut inputs: BTreeMap<String, Array>,
        stored: Types,
        values: Types,
    ) -> Result<BTreeMap<String, Array>, Error> {
        let n = self.tensors["out"].shape[2] as usize;
        let mechanism = catalog::find(self.mechanism()).unwrap();
        let caches = mechanism.step == StepKind::Cache;
        let mut pieces = Vec::new();
        let mut last = BTreeMap::new();
        for t in 0..n {
            let token = inputs.iter().map(|(name, array)| {
                // What has a token axis is cut along it, keys to those up to the token's own where they are cached.
                let spec = mechanism.role(Role::from_name(name).unwrap()).unwrap();
                let axes = || spec.shapes[0].split(',');
                let axis = |size: &str| axes().position(|own| own == size);
                let array = axis("T").map_or(array.clone(), |axis| array.pick(axis, [t]));
                let array = match axis("S") {
                    Some(axis) if caches => {
                        let keys = array.shape[axis] as usize - n + t + 1;
                        array.pick(axis, 0..keys)
                    }
                    Some(axis) => array.pick(axis, [t]),
                    None => array,
                };
                (name.clone(), array)
            });
            let inputs_of_step = token.collect();
            let out_shape = self.out_shape(Some(1));
            last = run(plan, Mode::Step, (&inputs_of_step, &self.indices), &out_shape, stored)?;
            pieces.push(last.clone());
            for (name, array) in &last {
                if let Some(base) = name.strip_suffix("_out") {
                    let name = format!("{base}_in");
                    let dtype = values.of(Role::from_name(&name).unwrap());
                    inputs.insert(name, rounded(array, dtype));
                }
            }
        }
        for name in ["out", "lse"] {
            if let Some(whole) = last.get_mut(name) {
                *whole = Array::join(2, &pieces.iter().map(|piece| piece[name].clone()).collect::<Vec<_>>());
            }
        }
        Ok(last)
    }
}

/// Runs a plan on contiguous tensors of these types; gives `out`, `lse` where there is one, and every part of the state.
pub fn run(
    plan: &Plan,
    mode: Mode,
    (inputs, indices): (&BTreeMap<String, Array>, &BTreeMap<String, Vec<i32>>),
    out_shape: &[i64],
    types: Types,
) -> Result<BTreeMap<String, Array>, Error> {
    let batch = ["q", "qk", "x"].iter().find_map(|name| inputs.get(*name)).unwrap().shape[0];
    let mut outputs = BTreeMap::from([("out".to_owned(), Array::filled(out_shape, f32::NAN))]);
    if plan.mechanism().role(Role::LSE).is_some() {
        outputs.insert("lse".into(), Array::filled(&out_shape[..3], f32::NAN));
    }
    for part in &plan.state_layout().components {
        if part.role_in == Role::SHIFT_IN && !inputs.contains_key("shift_in") {
            continue;
        }
        let mut shape = vec![batch];
        shape.extend(&part.shape[..part.rank]);
        outputs.insert(part.role_out.to_string(), Array::filled(&shape, f32::NAN));
    }
    let stored = |(name, array): (&String, &Array)| {
        let role = Role::from_name(name).unwrap();
        (role, name.clone(), Stored::new(contiguous(array), types.of(role)))
    };
    let inputs: Vec<_> = inputs.iter().map(stored).collect();
    let mut outputs: Vec<_> = outputs.iter().map(stored).collect();
    let mut args = Args::new();
    for (role, _, tensor) in &inputs {
        args = args.input(*role, tensor.view());
    }
    for (name, values) in indices {
        args = args.input(Role::from_name(name).unwrap(), View::new(values, &[values.len() as i64])?);
    }
    for (role, _, tensor) in &mut outputs {
        args = args.output(*role, tensor.view_mut());
    }
    plan.execute(mode, &args, &mut vec![0; plan.workspace_size()])?;
    Ok(outputs.iter_mut().map(|(_, name, tensor)| (name.clone(), tensor.read())).collect())
}

/// Largest `|x − ref| / (atol + rtol·|ref|)`; infinities must agree, NaN never passes.
pub fn error(got: &[f32], want: &[f32], rtol: f64, atol: f64) -> f64 {
    let one = |(&x, &r): (&f32, &f32)| {
        let (x, r) = (f64::from(x), f64::from(r));
        if x == r { 0.0 } else { (x - r).abs() / (atol + rtol * r.abs()) }
    };
    let errors = got.iter().zip(want).map(one);
    errors.fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { worst.max(e) })
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Bool(x) => Value::from(*x),
        Json::Number(x) if x.is_i64() => Value::Int(x.as_i64().unwrap()),
        Json::Number(x) => Value::Real(x.as_f64().unwrap()),
        Json::String(x) => Value::Word(x.clone()),
        Json::Array(list) => Value::Reals(list.iter().map(|x| x.as_f64().unwrap()).collect()),
        other => panic!("a parameter is {other}"),
    }
}
