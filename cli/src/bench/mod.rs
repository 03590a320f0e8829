//! `subquad bench`: a problem is checked against the scalar reference, then timed.

mod check;
mod count;
mod gradient;
pub mod inputs;
mod plot;
pub mod problem;
mod report;
pub mod timing;

use anyhow::{Context as _, Result, bail};
use inputs::Roles;
use problem::{Overrides, Problem};
use report::Row;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
A problem is a list of key=value: mechanism (the only one without a default), mode, grad (1: gradients), B, H, Hk, Hv, D, E, T, \
S, dtype (of q, k, v and the output), dtype_state, bf16_dot (1: operands of products may be rounded to bf16), threads, isa, with (optional roles to bind too, joined by +), and any parameter of the mechanism \
by its name. Left out, mode is the mechanism's first, B=1, H=16, Hk=H, Hv=Hk, D=128, E=D, T=2048, isa=auto. \
T may be a list (1k:4k:16k) or a range in powers of two (1k..1M). Inputs are random with a fixed seed; a \
step starts from the state that a few random tokens leave.

With grad=1 it is the backward pass that is checked and timed: the gradients, in f32 whatever dtype says, of all inputs that have one, \
and of the state that comes in where with=state_in+state_out binds one, from random gradients of the output and of the state that goes out. \
Exact attention that takes out and lse of the forward pass is given them. Each sample of backward follows one of the forward pass of \
the same problem; backward/forward is the median of their ratios. Mode step has no gradients, and some mechanisms have none.

Each line of a file (--file) is a problem; empty lines and what follows # are skipped.

Examples:
  subquad bench mechanism=gla
  subquad bench mechanism=gated_delta_rule,H=16,Hv=32,l2norm_qk=1,T=4096,isa=avx2
  subquad bench mechanism=gated_delta_rule,mode=step --threads 2
  subquad bench mechanism=gated_delta_rule,mode=step,B=32,dtype=bf16,dtype_state=bf16
  subquad bench mechanism=gated_delta_rule,dtype=bf16,bf16_dot=1
  subquad bench mechanism=gated_delta_rule,grad=1
  subquad bench mechanism=simple_gla,H=1,T=1k..256k --plot cost.svg
  subquad bench --file problems.txt --json

Exit status: 0 done, 1 a result was wrong, 2 a problem could not be understood or planned.";

/// Options of `subquad bench`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Problems, such as mechanism=gla,mode=causal,B=1,H=16,D=128,E=128,T=2048,dtype=f32,threads=1,isa=auto
    #[arg(required_unless_present = "file")]
    problem: Vec<String>,
    /// Problems from a file, one on each line.
    #[arg(long)]
    file: Option<PathBuf>,
    /// One JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// Instruction set, in place of what the problems say.
    #[arg(long)]
    isa: Option<String>,
    /// Threads, in place of what the problems say.
    #[arg(long)]
    threads: Option<usize>,
    /// Seconds to time each problem for.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Writes cost against length as an SVG.
    #[arg(long, value_name = "OUT.SVG")]
    plot: Option<PathBuf>,
    /// Do not compare with the scalar reference first.
    #[arg(long)]
    no_check: bool,
}

/// The command.
pub fn run(options: &Options) -> Result<ExitCode> {
    let problems = problems(options)?;
    let table = report::table();
    let mut rows = Vec::new();
    for problem in problems {
        let row = bench(problem, options)?;
        match (options.json, rows.is_empty()) {
            (true, _) => println!("{}", row.json()),
            (false, true) => println!("{}\n{}", table.header(), table.line(&row.cells())),
            (false, false) => println!("{}", table.line(&row.cells())),
        }
        rows.push(row);
    }
    if !options.json {
        println!("\n{}", report::LEGEND);
    }
    if let Some(path) = &options.plot {
        plot::write(path, &rows)?;
    }
    let right = rows.iter().all(Row::right);
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench(problem: Problem, options: &Options) -> Result<Row> {
    let roles = Roles::of(&problem)?;
    let check_error = if options.no_check { None } else { Some(check::error(&problem, &roles)?) };
    let measured = timing::measure(&problem, &roles, &inputs::past(&problem)?, options.seconds)?;
    Ok(Row { problem, measured, check_error })
}

fn problems(options: &Options) -> Result<Vec<Problem>> {
    if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
        bail!("--seconds is {}, expected a number above 0, up to 3600", options.seconds);
    }
    if let Some(threads) = options.threads.filter(|n| !(1..=1024).contains(n)) {
        bail!("--threads is {threads}, expected 1 to 1024");
    }
    let isa = options.isa.as_deref().filter(|&word| word != "auto").map(problem::parse_isa).transpose()?;
    let overrides = Overrides { isa, threads: options.threads };
    let mut lines = options.problem.clone();
    if let Some(path) = &options.file {
        let text = std::fs::read_to_string(path).with_context(|| format!("--file {}", path.display()))?;
        let content = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.extend(content.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if lines.is_empty() {
        bail!("--file names no problem");
    }
    let mut problems = Vec::new();
    for line in &lines {
        problems.extend(Problem::parse_all(line, overrides)?);
    }
    Ok(problems)
}
