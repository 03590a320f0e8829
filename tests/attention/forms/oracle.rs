//! What a call must give, by the formulas of `docs/spec/softmax.md`, in `f64` and without tiles.

use super::case::{Case, Run};
use std::collections::BTreeMap;
use subquad::Role;

/// An element, and how far an `f32` evaluation may be from it.
#[derive(Clone, Copy)]
pub struct Element {
    pub value: f64,
    pub tolerance: f64,
}

/// What the queries of a sequence and a head read: its keys and values, and the memory's.
struct Seen {
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    memory: [Vec<Vec<f64>>; 2],
    /// `ln Σ_t e^{X_ts}` of `dnas`.
    columns: Vec<f64>,
}

/// One query: its sequence, query head, token.
struct Query<'a> {
    case: &'a Case,
    sequence: usize,
    head: usize,
    t: usize,
    seen: &'a Seen,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `ln Σ e^x`.
fn log_sum(x: &[f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln() }
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum = log_sum(x);
    x.iter().map(|x| (x - sum).exp()).collect()
}

impl Case {
    fn scale(&self) -> f64 {
        self.real("scale").unwrap_or((self.d as f64).sqrt().recip())
    }

    pub fn key_head(&self, head: usize) -> usize {
        head / (self.heads.0 / self.heads.1)
    }

    /// Rows `[tokens][channels]` of a sequence and a head.
    pub fn rows(&self, role: Role, sequence: usize, head: usize) -> Vec<Vec<f64>> {
        let (batch, q0, k0) = self.start(sequence);
        let (n_q, n_k) = self.lengths[sequence];
        let (first, n) = if role == Role::Q { (q0, n_q) } else { (k0, n_k) };
        (first..first + n).map(|t| self.row(role, [batch, head, t])).collect()
    }
}

/// Every output, row-major in its shape.
pub fn expect(case: &Case) -> BTreeMap<Role, Vec<Element>> {
    let zero = Element { value: 0.0, tolerance: 0.0 };
    let filled =
        |(&role, shape): (&Role, &Vec<i64>)| (role, vec![zero; shape.iter().product::<i64>() as usize]);
    let mut all: BTreeMap<_, _> = case.outputs.iter().map(filled).collect();
    for sequence in 0..case.lengths.len() {
        let (batch, q0, _) = case.start(sequence);
        if case.name == "dape_v2" {
            dape(case, sequence, &mut all);
            continue;
        }
        for head in 0..case.heads.0 {
            if case.name == "srformer" {
                srformer(case, sequence, head, &mut all);
                continue;
            }
            let seen = Seen::new(case, sequence, head);
            for t in 0..case.lengths[sequence].0 {
                let query = Query { case, sequence, head, t, seen: &seen };
                let row = match case.name {
                    "fam_block" => fam_block(&query),
                    "hard_retrieval" => continue,
                    "dnas" => dnas(&query),
                    "lla" => lla(&query),
                    other => panic!("no definition of {other}"),
                };
                put(case, &mut all, Role::OUT, [batch, head, q0 + t], row);
            }
            if let Some(shape) = case.outputs.get(&Role::FAM_OUT) {
                for row in 0..shape[2] as usize {
                    let values = fam_memory(case, &seen, sequence, head, row);
                    put(case, &mut all, Role::FAM_OUT, [sequence, head, row], values);
                }
            }
        }
    }
    if case.name == "hard_retrieval" {
        all.clear();
    }
    all
}

fn put(case: &Case, all: &mut BTreeMap<Role, Vec<Element>>, role: Role, at: [usize; 3], row: Vec<Element>) {
    let shape = &case.outputs[&role];
    let n = |axis: usize| shape[axis] as usize;
    let first = ((at[0] * n(1) + at[1]) * n(2) + at[2]) * n(3);
    all.get_mut(&role).unwrap()[first..first + n(3)].copy_from_slice(&row);
}

/// `Σ w v`; scores of some size carry errors of that size into weights.
fn weigh(weights: &[f64], v: &[&[f64]], e: usize, size: f64) -> Vec<Element> {
    let mut sums = vec![[0.0; 2]; e];
    for (w, v) in weights.iter().zip(v) {
        for ([value, magnitude], v) in sums.iter_mut().zip(*v) {
            *value += w * v;
            *magnitude += (w * v).abs();
        }
    }
    let relative = 6e-8 * (20.0 + v.len() as f64 + 4.0 * size);
    let element = |[value, magnitude]: [f64; 2]| Element { value, tolerance: relative * magnitude + 1e-9 };
    sums.into_iter().map(element).collect()
}

/// Sizes of the terms of scores.
fn size_of<K: AsRef<[f64]>>(q: &[f64], keys: &[K], scale: f64) -> f64 {
    let size = |k: &K| q.iter().zip(k.as_ref()).map(|(q, k)| (q * k).abs()).sum::<f64>();
    1.0 + scale * keys.iter().map(size).fold(0.0, f64::max) * (1.0 + q.len() as f64 / 8.0)
}

impl Seen {
    fn new(case: &Case, sequence: usize, head: usize) -> Seen {
        let key_head = case.key_head(head);
        let [keys, values] = [Role::K, Role::V].map(|role| case.rows(role, sequence, key_head));
        let memory = [Role::FAM_K, Role::FAM_V].map(|role| {
            let rows = case.inputs.get(&role).map_or(0, |memory| memory.shape[2] as usize);
            (0..rows).map(|row| case.row(role, [sequence, key_head, row])).collect()
        });
        let columns = if case.name == "dnas" { columns(case, &keys, sequence, head) } else { vec![] };
        Seen { keys, values, memory, columns }
    }

    /// Some of the keys and values.
    fn of(&self, keys: std::ops::Range<usize>) -> [Vec<&[f64]>; 2] {
        [&self.keys, &self.values].map(|rows| refs(&rows[keys.clone()]))
    }

    /// The memory's keys and values, after these of the sequence.
    fn with_memory(&self, keys: std::ops::Range<usize>) -> [Vec<&[f64]>; 2] {
        let mut all = self.of(keys);
        all.iter_mut().zip(&self.memory).for_each(|(all, memory)| all.extend(refs(memory)));
        all
    }
}

fn refs(rows: &[Vec<f64>]) -> Vec<&[f64]> {
    rows.iter().map(Vec::as_slice).collect()
}

impl Query<'_> {
    fn q(&self) -> Vec<f64> {
        let (batch, q0, _) = self.case.start(self.sequence);
        self.case.row(Role::Q, [batch, self.head, q0 + self.t])
    }
}

fn attend(case: &Case, q: &[f64], [k, v]: [Vec<&[f64]>; 2]) -> Vec<Element> {
    let scores: Vec<f64> = k.iter().map(|k| case.scale() * dot(q, k)).collect();
    weigh(&softmax(&scores), &v, case.e, size_of(q, &k, case.scale()))
}

/// The softmax whose gradients the scores of `hard_retrieval` have.
pub fn soft_retrieval(case: &Case, [sequence, head, t]: [usize; 3]) -> Vec<f64> {
    let seen = Seen::new(case, sequence, head);
    let query = Query { case, sequence, head, t, seen: &seen };
    let out = attend(case, &query.q(), seen.of(case.visible(sequence, t)));
    out.iter().map(|element| element.value).collect()
}

/// Scores of the keys that a query sees.
pub fn scores(case: &Case, [sequence, head, t]: [usize; 3]) -> Vec<f64> {
    let (batch, q0, _) = case.start(sequence);
    let q = case.row(Role::Q, [batch, head, q0 + t]);
    let keys = case.rows(Role::K, sequence, case.key_head(head));
    case.visible(sequence, t).map(|s| dot(&q, &keys[s])).collect()
}

fn fam_block(query: &Query<'_>) -> Vec<Element> {
    let seen = query.seen.with_memory(query.case.visible(query.sequence, query.t));
    attend(query.case, &query.q(), seen)
}

fn fam_memory(case: &Case, seen: &Seen, sequence: usize, head: usize, row: usize) -> Vec<Element> {
    let (n_q, n_k) = case.lengths[sequence];
    attend(case, &case.row(Role::FAM_Q, [sequence, head, row]), seen.with_memory(n_k - n_q..n_k))
}

fn columns(case: &Case, keys: &[Vec<f64>], sequence: usize, head: usize) -> Vec<f64> {
    let queries = case.rows(Role::Q, sequence, head);
    let live = &queries[..case.length(Role::QUERY_LEN, sequence, queries.len())];
    let column = |k: &Vec<f64>| log_sum(&Vec::from_iter(live.iter().map(|q| case.scale() * dot(q, k))));
    keys.iter().map(column).collect()
}

fn dnas(query: &Query<'_>) -> Vec<Element> {
    let Query { case, sequence, head, t, seen } = *query;
    let (n_q, n_k) = case.lengths[sequence];
    if t >= case.length(Role::QUERY_LEN, sequence, n_q) {
        return vec![Element { value: 0.0, tolerance: 0.0 }; case.e];
    }
    let keys = case.length(Role::KEY_LEN, sequence, n_k);
    let [k, v] = seen.of(0..keys);
    let q = query.q();
    let plain: Vec<f64> = k.iter().map(|k| case.scale() * dot(&q, k)).collect();
    let less: Vec<f64> = plain.iter().zip(&seen.columns).map(|(x, c)| x - c).collect();
    let blend = case.inputs.get(&Role::BLEND).map_or(1.0, |blend| blend.data[head].into());
    let both = softmax(&less).into_iter().zip(softmax(&plain));
    let weights: Vec<f64> = both.map(|(w, p)| blend * w + (1.0 - blend) * p).collect();
    // A sum over the queries has the error of the largest of their scores.
    let size = size_of(&vec![1.5; case.d], &[vec![1.5; case.d]], case.scale());
    weigh(&weights, &v, case.e, size + n_q as f64 / 8.0)
}

/// Solves `A x = b` with pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs())).unwrap();
        a.swap(i, pivot);
        b.swap(i, pivot);
        let (row, right) = (a[i].clone(), b[i]);
        for j in i + 1..n {
            let factor = a[j][i] / row[i];
            (i..n).for_each(|c| a[j][c] -= factor * row[c]);
            b[j] -= factor * right;
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

fn lla(query: &Query<'_>) -> Vec<Element> {
    let Query { case, sequence, head, t, .. } = *query;
    let (q, d) = (query.q(), case.d);
    let ridge = case.inputs.get(&Role::RIDGE).map(|ridge| {
        let (batch, q0, _) = case.start(sequence);
        f64::from(match ridge.shape.len() {
            1 => ridge.data[0],
            2 => ridge.data[sequence * case.heads.0 + head],
            _ => ridge.data[(batch * case.heads.0 + head) * ridge.shape[2] as usize + q0 + t],
        })
    });
    let ridge = ridge.or(case.real("ridge")).unwrap();
    let [k, v] = query.seen.of(case.visible(sequence, t));
    if k.is_empty() {
        return vec![Element { value: 0.0, tolerance: 0.0 }; case.e];
    }
    let weights = softmax(&Vec::from_iter(k.iter().map(|k| case.scale() * dot(&q, k))));
    let z: Vec<Vec<f64>> = k.iter().map(|k| k.iter().zip(&q).map(|(k, q)| k - q).collect()).collect();
    let (mut a, mut mean) = (vec![vec![0.0; d]; d], vec![0.0; d]);
    for (w, z) in weights.iter().zip(&z) {
        for i in 0..d {
            mean[i] += w * z[i];
            (0..d).for_each(|j| a[i][j] += w * z[i] * z[j]);
        }
    }
    (0..d).for_each(|i| a[i][i] += ridge);
    let fit = solve(a, mean);
    let parts: Vec<f64> = weights.iter().zip(&z).map(|(w, z)| w * (1.0 - dot(z, &fit))).collect();
    let sum: f64 = parts.iter().sum();
    let element = |e: usize| {
        let value = parts.iter().zip(&v).map(|(a, v)| a * v[e]).sum::<f64>() / sum;
        let magnitude = parts.iter().zip(&v).map(|(a, v)| (a * v[e] / sum).abs()).sum::<f64>();
        Element { value, tolerance: 5e-4 + 2e-3 * magnitude }
    };
    (0..case.e).map(element).collect()
}

/// Scores, and positions, of all heads `[2H][keys]`: zero past the query.
fn score_map(case: &Case, seen: &[Seen], sequence: usize, t: usize) -> Vec<Vec<f64>> {
    let ((batch, q0, k0), (n_q, n_k)) = (case.start(sequence), case.lengths[sequence]);
    let position = n_k - n_q + t;
    let mut map = vec![vec![0.0; n_k]; 2 * case.heads.0];
    for (head, seen) in seen.iter().enumerate() {
        let q = case.row(Role::Q, [batch, head, q0 + t]);
        let slope: f64 = case.inputs.get(&Role::ALIBI_SLOPES).map_or(0.0, |slopes| slopes.data[head].into());
        let bias = case.inputs.get(&Role::BIAS).map(|bias| {
            let at = [batch.min(bias.shape[0] as usize - 1), head.min(bias.shape[1] as usize - 1), q0 + t];
            case.row(Role::BIAS, at)
        });
        for (key, k) in seen.keys.iter().enumerate().take(position + 1) {
            map[head][key] = case.scale() * dot(&q, k);
            map[case.heads.0 + head][key] = -slope * (position - key) as f64;
            map[case.heads.0 + head][key] += bias.as_ref().map_or(0.0, |bias| bias[k0 + key]);
        }
    }
    map
}

/// Every row of a sequence: the convolutions of a query go across heads.
fn dape(case: &Case, sequence: usize, all: &mut BTreeMap<Role, Vec<Element>>) {
    let ((batch, q0, _), (n_q, n_k)) = (case.start(sequence), case.lengths[sequence]);
    let size = |name| case.real(name).unwrap() as usize;
    let (f, taps, heads) = (size("F"), size("K"), case.heads.0);
    let (half, leaky) = ((taps / 2) as i64, case.real("leaky_slope").unwrap_or(0.01));
    let values = |role| -> Vec<f64> { case.inputs[&role].data.iter().map(|&x| x.into()).collect() };
    let [w1, b1, w2, b2] = [Role::W_CONV1, Role::B_CONV1, Role::W_CONV2, Role::B_CONV2].map(values);
    let seen_by: Vec<Seen> = (0..heads).map(|head| Seen::new(case, sequence, head)).collect();
    for t in 0..n_q {
        let (seen, map) = (n_k - n_q + t + 1, score_map(case, &seen_by, sequence, t));
        let hidden = |channel: usize, key: i64| -> f64 {
            if key < 0 || (case.word("edge") == Some("zero") && key >= n_k as i64) {
                return 0.0;
            }
            let mut sum = b1[channel];
            for (row, w) in map.iter().zip(w1[channel * map.len() * taps..].chunks_exact(taps)) {
                for (tap, w) in w.iter().enumerate() {
                    let x = usize::try_from(key + tap as i64 - half).ok().and_then(|key| row.get(key));
                    sum += w * x.unwrap_or(&0.0);
                }
            }
            if sum > 0.0 { sum } else { leaky * sum }
        };
        let near: Vec<Vec<f64>> = (0..f)
            .map(|channel| (0..seen as i64 + 2 * half).map(|key| hidden(channel, key - half)).collect())
            .collect();
        for (head, own) in seen_by.iter().enumerate() {
            let corrected = |key: usize| {
                let mut x = map[head][key] + map[heads + head][key] + b2[head];
                for (near, w) in near.iter().zip(w2[head * f * taps..].chunks_exact(taps)) {
                    x += dot(w, &near[key..key + taps]);
                }
                x
            };
            let scores: Vec<f64> = (0..seen).map(corrected).collect();
            // Terms of a corrected score: each at most some 10 wide.
            let size = 20.0 * (f * taps * map.len()) as f64;
            let row = weigh(&softmax(&scores), &refs(&own.values[..seen]), case.e, size);
            put(case, all, Role::OUT, [batch, head, q0 + t], row);
        }
    }
}

/// `Σ_s k_sᵀ v_s` of some keys, within the limit, and of their absolute values.
fn products(k: &[Vec<f64>], v: &[Vec<f64>], d: usize, limit: f64) -> [Vec<f64>; 2] {
    let (mut sum, mut size) = (vec![0.0; d * d], vec![0.0; d * d]);
    for (k, v) in k.iter().zip(v) {
        for (i, product) in k.iter().flat_map(|k| v.iter().map(move |v| k * v)).enumerate() {
            sum[i] += product;
            size[i] += product.abs();
        }
    }
    if limit > 0.0 {
        sum.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
    }
    [sum, size]
}

fn srformer(case: &Case, sequence: usize, head: usize, all: &mut BTreeMap<Role, Vec<Element>>) {
    let (batch, q0, _) = case.start(sequence);
    let ((n_q, n_k), d) = (case.lengths[sequence], case.d);
    let real = |name: &str, default: f64| case.real(name).unwrap_or(default);
    let (block, length) = (real("block", 0.0) as usize, real("gen_len", n_q as f64) as usize);
    let (theta, leak, limit) = (real("threshold", 0.1), real("leak", 0.5), real("kv_limit", 2.0));
    let [q, k, v] = [Role::Q, Role::K, Role::V].map(|role| case.rows(role, sequence, head));
    let [kv, kv_size] = products(&k, &v, d, limit);
    let norm = |e: usize| k.iter().map(|k| k[e] * k[e]).sum::<f64>().sqrt();
    let norms: Vec<f64> = (0..d).map(norm).collect();
    let part = |e: usize| match case.word("normalize") {
        Some("none") => 1.0,
        _ if norms[e] == 0.0 => 0.0,
        _ => norms[e].recip(),
    };
    let m = n_k.div_ceil(block);
    let w: Vec<f64> = (0..d * d).map(|i| case.element(Role::W_MEM, i)).collect();
    let rounding = 6e-8 * (20.0 + n_k as f64 / 4.0 + d as f64 / 4.0);
    let (mut membrane, mut size) = (vec![0.0; d * d], vec![0.0; d * d]);
    let (mut memory, mut last, mut fragile) = (vec![0.0; d * d], None, false);
    for (t, q) in q.iter().enumerate() {
        let segment = (t * m / length.max(1)).min(m.saturating_sub(1));
        let keys = (segment * block).min(n_k)..((segment + 1) * block).min(n_k);
        if m > 0 && last != Some(segment) {
            last = Some(segment);
            let [own, own_size] = products(&k[keys.clone()], &v[keys.clone()], d, limit);
            for i in 0..d * d {
                let (row, e) = (i / d * d, i % d);
                let w = &w[e * d..(e + 1) * d];
                let x: f64 = (0..d).map(|f| (kv[row + f] - own[row + f]) * w[f]).sum();
                membrane[i] = leak * membrane[i] + x;
                let terms = (0..d).map(|f| (kv_size[row + f] + own_size[row + f]) * w[f].abs());
                size[i] = leak * size[i] + terms.sum::<f64>() + theta;
                let above: f64 = membrane[i] / theta - 1.0;
                fragile |= above.abs() <= 2.0 * rounding * size[i] / theta;
                memory[i] = above.max(0.0);
                membrane[i] -= if above > 0.0 { theta } else { 0.0 };
            }
        }
        let mut scores: Vec<f64> = k[keys.clone()].iter().map(|k| case.scale() * dot(q, k)).collect();
        let mut values = refs(&v[keys.clone()]);
        let zero = vec![0.0; d];
        if case.word("pad") == Some("zero_key") {
            let missing = if m > 0 { block - keys.len() } else { 0 };
            scores.resize(scores.len() + missing, 0.0);
            values.resize(values.len() + missing, &zero);
        }
        let mut row = weigh(&softmax(&scores), &values, d, size_of(q, &k, case.scale()));
        for (e, to) in row.iter_mut().enumerate() {
            let part = case.scale() * part(e);
            to.value += (0..d).map(|i| q[i] * memory[i * d + e]).sum::<f64>() * part;
            let near = (0..d).map(|i| q[i].abs() * (memory[i * d + e] + size[i * d + e] / theta));
            to.tolerance += if fragile { f64::INFINITY } else { near.sum::<f64>() * part * rounding };
        }
        put(case, all, Role::OUT, [batch, head, q0 + t], row);
    }
    for i in 0..d {
        let row = (i * d..(i + 1) * d).map(|i| {
            let tolerance = if fragile { f64::INFINITY } else { rounding * size[i] };
            Element { value: membrane[i], tolerance }
        });
        put(case, all, Role::STATE_OUT, [sequence, head, i], row.collect());
        if !case.outputs.contains_key(&Role::MEMORY_OUT) {
            continue;
        }
        let row = (0..d).map(|e| {
            let (at, part) = (i * d + e, part(e));
            let tolerance = rounding * part * (memory[at] + size[at] / theta);
            let tolerance = if fragile { f64::INFINITY } else { tolerance };
            Element { value: memory[at] * part, tolerance }
        });
        put(case, all, Role::MEMORY_OUT, [sequence, head, i], row.collect());
        let total = |at: usize| Element { value: kv[at], tolerance: rounding * kv_size[at] };
        let row = (i * d..(i + 1) * d).map(total);
        put(case, all, Role::TOTAL_OUT, [sequence, head, i], row.collect());
    }
    if let Some(all) = all.get_mut(&Role::Z_OUT) {
        for (to, &value) in all[(sequence * case.heads.0 + head) * d..].iter_mut().zip(&norms) {
            *to = Element { value, tolerance: rounding * value };
        }
    }
}

/// Panics unless each index is that of a best key, up to rounding the first, and `out` what it says.
pub fn check_index(case: &Case, run: &Run) {
    if case.name != "hard_retrieval" {
        return;
    }
    let smoothing = case.real("smoothing").unwrap_or(0.0);
    let shape = &case.outputs[&Role::OUT];
    for sequence in 0..case.lengths.len() {
        let (batch, q0, _) = case.start(sequence);
        for head in 0..case.heads.0 {
            let (k, v) = (Role::K, Role::V);
            let [k, v] = [k, v].map(|role| case.rows(role, sequence, case.key_head(head)));
            for t in 0..case.lengths[sequence].0 {
                let (q, seen) = (case.row(Role::Q, [batch, head, q0 + t]), case.visible(sequence, t));
                let at = (batch * case.heads.0 + head) * shape[2] as usize + q0 + t;
                let out = &run.reals[&Role::OUT].data[at * case.e..][..case.e];
                let index = run.index[at];
                if seen.is_empty() {
                    assert!(index == -1 && out.iter().all(|&x| x == 0.0), "nothing is seen: {case:?}");
                    continue;
                }
                let chosen = usize::try_from(index).expect("a key is seen");
                assert!(seen.contains(&chosen), "key {chosen} is not seen: {case:?}");
                let best = seen.clone().map(|s| dot(&q, &k[s])).fold(f64::NEG_INFINITY, f64::max);
                let near = 1e-6 * size_of(&q, &k, 1.0);
                assert!(dot(&q, &k[chosen]) >= best - near, "key {chosen} is not the best: {case:?}");
                let share = smoothing / (seen.len().max(2) - 1) as f64;
                for (e, &got) in out.iter().enumerate() {
                    let sum: f64 = seen.clone().map(|s| v[s][e]).sum();
                    let want = (1.0 - smoothing - share) * v[chosen][e] + share * sum;
                    let exact = if smoothing == 0.0 { 0.0 } else { 1e-5 };
                    // Half types round the output once more.
                    let near = (f64::from(got) - want).abs() <= exact + 0.004 * want.abs() + 1e-7;
                    assert!(near, "out is {got} for {want}: {case:?}");
                }
            }
        }
    }
}
