//! `subquad`.
fn main() {}
