//! The table of mechanisms: names, parameters, roles and modes, as data.
//!
//! The tables in this folder are generated from `docs/spec/catalog.json`; `tests/catalog.rs` fails when they
//! differ and rewrites them when run with `SUBQUAD_BLESS=1`. Nothing here computes anything: what a
//! mechanism does is in `mechanism/`, and a mechanism that is only here is *unsupported*, with these names.
#![forbid(unsafe_code)]

mod role;
mod tables;

pub use role::Role;
pub use tables::{MECHANISMS, PARAM_MEANINGS, ROLE_MEANINGS};

use std::fmt;

/// What a call computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Mode {
    /// Whole sequence; token `t` reads tokens `s ≤ t`.
    Causal = 1,
    /// Whole sequence; every token reads every token.
    Bidirectional = 2,
    /// Queries of one sequence read the keys and values of another.
    Cross = 4,
    /// One new token per sequence, the state carried from call to call.
    Step = 8,
    /// Random draws.
    Draw = 16,
    /// Helpers that are no attention.
    Transform = 32,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 6] =
        [Mode::Causal, Mode::Bidirectional, Mode::Cross, Mode::Step, Mode::Draw, Mode::Transform];

    /// The catalogue's name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Causal => "causal",
            Mode::Bidirectional => "bidirectional",
            Mode::Cross => "cross",
            Mode::Step => "step",
            Mode::Draw => "draw",
            Mode::Transform => "transform",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a mechanism steps: what is carried from token to token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// No step mode.
    None,
    /// A state of constant size.
    Recurrent,
    /// Keys and values.
    Cache,
    /// A pyramid of keys and values.
    Pyramid,
}

/// Kind of value a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// An integer.
    Int,
    /// An unsigned 64-bit integer.
    U64,
    /// A real number.
    Real,
    /// `false` or `true`, given as the integers 0 and 1.
    Bool,
    /// One of the words of [`Range::Words`].
    Word,
    /// A list of integers.
    Ints,
    /// A list of unsigned 64-bit integers.
    U64s,
    /// A list of real numbers.
    Reals,
    /// A list of words.
    Words,
}

/// Values a parameter may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Any finite value.
    Any,
    /// Greater than this.
    Above(f64),
    /// This or more.
    AtLeast(f64),
    /// From the first to the second, both included.
    Between(f64, f64),
    /// A list of this many numbers.
    Count(usize),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A rule that only the mechanism can check, in words.
    Text(&'static str),
}

/// Value of a parameter that the caller does not give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// There is none: the caller must give it.
    Required,
    /// The parameter is simply absent.
    Absent,
    /// An integer.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A truth value.
    Bool(bool),
    /// A word.
    Word(&'static str),
    /// A list of integers.
    Ints(&'static [i64]),
    /// A list of real numbers.
    Reals(&'static [f64]),
    /// A list of words.
    Words(&'static [&'static str]),
    /// Computed from sizes and other parameters, as the catalogue writes it.
    Expr(&'static str),
}

/// One parameter of one mechanism.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// The name.
    pub name: &'static str,
    /// Kind of value.
    pub kind: ParamKind,
    /// Values it may have.
    pub range: Range,
    /// Value when it is not given.
    pub default: Default,
}

/// On which side of a call a role stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// Read.
    Input,
    /// Written.
    Output,
    /// Read: what was carried from the call before.
    StateIn,
    /// Written: what the next call carries on.
    StateOut,
    /// A gradient that backward writes beside those of the inputs.
    GradOutput,
}

/// One role of one mechanism.
#[derive(Clone, Copy, Debug)]
pub struct RoleSpec {
    /// Which role.
    pub role: Role,
    /// On which side it stands.
    pub kind: RoleKind,
    /// Element type in the reference files: `f32`, `i32`, ….
    pub dtype: &'static str,
    /// Alternative shapes, each a comma-separated list of sizes such as `B,Hk,S,1+D`; `B|1` broadcasts.
    pub shapes: &'static [&'static str],
    /// Whether a call must bind it.
    pub required: bool,
    /// Whether a gradient exists.
    pub differentiable: bool,
    /// One role of those with the same group name is needed; empty: no group.
    pub one_of: &'static str,
    /// An output that the caller may give instead.
    pub also_input: bool,
    /// A remark, or empty.
    pub note: &'static str,
}

/// One mechanism of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Mechanism {
    /// The name.
    pub name: &'static str,
    /// A title for people.
    pub title: &'static str,
    /// Page of `docs/spec` that defines it.
    pub page: &'static str,
    /// Section of that page.
    pub section: &'static str,
    /// Engines it runs on.
    pub engines: &'static [&'static str],
    /// Modes it has.
    pub modes: &'static [Mode],
    /// Modes that make no sense, with the reason.
    pub refused: &'static [(Mode, &'static str)],
    /// What a supported mode asks for, in words.
    pub conditions: &'static [(Mode, &'static str)],
    /// How it steps.
    pub step: StepKind,
    /// Whether gradients are specified.
    pub gradient: bool,
    /// Parameters.
    pub params: &'static [Param],
    /// Roles.
    pub roles: &'static [RoleSpec],
    /// The mechanism of which it is a special case, in words; or empty.
    pub same_as: &'static str,
}

/// The mechanism of that name.
pub fn find(name: &str) -> Option<&'static Mechanism> {
    MECHANISMS.iter().flat_map(|page| page.iter()).find(|mechanism| mechanism.name == name)
}

impl Mechanism {
    /// The parameter of that name.
    pub fn param(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|param| param.name == name)
    }

    /// What it says of a role.
    pub fn role(&self, role: Role) -> Option<&'static RoleSpec> {
        self.roles.iter().find(|spec| spec.role == role)
    }
}

// What the tables are written with.

impl Param {
    const fn new(name: &'static str, kind: ParamKind, range: Range, default: Default) -> Param {
        Param { name, kind, range, default }
    }
}

/// A role is `f32` and has no flag, group or remark unless the table adds it.
impl RoleSpec {
    const fn new(kind: RoleKind, role: Role, shapes: &'static [&'static str]) -> RoleSpec {
        RoleSpec {
            role,
            kind,
            dtype: "f32",
            shapes,
            required: false,
            differentiable: false,
            one_of: "",
            also_input: false,
            note: "",
        }
    }

    const fn input(role: Role, shapes: &'static [&'static str]) -> RoleSpec {
        RoleSpec::new(RoleKind::Input, role, shapes)
    }

    const fn output(role: Role, shapes: &'static [&'static str]) -> RoleSpec {
        RoleSpec::new(RoleKind::Output, role, shapes)
    }

    const fn state_in(role: Role, shapes: &'static [&'static str]) -> RoleSpec {
        RoleSpec::new(RoleKind::StateIn, role, shapes)
    }

    const fn state_out(role: Role, shapes: &'static [&'static str]) -> RoleSpec {
        RoleSpec::new(RoleKind::StateOut, role, shapes)
    }

    const fn grad_output(role: Role, shapes: &'static [&'static str]) -> RoleSpec {
        RoleSpec::new(RoleKind::GradOutput, role, shapes)
    }

    const fn dtype(self, dtype: &'static str) -> RoleSpec {
        RoleSpec { dtype, ..self }
    }

    const fn required(self) -> RoleSpec {
        RoleSpec { required: true, ..self }
    }

    const fn differentiable(self) -> RoleSpec {
        RoleSpec { differentiable: true, ..self }
    }

    const fn one_of(self, one_of: &'static str) -> RoleSpec {
        RoleSpec { one_of, ..self }
    }

    const fn also_input(self) -> RoleSpec {
        RoleSpec { also_input: true, ..self }
    }

    const fn note(self, note: &'static str) -> RoleSpec {
        RoleSpec { note, ..self }
    }
}
