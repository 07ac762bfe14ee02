//! A log against a model of it, on a disk in memory: whatever happens, every durable batch is there, in order, unchanged.

#[cfg(test)]
mod catching_up;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod real;
#[cfg(test)]
mod replica;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod truncate;
