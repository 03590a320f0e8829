//! Calls that work until they are changed, and what their refusal must say.

use super::problem::Tensors;
use subquad::{Args, DType, Element, Error, Layout, Mode, Role, Status, View, ViewMut};

/// What no result is: an output still full of it was not written.
pub const CANARY: f32 = -3.125e7;

/// Panics unless the error has this status and a message with these words in this order.
#[track_caller]
pub fn expect(error: &Error, status: Status, words: &[&str]) {
    let message = error.to_string();
    assert_eq!(error.status(), status, "{message}");
    let mut rest = message.as_str();
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("`{word}` is not (there) in `{message}`"));
        rest = &rest[at + word.len()..];
    }
}

/// A tensor that a call binds, with nothing that keeps it from being wrong.
#[derive(Clone, Copy)]
pub struct Bound {
    pub role: Role,
    pub out: bool,
    pub data: *mut u8,
    pub dtype: DType,
    pub layout: Layout,
}

/// A call that works until it is changed.
pub struct Call {
    pub mode: Mode,
    pub bound: Vec<Bound>,
    pub workspace: Vec<u8>,
}

impl Call {
    /// A call with these tensors, contiguous ones of `f32`.
    pub fn of(mode: Mode, inputs: &mut Tensors, outputs: &mut Tensors, workspace: Vec<u8>) -> Call {
        let mut bound = Vec::new();
        for (out, tensors) in [(false, inputs), (true, outputs)] {
            for (&role, array) in tensors {
                let layout = Layout::contiguous(&array.shape).unwrap();
                let data = array.data.as_mut_ptr().cast();
                bound.push(Bound { role, out, data, dtype: DType::F32, layout });
            }
        }
        Call { mode, bound, workspace }
    }

    /// Makes an extent of a tensor wrong.
    #[track_caller]
    pub fn resize(&mut self, role: Role, axis: usize, wrong: i64) {
        let layout = &mut self.get(role).layout;
        let mut shape = layout.shape[..layout.rank].to_vec();
        shape[axis] = wrong.max(0);
        *layout = Layout::contiguous(&shape).unwrap();
        layout.shape[axis] = wrong;
    }

    #[track_caller]
    pub fn get(&mut self, role: Role) -> &mut Bound {
        self.bound.iter_mut().find(|bound| bound.role == role).expect("the role is bound")
    }

    pub fn remove(&mut self, role: Role) {
        self.bound.retain(|bound| bound.role != role);
    }

    /// Binds memory that stays.
    pub fn bind<T: Element>(&mut self, role: Role, out: bool, values: &[T], shape: &[i64]) {
        let data = values.to_vec().leak().as_mut_ptr().cast();
        let layout = Layout::contiguous(shape).unwrap();
        self.bound.push(Bound { role, out, data, dtype: T::DTYPE, layout });
    }

    pub fn input<T: Element>(&mut self, role: Role, values: &[T], shape: &[i64]) {
        self.bind(role, false, values, shape);
    }

    pub fn index(&mut self, role: Role, values: &[i32]) {
        self.input(role, values, &[values.len() as i64]);
    }

    /// Hands mode, tensors and workspace to `f`, which must check them before it touches any memory.
    pub fn run<R>(&mut self, f: impl FnOnce(Mode, &Args<'_>, &mut [u8]) -> R) -> R {
        let mut args = Args::new();
        for bound in &self.bound {
            // SAFETY: memory of the fixture, or faults that the call must find before it touches any.
            args = unsafe {
                if bound.out {
                    args.output(bound.role, ViewMut::from_raw(bound.data, bound.dtype, bound.layout))
                } else {
                    args.input(bound.role, View::from_raw(bound.data, bound.dtype, bound.layout))
                }
            };
        }
        f(self.mode, &args, &mut self.workspace)
    }
}
