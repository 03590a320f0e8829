//! What only softmax attention has: caches cut into runs, rows that see nothing, what is not visible, sinks, ranges of
//! its own arguments.

use crate::common::golden::{Array, Golden};
use crate::common::oracle;
use crate::common::problem::{self, Problem, Tensors, assert_same_bits, context};
use crate::common::support::{Rng, seed};
use std::sync::Arc;
use subquad::catalog::Mechanism;
use subquad::{Args, Context, ContextOptions, Desc, Mode, Plan, Role, ThreadPool, View, ViewMut};

/// Those that read a cache of keys and values.
fn mechanisms() -> impl Iterator<Item = &'static Mechanism> {
    problem::mechanisms()
        .into_iter()
        .filter(|mechanism| mechanism.role(Role::KEY_LEN).is_some() && mechanism.engines.contains(&"softmax"))
}

fn problem(mechanism: &'static Mechanism, mode: Mode, heads: [i64; 3], (t, s): (i64, i64)) -> Problem {
    let mut p = Problem::new(mechanism, vec![]).sized(heads, (24, 20), 2, t);
    (p.mode, p.s) = (mode, s);
    p
}

/// Caches long enough for several runs of keys, with lengths of their own.
#[test]
fn long_caches() {
    let workers =
        |n| Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()))).unwrap();
    let contexts = [2, 3].map(workers);
    for mechanism in mechanisms().filter(|m| m.modes.contains(&Mode::Step)) {
        for (heads, s) in [([6, 2, 2], 2500), ([1, 1, 1], 3100), ([4, 4, 4], 1025)] {
            let mut rng = Rng::new(seed());
            let mut p = problem(mechanism, Mode::Step, heads, (1, s)).fill(&mut rng, false);
            p.indices.push((Role::KEY_LEN, vec![s as i32, 1021]));
            let want = oracle::expect(&p);
            for isa in problem::isas() {
                oracle::check(&p.run(&problem::context_of(isa)), &want, || format!("{isa}: {p}"));
            }
            let serial = p.run(&context());
            for context in &contexts {
                assert_same_bits(&p.run(context), &serial, || {
                    format!("{} workers: {p}", context.max_workers())
                });
            }
        }
    }
}

/// A row gives the same bits whatever else is in the batch, its length included.
#[test]
fn others_in_the_batch() {
    for mechanism in mechanisms().filter(|m| m.modes.contains(&Mode::Causal)) {
        let mut rng = Rng::new(seed());
        for t in [1, 5, 20, 70] {
            let p = problem(mechanism, Mode::Causal, [4, 2, 2], (t, 1500)).fill(&mut rng, false);
            let all = p.run(&context());
            let one = p.batch(&[1]).run(&context());
            let want: Tensors = all.iter().map(|(&role, array)| (role, array.pick(0, [1]))).collect();
            assert_same_bits(&one, &want, || format!("{p}"));
        }
    }
}

/// Packed sequences whose queries are the last of their keys give the bits that each gives alone.
#[test]
fn packed_with_keys_ahead() {
    for mechanism in mechanisms().filter(|m| m.modes.contains(&Mode::Causal)) {
        let (ends_q, ends_k) = (vec![0, 5, 5, 40, 41], vec![0, 5, 12, 112, 1300]);
        let mut rng = Rng::new(seed());
        let mut p = problem(mechanism, Mode::Causal, [4, 2, 2], (41, 1300)).batch(&[0]);
        p = p.fill(&mut rng, false);
        let plan = p.plan(&context());
        let range = |ends: &[i32], i: usize| i64::from(ends[i])..i64::from(ends[i + 1]);
        let alone: Vec<Tensors> =
            (0..4).map(|i| p.tokens(range(&ends_q, i), range(&ends_k, i)).run_plan(&plan)).collect();
        let mut outputs = p.outputs();
        if let Some(scale) = p.inputs.get_mut(&Role::SCALE_BH) {
            *scale = scale.pick(0, [0; 4]);
        }
        p.indices = vec![(Role::CU_SEQLENS, ends_q), (Role::CU_SEQLENS_K, ends_k)];
        problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{p}: {error}"));
        let join = |role: Role| {
            let parts: Vec<Array> = alone.iter().map(|part| part[&role].clone()).collect();
            (role, Array::join(p.axis(role, "T").unwrap(), &parts))
        };
        let want = outputs.keys().map(|&role| join(role)).collect();
        assert_same_bits(&outputs, &want, || p.to_string());
        // The third sequence with 35 queries would have 34 keys.
        p.indices[1].1 = vec![0, 5, 12, 46, 1300];
        let error = problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs).unwrap_err();
        let error = error.to_string();
        assert!(["cu_seqlens_k[3]", "46", "fewer keys"].iter().all(|word| error.contains(word)), "{error}");
    }
}

/// A row that sees no key is 0, and its `lse` is `−inf`, or the sink.
#[test]
fn rows_that_see_nothing() {
    for mechanism in mechanisms() {
        for &mode in mechanism.modes {
            for t in [1, 9, 40] {
                let t = if mode == Mode::Step { 1 } else { t };
                let mut rng = Rng::new(seed());
                let mut p = problem(mechanism, mode, [2, 2, 2], (t, t)).fill(&mut rng, false);
                // Nothing of the first sequence's keys and values may be read.
                p.indices.push((Role::KEY_LEN, vec![0, t as i32]));
                for role in [Role::K, Role::V] {
                    let array = p.inputs.get_mut(&role).unwrap();
                    let half = array.data.len() / 2;
                    array.data[..half].fill(f32::NAN);
                }
                let got = p.run(&context());
                let out = &got[&Role::OUT].data;
                assert!(out[..out.len() / 2].iter().all(|&x| x == 0.0), "{p}");
                assert!(out[out.len() / 2..].iter().any(|&x| x != 0.0), "{p}");
                if let Some(lse) = got.get(&Role::LSE) {
                    for (i, &x) in lse.data[..lse.data.len() / 2].iter().enumerate() {
                        let sink = p.inputs.get(&Role::SINK);
                        let want = sink.map_or(f32::NEG_INFINITY, |sink| sink.data[i / t as usize]);
                        assert!((x - want).abs() < 1e-6 || x == want, "{x} for {want}: {p}");
                    }
                }
            }
        }
    }
}

/// Keys and values outside a row's window, its length or its mask do not reach it, whatever they hold.
#[test]
fn what_is_not_visible() {
    for mechanism in mechanisms() {
        for &mode in mechanism.modes {
            let (t, s) = if mode == Mode::Step { (1, 90) } else { (90, 90) };
            let mut rng = Rng::new(seed());
            let mut p = problem(mechanism, mode, [4, 2, 2], (t, s));
            let windowed = mechanism.param("window_left").is_some();
            if windowed {
                p = p.param("window_left", 20);
            }
            let mut p = p.fill(&mut rng, false);
            p.indices.push((Role::KEY_LEN, vec![61, 80]));
            let want = p.run(&context());
            let mut bad = p.clone();
            for role in [Role::K, Role::V] {
                let shape = bad.inputs[&role].shape.clone();
                for (i, x) in bad.inputs.get_mut(&role).unwrap().data.iter_mut().enumerate() {
                    let index = problem::index_of(i, &shape);
                    let len = [61, 80][index[0]];
                    // Keys beyond the length, and one that only some rows see.
                    if index[2] >= len || index[2] == 30 {
                        *x = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
                    }
                }
            }
            let got = bad.run(&context());
            let mut reached = 0;
            for (role, want) in &want {
                let axis = p.axis(*role, "T").unwrap();
                for (i, (g, w)) in got[role].data.iter().zip(&want.data).enumerate() {
                    let position = (s - t) as usize + problem::index_of(i, &want.shape)[axis];
                    let causal = matches!(mode, Mode::Causal | Mode::Step);
                    let blocks = mechanism.name == "bswa" && position / 8 != 30 / 8;
                    let hidden = causal && position < 30 || windowed && position > 50 || blocks;
                    assert!(!hidden || g.to_bits() == w.to_bits(), "{role} {i} at {position}: {p}");
                    reached += usize::from(!g.is_finite());
                }
            }
            assert!(reached > 0 || hidden_from_all(mechanism, mode), "nothing was reached: {p}");
        }
    }
}

/// A step at position 89 with a window of 20, or a block of 8, does not see key 30.
fn hidden_from_all(mechanism: &Mechanism, mode: Mode) -> bool {
    mode == Mode::Step && (mechanism.param("window_left").is_some() || mechanism.name == "bswa")
}

/// Masks by `−inf` in the bias, of whole rows too.
#[test]
fn masks_in_the_bias() {
    for mechanism in mechanisms().filter(|m| m.role(Role::BIAS).is_some()) {
        let mut rng = Rng::new(seed());
        for t in [5, 40] {
            let mut p = problem(mechanism, mechanism.modes[0], [2, 2, 2], (t, t + 30)).fill(&mut rng, false);
            let mut bias = p.values(&mut rng, Role::BIAS);
            let row = (t + 30) as usize;
            for (i, x) in bias.data.iter_mut().enumerate() {
                if rng.one_in(3) || i / row % t as usize == 3 {
                    *x = f32::NEG_INFINITY;
                }
            }
            p.inputs.insert(Role::BIAS, bias);
            p.inputs.remove(&Role::SINK);
            let want = oracle::expect(&p);
            for isa in problem::isas() {
                oracle::check(&p.run(&problem::context_of(isa)), &want, || format!("{isa}: {p}"));
            }
        }
    }
}

/// A bias of `+inf` makes the rows that see it NaN, and no other.
#[test]
fn infinite_bias() {
    let causal = mechanisms().filter(|m| m.modes.contains(&Mode::Causal));
    for mechanism in causal.filter(|m| m.role(Role::BIAS).is_some()) {
        for t in [5, 40] {
            let mut rng = Rng::new(seed());
            let mut p = problem(mechanism, Mode::Causal, [2, 2, 2], (t, t)).fill(&mut rng, false);
            let bias = p.values(&mut rng, Role::BIAS);
            p.inputs.insert(Role::BIAS, bias);
            let want = p.run(&context()).remove(&Role::OUT).unwrap();
            // Of the first head: the key of row 2, and one that row 3 does not see.
            let bias = &mut p.inputs.get_mut(&Role::BIAS).unwrap().data;
            (bias[2 * t as usize + 2], bias[3 * t as usize + 4]) = (f32::INFINITY, f32::INFINITY);
            let got = p.run(&context()).remove(&Role::OUT).unwrap();
            let row = p.e as usize;
            for (i, (got, want)) in got.data.chunks(row).zip(want.data.chunks(row)).enumerate() {
                match i {
                    2 => assert!(got.iter().all(|x| x.is_nan()), "{p}"),
                    _ => assert_eq!(got, want, "row {i}: {p}"),
                }
            }
        }
    }
}

/// A forget gate of −inf hides all that came before, at any place of a tile.
#[test]
fn gates_that_hide() {
    let mut rng = Rng::new(seed());
    for (t, s, every) in [(50, 50, 9), (70, 200, 60), (1, 300, 100), (3, 40, 10)] {
        let mode = if t == 1 { Mode::Step } else { Mode::Causal };
        let mechanism = Problem::named("fox").mechanism;
        let mut p = problem(mechanism, mode, [4, 2, 2], (t, s)).fill(&mut rng, false);
        for x in &mut p.inputs.get_mut(&Role::G).unwrap().data {
            if rng.one_in(every) {
                *x = f32::NEG_INFINITY;
            }
        }
        let want = oracle::expect(&p);
        for isa in problem::isas() {
            oracle::check(&p.run(&problem::context_of(isa)), &want, || format!("{isa}: {p}"));
        }
    }
}

/// Queries, keys and values of a language model: exact attention as it was computed in double precision.
#[test]
fn real_data() {
    for (name, h, hk, t) in
        [("smollm2_qkv_l0_n256.safetensors", 9, 3, 256), ("smollm2_qkv_l14_n2048.safetensors", 3, 1, 2048)]
    {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let file = Golden::read(&path);
        let mut p = Problem::named("softmax").sized([h, hk, hk], (64, 64), 1, t);
        for role in [Role::Q, Role::K, Role::V] {
            p.inputs.insert(role, file.tensors[role.base_name()].clone());
        }
        let want = &file.tensors["out"].data;
        for isa in problem::isas() {
            let got = &p.run(&problem::context_of(isa))[&Role::OUT];
            let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
            let difference = norm(&mut got.data.iter().zip(want).map(|(&g, &w)| f64::from(g) - f64::from(w)));
            let error = difference / norm(&mut want.iter().map(|&w| f64::from(w)));
            println!("{name} on {isa}: {error:.1e}");
            assert!(error < 1e-6, "{name} on {isa}: {error:e}");
        }
    }
}

fn refuse_plan(desc: Desc, words: &[&str]) {
    let error = Plan::new(&context(), &desc).expect_err("the plan is refused").to_string();
    words.iter().for_each(|word| assert!(error.contains(word), "`{word}` is not in `{error}`"));
}

#[test]
fn refused() {
    let causal = Mode::Causal | Mode::Bidirectional;
    refuse_plan(Desc::new("softmax").modes(causal).param("window_right", 3), &["window_right", "is 3", "-1"]);
    refuse_plan(Desc::new("fox").param("prune_log_tol", 0.5), &["prune_log_tol", "0.5", "at most 0"]);
    refuse_plan(Desc::new("fox").param("prune_log_tol", f64::NAN), &["prune_log_tol", "NaN", "finite"]);
    refuse_plan(Desc::new("integral").dims(10, 8).param("signals", 4), &["signals", "is 4", "dim_qk = 10"]);
    let refuse =
        |mode: Mode, params: &[(&'static str, i64)], (t, s): (i64, i64), len: i32, words: &[&str]| {
            let p = problem(Problem::named("softmax").mechanism, mode, [2, 2, 2], (t, s));
            let p = params.iter().fold(p, |p, &(name, value)| p.param(name, value));
            let mut p = p.fill(&mut Rng::new(1), false);
            p.inputs.retain(|role, _| [Role::Q, Role::K, Role::V].contains(role));
            p.indices.push((Role::KEY_LEN, vec![0, len]));
            let mut out = Tensors::from([(Role::OUT, p.outputs()[&Role::OUT].clone())]);
            let error = problem::execute(&p.plan(&context()), mode, &p.inputs, &p.indices, &mut out)
                .expect_err("the call is refused")
                .to_string();
            words.iter().for_each(|word| assert!(error.contains(word), "`{word}` is not in `{error}`"));
            assert!(out[&Role::OUT].data.iter().all(|x| x.is_nan()), "the output was written");
        };
    refuse(Mode::Causal, &[], (5, 4), 0, &["k.shape[2]", "is 4", "5"]);
    refuse(Mode::Bidirectional, &[], (5, 7), 0, &["k.shape[2]", "is 7", "5"]);
    refuse(Mode::Cross, &[("window_left", 2)], (5, 4), 0, &["q.shape[2]", "is 5", "4", "window"]);
    refuse(Mode::Step, &[], (2, 4), 0, &["q.shape[2]", "is 2", "1"]);
    refuse(Mode::Cross, &[], (5, 4), 5, &["key_len[1]", "5", "number of keys"]);
    refuse(Mode::Cross, &[], (5, 4), -1, &["key_len[1]", "-1", "number of keys"]);
    // Of each sequence, not of all of them.
    let mut p = problem(Problem::named("softmax").mechanism, Mode::Cross, [2, 2, 2], (5, 8)).batch(&[0]);
    p = p.param("window_left", 2).fill(&mut Rng::new(1), false);
    p.inputs.remove(&Role::BIAS);
    for (lengths, words) in [(vec![5, 3], ["key_len[0]", "5"]), (vec![4, 3], ["cu_seqlens_k[2]", "8"])] {
        p.indices = vec![
            (Role::CU_SEQLENS, if words[1] == "5" { vec![0, 2, 5] } else { vec![0, 1, 5] }),
            (Role::CU_SEQLENS_K, if words[1] == "5" { vec![0, 4, 8] } else { vec![0, 5, 8] }),
            (Role::KEY_LEN, lengths),
        ];
        let error = problem::execute(&p.plan(&context()), p.mode, &p.inputs, &p.indices, &mut p.outputs());
        let error = error.expect_err("the call is refused").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
}

/// What belongs to a state, where there is none; and more keys than sums over the queries are kept of.
#[test]
fn refused_by_mechanisms() {
    let mut p = Problem::named("softmax").fill(&mut Rng::new(1), false);
    p.indices.push((Role::STATE_INDEX, vec![0, -1]));
    let error = problem::execute(&p.plan(&context()), p.mode, &p.inputs, &p.indices, &mut p.outputs());
    let error = error.expect_err("the call is refused").to_string();
    assert!(error.contains("state_index") && error.contains("no state"), "{error}");
    let mut p = Problem::named("dnas").sized([1, 1, 1], (1, 1), 1, 1 << 18 | 1);
    p.mode = Mode::Bidirectional;
    for role in [Role::Q, Role::K, Role::V] {
        let values = p.values(&mut Rng::new(1), role);
        p.inputs.insert(role, values);
    }
    let error = problem::execute(&p.plan(&context()), p.mode, &p.inputs, &p.indices, &mut p.outputs());
    let error = error.expect_err("the call is refused").to_string();
    assert!(["k.shape[2]", "262145", "262144"].iter().all(|word| error.contains(word)), "{error}");
}

/// Lengths are integers, one for each sequence.
#[test]
fn lengths_of_another_type() {
    let p = Problem::named("softmax").fill(&mut Rng::new(1), false);
    let plan = p.plan(&context());
    let mut out = vec![0f32; (2 * 2 * 37 * 20) as usize];
    let lengths = [37f32; 2];
    let mut args = Args::new();
    for role in [Role::Q, Role::K, Role::V] {
        let array = &p.inputs[&role];
        args = args.input(role, View::new(&array.data, &array.shape).unwrap());
    }
    args = args.input(Role::KEY_LEN, View::new(&lengths, &[2]).unwrap());
    args = args.output(Role::OUT, ViewMut::new(&mut out, &[2, 2, 37, 20]).unwrap());
    let error = plan.execute(Mode::Causal, &args, &mut problem::workspace(&plan)).unwrap_err().to_string();
    assert!(error.contains("key_len") && error.contains("i32"), "{error}");
}
