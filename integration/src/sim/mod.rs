//! The deterministic simulator: nodes made of the real cores over memory disks, with simulated time, clients and faults.
//!
//! Everything follows from one seed: which message is delivered next, how long each takes, what goes wrong and when. The
//! checkers of [`check`] hold what clients and disks see against the truth kept by [`oracle`]. One node alone is
//! simulated by [`run`], several by [`cluster::run`].

pub mod check;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod context;
pub mod disk;
pub mod faults;
pub mod mail;
pub mod node;
pub mod oracle;
pub mod payload;
pub mod rng;
pub mod sabotage;
pub mod scheduler;
pub mod trace;
pub mod world;

pub use world::{Options, Outcome, run};
