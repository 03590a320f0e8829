//! What several test targets share: reference files and their replay through the Rust API, random problems of
//! every mechanism, and a scalar oracle for them.
#![allow(dead_code, reason = "each test target uses a part")]

pub mod backward;
pub mod companions;
mod features;
pub mod gated;
pub mod golden;
pub mod oracle;
mod outputs;
mod params;
pub mod problem;
pub mod refusal;
mod run;
pub mod runner;
mod slots;
mod softmax;
mod strided;
#[path = "../checkasm/support.rs"]
pub mod support;
pub mod types;
mod values;
