//! A reference file: what to run, on what, and what must come out.

use anyhow::{Context as _, Result, anyhow, bail};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A file with its metadata understood.
pub struct Reference {
    /// Name of the mechanism.
    pub mechanism: String,
    /// Name of the mode.
    pub mode: String,
    /// Parameters that are not left to their default.
    pub params: Map<String, Value>,
    /// Tensors by name: roles, gradients of roles (`d` + role) and `X_allowance`.
    pub tensors: BTreeMap<String, Tensor>,
    tolerances: Tolerances,
}

/// A tensor of a file.
pub struct Tensor {
    /// Extents.
    pub shape: Vec<i64>,
    /// Values, row-major.
    pub data: Data,
}

/// Values of a tensor.
pub enum Data {
    /// Single precision.
    F32(Vec<f32>),
    /// Integers.
    I32(Vec<i32>),
    /// A type that the C ABI does not have, by its name in the file.
    Other(String),
}

struct Tolerances {
    rtol: f64,
    atol: f64,
    /// Of gradients, where the file has some.
    gradients: Option<(f64, f64)>,
    role_rtol: Map<String, Value>,
    role_atol: Map<String, Value>,
}

impl Reference {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Reference> {
        let bytes = std::fs::read(path).context("can't be read")?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let shape = view.shape().iter().map(|&n| n as i64).collect();
            tensors.insert(name, Tensor { shape, data: Data::read(view.dtype(), view.data()) });
        }
        Ok(Reference {
            mechanism: entry(&metadata, "mechanism")?.to_owned(),
            mode: entry(&metadata, "mode")?.to_owned(),
            params: object(&metadata, "params")?,
            tolerances: Tolerances::read(&metadata)?,
            tensors,
        })
    }

    /// Whether the file has gradients to compare.
    pub fn has_gradient(&self) -> bool {
        self.tolerances.gradients.is_some()
    }

    /// Relative and absolute tolerance of a tensor of the forward pass.
    pub fn tolerance(&self, name: &str) -> (f64, f64) {
        self.own(name, (self.tolerances.rtol, self.tolerances.atol))
    }

    /// Those of a gradient.
    pub fn gradient_tolerance(&self, name: &str) -> (f64, f64) {
        self.own(name, self.tolerances.gradients.unwrap_or_default())
    }

    fn own(&self, name: &str, (rtol, atol): (f64, f64)) -> (f64, f64) {
        let own = |of: &Map<String, Value>, all| of.get(name).and_then(Value::as_f64).unwrap_or(all);
        (own(&self.tolerances.role_rtol, rtol), own(&self.tolerances.role_atol, atol))
    }

    /// What is added to the tolerance of a tensor, element by element.
    pub fn allowance(&self, name: &str) -> Option<&[f32]> {
        match &self.tensors.get(&format!("{name}_allowance"))?.data {
            Data::F32(values) => Some(values),
            _ => None,
        }
    }
}

impl Data {
    fn read(dtype: Dtype, bytes: &[u8]) -> Data {
        let words = || bytes.as_chunks::<4>().0.iter();
        match dtype {
            Dtype::F32 => Data::F32(words().map(|word| f32::from_le_bytes(*word)).collect()),
            Dtype::I32 => Data::I32(words().map(|word| i32::from_le_bytes(*word)).collect()),
            other => Data::Other(format!("{other:?}").to_lowercase()),
        }
    }
}

impl Tolerances {
    fn read(metadata: &HashMap<String, String>) -> Result<Tolerances> {
        let gradients = match metadata.contains_key("grad_rtol") {
            true => Some((number(metadata, "grad_rtol")?, number(metadata, "grad_atol")?)),
            false => None,
        };
        Ok(Tolerances {
            gradients,
            rtol: number(metadata, "rtol")?,
            atol: number(metadata, "atol")?,
            role_rtol: object(metadata, "role_rtol")?,
            role_atol: object(metadata, "role_atol")?,
        })
    }
}

fn broken(error: safetensors::SafeTensorError) -> anyhow::Error {
    anyhow!("not a whole safetensors file: {error}")
}

fn entry<'a>(metadata: &'a HashMap<String, String>, key: &str) -> Result<&'a str> {
    let text = metadata.get(key).ok_or_else(|| anyhow!("its metadata has no `{key}`"))?;
    Ok(text)
}

fn number(metadata: &HashMap<String, String>, key: &str) -> Result<f64> {
    let text = entry(metadata, key)?;
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => bail!("its metadata has {key} = `{text}`, expected a number of 0 or more"),
    }
}

/// A JSON object; empty where there is none.
fn object(metadata: &HashMap<String, String>, key: &str) -> Result<Map<String, Value>> {
    let Some(text) = metadata.get(key) else { return Ok(Map::new()) };
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => bail!("its metadata has {key} = `{text}`, expected a JSON object"),
    }
}
