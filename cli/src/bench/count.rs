//! Operations of a problem by a stated count, whatever the kernels really do.
//!
//! Multiply and add count apart. Per token, with `M` rows of the state (`D`, unless features change it), `E`
//! columns, chunks of `C` tokens, `Ho` output heads and `Hs` state heads:
//!
//! | part | operations | bound |
//! | --- | --- | --- |
//! | read the state, per output head | `2ME` | `2ME` |
//! | write the state, per state head | `2ME` | `2ME` |
//! | scores in a chunk and their use, per output head, causal | `(C+1)(M+E)` | – |
//! | correction (delta rule), per state head | `2ME` | `2ME` |
//! | scores and substitution of the correction, per state head, causal | `(C−1)(M+E)` | – |
//! | second write (RWKV-7), per state head | `2ME` | `2ME` |
//! | its scores with queries, per output head, causal | `(C+1)(M+E)` | – |
//! | its scores with what reads the correction, per state head, causal | `(C−1)(M+E)` | – |
//! | decay of the state in a step, per state head | `ME` | – |
//!
//! Softmax attention is `2(D+E)` per query and key that it sees, and twice that with two scores to each.
//! With segments it sees `block` keys, and a query is `2DE` more; of mode cross there are `4SDE` for products of keys and
//! values, and `2DE²` for each segment.
//! Slots are two such states, `D` by `M` and `M` by `E`; orthogonal memory is `2MD` per key and `4MD` per query.
//!
//! With as many output as state heads this is `4DE+(C+1)(D+E)` for plain mechanisms and `6DE+2C(D+E)` for the
//! delta rule, `8DE+4C(D+E)` with two writes, `5DE`, `7DE` and `9DE` in a step, as `docs/spec/linear.md` 1.6 has it.
//! The bound is what any algorithm that keeps a state has to do. Gates, features and normalisers are not counted; of
//! a mechanism without values only the taps are, `2W` per token and channel of a convolution.
//!
//! Gradients, with forward's writes, corrections and scores computed anew:
//!
//! | part | operations |
//! | --- | --- |
//! | gradients of the queries and, through them, of the state, per output head | `4ME` |
//! | writes, their gradients to keys and values, per state head | `6ME` |
//! | scores in a chunk, gradients through them, per output head, causal | `(C+1)(3M+2E)` |
//! | corrections along the key, per state head | `8ME` |
//! | corrections with a write of their own, per state head | `18ME` |
//! | scores and substitution of each correction, per state head, causal | `3(C−1)(M+E)` |
//! | scores of the second write with queries, per output head, causal | `(C+1)(3M+2E)` |
//!
//! That is `10DE`, `18DE` and `28DE` with states of `D` by `E`. Softmax attention that takes `out` and `lse` has `6D+4E` per
//! query and key that it sees. There is no count for other gradients, nor a bound.

use super::problem::Problem;
use subquad::catalog::StepKind;
use subquad::{Mode, Plan, Role};

/// Operations of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// By the tables above; 0 where there is no count.
    pub flops: f64,
    /// Of these, what no recurrent algorithm can avoid.
    pub bound: f64,
}

impl Count {
    /// Counts the call that a problem times; `takes_outputs`: the backward call takes `out` and `lse`.
    pub fn of(problem: &Problem, plan: &Plan, takes_outputs: bool) -> Count {
        if !problem.grad {
            return Count::forward(problem, plan);
        }
        let flops = match (takes_outputs, corrections(problem)) {
            (true, _) => {
                let heads = (problem.batch * problem.heads[0]) as f64;
                heads * (6 * problem.dim_qk + 4 * problem.dim_v) as f64 * pairs(problem)
            }
            (false, Some(corrections)) => gradients(problem, rows(problem, plan), chunk(plan), corrections),
            (false, None) => 0.0,
        };
        Count { flops, bound: 0.0 }
    }

    fn forward(problem: &Problem, plan: &Plan) -> Count {
        if let Some(corrections) = corrections(problem) {
            return count(problem, rows(problem, plan), chunk(plan), corrections);
        }
        let chunk = chunk(plan);
        let has = |role| problem.mechanism.role(role).is_some();
        let named = problem.names().get("M").copied();
        if let (Some(m), true) = (named, has(Role::STATE_K_IN)) {
            let keys = count(&Problem { dim_v: m, ..problem.clone() }, problem.dim_qk as f64, chunk, 0);
            let values = count(problem, m as f64, chunk, 0);
            return Count { flops: keys.flops + values.flops, bound: keys.bound + values.bound };
        }
        if let (Some(m), true) = (named, has(Role::BASIS)) {
            let products = problem.batch * problem.heads[0] * (problem.n_keys + 2 * problem.n_queries);
            let flops = 2.0 * (m * problem.dim_qk * products) as f64;
            return Count { flops, bound: flops };
        }
        if has_pairs(problem) {
            let scores = if has(Role::PROBE) || has(Role::LAM) { 2.0 } else { 1.0 };
            let heads = if has(Role::QK) { 1 } else { problem.heads[0] };
            let each = 2.0 * (problem.dim_qk + problem.dim_v) as f64 * pairs(problem);
            // Beyond the blocks of a gated unit there is a state.
            let tokens = if has(Role::STATE_OUT) && has(Role::QK) { problem.n_queries } else { 0 };
            let linear = 4.0 * (problem.dim_qk * problem.dim_v * tokens) as f64;
            let linear = linear + memory(problem);
            let flops = (problem.batch * heads) as f64 * (scores * each + linear);
            return Count { flops, bound: flops };
        }
        let taps = problem.names().get("width").copied().unwrap_or(0);
        let flops = 2.0 * (taps * problem.batch * problem.n_queries * problem.dim_qk) as f64;
        Count { flops, bound: flops }
    }
}

fn rows(problem: &Problem, plan: &Plan) -> f64 {
    plan.state_layout().components.first().map_or(problem.dim_qk, |state| state.shape[1]) as f64
}

fn chunk(plan: &Plan) -> f64 {
    plan.info().chunk as f64
}

/// Whether every query meets every key that it sees.
fn has_pairs(problem: &Problem) -> bool {
    let mechanism = problem.mechanism;
    mechanism.step == StepKind::Cache
        || mechanism.engines == ["softmax"]
        || mechanism.role(Role::QK).is_some()
}

/// Of a mechanism with one state of `M` by `E`: 0, 1 for a correction along the key, 2 for one with a write of its own.
fn corrections(problem: &Problem) -> Option<u8> {
    let has = |role| problem.mechanism.role(role).is_some();
    if has(Role::STATE_K_IN) || has(Role::BASIS) || has_pairs(problem) || !has(Role::V) {
        return None;
    }
    Some(match (has(Role::BETA) || has(Role::ERASE), has(Role::A) && has(Role::B)) {
        (_, true) => 2,
        (true, false) => 1,
        (false, false) => 0,
    })
}

/// Keys of a segment, where each query sees those of one.
fn segment(problem: &Problem) -> Option<i64> {
    problem.mechanism.role(Role::W_MEM).and(problem.names().get("block").copied())
}

/// The memory of segments, of one head; that of a step is there.
fn memory(problem: &Problem) -> f64 {
    let Some(block) = segment(problem) else { return 0.0 };
    let (d, e, t, s) = (problem.dim_qk, problem.dim_v, problem.n_queries, problem.n_keys);
    let made = if problem.mode == Mode::Step { 0 } else { 2 * s + e * ((s + block - 1) / block).min(t) };
    2.0 * (d * e * (t + made)) as f64
}

/// Pairs of a query and a key that it sees, of one head.
fn pairs(problem: &Problem) -> f64 {
    let names = problem.names();
    if let Some(block) = segment(problem) {
        return (problem.n_queries * block.min(problem.n_keys)) as f64;
    }
    let bound = |name: &str| names.get(name).copied().filter(|&bound| bound >= 0).unwrap_or(i64::MAX / 4);
    let (left, right) = (bound("window_left"), bound("window_right"));
    let causal = matches!(problem.mode, Mode::Causal | Mode::Step);
    let block = names.get("block").copied();
    let seen = |t: i64| {
        let position = problem.n_keys - problem.n_queries + t;
        let last = if causal { position } else { position.saturating_add(right) }.min(problem.n_keys - 1);
        let first = match block {
            Some(block) => (position / block - names.get("mem_blocks").copied().unwrap_or(0)) * block,
            None => position - left,
        };
        // Without a window positions do not count.
        let last = match block {
            Some(block) if !causal => (position / block + 1) * block - 1,
            _ if causal || right < i64::MAX / 4 => last,
            _ => problem.n_keys - 1,
        };
        let last = last.min(problem.n_keys - 1);
        (last + 1 - first.max(0)).max(0)
    };
    (0..problem.n_queries).map(|t| seen(t) as f64).sum()
}

/// `corrections` as the function of that name has them.
fn count(problem: &Problem, m: f64, c: f64, corrections: u8) -> Count {
    let (out_heads, state_heads) = problem.out_and_state_heads();
    let e = problem.dim_v as f64;
    let reads = (problem.batch * problem.n_queries * out_heads) as f64;
    let writes = (problem.batch * problem.n_keys * state_heads) as f64;
    let second_reads = if corrections == 2 { reads } else { 0.0 };
    let corrections = f64::from(corrections) * writes;
    let bound = 2.0 * m * e * (reads + writes + corrections);
    let extra = match problem.mode {
        Mode::Step => m * e * writes,
        Mode::Causal => (m + e) * ((c + 1.0) * (reads + second_reads) + (c - 1.0) * corrections),
        _ => 0.0,
    };
    Count { flops: bound + extra, bound }
}

/// The same of gradients.
fn gradients(problem: &Problem, m: f64, c: f64, corrections: u8) -> f64 {
    let (out_heads, state_heads) = problem.out_and_state_heads();
    let e = problem.dim_v as f64;
    let reads = (problem.batch * problem.n_queries * out_heads) as f64;
    let writes = (problem.batch * problem.n_keys * state_heads) as f64;
    let corrected = [0.0, 8.0, 18.0][usize::from(corrections)];
    let states = m * e * (4.0 * reads + (6.0 + corrected) * writes);
    if problem.mode != Mode::Causal {
        return states;
    }
    let scored = if corrections == 2 { 2.0 * reads } else { reads };
    let substituted = f64::from(corrections) * writes;
    states + (c + 1.0) * (3.0 * m + 2.0 * e) * scored + 3.0 * (c - 1.0) * (m + e) * substituted
}

#[cfg(test)]
mod tests {
    use super::super::problem::Overrides;
    use super::*;

    fn flops(text: &str, corrections: u8) -> f64 {
        let problem = &Problem::parse_all(text, Overrides::default()).unwrap()[0];
        count(problem, 128.0, 16.0, corrections).flops
    }

    #[test]
    fn pairs_of_queries_and_keys() {
        let pairs = |text: &str| super::pairs(&Problem::parse_all(text, Overrides::default()).unwrap()[0]);
        assert_eq!(pairs("mechanism=softmax,T=100"), 5050.0);
        assert_eq!(pairs("mechanism=softmax,mode=bidirectional,T=100"), 10_000.0);
        assert_eq!(pairs("mechanism=softmax,mode=cross,T=100,S=7"), 700.0);
        assert_eq!(pairs("mechanism=softmax,mode=step,S=300"), 300.0);
        assert_eq!(pairs("mechanism=softmax,T=100,window_left=9"), 55.0 + 90.0 * 10.0);
        assert_eq!(pairs("mechanism=srformer,mode=cross,T=20,S=100,block=8"), 160.0);
        assert_eq!(pairs("mechanism=srformer,mode=step,S=100,block=8,gen_len=50"), 8.0);
        assert_eq!(pairs("mechanism=bswa,T=8,block=4,mem_blocks=1"), 10.0 + 5.0 + 6.0 + 7.0 + 8.0);
    }

    #[test]
    fn agrees_with_the_table_of_the_page() {
        assert_eq!(flops("mechanism=gla,H=1,D=128,T=1", 0), 69_888.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,T=1", 1), 106_496.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,T=1", 2), 147_456.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,mode=step", 0), 81_920.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,mode=step", 1), 114_688.0);
    }

    #[test]
    fn gradients_are_counted_where_there_is_a_count() {
        let flops = |text: &str, takes| {
            let problem = &Problem::parse_all(&format!("{text},grad=1"), Overrides::default()).unwrap()[0];
            Count::of(problem, &problem.plan().unwrap(), takes)
        };
        let (states, pairs) = (128.0 * 128.0, 17.0 * 5.0 * 128.0);
        let corrections = 3.0 * 15.0 * 256.0;
        let of = |mechanism: &str| flops(&format!("mechanism={mechanism},H=1,D=128,T=1"), false).flops;
        assert_eq!(of("gla"), 10.0 * states + pairs);
        assert_eq!(of("gated_delta_rule"), 18.0 * states + pairs + corrections);
        assert_eq!(of("rwkv7"), 28.0 * states + 2.0 * (pairs + corrections));
        let shared = flops("mechanism=gla,H=4,Hk=2,Hv=2,D=128,T=1", false).flops;
        assert_eq!(shared, (4.0 * 4.0 + 2.0 * 6.0) * states + 4.0 * pairs);
        let both = flops("mechanism=linear,mode=bidirectional,H=1,D=128,T=1", false).flops;
        assert_eq!(both, 10.0 * states);
        assert_eq!(flops("mechanism=softmax,H=1,D=64,E=32,T=3", true), Count { flops: 3072.0, bound: 0.0 });
        assert_eq!(flops("mechanism=diff,H=2,D=64,T=3", false), Count { flops: 0.0, bound: 0.0 });
    }
}
