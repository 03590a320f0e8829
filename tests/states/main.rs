//! States: those of segments and what is made of them, and those after some tokens of a call.

#[path = "../common/mod.rs"]
mod common;
mod segments;
mod snapshots;
