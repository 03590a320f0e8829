//! `tools/install.sh` installs a tree against which a program builds and runs, by pkg-config and by CMake.
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{cc, has, program, root, run, scratch, shared_library, soname};

/// Installs into a new folder.
fn install(name: &str, destdir: Option<&Path>, prefix: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(scratch(name));
    let mut script = Command::new(root().join("tools/install.sh"));
    script
        .arg(prefix)
        .args(destdir)
        .env("BUILD_DIR", shared_library().parent().unwrap())
        .env_remove("LIBDIR");
    run(&mut script);
    let below = prefix.strip_prefix("/").unwrap();
    destdir.map_or(prefix.to_owned(), |destdir| destdir.join(below))
}

/// Runs the quick start with the installed shared library.
fn runs(exe: &Path, tree: &Path) {
    run(program(exe).env("LD_LIBRARY_PATH", tree.join("lib")));
}

fn words(output: Vec<u8>) -> Vec<String> {
    String::from_utf8(output).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn files_links_and_destdir() {
    let destdir = scratch("install-destdir").join("root");
    let tree = install("install-destdir", Some(&destdir), Path::new("/opt/some/where"));
    let lib = tree.join("lib");
    let version = env!("CARGO_PKG_VERSION");
    for file in ["include/subquad.h", "lib/libsubquad.a", "lib/cmake/subquad/subquadConfig.cmake"] {
        assert!(tree.join(file).is_file(), "{file}");
    }
    assert_eq!(lib.join("libsubquad.so").read_link().unwrap(), Path::new(&soname()));
    assert_eq!(lib.join(soname()).read_link().unwrap(), Path::new(&format!("libsubquad.so.{version}")));
    let pc = std::fs::read_to_string(lib.join("pkgconfig/subquad.pc")).unwrap();
    assert!(
        pc.starts_with("prefix=/opt/some/where\n") && pc.contains(&format!("Version: {version}\n")),
        "{pc}"
    );
    for file in ["pkgconfig/subquad.pc", "cmake/subquad/subquadConfig.cmake"] {
        let text = std::fs::read_to_string(lib.join(file)).unwrap();
        assert!(!text.contains('@') && !text.contains(destdir.to_str().unwrap()), "{file}: {text}");
    }
}

#[test]
fn pkg_config() {
    if !has("pkg-config") {
        eprintln!("skipped: there is no pkg-config");
        return;
    }
    let prefix = scratch("install-pkg-config").join("tree");
    let tree = install("install-pkg-config", None, &prefix);
    let ask = |flags: &[&str]| {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", tree.join("lib/pkgconfig")).args(flags).arg("subquad");
        words(run(&mut command).stdout)
    };
    assert_eq!(ask(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let exe = tree.join("quickstart");
    run(cc("c99").arg("examples/quickstart.c").arg("-o").arg(&exe).args(ask(&["--cflags", "--libs"])));
    runs(&exe, &tree);
    // The static library needs what is private.
    let exe = tree.join("quickstart-static");
    let mut flags = ask(&["--cflags", "--libs", "--static"]);
    flags.iter_mut().filter(|flag| *flag == "-lsubquad").for_each(|flag| *flag = "-l:libsubquad.a".into());
    run(cc("c99").arg("examples/quickstart.c").arg("-o").arg(&exe).args(flags));
    run(&mut program(&exe));
}

const CMAKE_LISTS: &str = "\
cmake_minimum_required(VERSION 3.10)
project(user C)
find_package(subquad 0.1 REQUIRED)
foreach(kind subquad static)
  add_executable(quickstart-${kind} ${EXAMPLE})
  target_link_libraries(quickstart-${kind} PRIVATE subquad::${kind})
endforeach()
";

#[test]
fn cmake_package() {
    if !has("cmake") {
        eprintln!("skipped: there is no cmake");
        return;
    }
    let prefix = scratch("install-cmake").join("tree");
    let tree = install("install-cmake", None, &prefix);
    let project = scratch("install-cmake").join("project");
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("CMakeLists.txt"), CMAKE_LISTS).unwrap();
    // The tree can be moved: nothing in the package names where it was installed.
    let moved = scratch("install-cmake").join("moved");
    std::fs::rename(&tree, &moved).unwrap();
    let example = format!("-DEXAMPLE={}", root().join("examples/quickstart.c").display());
    let found = format!("-DCMAKE_PREFIX_PATH={}", moved.display());
    run(Command::new("cmake").args(["-S", ".", "-B", "build", &example, &found]).current_dir(&project));
    run(Command::new("cmake").args(["--build", "build"]).current_dir(&project));
    for kind in ["subquad", "static"] {
        runs(&project.join(format!("build/quickstart-{kind}")), &moved);
    }
    let later = CMAKE_LISTS.replace("subquad 0.1", "subquad 0.2");
    std::fs::write(project.join("CMakeLists.txt"), later).unwrap();
    let mut refused = Command::new("cmake");
    refused.args(["-S", ".", "-B", "other", &example, &found]).current_dir(&project);
    assert!(!refused.output().unwrap().status.success(), "0.1 is no 0.2");
}
