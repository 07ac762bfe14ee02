#![doc = include_str!("../README.md")]

pub mod bench;
pub mod chaos;
pub mod cli;
pub mod server_args;
