//! Consumer groups, driven from outside as their actor or a simulator drives them.

#[cfg(test)]
mod assignor;
#[cfg(test)]
mod commits;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod heartbeats;
#[cfg(test)]
mod offsets;
#[cfg(test)]
mod records;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod statics;
#[cfg(test)]
mod support;
#[cfg(test)]
mod time;
