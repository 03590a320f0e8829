//! Generated.
use super::Mechanism;
pub(super) static ROLES: &[&str] = &["q"];
/// Mechanisms, page by page.
pub static MECHANISMS: &[&[Mechanism]] = &[];
/// Meaning of each parameter.
pub static PARAM_MEANINGS: &[(&str, &str)] = &[];
