//! The tensors of one call, by role.

use crate::catalog::Role;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, View, ViewMut};
use std::marker::PhantomData;

/// Most tensors one call takes.
pub const MAX_TENSORS: usize = 32;

/// On which side a tensor is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    In,
    Out,
}

/// Tensors bound to roles. Built on the stack; binding allocates nothing.
///
/// Faults of binding itself (too many tensors) are reported by the call.
#[derive(Clone, Debug)]
pub struct Args<'a> {
    bound: [Option<(Role, Side, Tensor)>; MAX_TENSORS],
    n: usize,
    lifetime: PhantomData<&'a mut [u8]>,
}

impl<'a> Args<'a> {
    /// Nothing bound.
    pub fn new() -> Args<'a> {
        Args { bound: [None; MAX_TENSORS], n: 0, lifetime: PhantomData }
    }

    /// Binds a tensor to read.
    #[must_use]
    pub fn input(mut self, role: Role, view: View<'a>) -> Args<'a> {
        self.bind_input(role, view);
        self
    }

    /// [`Args::input`] in a loop.
    pub fn bind_input(&mut self, role: Role, view: View<'a>) {
        let tensor = Tensor { data: view.data.cast_mut(), dtype: view.dtype, layout: view.layout };
        self.push(role, Side::In, tensor);
    }

    /// Binds a tensor to write.
    #[must_use]
    pub fn output(mut self, role: Role, view: ViewMut<'a>) -> Args<'a> {
        self.bind_output(role, view);
        self
    }

    /// [`Args::output`] in a loop.
    pub fn bind_output(&mut self, role: Role, view: ViewMut<'a>) {
        self.push(role, Side::Out, Tensor { data: view.data, dtype: view.dtype, layout: view.layout });
    }

    /// Binds one piece of memory as what is carried in and out: `in_place(STATE_IN, STATE_OUT, state)`.
    #[must_use]
    pub fn in_place(mut self, role_in: Role, role_out: Role, view: ViewMut<'a>) -> Args<'a> {
        let tensor = Tensor { data: view.data, dtype: view.dtype, layout: view.layout };
        self.push(role_in, Side::In, tensor);
        self.push(role_out, Side::Out, tensor);
        self
    }

    fn push(&mut self, role: Role, side: Side, tensor: Tensor) {
        if let Some(slot) = self.bound.get_mut(self.n) {
            *slot = Some((role, side, tensor));
        }
        self.n += 1;
    }

    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = (Role, Side, Tensor)> + Clone + '_> {
        if self.n > MAX_TENSORS {
            return Err(Error::TooManyTensors { given: self.n, max: MAX_TENSORS });
        }
        Ok(self.bound.iter().copied().flatten())
    }
}

impl std::default::Default for Args<'_> {
    fn default() -> Self {
        Args::new()
    }
}
