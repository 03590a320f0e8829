//! Every reference file whose mechanism is in this version, through the Rust API, on every instruction set.

mod common;

use common::golden::{Golden, files};
use subquad::{Context, ContextOptions, Error, Isa, Plan};

/// Replays files, at least `least`, on every instruction set; `replay` gives the worst error as a fraction of the tolerance.
#[track_caller]
fn each(
    least: usize,
    replay: impl Fn(&Golden, &Context) -> Result<f64, Error>,
    wanted: impl Fn(&Golden) -> bool,
) {
    let (mut failed, mut passed) = (Vec::new(), 0);
    for path in ["linear", "hf", "random_features", "sparse", "softmax"].into_iter().flat_map(files) {
        let file = Golden::read(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !wanted(&file) {
            continue;
        }
        if !subquad::mechanisms().any(|known| known == file.mechanism()) {
            println!("{name}: skipped, {} is not in this version", file.mechanism());
            continue;
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let context = Context::new(ContextOptions::new().max_isa(isa)).unwrap();
            let worst = replay(&file, &context).unwrap_or_else(|e: Error| panic!("{name} on {isa}: {e}"));
            println!("{name} {isa}: {worst:.3}");
            if worst <= 1.0 { passed += 1 } else { failed.push(format!("{name} {isa}: {worst}")) }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let isas = Isa::ALL.into_iter().filter(|isa| isa.available()).count();
    assert!(passed >= least * isas, "only {passed} files were replayed on {isas} instruction sets");
}

#[test]
fn reference_files() {
    each(120, Golden::replay, |_| true);
}

#[test]
fn gradients() {
    let context = Context::new(ContextOptions::new()).unwrap();
    let there = |file: &Golden| {
        let known = subquad::mechanisms().any(|known| known == file.mechanism());
        let plan = known.then(|| Plan::new(&context, &file.desc()).unwrap());
        let there = plan.is_some_and(|plan| plan.has_gradient(file.mode()));
        if !there {
            println!(
                "{}: skipped, {} has no gradient in this version",
                file.path.display(),
                file.mechanism()
            );
        }
        there
    };
    each(30, Golden::replay_gradient, |file| file.has_gradient() && there(file));
}
