//! What the programs `lnc` and `lnc-bench` are made of.

pub mod bench;
pub mod cli;
