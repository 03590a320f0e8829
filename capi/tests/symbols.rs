//! The shared library exports what `capi/symbols.txt` lists, and every one of these is in the header. With
//! `SUBQUAD_BLESS=1` the list is written anew.
#![cfg(target_os = "linux")]

mod support;

use std::process::Command;
use support::{has, root, run, shared_library, soname};

#[test]
fn exported_symbols_are_those_listed() {
    if !has("nm") {
        eprintln!("skipped: there is no nm");
        return;
    }
    let output = run(Command::new("nm").args(["-D", "--defined-only"]).arg(shared_library()));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    names.sort_unstable();
    let exported = names.join("\n") + "\n";
    let path = root().join("capi/symbols.txt");
    if std::env::var_os("SUBQUAD_BLESS").is_some() {
        std::fs::write(&path, &exported).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(exported, listed, "bless with SUBQUAD_BLESS=1 cargo test -p subquad-capi --test symbols");
    let header = std::fs::read_to_string(root().join("include/subquad.h")).unwrap();
    for name in listed.lines() {
        assert!(name.starts_with("subquad_"), "{name} has not our prefix");
        assert!(header.contains(&format!(" {name}(")) || header.contains(&format!("*{name}(")), "{name}");
    }
    let declared = header.lines().filter(|line| line.starts_with("SUBQUAD_API"));
    assert_eq!(declared.count(), listed.lines().count(), "the header declares as many functions");
}

#[test]
fn soname_has_the_abi_version() {
    if !has("readelf") {
        eprintln!("skipped: there is no readelf");
        return;
    }
    let output = run(Command::new("readelf").arg("-d").arg(shared_library()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("[{}]", soname())), "{text}");
}
