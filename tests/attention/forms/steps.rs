//! Single calls of a sequence in pieces: what they read, what they leave alone, what they refuse.

use crate::common::golden::Array;
use crate::common::problem::{context, workspace};
use crate::common::refusal::{CANARY, Call, expect};
use crate::common::support::{Rng, seed};
use std::collections::BTreeMap;
use subquad::{Args, Desc, Layout, Mode, Plan, Role, Status, View, ViewMut};

type Tensors = BTreeMap<Role, Array>;

const B: i64 = 2;
const H: i64 = 2;
const D: i64 = 4;
/// Three segments of keys, the last one short, and two queries in each.
const S: i64 = 11;
const BLOCK: usize = 4;

fn desc() -> Desc {
    let desc = Desc::new("srformer").heads(H, H, H).dims(D, D).modes(Mode::Step | Mode::Cross);
    desc.param("block", BLOCK as i64).param("gen_len", 6i64)
}

fn plan() -> Plan {
    Plan::new(&context(), &desc()).unwrap()
}

/// The state's shape, part by part.
fn state() -> [(Role, Role, Vec<i64>); 4] {
    let matrix = vec![B, H, D, D];
    [
        (Role::STATE_IN, Role::STATE_OUT, matrix.clone()),
        (Role::MEMORY_IN, Role::MEMORY_OUT, matrix.clone()),
        (Role::TOTAL_IN, Role::TOTAL_OUT, matrix),
        (Role::Z_IN, Role::Z_OUT, vec![B, H, D]),
    ]
}

/// Inputs of a call of `t` queries; the state is that of the keys, as if there had been queries.
fn inputs(t: i64) -> Tensors {
    let mut rng = Rng::new(seed());
    let mut array = |shape: &[i64]| {
        let data = rng.values(shape.iter().product::<i64>() as usize, 1.0);
        Array { shape: shape.to_vec(), data }
    };
    let mut all = Tensors::from([
        (Role::Q, array(&[B, H, t, D])),
        (Role::K, array(&[B, H, S, D])),
        (Role::V, array(&[B, H, S, D])),
        (Role::W_MEM, array(&[D, D])),
    ]);
    for (role, _, shape) in state() {
        all.insert(role, array(&shape));
    }
    let whole = without(&all, &[Role::STATE_IN, Role::MEMORY_IN, Role::TOTAL_IN, Role::Z_IN]);
    let made = run(&whole, Mode::Cross, &[0, 0]);
    for (role, role_out, _) in &state()[2..] {
        all.insert(*role, made[role_out].clone());
    }
    all
}

fn without(tensors: &Tensors, roles: &[Role]) -> Tensors {
    tensors.iter().filter(|(role, _)| !roles.contains(role)).map(|(&role, own)| (role, own.clone())).collect()
}

fn run(inputs: &Tensors, mode: Mode, starts: &[i32]) -> Tensors {
    let plan = plan();
    let nan = |shape: &[i64]| Array::filled(shape, f32::NAN);
    let mut outputs = Tensors::from([(Role::OUT, nan(&inputs[&Role::Q].shape))]);
    outputs.extend(state().map(|(_, role, shape)| (role, nan(&shape))));
    let mut args = Args::new().input(Role::QUERY_START, View::new(starts, &[starts.len() as i64]).unwrap());
    for (&role, array) in inputs {
        args = args.input(role, View::new(&array.data, &array.shape).unwrap());
    }
    for (&role, array) in &mut outputs {
        args = args.output(role, ViewMut::new(&mut array.data, &array.shape).unwrap());
    }
    plan.execute(mode, &args, &mut workspace(&plan)).unwrap();
    outputs
}

fn bits(array: &Array) -> Vec<u32> {
    array.data.iter().map(|x| x.to_bits()).collect()
}

/// NaN in place of the keys and values that are not of a segment.
fn hide(inputs: &mut Tensors, segment: usize) {
    for role in [Role::K, Role::V] {
        let array = inputs.get_mut(&role).unwrap();
        for (row, channels) in array.data.chunks_exact_mut(D as usize).enumerate() {
            if row % S as usize / BLOCK != segment {
                channels.fill(f32::NAN);
            }
        }
    }
}

fn spoil(inputs: &mut Tensors, roles: &[Role]) {
    roles.iter().for_each(|role| inputs.get_mut(role).unwrap().data.fill(f32::NAN));
}

/// Where its segment has been entered, a query reads the keys of this and the memory, and passes the state on.
#[test]
fn inside_a_segment() {
    let clean = inputs(1);
    for (start, segment) in [(1, 0), (3, 1), (5, 2), (900, 2)] {
        let want = run(&clean, Mode::Step, &[start; 2]);
        let mut spoilt = clean.clone();
        hide(&mut spoilt, segment);
        spoil(&mut spoilt, &[Role::STATE_IN, Role::TOTAL_IN, Role::Z_IN, Role::W_MEM]);
        let got = run(&spoilt, Mode::Step, &[start; 2]);
        assert_eq!(bits(&got[&Role::OUT]), bits(&want[&Role::OUT]), "query {start}");
        for (role, role_out, _) in state() {
            assert_eq!(bits(&want[&role_out]), bits(&clean[&role]), "{role_out}, query {start}");
            assert_eq!(bits(&got[&role_out]), bits(&spoilt[&role]), "{role_out}, query {start}");
        }
        spoil(&mut spoilt, &[Role::MEMORY_IN]);
        let got = run(&spoilt, Mode::Step, &[start; 2]);
        assert!(got[&Role::OUT].data.iter().all(|x| x.is_nan()), "the memory is read");
    }
}

/// A query that enters a segment reads keys of others only where their products are not carried, and the old memory never.
#[test]
fn into_a_segment() {
    let clean = inputs(1);
    for (start, segment) in [(2, 1), (4, 2)] {
        let want = run(&clean, Mode::Step, &[start; 2]);
        let mut spoilt = clean.clone();
        hide(&mut spoilt, segment);
        spoil(&mut spoilt, &[Role::MEMORY_IN]);
        let got = run(&spoilt, Mode::Step, &[start; 2]);
        assert!(want.iter().all(|(role, own)| bits(own) == bits(&got[role])), "query {start}");
        let again = without(&clean, &[Role::TOTAL_IN, Role::Z_IN]);
        let got = run(&again, Mode::Step, &[start; 2]);
        assert!(want.iter().all(|(role, own)| bits(own) == bits(&got[role])), "query {start}");
        let got = run(&without(&spoilt, &[Role::TOTAL_IN, Role::Z_IN]), Mode::Step, &[start; 2]);
        assert!(got[&Role::OUT].data.iter().all(|x| x.is_nan()), "query {start}");
    }
}

/// Nothing of a state is read before the first query; sequences stand where they stand.
#[test]
fn the_first_query() {
    let clean = inputs(1);
    let parts = state().map(|part| part.0);
    let (first, mixed) =
        (run(&without(&clean, &parts), Mode::Step, &[0; 2]), run(&clean, Mode::Step, &[0, 3]));
    let mut spoilt = clean.clone();
    spoil(&mut spoilt, &parts);
    let got = run(&spoilt, Mode::Step, &[0; 2]);
    assert!(first.iter().all(|(role, own)| bits(own) == bits(&got[role])));
    let other = run(&clean, Mode::Step, &[3; 2]);
    for (role, own) in &mixed {
        for (entry, alone) in [(0, &first), (1, &other)] {
            assert_eq!(bits(&own.pick(0, [entry])), bits(&alone[role].pick(0, [entry])), "{role} {entry}");
        }
    }
}

/// A call without queries passes the state on; before the first query that is nothing, and the products of the keys.
#[test]
fn no_queries() {
    let clean = inputs(0);
    let got = run(&clean, Mode::Cross, &[3, 0]);
    for (role, role_out, shape) in state() {
        let (made, want) = (&got[&role_out], &clean[&role]);
        assert_eq!(bits(&made.pick(0, [0])), bits(&want.pick(0, [0])), "{role_out}");
        let second = made.pick(0, [1]);
        match role {
            Role::STATE_IN | Role::MEMORY_IN => assert!(second.data.iter().all(|&x| x == 0.0)),
            _ => assert_eq!(bits(&second), bits(&want.pick(0, [1])), "{role_out} {shape:?}"),
        }
    }
}

/// Nor is anything left of what lay there, in place.
#[test]
fn no_queries_in_place() {
    let (plan, clean) = (plan(), inputs(0));
    let made = run(&clean, Mode::Cross, &[0, 0]);
    let mut parts = state().map(|part| Array::filled(&part.2, f32::NAN));
    let mut out: [f32; 0] = [];
    let mut args = Args::new().input(Role::QUERY_START, View::new(&[0, 0], &[2]).unwrap());
    for role in [Role::Q, Role::K, Role::V, Role::W_MEM] {
        args = args.input(role, View::new(&clean[&role].data, &clean[&role].shape).unwrap());
    }
    args = args.output(Role::OUT, ViewMut::new(&mut out, &[B, H, 0, D]).unwrap());
    for (own, (role, role_out, shape)) in parts.iter_mut().zip(state()) {
        args = args.in_place(role, role_out, ViewMut::new(&mut own.data, &shape).unwrap());
    }
    plan.execute(Mode::Cross, &args, &mut workspace(&plan)).unwrap();
    for (own, (_, role_out, _)) in parts.iter().zip(state()) {
        assert_eq!(bits(own), bits(&made[&role_out]), "{role_out}");
    }
}

/// A NaN in the state of a head stays in it.
#[test]
fn nan_of_a_head() {
    let clean = inputs(1);
    let per_head = |role: &Role| if *role == Role::OUT { D } else { clean[role].shape[2..].iter().product() };
    for start in [1, 2] {
        let want = run(&clean, Mode::Step, &[start; 2]);
        for (role, ..) in state() {
            let mut spoilt = clean.clone();
            let n = per_head(&role) as usize;
            spoilt.get_mut(&role).unwrap().data[2 * n..3 * n].fill(f32::NAN);
            for (out, own) in run(&spoilt, Mode::Step, &[start; 2]) {
                let n = own.data.len() / 4;
                for head in [0, 1, 3] {
                    let of = |array: &Array| array.data[head * n..(head + 1) * n].to_vec();
                    assert_eq!(of(&own), of(&want[&out]), "{role} reaches {out} of another head");
                }
            }
        }
    }
}

/// A call that binds everything, the second sequence further on.
fn call(mode: Mode, t: i64) -> Call {
    let mut call = Call { mode, bound: vec![], workspace: workspace(&plan()) };
    for (role, array) in inputs(t) {
        call.input(role, &array.data, &array.shape);
    }
    call.index(Role::QUERY_START, &[1, 4]);
    for (_, role, shape) in state() {
        call.bind(role, true, &Array::filled(&shape, CANARY).data, &shape);
    }
    call.bind(Role::OUT, true, &vec![CANARY; (B * H * t * D) as usize], &[B, H, t, D]);
    call
}

#[test]
fn refused() {
    let plan = plan();
    let refuse = |mut call: Call, status: Status, words: &[&str], f: &dyn Fn(&mut Call)| {
        call.run(|mode, args, memory| plan.execute(mode, args, memory)).expect("the call works");
        for bound in call.bound.iter().filter(|bound| bound.out) {
            let n = bound.layout.shape.iter().take(bound.layout.rank).product::<i64>() as usize;
            // SAFETY: memory of the fixture.
            unsafe { std::slice::from_raw_parts_mut(bound.data.cast::<f32>(), n) }.fill(CANARY);
        }
        let out: Vec<_> = call.bound.iter().filter(|bound| bound.out).copied().collect();
        f(&mut call);
        let error = call.run(|mode, args, memory| plan.execute(mode, args, memory));
        expect(&error.expect_err("the call is refused"), status, words);
        for bound in out {
            let n = bound.layout.shape.iter().take(bound.layout.rank).product::<i64>() as usize;
            // SAFETY: memory of the fixture.
            let data = unsafe { std::slice::from_raw_parts(bound.data.cast::<f32>(), n) };
            assert!(data.iter().all(|&x| x == CANARY), "{} was written: {words:?}", bound.role);
        }
    };
    use Status::{InvalidArgument, MissingRole, Overlap, WrongDType, WrongRole, WrongShape};
    let step = || call(Mode::Step, 1);
    let cross = || call(Mode::Cross, 3);
    let remove =
        |roles: &'static [Role]| move |call: &mut Call| roles.iter().for_each(|&role| call.remove(role));
    let start = |values: &'static [i32]| {
        move |call: &mut Call| {
            call.remove(Role::QUERY_START);
            call.index(Role::QUERY_START, values);
        }
    };
    refuse(step(), InvalidArgument, &["query_start[1] is -1", "number of a query"], &start(&[0, -1]));
    refuse(step(), WrongShape, &["query_start.shape[0] is 3", "2"], &start(&[1, 1, 1]));
    refuse(step(), WrongDType, &["query_start", "f32", "i32"], &|call| {
        call.get(Role::QUERY_START).dtype = subquad::DType::F32;
    });
    refuse(step(), WrongRole, &["query_start", "input"], &|call| call.get(Role::QUERY_START).out = true);
    refuse(step(), MissingRole, &["query_start", "a step"], &remove(&[Role::QUERY_START]));
    refuse(cross(), MissingRole, &["query_start", "state"], &remove(&[Role::QUERY_START]));
    for (one, other) in [
        (Role::STATE_IN, Role::MEMORY_IN),
        (Role::TOTAL_IN, Role::Z_IN),
        (Role::STATE_OUT, Role::MEMORY_OUT),
        (Role::TOTAL_OUT, Role::Z_OUT),
    ] {
        for role in [one, other] {
            for call in [step(), cross()] {
                let words = [&*role.to_string(), "another part"];
                refuse(call, MissingRole, &words, &|call| call.remove(role));
            }
        }
    }
    let both = [Role::STATE_IN, Role::MEMORY_IN];
    refuse(step(), MissingRole, &["state_in", "query_start is not 0"], &|call| {
        both.iter().for_each(|&role| call.remove(role));
    });
    for (role, ..) in state() {
        let words = [&*format!("{role}.shape[2] is 3"), "4"];
        refuse(step(), WrongShape, &words, &|call| call.get(role).layout.shape[2] = 3);
        let words = [&*role.to_string(), "rank 1"];
        refuse(step(), WrongShape, &words, &|call| call.get(role).layout = Layout::contiguous(&[4]).unwrap());
    }
    refuse(step(), WrongShape, &["q.shape[2] is 3", "a step"], &|call| {
        let long = cross();
        call.bound.retain(|bound| ![Role::Q, Role::OUT].contains(&bound.role));
        call.bound.extend(long.bound.iter().filter(|bound| [Role::Q, Role::OUT].contains(&bound.role)));
    });
    refuse(step(), Overlap, &["memory_out", "state_in"], &|call| {
        call.get(Role::MEMORY_OUT).data = call.get(Role::STATE_IN).data;
    });
    refuse(step(), Overlap, &["total_out", "total_in"], &|call| {
        call.get(Role::TOTAL_OUT).data = call.get(Role::TOTAL_IN).data.wrapping_add(4);
    });
    // What may be left out.
    for roles in [
        &[Role::TOTAL_IN, Role::Z_IN][..],
        &[Role::TOTAL_OUT, Role::Z_OUT],
        &[Role::STATE_OUT, Role::MEMORY_OUT, Role::TOTAL_OUT, Role::Z_OUT],
    ] {
        let mut call = step();
        remove_all(&mut call, roles);
        call.run(|mode, args, memory| plan.execute(mode, args, memory)).unwrap();
    }
    let mut whole = cross();
    remove_all(&mut whole, &state().map(|part| part.0));
    remove_all(&mut whole, &[Role::QUERY_START, Role::MEMORY_OUT]);
    whole.run(|mode, args, memory| plan.execute(mode, args, memory)).unwrap();
}

fn remove_all(call: &mut Call, roles: &[Role]) {
    roles.iter().for_each(|&role| call.remove(role));
}

/// Without its length a sequence has no pieces; without norms nothing is divided by them; gradients are of a whole.
#[test]
fn refused_by_the_plan() {
    let run = |plan: &Plan, mut call: Call| {
        call.workspace = workspace(plan);
        call.run(|mode, args, memory| plan.execute(mode, args, memory)).unwrap_err()
    };
    let short = Desc::new("srformer").heads(H, H, H).dims(D, D).modes(Mode::Cross).param("block", 4i64);
    let plan = Plan::new(&context(), &short).unwrap();
    assert!(plan.state_layout().components.is_empty());
    for role in state().iter().flat_map(|part| [part.0, part.1]).chain([Role::QUERY_START]) {
        let mut call = call(Mode::Cross, 3);
        let inputs = [Role::Q, Role::K, Role::V, Role::W_MEM, Role::OUT, role];
        call.bound.retain(|bound| inputs.contains(&bound.role));
        if role != Role::STATE_OUT {
            expect(&run(&plan, call), Status::WrongRole, &[&role.to_string(), "gen_len is not given"]);
        }
    }
    let plan = Plan::new(&context(), &desc().param("normalize", "none")).unwrap();
    assert_eq!(plan.state_layout().components.len(), 3);
    for role in [Role::Z_IN, Role::Z_OUT] {
        let mut call = call(Mode::Step, 1);
        call.bound.retain(|bound| bound.role == role || ![Role::Z_IN, Role::Z_OUT].contains(&bound.role));
        expect(&run(&plan, call), Status::WrongRole, &[&role.to_string(), "key_norm"]);
    }
    let plan = self::plan();
    let mut memory = vec![0; plan.backward_workspace_size(2, 3, S as usize).unwrap()];
    for role in state().iter().map(|part| part.0).chain([Role::QUERY_START]) {
        let mut call = call(Mode::Cross, 3);
        call.bound.retain(|bound| [Role::Q, Role::K, Role::V, Role::W_MEM, role].contains(&bound.role));
        call.input(Role::OUT.grad(), &[0.5f32; 48], &[B, H, 3, D]);
        let error = call.run(|mode, args, _| plan.backward(mode, args, &mut memory)).unwrap_err();
        expect(&error, Status::WrongRole, &[&role.to_string(), "one call"]);
    }
}
