//! Results of a benchmark, as a table and as JSON.

use super::check::tolerance;
use super::count::Count;
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
        let counted = measured.count.flops > 0.0;
        json!({
            "problem": problem.to_string(),
            "mechanism": problem.mechanism.name,
            "mode": problem.mode.name(),
            "grad": problem.grad,
            "T": problem.n_queries,
            "threads": problem.threads,
            "isa": measured.isa.name(),
            "ns_per_token_head": measured.ns_per_token_head(problem),
            "forward_ns_per_token_head": measured.forward_ns_per_token_head(problem),
            "backward_forward_ratio": measured.forward.map(|forward| forward.ratio),
            "tokens_per_s": measured.tokens_per_s(problem),
            "gflops": counted.then(|| measured.gflops()),
            "peak_gflops": measured.peak_gflops,
            "peak_fraction": counted.then(|| measured.peak_fraction()),
            "threads_peak_ratio": measured.peak_ratio,
            "bound_ratio": (measured.count.bound > 0.0).then(|| measured.bound_ratio()),
            "bytes_per_s": measured.bytes_per_s(),
            "memory_bytes_per_s": measured.memory,
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
        let fault = match (self.right(), measured.void, busy) {
            (false, ..) => Some("WRONG".to_owned()),
            (true, true, _) => Some("void".to_owned()),
            (true, false, true) => {
                measured.cpu_ns_per_token_head(problem).map(|ns| format!("busy: {} ns of CPU", digits(ns)))
            }
            (true, false, false) => None,
        };
        let ratio = measured.forward.map(|forward| format!("backward/forward {:.2}x", forward.ratio));
        let memory = measured.memory.map(|memory| {
            let part = 100.0 * measured.bytes_per_s() / memory;
            format!("{part:.0} % of memory's {:.1} GB/s", 1e-9 * memory)
        });
        let remarks: Vec<_> = fault.into_iter().chain(ratio).chain(memory).collect();
        let or_dash = |counted: f64, cell: String| if counted > 0.0 { cell } else { "-".to_owned() };
        let Count { flops, bound } = measured.count;
        vec![
            problem.mechanism.name.to_owned(),
            problem.mode.to_string(),
            format!("{}x{heads}", problem.batch),
            format!("{}x{}", problem.dim_qk, problem.dim_v),
            problem.n_queries.to_string(),
            format!("{}x{}", measured.isa, problem.threads),
            digits(measured.ns_per_token_head(problem)),
            si(measured.tokens_per_s(problem)),
            or_dash(flops, format!("{:.1}", measured.gflops())),
            or_dash(flops, format!("{:.1}", 100.0 * measured.peak_fraction())),
            or_dash(bound, format!("{:.2}", measured.bound_ratio())),
            format!("{:.1}", 1e-9 * measured.bytes_per_s()),
            bytes(measured.workspace_bytes),
            bytes(measured.state_bytes),
            format!("{:.1}", 100.0 * measured.spread),
            check_error.map_or("-".into(), |error| format!("{error:.0e}")),
            remarks.join("; "),
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
and 7DE; backward 10DE+(C+1)(3D+2E), delta rule 18DE+C(6D+5E)-E. x bound: times the 4DE (6DE) that a recurrence
can't avoid, at the peak measured before and after. state: of one sequence. +-%: interquartile range. error: largest
difference from the scalar reference over the largest value, on at most 128 tokens; up to 1e-4 is right, and up to
two roundings more where results have 16 bits. void: the peak moved by more than 5 % four times; busy: other programs
took more than 5 % of the time; per token and head, the CPU's own time is this. backward/forward: the row is one of
backward, which takes this many times as long as forward, called by turns with it. memory: of a step whose tensors no
cache holds, what one thread reads from a buffer in order, before and after.";
