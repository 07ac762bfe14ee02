//! A log against a model of it, on a disk in memory: whatever happens, every durable batch is there, in order, unchanged.

#[cfg(test)]
mod catching_up;
mod crash;
mod damage;
mod faults;
mod reading;
mod real;
mod rig;
mod steps;
