//! What several test targets share: reference files and their replay through the Rust API, random problems of
//! every mechanism, and a scalar oracle for them.
#![allow(dead_code, reason = "each test target uses a part")]

pub mod backward;
pub mod companions;
mod features;
pub mod golden;
pub mod oracle;
pub mod problem;
pub mod refusal;
mod slots;
mod softmax;
#[path = "../checkasm/support.rs"]
pub mod support;
pub mod types;
