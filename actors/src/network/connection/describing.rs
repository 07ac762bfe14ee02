//! Requests for the state of the cluster: every shard says how its partitions stand.

use super::ConnectionActor;
use crate::ingestion::maintenance::describe_partitions;
use actix::prelude::*;

impl ConnectionActor {
    pub(super) fn describe(&mut self, request: u64, ctx: &mut Context<Self>) {
        let shards = self.setup.shards.clone();
        let described = async move { describe_partitions(&shards).await };
        let described = actix::fut::wrap_future::<_, Self>(described);
        ctx.spawn(described.map(move |statuses, actor, ctx| {
            actor.with_core_later(ctx, |core, view, now, effects| {
                core.on_described(request, &statuses, view, now, effects);
            });
        }));
    }
}
