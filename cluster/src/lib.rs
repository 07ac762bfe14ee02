#![doc = include_str!("../README.md")]

pub mod codec;
pub mod control;
pub mod formation;
pub mod group;
pub mod metadata;
pub mod replica;
