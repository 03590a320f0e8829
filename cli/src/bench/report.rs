//! Results of a benchmark, as a table and as JSON.

use super::check::tolerance;
use super::problem::Problem;
use super::timing::Measured;
use crate::table::{Table, bytes, digits, number, si, word};
use serde_json::{Value, json};

/// One problem with what was found.
pub struct Row {
    /// The problem.
    pub problem: Problem,
    /// Times and counts.
    pub measured: Measured,
    /// Error against the scalar reference, if it was checked.
    pub check_error: Option<f64>,
}

impl Row {
    /// One line of JSON.
    pub fn json(&self) -> Value {
        let Row { problem, measured, check_error } = self;
        json!({
            "problem": problem.to_string(),
            "mechanism": problem.mechanism.name,
            "mode": problem.mode.name(),
            "T": problem.n_queries,
            "threads": problem.threads,
            "isa": measured.isa.name(),
            "ns_per_token_head": measured.ns_per_token_head(problem),
            "tokens_per_s": measured.tokens_per_s(problem),
            "gflops": measured.gflops(),
            "peak_gflops": measured.peak_gflops,
            "peak_fraction": measured.peak_fraction(),
            "threads_peak_ratio": measured.peak_ratio,
            "bound_ratio": measured.bound_ratio(),
            "bytes_per_s": measured.bytes_per_s(),
            "workspace_bytes": measured.workspace_bytes,
            "state_bytes": measured.state_bytes,
            "seconds": measured.seconds,
            "samples": measured.samples,
            "spread": measured.spread,
            "void": measured.void,
            "cpu_share": measured.cpu_share,
            "cpu_ns_per_token_head": measured.cpu_ns_per_token_head(problem),
            "check_error": check_error,
        })
    }

    /// Whether the result agrees with the reference.
    pub fn right(&self) -> bool {
        self.check_error.is_none_or(|error| error <= tolerance(&self.problem))
    }

    /// The cells of one line of the table.
    pub fn cells(&self) -> Vec<String> {
        let Row { problem, measured, check_error } = self;
        let [q, k, v] = problem.heads;
        let heads = if q == k && k == v { q.to_string() } else { format!("{q}/{k}/{v}") };
        let busy = measured.cpu_share.is_some_and(|share| share < BUSY);
        let remark = match (self.right(), measured.void, busy) {
            (false, ..) => "WRONG".to_owned(),
            (true, true, _) => "void".to_owned(),
            (true, false, true) => match measured.cpu_ns_per_token_head(problem) {
                Some(ns) => format!("busy: {} ns of CPU", digits(ns)),
                None => String::new(),
            },
            (true, false, false) => String::new(),
        };
        vec![
            problem.mechanism.name.to_owned(),
            problem.mode.to_string(),
            format!("{}x{heads}", problem.batch),
            format!("{}x{}", problem.dim_qk, problem.dim_v),
            problem.n_queries.to_string(),
            format!("{}x{}", measured.isa, problem.threads),
            digits(measured.ns_per_token_head(problem)),
            si(measured.tokens_per_s(problem)),
            format!("{:.1}", measured.gflops()),
            format!("{:.1}", 100.0 * measured.peak_fraction()),
            if measured.count.bound > 0.0 { format!("{:.2}", measured.bound_ratio()) } else { "-".into() },
            format!("{:.1}", 1e-9 * measured.bytes_per_s()),
            bytes(measured.workspace_bytes),
            bytes(measured.state_bytes),
            format!("{:.1}", 100.0 * measured.spread),
            check_error.map_or("-".into(), |error| format!("{error:.0e}")),
            remark,
        ]
    }
}

/// A thread that had less of the processor than this shared it with something else.
const BUSY: f64 = 0.95;

/// The table that the rows go into.
pub fn table() -> Table {
    Table::new(vec![
        word("mechanism", 16),
        word("mode", 6),
        word("BxH", 4),
        word("DxE", 7),
        number("T", 5),
        word("isa x thr", 8),
        number("ns/tok/head", 6),
        number("tokens/s", 7),
        number("GFLOP/s", 6),
        number("% peak", 5),
        number("x bound", 5),
        number("GB/s", 4),
        number("work", 8),
        number("state", 8),
        number("+-%", 4),
        number("error", 5),
        word("", 0),
    ])
}

/// What the columns mean.
pub const LEGEND: &str = "\
head: of the most of H, Hk, Hv. GFLOP/s: 4DE+(C+1)(D+E) per token and head, delta rule 6DE+2C(D+E), step 5DE
and 7DE. x bound: times the 4DE (6DE) that a recurrence can't avoid, at the peak measured before and after.
state: of one sequence. +-%: interquartile range. error: largest difference from the scalar reference over the
largest value, on at most 128 tokens; up to 1e-4 is right, and up to two roundings more where results have 16 bits. void: the peak moved by more than 5 % four times;
busy: other programs took more than 5 % of the time; per token and head, the CPU's own time is this.";
