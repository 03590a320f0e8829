//! `subquad verify`: reference files, replayed through the C ABI by nothing but the names in them.
//!
//! No mechanism is named in this folder. A file says mechanism, mode, parameters and tolerances; the catalogue
//! says on which side each tensor stands and what its shape is made of; heads and dimensions follow from the
//! shapes. What a file asks of an implementation is in `docs/spec/README.md`, "Reference vectors".

mod cabi;
mod compare;
mod gradient;
mod operands;
mod reference;
mod replay;
mod report;

use crate::bench::problem::{parse_dtype, parse_isa};
use anyhow::{Context as _, Result, bail};
use replay::Types;
use report::{Outcome, Report, Summary};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use subquad::Isa;

const HELP: &str = "\
A file's worst error is shown as a fraction of its tolerance: up to 1 it passes. A file whose mechanism, mode \
or type is not in this version is skipped, with the reason; so are the gradients of a file whose mechanism has \
none in this version.

With --dtype, --dtype-state or --bf16-dot a file is run three times: in f32 as it is, which must pass; in f32 on the values \
that the types can hold, which is then the result expected; and in these types, where each output and each gradient may be off by \
one rounding, and with --bf16-dot an output by four roundings to bf16 of its largest value where the plan rounds operands. \
docs/numerics.md says why. The distance from the file's own results is shown besides.

Examples:
  subquad verify tests/golden
  subquad verify tests/golden/linear/gla_step.safetensors --isa scalar
  subquad verify tests/golden --isa all --threads 2 --split 16 --strict
  subquad verify tests/golden --step
  subquad verify tests/golden --dtype bf16 --dtype-state bf16
  subquad verify tests/golden --dtype bf16 --bf16-dot

Exit status: 0 nothing failed, 1 something failed (with --strict: or was skipped), 2 a path can't be read or \
the command line is wrong.";

/// Options of `subquad verify`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Reference files, or folders of them.
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// Instruction set: scalar, neon, avx2, avx512, or all that the machine has [default: its best].
    #[arg(long)]
    isa: Option<String>,
    /// Element type of all inputs and of the output: f32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Element type of the state: f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype_state: String,
    /// Lets products round their operands to bf16, where the machine multiplies such pairs.
    #[arg(long)]
    bf16_dot: bool,
    /// Workers of the built-in pool; 1 computes on the calling thread.
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Runs causal files with a recurrent state, and cross files whose queries may come in pieces (role `query_start`), in
    /// calls of N tokens each, the state carried on.
    #[arg(long, value_name = "N")]
    split: Option<i64>,
    /// Runs these files token by token in mode step, where the mechanism has it.
    #[arg(long, conflicts_with = "split")]
    step: bool,
    /// Leaves out gradients.
    #[arg(long)]
    no_grad: bool,
    /// What is skipped counts as a failure.
    #[arg(long)]
    strict: bool,
    /// One JSON object per file, and one for the totals.
    #[arg(long)]
    json: bool,
}

/// How every file is run.
pub struct Settings {
    /// Ceiling of the instruction set; `None` is the machine's best.
    pub isa: Option<Isa>,
    /// Element types.
    pub types: Types,
    /// Workers.
    pub threads: u32,
    /// Tokens of a call, where a file can be split.
    pub split: Option<i64>,
    /// Files that can be split token by token, in mode step.
    pub step: bool,
    /// Gradients too, where a file has them.
    pub gradients: bool,
}

/// The command.
pub fn run(options: &Options) -> Result<ExitCode> {
    let files = files(&options.path)?;
    let mut summary = Summary::default();
    for settings in settings(options)? {
        let engine = cabi::Engine::new(settings.isa, settings.threads)
            .map_err(|fault| anyhow::anyhow!("the context can't be made: {fault}"))?;
        // SUBQUAD_MAX_ISA lowers what was asked for: `all` has had that already.
        if options.isa.as_deref() == Some("all") && settings.isa != Some(engine.isa()) {
            continue;
        }
        for path in &files {
            let report = verify(path, &engine, &settings);
            summary.add(&report);
            if options.json {
                println!("{}", report.json());
            } else {
                println!("{}", report.line());
            }
        }
    }
    if options.json {
        println!("{}", summary.json());
    } else {
        println!("{summary}");
    }
    let failed = summary.failed > 0 || (options.strict && summary.skipped > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn settings(options: &Options) -> Result<Vec<Settings>> {
    if !(1..=1024).contains(&options.threads) {
        bail!("--threads is {}, expected 1 to 1024", options.threads);
    }
    if let Some(n) = options.split.filter(|&n| n < 1) {
        bail!("--split is {n}, expected a number of tokens, 1 or more");
    }
    let (tokens, state) = (parse_dtype(&options.dtype)?, parse_dtype(&options.dtype_state)?);
    let types = Types { tokens, state, bf16_dot: options.bf16_dot };
    let isas = match options.isa.as_deref() {
        None | Some("auto") => vec![None],
        Some("all") => Isa::ALL.into_iter().filter(|isa| isa.available()).map(Some).collect(),
        Some(word) => vec![Some(parse_isa(word)?)],
    };
    let of = |isa| Settings {
        isa,
        types,
        threads: options.threads,
        split: options.split,
        step: options.step,
        gradients: !options.no_grad,
    };
    Ok(isas.into_iter().map(of).collect())
}

fn verify(path: &Path, engine: &cabi::Engine, settings: &Settings) -> Report {
    let mut report = Report::new(path, engine.isa(), settings.threads);
    let reference = match reference::Reference::read(path) {
        Ok(reference) => reference,
        Err(error) => return report.with(Outcome::Failed(format!("{error:#}"))),
    };
    (report.mechanism, report.mode) = (reference.mechanism.clone(), reference.mode.clone());
    match replay::replay(&reference, engine, settings) {
        Ok(replayed) => {
            report.calls = replayed.calls;
            report.no_gradient = replayed.no_gradient;
            report.compared = replayed.compared;
            report.distance = replayed.distance;
            let outcome = match report.worst() {
                Some(worst) if worst.fraction > 1.0 => Outcome::Failed(worst.fault()),
                Some(_) => Outcome::Passed,
                None => Outcome::Failed("the file has no output to compare".into()),
            };
            report.with(outcome)
        }
        Err(replay::Stop::Skip(reason)) => report.with(Outcome::Skipped(reason)),
        Err(replay::Stop::Fail(reason)) => report.with(Outcome::Failed(reason)),
    }
}

/// The files of these paths; folders are walked to their ends, in the order of their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        walk(path, &mut found)?;
        if found.len() == before {
            bail!("{}: no .safetensors file in it", path.display());
        }
    }
    Ok(found)
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let kind = std::fs::metadata(path).with_context(|| format!("{}", path.display()))?;
    if !kind.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("{}", path.display()))?;
    let mut inside = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    inside.sort();
    for path in inside {
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "safetensors") {
            walk(&path, found)?;
        }
    }
    Ok(())
}
