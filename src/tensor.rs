//! Strided views over the caller's memory.
//!
//! A view is a pointer, an element type, and up to five extents and strides. Strides count elements, and
//! may be zero (broadcast, inputs only) or negative. Shapes are checked in `plan/`, nowhere else.

mod convert;

pub use convert::convert_state;

use crate::error::{Error, Result};
use std::fmt;
use std::marker::PhantomData;

/// Largest rank of a tensor.
pub const MAX_RANK: usize = 5;

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single.
    F32 = 1,
    /// The upper half of an IEEE single.
    Bf16 = 2,
    /// IEEE half.
    F16 = 3,
    /// 32-bit integer.
    I32 = 4,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 4] = [DType::F32, DType::Bf16, DType::F16, DType::I32];

    /// Bytes of one element; also its alignment.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }

    /// The name in problem strings and files.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Rust types that are elements of a tensor.
pub trait Element: Copy + sealed::Sealed + 'static {
    /// The element type.
    const DTYPE: DType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$d;
        }
    )*};
}
elements!(f32 => F32, half::bf16 => Bf16, half::f16 => F16, i32 => I32);

/// Extents and strides, without the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of axes.
    pub rank: usize,
    /// Extents; those past `rank` are 1.
    pub shape: [i64; MAX_RANK],
    /// Strides in elements; those past `rank` are 0.
    pub stride: [i64; MAX_RANK],
}

impl Layout {
    /// Row-major strides for `shape`.
    ///
    /// # Errors
    /// More than five axes, a negative extent, or a size beyond `i64`.
    pub fn contiguous(shape: &[i64]) -> Result<Layout> {
        let mut stride = [0i64; MAX_RANK];
        let mut step = 1i64;
        if shape.len() <= MAX_RANK {
            for axis in (0..shape.len()).rev() {
                stride[axis] = step;
                step = step.checked_mul(shape[axis].max(1)).ok_or_else(|| TOO_LARGE.clone())?;
            }
        }
        Layout::strided(shape, &stride[..shape.len().min(MAX_RANK)])
    }

    /// Given strides.
    ///
    /// # Errors
    /// More than five axes, or numbers of extents and strides that differ, or a negative extent.
    pub fn strided(shape: &[i64], stride: &[i64]) -> Result<Layout> {
        if shape.len() > MAX_RANK || shape.len() != stride.len() {
            let given = shape.len() as i64;
            return Err(Error::InvalidArgument {
                what: "rank",
                given,
                expected: "at most 5, and as many strides as extents",
            });
        }
        if let Some(&given) = shape.iter().find(|&&n| n < 0) {
            return Err(Error::InvalidArgument { what: "extent", given, expected: "0 or more" });
        }
        let mut layout = Layout { rank: shape.len(), shape: [1; MAX_RANK], stride: [0; MAX_RANK] };
        layout.shape[..shape.len()].copy_from_slice(shape);
        layout.stride[..stride.len()].copy_from_slice(stride);
        Ok(layout)
    }

    /// Lowest and highest element offset that is touched, or `None` when there is no element.
    ///
    /// # Errors
    /// An offset that overflows.
    pub fn span(&self) -> Result<Option<(i64, i64)>> {
        self.reach().ok_or_else(|| TOO_LARGE.clone())
    }

    /// [`Layout::span`] for the path of a call: `None` is the overflow, and no error is built.
    pub(crate) fn reach(&self) -> Option<Option<(i64, i64)>> {
        let (mut low, mut high) = (0i64, 0i64);
        if self.shape[..self.rank].contains(&0) {
            return Some(None);
        }
        for axis in 0..self.rank {
            let reach = (self.shape[axis] - 1).checked_mul(self.stride[axis])?;
            let end = if reach < 0 { &mut low } else { &mut high };
            *end = end.checked_add(reach)?;
        }
        // Byte offsets must fit as well: pointers are computed without further checks.
        for end in [low, high] {
            end.checked_mul(8)?.checked_add(8)?;
        }
        Some(Some((low, high)))
    }

    fn fit(&self, what: &'static str, len: usize) -> Result<()> {
        let Some((low, high)) = self.span()? else { return Ok(()) };
        if low < 0 || high >= len as i64 {
            return Err(Error::OutOfBounds { what, needed: (high - low) as usize + 1, given: len });
        }
        Ok(())
    }
}

const TOO_LARGE: Error =
    Error::InvalidArgument { what: "extent * stride", given: i64::MAX, expected: "less than 2^60" };

/// A tensor that a call reads.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) data: *const u8,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    lifetime: PhantomData<&'a [u8]>,
}

/// A tensor that a call writes.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) data: *mut u8,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: a view is a shared borrow of plain numbers.
unsafe impl Send for View<'_> {}
// SAFETY: as above; no interior mutability.
unsafe impl Sync for View<'_> {}
// SAFETY: a mutable view is an exclusive borrow of plain numbers.
unsafe impl Send for ViewMut<'_> {}
// SAFETY: nothing can be written through a shared reference to it outside the library's own tasks.
unsafe impl Sync for ViewMut<'_> {}

impl<'a> View<'a> {
    /// A row-major tensor over a whole slice.
    ///
    /// # Errors
    /// A shape that does not fit the slice.
    pub fn new<T: Element>(data: &'a [T], shape: &[i64]) -> Result<View<'a>> {
        View::with_layout(data, Layout::contiguous(shape)?)
    }

    /// A strided tensor; element `[0, …]` is the slice's first.
    ///
    /// # Errors
    /// A shape and strides that leave the slice.
    pub fn strided<T: Element>(data: &'a [T], shape: &[i64], stride: &[i64]) -> Result<View<'a>> {
        View::with_layout(data, Layout::strided(shape, stride)?)
    }

    fn with_layout<T: Element>(data: &'a [T], layout: Layout) -> Result<View<'a>> {
        layout.fit("input slice", data.len())?;
        // SAFETY: `fit` checked that every element lies in the slice, which is borrowed for 'a.
        Ok(unsafe { View::from_raw(data.as_ptr().cast(), T::DTYPE, layout) })
    }

    /// A tensor over foreign memory.
    ///
    /// # Safety
    /// Every element of `layout` must be readable, initialised and unchanged for `'a`, unless another view
    /// of the same call is documented to share it.
    pub unsafe fn from_raw(data: *const u8, dtype: DType, layout: Layout) -> View<'a> {
        View { data, dtype, layout, lifetime: PhantomData }
    }
}

impl<'a> ViewMut<'a> {
    /// A row-major tensor over a whole slice.
    ///
    /// # Errors
    /// A shape that does not fit the slice.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[i64]) -> Result<ViewMut<'a>> {
        ViewMut::with_layout(data, Layout::contiguous(shape)?)
    }

    /// A strided tensor; element `[0, …]` is the slice's first.
    ///
    /// # Errors
    /// A shape and strides that leave the slice.
    pub fn strided<T: Element>(data: &'a mut [T], shape: &[i64], stride: &[i64]) -> Result<ViewMut<'a>> {
        ViewMut::with_layout(data, Layout::strided(shape, stride)?)
    }

    fn with_layout<T: Element>(data: &'a mut [T], layout: Layout) -> Result<ViewMut<'a>> {
        layout.fit("output slice", data.len())?;
        // SAFETY: `fit` checked that every element lies in the slice, which is borrowed mutably for 'a.
        Ok(unsafe { ViewMut::from_raw(data.as_mut_ptr().cast(), T::DTYPE, layout) })
    }

    /// A tensor over foreign memory.
    ///
    /// # Safety
    /// Every element of `layout` must be writable for `'a` and used by nothing else, unless another view of
    /// the same call is documented to share it.
    pub unsafe fn from_raw(data: *mut u8, dtype: DType, layout: Layout) -> ViewMut<'a> {
        ViewMut { data, dtype, layout, lifetime: PhantomData }
    }
}

/// A view without its lifetime, as plans and engines pass it on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) data: *mut u8,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
}

// SAFETY: tasks read inputs, and write outputs at places that no other task touches.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// Address of an element given by its leading indices; the others are 0. Bounds were checked by the plan.
    pub(crate) fn at(&self, index: &[usize]) -> *mut u8 {
        let offset: isize =
            index.iter().zip(&self.layout.stride).map(|(&i, &stride)| i as isize * stride as isize).sum();
        self.data.wrapping_offset(offset * self.dtype.size() as isize)
    }

    /// The same for a tensor that is known to be of this type.
    pub(crate) fn address<E: Element>(&self, index: &[usize]) -> *mut E {
        debug_assert_eq!(self.dtype, E::DTYPE);
        self.at(index).cast()
    }

    /// The same for an `f32` tensor.
    pub(crate) fn f32_at(&self, index: &[usize]) -> *mut f32 {
        self.address(index)
    }

    /// The part that begins at index `start` of an axis; how far it goes is the user's to know.
    pub(crate) fn from(mut self, axis: usize, start: usize) -> Tensor {
        let offset = start as isize * self.stride(axis) * self.dtype.size() as isize;
        self.data = self.data.wrapping_offset(offset);
        self
    }

    /// Entry `i` of the first axis, a tensor with one axis less.
    pub(crate) fn index(self, i: usize) -> Tensor {
        let mut part = self.from(0, i);
        part.layout.shape.rotate_left(1);
        part.layout.stride.rotate_left(1);
        part.layout.shape[MAX_RANK - 1] = 1;
        part.layout.stride[MAX_RANK - 1] = 0;
        part.layout.rank -= 1;
        part
    }

    /// The same with a last axis of one element.
    pub(crate) fn with_axis(mut self) -> Tensor {
        self.layout.rank += 1;
        self
    }

    /// Stride of one axis, in elements.
    pub(crate) fn stride(&self, axis: usize) -> isize {
        self.layout.stride[axis] as isize
    }

    /// Extent of one axis.
    pub(crate) fn extent(&self, axis: usize) -> usize {
        self.layout.shape[axis] as usize
    }
}

/// A one-dimensional `i32` tensor of offsets or slots, checked by the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Index(pub(crate) Tensor);

impl Index {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.0.extent(0)
    }

    /// Element `i`.
    pub(crate) fn get(&self, i: usize) -> i64 {
        assert!(i < self.len() && self.0.dtype == DType::I32);
        // SAFETY: the index is in range, and the caller vouched for the memory when the view was made.
        unsafe { self.0.at(&[i]).cast::<i32>().read().into() }
    }
}

/// A two-dimensional `i32` tensor of entries, checked by the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table(pub(crate) Tensor);

impl Table {
    /// Element `j` of row `i`.
    pub(crate) fn get(&self, i: usize, j: usize) -> i64 {
        assert!(i < self.0.extent(0) && j < self.0.extent(1) && self.0.dtype == DType::I32);
        // SAFETY: the indices are in range, and the caller vouched for the memory when the view was made.
        unsafe { self.0.at(&[i, j]).cast::<i32>().read().into() }
    }
}
