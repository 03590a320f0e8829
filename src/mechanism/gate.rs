//! Gate functions of published models (`docs/spec/linear.md` 7, "Gates of published models").
//!
//! ```text
//! softplus     −e^{a_log} softplus(x + dt_bias)      logsigmoid   log σ(x) / normalizer
//! lower_bound  ℓ σ(e^{a_log} (x + dt_bias))          sigmoid      gain σ(x)
//! ```
//!
//! Gated DeltaNet, arXiv 2412.06464; Kimi Linear, 2510.26692; GLA, 2312.06635; RWKV-7, 2503.14456.

use super::{Entry, Use};
use crate::catalog::Role;
use crate::engine::Settings;
use crate::engine::gate::Form;
use crate::error::{Error, Result};
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "gate", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let real = |name| Ok::<_, Error>(params.real(name)? as f32);
    let bound = real("lower_bound")?;
    if !(-5.0..0.0).contains(&bound) {
        return Err(range_error("lower_bound", bound.to_string(), "at least -5 and below 0"));
    }
    Ok(Settings::Gate(match params.word("form").unwrap_or_default() {
        "softplus" => Form::Softplus,
        "lower_bound" => Form::LowerBound { bound },
        "logsigmoid" => Form::LogSigmoid { normalizer: real("normalizer")? },
        "sigmoid" => Form::Sigmoid { gain: real("gain")? },
        _ => return Err(Error::Internal("a form of the catalogue is not known here")),
    }))
}

/// Roles whose meaning depends on the form; the rank of `x` decides that of the others.
pub(super) fn role_use(form: Form, role: Role) -> Use {
    match role {
        Role::A_LOG if form.has_rate() => Use::Required("forms softplus and lower_bound have a rate"),
        Role::A_LOG | Role::DT_BIAS if !form.has_rate() => {
            Use::Refused("it is read only by forms softplus and lower_bound")
        }
        Role::DT_BIAS | Role::OUT => Use::Like(Role::X),
        _ => Use::Catalogue,
    }
}
