//! `subquad`: what this machine and this version can do, whether results are right, and how fast they come.
//!
//! Exit status: 0 done; 1 a check failed; 2 the command line or a file could not be understood.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

mod bench;
mod demo;
mod info;
mod list;
mod machine;
mod memory;
mod peak;
mod random;
mod shape;
mod table;
mod values;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Sub-quadratic attention on the CPU: information, verification and benchmarks.
#[derive(Parser)]
#[command(name = "subquad", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The machine: CPU, instruction sets, caches, measured peak; and the version of the library.
    Info(info::Options),
    /// The mechanisms: modes, parameters with type, default and range, and tensor roles.
    List(list::Options),
    /// Replay reference files through the C ABI and compare every output.
    Verify(verify::Options),
    /// Check a problem against the scalar reference, then time it.
    Bench(bench::Options),
    /// Every mechanism on real queries, keys and values of a language model.
    Demo(demo::Options),
}

fn main() -> ExitCode {
    machine::end_quietly_when_the_pipe_closes();
    let outcome = match Cli::parse().command {
        Command::Info(options) => info::run(&options),
        Command::List(options) => list::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Demo(options) => demo::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("subquad: {error:#}");
        ExitCode::from(2)
    })
}
