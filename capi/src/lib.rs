//! C ABI of subquad.
