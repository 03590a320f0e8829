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
//! | decay of the state in a step, per state head | `ME` | – |
//!
//! With as many output as state heads this is `4DE+(C+1)(D+E)` for plain mechanisms and `6DE+2C(D+E)` for the
//! delta rule, `5DE` and `7DE` in a step, as `docs/spec/linear.md` 1.6 has it. The bound is what any
//! algorithm that keeps a state has to do. Gates, features and normalisers are not counted; of a mechanism without
//! values only the taps are, `2W` per token and channel of a convolution.

use super::problem::Problem;
use subquad::{Mode, Plan, Role};

/// Operations of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// By the table above.
    pub flops: f64,
    /// Of these, what no recurrent algorithm can avoid.
    pub bound: f64,
}

impl Count {
    /// Counts a problem.
    pub fn of(problem: &Problem, plan: &Plan) -> Count {
        if problem.mechanism.role(Role::V).is_none() {
            let taps = problem.names().get("width").copied().unwrap_or(0);
            let flops = 2.0 * (taps * problem.batch * problem.n_queries * problem.dim_qk) as f64;
            return Count { flops, bound: flops };
        }
        let rows = plan.state_layout().components.first().map_or(problem.dim_qk, |state| state.shape[1]);
        let corrects = [Role::BETA, Role::ERASE].iter().any(|role| problem.mechanism.role(*role).is_some());
        count(problem, rows as f64, plan.info().chunk as f64, corrects)
    }
}

fn count(problem: &Problem, m: f64, c: f64, corrects: bool) -> Count {
    let (out_heads, state_heads) = problem.out_and_state_heads();
    let e = problem.dim_v as f64;
    let reads = (problem.batch * problem.n_queries * out_heads) as f64;
    let writes = (problem.batch * problem.n_keys * state_heads) as f64;
    let corrections = if corrects { writes } else { 0.0 };
    let bound = 2.0 * m * e * (reads + writes + corrections);
    let extra = match problem.mode {
        Mode::Step => m * e * writes,
        Mode::Causal => (m + e) * ((c + 1.0) * reads + (c - 1.0) * corrections),
        _ => 0.0,
    };
    Count { flops: bound + extra, bound }
}

#[cfg(test)]
mod tests {
    use super::super::problem::Overrides;
    use super::*;

    fn flops(text: &str, corrects: bool) -> f64 {
        let problem = &Problem::parse_all(text, Overrides::default()).unwrap()[0];
        count(problem, 128.0, 16.0, corrects).flops
    }

    #[test]
    fn agrees_with_the_table_of_the_page() {
        assert_eq!(flops("mechanism=gla,H=1,D=128,T=1", false), 69_888.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,T=1", true), 106_496.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,mode=step", false), 81_920.0);
        assert_eq!(flops("mechanism=gla,H=1,D=128,mode=step", true), 114_688.0);
    }
}
