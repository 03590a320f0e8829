//! Engines: blocking, partition into tasks, and the loop nests over tiles.

pub(crate) mod linear;
