//! The two products of few queries, for rows of any type of floats.

use crate::kernel::dots::{self, Dots};
use crate::kernel::weigh::{self, Weigh};
use crate::kernel::{KernelFn, select};
use crate::simd::Isa;
use crate::tensor::DType;
use half::{bf16, f16};

/// Their kernels.
#[derive(Clone, Copy)]
pub struct Few {
    dots_f32: KernelFn<dots::Args<f32>>,
    dots_bf16: KernelFn<dots::Args<bf16>>,
    dots_f16: KernelFn<dots::Args<f16>>,
    weigh_f32: KernelFn<weigh::Args<f32>>,
    weigh_bf16: KernelFn<weigh::Args<bf16>>,
    weigh_f16: KernelFn<weigh::Args<f16>>,
}

impl Few {
    /// Those of an instruction set.
    pub fn new(isa: Isa) -> Few {
        Few {
            dots_f32: select::<Dots<f32>>(isa),
            dots_bf16: select::<Dots<bf16>>(isa),
            dots_f16: select::<Dots<f16>>(isa),
            weigh_f32: select::<Weigh<f32>>(isa),
            weigh_bf16: select::<Weigh<bf16>>(isa),
            weigh_f16: select::<Weigh<f16>>(isa),
        }
    }

    /// Scores.
    ///
    /// # Safety
    /// The contract of the kernel; `b` has elements of this type.
    pub unsafe fn dots(&self, args: dots::Args<f32>, dtype: DType) {
        // SAFETY: by contract.
        unsafe {
            match dtype {
                DType::Bf16 => (self.dots_bf16)(&args.cast()),
                DType::F16 => (self.dots_f16)(&args.cast()),
                _ => (self.dots_f32)(&args),
            }
        }
    }

    /// Sums of values.
    ///
    /// # Safety
    /// As [`Few::dots`].
    pub unsafe fn weigh(&self, args: weigh::Args<f32>, dtype: DType) {
        // SAFETY: by contract.
        unsafe {
            match dtype {
                DType::Bf16 => (self.weigh_bf16)(&args.cast()),
                DType::F16 => (self.weigh_f16)(&args.cast()),
                _ => (self.weigh_f32)(&args),
            }
        }
    }
}
