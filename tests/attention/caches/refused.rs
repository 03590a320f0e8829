//! Wrong calls.

use super::*;

/// A step with a batch of 2, 2 query heads to a key head, 3 pages of 4 rows for each.
fn call(mode: Mode, t: i64) -> (Plan, Call) {
    let p = Problem::named("softmax").sized([2, 1, 1], (4, 3), 2, t);
    let plan = Plan::new(&context(), &p.desc().modes(Mode::Step | Mode::Causal | Mode::Cross)).unwrap();
    let mut call = Call { mode, bound: vec![], workspace: problem::workspace(&plan) };
    call.input(Role::Q, &[0.5f32; 160], &[2, 2, t, 4]);
    call.input(Role::K, &[0.5f32; 5 * 16], &[5, 1, 4, 4]);
    call.input(Role::V, &[0.5f32; 5 * 12], &[5, 1, 4, 3]);
    call.index(Role::KEY_LEN, &[12, 5]);
    call.input(Role::PAGE_TABLE, &[0i32, 4, 2, 1, 3, -1], &[2, 3]);
    call.bind(Role::OUT, true, &[CANARY; 120], &[2, 2, t, 3]);
    (plan, call)
}

/// The same with rings of 4 rows.
fn ring(mode: Mode, t: i64) -> (Plan, Call) {
    let (plan, mut bound) = call(mode, t);
    for (role, e) in [(Role::K, 4), (Role::V, 3)] {
        bound.get(role).layout = subquad::Layout::contiguous(&[2, 1, 4, e]).unwrap();
    }
    bound.remove(Role::PAGE_TABLE);
    bound.remove(Role::KEY_LEN);
    bound.index(Role::KEY_START, &[0, 3]);
    (plan, bound)
}

#[test]
fn refused() {
    let refuse = |(plan, mut call): (Plan, Call), status: Status, words: &[&str], f: &dyn Fn(&mut Call)| {
        let works = call.run(|mode, args, memory| plan.execute(mode, args, memory));
        works.expect("the call works");
        let out = *call.get(Role::OUT);
        let n = out.layout.shape.iter().product::<i64>() as usize;
        // SAFETY: memory of the fixture.
        let out = unsafe { std::slice::from_raw_parts_mut(out.data.cast::<f32>(), n) };
        assert!(!out.contains(&CANARY));
        out.fill(CANARY);
        f(&mut call);
        let error = call.run(|mode, args, memory| plan.execute(mode, args, memory));
        expect(&error.expect_err("the call is refused"), status, words);
        assert!(out.iter().all(|&x| x == CANARY), "the output was written: {words:?}");
    };
    let (pages, rings) = (|| call(Mode::Step, 1), || ring(Mode::Step, 1));
    let table = |values: &'static [i32], shape: &'static [i64]| {
        move |call: &mut Call| {
            call.remove(Role::PAGE_TABLE);
            call.input(Role::PAGE_TABLE, values, shape);
        }
    };
    let lengths = |values: [i32; 2]| {
        move |call: &mut Call| {
            call.remove(Role::KEY_LEN);
            call.index(Role::KEY_LEN, &values);
        }
    };
    let start = |values: &'static [i32]| {
        move |call: &mut Call| {
            call.remove(Role::KEY_START);
            call.index(Role::KEY_START, values);
        }
    };
    use Status::{InvalidArgument, MissingRole, WrongDType, WrongRole, WrongShape};
    refuse(
        pages(),
        InvalidArgument,
        &["page_table[4] is 5", "no page"],
        &table(&[0, 4, 2, 1, 5, -1], &[2, 3]),
    );
    refuse(pages(), InvalidArgument, &["page_table[2] is -1", "page"], &table(&[0, 4, -1, 1, 3, 0], &[2, 3]));
    refuse(pages(), InvalidArgument, &["key_len[0] is 13", "pages"], &lengths([13, 5]));
    refuse(pages(), InvalidArgument, &["key_len[1] is -1", "pages"], &lengths([12, -1]));
    refuse(pages(), WrongShape, &["page_table", "rank 1", "2"], &table(&[0, 4], &[2]));
    refuse(pages(), WrongShape, &["page_table.shape[0]", "is 3", "2"], &table(&[0; 9], &[3, 3]));
    refuse(pages(), WrongDType, &["page_table", "f32", "i32"], &|call| {
        call.get(Role::PAGE_TABLE).dtype = subquad::DType::F32;
    });
    refuse(pages(), WrongRole, &["page_table", "input"], &|call| call.get(Role::PAGE_TABLE).out = true);
    refuse(pages(), MissingRole, &["key_len", "page_table"], &|call| call.remove(Role::KEY_LEN));
    refuse(pages(), WrongShape, &["v.shape[0]", "is 4", "pages of k is 5"], &|call| {
        call.get(Role::V).layout.shape[0] = 4;
    });
    refuse(pages(), WrongShape, &["v.shape[2]", "is 3", "page of k is 4"], &|call| {
        call.get(Role::V).layout.shape[2] = 3;
    });
    refuse(pages(), WrongShape, &["k", "rank 3", "4"], &|call| call.get(Role::K).layout.rank = 3);
    refuse(pages(), WrongShape, &["bias.shape[3]", "is 4", "12"], &|call| {
        call.input(Role::BIAS, &[0f32; 4], &[1, 1, 1, 4]);
    });
    refuse(pages(), WrongRole, &["key_start", "page_table"], &|call| call.index(Role::KEY_START, &[0, 0]));
    refuse(pages(), WrongRole, &["page_table", "causal and step"], &|call| call.mode = Mode::Cross);
    refuse(call(Mode::Causal, 5), InvalidArgument, &["key_len[1] is 4", "queries"], &lengths([12, 4]));
    refuse(call(Mode::Causal, 5), WrongRole, &["page_table", "cu_seqlens"], &|call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
    });
    refuse(rings(), InvalidArgument, &["key_start[1] is 4", "ring"], &start(&[0, 4]));
    refuse(rings(), InvalidArgument, &["key_start[0] is -1", "ring"], &start(&[-1, 0]));
    refuse(rings(), WrongShape, &["key_start.shape[0]", "is 1", "2"], &start(&[0]));
    refuse(rings(), WrongShape, &["key_start", "rank 2", "1"], &|call| {
        call.get(Role::KEY_START).layout = subquad::Layout::contiguous(&[1, 2]).unwrap();
    });
    refuse(rings(), InvalidArgument, &["key_len[1] is 5", "ring"], &lengths([4, 5]));
    refuse(ring(Mode::Causal, 3), InvalidArgument, &["key_len[0] is 2", "queries"], &lengths([2, 3]));
    refuse(ring(Mode::Causal, 3), WrongRole, &["key_start", "cu_seqlens"], &|call| {
        call.index(Role::CU_SEQLENS, &[0, 3]);
    });
    refuse(rings(), WrongRole, &["key_start", "input"], &|call| call.get(Role::KEY_START).out = true);
}

/// Passes and mechanisms that read no such cache.
#[test]
fn refused_elsewhere() {
    let (plan, mut bound) = call(Mode::Causal, 5);
    bound.bind(Role::Q.grad(), true, &[0f32; 80], &[2, 2, 5, 4]);
    bound.remove(Role::OUT);
    bound.input(Role::OUT.grad(), &[0f32; 60], &[2, 2, 5, 3]);
    bound.workspace = vec![0; plan.backward_workspace_size(2, 5, 12).unwrap()];
    let error = bound.run(|mode, args, memory| plan.backward(mode, args, memory));
    expect(&error.unwrap_err(), Status::WrongRole, &["page_table", "forward"]);
    for name in ["linear", "fam_block", "dnas", "gau", "causal_conv"] {
        let p = Problem::named(name);
        let plan = p.plan(&context());
        for role in [Role::PAGE_TABLE, Role::KEY_START] {
            let indices = [0i32; 2];
            let args = Args::new().input(role, View::new(&indices, &[2]).unwrap());
            let error = plan.execute(p.mode, &args, &mut problem::workspace(&plan)).unwrap_err();
            expect(&error, Status::WrongRole, &[&role.to_string(), "no cache"]);
        }
    }
}
