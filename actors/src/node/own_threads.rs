//! The threads of a node beside those of its shards.

use super::StartError;
use crate::numa::plan::PlacedThread;
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
    Thread::start("forward", &[]).map(Some).map_err(StartError::Thread)
}

/// Threads where the plan wants them; for connections alone, there may be none.
pub(super) fn start_placed(places: &[PlacedThread]) -> Result<Vec<Thread>, StartError> {
    let start = |place: &PlacedThread| Thread::start(&place.name, &place.cpus);
    places.iter().map(start).collect::<Result<_, _>>().map_err(StartError::Thread)
}
