//! What the tests of the command line share.
#![allow(dead_code, reason = "each test file uses a part")]

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The command, with an environment that does not matter.
pub fn subquad(args: &[&str]) -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("subquad");
    command.env_remove("SUBQUAD_MAX_ISA").current_dir(root()).args(args);
    command
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Exit status, standard output and standard error.
pub fn run(args: &[&str]) -> (i32, String, String) {
    let output = subquad(args).output().expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

/// The standard output of a run that succeeds.
pub fn done(args: &[&str]) -> String {
    let (status, out, err) = run(args);
    assert_eq!(status, 0, "subquad {args:?}\n{out}\n{err}");
    out
}

/// The standard output of a run that succeeds, as JSON lines.
pub fn json(args: &[&str]) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    done(args).lines().map(parse).collect()
}

/// The standard error of a run that does not understand what it is asked.
pub fn refused(args: &[&str]) -> String {
    let (status, out, err) = run(args);
    assert_eq!((status, out.as_str()), (2, ""), "subquad {args:?}\n{err}");
    err
}
