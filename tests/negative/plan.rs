//! What planning refuses, and contexts, runners and views: the message names the argument, what was given and what is
//! expected.

use crate::common::problem::{self, Problem, assert_same_bits, context, mechanisms};
use crate::common::refusal::expect;
use crate::common::support::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use subquad::catalog::{self, Default, ParamKind, Range};
use subquad::{
    Args, Context, ContextOptions, DType, Desc, Error, Isa, Mode, Modes, Plan, Runner, Status, ThreadPool,
    Value, View, ViewMut,
};

#[track_caller]
fn refuse_plan(desc: Desc, status: Status, words: &[&str]) {
    let error = Plan::new(&context(), &desc).expect_err("the plan is refused");
    expect(&error, status, words);
}

#[test]
fn mechanisms_of_the_catalogue() {
    refuse_plan(Desc::new("gated_delta"), Status::UnknownMechanism, &["`gated_delta`"]);
    refuse_plan(Desc::new(""), Status::UnknownMechanism, &["``"]);
    let built: Vec<&str> = subquad::mechanisms().collect();
    let all = catalog::MECHANISMS.iter().flat_map(|page| page.iter());
    let missing: Vec<_> = all.filter(|mechanism| !built.contains(&mechanism.name)).collect();
    assert!(!missing.is_empty());
    for mechanism in missing {
        refuse_plan(Desc::new(mechanism.name), Status::Unsupported, &[mechanism.name, "not in this version"]);
    }
}

#[test]
fn modes() {
    refuse_plan(
        Desc::new("gla").modes(Modes::NONE),
        Status::InvalidArgument,
        &["desc.modes", "is 0", "non-empty"],
    );
    let unknown = Modes::from_bits(1 | 1 << 20);
    refuse_plan(Desc::new("gla").modes(unknown), Status::InvalidArgument, &["desc.modes", "1048577"]);
    for mechanism in mechanisms() {
        for mode in Mode::ALL.into_iter().filter(|mode| !mechanism.modes.contains(mode)) {
            let reason = mechanism.refused.iter().find(|(own, _)| *own == mode);
            let why = reason.map_or("no such mode", |(_, why)| why);
            let words = [mechanism.name, mode.name(), why];
            refuse_plan(Desc::new(mechanism.name).modes(mode), Status::Unsupported, &words);
            let both = Desc::new(mechanism.name).modes(mechanism.modes[0] | mode);
            refuse_plan(both, Status::Unsupported, &words);
        }
    }
}

/// A mode that the mechanism has, and nothing else.
fn plain(mechanism: &catalog::Mechanism) -> Desc {
    Desc::new(mechanism.name).modes(mechanism.modes[0])
}

/// The same with every parameter that has no default, but for one.
fn all_but(mechanism: &catalog::Mechanism, name: &str) -> Desc {
    let needed = mechanism.params.iter().filter(|param| param.default == Default::Required);
    let others = needed.filter(|param| param.name != name);
    others.fold(plain(mechanism), |desc, param| desc.param(param.name, problem::required(param.name)))
}

#[test]
fn parameters() {
    let ok = Plan::new(&context(), &Desc::new("linear").param("den_eps", 0.0));
    assert!(ok.is_ok(), "the smallest value is in range");
    for mechanism in mechanisms() {
        let name = mechanism.name;
        let unknown = plain(mechanism).param("chunk_size", 3);
        refuse_plan(unknown, Status::UnknownParameter, &[name, "`chunk_size`"]);
        for param in mechanism.params {
            let given = |value: Value| all_but(mechanism, param.name).param(param.name, value);
            let range = |value: Value, words: &[&str]| {
                let words: Vec<&str> = [param.name].iter().chain(words).copied().collect();
                refuse_plan(given(value), Status::ParameterRange, &words);
            };
            let fine: Value = match param.default {
                Default::Bool(x) => x.into(),
                Default::Word(x) => x.into(),
                Default::Reals(x) => x.to_vec().into(),
                Default::Required => problem::required(param.name),
                Default::Int(x) => x.into(),
                _ => Value::Real(1.0),
            };
            range_twice(mechanism, param.name, &fine);
            match param.kind {
                ParamKind::Word => {
                    range("no_word".into(), &["`no_word`", "one of"]);
                    range("".into(), &["``", "one of"]);
                    range(Value::Int(1), &["is 1", "a word"]);
                }
                ParamKind::Bool => {
                    range(Value::Int(2), &["is 2", "0 or 1"]);
                    range("true".into(), &["`true`", "0 or 1"]);
                }
                ParamKind::Real => {
                    range("big".into(), &["`big`", "a real number"]);
                    range(vec![1.0].into(), &["[1.0]", "a real number"]);
                    range(f64::NAN.into(), &["NaN", "finite"]);
                    range(f64::INFINITY.into(), &["inf", "finite"]);
                    if matches!(param.range, Range::Above(_) | Range::AtLeast(_)) {
                        range(Value::Real(-0.5), &["-0.5"]);
                    }
                    if let Range::Above(low) = param.range {
                        range(Value::Real(low), &[&format!("is {low}"), "> "]);
                    }
                }
                ParamKind::Int => {
                    range(Value::Real(1.5), &["is 1.5", "an integer"]);
                    range("four".into(), &["`four`", "an integer"]);
                    if let Range::Between(low, high) = param.range {
                        for bad in [low as i64 - 1, high as i64 + 1, i64::MIN, i64::MAX] {
                            range(Value::Int(bad), &[&format!("is {bad}"), &format!("{low} to {high}")]);
                        }
                    } else if let Range::AtLeast(low) = param.range {
                        let below = low as i64 - 1;
                        range(Value::Int(below), &[&format!("is {below}"), "at least"]);
                    } else {
                        range(Value::Int(-1), &["is -1"]);
                        range(Value::Int(0), &["is 0"]);
                    }
                }
                ParamKind::Reals => {
                    range(vec![1.0].into(), &["[1.0]", "2 numbers"]);
                    range(vec![1.0, f64::NAN].into(), &["NaN", "finite"]);
                    range(Value::Real(1.0), &["is 1", "a list of reals"]);
                }
                other => panic!("a new kind of parameter: {other:?}"),
            }
        }
    }
    let coef = Desc::new("linear1p").param("coef", vec![1.0, -0.5]);
    refuse_plan(coef, Status::ParameterRange, &["coef", "-0.5", "≥ 0"]);
    for mechanism in mechanisms() {
        for param in mechanism.params.iter().filter(|param| param.default == Default::Required) {
            let words = [param.name, "not given", "no default"];
            refuse_plan(all_but(mechanism, param.name), Status::ParameterRange, &words);
        }
    }
    for bound in [0.0, 1.0, -5.5] {
        let desc = Desc::new("gate").modes(Mode::Transform).param("form", "lower_bound");
        let words = ["lower_bound", &*format!("is {bound}"), "at least -5 and below 0"];
        refuse_plan(desc.param("lower_bound", bound), Status::ParameterRange, &words);
    }
}

#[track_caller]
fn range_twice(mechanism: &catalog::Mechanism, name: &str, value: &Value) {
    let twice = plain(mechanism).param(name, value.clone()).param(name, value.clone());
    refuse_plan(twice, Status::ParameterRange, &[name, "twice", "one value"]);
}

/// The features of `exp` are safe only under a denominator.
#[test]
fn exp_without_denominator() {
    let plain = Desc::new("linear").feature_map("exp").normalize("none");
    refuse_plan(plain, Status::ParameterRange, &["normalize", "none", "denominator"]);
    for name in ["retention", "lightning"] {
        refuse_plan(
            Desc::new(name).feature_map("exp"),
            Status::ParameterRange,
            &["feature_map", "exp", "denominator"],
        );
    }
}

#[test]
fn sizes() {
    let desc = || Desc::new("gated_delta_rule");
    for bad in [0, -1, i64::MIN, (1 << 20) + 1, i64::MAX] {
        let given = format!("is {bad}");
        let words = |what| [what, &*given, "1 to 1048576"];
        refuse_plan(desc().heads(bad, 1, 1), Status::InvalidArgument, &words("desc.heads_q"));
        refuse_plan(desc().heads(1, bad, 1), Status::InvalidArgument, &words("desc.heads_k"));
        refuse_plan(desc().heads(1, 1, bad), Status::InvalidArgument, &words("desc.heads_v"));
        refuse_plan(desc().dims(bad, 1), Status::InvalidArgument, &words("desc.dim_qk"));
        refuse_plan(desc().dims(1, bad), Status::InvalidArgument, &words("desc.dim_v"));
    }
    let no_multiple = |q, k, v, words: &[&str]| {
        refuse_plan(desc().heads(q, k, v), Status::InvalidArgument, words);
    };
    no_multiple(3, 2, 2, &["desc.heads_q", "is 3", "desc.heads_k"]);
    no_multiple(2, 2, 3, &["desc.heads_v", "is 3", "desc.heads_k"]);
    no_multiple(4, 2, 6, &["desc.heads_q", "is 4", "max(heads_k, heads_v)"]);
    let own = |name: &str, q, k, v, words: &[&str]| {
        refuse_plan(Desc::new(name).heads(q, k, v), Status::InvalidArgument, words);
    };
    own("mamba2", 4, 2, 2, &["desc.heads_q", "is 4", "equal to desc.heads_k"]);
    own("mamba2", 4, 4, 2, &["desc.heads_v", "is 2", "at least desc.heads_k"]);
    own("linear1p", 2, 2, 4, &["desc.heads_v", "is 4", "equal to desc.heads_k"]);
    let slots = |name: &str, q, k, v, words: &[&str]| {
        refuse_plan(Desc::new(name).param("M", 4).heads(q, k, v), Status::InvalidArgument, words);
    };
    slots("gsa", 2, 2, 4, &["desc.heads_v", "is 4", "equal to desc.heads_k"]);
    slots("abc", 2, 4, 4, &["desc.heads_q", "is 2", "at least desc.heads_k"]);
    slots("lavo", 4, 2, 2, &["desc.heads_k", "is 2", "equal to desc.heads_q"]);
    slots("lavo", 4, 4, 2, &["desc.heads_v", "is 2", "equal to desc.heads_q"]);
}

/// Where neither heads nor dimensions give a size, the description names it.
#[test]
fn sizes_by_name() {
    for (name, meaning) in [("gsa", "slots"), ("abc", "slots"), ("lavo", "rows of the basis")] {
        refuse_plan(Desc::new(name), Status::ParameterRange, &["M", "not given", meaning]);
        for bad in [0, -3, (1 << 20) + 1] {
            let given = format!("is {bad}");
            refuse_plan(Desc::new(name).param("M", bad), Status::ParameterRange, &["M", &given, "extent"]);
        }
        refuse_plan(Desc::new(name).param("M", 4).param("P", 4), Status::UnknownParameter, &[name, "`P`"]);
        range_twice(catalog::find(name).unwrap(), "M", &Value::Int(4));
    }
}

#[test]
fn types_of_a_plan() {
    let desc = Desc::new("gla");
    let tokens = |dtype: DType, words: &[&str]| {
        refuse_plan(
            Desc { dtype_qkv: dtype, ..desc.clone() },
            Status::Unsupported,
            &[&["dtype_qkv"], words].concat(),
        );
        refuse_plan(
            Desc { dtype_out: dtype, ..desc.clone() },
            Status::Unsupported,
            &[&["dtype_out"], words].concat(),
        );
    };
    tokens(DType::I32, &["i32", "f32, bf16 or f16"]);
    for dtype in [DType::F16, DType::I32] {
        let words = ["dtype_state", dtype.name(), "f32 or bf16"];
        refuse_plan(Desc { dtype_state: dtype, ..desc.clone() }, Status::Unsupported, &words);
    }
}

/// The description with one type that is not `f32`, and the name of that type.
fn other_types(desc: &Desc) -> [(&'static str, Desc); 3] {
    let dtype = DType::Bf16;
    [
        ("dtype_qkv", Desc { dtype_qkv: dtype, ..desc.clone() }),
        ("dtype_out", Desc { dtype_out: dtype, ..desc.clone() }),
        ("dtype_state", Desc { dtype_state: dtype, ..desc.clone() }),
    ]
}

#[test]
fn summaries_of_other_types() {
    let p = Problem::named("gla").sized([2, 2, 2], (8, 6), 1, 5).fill(&mut Rng::new(7), false);
    let wide = p.plan(&context());
    assert!(wide.has_gradient(p.mode));
    let mut memory = vec![0; wide.segment_workspace_size().unwrap()];
    for (what, desc) in other_types(&p.desc()) {
        let plan = Plan::new(&context(), &desc).unwrap();
        // Gradients are no such thing: `tests/type_gradients.rs`.
        assert!(plan.has_gradient(p.mode) && plan.info().gradient_modes == wide.info().gradient_modes);
        let words = ["gla", what, "bf16", "f32 tensors only"];
        expect(&plan.segment_workspace_size().unwrap_err(), Status::Unsupported, &words);
        expect(&plan.summarise(&Args::new(), &mut memory).unwrap_err(), Status::Unsupported, &words);
        expect(&plan.combine(&Args::new(), &mut memory).unwrap_err(), Status::Unsupported, &words);
    }
}

/// The largest sizes either plan or say that they don't fit; they never wrap around.
#[test]
fn largest_sizes() {
    let n = 1 << 20;
    for (heads, dims) in [((n, n, n), (n, n)), ((n, 1, 1), (n, n)), ((1, n, n), (n, n)), ((1, 1, 1), (n, n))]
    {
        for mechanism in ["linear", "gated_delta_rule", "gla"] {
            let desc = Desc::new(mechanism).heads(heads.0, heads.1, heads.2).dims(dims.0, dims.1);
            match Plan::new(&context(), &desc) {
                Ok(plan) => {
                    let state = heads.1.max(heads.2) as u128 * dims.0 as u128 * dims.1 as u128 * 4;
                    assert!(plan.state_layout().size_bytes as u128 >= state, "the state's size wrapped");
                    assert!(plan.workspace_size() as u128 >= dims.0 as u128 * dims.1 as u128 * 4);
                }
                Err(error) => expect(&error, Status::Unsupported, &["not supported"]),
            }
        }
    }
}

/// Parameters of feature maps that have no sense together, or with these heads and dimensions.
#[test]
fn plans_of_feature_maps() {
    let range = Status::ParameterRange;
    refuse_plan(Desc::new("rfa_gate"), range, &["P", "not given", "rows of w"]);
    let spare = Desc::new("rfa_gate").feature_map("elu1").param("P", 4);
    refuse_plan(spare, range, &["P", "is 4", "feature_map = rfa"]);
    refuse_plan(Desc::new("dijiang").feature_map("exp"), range, &["normalize", "none", "denominator"]);
    refuse_plan(Desc::new("cosformer"), range, &["period", "not given", "no default"]);
    let late = Desc::new("cosformer").param("period", 9.0).param("position0", 10);
    refuse_plan(late, range, &["period", "is 9", "position0 = 10"]);
    refuse_plan(Desc::new("lln").param("x_scale_q", 1.0), range, &["x_scale_k", "not given"]);
    refuse_plan(Desc::new("dpfp").param("nu", 1i64 << 40), range, &["nu", "at most"]);
    refuse_plan(Desc::new("focused").param("degree", 1i64 << 40), range, &["degree", "at most"]);
    let argument = Status::InvalidArgument;
    refuse_plan(Desc::new("focused").heads(4, 2, 2), argument, &["heads_q", "is 4", "temperature"]);
    refuse_plan(Desc::new("feature_fixation").dims(8, 6), argument, &["dim_v", "is 6", "dim_qk"]);
    let wide = Desc::new("dijiang").dims(5000, 8);
    refuse_plan(wide, Status::Unsupported, &["cosine transform", "5000", "4096"]);
    let other = Desc::new("hedgehog").param("F", 9).param("M", 17);
    refuse_plan(other, range, &["M", "is 17", "18"]);
}

struct Broken {
    workers: usize,
    /// Skip the last task, once.
    once: AtomicBool,
    task_twice: bool,
    worker: usize,
}

impl Runner for Broken {
    fn max_workers(&self) -> usize {
        self.workers
    }
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let broken = self.once.swap(false, SeqCst);
        for i in 0..if broken { n_tasks - 1 } else { n_tasks } {
            task(i, 0);
        }
        if broken && self.task_twice {
            task(0, 0);
            task(0, 0);
        } else if broken && self.worker > 0 {
            task(n_tasks - 1, self.worker);
        }
    }
}

#[test]
fn contexts() {
    for (isa, what) in Isa::ALL.into_iter().filter(|isa| !isa.available()).map(|isa| (isa, isa.name())) {
        let error = Context::new(ContextOptions::new().max_isa(isa)).unwrap_err();
        expect(&error, Status::Unsupported, &[what, "this machine"]);
    }
    for workers in [0, 1025] {
        let runner = Broken { workers, once: false.into(), task_twice: false, worker: 0 };
        let error = Context::new(ContextOptions::new().runner(Arc::new(runner))).unwrap_err();
        expect(&error, Status::InvalidArgument, &["max_workers", &workers.to_string(), "1 to 1024"]);
        let error = ThreadPool::new(workers).err().unwrap();
        expect(&error, Status::InvalidArgument, &["n_threads", &workers.to_string(), "1 to 1024"]);
    }
}

/// A runner that forgets a task, runs one twice, or makes up a worker is found out; the next call works.
#[test]
fn runners() {
    for (task_twice, worker) in [(false, 0), (true, 0), (false, 5)] {
        let runner = Broken { workers: 2, once: true.into(), task_twice, worker };
        let context = Context::new(ContextOptions::new().runner(Arc::new(runner))).unwrap();
        let p = Problem::named("gated_delta_rule").fill(&mut Rng::new(1), true);
        let plan = p.plan(&context);
        let error = problem::execute(&plan, p.mode, &p.inputs, &[], &mut p.outputs()).unwrap_err();
        expect(&error, Status::Internal, &["runner", "every task once"]);
        assert_same_bits(&p.run_plan(&plan), &p.run(&problem::context()), || "after a broken run".into());
    }
}

#[test]
fn views() {
    let mut data = [0f32; 12];
    let shape =
        |error: Result<View<'_>, Error>, words: &[&str], status| expect(&error.unwrap_err(), status, words);
    shape(View::new(&data, &[3, 5]), &["input slice", "12", "15"], Status::WrongShape);
    shape(View::strided(&data, &[3, 4], &[5, 1]), &["input slice", "12", "14"], Status::WrongShape);
    shape(View::strided(&data, &[2], &[-1]), &["input slice"], Status::WrongShape);
    shape(View::new(&data, &[1; 6]), &["rank", "6", "at most 5"], Status::InvalidArgument);
    shape(View::strided(&data, &[2, 2], &[1]), &["rank", "as many strides"], Status::InvalidArgument);
    shape(View::new(&data, &[-2]), &["extent", "-2", "0 or more"], Status::InvalidArgument);
    let huge = [i64::MAX, i64::MAX];
    shape(View::new(&data, &huge), &["extent * stride", "2^60"], Status::InvalidArgument);
    shape(View::strided(&data, &[3], &[i64::MAX]), &["extent * stride"], Status::InvalidArgument);
    let error = ViewMut::new(&mut data, &[13]).unwrap_err();
    expect(&error, Status::WrongShape, &["output slice", "12", "13"]);
    assert!(View::new(&data, &[0, i64::MAX]).is_ok(), "there is no element");
}
