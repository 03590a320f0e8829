//! Compiles the programs of `tests/c` against `include/subquad.h` with warnings as errors, links them with the
//! built libraries, and runs them.
#![cfg(unix)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Link, cc, cxx, link, program, provide_library, run, scratch};

const C_STANDARDS: [&str; 4] = ["c89", "c99", "c11", "c17"];
const CXX_STANDARDS: [&str; 2] = ["c++17", "c++20"];

/// Compiles, links and runs sources.
fn build_and_run(mut compiler: Command, name: &str, sources: &[&str], with: Link) -> PathBuf {
    let dir = scratch(&format!("{name}-{with:?}"));
    let exe = dir.join(name);
    for source in sources {
        compiler.arg(if source.contains('/') { source.to_string() } else { format!("tests/c/{source}") });
    }
    compiler.args(["-O1", "-g", "-o"]).arg(&exe);
    link(&mut compiler, with);
    run(&mut compiler);
    provide_library(&dir);
    let output = run(&mut program(&exe));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    exe
}

fn both(standard: &str, name: &str) {
    for with in [Link::Shared, Link::Static] {
        build_and_run(cc(standard), name, &[&format!("{name}.c"), "support.c"], with);
    }
}

#[test]
fn header_compiles_in_every_standard_and_twice() {
    for standard in C_STANDARDS {
        build_and_run(cc(standard), &format!("twice-{standard}"), &["twice_a.c", "twice_b.c"], Link::Shared);
    }
    for standard in CXX_STANDARDS {
        let mut compiler = cxx(standard);
        compiler.args(["-x", "c++", "tests/c/twice_a.c", "tests/c/twice_b.c", "-x", "none"]);
        build_and_run(compiler, &format!("twice-{standard}"), &[], Link::Shared);
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn structs_have_the_layout_of_rust() {
    let dir = scratch("layout");
    let compile = |mut compiler: Command, language: &str| {
        let object = dir.join("layout.o");
        run(compiler.args(["-x", language, "-c", "tests/c/layout.c", "-o"]).arg(object));
    };
    C_STANDARDS.into_iter().for_each(|standard| compile(cc(standard), "c"));
    CXX_STANDARDS.into_iter().for_each(|standard| compile(cxx(standard), "c++"));
}

#[test]
fn known_answers() {
    both("c89", "abi");
}

#[test]
fn wrong_calls() {
    both("c89", "negative");
}

#[test]
fn gradients() {
    both("c89", "gradients");
}

#[test]
fn runners_and_pools() {
    both("c99", "threads");
}

#[test]
fn cxx_host() {
    for with in [Link::Shared, Link::Static] {
        build_and_run(cxx("c++17"), "host", &["host.cpp"], with);
    }
}

#[test]
fn quickstart() {
    for with in [Link::Shared, Link::Static] {
        build_and_run(cc("c99"), "quickstart", &["examples/quickstart.c"], with);
    }
}

/// The programs once more under valgrind, which finds reads and writes beside buffers:
/// `cargo test -p subquad-capi --test c_programs -- --ignored`.
#[test]
#[ignore = "slow; needs valgrind"]
fn under_valgrind() {
    for name in ["abi", "negative", "gradients", "threads"] {
        let exe = build_and_run(
            cc("c99"),
            &format!("{name}-valgrind"),
            &[&format!("{name}.c"), "support.c"],
            Link::Shared,
        );
        valgrind(&exe);
    }
}

fn valgrind(exe: &Path) {
    let flags = ["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"];
    run(Command::new("valgrind").args(flags).arg(exe).current_dir(support::root()));
}
