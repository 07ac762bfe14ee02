//! The threads of a node beside those of its shards.

use super::StartError;
use crate::options::ThreadPlan;
use crate::threads::Thread;
use crate::tls::TlsKeeper;
use lance_config::model::Config;
use std::sync::Arc;

/// New certificates are taken from their files as they come.
pub(super) fn follow_certificates(control: &Thread, tls: Option<Arc<TlsKeeper>>) {
    let Some(tls) = tls else { return };
    control.handle().spawn_fn(move || {
        actix_rt::spawn(tls.follow());
    });
}

/// The forwarder's own thread, where there is anybody to forward to.
pub(super) fn forward_thread(config: &Config) -> Result<Option<Thread>, StartError> {
    if config.replication.peers.is_empty() {
        return Ok(None);
    }
    Thread::start("forward", None).map(Some).map_err(StartError::Thread)
}

/// Threads for connections alone, where the plan has any; so many threads have CPUs of their own already.
pub(super) fn network_threads(plan: &ThreadPlan, taken: usize) -> Result<Vec<Thread>, StartError> {
    if !plan.own_network_threads {
        return Ok(Vec::new());
    }
    let start = |n: u16| Thread::start(&format!("network-{n}"), plan.cpu(taken + usize::from(n)));
    (0..plan.shards).map(start).collect::<Result<_, _>>().map_err(StartError::Thread)
}
