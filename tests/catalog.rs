//! The catalogue's tables are what `docs/spec/catalog.json` says, and names and numbers of roles agree.
//!
//! With `SUBQUAD_BLESS=1` the tables are written anew first; the other tests see them in the next run only.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use subquad::catalog::{self, MECHANISMS, Role};

const TABLES: &str = "src/catalog/tables";
const GENERATED: &str =
    "Generated from `docs/spec/catalog.json` by `SUBQUAD_BLESS=1 cargo test --test catalog`: do not edit.";
/// Columns of a line of text; the rest of rustfmt's 110 is room for what stands around it.
const TEXT_COLUMNS: usize = 96;
/// Number of the catalogue's first role.
const FIRST_ROLE: usize = 16;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn spec() -> Value {
    let path = root().join("docs/spec/catalog.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

fn str(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

fn mechanisms() -> impl Iterator<Item = &'static catalog::Mechanism> {
    MECHANISMS.iter().copied().flatten()
}

/// Every role without its gradient and snapshots: those of the interface, then the catalogue's.
fn roles() -> Vec<Role> {
    (0..0x4000).filter_map(Role::from_id).collect()
}

// Rendering

/// A string literal. rustfmt leaves a whole table alone when one literal does not fit, so a long one is cut.
fn text(value: &str) -> String {
    format!(
        "\"{}\"",
        fill(value, TEXT_COLUMNS).map(|line| escape(&line)).collect::<Vec<_>>().join("\\\n        ")
    )
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Lines of at most so many characters, each but the last ending in its space.
fn fill(value: &str, columns: usize) -> impl Iterator<Item = String> {
    let mut lines = vec![String::new()];
    for word in value.split_inclusive(' ') {
        let line = lines.last_mut().unwrap();
        if !line.is_empty() && line.chars().count() + word.chars().count() > columns {
            lines.push(word.to_owned());
        } else {
            line.push_str(word);
        }
    }
    lines.into_iter()
}

fn array<T>(items: impl IntoIterator<Item = T>, render: impl FnMut(T) -> String) -> String {
    format!("&[{}]", items.into_iter().map(render).collect::<Vec<_>>().join(", "))
}

fn words(value: &Value) -> String {
    array(list(value), |word| text(str(word)))
}

/// A constant's name; `{l}` of a family is its last part.
fn constant(role: &str) -> String {
    role.replace("{l}", "_l").to_uppercase()
}

fn mode(name: &str) -> String {
    catalog::Mode::from_name(name)
        .map(|mode| format!("Mode::{mode:?}"))
        .unwrap_or_else(|| panic!("mode {name}"))
}

fn modes_with_text(value: &Value) -> String {
    array(value.as_object().into_iter().flatten(), |(name, why)| {
        format!("({}, {})", mode(name), text(str(why)))
    })
}

fn kind(name: &str) -> &'static str {
    match name {
        "int" => "Int",
        "u64" => "U64",
        "float" => "Real",
        "bool" => "Bool",
        "enum" => "Word",
        "int_list" => "Ints",
        "u64_list" => "U64s",
        "float_list" => "Reals",
        "enum_list" => "Words",
        _ => panic!("type {name}"),
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().replace('−', "-").parse().ok()
}

fn range(value: &Value) -> String {
    if value.is_array() {
        return format!("Range::Words({})", words(value));
    }
    let rule = value.as_str().unwrap_or("");
    let bound = |sign| rule.strip_prefix(sign).and_then(number);
    let count = || rule.strip_suffix(" numbers")?.parse::<usize>().ok();
    let ends = || rule.split_once('…').and_then(|(from, to)| Some((number(from)?, number(to)?)));
    if rule.is_empty() {
        "Range::Any".to_owned()
    } else if let Some(bound) = bound('>') {
        format!("Range::Above({bound:?})")
    } else if let Some(bound) = bound('≥') {
        format!("Range::AtLeast({bound:?})")
    } else if let Some((from, to)) = ends() {
        format!("Range::Between({from:?}, {to:?})")
    } else if let Some(count) = count() {
        format!("Range::Count({count})")
    } else {
        format!("Range::Text({})", text(rule))
    }
}

fn default(param: &Value) -> String {
    let real = |value: &Value| format!("{:?}", value.as_f64().unwrap());
    let int = |value: &Value| value.as_i64().unwrap().to_string();
    let (kind, value) = (str(&param["type"]), &param["default"]);
    if param["required"] == true {
        assert!(value.is_null(), "{param}");
        return "Default::Required".to_owned();
    }
    match (kind, value) {
        (_, Value::Null) => "Default::Absent".to_owned(),
        (_, Value::Object(rule)) => format!("Default::Expr({})", text(str(&rule["expr"]))),
        ("bool", Value::Bool(value)) => format!("Default::Bool({value})"),
        // JSON has 64-bit integers as decimal strings.
        ("u64", Value::String(value)) => format!("Default::Int({})", value.parse::<i64>().unwrap()),
        (_, Value::String(word)) => format!("Default::Word({})", text(word)),
        ("int", value) => format!("Default::Int({})", int(value)),
        ("float", value) => format!("Default::Real({})", real(value)),
        ("int_list", Value::Array(items)) => format!("Default::Ints({})", array(items, int)),
        ("float_list", Value::Array(items)) => format!("Default::Reals({})", array(items, real)),
        ("enum_list", value) => format!("Default::Words({})", words(value)),
        _ => panic!("default of {param}"),
    }
}

fn param(spec: &Value, param: &Value) -> String {
    let name = str(&param["name"]);
    let of_enum = |rule: &Value| str(&param["type"]).starts_with("enum") && !rule.is_array();
    let candidates = [&param["range"], &spec["params"][name]["range"]];
    let rule = candidates.into_iter().find(|rule| !rule.is_null()).unwrap_or(&Value::Null);
    let rule = if of_enum(rule) && spec["enums"][name].is_array() { &spec["enums"][name] } else { rule };
    assert!(!of_enum(rule), "{name} has no list of words");
    let kind = kind(str(&param["type"]));
    format!("Param::new({}, ParamKind::{kind}, {}, {})", text(name), range(rule), default(param))
}

fn role(spec: &Value, role: &Value) -> String {
    let name = str(&role["name"]);
    let dtype = role["dtype"].as_str().unwrap_or_else(|| str(&spec["roles"][name]["dtype"]));
    let mut out =
        format!("RoleSpec::{}(Role::{}, {})", str(&role["kind"]), constant(name), words(&role["shape"]));
    if dtype != "f32" {
        write!(out, ".dtype({})", text(dtype)).unwrap();
    }
    for flag in ["required", "differentiable", "also_input"] {
        if role[flag] == true {
            write!(out, ".{flag}()").unwrap();
        }
    }
    for word in ["one_of", "note"] {
        if let Some(value) = role[word].as_str() {
            write!(out, ".{word}({})", text(value)).unwrap();
        }
    }
    out
}

fn mechanism(spec: &Value, mechanism: &Value) -> String {
    let step = match mechanism["step"].as_str() {
        None => "None",
        Some("recurrent") => "Recurrent",
        Some("cache") => "Cache",
        Some("pyramid") => "Pyramid",
        Some(step) => panic!("step {step}"),
    };
    let word = |field: &str| text(mechanism[field].as_str().unwrap_or(""));
    let fields = [
        ("name", word("name")),
        ("title", word("title")),
        ("page", word("page")),
        ("section", word("section")),
        ("engines", words(&mechanism["engines"])),
        ("modes", array(list(&mechanism["modes"]), |name| mode(str(name)))),
        ("refused", modes_with_text(&mechanism["refused"])),
        ("conditions", modes_with_text(&mechanism["conditions"])),
        ("step", format!("StepKind::{step}")),
        ("gradient", mechanism["gradient"].as_bool().unwrap().to_string()),
        ("params", array(list(&mechanism["params"]), |p| param(spec, p))),
        ("roles", array(list(&mechanism["roles"]), |r| role(spec, r))),
        ("same_as", word("same_as")),
    ];
    format!("Mechanism {{ {} }}", fields.map(|(name, value)| format!("{name}: {value}")).join(", "))
}

/// `pages` are in the order of the catalogue.
fn tables_mod(spec: &Value, pages: &[&str]) -> String {
    let meanings = |glossary: &str| {
        array(object(&spec[glossary]), |(name, entry)| {
            format!("({}, {})", text(name), text(str(&entry["meaning"])))
        })
    };
    let names = array(object(&spec["roles"]).keys(), |name| text(name));
    let mut modules: Vec<&str> = pages.iter().copied().chain(["roles"]).collect();
    modules.sort_unstable();
    format!(
        "//! The catalogue's lists.\n//!\n//! {GENERATED}\n\n{}\nuse super::Mechanism;\n\n\
         /// Names of the roles, in the order of their numbers.\n\
         pub(super) static ROLES: &[&str] = {names};\n\n\
         /// Mechanisms, page by page.\n\
         pub static MECHANISMS: &[&[Mechanism]] = {};\n\n\
         /// Meaning of each parameter.\n\
         pub static PARAM_MEANINGS: &[(&str, &str)] = {};\n\n\
         /// Meaning of each role.\n\
         pub static ROLE_MEANINGS: &[(&str, &str)] = {};\n",
        modules.iter().map(|module| format!("mod {module};\n")).collect::<String>(),
        array(pages, |page| format!("{page}::MECHANISMS")),
        meanings("params"),
        meanings("roles"),
    )
}

/// A constant for each role; a family (`detail{l}`) has one too, for the tables only.
fn tables_roles(spec: &Value) -> String {
    let mut out = format!(
        "//! A constant for each role of the catalogue.\n//!\n//! {GENERATED}\n\n\
         use crate::catalog::Role;\n\nimpl Role {{\n"
    );
    for (index, (name, entry)) in object(&spec["roles"]).iter().enumerate() {
        let meaning = str(&entry["meaning"]).replace('[', "\\[").replace('<', "\\<");
        for line in fill(&meaning, 100) {
            writeln!(out, "/// {}", line.trim_end()).unwrap();
        }
        let visibility = if name.contains("{l}") { "pub(in crate::catalog)" } else { "pub" };
        writeln!(out, "{visibility} const {}: Role = Role({});", constant(name), FIRST_ROLE + index).unwrap();
    }
    out + "}\n"
}

fn tables_page(spec: &Value, page: &str, mechanisms: &[&Value]) -> String {
    let table = array(mechanisms, |entry| mechanism(spec, entry));
    let types =
        ["Default", "Mechanism", "Mode", "Param", "ParamKind", "Range", "Role", "RoleSpec", "StepKind"];
    let used = |name: &&&str| **name == "Mechanism" || table.contains(&format!("{name}::"));
    let types = types.iter().filter(used).copied().collect::<Vec<_>>().join(", ");
    format!(
        "//! Mechanisms of `docs/spec/{page}.md`.\n//!\n//! {GENERATED}\n\n\
         use crate::catalog::{{{types}}};\n\npub(super) static MECHANISMS: &[Mechanism] = {table};\n"
    )
}

fn rustfmt(source: &str) -> String {
    let mut child = Command::new(std::env::var_os("RUSTFMT").unwrap_or("rustfmt".into()))
        .args(["--edition", "2024", "--config-path"])
        .arg(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("rustfmt is needed to compare the tables: rustup component add rustfmt");
    let mut stdin = child.stdin.take().unwrap();
    let source = source.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(source.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "rustfmt refuses the rendered tables");
    String::from_utf8(output.stdout).unwrap()
}

/// Every file of the tables, by name.
fn render() -> BTreeMap<String, String> {
    let spec = spec();
    let mut pages: Vec<(&str, Vec<&Value>)> = Vec::new();
    for mechanism in list(&spec["mechanisms"]) {
        let page = str(&mechanism["page"]).strip_suffix(".md").unwrap();
        match pages.iter_mut().find(|(name, _)| *name == page) {
            Some((_, entries)) => entries.push(mechanism),
            None => pages.push((page, vec![mechanism])),
        }
    }
    let names: Vec<&str> = pages.iter().map(|(name, _)| *name).collect();
    let mut files = BTreeMap::from([
        ("mod.rs".to_owned(), tables_mod(&spec, &names)),
        ("roles.rs".to_owned(), tables_roles(&spec)),
    ]);
    for (page, entries) in &pages {
        files.insert(format!("{page}.rs"), tables_page(&spec, page, entries));
    }
    files.into_iter().map(|(name, source)| (name, rustfmt(&source))).collect()
}

// Tests

#[test]
fn tables_match_specification() {
    let files = render();
    let folder = root().join(TABLES);
    if std::env::var_os("SUBQUAD_BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, source) in &files {
            std::fs::write(folder.join(name), source).unwrap();
        }
    }
    let hint = "run with SUBQUAD_BLESS=1 to rewrite";
    for (name, rendered) in &files {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default().replace("\r\n", "\n");
        let lines =
            |source: &str| source.lines().map(str::to_owned).chain([String::new()]).collect::<Vec<_>>();
        let (is, should) = (lines(&committed), lines(rendered));
        if let Some(i) = (0..is.len().min(should.len())).find(|&i| is[i] != should[i]) {
            panic!(
                "{TABLES}/{name}:{} differs from docs/spec/catalog.json: {hint}\n  is:        {}\n  should be: {}",
                i + 1,
                is[i].trim(),
                should[i].trim()
            );
        }
        assert_eq!(is.len(), should.len(), "{TABLES}/{name} differs from docs/spec/catalog.json: {hint}");
    }
    let present: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in present {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            files.contains_key(name),
            "{TABLES}/{name} belongs to no page of docs/spec/catalog.json: delete it"
        );
    }
}

#[test]
fn find_knows_every_mechanism() {
    let spec = spec();
    let listed = list(&spec["mechanisms"]);
    assert_eq!(listed.len(), 94);
    assert_eq!(mechanisms().count(), listed.len());
    for entry in listed {
        let name = str(&entry["name"]);
        let found = catalog::find(name).unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!((found.name, found.page), (name, str(&entry["page"])));
        assert_eq!(found.params.len(), list(&entry["params"]).len(), "{name}");
        assert_eq!(found.roles.len(), list(&entry["roles"]).len(), "{name}");
    }
    assert!(catalog::find("no_such_mechanism").is_none());
}

#[test]
fn names_are_unique() {
    let unique = |what: &str, names: Vec<&str>| {
        let mut seen = HashSet::new();
        for name in names {
            assert!(seen.insert(name), "{what}: {name} is there twice");
        }
    };
    unique("mechanisms", mechanisms().map(|mechanism| mechanism.name).collect());
    unique("roles", roles().into_iter().map(Role::base_name).collect());
    unique("parameters", catalog::PARAM_MEANINGS.iter().map(|(name, _)| *name).collect());
    for mechanism in mechanisms() {
        unique(mechanism.name, mechanism.params.iter().map(|param| param.name).collect());
        unique(mechanism.name, mechanism.roles.iter().map(|spec| spec.role.base_name()).collect());
    }
}

#[test]
fn mechanisms_use_listed_names() {
    let spec = spec();
    for entry in list(&spec["mechanisms"]) {
        let mechanism = catalog::find(str(&entry["name"])).unwrap();
        for (written, listed) in mechanism.roles.iter().zip(list(&entry["roles"])) {
            assert_eq!(written.role.to_string(), str(&listed["name"]), "{}", mechanism.name);
            assert_eq!(mechanism.role(written.role).map(|spec| spec.role), Some(written.role));
        }
        for param in mechanism.params {
            let known = catalog::PARAM_MEANINGS.iter().any(|(name, _)| *name == param.name);
            assert!(known, "{}: {} has no meaning", mechanism.name, param.name);
        }
    }
}

#[test]
fn role_names_and_numbers_round_trip() {
    let spec = spec();
    for (index, (name, (named, _))) in object(&spec["roles"]).keys().zip(catalog::ROLE_MEANINGS).enumerate() {
        assert_eq!(name, named);
        let role = Role::from_name(name).unwrap_or_else(|| panic!("{name} is no role"));
        assert_eq!(role.id() as usize, FIRST_ROLE + index, "{name}");
    }
    let roles = roles();
    assert_eq!(catalog::ROLE_MEANINGS.len(), object(&spec["roles"]).len());
    assert_eq!(
        roles.iter().filter(|role| role.id() as usize >= FIRST_ROLE).count(),
        catalog::ROLE_MEANINGS.len()
    );
    for &role in &roles {
        assert!(!role.is_grad() && role.grad().is_grad());
        assert_eq!(Role::from_name(&role.to_string()), Some(role));
        for role in [role, role.grad()] {
            assert_eq!(Role::from_id(role.id()), Some(role));
        }
        let grad = role.grad();
        match roles.iter().find(|other| other.to_string() == grad.to_string()) {
            // The plain name wins; the gradient is then reached by number only.
            Some(plain) => {
                eprintln!("`{plain}` is a role and the gradient of `{role}`");
                assert_eq!(Role::from_name(&grad.to_string()), Some(*plain));
            }
            None => assert_eq!(Role::from_name(&grad.to_string()), Some(grad)),
        }
    }
    let beyond = (FIRST_ROLE + catalog::ROLE_MEANINGS.len()) as u32;
    assert_eq!(Role::from_id(beyond), None);
    assert_eq!(Role::from_id(0), None);
    assert_eq!(Role::from_name("no_such_role"), None);
}
