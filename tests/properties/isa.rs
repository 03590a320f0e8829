//! The ceiling on instruction sets, by option and by `SUBQUAD_MAX_ISA`, and that they agree.

use crate::common::oracle;
use crate::common::problem::{self, Problem, isas, mechanisms};
use crate::common::support::{Rng, seed};
use std::process::{Command, Output};
use subquad::{Context, ContextOptions, Isa, Mode, Status};

/// Set in the environment of a subprocess: it prints what a context gets, and with which ceiling by option.
const CHILD: &str = "SUBQUAD_TEST_CEILING";

/// Not a test of its own: what [`child`] runs.
#[test]
fn print_isa() {
    let Ok(option) = std::env::var(CHILD) else { return };
    let options = match option.parse::<Isa>() {
        Ok(isa) => ContextOptions::new().max_isa(isa),
        Err(()) => ContextOptions::new(),
    };
    match Context::new(options) {
        Ok(context) => {
            let p = Problem::named("gla").fill(&mut Rng::new(1), true);
            let plan = p.plan(&context);
            assert_eq!(plan.info().isa, context.isa());
            oracle::check(&p.run_plan(&plan), &oracle::expect(&p), || "in the child".into());
            println!("isa is <{}>", plan.info().isa);
        }
        Err(error) => println!("error {} is <{error}>", error.status() as i32),
    }
}

/// This test in a process of its own, with a ceiling by option (or none) and by variable.
fn child(option: &str, variable: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "isa::print_isa", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, option).env_remove("SUBQUAD_MAX_ISA");
    if let Some(value) = variable {
        command.env("SUBQUAD_MAX_ISA", value);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{text}{}", String::from_utf8_lossy(&stderr));
    text
}

fn isa_of(option: &str, variable: Option<&str>) -> Isa {
    let text = child(option, variable);
    let name = text.split(['<', '>']).nth(1).unwrap_or_else(|| panic!("{text}"));
    name.parse().unwrap_or_else(|()| panic!("{text}"))
}

#[test]
fn ceiling_by_option() {
    for isa in isas() {
        assert_eq!(isa_of(isa.name(), None), isa);
    }
    assert_eq!(isa_of("none", None), Isa::best());
    assert_eq!(isa_of("none", Some("")), Isa::best(), "an empty variable is none");
}

#[test]
fn ceiling_by_variable() {
    for named in Isa::ALL {
        // The strongest that there is and that the word allows.
        let allowed = *isas().iter().filter(|&&isa| isa <= named).max().unwrap();
        assert_eq!(isa_of("none", Some(named.name())), allowed, "{named}");
        for option in isas() {
            let lower = allowed.min(option);
            assert_eq!(
                isa_of(option.name(), Some(named.name())),
                lower,
                "{option} by option, {named} by variable"
            );
        }
    }
}

#[test]
fn bad_words() {
    for word in ["avx", "AVX2", " avx2", "scalar,avx2", "1"] {
        let text = child("none", Some(word));
        assert!(text.contains(&format!("error {} is", Status::InvalidArgument as i32)), "{text}");
        for part in ["SUBQUAD_MAX_ISA", &format!("`{word}`"), "scalar, neon, avx2, avx512"] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
    }
}

/// The plan says which instruction set it uses; all of them agree within the tolerance of the same oracle.
#[test]
fn all_agree() {
    let mut differ = 0;
    for mechanism in mechanisms() {
        for &mode in mechanism.modes {
            let mut rng = Rng::new(seed());
            let t = if mode == Mode::Step { 1 } else { 45 };
            let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (37, 41), 1, t);
            let p = Problem { mode, ..p }.fill(&mut rng, true);
            let want = oracle::expect(&p);
            let mut results = Vec::new();
            for isa in isas() {
                let plan = p.plan(&problem::context_of(isa));
                assert_eq!(plan.info().isa, isa);
                let got = p.run_plan(&plan);
                oracle::check(&got, &want, || format!("{isa}, SUBQUAD_SEED={}: {p}", seed()));
                results.push(got);
            }
            differ += usize::from(results.iter().any(|other| *other != results[0]));
        }
    }
    // Otherwise one and the same would have run under all names.
    assert!(differ > 0 || isas().len() == 1, "all instruction sets gave the same bits everywhere");
}
