//! `subquad list`: the catalogue, as data that this version was built with.

use crate::table::{Table, word};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::process::ExitCode;
use subquad::Mode;
use subquad::catalog::{self, Default, Mechanism, Param, ParamKind, Range, RoleKind, RoleSpec, StepKind};

/// Options of `subquad list`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  subquad list\n  subquad list gated_delta_rule\n  subquad list --all --json"
)]
pub struct Options {
    /// Only this mechanism, with all its parameters and roles.
    mechanism: Option<String>,
    /// The whole catalogue; what this version does not compute is marked.
    #[arg(long)]
    all: bool,
    /// One JSON object per mechanism, each with everything the catalogue says.
    #[arg(long)]
    json: bool,
}

/// The command.
pub fn run(options: &Options) -> Result<ExitCode> {
    let everything = || catalog::MECHANISMS.iter().flat_map(|page| page.iter());
    let chosen: Vec<&Mechanism> = match &options.mechanism {
        Some(name) => vec![find(name)?],
        None => everything().filter(|mechanism| options.all || built(mechanism)).collect(),
    };
    if options.json {
        chosen.iter().for_each(|mechanism| println!("{}", as_json(mechanism)));
    } else if let (Some(_), [mechanism]) = (&options.mechanism, &chosen[..]) {
        print_one(mechanism);
    } else {
        print_many(&chosen);
        let (total, ready) = (everything().count(), subquad::mechanisms().count());
        println!("\n{ready} of the catalogue's {total} mechanisms are in this version.");
        println!("`subquad list NAME` has parameters and roles of one; `--all` names every mechanism.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The mechanism of that name, or an error that lists the names.
pub fn find(name: &str) -> Result<&'static Mechanism> {
    let Some(mechanism) = catalog::find(name) else {
        let names: Vec<_> = subquad::mechanisms().collect();
        bail!("mechanism is `{name}`, expected one of {}, or another of `list --all`", names.join(", "));
    };
    Ok(mechanism)
}

fn built(mechanism: &Mechanism) -> bool {
    subquad::mechanisms().any(|name| name == mechanism.name)
}

fn print_many(mechanisms: &[&Mechanism]) {
    let columns = vec![word("mechanism", 19), word("built", 5), word("modes", 32), word("defined in", 21)];
    let table = Table::new(columns.into_iter().chain([word("title", 0)]).collect());
    println!("{}", table.header());
    for mechanism in mechanisms {
        let modes: Vec<_> = mechanism.modes.iter().map(|mode| short(*mode)).collect();
        println!(
            "{}",
            table.line(&[
                mechanism.name.to_owned(),
                if built(mechanism) { "yes".to_owned() } else { "-".to_owned() },
                modes.join(" "),
                format!("{} {}", mechanism.page, mechanism.section),
                mechanism.title.to_owned(),
            ])
        );
    }
}

fn short(mode: Mode) -> &'static str {
    if mode == Mode::Bidirectional { "bidirect." } else { mode.name() }
}

fn print_one(mechanism: &Mechanism) {
    println!("{}: {}", mechanism.name, mechanism.title);
    println!("  defined in  docs/spec/{} section {}", mechanism.page, mechanism.section);
    println!("  built       {}", if built(mechanism) { "yes" } else { "not in this version" });
    println!(
        "  modes       {}",
        mechanism.modes.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(", ")
    );
    for (mode, condition) in mechanism.conditions {
        println!("              {mode}: {condition}");
    }
    for (mode, reason) in mechanism.refused {
        println!("              not {mode}: {reason}");
    }
    println!("  step        {}", step_name(mechanism.step));
    println!("\n  parameters");
    let columns = vec![word("  name", 18), word("type", 7), word("default", 30), word("range", 0)];
    let table = Table::new(columns);
    println!("{}", table.header());
    for param in mechanism.params {
        let name = format!("  {}", param.name);
        let cells =
            [name, kind_name(param.kind).into(), default_text(&param.default), range_text(param.range)];
        println!("{}", table.line(&cells));
    }
    println!("\n  roles");
    let columns = vec![word("  name", 18), word("kind", 9), word("shape", 26), word("needed", 0)];
    let table = Table::new(columns);
    println!("{}", table.header());
    for spec in mechanism.roles {
        let name = format!("  {}", spec.role);
        let shapes = spec.shapes.iter().map(|shape| format!("[{shape}]")).collect::<Vec<_>>().join(" | ");
        println!("{}", table.line(&[name, role_kind(spec.kind).into(), shapes, needed(spec)]));
    }
}

fn needed(spec: &RoleSpec) -> String {
    let mut words = Vec::new();
    if spec.required || spec.kind == RoleKind::Output {
        words.push("yes".to_owned());
    } else if !spec.one_of.is_empty() {
        words.push(format!("one of group {}", spec.one_of));
    }
    if spec.dtype != "f32" {
        words.push(spec.dtype.to_owned());
    }
    if !spec.note.is_empty() {
        words.push(format!("({})", spec.note));
    }
    words.join(" ")
}

/// The word for a kind of value.
pub fn kind_name(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::Int => "int",
        ParamKind::U64 => "u64",
        ParamKind::Real => "real",
        ParamKind::Bool => "bool",
        ParamKind::Word => "word",
        ParamKind::Ints => "ints",
        ParamKind::U64s => "u64s",
        ParamKind::Reals => "reals",
        ParamKind::Words => "words",
    }
}

fn role_kind(kind: RoleKind) -> &'static str {
    match kind {
        RoleKind::Input => "input",
        RoleKind::Output => "output",
        RoleKind::StateIn => "state_in",
        RoleKind::StateOut => "state_out",
        RoleKind::GradOutput => "grad_out",
    }
}

fn step_name(step: StepKind) -> &'static str {
    match step {
        StepKind::None => "none",
        StepKind::Recurrent => "recurrent",
        StepKind::Cache => "cache",
        StepKind::Pyramid => "pyramid",
    }
}

fn default_text(default: &Default) -> String {
    match default {
        Default::Required => "required".into(),
        Default::Absent => "absent".into(),
        Default::Int(x) => x.to_string(),
        Default::Real(x) => x.to_string(),
        Default::Bool(x) => i32::from(*x).to_string(),
        Default::Word(x) => (*x).into(),
        Default::Ints(x) => join(x),
        Default::Reals(x) => join(x),
        Default::Words(x) => x.join(":"),
        Default::Expr(x) => (*x).into(),
    }
}

fn join<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(":")
}

fn range_text(range: Range) -> String {
    match range {
        Range::Any => String::new(),
        Range::Above(low) => format!("> {low}"),
        Range::AtLeast(low) => format!(">= {low}"),
        Range::Between(low, high) => format!("{low} to {high}"),
        Range::Count(n) => format!("{n} numbers"),
        Range::Words(words) => words.join(" "),
        Range::Text(text) => text.into(),
    }
}

fn as_json(mechanism: &Mechanism) -> Value {
    let pairs = |list: &[(Mode, &'static str)]| -> Value {
        Value::Object(list.iter().map(|(mode, text)| (mode.name().to_owned(), json!(text))).collect())
    };
    json!({
        "name": mechanism.name,
        "title": mechanism.title,
        "built": built(mechanism),
        "page": mechanism.page,
        "section": mechanism.section,
        "engines": mechanism.engines,
        "modes": mechanism.modes.iter().map(|mode| mode.name()).collect::<Vec<_>>(),
        "conditions": pairs(mechanism.conditions),
        "refused": pairs(mechanism.refused),
        "step": step_name(mechanism.step),
        "gradient": mechanism.gradient,
        "params": mechanism.params.iter().map(param_json).collect::<Vec<_>>(),
        "roles": mechanism.roles.iter().map(role_json).collect::<Vec<_>>(),
        "same_as": mechanism.same_as,
    })
}

fn param_json(param: &Param) -> Value {
    let default = match param.default {
        Default::Required => json!("required"),
        Default::Absent => Value::Null,
        Default::Int(x) => json!(x),
        Default::Real(x) => json!(x),
        Default::Bool(x) => json!(x),
        Default::Word(x) => json!(x),
        Default::Ints(x) => json!(x),
        Default::Reals(x) => json!(x),
        Default::Words(x) => json!(x),
        Default::Expr(x) => json!({ "expr": x }),
    };
    let range = match param.range {
        Range::Words(words) => json!(words),
        other => json!(range_text(other)),
    };
    json!({ "name": param.name, "type": kind_name(param.kind), "default": default, "range": range })
}

fn role_json(spec: &RoleSpec) -> Value {
    json!({
        "name": spec.role.to_string(),
        "id": spec.role.id(),
        "kind": role_kind(spec.kind),
        "dtype": spec.dtype,
        "shape": spec.shapes,
        "required": spec.required,
        "differentiable": spec.differentiable,
        "one_of": spec.one_of,
        "note": spec.note,
    })
}
