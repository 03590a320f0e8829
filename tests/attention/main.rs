//! Exact attention, its relatives and its caches.

mod bf16;
mod caches;
#[path = "../common/mod.rs"]
mod common;
mod forms;
mod gradients;
mod prune;
mod rows;
