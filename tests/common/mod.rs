//! What several test targets share: reference files and their replay through the Rust API.
#![allow(dead_code, reason = "each test target uses a part")]

pub mod golden;
