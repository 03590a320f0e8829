//! Parameters: what the caller gave, checked against the catalogue, with defaults filled in.

use super::shape::NAMED;
use crate::catalog::{Default, Mechanism, ParamKind, Range};
use crate::desc::{Desc, Value};
use crate::error::{Error, Result};

/// Every parameter of the mechanism with its value.
#[derive(Clone, Debug)]
pub struct Params {
    /// The description they came with.
    pub desc: Desc,
    values: Vec<(&'static str, Value)>,
    sizes: Vec<(&'static str, i64)>,
}

impl Params {
    /// Checks names, kinds and ranges, and fills in defaults.
    pub fn resolve(mechanism: &'static Mechanism, desc: &Desc) -> Result<Params> {
        for (i, (name, _)) in desc.params.iter().enumerate() {
            if mechanism.param(name).is_none() && named_size(mechanism, name).is_none() {
                return Err(Error::UnknownParameter { mechanism: mechanism.name, name: name.clone() });
            }
            if desc.params[..i].iter().any(|(other, _)| other == name) {
                return Err(range_error(name, "given twice".into(), "one value"));
            }
        }
        let mut params = Params { desc: desc.clone(), values: Vec::new(), sizes: Vec::new() };
        for (name, value) in &desc.params {
            if let Some(own) = named_size(mechanism, name) {
                match value {
                    Value::Int(extent) if (1..=super::MAX_EXTENT).contains(extent) => {
                        params.sizes.push((own, *extent));
                    }
                    _ => return Err(range_error(name, show(value), "an extent, 1 to 1048576")),
                }
            }
        }
        for spec in mechanism.params {
            let given = desc.params.iter().find(|(name, _)| name == spec.name);
            let value = match given {
                Some((_, value)) => Some(convert(spec.name, spec.kind, value)?),
                None => None,
            };
            if let Some(value) = &value {
                check(spec.name, spec.range, value)?;
                params.values.push((spec.name, value.clone()));
            }
        }
        // Defaults come second: an expression may read a parameter that was given.
        for spec in mechanism.params {
            if params.get(spec.name).is_some() {
                continue;
            }
            let value = match spec.default {
                Default::Required => {
                    return Err(range_error(spec.name, "not given".into(), "a value: it has no default"));
                }
                Default::Absent => continue,
                Default::Int(x) => Value::Int(x),
                Default::Real(x) => Value::Real(x),
                Default::Bool(x) => Value::Int(x.into()),
                Default::Word(x) => Value::Word(x.into()),
                Default::Ints(x) => Value::Ints(x.into()),
                Default::Reals(x) => Value::Reals(x.into()),
                Default::Words(_) => return Err(Error::Internal("a list of words has no default yet")),
                Default::Expr(text) => match params.evaluate(text)? {
                    Some(x) => Value::Real(x),
                    None => continue,
                },
            };
            params.values.push((spec.name, value));
        }
        Ok(params)
    }

    /// The value of a default, or `None` where it depends on a size that was not given.
    fn evaluate(&self, text: &str) -> Result<Option<f64>> {
        let root = (self.desc.dim_qk as f64).sqrt().recip();
        match text {
            "1/sqrt(D)" | "D**-0.5" => Ok(Some(root)),
            "1/block" => Ok(self.integer("block").map(|block| (block as f64).recip())),
            // Which of the two, a call says.
            "1/block if causal else 1/T" => Ok(None),
            // The call's.
            "T" => Ok(None),
            "P**-0.5" => Ok(self.size("P").map(|p| (p as f64).sqrt().recip())),
            "1/(signals*sqrt(D/signals))" => {
                Ok(self.integer("signals").map(|signals| root / (signals as f64).sqrt()))
            }
            "default of inner" => {
                let delta = self.get("inner") == Some(&Value::Word("gated_delta_rule".into()));
                Ok(Some(if delta { root } else { 1.0 }))
            }
            "1 if normalize == denominator else 1/sqrt(D)" => {
                let normalize = match self.get("normalize") {
                    Some(Value::Word(word)) => word.as_str(),
                    _ => "denominator",
                };
                Ok(Some(if normalize == "denominator" { 1.0 } else { root }))
            }
            _ => Err(Error::Internal("a default of the catalogue is an expression that is not known here")),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// A size that shapes of the mechanism name and that the description gave: `M`, `P`, `F` or `K`.
    pub fn size(&self, name: &str) -> Option<i64> {
        self.sizes.iter().find(|(own, _)| *own == name).map(|&(_, extent)| extent)
    }

    /// [`Params::size`] where there is no plan without it.
    pub fn required_size(&self, name: &'static str, meaning: &str) -> Result<i64> {
        self.size(name).ok_or_else(|| range_error(name, "not given".into(), meaning))
    }

    /// An integer parameter.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Value::Int(x)) => Some(*x),
            _ => None,
        }
    }

    /// An integer parameter that the mechanism has, from its least value up to a largest.
    pub fn integer_up_to(&self, name: &'static str, largest: i64) -> Result<i64> {
        match self.integer(name) {
            Some(x) if x <= largest => Ok(x),
            Some(x) => Err(range_error(name, x.to_string(), &format!("at most {largest}"))),
            None => Err(Error::Internal("an integer parameter is not in the catalogue")),
        }
    }

    /// A real parameter that the mechanism has.
    pub fn real(&self, name: &'static str) -> Result<f64> {
        match self.get(name) {
            Some(Value::Real(x)) => Ok(*x),
            Some(Value::Int(x)) => Ok(*x as f64),
            _ => Err(Error::Internal("a real parameter is not in the catalogue")),
        }
    }

    /// A truth value; false where the mechanism has no such parameter.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Int(1))
    }

    /// A word, or `None` where the mechanism has no such parameter.
    pub fn word(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// A list of reals that the mechanism has.
    pub fn reals(&self, name: &'static str) -> Result<&[f64]> {
        match self.get(name) {
            Some(Value::Reals(list)) => Ok(list),
            _ => Err(Error::Internal("a list of reals is not in the catalogue")),
        }
    }
}

/// The size of that name, if a shape of the mechanism mentions it.
fn named_size(mechanism: &'static Mechanism, name: &str) -> Option<&'static str> {
    let own = NAMED.iter().find(|(own, _)| *own == name)?.0;
    let mut shapes = mechanism.roles.iter().flat_map(|spec| spec.shapes);
    shapes.any(|shape| shape.split([',', '+', '-', '*']).any(|word| word == own)).then_some(own)
}

/// A parameter that is out of range.
pub fn range_error(name: &str, given: String, expected: &str) -> Error {
    Error::ParameterRange { name: name.into(), given, expected: expected.into() }
}

fn convert(name: &str, kind: ParamKind, value: &Value) -> Result<Value> {
    let expected = match (kind, value) {
        (ParamKind::Int | ParamKind::U64, Value::Int(_))
        | (ParamKind::Real, Value::Real(_))
        | (ParamKind::Bool, Value::Int(0 | 1))
        | (ParamKind::Word, Value::Word(_))
        | (ParamKind::Ints, Value::Ints(_))
        | (ParamKind::Reals, Value::Reals(_)) => return Ok(value.clone()),
        (ParamKind::Real, Value::Int(x)) => return Ok(Value::Real(*x as f64)),
        (ParamKind::Reals, Value::Ints(x)) => {
            return Ok(Value::Reals(x.iter().map(|&x| x as f64).collect()));
        }
        (ParamKind::Int | ParamKind::U64, _) => "an integer",
        (ParamKind::Real, _) => "a real number",
        (ParamKind::Bool, _) => "0 or 1",
        (ParamKind::Word, _) => "a word",
        (ParamKind::Ints | ParamKind::U64s, _) => "a list of integers",
        (ParamKind::Reals, _) => "a list of reals",
        (ParamKind::Words, _) => "a list of words",
    };
    Err(range_error(name, show(value), expected))
}

fn check(name: &str, range: Range, value: &Value) -> Result<()> {
    if let (Range::Words(words), Value::Word(word)) = (range, value)
        && !words.contains(&word.as_str())
    {
        return Err(range_error(name, show(value), &format!("one of {}", words.join(", "))));
    }
    let numbers: Vec<f64> = match value {
        Value::Int(x) => vec![*x as f64],
        Value::Real(x) => vec![*x],
        Value::Ints(list) => list.iter().map(|&x| x as f64).collect(),
        Value::Reals(list) => list.clone(),
        Value::Word(_) => vec![],
    };
    let fail = |expected: String| Err(range_error(name, show(value), &expected));
    if numbers.iter().any(|x| !x.is_finite()) {
        return fail("finite numbers".into());
    }
    match range {
        Range::Above(low) if numbers.iter().any(|&x| x <= low) => fail(format!("> {low}")),
        Range::AtLeast(low) if numbers.iter().any(|&x| x < low) => fail(format!("at least {low}")),
        Range::Between(low, high) if numbers.iter().any(|x| !(low..=high).contains(x)) => {
            fail(format!("{low} to {high}"))
        }
        Range::Count(n) if numbers.len() != n => fail(format!("{n} numbers")),
        _ => Ok(()),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Int(x) => x.to_string(),
        Value::Real(x) => x.to_string(),
        Value::Word(x) => format!("`{x}`"),
        Value::Ints(x) => format!("{x:?}"),
        Value::Reals(x) => format!("{x:?}"),
    }
}
