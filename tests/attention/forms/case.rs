//! Random calls.

use crate::common::golden::Array;
use crate::common::problem::Strided;
use crate::common::support::Rng;
use crate::common::types::{Stored, Types, contiguous, rounded};
use std::collections::BTreeMap;
use subquad::{Args, Context, Desc, Error, Mode, Plan, Role, Value, View, ViewMut};

/// A call with its tensors.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub params: Vec<(&'static str, Value)>,
    pub mode: Mode,
    /// Of `q`, and of `k` and `v`.
    pub heads: (usize, usize),
    pub d: usize,
    pub e: usize,
    /// Queries and keys of each sequence.
    pub lengths: Vec<(usize, usize)>,
    /// Sequences are packed, else a batch of one length.
    pub ragged: bool,
    pub inputs: BTreeMap<Role, Array>,
    pub indices: Vec<(Role, Vec<i32>)>,
    pub outputs: BTreeMap<Role, Vec<i64>>,
    /// What an element of an input is more than the calls say, for those who read rows of it.
    pub nudge: Option<(Role, usize, f64)>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case { name, params, mode, heads, d, e, lengths, ragged, indices, .. } = self;
        let bound: Vec<_> = self.inputs.keys().map(|role| role.to_string()).collect();
        let bound = bound.join(",");
        write!(f, "{name} {mode} {params:?} heads {heads:?} D={d} E={e} ")?;
        write!(f, "lengths {lengths:?} ragged {ragged} {indices:?} {bound}")
    }
}

/// What came out.
#[derive(Debug)]
pub struct Run {
    pub reals: BTreeMap<Role, Array>,
    pub index: Vec<i32>,
}

impl Run {
    pub fn bits(&self) -> (Vec<u32>, Vec<i32>) {
        let reals = self.reals.values().flat_map(|array| array.data.iter().map(|x| x.to_bits()));
        (reals.collect(), self.index.clone())
    }
}

fn size(rng: &mut Rng) -> usize {
    if rng.one_in(6) { 1 } else { 1 + rng.below(50) }
}

/// A number of tokens: none, one, some, more than a tile of keys.
fn tokens(rng: &mut Rng) -> usize {
    match rng.below(8) {
        0 => rng.below(2),
        1 => 60 + rng.below(110),
        _ => 1 + rng.below(60),
    }
}

impl Case {
    pub fn random(rng: &mut Rng, name: &'static str) -> Case {
        let mechanism = subquad::catalog::find(name).unwrap();
        let (mut mode, mut heads) =
            (rng.pick(mechanism.modes), rng.pick(&[(1, 1), (2, 2), (3, 3), (4, 2), (6, 2), (3, 1)]));
        if name == "srformer" {
            (mode, heads) = (Mode::Cross, (heads.0, heads.0));
        }
        let ragged = mode != Mode::Step && rng.one_in(3);
        let longer = if rng.one_in(2) { 0 } else { tokens(rng) };
        let length = |rng: &mut Rng| {
            let (t, s) = (tokens(rng), tokens(rng));
            match mode {
                Mode::Step => (1, s.max(1)),
                Mode::Bidirectional => (t, t),
                Mode::Causal if ragged => (t, t),
                Mode::Causal => (t, t + longer),
                _ => (t, s),
            }
        };
        let (n, same) = (1 + rng.below(3), length(rng));
        let lengths = (0..n).map(|_| if ragged { length(rng) } else { same }).collect();
        let (d, e) = (size(rng), size(rng));
        let e = if name == "srformer" { d } else { e };
        let params = vec![];
        let (inputs, outputs) = (BTreeMap::new(), BTreeMap::new());
        let (indices, nudge) = (vec![], None);
        let mut case =
            Case { name, params, mode, heads, d, e, lengths, ragged, inputs, indices, outputs, nudge };
        case.fill(rng);
        case
    }

    fn fill(&mut self, rng: &mut Rng) {
        let (h, hk) = self.heads;
        let (d, e, n) = (self.d as i64, self.e as i64, self.lengths.len() as i64);
        let (b, t, s) = match self.ragged {
            true => (1, self.total().0, self.total().1),
            false => (n, self.lengths[0].0, self.lengths[0].1),
        };
        let (h, hk, t, s) = (h as i64, hk as i64, t as i64, s as i64);
        self.add(rng, Role::Q, &[b, h, t, d], 1.5);
        self.add(rng, Role::K, &[b, hk, s, d], 1.5);
        self.add(rng, Role::V, &[b, hk, s, e], 1.0);
        self.outputs.insert(Role::OUT, vec![b, h, t, e]);
        if self.ragged {
            self.indices.push((Role::CU_SEQLENS, self.offsets(|length| length.0)));
            if self.mode == Mode::Cross {
                self.indices.push((Role::CU_SEQLENS_K, self.offsets(|length| length.1)));
            }
        }
        let has = |role| subquad::catalog::find(self.name).unwrap().role(role).is_some();
        for role in [Role::KEY_LEN, Role::QUERY_LEN] {
            if has(role) && rng.one_in(3) {
                let own = self.lengths.iter().map(|&(t, s)| if role == Role::KEY_LEN { s } else { t });
                let lengths = own.map(|most| rng.below(most + 1) as i32).collect();
                self.indices.push((role, lengths));
            }
        }
        match self.name {
            "fam_block" => {
                let f = rng.below(70) as i64;
                self.add(rng, Role::FAM_Q, &[n, h, f, d], 1.5);
                self.add(rng, Role::FAM_K, &[n, hk, f, d], 1.5);
                self.add(rng, Role::FAM_V, &[n, hk, f, e], 1.0);
                if rng.one_in(2) {
                    self.outputs.insert(Role::FAM_OUT, vec![n, h, f, e]);
                }
            }
            "hard_retrieval" if rng.one_in(2) => self.params.push(("smoothing", 0.3.into())),
            "dnas" if rng.one_in(2) => {
                self.add(rng, Role::BLEND, &[h], 1.0);
                self.inputs.get_mut(&Role::BLEND).unwrap().data.iter_mut().for_each(|x| *x = x.abs());
            }
            "srformer" => {
                self.add(rng, Role::W_MEM, &[d, d], 0.5);
                self.outputs.insert(Role::STATE_OUT, vec![n, h, d, d]);
                self.params.push(("block", rng.pick(&[1i64, 7, 16, 70]).into()));
                let choices: [(&'static str, Value); 6] = [
                    ("kv_limit", 0.0.into()),
                    ("threshold", 1.5.into()),
                    ("leak", 0.9.into()),
                    ("pad", "zero_key".into()),
                    ("normalize", "none".into()),
                    ("gen_len", rng.pick(&[1i64, 20, 300]).into()),
                ];
                self.params.extend(choices.into_iter().filter(|_| rng.one_in(3)));
                if self.real("gen_len").is_some() && rng.one_in(2) {
                    self.carry_all();
                }
            }
            "dape_v2" => {
                let (f, taps) = (1 + rng.below(12) as i64, rng.pick(&[1i64, 3, 5]));
                self.params.extend([("F", f.into()), ("K", taps.into())]);
                let choices: [(&'static str, Value); 2] =
                    [("edge", "zero".into()), ("leaky_slope", 0.2.into())];
                self.params.extend(choices.into_iter().filter(|_| rng.one_in(2)));
                self.add(rng, Role::W_CONV1, &[f, 2 * h, taps], 0.5);
                self.add(rng, Role::B_CONV1, &[f], 0.5);
                self.add(rng, Role::W_CONV2, &[h, f, taps], 0.5);
                self.add(rng, Role::B_CONV2, &[h], 0.5);
                if rng.one_in(2) {
                    self.add(rng, Role::ALIBI_SLOPES, &[h], 0.2);
                } else {
                    let shape = [rng.pick(&[b, 1]), rng.pick(&[h, 1]), t, s];
                    self.add(rng, Role::BIAS, &shape, 1.0);
                }
            }
            "lla" => self.fill_fit(rng, [n, b, h, t, s]),
            _ => {}
        }
    }

    /// Binds every part of the state that `srformer` can hand on.
    pub fn carry_all(&mut self) {
        let (n, h, d) = (self.lengths.len() as i64, self.heads.0 as i64, self.d as i64);
        self.outputs.extend([Role::MEMORY_OUT, Role::TOTAL_OUT].map(|role| (role, vec![n, h, d, d])));
        if self.word("normalize") != Some("none") {
            self.outputs.insert(Role::Z_OUT, vec![n, h, d]);
        }
    }

    fn fill_fit(&mut self, rng: &mut Rng, [n, b, h, t, s]: [i64; 5]) {
        let shapes: [&[i64]; 4] = [&[], &[1], &[n, h], &[b, h, t]];
        let shape = rng.pick(&shapes);
        let least = rng.pick(&[0.1f32, 0.5, 3.0, 0.002]);
        if shape.is_empty() {
            self.params.push(("ridge", f64::from(least).into()));
        } else {
            self.add(rng, Role::RIDGE, shape, least);
            let ridges = self.inputs.get_mut(&Role::RIDGE).unwrap();
            ridges.data.iter_mut().for_each(|x| *x = least + x.abs());
        }
        if rng.one_in(2) {
            self.params.push(("solver", "cg".into()));
            self.params.push(("cg_max_iters", 300i64.into()));
        }
        if t <= s && !self.ragged && rng.one_in(2) {
            self.params.push(("window_left", rng.pick(&[0i64, 5, 40]).into()));
        }
    }

    fn add(&mut self, rng: &mut Rng, role: Role, shape: &[i64], scale: f32) {
        let data = rng.values(shape.iter().product::<i64>() as usize, scale);
        self.inputs.insert(role, Array { shape: shape.to_vec(), data });
    }

    fn offsets(&self, of: impl Fn(&(usize, usize)) -> usize) -> Vec<i32> {
        let mut at = 0;
        let ends = self.lengths.iter().map(|length| {
            at += of(length) as i32;
            at
        });
        std::iter::once(0).chain(ends.collect::<Vec<_>>()).collect()
    }

    fn total(&self) -> (usize, usize) {
        self.lengths.iter().fold((0, 0), |(t, s), (own_t, own_s)| (t + own_t, s + own_s))
    }

    /// The entry of the batch and the first query and key of a sequence.
    pub fn start(&self, sequence: usize) -> (usize, usize, usize) {
        if !self.ragged {
            return (sequence, 0, 0);
        }
        let before = &self.lengths[..sequence];
        (0, before.iter().map(|l| l.0).sum(), before.iter().map(|l| l.1).sum())
    }

    /// A row of an input `[B, H, tokens, channels]`.
    pub fn row(&self, role: Role, at: [usize; 3]) -> Vec<f64> {
        let array = &self.inputs[&role];
        let n = |axis: usize| array.shape[axis] as usize;
        let first = ((at[0] * n(1) + at[1]) * n(2) + at[2]) * n(3);
        let mut row: Vec<f64> = array.data[first..first + n(3)].iter().map(|&x| x.into()).collect();
        if let Some((_, i, by)) = self.nudge.filter(|(own, ..)| *own == role)
            && let Some(x) = i.checked_sub(first).and_then(|i| row.get_mut(i))
        {
            *x += by;
        }
        row
    }

    /// An element of an input.
    pub fn element(&self, role: Role, i: usize) -> f64 {
        let by = self.nudge.filter(|&(own, at, _)| (own, at) == (role, i)).map_or(0.0, |(.., by)| by);
        f64::from(self.inputs[&role].data[i]) + by
    }

    /// A length of a sequence that has `n`.
    pub fn length(&self, role: Role, sequence: usize, n: usize) -> usize {
        let own = self.indices.iter().find(|(own, _)| *own == role);
        own.map_or(n, |(_, lengths)| lengths[sequence] as usize)
    }

    pub fn real(&self, name: &str) -> Option<f64> {
        let (_, value) = self.params.iter().find(|(own, _)| *own == name)?;
        match value {
            Value::Real(x) => Some(*x),
            Value::Int(x) => Some(*x as f64),
            _ => None,
        }
    }

    pub fn word(&self, name: &str) -> Option<&str> {
        let (_, value) = self.params.iter().find(|(own, _)| *own == name)?;
        if let Value::Word(word) = value { Some(word) } else { None }
    }

    /// The case with inputs that these types hold exactly.
    pub fn rounded(mut self, types: Types) -> Case {
        self.inputs.iter_mut().for_each(|(&role, array)| *array = rounded(array, types.of(role)));
        self
    }

    /// Keys that a query sees, in its sequence.
    pub fn visible(&self, sequence: usize, t: usize) -> std::ops::Range<usize> {
        let (n_q, n_k) = self.lengths[sequence];
        let keys = self.length(Role::KEY_LEN, sequence, n_k);
        let position = (n_k + t) as i64 - n_q as i64;
        let bound = |name: &str| self.real(name).filter(|&w| w >= 0.0).map(|w| w as i64);
        let causal = matches!(self.mode, Mode::Causal | Mode::Step);
        let last = if causal { position } else { n_k as i64 };
        let last = bound("window_right").map_or(last, |w| last.min(position + w));
        let first = bound("window_left").map_or(0, |w| position - w).max(0);
        let end = (last + 1).clamp(0, keys as i64);
        first.min(end) as usize..end as usize
    }

    /// A key or a value of one sequence that is NaN, and which elements of `out` that reaches.
    #[allow(clippy::type_complexity, reason = "a case and a predicate")]
    pub fn with_nan(&self, rng: &mut Rng) -> Option<(Case, Box<dyn Fn(usize) -> bool>)> {
        // A value reaches the queries that pick it, and a query sees all others through the sums of a column.
        // The memory of a segment holds all other keys.
        if self.name == "srformer" {
            return None;
        }
        let role = if self.name == "hard_retrieval" || rng.one_in(2) { Role::K } else { Role::V };
        let sequence = rng.below(self.lengths.len());
        let (batch, q0, k0) = self.start(sequence);
        let (n_q, n_k) = self.lengths[sequence];
        if n_k == 0 || n_q == 0 {
            return None;
        }
        let (key, head) = (rng.below(n_k), rng.below(self.heads.1));
        let mut case = self.clone();
        let array = case.inputs.get_mut(&role).unwrap();
        let channels = array.shape[3] as usize;
        let row = (batch * self.heads.1 + head) * array.shape[2] as usize + k0 + key;
        array.data[row * channels + rng.below(channels)] = f32::NAN;
        let at = array.data[row * channels..][..channels].iter().position(|x| x.is_nan()).unwrap();
        // Scores of one head correct those of all.
        let all_heads = self.name == "dape_v2" && role == Role::K;
        let (shape, plain) = (self.outputs[&Role::OUT].clone(), self.clone());
        let reached = move |i: usize| {
            let n = |axis: usize| shape[axis] as usize;
            let (e, t) = (i % n(3), i / n(3) % n(2));
            let (h, b) = (i / n(3) / n(2) % n(1), i / n(3) / n(2) / n(1));
            let own = b == batch
                && (q0..q0 + n_q).contains(&t)
                && (h / (plain.heads.0 / plain.heads.1) == head || all_heads);
            let live = own && t - q0 < plain.length(Role::QUERY_LEN, sequence, n_q);
            live && plain.visible(sequence, t - q0).contains(&key) && (role == Role::K || e == at)
        };
        Some((case, Box::new(reached)))
    }

    pub fn desc(&self, types: Types) -> Desc {
        let (h, hk) = (self.heads.0 as i64, self.heads.1 as i64);
        let desc = Desc::new(self.name).modes(self.mode).heads(h, hk, hk).dims(self.d as i64, self.e as i64);
        let desc = self.params.iter().fold(desc, |desc, (name, value)| desc.param(name, value.clone()));
        types.desc(desc)
    }

    /// Runs it on tensors of these types, arranged at random if there is a generator.
    pub fn run(&self, context: &Context, types: Types, mut rng: Option<&mut Rng>) -> Result<Run, Error> {
        let plan = Plan::new(context, &self.desc(types))?;
        let mut stored = |role: Role, array: &Array| {
            let strided = match &mut rng {
                Some(rng) => Strided::random(rng, array),
                None => contiguous(array),
            };
            Stored::new(strided, if role == Role::FAM_OUT { types.out } else { types.of(role) })
        };
        let inputs: Vec<_> = self.inputs.iter().map(|(&role, array)| (role, stored(role, array))).collect();
        let outputs = self.outputs.iter();
        let mut outputs: Vec<_> =
            outputs.map(|(&role, shape)| (role, stored(role, &Array::filled(shape, f32::NAN)))).collect();
        let mut shape = self.outputs[&Role::OUT].clone();
        shape.truncate(3);
        let retrieves = self.name == "hard_retrieval";
        let mut index = vec![i32::MIN; if retrieves { shape.iter().product::<i64>() as usize } else { 0 }];
        let mut args = Args::new();
        for (role, tensor) in &inputs {
            args = args.input(*role, tensor.view());
        }
        for (role, values) in &self.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64])?);
        }
        for (role, tensor) in &mut outputs {
            args = args.output(*role, tensor.view_mut());
        }
        if retrieves {
            args = args.output(Role::INDEX, ViewMut::new(&mut index, &shape)?);
        }
        plan.execute(self.mode, &args, &mut vec![0xff; plan.workspace_size()])?;
        let reals = outputs.iter_mut().map(|(role, tensor)| (*role, tensor.read())).collect();
        Ok(Run { reals, index })
    }
}
