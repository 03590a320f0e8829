//! Scores with a decay per token and channel.

use crate::CHUNK;
use crate::kernel::Kernel;
use pulp::Simd;

/// Operands of one call: one set of rows, or two that share the decayed keys.
#[derive(Clone, Copy)]
pub struct ChannelArgs {
    /// Rows of the chunk, at most 16.
    pub n: usize,
    /// Channels.
    pub d: usize,
    /// Decay factors, `[n, d]`.
    pub alpha: *const f32,
    /// Keys by channel, `[d, 16]`.
    pub kt: *const f32,
    /// Scratch, `[d, 16]`.
    pub decayed: *mut f32,
    /// Rows read through the diagonal, `[n, d]`.
    pub x: *const f32,
    /// Their scores, `[16, 16]`.
    pub s: *mut f32,
    /// Rows read the keys before the decay of their own token, and that token's key times this, `[d]`; null: after
    /// it, and as it is. Not together with `strict_x`.
    pub bonus: *const f32,
    /// Rows read below the diagonal, `[n, d]`; null: none.
    pub strict_x: *const f32,
    /// They read the keys before the decay of their own token.
    pub strict_pre: bool,
    /// Factor of each row of their scores, `[n]`; null: 1.
    pub strict_row: *const f32,
    /// Their scores, `[16, 16]`.
    pub strict_s: *mut f32,
    /// Elements between rows of `alpha`, `x` and `strict_x`.
    pub ld: usize,
}

/// Scores with a decay per token and channel in `f32`.
pub struct ScoresChannel;

impl Kernel for ScoresChannel {
    type Args = ChannelArgs;
    const NAME: &'static str = "scores_channel_f32";

    unsafe fn reference(t: &ChannelArgs) {
        let set = |x: *const f32, row: *const f32, strict: bool, pre: bool, s: *mut f32| {
            for i in 0..CHUNK {
                let last = if i >= t.n { 0 } else { i + usize::from(!strict) };
                for j in 0..CHUNK {
                    let mut sum = 0.0;
                    for c in 0..if j < last { t.d } else { 0 } {
                        // SAFETY: `i, m < n`, `c < d`, `j < 16`.
                        unsafe {
                            let through = if pre { i } else { i + 1 };
                            let alpha = |m: usize| f64::from(*t.alpha.add(m * t.ld + c));
                            let decay: f64 = match j {
                                _ if pre && j == i => f64::from(*t.bonus.add(c)),
                                _ => (j + 1..through).map(alpha).product(),
                            };
                            let k = f64::from(*t.kt.add(c * CHUNK + j));
                            sum += f64::from(*x.add(i * t.ld + c)) * decay * k;
                        }
                    }
                    // SAFETY: `row` has `n` elements, `s` 16 × 16.
                    unsafe {
                        let row = if row.is_null() || j >= last { 1.0 } else { f64::from(*row.add(i)) };
                        *s.add(i * CHUNK + j) = (row * sum) as f32;
                    }
                }
            }
        };
        set(t.x, std::ptr::null(), false, !t.bonus.is_null(), t.s);
        if !t.strict_x.is_null() {
            set(t.strict_x, t.strict_row, true, t.strict_pre, t.strict_s);
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &ChannelArgs) {
        // SAFETY: the caller's contract.
        unsafe {
            for first in (0..CHUNK).step_by(S::F32_LANES) {
                let mut i = 0;
                // Two sets need 2·R accumulators beside the key: 8 rows of 32 registers, 4 of 16.
                if S::F32_LANES != 8 {
                    while i + 8 <= t.n {
                        any_form::<S, 8>(simd, t, first, i);
                        i += 8;
                    }
                }
                while i + 4 <= t.n {
                    any_form::<S, 4>(simd, t, first, i);
                    i += 4;
                }
                while i < t.n {
                    any_form::<S, 1>(simd, t, first, i);
                    i += 1;
                }
                for i in t.n..CHUNK {
                    store::<S>(simd, t.s, i, first, simd.splat_f32s(0.0), 0);
                    if !t.strict_x.is_null() {
                        store::<S>(simd, t.strict_s, i, first, simd.splat_f32s(0.0), 0);
                    }
                }
            }
        }
    }
}

/// One set of rows.
const ONE: usize = 0;
/// One set that reads before the decay, with a bonus.
const BONUS: usize = 1;
/// Two sets, both read after the decay.
const TWO: usize = 2;
/// Two sets, the strict one reads before the decay.
const TWO_PRE: usize = 3;

/// # Safety
/// The contract of [`ChannelArgs`]; `i + R ≤ n`.
#[inline(always)]
unsafe fn any_form<S: Simd, const R: usize>(simd: S, t: &ChannelArgs, first: usize, i: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match (t.strict_x.is_null(), t.strict_pre) {
            (true, _) if t.bonus.is_null() => rows::<S, R, ONE>(simd, t, first, i),
            (true, _) => rows::<S, R, BONUS>(simd, t, first, i),
            (false, false) => rows::<S, R, TWO>(simd, t, first, i),
            (false, true) => rows::<S, R, TWO_PRE>(simd, t, first, i),
        }
    }
}

/// Score rows `i .. i + R` against the vector of tokens from `first` on.
///
/// # Safety
/// The contract of [`ChannelArgs`]; `i + R ≤ n`. `decayed` holds the keys as rows before `i` left them.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize, const FORM: usize>(simd: S, t: &ChannelArgs, first: usize, i: usize) {
    let two = FORM == TWO || FORM == TWO_PRE;
    let zero = simd.splat_f32s(0.0);
    // SAFETY: the caller's contract; `first + lanes ≤ 16`.
    unsafe {
        let mut acc = [zero; R];
        let mut strict = [zero; R];
        if i + R > first {
            let mut enter = [simd.splat_u32s(0); R];
            for (r, enter) in enter.iter_mut().enumerate() {
                *enter = unit_mask(simd, (i + r).wrapping_sub(first));
            }
            let fresh = i <= first;
            for c in 0..t.d {
                let column = t.kt.add(c * CHUNK + first).cast::<S::f32s>().read_unaligned();
                let column = simd.transmute_u32s_f32s(column);
                let carried = t.decayed.add(c * CHUNK + first).cast::<S::f32s>();
                let mut key = if fresh { zero } else { carried.read_unaligned() };
                let bonus = if FORM == BONUS { simd.splat_f32s(*t.bonus.add(c)) } else { zero };
                for r in 0..R {
                    let at = (i + r) * t.ld + c;
                    let own = simd.transmute_f32s_u32s(simd.and_u32s(column, enter[r]));
                    let before = key;
                    key = simd.mul_add_f32s(key, simd.splat_f32s(*t.alpha.add(at)), own);
                    let read = if FORM == BONUS { simd.mul_add_f32s(bonus, own, before) } else { key };
                    acc[r] = simd.mul_add_f32s(simd.splat_f32s(*t.x.add(at)), read, acc[r]);
                    if two {
                        let read = if FORM == TWO_PRE { before } else { key };
                        strict[r] = simd.mul_add_f32s(simd.splat_f32s(*t.strict_x.add(at)), read, strict[r]);
                    }
                }
                carried.write_unaligned(key);
            }
        }
        for r in 0..R {
            store::<S>(simd, t.s, i + r, first, acc[r], i + r + 1);
            if two {
                let row = if t.strict_row.is_null() { 1.0 } else { *t.strict_row.add(i + r) };
                let row = simd.splat_f32s(row);
                store::<S>(simd, t.strict_s, i + r, first, simd.mul_f32s(row, strict[r]), i + r);
            }
        }
    }
}

/// Row `i` of a score block, columns from `first` on; those at `upto` and above become zero.
///
/// # Safety
/// `s` has 16 × 16 elements, `i < 16`, `first + lanes ≤ 16`.
#[inline(always)]
unsafe fn store<S: Simd>(simd: S, s: *mut f32, i: usize, first: usize, value: S::f32s, upto: usize) {
    let keep = simd.mask_between_m32s(0, upto.saturating_sub(first) as u32).mask();
    let value = simd.select_f32s(keep, value, simd.splat_f32s(0.0));
    // SAFETY: the caller's contract.
    unsafe { s.add(i * CHUNK + first).cast::<S::f32s>().write_unaligned(value) }
}

/// All ones in lane `at`, zero elsewhere; all zero if `at` is no lane.
#[inline(always)]
fn unit_mask<S: Simd>(simd: S, at: usize) -> S::u32s {
    const ONE_SET: [u32; 32] = {
        let mut table = [0; 32];
        table[16] = u32::MAX;
        table
    };
    if at >= S::F32_LANES {
        return simd.splat_u32s(0);
    }
    // SAFETY: lanes `16 − at .. 16 − at + lanes` of the table exist, since `at < lanes ≤ 16`.
    unsafe { ONE_SET.as_ptr().add(16 - at).cast::<S::u32s>().read_unaligned() }
}
