//! Damage that was found in a segment: told to the shard, which knows whether the segment still is one of its log.

use super::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::network::session::shard_of;
use crate::replication::actor::ReplicaNews;
use actix::prelude::*;
use lance_storage::segment::Segment;
use std::sync::Arc;

/// A batch of a segment is not what was stored.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct DamageFound {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Log position where its good part ends.
    pub good_end: u64,
}

impl DamageFound {
    /// The shard of the segment's partition.
    pub fn shard<'a>(&self, shards: &'a [Mailbox<IngestionActor>]) -> Option<&'a Mailbox<IngestionActor>> {
        let count = u16::try_from(shards.len()).unwrap_or(u16::MAX);
        shards.get(usize::from(shard_of(self.segment.partition(), count)))
    }
}

/// Tells the shard of the segment's partition what was not known yet; whether it was not: readers come there again and again.
/// A shard that takes nothing is told by the next.
pub fn report(shards: &[Mailbox<IngestionActor>], found: DamageFound) -> bool {
    let segment = Arc::clone(&found.segment);
    if !segment.note_damage(found.good_end) {
        return false;
    }
    if let Some(shard) = found.shard(shards)
        && let Err(error) = shard.try_send(found)
    {
        tracing::debug!(%error, "a shard was not told of damage");
        segment.forget_damage();
        return false;
    }
    true
}

impl Handler<DamageFound> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: DamageFound, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let DamageFound { segment, good_end } = message;
        let partition = segment.partition();
        let mut is_own = false;
        // What looks damaged in a log that was cut meanwhile is not.
        self.with_core(ctx, |core, _, _| {
            is_own = core.log_mut(partition).is_some_and(|log| log.holds(&segment) && log.latched().is_none());
        });
        if is_own && self.replicated.contains(&partition) {
            self.tell_replication(ReplicaNews::DamageFound(partition, good_end));
        }
    }
}
