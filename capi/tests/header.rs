//! `include/subquad.h` is what cbindgen makes of this crate. With `SUBQUAD_BLESS=1` it is written anew.
//!
//! cbindgen sorts all constants before all types before all functions. The header is for readers, so each
//! module is a section of its own: constants, types, functions, under the first lines of its docs.

use cbindgen::{Builder, Config};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Modules in the order of a reader.
const SECTIONS: [&str; 12] = [
    "version",
    "status",
    "threads",
    "context",
    "desc",
    "tensor",
    "plan",
    "backward",
    "segments",
    "state",
    "run",
    "catalogue",
];
const LAST: [&str; 2] = ["role", "role_ids"];
const COLUMNS: usize = 110;
/// How symbols of the catalogue are written in plain text.
const ASCII: [(&str, &str); 8] =
    [("≤", "<="), ("≥", ">="), ("−", "-"), ("·", " "), ("…", "..."), ("±", "+/-"), ("→", "->"), ("×", "x")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn preamble() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut parts = version.split('.');
    let mut text = read(&root().join("preamble.h")).replace("@VERSION@", version);
    for name in ["@MAJOR@", "@MINOR@", "@PATCH@"] {
        text = text.replace(name, parts.next().unwrap());
    }
    text
}

fn section(module: &str) -> String {
    let path = root().join(format!("src/{module}.rs"));
    let config = Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut code = Vec::new();
    Builder::new().with_config(config).with_src(&path).generate().unwrap().write(&mut code);
    let source = read(&path);
    let mut docs: Vec<&str> =
        source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.trim_start()).collect();
    let title = docs.remove(0);
    docs.retain(|line| !line.starts_with("Generated"));
    let docs = docs.join("\n").trim_end().to_owned();
    let rule = "=".repeat(COLUMNS - 3);
    let mut text = format!("/* {rule}\n * {title}\n");
    for line in docs.lines() {
        writeln!(text, " * {line}").unwrap();
    }
    text = text.replace(" * \n", " *\n");
    format!("{text} * {rule} */\n\n{}\n", tidy(&String::from_utf8(code).unwrap()))
}

/// What cbindgen cannot be told: a constant's text behind it, one line for a short comment, parentheses around
/// negative numbers, no tag before a type's name, no Markdown heading.
fn tidy(code: &str) -> String {
    let mut text = String::new();
    let mut comment: Vec<String> = Vec::new();
    let mut last = String::new();
    for line in code.lines() {
        let bare = line.trim();
        let in_comment = comment.last().is_some_and(|line| !line.trim().ends_with("*/"));
        if bare.starts_with("/**") || in_comment {
            comment.push(line.replace("* # Safety", "* Safety:").trim_end().to_owned());
            continue;
        }
        let docs = std::mem::take(&mut comment);
        if let Some(definition) = line.strip_prefix("#define ") {
            let (name, value) = definition.split_once(' ').unwrap();
            if family(name) != last {
                text += "\n";
            }
            last = family(name).to_owned();
            text += &define(name, value, &docs);
            continue;
        }
        if bare.is_empty() {
            if last.is_empty() {
                text += "\n";
            }
            continue;
        }
        if !std::mem::take(&mut last).is_empty() {
            text += "\n";
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        match &docs[..] {
            [_, one, _] => writeln!(text, "{indent}/** {} */", one.trim().trim_start_matches("* ")).unwrap(),
            _ => docs.iter().for_each(|line| writeln!(text, "{line}").unwrap()),
        }
        let tagged = line.starts_with("typedef struct");
        let line = if tagged { line.to_owned() } else { line.replace("struct subquad_", "subquad_") };
        writeln!(text, "{line}").unwrap();
    }
    text.trim().to_owned()
}

/// `SUBQUAD_MODE` of `SUBQUAD_MODE_STEP`.
fn family(name: &str) -> &str {
    name.match_indices('_').nth(1).map_or("SUBQUAD_ERROR", |(at, _)| &name[..at])
}

/// A constant with its text behind it.
fn define(name: &str, value: &str, docs: &[String]) -> String {
    let value = if value.starts_with('-') { format!("({value})") } else { value.to_owned() };
    let mut line = format!("#define {name} {value}");
    let words =
        docs.iter().map(|line| line.trim().trim_start_matches(['/', '*']).trim_end_matches("*/").trim());
    let words = words.collect::<Vec<_>>().join(" ");
    // Not every compiler reads a header as UTF-8. What other symbols say is in docs/spec.
    let words = ASCII.iter().fold(words, |words, (symbol, plain)| words.replace(symbol, plain));
    if !words.is_ascii() || words.trim().is_empty() {
        return line + "\n";
    }
    line = format!("{line:<44} /*");
    let mut text = String::new();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS - 3 {
            text += &line;
            text += "\n";
            line = " ".repeat(47);
        }
        line += " ";
        line += word;
    }
    text + &line + " */\n"
}

fn render() -> String {
    let mut text = preamble();
    for module in SECTIONS.iter().chain(&LAST) {
        text += "\n";
        text += &section(module);
    }
    text + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* SUBQUAD_H */\n"
}

#[test]
fn header_is_fresh() {
    let path = root().join("../include/subquad.h");
    let rendered = render();
    assert!(rendered.is_ascii(), "a comment of the header is not ASCII");
    if std::env::var_os("SUBQUAD_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &rendered).unwrap();
    }
    let committed = read(&path);
    for (number, (is, should)) in committed.lines().zip(rendered.lines()).enumerate() {
        assert_eq!(is, should, "include/subquad.h:{} is stale: bless it (make header)", number + 1);
    }
    assert_eq!(committed, rendered, "include/subquad.h is stale: bless it (make header)");
}
