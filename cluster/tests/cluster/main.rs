//! The cluster's cores, driven from outside as an actor or a simulator drives them.

#[cfg(test)]
mod controller;
#[cfg(test)]
mod controller_cluster;
#[cfg(test)]
mod decoders;
#[cfg(test)]
mod features;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod metadata_cluster;
#[cfg(test)]
mod metadata_core;
#[cfg(test)]
mod metadata_network;
#[cfg(test)]
mod raft_single;
#[cfg(test)]
mod raft_three;
#[cfg(test)]
mod relocations;
#[cfg(test)]
mod security;
#[cfg(test)]
mod starts;
#[cfg(test)]
mod state_cluster;
#[cfg(test)]
mod state_properties;
#[cfg(test)]
mod state_rules;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tees;
