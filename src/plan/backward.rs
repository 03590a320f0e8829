//! Gradients: which calls have them, how much workspace they need, and the call itself.

use super::check::{self, Bound, Pass};
use super::shape::{Size, Sizes};
use super::{Inner, Plan};
use crate::args::Args;
use crate::catalog::Mode;
use crate::error::{Error, Result};
use crate::workspace::{self, Workspace};

impl Plan {
    /// Whether [`Plan::backward`] has gradients in this mode.
    pub fn has_gradient(&self, mode: Mode) -> bool {
        self.inner.desc.modes.contains(mode) && self.inner.no_gradient(mode).is_none()
    }

    /// Bytes of workspace that [`Plan::backward`] needs for so many sequences (the batch, or the packed ones of
    /// `cu_seqlens`) with so many queries and keys in each. Of sequences that differ, the longest counts.
    ///
    /// It grows with the length, as what [`Plan::execute`] needs does not: each of the context's workers keeps
    /// the state of a head at every 256th token, and computes the others anew. With slots (`gsa`, `abc`) it keeps rows
    /// of `M` as well: two for each query that reads a state, four or six for each key; with softmax attention each worker
    /// keeps the gradients of the keys and values of a head instead (`dape_v2`: of all heads, and a row of the map of scores). In
    /// `fam_block` the rows of the memory count among the keys, unless parameter `F` says how many they are; `srformer` needs
    /// matrices `[D, D]`: for each worker one for every segment that a query is in, and one for each sequence and head.
    /// With 16-bit `q`, `k` and `v` there is room for gradients of rows that several heads share, as `f32`.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the plan has no gradient, or so much workspace can't be.
    pub fn backward_workspace_size(&self, sequences: usize, n_q: usize, n_k: usize) -> Result<usize> {
        let mut modes = Mode::ALL.into_iter().filter(|&mode| self.inner.desc.modes.contains(mode));
        if !modes.clone().any(|mode| self.has_gradient(mode))
            && let Some(mode) = modes.next()
        {
            return Err(self.inner.unsupported(mode));
        }
        let keys = n_k.saturating_add(self.inner.memory_rows(&self.inner.sizes));
        Ok(workspace::bytes(1, self.inner.backward_len(sequences, n_q, keys)?))
    }

    /// Computes gradients of inputs from gradients of outputs.
    ///
    /// `args` binds the inputs of [`Plan::execute`], the state included, as they were; `dout`
    /// ([`Role::OUT`](crate::Role::OUT)`.grad()`) as an input, and `dstate_out` and the like where what was
    /// carried out has a gradient (absent: zero); and as outputs those of the gradients `dq`, `dk`, `dstate_in`, …
    /// that are wanted. The catalogue says which roles have one (`differentiable` of
    /// [`RoleSpec`](crate::catalog::RoleSpec)). A gradient has the shape of its role, any strides of its own, and
    /// is written, not added to. Gradients of shared heads, and of what all
    /// sequences share, are sums over those who share; `dstate_in` and `dstate_out` are addressed by
    /// `state_index` where states are.
    ///
    /// With `feature_map = exp` and in `lln` a state comes in plain scale or with its shift; gradients of
    /// states likewise: where `shift_in` is bound, `dstate_in` and `dz_in` are those of `state_in` and `z_in` as
    /// they are bound, at a fixed shift, and `dstate_out`, `dz_out` those of what forward writes beside `shift_out`.
    /// A sequence without a state before it has one, with shifts of −∞.
    ///
    /// `lasp` writes to `msg_grad`, where it is bound, the gradient of every segment's incoming state but the first's.
    ///
    /// `out` and `state_out` are neither read nor written: what backward needs of the forward pass it computes
    /// anew. One exception: mechanisms of one softmax (`softmax`, `focal`, `fox`, `bswa`, `integral`) take `out` and
    /// `lse` of [`Plan::execute`] as inputs, both or none, and do without that work. `hard_retrieval` takes `index`: −1 or a
    /// key that the query sees, sampled perhaps, in place of that of the best key. Long sequences are differentiated in pieces by handing `dstate_in` of a later piece to the one
    /// before as `dstate_out`.
    ///
    /// **Element types.** Inputs have those of [`Plan::execute`]. A gradient is `f32`, or has the type of what it is the
    /// gradient of: `dq`, `dk`, `dv` that of `desc.dtype_qkv`, `dout` that of `desc.dtype_out`, those of states that of
    /// `desc.dtype_state`, those of other inputs the type that the input has in this call. Types may be mixed: `f32`
    /// gradients of 16-bit tensors are what an optimiser adds up. `dbias`, which is added up in place, is always `f32`, and so
    /// are `dz_in`, `dz_out` and `msg_grad`. Arithmetic is `f32`, and each gradient is rounded once: it has the bits of the
    /// `f32` call on the same values, rounded to nearest, ties to even.
    ///
    /// The same bits for any number of threads and whatever else is wanted. *Allocates*: no, except for the text
    /// of an error. Nothing is written if the checks find a fault.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no gradient: modes `step` and `draw`, mechanisms without one.
    /// Otherwise those of [`Plan::execute`].
    pub fn backward(&self, mode: Mode, args: &Args<'_>, workspace: &mut [u8]) -> Result<()> {
        let inner = &*self.inner;
        check::check_planned(inner, mode)?;
        if inner.no_gradient(mode).is_some() {
            return Err(inner.unsupported(mode));
        }
        let mut bound = Bound::new(inner);
        bound.bind(inner, Pass::Backward, mode, args)?;
        let call = bound.call(mode);
        let (n_q, n_k) = call.sequences.longest();
        let n_k = n_k.saturating_add(inner.memory_rows(bound.sizes()));
        let len = inner.backward_len(call.sequences.len(), n_q, n_k)?;
        let workspace = Workspace::new(workspace, 1, len)?;
        inner.engine.backward(inner.context.runner(), &call, &workspace)
    }
}

impl Inner {
    /// Why there is no gradient in this mode; `None` where there is one.
    fn no_gradient(&self, mode: Mode) -> Option<&'static str> {
        match mode {
            Mode::Step => Some("a step is a token of mode causal, which has gradients"),
            Mode::Draw => Some("the mode has no gradient"),
            _ if !self.mechanism.gradient => Some("the mechanism has no gradient"),
            _ if self.engine.backward_len(1, 1, 1, 1).is_none() => {
                Some("gradients with these parameters are not in this version")
            }
            _ => None,
        }
    }

    fn unsupported(&self, mode: Mode) -> Error {
        let what = format!("backward of {} in mode {mode}", self.mechanism.name);
        Error::Unsupported { what, why: self.no_gradient(mode).unwrap_or_default().into() }
    }

    /// Rows that belong to whole sequences and are keys besides theirs.
    fn memory_rows(&self, sizes: &Sizes) -> usize {
        let rows = sizes.get(Size::F).filter(|_| self.settings.has_memory());
        rows.map_or(0, |rows| rows as usize)
    }

    /// Elements of workspace.
    fn backward_len(&self, sequences: usize, n_q: usize, n_k: usize) -> Result<usize> {
        let len = self.engine.backward_len(sequences, n_q, n_k, self.context.max_workers());
        // So that its bytes can be counted.
        len.filter(|&len| len <= isize::MAX as usize / 8).ok_or_else(|| Error::Unsupported {
            what: format!("backward of {sequences} sequences with {n_q} queries and {n_k} keys"),
            why: "its workspace would not fit in memory".into(),
        })
    }
}
