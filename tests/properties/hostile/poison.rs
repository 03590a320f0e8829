//! What is not finite stays where it is.

use super::*;

/// Where an input's element lies: batch entry, head (or channel of a convolution, which has none) and token, as far as
/// the role has such axes.
fn place(p: &Problem, role: Role, element: usize) -> [Option<usize>; 3] {
    let index = problem::index_of(element, &p.shape(role));
    let axis = |names: &[&str]| names.iter().find_map(|name| p.axis(role, name)).map(|axis| index[axis]);
    let heads: &[&str] =
        if p.mechanism.name == "causal_conv" { &["D"] } else { &["H", "Hk", "Hv", "Hs", "Ho"] };
    [axis(&["B"]), axis(heads), axis(&["T", "S"])]
}

/// A value that is not finite reaches nothing but its own head, from its own chunk on.
#[test]
fn poison_stays() {
    let mut reached = 0;
    for mechanism in mechanisms() {
        for params in problem::variants(mechanism) {
            let mut rng = Rng::new(seed());
            for mode in mechanism.modes {
                let t = if *mode == Mode::Step { 1 } else { 53 };
                let mut p = Problem::new(mechanism, params.clone()).sized([3, 3, 3], (17, 19), 2, t);
                (p.mode, p.shift) = (*mode, true);
                let p = p.fill(&mut rng, true);
                let plan = p.plan(&context());
                let clean = p.run_plan(&plan);
                let all_heads = p.word("normalize") == "srms_all";
                let roles: Vec<Role> = p.inputs.keys().copied().collect();
                for role in roles {
                    let poison = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
                    if poison == f32::NEG_INFINITY && matches!(role, Role::G | Role::GV | Role::SHIFT_IN) {
                        continue;
                    }
                    let mut p = p.clone();
                    let array = p.inputs.get_mut(&role).unwrap();
                    let element = rng.below(array.data.len());
                    array.data[element] = poison;
                    let [batch, head, token] = place(&p, role, element);
                    if head.is_none() {
                        continue; // Weights that all heads share.
                    }
                    let first = match (mode, token) {
                        (Mode::Causal, Some(token)) => token / 16 * 16,
                        _ => 0,
                    };
                    let got = p.run_plan(&plan);
                    for (own, want) in &clean {
                        for (i, (g, w)) in got[own].data.iter().zip(&want.data).enumerate() {
                            if g.to_bits() == w.to_bits() {
                                continue;
                            }
                            let [b, h, at] = place(&p, *own, i);
                            let mine = batch.is_none_or(|own| b == Some(own))
                                && (h == head || all_heads && *own == Role::OUT || p.joins_heads())
                                && at.is_none_or(|at| at >= first);
                            assert!(
                                mine,
                                "{poison} in {role}{:?} reached {own}{:?}: {p}",
                                problem::index_of(element, &p.shape(role)),
                                problem::index_of(i, &want.shape),
                            );
                            reached += usize::from(!g.is_finite());
                        }
                    }
                }
            }
        }
    }
    assert!(reached > 1000, "poison has no effect: the test sees nothing");
}

/// Columns of the state never mix: a value that is not finite stays in its column, without a norm of the output.
#[test]
fn poison_stays_in_its_column() {
    for mechanism in with_role(Role::V) {
        for (dims, mode) in [((17, 40), Mode::Causal), ((100, 150), Mode::Causal), ((17, 40), Mode::Step)] {
            let t = if mode == Mode::Step { 1 } else { 40 };
            let (mut rng, mut p) = filled(mechanism, [2, 2, 2], dims, t);
            p.mode = mode;
            let plan = p.plan(&context());
            let clean = p.run_plan(&plan);
            // Where E is D by definition, shapes are written with D.
            let values = if mechanism.role(Role::OUT).unwrap().shapes[0].ends_with('D') { "D" } else { "E" };
            let column = rng.below(dims.1 as usize);
            let role = rng.pick(&p.bound(&[Role::V, p.value_state()]));
            let role = if p.gates_by_values() { Role::STATE_IN } else { role };
            let array = p.inputs.get_mut(&role).unwrap();
            let rows = array.data.len() / dims.1 as usize;
            let at = rng.below(rows) * dims.1 as usize + column;
            array.data[at] = f32::NAN;
            let got = p.run_plan(&plan);
            let mut nans = 0;
            for (own, want) in &clean {
                for (i, (g, w)) in got[own].data.iter().zip(&want.data).enumerate() {
                    let other = i % dims.1 as usize != column || p.axes(*own).last() != Some(&values);
                    assert!(!other || g.to_bits() == w.to_bits(), "{role} column {column}, {own} {i}: {p}");
                    nans += usize::from(g.is_nan());
                }
            }
            assert!(nans > 0, "{p}");
        }
    }
}

/// Sequences that are packed side by side share chunks of the tensor, but nothing of each other.
#[test]
fn poison_stays_in_its_sequence() {
    for mechanism in mechanisms().into_iter().filter(|m| m.modes.contains(&Mode::Causal)) {
        let mut rng = Rng::new(seed());
        let mut p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (17, 19), 1, 37).fill(&mut rng, false);
        // Of each sequence, not of its tokens.
        for (role, array) in &mut p.inputs {
            if *role == Role::SCALE_BH {
                *array = array.pick(0, [0; 5]);
            }
        }
        let ends = [0, 5, 5, 21, 30, 37];
        p.indices.push((Role::CU_SEQLENS, ends.to_vec()));
        let plan = p.plan(&context());
        let states = ends.len() - 1;
        let run = |p: &Problem| {
            let mut outputs = p.outputs();
            for (_, array) in outputs.iter_mut().filter(|(role, _)| p.axis(**role, "T").is_none()) {
                *array = array.pick(0, vec![0; states]);
            }
            problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs).unwrap();
            outputs
        };
        let clean = run(&p);
        // The third sequence, tokens 5 to 20.
        let (bad, first, last) = (2, 5, 20);
        let roles: Vec<Role> =
            p.inputs.keys().copied().filter(|&role| place(&p, role, 0)[2].is_some()).collect();
        for role in roles {
            let mut p = p.clone();
            let shape = p.shape(role);
            let array = p.inputs.get_mut(&role).unwrap();
            for (i, x) in array.data.iter_mut().enumerate() {
                if (first..=last).contains(&problem::index_of(i, &shape)[2]) {
                    *x = f32::NAN;
                }
            }
            let got = run(&p);
            for (own, want) in &clean {
                for (i, (g, w)) in got[own].data.iter().zip(&want.data).enumerate() {
                    let index = problem::index_of(i, &want.shape);
                    let mine = match p.axis(*own, "T") {
                        Some(axis) => (first..=last).contains(&index[axis]),
                        None => index[0] == bad,
                    };
                    assert!(mine || g.to_bits() == w.to_bits(), "NaN in {role} reached {own}{index:?}: {p}");
                }
            }
            // Other roles may be overruled by one of their group.
            let read = matches!(role, Role::Q | Role::K | Role::V | Role::KV | Role::X);
            assert!(!read || got[&Role::OUT].data.iter().any(|x| x.is_nan()), "{role} of {p}");
        }
    }
}

/// A pass of products that overflow is infinite or NaN where it is, and elsewhere as before.
#[test]
fn overflow_stays() {
    for mechanism in attention() {
        let (_, mut p) = filled(mechanism, [2, 2, 2], (17, 19), 37);
        let plan = p.plan(&context());
        let clean = p.run_plan(&plan);
        for role in p.bound(&[Role::Q, Role::K, Role::V, Role::KV]) {
            let len = p.inputs[&role].data.len() / 2;
            // The second entry of the batch.
            p.inputs.get_mut(&role).unwrap().data[len..].iter_mut().for_each(|x| *x *= 1e37);
        }
        let got = p.run_plan(&plan);
        let first = |tensors: &Tensors| -> Tensors {
            tensors.iter().map(|(&role, array)| (role, array.pick(0, [0]))).collect()
        };
        assert_same_bits(&first(&got), &first(&clean), || format!("{p}"));
    }
}

/// Every input that is not finite at once: no panic, no hang, and the plan works on.
#[test]
fn garbage_everywhere() {
    for mechanism in mechanisms() {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (17, 19), 2, 37).fill(&mut rng, true);
        let plan = p.plan(&context());
        let clean = p.run_plan(&plan);
        for _ in 0..5 {
            let mut bad = p.clone();
            for (_, array) in bad.inputs.iter_mut() {
                let n = array.data.len();
                *array = Array { data: (0..n).map(|_| rng.hostile()).collect(), shape: array.shape.clone() };
            }
            bad.run_plan(&plan);
        }
        assert_same_bits(&p.run_plan(&plan), &clean, || format!("after garbage: {p}"));
        assert!(mechanism.roles.iter().any(|spec| spec.kind == RoleKind::Output));
    }
}
