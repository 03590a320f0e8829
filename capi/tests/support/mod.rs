//! The C libraries, and the C compilers, for tests.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Folder of this test's profile, such as `target/debug`.
fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The target triple if the tests were built for one.
fn triple() -> Option<String> {
    let parent = profile_dir().parent()?.file_name()?.to_str()?.to_owned();
    (parent.matches('-').count() >= 2 && parent.contains(std::env::consts::OS)).then_some(parent)
}

/// The shared library, built in the profile of this test; the static one lies beside it.
pub fn shared_library() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let dir = profile_dir();
        let profile = match dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(name) => name,
            None => "dev",
        };
        let triple = triple();
        let target = if triple.is_some() { dir.parent().unwrap().parent() } else { dir.parent() }.unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(root()).args(["build", "--quiet", "--package", "libsubquad", "--profile", profile]);
        cargo.arg("--target-dir").arg(target);
        if let Some(triple) = triple {
            cargo.args(["--target", &triple]);
        }
        run(&mut cargo);
        let path =
            dir.join(format!("{}subquad{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX));
        assert!(path.exists(), "{} was not built", path.display());
        path
    })
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Whether a tool is there.
pub fn has(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn compiler(variable: &str, default: &str) -> Command {
    let of_triple = triple().map(|triple| format!("{variable}_{}", triple.replace('-', "_")));
    let named = of_triple.and_then(std::env::var_os).or_else(|| std::env::var_os(variable));
    let mut command = Command::new(named.unwrap_or(default.into()));
    command.current_dir(root()).args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-Iinclude", "-Itests/c"]);
    command
}

/// The C compiler, warnings as errors, in the workspace's folder.
pub fn cc(standard: &str) -> Command {
    let mut command = compiler("CC", "cc");
    command.arg(format!("-std={standard}"));
    command
}

/// The C++ compiler.
pub fn cxx(standard: &str) -> Command {
    let mut command = compiler("CXX", "c++");
    command.arg(format!("-std={standard}"));
    command
}

/// A folder of its own for a test's files.
pub fn scratch(name: &str) -> PathBuf {
    let dir = profile_dir().join("c-tests").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Which library a program is linked with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    Shared,
    Static,
}

/// What a program that uses the library is linked with.
pub fn link(command: &mut Command, link: Link) {
    let library = shared_library();
    let dir = library.parent().unwrap();
    match link {
        // The soname is that of an installed library: a link of that name stands beside the program.
        Link::Shared => {
            command.arg(library).arg("-Wl,-rpath,$ORIGIN");
        }
        Link::Static => {
            command.arg(dir.join("libsubquad.a")).args(["-lpthread", "-ldl", "-lgcc_s", "-lc"]);
        }
    }
    command.arg("-lm");
}

/// Name under which programs look for the shared library.
pub fn soname() -> String {
    let mut parts = env!("CARGO_PKG_VERSION").split('.');
    match (parts.next().unwrap(), parts.next().unwrap()) {
        ("0", minor) => format!("libsubquad.so.0.{minor}"),
        (major, _) => format!("libsubquad.so.{major}"),
    }
}

/// Puts a link to the shared library into a folder of programs.
pub fn provide_library(dir: &Path) {
    let link = dir.join(soname());
    let _ = std::fs::remove_file(&link);
    #[cfg(unix)]
    if let Err(error) = std::os::unix::fs::symlink(shared_library(), &link) {
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    }
}

/// A program, run as tests for its target are.
pub fn program(path: &Path) -> Command {
    let variable =
        |triple: String| format!("CARGO_TARGET_{}_RUNNER", triple.replace('-', "_").to_uppercase());
    let runner = triple().map(variable).and_then(|name| std::env::var(name).ok());
    let mut command = match runner.as_deref().map(|runner| runner.split_whitespace().collect::<Vec<_>>()) {
        Some(words) if !words.is_empty() => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).arg(path);
            command
        }
        _ => Command::new(path),
    };
    command.current_dir(root());
    command
}
