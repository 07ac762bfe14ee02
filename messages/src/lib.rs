#![doc = include_str!("../README.md")]

pub mod batch;
pub mod error_code;
pub mod id;
pub mod mail;
pub mod peer;
pub mod record;
pub mod scram;
pub mod security;
pub mod sort_key;
pub mod wire;
