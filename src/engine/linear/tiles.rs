//! The tiles that one plan calls, chosen once for its instruction set.

use super::features::FeatureMap;
use super::recurrence::Recurrence;
use crate::kernel::load_rows::{self, LoadRows, Source};
use crate::kernel::step::{self, Step};
use crate::kernel::store_rows::{self, StoreRows, Target};
use crate::kernel::{
    KernelFn, decay_rows, denominator, elementwise, matmul, matmul_bf16, pair_rows, row_l2norm, row_rms,
    row_softmax, scores, select, sincos, solve, transpose_rows, value_decay,
};
use crate::simd::Isa;
use crate::tensor::{DType, Tensor};
use half::{bf16, f16};
use std::ptr;

/// Function pointers of the tiles; see each kernel for its contract.
#[derive(Clone, Copy)]
pub struct Tiles {
    pub matmul: KernelFn<matmul::Args>,
    pub matmul_bf16: KernelFn<matmul_bf16::Args>,
    pub pair_rows: KernelFn<pair_rows::Args>,
    pub zip_rows: KernelFn<pair_rows::ZipArgs>,
    pub solve: KernelFn<solve::Args>,
    pub scores_token: KernelFn<scores::TokenArgs>,
    pub scores_channel: KernelFn<scores::ChannelArgs>,
    pub decay_rows: KernelFn<decay_rows::Args>,
    pub denominator: KernelFn<denominator::Args>,
    pub value_decay: KernelFn<value_decay::Args>,
    pub step_f32: KernelFn<step::Args<f32>>,
    pub step_bf16: KernelFn<step::Args<bf16>>,
    pub exp: KernelFn<elementwise::Args>,
    pub softplus: KernelFn<elementwise::Args>,
    pub product: KernelFn<elementwise::Args>,
    pub relu: KernelFn<elementwise::Args>,
    pub sigmoid: KernelFn<elementwise::Args>,
    pub sincos: KernelFn<sincos::Args>,
    pub rms: KernelFn<row_rms::Args>,
    load_f32: KernelFn<load_rows::Args<f32>>,
    load_bf16: KernelFn<load_rows::Args<bf16>>,
    load_f16: KernelFn<load_rows::Args<f16>>,
    store_f32: KernelFn<store_rows::Args<f32>>,
    store_bf16: KernelFn<store_rows::Args<bf16>>,
    store_f16: KernelFn<store_rows::Args<f16>>,
    transpose: KernelFn<transpose_rows::Args>,
    pub l2norm: KernelFn<row_l2norm::Args>,
    pub softmax: KernelFn<row_softmax::Args>,
    pub feature: Option<KernelFn<elementwise::Args>>,
}

/// Rows inside a tensor: from element `at` on, `n` along axis `rows`, `d` along axis `columns`.
pub struct Rows<'a> {
    pub tensor: &'a Tensor,
    pub at: &'a [usize],
    pub rows: usize,
    pub columns: usize,
    pub n: usize,
    pub d: usize,
}

impl<'a> Rows<'a> {
    /// `n` tokens of `d` channels of a tensor `[B, H, T, channels]`.
    pub fn tokens(tensor: &'a Tensor, at: &'a [usize], (n, d): (usize, usize)) -> Rows<'a> {
        Rows { tensor, at, rows: 2, columns: 3, n, d }
    }

    /// `d` elements along an axis, as one row.
    pub fn one(tensor: &'a Tensor, at: &'a [usize], axis: usize, d: usize) -> Rows<'a> {
        Rows { tensor, at, rows: axis, columns: axis, n: 1, d }
    }
}

impl Tiles {
    /// The tiles of `isa` for these settings.
    pub fn new(isa: Isa, recurrence: &Recurrence) -> Tiles {
        let feature = match recurrence.features.map {
            FeatureMap::Elu1 => Some(select::<elementwise::Elu1>(isa)),
            FeatureMap::Elu1Neg => Some(select::<elementwise::Elu1Neg>(isa)),
            FeatureMap::Tanh1 => Some(select::<elementwise::Tanh1>(isa)),
            FeatureMap::Relu => Some(select::<elementwise::Relu>(isa)),
            FeatureMap::Relu2 => Some(select::<elementwise::Relu2>(isa)),
            FeatureMap::Silu => Some(select::<elementwise::Silu>(isa)),
            // Functions of a whole row.
            _ => None,
        };
        Tiles {
            matmul: select::<matmul::Matmul>(isa),
            matmul_bf16: select::<matmul_bf16::MatmulBf16>(isa),
            pair_rows: select::<pair_rows::PairRows>(isa),
            zip_rows: select::<pair_rows::ZipRows>(isa),
            solve: select::<solve::Solve>(isa),
            scores_token: select::<scores::ScoresToken>(isa),
            scores_channel: select::<scores::ScoresChannel>(isa),
            decay_rows: select::<decay_rows::DecayRows>(isa),
            denominator: select::<denominator::Denominator>(isa),
            value_decay: select::<value_decay::ValueDecay>(isa),
            step_f32: select::<Step<f32>>(isa),
            step_bf16: select::<Step<bf16>>(isa),
            exp: select::<elementwise::Exp>(isa),
            softplus: select::<elementwise::Softplus>(isa),
            product: select::<elementwise::Product>(isa),
            relu: select::<elementwise::Relu>(isa),
            sigmoid: select::<elementwise::Sigmoid>(isa),
            sincos: select::<sincos::SinCos>(isa),
            rms: select::<row_rms::RowRms>(isa),
            load_f32: select::<LoadRows<f32>>(isa),
            load_bf16: select::<LoadRows<bf16>>(isa),
            load_f16: select::<LoadRows<f16>>(isa),
            store_f32: select::<StoreRows<f32>>(isa),
            store_bf16: select::<StoreRows<bf16>>(isa),
            store_f16: select::<StoreRows<f16>>(isa),
            transpose: select::<transpose_rows::TransposeRows>(isa),
            l2norm: select::<row_l2norm::RowL2Norm>(isa),
            softmax: select::<row_softmax::RowSoftmax>(isa),
            feature,
        }
    }

    /// Rows of a tensor of floats to packed `f32` rows, with a factor for all and one per row where `row_scale`
    /// is not null.
    ///
    /// # Safety
    /// The tensor has these rows; `dst` has `n · ld` elements, `ld ≥ d`; `row_scale` has `n`.
    pub unsafe fn load(&self, from: &Rows<'_>, scale: f32, row_scale: *const f32, dst: *mut f32, ld: usize) {
        // SAFETY: the caller's contract; each kernel gets the type it is for.
        unsafe {
            match from.tensor.dtype {
                DType::Bf16 => (self.load_bf16)(&load_args(from, scale, row_scale, dst, ld)),
                DType::F16 => (self.load_f16)(&load_args(from, scale, row_scale, dst, ld)),
                _ => (self.load_f32)(&load_args(from, scale, row_scale, dst, ld)),
            }
        }
    }

    /// The reverse of [`Tiles::load`], without factors.
    ///
    /// # Safety
    /// `src` has `n · ld` elements; the tensor has these rows, and no other task touches them.
    pub unsafe fn store(&self, src: *const f32, ld: usize, to: &Rows<'_>) {
        // SAFETY: the caller's contract; each kernel gets the type it is for.
        unsafe {
            match to.tensor.dtype {
                DType::Bf16 => (self.store_bf16)(&store_args(src, ld, to)),
                DType::F16 => (self.store_f16)(&store_args(src, ld, to)),
                _ => (self.store_f32)(&store_args(src, ld, to)),
            }
        }
    }

    /// Packed rows to packed rows of `bf16`, `d` columns of both.
    ///
    /// # Safety
    /// `src` and `dst` have `n` rows of `ld ≥ d` elements.
    pub unsafe fn narrow(&self, src: *const f32, (n, d): (usize, usize), ld: usize, dst: *mut bf16) {
        // SAFETY: the caller's contract.
        unsafe { self.narrow_to(src, (n, d), ld, dst, ld) }
    }

    /// The same with `ld_dst` elements from row to row.
    ///
    /// # Safety
    /// As [`Tiles::narrow`], each side with its own distance between rows.
    pub unsafe fn narrow_to(
        &self,
        src: *const f32,
        (n, d): (usize, usize),
        ld: usize,
        dst: *mut bf16,
        ld_dst: usize,
    ) {
        let args = store_rows::Args { n, d, src, ld, dst, row_stride: ld_dst as isize, col_stride: 1 };
        // SAFETY: the caller's contract.
        unsafe { (self.store_bf16)(&args) }
    }

    /// `n` values along an axis of a tensor, from `at` on, to packed memory.
    ///
    /// # Safety
    /// The tensor has these values; `dst` has `n` elements.
    pub unsafe fn gather(&self, tensor: &Tensor, at: &[usize], axis: usize, n: usize, dst: *mut f32) {
        let row = Rows { tensor, at, rows: 0, columns: axis, n: 1, d: n };
        // SAFETY: the caller's contract.
        unsafe { self.load(&row, 1.0, ptr::null(), dst, n) }
    }

    /// The reverse of [`Tiles::gather`].
    ///
    /// # Safety
    /// `src` has `n` elements; the tensor has these values, and no other task touches them.
    pub unsafe fn scatter(&self, src: *const f32, tensor: &Tensor, at: &[usize], axis: usize, n: usize) {
        let row = Rows { tensor, at, rows: 0, columns: axis, n: 1, d: n };
        // SAFETY: the caller's contract.
        unsafe { self.store(src, n, &row) }
    }

    /// Sets one value of a tensor.
    ///
    /// # Safety
    /// The tensor has this element, and no other task touches it.
    pub unsafe fn set(&self, tensor: &Tensor, at: &[usize], value: f32) {
        // SAFETY: the caller's contract.
        unsafe { self.scatter(&raw const value, tensor, at, 0, 1) }
    }

    /// One value of a tensor.
    ///
    /// # Safety
    /// The tensor has this element.
    pub unsafe fn value(&self, tensor: &Tensor, at: &[usize]) -> f32 {
        let p = tensor.at(at);
        // SAFETY: the caller's contract.
        unsafe {
            match tensor.dtype {
                DType::Bf16 => (*p.cast::<bf16>()).widen(),
                DType::F16 => (*p.cast::<f16>()).widen(),
                _ => *p.cast(),
            }
        }
    }

    /// `e^x` of `n` values in place.
    ///
    /// # Safety
    /// `x` has `n` elements.
    pub unsafe fn exp_in_place(&self, x: *mut f32, n: usize) {
        // SAFETY: the caller's contract.
        unsafe { (self.exp)(&elementwise::Args { n, src: x, dst: x }) }
    }

    /// Packed rows to columns: `dst[c][i] = src[i][c]`, 16 to a column, zero past `n`.
    ///
    /// # Safety
    /// `src` has `n · ld` elements, `dst` `16 · d`.
    pub unsafe fn transpose(&self, src: *const f32, (n, d): (usize, usize), ld: usize, dst: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe { self.transpose_to(src, (n, d), ld, dst, transpose_rows::TILE) }
    }

    /// The same with `ld_dst` elements from column to column.
    ///
    /// # Safety
    /// `src` has `n · ld` elements, `dst` 16 in each of `d` rows.
    pub unsafe fn transpose_to(
        &self,
        src: *const f32,
        (n, d): (usize, usize),
        ld: usize,
        dst: *mut f32,
        ld_dst: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe { (self.transpose)(&transpose_rows::Args { n, d, src, ld, dst, ld_dst }) }
    }
}

fn load_args<E: Source>(
    from: &Rows<'_>,
    scale: f32,
    row_scale: *const f32,
    dst: *mut f32,
    ld: usize,
) -> load_rows::Args<E> {
    load_rows::Args {
        n: from.n,
        d: from.d,
        src: from.tensor.address(from.at),
        row_stride: from.tensor.stride(from.rows),
        col_stride: from.tensor.stride(from.columns),
        row_scale,
        row_scale_stride: 1,
        scale,
        dst,
        ld,
    }
}

fn store_args<E: Target>(src: *const f32, ld: usize, to: &Rows<'_>) -> store_rows::Args<E> {
    let (row_stride, col_stride) = (to.tensor.stride(to.rows), to.tensor.stride(to.columns));
    store_rows::Args { n: to.n, d: to.d, src, ld, dst: to.tensor.address(to.at), row_stride, col_stride }
}

impl std::fmt::Debug for Tiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tiles")
    }
}
