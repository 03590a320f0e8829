//! Texts for C: the library's strings with a NUL behind them, made once and kept.

use crate::role::{SUBQUAD_ROLE_GRAD, SUBQUAD_ROLE_SNAPSHOT};
use std::ffi::CString;
use std::sync::OnceLock;
use subquad::Role;
use subquad::catalog::{self, Mechanism, Param, ParamKind, Range, RoleSpec};

/// Every text that a function returns.
pub(crate) struct Tables {
    /// Number, name, name of the gradient.
    pub roles: Vec<(u32, CString, CString)>,
    /// Number and name of snapshots.
    pub snapshots: Vec<(u32, CString)>,
    /// In the catalogue's order.
    pub mechanisms: Vec<MechanismText>,
}

/// One mechanism with its texts.
pub(crate) struct MechanismText {
    pub row: &'static Mechanism,
    pub available: bool,
    pub name: CString,
    pub title: CString,
    pub page: CString,
    pub section: CString,
    pub same_as: CString,
    pub params: Vec<ParamText>,
    pub roles: Vec<RoleText>,
}

/// One parameter's texts.
pub(crate) struct ParamText {
    pub name: CString,
    pub range: CString,
    pub default: Option<CString>,
    pub meaning: CString,
}

/// One role's texts.
pub(crate) struct RoleText {
    pub dtype: CString,
    pub shape: CString,
    pub one_of: CString,
    pub note: CString,
}

/// The tables, made by the first call that needs one.
pub(crate) fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| Tables {
        roles: (1..SUBQUAD_ROLE_SNAPSHOT)
            .filter_map(Role::from_id)
            .map(|role| (role.id(), c(role.base_name()), c(&role.grad().to_string())))
            .collect(),
        snapshots: (SUBQUAD_ROLE_SNAPSHOT..SUBQUAD_ROLE_GRAD)
            .filter_map(Role::from_id)
            .map(|role| (role.id(), c(&role.to_string())))
            .collect(),
        mechanisms: catalog::MECHANISMS.iter().copied().flatten().map(mechanism).collect(),
    })
}

/// A text of the catalogue never holds a NUL; one that did would end there.
fn c(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

fn mechanism(row: &'static Mechanism) -> MechanismText {
    MechanismText {
        row,
        available: subquad::mechanisms().any(|name| name == row.name),
        name: c(row.name),
        title: c(row.title),
        page: c(row.page),
        section: c(row.section),
        same_as: c(row.same_as),
        params: row.params.iter().map(param).collect(),
        roles: row.roles.iter().map(role).collect(),
    }
}

fn param(row: &Param) -> ParamText {
    let meaning = catalog::PARAM_MEANINGS.iter().find(|(name, _)| *name == row.name);
    ParamText {
        name: c(row.name),
        range: c(&range(row)),
        default: default(row.default).map(|text| c(&text)),
        meaning: c(meaning.map_or("", |(_, meaning)| meaning)),
    }
}

fn range(row: &Param) -> String {
    match row.range {
        Range::Any if row.kind == ParamKind::Bool => "0 or 1".into(),
        Range::Any => String::new(),
        Range::Above(low) => format!("> {low:?}"),
        Range::AtLeast(low) => format!(">= {low:?}"),
        Range::Between(low, high) => format!("{low:?} to {high:?}"),
        Range::Count(n) => format!("{n} numbers"),
        Range::Words(words) => words.join(", "),
        Range::Text(text) => text.into(),
    }
}

fn default(value: catalog::Default) -> Option<String> {
    use catalog::Default;
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    match value {
        Default::Required | Default::Absent => None,
        Default::Int(x) => Some(x.to_string()),
        Default::Real(x) => Some(format!("{x:?}")),
        Default::Bool(x) => Some(i32::from(x).to_string()),
        Default::Word(x) => Some(x.into()),
        Default::Ints(x) => Some(list(&mut x.iter().map(i64::to_string))),
        Default::Reals(x) => Some(list(&mut x.iter().map(|x| format!("{x:?}")))),
        Default::Words(x) => Some(x.join(", ")),
        Default::Expr(x) => Some(x.into()),
    }
}

fn role(row: &RoleSpec) -> RoleText {
    RoleText {
        dtype: c(row.dtype),
        shape: c(&row.shapes.join(" or ")),
        one_of: c(row.one_of),
        note: c(row.note),
    }
}
