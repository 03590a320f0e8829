//! Time of each kernel on each instruction set of this machine: `cargo bench --bench tiles -- <filter>`.
//!
//! One line of `tiles` is one kernel at one size, named `<kernel>/<isa>/<size>`; throughput counts elements. Everything
//! fits in L2. The scalar row is the reference: it shows what the tests compare with, not what a compiler could do.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use half::{bf16, f16};
use std::ptr::{null, null_mut};
use subquad::kernel::Kernel;
use subquad::kernel::row_rms::Activation;
use subquad::kernel::store_rows::Target;
use subquad::kernel::{
    causal_conv, causal_conv_grad, decay_rows, denominator, elementwise as ew, gate, gate_grad, load_rows,
    map_grad, matmul, matmul_bf16, pair_rows, products, row_l2norm, row_rms, row_softmax, scores,
    scores_grad, sincos, solve, step, store_rows, transpose_rows, value_decay,
};
use support::{bench, numbers};

fn elementwise(n: usize) -> ew::Args {
    ew::Args { n, src: numbers(n), dst: numbers(n) }
}

fn softmax(n: usize, d: usize) -> row_softmax::Args {
    row_softmax::Args { n, d, x: numbers(n * d), ld: d }
}

fn l2norm(n: usize, d: usize) -> row_l2norm::Args {
    row_l2norm::Args {
        n,
        d,
        x: numbers(n * d),
        ld: d,
        mode: row_l2norm::Mode::SquareAdd,
        eps: 1e-6,
        scale: 1.0,
    }
}

/// `n` tokens of `d` channels, 4 taps.
fn conv(n: usize, d: usize, silu: bool) -> causal_conv::Args {
    causal_conv::Args {
        n,
        d,
        width: 4,
        src: numbers((n + 3) * d),
        src_stride: d as isize,
        weight: numbers(4 * d.next_multiple_of(16)),
        bias: numbers(d.next_multiple_of(16)),
        silu,
        dst: numbers(n * d),
        dst_stride: d as isize,
    }
}

/// `n` tokens of a panel, 4 taps.
fn conv_grad(n: usize) -> causal_conv_grad::Args {
    causal_conv_grad::Args {
        n,
        width: 4,
        src: numbers((n + 3) * 16),
        weight: numbers(4 * 16),
        bias: numbers(16),
        silu: true,
        dout: numbers(n * 16),
        dz: numbers(n * 16),
        dw: numbers(4 * 16),
        db: numbers(16),
    }
}

fn gates(n: usize, d: usize, function: gate::Function) -> gate::Args {
    let [bias, pre, post] = [(); 3].map(|()| numbers(d).cast_const());
    gate::Args { n, d, x: numbers(n * d), ld: d, bias, pre, post, function }
}

fn gates_grad(n: usize, d: usize, function: gate::Function) -> gate_grad::Args {
    let gate::Args { x, ld, bias, pre, post, .. } = gates(n, d, function);
    let [dy, dbias, da] = [numbers(n * d), numbers(d), numbers(d)];
    gate_grad::Args { n, d, x, dy, ld, bias, pre, post, function, dbias, da }
}

fn rms(n: usize, d: usize, gate: bool) -> row_rms::Args {
    row_rms::Args {
        n,
        n_pieces: 1,
        piece_len: d,
        y: numbers(n * d),
        ld: d as isize,
        piece_stride: 0,
        eps: 1e-6,
        // Weights of 1: the same rows are normalised over and over.
        weight: vec![1.0; d].leak().as_ptr(),
        gate: if gate { numbers(n * d) } else { null() },
        gate_ld: d as isize,
        gate_piece_stride: 0,
        activation: Activation::Sigmoid,
    }
}

/// Rows `d` apart, or columns `n` apart.
fn strides(n: usize, d: usize, by_columns: bool) -> (isize, isize) {
    if by_columns { (1, n as isize) } else { (d as isize, 1) }
}

fn load<E>(n: usize, d: usize, by_columns: bool) -> load_rows::Args<E> {
    let (row_stride, col_stride) = strides(n, d, by_columns);
    load_rows::Args {
        n,
        d,
        src: numbers(n * d).cast(),
        row_stride,
        col_stride,
        row_scale: null(),
        row_scale_stride: 0,
        scale: 0.125,
        dst: numbers(n * d),
        ld: d,
    }
}

fn store<E>(n: usize, d: usize, by_columns: bool) -> store_rows::Args<E> {
    let (row_stride, col_stride) = strides(n, d, by_columns);
    store_rows::Args { n, d, src: numbers(n * d), ld: d, dst: numbers(n * d).cast(), row_stride, col_stride }
}

fn transpose(n: usize, d: usize) -> transpose_rows::Args {
    transpose_rows::Args { n, d, src: numbers(16 * d), ld: d, dst: numbers(16 * d), ld_dst: 16 }
}

/// Factors of a decay, and a state that stays where it is: the same buffers are worked on over and over.
fn ones(n: usize) -> *mut f32 {
    vec![1.0; n].leak().as_mut_ptr()
}

/// `C [m, n]` from `k` terms.
fn product(m: usize, n: usize, k: usize) -> matmul::Args {
    let mut args = matmul::Args::product(m, n, k, numbers(m * n), n as isize);
    (args.a, args.lda, args.b, args.ldb) = (numbers(m * k), k, numbers(k * n), n);
    args
}

/// A chunk's output: `(Q ⊙ P) S + tril(A) U`.
fn output(e: usize, d: usize) -> matmul::Args {
    matmul::Args { l: ones(256), ldl: 16, u: numbers(16 * e), ldu: e, ..product(16, e, d) }
}

/// A chunk's state: `P S + Kᵀ U`, into another place.
fn update(e: usize, d: usize) -> matmul::Args {
    let c0 = numbers(d * e);
    matmul::Args { a_by_columns: true, lda: d, c0, ldc0: e as isize, pre: ones(d), ..product(d, e, 16) }
}

/// The same with two writes per token.
fn second_output(e: usize, d: usize) -> matmul::Args {
    matmul::Args { l2: ones(256), u2: numbers(16 * e), ..output(e, d) }
}

/// Pairs of `bf16` from numbers between −1 and 1.
fn pairs(n: usize) -> *mut u32 {
    let (src, dst) = (numbers(2 * n), numbers(n).cast::<u32>());
    let args = pair_rows::Args { n: 2, d: n, src, ld: n, factor: null(), dst, ldd: n, sums: null_mut() };
    // SAFETY: `src` has two rows of `n` elements, `dst` one.
    unsafe { pair_rows::PairRows::reference(&args) };
    dst
}

/// Rows with a factor each, to pairs of them.
fn rows_to_pair(n: usize, d: usize) -> pair_rows::Args {
    let (src, factor, dst) = (numbers(n * d), ones(n).cast_const(), pairs(n / 2 * d));
    pair_rows::Args { n, d, src, ld: d, factor, dst, ldd: d, sums: null_mut() }
}

/// Rows of `bf16`, the same.
fn rows_to_zip(n: usize, d: usize) -> pair_rows::ZipArgs {
    pair_rows::ZipArgs { n, d, src: pairs(n * d / 2).cast(), ld: d, dst: pairs(n / 2 * d), ldd: d }
}

/// `C [m, n]` from `k` terms.
fn product_bf16(m: usize, n: usize, k: usize) -> matmul_bf16::Args {
    let mut args = matmul_bf16::Args::product(m, n, k / 2, numbers(m * n), n as isize);
    (args.a, args.lda, args.b, args.ldb) = (pairs(m * k / 2), k / 2, pairs(k / 2 * n), n);
    args
}

/// A chunk's output: `P ⊙ Q S + tril(A) U`.
fn output_bf16(e: usize, d: usize) -> matmul_bf16::Args {
    let (l, ldl, u, ldu) = (ones(256).cast_const(), 16, numbers(16 * e).cast_const(), e);
    matmul_bf16::Args { mid: ones(16), l, ldl, u, ldu, ..product_bf16(16, e, d) }
}

/// A chunk's state in place, and its pairs: `P S + Kᵀ U`.
fn update_bf16(e: usize, d: usize) -> matmul_bf16::Args {
    let c = numbers(d * e);
    let (c0, ldc0) = (c.cast_const(), e as isize);
    let (packed, ldp) = (pairs(d / 2 * e), e);
    matmul_bf16::Args {
        a_by_columns: true,
        lda: d,
        c0,
        ldc0,
        pre: vec![0.5; d].leak().as_ptr(),
        c,
        packed,
        ldp,
        ..product_bf16(d, e, 16)
    }
}

fn substitution(n: usize) -> solve::Args {
    solve::Args { n, coef: vec![0.0; 256].leak().as_ptr(), u: numbers(16 * n), ld: n }
}

fn token_scores(d: usize) -> scores::TokenArgs {
    scores::TokenArgs {
        n: 16,
        d,
        x: numbers(16 * d),
        ldx: d,
        kt: numbers(16 * d),
        alpha: ones(16),
        row: null(),
        strict: false,
        s: numbers(256),
    }
}

fn channel_scores(d: usize, two: bool) -> scores::ChannelArgs {
    scores::ChannelArgs {
        n: 16,
        d,
        alpha: ones(16 * d),
        kt: numbers(16 * d),
        decayed: numbers(16 * d),
        x: numbers(16 * d),
        s: numbers(256),
        bonus: null(),
        strict_x: if two { numbers(16 * d) } else { null() },
        strict_pre: false,
        strict_row: ones(16),
        strict_s: numbers(256),
        ld: d,
    }
}

/// Rows that read before the decay, with a bonus, or a strict set of them.
fn earlier_scores(d: usize, two: bool) -> scores::ChannelArgs {
    let bonus = if two { null() } else { numbers(d).cast_const() };
    scores::ChannelArgs { bonus, strict_pre: two, ..channel_scores(d, two) }
}

fn decays(d: usize, by_channel: bool) -> decay_rows::Args {
    let k = numbers(16 * d);
    decay_rows::Args {
        n: 16,
        d,
        ld: d,
        alpha: ones(16 * d),
        by_channel,
        q: numbers(16 * d),
        n_sets: 1,
        q_pre: false,
        k,
        k_sets: 1,
        erase: numbers(16 * d),
        erase_from: k,
        erase_row: ones(16),
        erase_pre: false,
        end: ones(d),
    }
}

fn denominators(d: usize) -> denominator::Args {
    denominator::Args {
        n: 16,
        d,
        ld: d,
        q: numbers(16 * d),
        n_sets: 1,
        a: numbers(256),
        den: numbers(16),
        // The normaliser would grow without end.
        k: vec![0.0; 16 * d].leak().as_ptr(),
        end: ones(d),
        z: numbers(d),
    }
}

fn decayed_values(e: usize) -> value_decay::Args {
    value_decay::Args {
        n: 16,
        e,
        a: vec![0.0; 256].leak().as_ptr(),
        y: numbers(16 * e),
        ldy: e,
        n_sets: 1,
        u: numbers(16 * e),
        ldu: e,
        gamma: ones(16 * e),
        ldg: e,
        end: ones(e),
    }
}

/// Row sums of the product of two state panels.
fn row_products(m: usize, n: usize) -> products::Args {
    let (a, b) = (numbers(m * n), numbers(m * n));
    products::Args { n: m, d: n, a, lda: n, b, ldb: n, row: numbers(m), col: null_mut() }
}

/// The same by lane, each row apart.
fn lane_products(n: usize, d: usize) -> products::lanes::Args {
    let (a, b, sum) = (numbers(n * d), numbers(n * d), numbers(16 * n));
    products::lanes::Args { n, d, a, lda: d, b, ldb: d, apart: true, sum }
}

/// The reverse of a chunk's scores and factors, with erase rows and gates.
fn grads(d: usize, by_channel: bool) -> scores_grad::Args {
    // Gradients stay what they are where all scores and factors but 1 are zero.
    scores_grad::Args {
        n: 16,
        d,
        ld: d,
        alpha: ones(16 * d),
        ld_alpha: d,
        by_channel,
        q: numbers(16 * d),
        n_sets: 1,
        bonus: null(),
        k: numbers(2 * 16 * d),
        k_sets: 1,
        erase: null(),
        erase_row: numbers(16),
        erase_pre: false,
        da: vec![0.0; 512].leak().as_ptr(),
        db: vec![0.0; 512].leak().as_ptr(),
        dq: numbers(16 * d),
        dk: numbers(2 * 16 * d),
        de: numbers(16 * d),
        dg: numbers(16 * d),
        dbonus: numbers(d),
        end: numbers(d),
    }
}

/// The same with two blocks of keys, read before the decay by erase rows of their own.
fn two_writes_grads(d: usize) -> scores_grad::Args {
    scores_grad::Args { k_sets: 2, erase: numbers(16 * d), erase_pre: true, ..grads(d, true) }
}

/// The same with a bonus, without erase rows.
fn bonus_grads(d: usize) -> scores_grad::Args {
    scores_grad::Args { bonus: numbers(d), de: null_mut(), ..grads(d, true) }
}

fn slope(n: usize) -> map_grad::Args {
    map_grad::Args { n, x: ones(n), dy: numbers(n) }
}

/// A step into another state, with or without the correction.
fn token<E: Target>(d: usize, e: usize, correction: bool) -> step::Args<E> {
    let state = || Vec::from_iter((0..d * e).map(|i| E::narrow((i % 64) as f32 / 32.0 - 1.0)));
    step::Args {
        d,
        e,
        s: state().leak().as_ptr(),
        lds: e as isize,
        s_new: state().leak().as_mut_ptr(),
        lds_new: e as isize,
        k: numbers(d),
        // Erases nothing: the value is kept from call to call.
        erase: if correction { vec![0.0; d].leak().as_ptr() } else { null() },
        b: null(),
        q: numbers(d),
        ldq: d,
        n_sets: 1,
        a: numbers(1),
        a2: numbers(1),
        lda: 1,
        end: ones(d),
        gamma: null(),
        v: null(),
        skip: 0.0,
        post: null(),
        ldpost: 1,
        x: numbers(e),
        r: numbers(e),
        y: numbers(e),
        ldy: e,
    }
}

/// The same with two writes.
fn second_token(d: usize, e: usize) -> step::Args<f32> {
    step::Args { b: numbers(d), ..token(d, e, true) }
}

fn tiles(c: &mut Criterion) {
    bench::<matmul::Matmul>(c, "16x64x128", 16 * 64 * 128, product(16, 64, 128));
    bench::<matmul::Matmul>(c, "16x64x128_output", 16 * 64 * 128, output(64, 128));
    bench::<matmul::Matmul>(c, "16x64x128_two_writes", 16 * 64 * 128, second_output(64, 128));
    bench::<matmul::Matmul>(c, "128x64x16_update", 16 * 64 * 128, update(64, 128));
    bench::<matmul_bf16::MatmulBf16>(c, "16x64x128", 16 * 64 * 128, product_bf16(16, 64, 128));
    bench::<matmul_bf16::MatmulBf16>(c, "16x64x128_output", 16 * 64 * 128, output_bf16(64, 128));
    bench::<matmul_bf16::MatmulBf16>(c, "128x32x16_update", 16 * 32 * 128, update_bf16(32, 128));
    bench::<pair_rows::PairRows>(c, "16x128", 16 * 128, rows_to_pair(16, 128));
    bench::<pair_rows::ZipRows>(c, "16x128", 16 * 128, rows_to_zip(16, 128));
    bench::<solve::Solve>(c, "16x64", 16 * 64, substitution(64));
    bench::<scores::ScoresToken>(c, "16x128", 16 * 128, token_scores(128));
    bench::<scores::ScoresChannel>(c, "16x128", 16 * 128, channel_scores(128, false));
    bench::<scores::ScoresChannel>(c, "16x128_two", 16 * 128, channel_scores(128, true));
    bench::<scores::ScoresChannel>(c, "16x128_bonus", 16 * 128, earlier_scores(128, false));
    bench::<scores::ScoresChannel>(c, "16x128_two_pre", 16 * 128, earlier_scores(128, true));
    bench::<decay_rows::DecayRows>(c, "16x128", 16 * 128, decays(128, false));
    bench::<decay_rows::DecayRows>(c, "16x128_channel", 16 * 128, decays(128, true));
    bench::<denominator::Denominator>(c, "16x128", 16 * 128, denominators(128));
    bench::<value_decay::ValueDecay>(c, "16x64", 16 * 64, decayed_values(64));
    bench::<products::Products>(c, "128x32_rows", 128 * 32, row_products(128, 32));
    bench::<products::lanes::LaneProducts>(c, "128x32", 128 * 32, lane_products(128, 32));
    bench::<scores_grad::ScoresGrad>(c, "16x128", 16 * 128, grads(128, false));
    bench::<scores_grad::ScoresGrad>(c, "16x128_channel", 16 * 128, grads(128, true));
    bench::<scores_grad::ScoresGrad>(c, "16x128_bonus", 16 * 128, bonus_grads(128));
    bench::<scores_grad::ScoresGrad>(c, "16x128_two_writes", 16 * 128, two_writes_grads(128));
    bench::<map_grad::Elu1Grad>(c, "4096", 4096, slope(4096));
    bench::<map_grad::SiluGrad>(c, "4096", 4096, slope(4096));
    bench::<step::Step<f32>>(c, "128x128", 128 * 128, token(128, 128, false));
    bench::<step::Step<f32>>(c, "128x128_correction", 128 * 128, token(128, 128, true));
    bench::<step::Step<f32>>(c, "128x128_two_writes", 128 * 128, second_token(128, 128));
    bench::<step::Step<bf16>>(c, "128x128", 128 * 128, token(128, 128, false));
    bench::<step::Step<bf16>>(c, "128x128_correction", 128 * 128, token(128, 128, true));
    bench::<ew::Product>(c, "1024", 1024, ew::Args { n: 1024, src: ones(1024), dst: numbers(1024) });
    bench::<ew::Exp>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Exp>(c, "67", 67, elementwise(67));
    bench::<ew::Log>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Tanh>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Sigmoid>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Silu>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Softplus>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Rsqrt>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Elu1>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Elu1Neg>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Tanh1>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Relu>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Relu2>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Relu2Weight>(c, "4096", 4096, elementwise(4096));
    bench::<ew::LaplaceWeight>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Sin>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Cos>(c, "4096", 4096, elementwise(4096));
    let args = sincos::Args { n: 4096, src: numbers(4096), sin: numbers(4096), cos: numbers(4096) };
    bench::<sincos::SinCos>(c, "4096", 4096, args);
    bench::<row_softmax::RowSoftmax>(c, "64x128", 64 * 128, softmax(64, 128));
    bench::<row_l2norm::RowL2Norm>(c, "64x128", 64 * 128, l2norm(64, 128));
    bench::<causal_conv::CausalConv>(c, "32x128", 32 * 128, conv(32, 128, false));
    bench::<causal_conv::CausalConv>(c, "32x128_silu", 32 * 128, conv(32, 128, true));
    bench::<causal_conv_grad::CausalConvGrad>(c, "32x16_silu", 32 * 16, conv_grad(32));
    for (name, function) in
        [("16x256_softplus", gate::Function::Softplus), ("16x256_sigmoid", gate::Function::Sigmoid)]
    {
        bench::<gate::Gate>(c, name, 16 * 256, gates(16, 256, function));
        bench::<gate_grad::GateGrad>(c, name, 16 * 256, gates_grad(16, 256, function));
    }
    bench::<row_rms::RowRms>(c, "64x128", 64 * 128, rms(64, 128, false));
    bench::<row_rms::RowRms>(c, "64x128_gate", 64 * 128, rms(64, 128, true));
    bench::<load_rows::LoadRows<f32>>(c, "64x128", 64 * 128, load(64, 128, false));
    bench::<load_rows::LoadRows<f32>>(c, "64x128_columns", 64 * 128, load(64, 128, true));
    bench::<load_rows::LoadRows<bf16>>(c, "64x128", 64 * 128, load(64, 128, false));
    bench::<load_rows::LoadRows<f16>>(c, "64x128", 64 * 128, load(64, 128, false));
    bench::<store_rows::StoreRows<f32>>(c, "64x128", 64 * 128, store(64, 128, false));
    bench::<store_rows::StoreRows<f32>>(c, "64x128_columns", 64 * 128, store(64, 128, true));
    bench::<store_rows::StoreRows<bf16>>(c, "64x128", 64 * 128, store(64, 128, false));
    bench::<store_rows::StoreRows<f16>>(c, "64x128", 64 * 128, store(64, 128, false));
    bench::<transpose_rows::TransposeRows>(c, "16x128", 16 * 128, transpose(16, 128));
    bench::<transpose_rows::TransposeRows>(c, "16x16", 16 * 16, transpose(16, 16));
    bench::<transpose_rows::TransposeRows>(c, "13x127", 16 * 127, transpose(13, 127));
}

criterion_group!(benches, tiles);
criterion_main!(benches);
