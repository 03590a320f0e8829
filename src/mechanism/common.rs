//! Parameters that several mechanisms share.

use crate::engine::linear::{DenominatorMode, FeatureMap, Features, L2Mode, L2Norm, Normaliser, Recurrence};
use crate::error::{Error, Result};
use crate::plan::{Params, range_error};

/// `head_map = cyclic`.
pub fn cyclic_heads(params: &Params) -> bool {
    params.word("head_map") == Some("cyclic")
}

/// `feature_map`; identity where the mechanism has none.
pub fn feature_map(params: &Params) -> Result<FeatureMap> {
    Ok(match params.word("feature_map").unwrap_or("identity") {
        "identity" => FeatureMap::Identity,
        "elu1" => FeatureMap::Elu1,
        "elu1_neg" => FeatureMap::Elu1Neg,
        "tanh1" => FeatureMap::Tanh1,
        "relu" => FeatureMap::Relu,
        "relu2" => FeatureMap::Relu2,
        "silu" => FeatureMap::Silu,
        "softmax" => FeatureMap::Softmax,
        "exp" => FeatureMap::Exp,
        _ => return Err(Error::Internal("a feature map of the catalogue is not known here")),
    })
}

/// Rows as they are, or L2-normalised if `l2norm_qk` says so.
pub fn unit_rows(params: &Params) -> Result<Features> {
    let mut features = Features::default();
    if params.flag("l2norm_qk") {
        let mode = match params.word("l2norm_mode").unwrap_or("square_add") {
            "square_add" => L2Mode::SquareAdd,
            "floor" => L2Mode::Floor,
            "add" => L2Mode::Add,
            _ => return Err(Error::Internal("an l2norm_mode of the catalogue is not known here")),
        };
        features.l2norm = Some(L2Norm { eps: params.real("l2norm_eps")? as f32, mode });
    }
    Ok(features)
}

/// `normalize` with its parameters.
pub fn normaliser(params: &Params) -> Result<Normaliser> {
    let eps = || Ok::<_, Error>(params.real("norm_eps")? as f32);
    Ok(match params.word("normalize").unwrap_or("none") {
        "none" => Normaliser::None,
        "denominator" => denominator(params)?,
        "rms_head" => Normaliser::RmsHead { eps: eps()? },
        "srms_all" => Normaliser::SrmsAll { eps: eps()? },
        "rms_gate" => {
            let sigmoid = params.word("gate_activation") == Some("sigmoid");
            Normaliser::RmsGate { eps: eps()?, sigmoid }
        }
        _ => return Err(Error::Internal("a normaliser of the catalogue is not known here")),
    })
}

/// The denominator with `den_mode` and `den_eps`.
pub fn denominator(params: &Params) -> Result<Normaliser> {
    let mode = match params.word("den_mode").unwrap_or("add") {
        "add" => DenominatorMode::Add,
        "add_mean" => DenominatorMode::AddMean,
        "clamp" => DenominatorMode::Clamp,
        "abs_clamp" => DenominatorMode::AbsClamp,
        "signed_clamp" => DenominatorMode::SignedClamp,
        "add_if_small" => DenominatorMode::AddIfSmall,
        _ => return Err(Error::Internal("a den_mode of the catalogue is not known here")),
    };
    Ok(Normaliser::Denominator { mode, eps: params.real("den_eps")? as f32 })
}

/// The features of `exp` are safe only under a denominator.
pub fn exp_needs_denominator(params: &Params, recurrence: &Recurrence) -> Result<()> {
    if recurrence.features.map == FeatureMap::Exp && !recurrence.has_denominator() {
        let given = params.word("normalize").unwrap_or_default().into();
        return Err(range_error("normalize", given, "denominator, since feature_map = exp needs one"));
    }
    Ok(())
}

/// As many query as key heads.
pub fn same_heads(params: &Params, expected: &'static str) -> Result<()> {
    let desc = &params.desc;
    if desc.heads_q == desc.heads_k {
        return Ok(());
    }
    Err(Error::InvalidArgument { what: "desc.heads_q", given: desc.heads_q, expected })
}
