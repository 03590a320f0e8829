//! `subquad bench`: numbers that can be read, refusals that say what is expected.

mod support;

use serde_json::Value;
use support::{done, json, refused};

const SMALL: &str = "mechanism=gated_delta_rule,H=2,D=32,T=40";

#[test]
fn a_line_of_json_has_what_the_design_promises() {
    let lines =
        json(&["bench", SMALL, "mechanism=gla,mode=step,H=2,D=16,E=8", "--seconds", "0.01", "--json"]);
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let positive = [
            "ns_per_token_head",
            "tokens_per_s",
            "gflops",
            "peak_gflops",
            "peak_fraction",
            "bytes_per_s",
            "workspace_bytes",
            "state_bytes",
            "bound_ratio",
        ];
        for key in positive {
            assert!(line[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {line}");
        }
        assert!(line["spread"].is_number() && line["void"].is_boolean(), "{line}");
        assert!(line["check_error"].as_f64().unwrap() <= 1e-4, "{line}");
    }
    let problem = lines[0]["problem"].as_str().unwrap();
    assert!(problem.starts_with("mechanism=gated_delta_rule,mode=causal,B=1,H=2,Hk=2,Hv=2,D=32,E=32,T=40"));
    let again = json(&["bench", problem, "--seconds", "0.01", "--json"]);
    assert_eq!(again[0]["problem"], problem, "the string reproduces the problem");
}

/// A step over more than a cache holds is told beside what memory gives.
#[test]
fn long_steps_beside_memory() {
    let (seconds, problem) =
        (["--seconds", "0.01"], |keys: &str| format!("mechanism=softmax,mode=step,H=1,D=128,S={keys}"));
    let lines = json(
        &[&["bench", "--json", "--no-check", &problem("70000"), &problem("700")], &seconds[..]].concat(),
    );
    let [long, short] = [0, 1].map(|i| lines[i]["memory_bytes_per_s"].as_f64());
    assert!(long.is_some_and(|x| (1e8..1e12).contains(&x)), "{long:?}");
    assert_eq!(short, None);
    let table = done(&[&["bench", "--no-check", &problem("70000")], &seconds[..]].concat());
    assert!(table.contains(" % of memory's "), "{table}");
}

#[test]
fn every_mechanism_has_inputs_in_every_mode_and_gradients() {
    let listed = json(&["list", "--json"]);
    let mut args = vec!["bench".to_owned(), "--json".to_owned(), "--seconds".to_owned(), "0.001".to_owned()];
    for mechanism in &listed {
        for mode in mechanism["modes"].as_array().unwrap() {
            let (name, mode) = (mechanism["name"].as_str().unwrap(), mode.as_str().unwrap());
            let length = if mode == "step" { "" } else { ",T=20" };
            // Sizes and parameters that only the caller knows.
            let own = match name {
                "gsa" | "abc" | "lavo" => ",M=8",
                "rfa_gate" => ",P=8",
                "cosformer" => ",period=64",
                "lln" => ",x_scale_q=1,x_scale_k=1",
                "gate" => ",form=softplus",
                "causal_conv" => ",width=4",
                "lasp" => ",ranks=4",
                "integral" => ",signals=2",
                "bswa" => ",block=8",
                "srformer" => ",block=8,gen_len=20",
                "fam_block" => ",F=4",
                "dape_v2" => ",F=4,K=3",
                "gau" => ",scale=0.1",
                _ => "",
            };
            let problem = format!("mechanism={name},mode={mode},H=2,D=16{length}{own}");
            // Gradients come after a forward call, which is checked as well.
            let grad = if mechanism["gradient"] == true && mode != "step" { ",grad=1" } else { "" };
            args.push(format!("{problem}{grad}"));
        }
    }
    let lines = json(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(lines.len(), args.len() - 4);
    for line in lines {
        assert!(line["check_error"].as_f64().is_some_and(|error| error <= 1e-4), "{line}");
    }
}

#[test]
fn element_types() {
    let problem = |types: &str| format!("mechanism=gated_delta_rule,mode=step,H=2,D=64,B=8{types}");
    let line = |types: &str| {
        let lines = json(&["bench", &problem(types), "--seconds", "0.01", "--json"]);
        let error = lines[0]["check_error"].as_f64().unwrap();
        (lines[0]["state_bytes"].as_u64().unwrap(), error)
    };
    let (wide, exact) = line("");
    assert!(wide == 2 * 64 * 64 * 4 && exact < 1e-4);
    for types in [",dtype=bf16", ",dtype=f16,dtype_state=bf16", ",dtype_state=bf16"] {
        let (bytes, error) = line(types);
        assert_eq!(bytes, if types.contains("state") { wide / 2 } else { wide }, "{types}");
        assert!(error < 1e-2, "{types}: {error}");
    }
    assert!(refused(&["bench", &problem(",dtype_state=f16")]).contains("desc.dtype_state = f16"));
    assert!(refused(&["bench", &problem(",dtype_state=f8")]).contains("dtype is `f8`"));
}

#[test]
fn gradients_are_checked_and_timed_beside_forward() {
    let problems = [
        "mechanism=gated_delta_rule,grad=1,H=2,D=32,T=40,with=state_in+state_out",
        "mechanism=softmax,grad=1,H=2,D=32,T=40",
        "mechanism=diff,grad=1,H=2,D=32,T=40",
        SMALL,
    ];
    let lines = json(&[&["bench", "--seconds", "0.01", "--json"], &problems[..]].concat());
    for line in &lines[..3] {
        let get = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
        assert_eq!(line["grad"], true);
        assert!(get("check_error") <= 1e-4 && get("workspace_bytes") > 0.0, "{line}");
        assert!(get("backward_forward_ratio") > 0.0 && get("forward_ns_per_token_head") > 0.0, "{line}");
        assert!(line["bound_ratio"].is_null(), "{line}");
    }
    assert!(lines[0]["gflops"].is_number() && lines[1]["gflops"].is_number());
    assert!(lines[2]["gflops"].is_null(), "no count of what `diff` computes");
    assert_eq!(lines[3]["grad"], false);
    assert!(lines[3]["backward_forward_ratio"].is_null() && lines[3]["forward_ns_per_token_head"].is_null());
    let problem = lines[0]["problem"].as_str().unwrap();
    assert!(problem.starts_with("mechanism=gated_delta_rule,mode=causal,grad=1,B=1,"), "{problem}");
    let again = done(&["bench", problem, "mechanism=diff,grad=1,H=2,T=20", "--seconds", "0.01"]);
    let row = |name: &str| again.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(row("gated_delta_rule").contains("backward/forward "), "{again}");
    let dashes = row("diff").split_whitespace().filter(|&cell| cell == "-").count();
    assert_eq!(dashes, 3, "neither GFLOP/s, nor % peak, nor a bound: {again}");
}

#[test]
fn gradients_of_other_types() {
    let problem = |rest: &str| format!("mechanism=gated_delta_rule,grad=1,H=2,D=32,T=40,{rest}");
    let with = "dtype=f16,dtype_state=bf16,with=state_in+state_out";
    let problems =
        [problem("dtype=bf16"), problem(with), "mechanism=softmax,grad=1,H=2,D=32,T=40,dtype=bf16".into()];
    for problem in &problems {
        let line = &json(&["bench", problem, "--seconds", "0.001", "--json"])[0];
        assert!(line["check_error"].as_f64().is_some_and(|error| error < 1e-2), "{line}");
    }
}

#[test]
fn gradients_that_there_are_not_are_refused() {
    let step = refused(&["bench", "mechanism=gla,mode=step,grad=1"]);
    assert!(step.contains("grad is 1, expected 0: backward of gla in mode step"), "{step}");
    assert!(step.contains("a step is a token of mode causal, which has gradients"), "{step}");
    let lavo = refused(&["bench", "mechanism=lavo,M=8,grad=1"]);
    assert!(
        lavo.contains("grad is 1, expected 0: ") && lavo.contains("the mechanism has no gradient"),
        "{lavo}"
    );
    assert!(refused(&["bench", "mechanism=gla,grad=dq"]).contains("grad is `dq`, expected 0 or 1"));
}

#[test]
fn options_replace_what_the_problem_says() {
    let lines = json(&["bench", SMALL, "--isa", "scalar", "--threads", "2", "--seconds", "0.01", "--json"]);
    assert_eq!((&lines[0]["isa"], &lines[0]["threads"]), (&Value::from("scalar"), &Value::from(2)));
    let unchecked = json(&["bench", SMALL, "--no-check", "--seconds", "0.01", "--json"]);
    assert!(unchecked[0]["check_error"].is_null());
}

#[test]
fn roles_that_parameters_ask_for_are_found() {
    let problems = [
        "mechanism=simple_gla,H=2,D=16,T=20,normalize=rms_gate,with=out_norm_weight",
        "mechanism=retention,H=2,D=16,T=20,normalize=srms_all,with=out_norm_weight",
        "mechanism=linear,H=2,D=16,T=20,feature_map=exp,with=state_in+state_out",
        "mechanism=gated_delta_rule,H=2,Hv=4,D=16,T=20,l2norm_qk=1",
    ];
    let args = [&["bench", "--seconds", "0.001", "--json"], &problems[..]].concat();
    assert_eq!(json(&args).len(), problems.len());
}

#[test]
fn files_lists_and_plots() {
    let folder = tempfile::TempDir::new().unwrap();
    let (file, plot) = (folder.path().join("problems.txt"), folder.path().join("cost.svg"));
    std::fs::write(&file, format!("# lengths\n\n{SMALL}:80 # both\n")).unwrap();
    let (file, plot) = (file.to_str().unwrap(), plot.to_str().unwrap());
    let out = done(&["bench", "--file", file, "--plot", plot, "--seconds", "0.01"]);
    assert!(out.lines().next().unwrap().contains("ns/tok/head"), "{out}");
    assert_eq!(out.lines().filter(|line| line.starts_with("gated_delta_rule")).count(), 2, "{out}");
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("gated_delta_rule causal"), "{svg}");
}

#[test]
fn faults_name_what_was_given_and_what_is_expected() {
    let fault = |problem: &str| refused(&["bench", problem]);
    let unknown = fault("mechanism=gla,chunk=3");
    assert!(unknown.contains("unknown key `chunk`; known keys are mechanism, mode, grad, B, H"), "{unknown}");
    assert!(unknown.contains("gate_activation"), "the mechanism's parameters are listed: {unknown}");
    assert!(fault("mechanism=gal").contains("mechanism is `gal`, expected one of linear"));
    assert!(fault("mechanism=gla,norm_eps=-1").contains("norm_eps is -1, expected at least 0"));
    assert!(fault("mechanism=gla,H=3,Hk=2").contains("desc.heads_q is 3"));
    assert!(fault("mechanism=gla,B=1M,H=1M").contains("needs"), "far more than any memory");
    assert!(fault("T=5").contains("`mechanism=` is missing"));
    assert!(refused(&["bench", SMALL, "--seconds", "0"]).contains("--seconds is 0"));
    assert!(refused(&["bench", "--file", "no/such/file"]).contains("no/such/file"));
    refused(&["bench"]);
}

#[test]
fn head_counts_that_the_shapes_do_not_allow_are_refused() {
    assert!(refused(&["bench", "mechanism=linear1p,H=1,Hk=3,D=8,T=20"]).contains("heads_q"));
}
