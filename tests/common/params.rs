//! Parameters of mechanisms, from the catalogue.

use super::support::Rng;
use subquad::Role;
use subquad::Value;
use subquad::catalog::{self, Default, Mechanism, Param, ParamKind};

/// Values of a parameter that a test may try; the default is not among them.
pub(super) fn values(param: &Param) -> Vec<Value> {
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
pub(super) const P: i64 = 11;

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
