//! Local linear attention: a ridge-regularised linear fit of the values around the query (`docs/spec/softmax.md` 10).
//!
//! ```text
//! w_s = e^{scale · q·k_s}      z_s = k_s − q      ρ = (Σ w z zᵀ + ridge Σ w I)⁻¹ Σ w z      o = Σ w (1 − z·ρ) v / Σ w (1 − z·ρ)
//! ```
//!
//! `ridge > 0` is a parameter, or a tensor in its place: of one element, per batch entry and head, or per query; the
//! values of a tensor are not checked. Its gradient is `dridge`, in the shape of the tensor; that of the parameter is `[1]`.
//!
//! Zuo et al., *Local Linear Attention*, arXiv 2510.01450.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form, Local};
use crate::error::{Error, Result};
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "lla", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let attention = windowed(params, params.real("scale")?)?;
    let iterative = match params.word("solver") {
        Some("cg") => {
            let most = params.integer("cg_max_iters").ok_or(Error::Internal("cg_max_iters has a default"))?;
            Some((most as usize, params.real("cg_rtol")?))
        }
        _ => None,
    };
    let form = Form::Local(Local { ridge: params.real("ridge").ok().map(|ridge| ridge as f32), iterative });
    Ok(Settings::Softmax(Attention { form, ..attention }))
}
