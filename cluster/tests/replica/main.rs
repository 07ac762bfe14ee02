//! The data plane's cores, driven from outside as an ingestion actor or a simulator drives them.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod eviction;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod follower;
#[cfg(test)]
mod leader;
#[cfg(test)]
mod log;
#[cfg(test)]
mod model;
#[cfg(test)]
mod schedules;
