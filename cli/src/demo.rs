//! `subquad demo`.
use anyhow::Result;
use std::process::ExitCode;
/// Options.
#[derive(clap::Args)]
pub struct Options {}
/// The command.
pub fn run(_: &Options) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
