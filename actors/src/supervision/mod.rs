//! Supervision: restart after an error and after a panic, with pause, budget and escalation.

pub mod node_supervisor;
pub mod policy;
pub mod shell;
pub mod vitals;

pub use node_supervisor::{ActorStarted, ActorStopped, NodeSupervisor};
pub use policy::RestartPolicy;
pub use shell::{Escalated, InjectPanic, Life, Shell, fail, guarded};
pub use vitals::{ActorKind, ActorState, Vitals};
