//! Carving buffers out of the caller's workspace: sizes at planning, addresses at execution.

use crate::error::{Error, Result};

/// Alignment of every buffer, in bytes: one cache line, one AVX-512 vector.
pub(crate) const ALIGN: usize = 64;
const ALIGN_F32: usize = ALIGN / 4;

/// Adds up buffers of `f32`; hands out their offsets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carver {
    len: usize,
    overflow: bool,
}

impl Carver {
    /// Offset, in elements, of a new buffer with the product of `extents` elements.
    pub fn take(&mut self, extents: &[usize]) -> usize {
        let at = self.len;
        let len = extents.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let end = len
            .and_then(|len| len.checked_next_multiple_of(ALIGN_F32))
            .and_then(|len| at.checked_add(len))
            .filter(|&end| end <= isize::MAX as usize / 4 / 1024);
        match end {
            Some(end) => self.len = end,
            None => self.overflow = true,
        }
        at
    }

    /// Elements taken so far.
    ///
    /// # Errors
    /// A size that overflowed.
    pub fn finish(&self) -> Result<usize> {
        if self.overflow {
            let why = "the buffers would not fit in memory".into();
            return Err(Error::Unsupported { what: "a problem of these dimensions".into(), why });
        }
        Ok(self.len)
    }
}

/// Bytes that hold `workers` slices of `len` elements at any alignment.
pub(crate) fn bytes(workers: usize, len: usize) -> usize {
    workers * len * 4 + ALIGN
}

/// The caller's workspace, cut into one slice per worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workspace {
    base: *mut f32,
    len: usize,
}

// SAFETY: each worker uses its own slice.
unsafe impl Sync for Workspace {}

impl Workspace {
    /// # Errors
    /// Fewer bytes than [`bytes`] says.
    pub fn new(memory: &mut [u8], workers: usize, len: usize) -> Result<Workspace> {
        let needed = bytes(workers, len);
        if memory.len() < needed {
            return Err(Error::Workspace { given: memory.len(), needed });
        }
        let base = memory.as_mut_ptr();
        let base = base.wrapping_add(base.align_offset(ALIGN)).cast();
        Ok(Workspace { base, len })
    }

    /// The slice of one worker: `len` elements from here on.
    pub fn worker(&self, worker: usize) -> *mut f32 {
        self.base.wrapping_add(worker * self.len)
    }
}
