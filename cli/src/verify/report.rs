//! What is said of a file, and of all of them.

use super::compare::Compared;
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;
use subquad::Isa;

/// What became of a file.
pub enum Outcome {
    /// Every output is within its tolerance.
    Passed,
    /// Why not.
    Failed(String),
    /// Why it was not run.
    Skipped(String),
}

/// One file, replayed on one instruction set.
pub struct Report {
    path: String,
    isa: Isa,
    threads: u32,
    /// Name of the mechanism; empty if the file could not be read.
    pub mechanism: String,
    /// Name of the mode.
    pub mode: String,
    /// Number of calls that it took.
    pub calls: usize,
    /// Why the file's gradients were not compared, where it has some and they were not.
    pub no_gradient: Option<String>,
    /// Every tensor that was compared.
    pub compared: Vec<Compared>,
    /// With other types than f32: largest distance from the file's results, relative to the largest of each tensor.
    pub distance: Option<f64>,
    outcome: Outcome,
}

impl Report {
    /// Nothing known yet.
    pub fn new(path: &Path, isa: Isa, threads: u32) -> Report {
        Report {
            path: path.display().to_string(),
            isa,
            threads,
            mechanism: String::new(),
            mode: String::new(),
            calls: 0,
            no_gradient: None,
            compared: Vec::new(),
            distance: None,
            outcome: Outcome::Passed,
        }
    }

    /// The same with its outcome.
    pub fn with(self, outcome: Outcome) -> Report {
        Report { outcome, ..self }
    }

    /// The tensor with the largest error.
    pub fn worst(&self) -> Option<&Compared> {
        self.compared.iter().max_by(|a, b| a.fraction.total_cmp(&b.fraction))
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let calls = if self.calls > 1 { format!(", {} calls", self.calls) } else { String::new() };
        let gradient = match &self.no_gradient {
            Some(reason) => format!("; gradient skipped: {reason}"),
            None => String::new(),
        };
        let distance = self.distance.map_or(String::new(), |x| format!("; {x:.1e} from the file"));
        let worst = match self.worst() {
            Some(worst) => {
                let Compared { name, fraction, .. } = worst;
                format!("{fraction:.3} of the tolerance in {name} ({}{calls}){distance}", self.isa)
            }
            None => String::new(),
        };
        match &self.outcome {
            Outcome::Passed => format!("pass  {}  {worst}{gradient}", self.path),
            Outcome::Failed(reason) if worst.is_empty() => format!("FAIL  {}  {reason}", self.path),
            Outcome::Failed(reason) => format!("FAIL  {}  {worst}: {reason}{gradient}", self.path),
            Outcome::Skipped(reason) => format!("skip  {}  {reason}", self.path),
        }
    }

    /// One line of JSON.
    pub fn json(&self) -> Value {
        let (outcome, reason) = match &self.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(reason) => ("failed", Some(reason)),
            Outcome::Skipped(reason) => ("skipped", Some(reason)),
        };
        // JSON has no infinity: an error that no tolerance measures is null.
        let tensor = |one: &Compared| {
            let Compared { name, fraction, wrong, len, .. } = one;
            json!({ "name": name, "fraction": fraction, "wrong": wrong, "elements": len })
        };
        json!({
            "file": self.path,
            "mechanism": self.mechanism,
            "mode": self.mode,
            "isa": self.isa.name(),
            "threads": self.threads,
            "calls": self.calls,
            "outcome": outcome,
            "reason": reason,
            "worst_fraction": self.worst().map(|worst| worst.fraction),
            "worst_tensor": self.worst().map(|worst| &worst.name),
            "distance": self.distance,
            "tensors": self.compared.iter().map(tensor).collect::<Vec<_>>(),
            "gradient": self.no_gradient,
        })
    }
}

/// All files.
#[derive(Default)]
pub struct Summary {
    /// Files within their tolerance.
    pub passed: usize,
    /// Files that are not.
    pub failed: usize,
    /// Files that were not run, and gradients of files that were.
    pub skipped: usize,
    gradients: usize,
}

impl Summary {
    /// Counts a file.
    pub fn add(&mut self, report: &Report) {
        match report.outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
        self.gradients += usize::from(report.no_gradient.is_some());
        self.skipped += usize::from(report.no_gradient.is_some());
    }

    /// One line of JSON.
    pub fn json(&self) -> Value {
        json!({
            "passed": self.passed,
            "failed": self.failed,
            "skipped": self.skipped,
            "skipped_gradients": self.gradients,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gradients > 0 {
            let n = self.gradients;
            writeln!(f, "skipped: {} files, and the gradients of {n} files that were run", self.skipped - n)?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
