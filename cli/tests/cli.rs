//! `subquad info`, `list`, `demo`, and the help of all commands.

mod support;

use support::{done, json, refused, subquad};

#[test]
fn info_says_what_is_in_use() {
    let info = &json(&["info", "--json"])[0];
    for key in ["version", "cpu", "isa_in_use"] {
        assert!(info[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {info}");
    }
    for key in ["processors", "l1_bytes", "l2_bytes", "mechanisms"] {
        assert!(info[key].as_u64().is_some_and(|n| n > 0), "{key} in {info}");
    }
    for isa in info["isa_available"].as_array().unwrap() {
        let peak = &info["peak_gflops"][isa.as_str().unwrap()];
        assert!(peak.as_f64().is_some_and(|gflops| gflops > 0.0), "{isa} in {info}");
    }
    assert!(done(&["info"]).contains("available: scalar"));
}

#[test]
fn info_honours_the_ceiling_and_refuses_nonsense() {
    let out = subquad(&["info"]).env("SUBQUAD_MAX_ISA", "scalar").output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("scalar in use (SUBQUAD_MAX_ISA=scalar)"));
    let out = subquad(&["info"]).env("SUBQUAD_MAX_ISA", "mmx").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("SUBQUAD_MAX_ISA is `mmx`"));
}

#[test]
fn list_has_the_catalogue_and_marks_what_is_built() {
    let (all, built) = (json(&["list", "--all", "--json"]), json(&["list", "--json"]));
    assert!(all.len() > 80 && built.len() >= 10 && built.len() <= all.len());
    assert!(built.iter().all(|mechanism| mechanism["built"] == true));
    let names = |list: &[serde_json::Value]| list.iter().map(|m| m["name"].to_string()).collect::<Vec<_>>();
    assert!(names(&built).iter().all(|name| names(&all).contains(name)));
    let text = done(&["list", "gated_delta_rule"]);
    for word in ["l2norm_qk", "square_add floor add", "1/sqrt(D)", "beta", "[B,Hs,D,E]"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(done(&["list", "--all"]).contains("softmax"));
    assert!(refused(&["list", "nope"]).contains("mechanism is `nope`"));
}

#[test]
fn the_demo_fits_on_a_screen() {
    let out = done(&["demo", "--seconds", "0.005"]);
    assert!(out.lines().count() <= 24, "{} lines", out.lines().count());
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    for name in ["linear", "gated_delta_rule", "mamba2", "does not approximate softmax"] {
        assert!(out.contains(name), "{name} in {out}");
    }
    assert!(refused(&["demo", "--data", "docs"]).contains("--data docs"));
}

#[test]
fn help_has_examples() {
    for command in ["info", "list", "verify", "bench", "demo"] {
        let help = done(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("subquad {command}")), "{help}");
    }
    assert!(done(&["--version"]).starts_with("subquad "));
    assert!(refused(&["frobnicate"]).contains("frobnicate"));
}
