//! Every kernel on every instruction set of this machine against its reference.
//!
//! Random shapes, strides, alignments and remainders, hostile values, canaries or unreadable pages around every buffer.
//! A failure prints the seed; `SUBQUAD_SEED=<seed> cargo test --test checkasm <test>` runs the same cases again.
//! `SUBQUAD_CASES=<percent>` changes how many there are. A kernel is added with a `#[test]` that calls
//! [`support::cases`], in a module of its own.

#[path = "checkasm/attention.rs"]
mod attention;
#[path = "checkasm/attention_grads.rs"]
mod attention_grads;
#[path = "checkasm/best_key.rs"]
mod best_key;
#[path = "checkasm/companions.rs"]
mod companions;
#[path = "checkasm/convert.rs"]
mod convert;
#[path = "checkasm/elementwise.rs"]
mod elementwise;
#[path = "checkasm/grads.rs"]
mod grads;
#[path = "checkasm/guarded.rs"]
mod guarded;
#[path = "checkasm/norms.rs"]
mod norms;
#[path = "checkasm/pairs.rs"]
mod pairs;
#[path = "checkasm/step.rs"]
mod step;
#[path = "checkasm/support.rs"]
mod support;
#[path = "checkasm/tiles.rs"]
mod tiles;
#[path = "checkasm/transpose.rs"]
mod transpose;
