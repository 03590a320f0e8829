//! Gives the shared library its soname: `libsubquad.so.0.N` until 1.0, N counting ABI breaks, then `.so.1`.
//!
//! Which symbols it exports needs no version script: rustc exports the `no_mangle` functions of `subquad-capi`
//! and nothing else, and `capi/tests/symbols.rs` compares them with `capi/symbols.txt`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name| std::env::var(name).unwrap_or_default();
    let (major, minor) = (var("CARGO_PKG_VERSION_MAJOR"), var("CARGO_PKG_VERSION_MINOR"));
    let version = if major == "0" { format!("0.{minor}") } else { major };
    match var("CARGO_CFG_TARGET_OS").as_str() {
        "linux" | "android" | "freebsd" | "netbsd" | "openbsd" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libsubquad.so.{version}");
        }
        "macos" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libsubquad.{version}.dylib");
        }
        _ => {}
    }
}
