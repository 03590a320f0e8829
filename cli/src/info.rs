//! `subquad info`.

use crate::{machine, peak, table};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;
use subquad::{Context, ContextOptions, Isa};

/// Options of `subquad info`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  subquad info\n  SUBQUAD_MAX_ISA=avx2 subquad info --json")]
pub struct Options {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// The command.
pub fn run(options: &Options) -> Result<ExitCode> {
    let facts = Facts::gather()?;
    if options.json {
        println!("{}", facts.json());
    } else {
        facts.print();
    }
    Ok(ExitCode::SUCCESS)
}

struct Facts {
    context: Context,
    /// Measured peak of one core for each instruction set.
    peaks: Vec<(Isa, f64)>,
    /// Peak of two threads over that of one.
    two_threads: Option<f64>,
}

impl Facts {
    fn gather() -> Result<Facts> {
        let context = Context::new(ContextOptions::new())?;
        let available = || Isa::ALL.into_iter().filter(|isa| isa.available());
        let peaks: Vec<_> = available().map(|isa| (isa, peak::one_thread(isa, peak::SPAN))).collect();
        let best = Isa::best();
        let two_threads = (machine::processors() > 1).then(|| {
            let one = peak::one_thread(best, peak::SPAN);
            peak::threads(best, 2, 2 * peak::SPAN) / one
        });
        Ok(Facts { context, peaks, two_threads })
    }

    fn json(&self) -> Value {
        let names = |isas: &[(Isa, f64)]| isas.iter().map(|(isa, _)| isa.name()).collect::<Vec<_>>();
        let peaks = self.peaks.iter().map(|(isa, gflops)| (isa.name().to_owned(), json!(round(*gflops, 1))));
        let caches = self.context.caches();
        let memory = machine::memory();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": machine::cpu_model(),
            "cpu_signature": machine::cpu_signature(),
            "arch": std::env::consts::ARCH,
            "os": std::env::consts::OS,
            "processors": machine::processors(),
            "isa_available": names(&self.peaks),
            "isa_in_use": self.context.isa().name(),
            "max_isa_variable": max_isa_variable(),
            "l1_bytes": caches.l1,
            "l2_bytes": caches.l2,
            "l3_bytes": machine::l3_cache(),
            "memory_bytes": memory.map(|m| m.total),
            "memory_available_bytes": memory.map(|m| m.available),
            "peak_gflops": Value::Object(peaks.collect()),
            "two_threads_over_one": self.two_threads.map(|ratio| round(ratio, 2)),
            "mechanisms": subquad::mechanisms().count(),
        })
    }

    fn print(&self) {
        let caches = self.context.caches();
        let signature = machine::cpu_signature().map_or(String::new(), |text| format!(" ({text})"));
        let level3 = machine::l3_cache().map_or(String::new(), |n| format!(", L3 {}", table::bytes(n)));
        let isas: Vec<_> = self.peaks.iter().map(|(isa, _)| isa.name()).collect();
        let lowered = max_isa_variable().map_or(String::new(), |word| format!(" (SUBQUAD_MAX_ISA={word})"));
        println!("version     subquad {}", env!("CARGO_PKG_VERSION"));
        println!("cpu         {}{signature}", machine::cpu_model());
        println!("processors  {}", machine::processors());
        println!("isa         {} in use{lowered}; available: {}", self.context.isa(), isas.join(", "));
        println!("caches      L1d {}, L2 {}{level3}", table::bytes(caches.l1), table::bytes(caches.l2));
        if let Some(memory) = machine::memory() {
            let (total, free) = (table::bytes(memory.total), table::bytes(memory.available));
            println!("memory      {total}, {free} available");
        }
        println!("peak        of one core, f32, measured now:");
        for (isa, gflops) in &self.peaks {
            let what = if *isa == Isa::Scalar { "multiply, then add" } else { "fused multiply-add" };
            println!("              {:<8}{gflops:>7.1} GFLOP/s  {what}", isa.name());
        }
        if let Some(ratio) = self.two_threads {
            let meaning =
                if ratio > 1.6 { "two cores" } else { "two threads of one core, or a busy machine" };
            println!("threads     two reach {ratio:.2} x the peak of one: {meaning}");
        }
        println!("mechanisms  {} built, see `subquad list`", subquad::mechanisms().count());
    }
}

fn max_isa_variable() -> Option<String> {
    std::env::var("SUBQUAD_MAX_ISA").ok().filter(|word| !word.is_empty())
}

fn round(x: f64, decimals: i32) -> f64 {
    let unit = 10f64.powi(decimals);
    (x * unit).round() / unit
}
