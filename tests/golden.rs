//! Every reference file whose mechanism is in this version, through the Rust API, on every instruction set.

mod common;

use common::golden::{Golden, files};
use subquad::{Context, ContextOptions, Error, Isa};

#[test]
fn reference_files() {
    let (mut failed, mut passed) = (Vec::new(), 0);
    for path in ["linear", "hf", "random_features", "sparse"].into_iter().flat_map(files) {
        let file = Golden::read(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !subquad::mechanisms().any(|known| known == file.mechanism()) {
            println!("{name}: skipped, {} is not in this version", file.mechanism());
            continue;
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let context = Context::new(ContextOptions::new().max_isa(isa)).unwrap();
            let worst = file.replay(&context).unwrap_or_else(|e: Error| panic!("{name} on {isa}: {e}"));
            println!("{name} {isa}: {worst:.3}");
            if worst <= 1.0 { passed += 1 } else { failed.push(format!("{name} {isa}: {worst}")) }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(passed >= 100, "only {passed} files were replayed");
}
