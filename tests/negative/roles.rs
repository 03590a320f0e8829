//! Modes and roles.

use super::*;

#[test]
fn mode_not_planned() {
    let mut fixture = Fixture::named("gated_delta_rule");
    for mode in [Mode::Step, Mode::Cross, Mode::Draw] {
        fixture.refuse(Status::Unsupported, &["mode", mode.name(), "desc.modes"], |call| call.mode = mode);
    }
}

#[test]
fn wrong_roles() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let ones = [1f32; 64];
    fixture
        .refuse(Status::WrongRole, &["dt", "no such role"], |call| call.input(Role::DT, &ones, &[2, 4, 5]));
    fixture.refuse(Status::WrongRole, &["dq", "belongs to backward"], |call| {
        let bound = Bound { role: Role::Q.grad(), ..*call.get(Role::OUT) };
        call.bound.push(bound);
    });
    for role in [Role::Q, Role::K, Role::G, Role::BETA, Role::STATE_IN] {
        let word = role.to_string();
        fixture.refuse(Status::WrongRole, &[&word, "it is an input"], |call| call.get(role).out = true);
    }
    for role in [Role::OUT, Role::STATE_OUT] {
        let word = role.to_string();
        fixture.refuse(Status::WrongRole, &[&word, "it is an output"], |call| call.get(role).out = false);
    }
    fixture.refuse(Status::WrongRole, &["cu_seqlens", "it is an input"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
        call.get(Role::CU_SEQLENS).out = true;
    });
    for role in [Role::Q, Role::OUT, Role::STATE_OUT] {
        let word = role.to_string();
        fixture.refuse(Status::WrongRole, &[&word, "bound twice"], |call| {
            let again = *call.get(role);
            call.bound.push(again);
        });
    }
}

/// Roles that parameters rule out, or ask for.
#[test]
fn roles_by_parameters() {
    let ones = [1f32; 2048];
    let mut plain =
        Fixture::of(Problem::named("linear").param("normalize", "none").sized([2, 2, 2], (8, 6), 3, 5));
    plain.refuse(Status::WrongRole, &["z_in", "denominator"], |call| {
        call.input(Role::Z_IN, &ones, &[3, 2, 8])
    });
    plain.refuse(Status::WrongRole, &["shift_in", "exp"], |call| {
        call.input(Role::SHIFT_IN, &ones, &[3, 2, 8])
    });
    plain.refuse(Status::WrongRole, &["gate", "rms_gate"], |call| {
        call.input(Role::GATE, &ones, &[3, 2, 5, 6])
    });
    plain.refuse(Status::WrongRole, &["out_norm_weight", "norm"], |call| {
        call.input(Role::OUT_NORM_WEIGHT, &ones, &[6]);
    });
    let mut gated =
        Fixture::of(Problem::named("gla").param("normalize", "rms_gate").sized([2, 2, 2], (8, 6), 3, 5));
    gated.refuse(Status::MissingRole, &["gate", "rms_gate"], |call| call.remove(Role::GATE));
    let mut all =
        Fixture::of(Problem::named("gla").param("normalize", "srms_all").sized([2, 2, 2], (8, 6), 3, 5));
    all.refuse(Status::WrongShape, &["out_norm_weight.shape[0]", "is 6", "12"], |call| {
        call.remove(Role::OUT_NORM_WEIGHT);
        call.input(Role::OUT_NORM_WEIGHT, &ones, &[6]);
    });
}

/// Weights of feature maps: asked for by parameters, ruled out without them.
#[test]
fn roles_of_feature_maps() {
    let ones = [1f32; 2048];
    let sized = |p: Problem| Fixture::of(p.sized([2, 2, 2], (8, 6), 3, 5));
    let mut rfa = sized(Problem::named("rfa_gate"));
    rfa.refuse(Status::MissingRole, &["role w is missing"], |call| call.remove(Role::W));
    rfa.refuse(Status::WrongShape, &["w.shape[0]", "is 12", "11"], |call| {
        call.remove(Role::W);
        call.input(Role::W, &ones, &[12, 8]);
    });
    let mut plain = sized(Problem::named("rfa_gate").param("feature_map", "elu1"));
    for (role, shape) in [(Role::W, &[11, 8][..]), (Role::SIGMA, &[2, 8])] {
        let name = role.to_string();
        plain.refuse(Status::WrongRole, &[&name, "feature_map = rfa"], |call| call.input(role, &ones, shape));
    }
    let mut grouped = Fixture::of(Problem::named("rfa_gate").sized([4, 2, 2], (8, 6), 3, 5));
    grouped.refuse(Status::WrongRole, &["sigma", "heads_q", "heads_k"], |call| {
        call.input(Role::SIGMA, &ones, &[4, 8]);
    });

    let mut bare = sized(Problem::named("hedgehog"));
    bare.refuse(Status::WrongRole, &["w_q", "parameter F"], |call| call.input(Role::W_Q, &ones, &[2, 8, 8]));
    bare.refuse(Status::WrongRole, &["b_qk", "parameter F"], |call| call.input(Role::B_QK, &ones, &[8]));
    let mut split = sized(Problem::named("hedgehog").param("F", 9));
    split.refuse(Status::MissingRole, &["role w_k is missing"], |call| call.remove(Role::W_K));
    split.refuse(Status::WrongRole, &["w_qk", "concat"], |call| call.input(Role::W_QK, &ones, &[8, 9]));
    let mut concat = sized(Problem::named("hedgehog").param("F", 9).param("form", "concat"));
    concat.refuse(Status::MissingRole, &["role w_qk is missing"], |call| call.remove(Role::W_QK));
    concat.refuse(Status::WrongRole, &["b_q", "split"], |call| call.input(Role::B_Q, &ones, &[2, 9]));

    let mut gated = sized(Problem::named("feature_fixation"));
    let pair = [(Role::W_GATE_K, &[6, 18][..], Role::B_GATE_K), (Role::B_GATE_K, &[6], Role::W_GATE_K)];
    for (role, shape, other) in pair {
        let word = format!("role {other} is missing");
        gated.refuse(Status::MissingRole, &[&word, "comes with"], |call| {
            call.bound.retain(|bound| ![role, other].contains(&bound.role));
            call.input(role, &ones, shape);
        });
    }

    for mode in [Mode::Bidirectional, Mode::Cross] {
        let mut p = Problem::named("dijiang");
        p.mode = mode;
        sized(p).refuse(Status::WrongRole, &["decay", "order of tokens"], |call| {
            call.input(Role::DECAY, &ones, &[2]);
        });
    }
}

/// Positions of cosFormer stay within its period, those of each sequence of a packed call.
#[test]
fn positions_beyond_the_period() {
    for (mode, t, s) in [(Mode::Causal, 5, 5), (Mode::Cross, 3, 5), (Mode::Cross, 5, 3)] {
        let of = |period: f64| {
            let mut p = Problem::named("cosformer").param("period", period).param("position0", 3);
            p = p.sized([2, 2, 2], (8, 6), 1, t);
            (p.mode, p.s) = (mode, s);
            p
        };
        // The last position is 7.
        let problem = of(7.0).fill(&mut Rng::new(7), false);
        problem.run(&context());
        let short = Problem { params: of(6.5).params, ..problem };
        let refused =
            problem::execute(&short.plan(&context()), mode, &short.inputs, &[], &mut short.outputs());
        expect(&refused.unwrap_err(), Status::ParameterRange, &["period", "is 6.5", "at least 7"]);
    }
    let mut p = Problem::named("cosformer").param("period", 4.0).sized([1, 1, 1], (4, 4), 1, 7);
    p.indices.push((Role::CU_SEQLENS, vec![0, 4, 7]));
    p.inputs = p.clone().fill(&mut Rng::new(7), false).inputs;
    let outputs = |p: &Problem| Tensors::from([(Role::OUT, p.outputs()[&Role::OUT].clone())]);
    let plan = p.plan(&context());
    problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs(&p)).unwrap();
    p.indices[0].1[1] = 2;
    let refused = problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs(&p));
    expect(&refused.unwrap_err(), Status::ParameterRange, &["period", "is 4", "at least 5"]);
}

#[test]
fn missing_roles() {
    for mechanism in mechanisms() {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5);
        let mut fixture = Fixture::of(p);
        let specs = mechanism.roles.iter();
        for spec in specs.filter(|spec| spec.required || spec.role == Role::OUT) {
            let word = format!("role {} is missing", spec.role);
            fixture.refuse(Status::MissingRole, &[&word], |call| call.remove(spec.role));
        }
    }
}

/// What a gate takes depends on its form, and the rank of its other tensors on that of `x`.
#[test]
fn roles_of_gates() {
    let ones = [1f32; 512];
    let gate = |form: &str, alternative| {
        let p = Problem::named("gate").param("form", form).sized([2, 2, 2], (8, 6), 3, 5);
        // The fixture draws the alternative: take the first seed that gives this one.
        let drawn = |seed| Fixture::seeded(p.clone(), seed);
        (0..).map(drawn).find(|fixture| fixture.problem.alternative == alternative).unwrap()
    };
    for alternative in [0, 1] {
        for form in ["logsigmoid", "sigmoid"] {
            let mut fixture = gate(form, alternative);
            for role in [Role::A_LOG, Role::DT_BIAS] {
                let words = [&*role.to_string(), "softplus and lower_bound"];
                fixture.refuse(Status::WrongRole, &words, |call| call.input(role, &ones, &[2]));
            }
        }
        for form in ["softplus", "lower_bound"] {
            let mut fixture = gate(form, alternative);
            fixture.refuse(Status::MissingRole, &["a_log", "have a rate"], |call| call.remove(Role::A_LOG));
            let wrong = [&[2i64, 8][..], &[2]][alternative];
            let words = ["dt_bias", "rank", &*wrong.len().to_string(), &*(3 - wrong.len()).to_string()];
            fixture.refuse(Status::WrongShape, &words, |call| {
                call.remove(Role::DT_BIAS);
                call.input(Role::DT_BIAS, &ones, wrong);
            });
            fixture.refuse(Status::WrongRole, &["cu_seqlens", "transform"], |call| {
                call.index(Role::CU_SEQLENS, &[0, 5]);
            });
            fixture.refuse(Status::WrongRole, &["state_index", "transform"], |call| {
                call.index(Role::STATE_INDEX, &[0, 1, 2]);
            });
        }
    }
}

/// Mamba-2 needs a step size and a decay, each in one of its forms.
#[test]
fn missing_group() {
    let mut fixture = Fixture::of(Problem::named("mamba2").sized([2, 2, 4], (8, 6), 3, 5));
    let groups = [("dt", [Role::DT, Role::DT_RAW]), ("decay_rate", [Role::DECAY_RATE, Role::G])];
    for (word, roles) in groups {
        let word = format!("role {word} is missing");
        fixture.refuse(Status::MissingRole, &[&word, "another role of its group"], |call| {
            roles.into_iter().for_each(|role| call.remove(role));
        });
    }
}

/// A normaliser without its state, or the other way round, would be silently wrong.
#[test]
fn half_a_state() {
    let of_linear = [Role::STATE_IN, Role::Z_IN, Role::STATE_OUT, Role::Z_OUT];
    let of_slots = [Role::STATE_K_IN, Role::STATE_V_OUT, Role::LSE_IN, Role::LSE_OUT];
    let of_mean = [Role::STATE_IN, Role::COUNT_IN, Role::STATE_OUT, Role::COUNT_OUT];
    for (name, heads, parts) in
        [("linear", [4, 2, 2], of_linear), ("abc", [4, 2, 2], of_slots), ("lavo", [2, 2, 2], of_mean)]
    {
        let mut fixture = Fixture::of(Problem::named(name).sized(heads, (8, 6), 3, 5));
        for part in parts {
            let word = format!("role {part} is missing");
            fixture.refuse(Status::MissingRole, &[&word, "comes whole"], |call| call.remove(part));
        }
    }
}
