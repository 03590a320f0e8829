//! `subquad verify`: right files pass, wrong, broken and foreign ones are told apart.

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use support::{done, json, refused, root, run};
use tempfile::TempDir;

const GOLDEN: &str = "tests/golden";
const GATED: &str = "tests/golden/linear/gated_delta_rule_d128.safetensors";
const GRADIENT: &str = "tests/golden/linear/gated_delta_rule_gva_grad.safetensors";
const STEP: &str = "tests/golden/linear/linear_elu1_step.safetensors";
const SEGMENTS: &str = "tests/golden/softmax/srformer_padded_mask.safetensors";

/// Passed, failed and skipped, from the last line.
fn totals(out: &str) -> [usize; 3] {
    let last = out.lines().last().expect("a last line");
    let numbers: Vec<usize> = last.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(last, format!("{} passed, {} failed, {} skipped", numbers[0], numbers[1], numbers[2]));
    [numbers[0], numbers[1], numbers[2]]
}

/// A file's bytes, its header, and where its tensors begin.
fn parts(path: &Path) -> (Vec<u8>, Value, usize) {
    let bytes = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    (bytes, header, 8 + n)
}

/// A copy of a golden file in which one value of a tensor is another.
fn tampered(folder: &TempDir, source: &str, tensor: &str, index: usize, value: f32) -> PathBuf {
    let (mut bytes, header, data) = parts(&root().join(source));
    let at = data + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 4 * index;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let path = folder.path().join("tampered.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A copy of a golden file with other metadata.
fn relabelled(folder: &TempDir, source: &str, key: &str, value: Option<&str>) -> PathBuf {
    let (bytes, mut header, data) = parts(&root().join(source));
    let metadata = header["__metadata__"].as_object_mut().unwrap();
    match value {
        Some(value) => metadata.insert(key.into(), value.into()),
        None => metadata.remove(key),
    };
    let header = serde_json::to_vec(&header).unwrap();
    let path = folder.path().join("relabelled.safetensors");
    let whole = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[data..]].concat();
    std::fs::write(&path, whole).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_golden_file_passes_or_is_skipped_with_a_reason() {
    let lines = json(&["verify", GOLDEN, "--json"]);
    let (files, totals) = lines.split_at(lines.len() - 1);
    assert_eq!(totals[0]["failed"], 0);
    let count = |outcome: &str| files.iter().filter(|file| file["outcome"] == outcome).count();
    assert_eq!(totals[0]["passed"], count("passed"));
    assert!(count("passed") >= 48, "{} passed", count("passed"));
    let gradients = files.iter().filter(|file| !file["gradient"].is_null()).count();
    assert_eq!(totals[0]["skipped"], count("skipped") + gradients);
    for file in files {
        match file["outcome"].as_str().unwrap() {
            "passed" => assert!(file["worst_fraction"].as_f64().unwrap() <= 1.0, "{file}"),
            _ => assert!(!file["reason"].as_str().unwrap().is_empty(), "{file}"),
        }
    }
    let names: Vec<_> = files.iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "folders are walked in order");
}

#[test]
fn gradients_are_compared_unless_told_not_to() {
    let names = |arguments: &[&str]| -> Vec<String> {
        let file = &json(&[arguments, &["--json"]].concat())[0];
        assert_eq!((&file["outcome"], &file["gradient"]), (&"passed".into(), &Value::Null), "{file}");
        let tensors = file["tensors"].as_array().unwrap().iter();
        tensors.map(|tensor| tensor["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["out", "state_out", "dbeta", "dg", "dk", "dq", "dstate_in", "dv"];
    assert_eq!(names(&["verify", GRADIENT]), all);
    assert_eq!(names(&["verify", GRADIENT, "--no-grad"]), all[..2]);
    // However the forward pass is cut, backward takes the whole file.
    assert_eq!(names(&["verify", GRADIENT, "--split", "5", "--threads", "2"]), all);
    assert_eq!(names(&["verify", GRADIENT, "--step"]), all);
}

#[test]
fn a_wrong_gradient_fails_and_is_named() {
    let folder = TempDir::new().unwrap();
    for tensor in ["dk", "dg", "dstate_in"] {
        let path = tampered(&folder, GRADIENT, tensor, 33, 1e3);
        let (status, out, _) = run(&["verify", text(&path)]);
        assert_eq!((status, totals(&out)), (1, [0, 1, 0]), "{out}");
        assert!(out.starts_with("FAIL") && out.contains(&format!("{tensor}[33]")), "{out}");
        assert_eq!(totals(&done(&["verify", text(&path), "--no-grad"])), [1, 0, 0]);
    }
    // A wrong gradient of an output spoils those of the inputs.
    let path = tampered(&folder, GRADIENT, "dstate_out", 0, 1e3);
    assert_eq!(run(&["verify", text(&path)]).0, 1);
    // Their tolerances are their own, and each may have one.
    let exact = relabelled(&folder, GRADIENT, "grad_rtol", Some("0"));
    let exact = relabelled(&folder, text(&exact), "grad_atol", Some("0"));
    let (status, out, _) = run(&["verify", text(&exact)]);
    assert!(status == 1 && out.contains("inf of the tolerance in d"), "{out}");
    let wide: String =
        ["dbeta", "dg", "dk", "dq", "dstate_in", "dv"].map(|name| format!(r#""{name}": 1"#)).join(", ");
    let wide = relabelled(&folder, text(&exact), "role_atol", Some(&format!("{{{wide}}}")));
    assert_eq!(totals(&done(&["verify", text(&wide)])), [1, 0, 0]);
    let path = relabelled(&folder, GRADIENT, "grad_atol", None);
    assert!(run(&["verify", text(&path)]).1.contains("no `grad_atol`"));
}

#[test]
fn splits_threads_and_instruction_sets_change_nothing() {
    assert_eq!(totals(&done(&["verify", GATED, "--split", "5", "--threads", "2"])), [1, 0, 0]);
    let all = done(&["verify", GOLDEN, "--isa", "all", "--no-grad"]);
    assert_eq!(totals(&all)[1], 0);
    assert!(all.contains("(scalar)"), "{all}");
    assert_eq!(totals(&done(&["verify", GOLDEN, "--split", "16", "--no-grad"]))[1], 0);
    assert_eq!(totals(&done(&["verify", GOLDEN, "--split", "1", "--no-grad"]))[1], 0);
    assert_eq!(totals(&done(&["verify", GOLDEN, "--threads", "2", "--no-grad"]))[1], 0);
    assert!(done(&["verify", STEP]).contains("5 calls"));
    assert_eq!(totals(&done(&["verify", GOLDEN, "--step", "--no-grad"]))[1], 0);
    assert!(done(&["verify", GATED, "--step"]).contains("calls"));
    // Queries of another sequence than the keys', where their numbers are told.
    for (how, calls) in
        [(&["--step"][..], "33 calls"), (&["--split", "5"], "7 calls"), (&["--split", "50"], "")]
    {
        let out = done(&[&["verify", SEGMENTS][..], how].concat());
        assert_eq!(totals(&out), [1, 0, 0]);
        assert!(out.contains(calls), "{out}");
    }
    let halves = ["verify", SEGMENTS, "--step", "--dtype", "bf16", "--dtype-state", "bf16"];
    assert!(done(&halves).contains("33 calls"));
}

#[test]
fn other_types_are_one_rounding_off() {
    let folders = ["verify", "tests/golden/linear", "tests/golden/hf", "--json"];
    let plain = json(&folders);
    // One mechanism takes f32 only.
    let takes_types = |file: &&Value| {
        file["outcome"] == "passed" && !file["file"].as_str().is_some_and(|name| name.contains("flash_"))
    };
    let takes_types = plain.iter().filter(takes_types).count();
    for types in [
        &["--dtype", "bf16"][..],
        &["--dtype", "f16"],
        &["--dtype", "f16", "--dtype-state", "bf16", "--isa", "scalar"],
        &["--dtype", "bf16", "--dtype-state", "bf16", "--step", "--threads", "2"],
        &["--dtype-state", "bf16", "--split", "16"],
        &["--dtype", "bf16", "--bf16-dot"],
    ] {
        let lines = json(&[&folders[..], types].concat());
        let (files, totals) = lines.split_at(lines.len() - 1);
        assert_eq!((&totals[0]["failed"], &totals[0]["passed"]), (&0.into(), &takes_types.into()));
        let passed = || files.iter().filter(|file| file["outcome"] == "passed");
        // Something was rounded, and no more than that.
        let off = |file: &&Value| file["distance"].as_f64().is_some_and(|x| x > 1e-4);
        assert!(passed().filter(off).count() >= 20, "{types:?}");
        // Gradients too, wherever f32 has them.
        let plain_of = |file: &Value| plain.iter().find(|one| one["file"] == file["file"]).cloned().unwrap();
        let names = |file: &Value| -> Vec<Value> {
            file["tensors"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
        };
        for file in passed() {
            assert_eq!((&file["gradient"], names(file)), (&Value::Null, names(&plain_of(file))), "{types:?}");
        }
        // Exponentials of large numbers feel the rounding of these.
        let mild = |file: &&Value| !file["file"].as_str().unwrap().contains("extreme");
        assert!(passed().filter(mild).all(|file| file["distance"].as_f64().unwrap() < 0.05), "{types:?}");
    }
    let out = done(&["verify", GATED, "--dtype", "bf16"]);
    assert!(out.contains("from the file"), "{out}");
    // A file that f32 does not pass, no other type does.
    let folder = TempDir::new().unwrap();
    let path = tampered(&folder, GATED, "out", 77, 1e3);
    let (status, out, _) = run(&["verify", text(&path), "--dtype", "bf16"]);
    assert!(status == 1 && out.contains("out[77]"), "{out}");
    // Nor does one whose values the type has not.
    let path = tampered(&folder, GATED, "v", 0, 1e5);
    let path = relabelled(&folder, text(&path), "atol", Some("1e9"));
    let out = done(&["verify", text(&path), "--dtype", "f16"]);
    assert!(out.starts_with("skip") && out.contains("v has 1e5, which is beyond f16"), "{out}");
    let out = done(&["verify", GATED, "--dtype-state", "f16"]);
    assert!(out.starts_with("skip") && out.contains("desc.dtype_state = f16"), "{out}");
}

#[test]
fn the_ceiling_of_the_environment_holds() {
    let output = support::subquad(&["verify", GATED]).env("SUBQUAD_MAX_ISA", "scalar").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("(scalar)"));
}

#[test]
fn a_wrong_value_fails_and_is_named() {
    let folder = TempDir::new().unwrap();
    for value in [1e3, f32::NAN, f32::INFINITY] {
        let path = tampered(&folder, GATED, "out", 77, value);
        let (status, out, _) = run(&["verify", text(&path)]);
        assert_eq!((status, totals(&out)), (1, [0, 1, 0]), "{out}");
        assert!(out.starts_with("FAIL") && out.contains("out[77]"), "{out}");
    }
    // A wrong input spoils what follows from it, not the file.
    let path = tampered(&folder, GATED, "v", 0, 1e3);
    assert_eq!(run(&["verify", text(&path)]).0, 1);
}

#[test]
fn tolerances_are_those_of_the_file() {
    let folder = TempDir::new().unwrap();
    let fraction = |path: &str| {
        let file = &json(&["verify", path, "--json"])[0];
        let tensors = file["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == "out").unwrap()["fraction"].as_f64().unwrap()
    };
    let plain = fraction(GATED);
    let loose = relabelled(&folder, GATED, "role_atol", Some(r#"{"out": 1}"#));
    assert!(fraction(text(&loose)) < plain / 10.0);
    let other = relabelled(&folder, GATED, "role_atol", Some(r#"{"state_out": 1}"#));
    assert_eq!(fraction(text(&other)), plain);
    // No f32 kernel has every bit of a result in double precision.
    let exact = relabelled(&folder, GATED, "role_rtol", Some(r#"{"out": 0}"#));
    let exact = relabelled(&folder, text(&exact), "role_atol", Some(r#"{"out": 0}"#));
    let (status, out, _) = run(&["verify", text(&exact)]);
    assert!(status == 1 && out.contains("inf of the tolerance in out"), "{out}");
}

#[test]
fn a_broken_file_is_a_failure_with_a_message() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cut.safetensors");
    let (bytes, _, data) = parts(&root().join(GATED));
    for n in [0, 5, 8, data / 2, data, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..n]).unwrap();
        let (status, out, _) = run(&["verify", folder.path().to_str().unwrap()]);
        assert_eq!((status, totals(&out)), (1, [0, 1, 0]), "{n} bytes: {out}");
        assert!(out.contains("not a whole safetensors file"), "{out}");
    }
}

#[test]
fn metadata_that_makes_no_sense_is_a_failure() {
    let folder = TempDir::new().unwrap();
    let cases = [
        ("mechanism", None, "no `mechanism`"),
        ("rtol", Some("tight"), "rtol = `tight`"),
        ("params", Some("[1]"), "params = `[1]`"),
        ("params", Some(r#"{"nope": 1}"#), "nope"),
        ("params", Some(r#"{"norm_eps": -1}"#), "norm_eps"),
        ("mode", Some("sideways"), "mode = `sideways`"),
    ];
    for (key, value, message) in cases {
        let path = relabelled(&folder, GATED, key, value);
        let (status, out, _) = run(&["verify", text(&path)]);
        assert_eq!((status, totals(&out)), (1, [0, 1, 0]), "{key}: {out}");
        assert!(out.contains(message), "{key}: {out}");
    }
}

#[test]
fn what_is_not_there_yet_is_skipped_and_strict_minds() {
    let folder = TempDir::new().unwrap();
    let path = relabelled(&folder, GATED, "mechanism", Some("from_the_future"));
    assert_eq!(totals(&done(&["verify", text(&path)])), [0, 0, 1]);
    assert_eq!(run(&["verify", text(&path), "--strict"]).0, 1);
    // A mode that the mechanism refuses, with the catalogue's reason.
    let path = relabelled(&folder, GATED, "mode", Some("cross"));
    let out = done(&["verify", text(&path)]);
    assert!(out.starts_with("skip") && out.contains("order of tokens"), "{out}");
    assert_eq!(totals(&done(&["verify", GATED, "--strict"])), [1, 0, 0]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    assert!(refused(&["verify", "no/such/folder"]).contains("no/such/folder"));
    assert!(refused(&["verify", "docs"]).contains("no .safetensors file"));
    assert!(refused(&["verify", GATED, "--isa", "mmx"]).contains("isa is `mmx`"));
    assert!(refused(&["verify", GATED, "--dtype", "f8"]).contains("dtype is `f8`"));
    assert!(refused(&["verify", GATED, "--split", "0"]).contains("--split is 0"));
    assert!(refused(&["verify", GATED, "--threads", "0"]).contains("--threads is 0"));
    refused(&["verify"]);
}

/// Tasks that share a head each read the incoming normaliser; the first must not have written it in place.
#[test]
fn a_state_carried_in_place_is_read_before_it_is_written() {
    let file = "tests/golden/linear/linear_elu1_causal_d128.safetensors";
    assert_eq!(totals(&done(&["verify", file, "--split", "16", "--threads", "2"])), [1, 0, 0]);
}
