//! Reads of what is no longer in memory, on threads that may block.

pub(crate) mod check;

pub use check::BatchFlaw;
