//! What the tee actor does with news of its links and of the shards it reads from.

use super::actor::TeeActor;
use crate::network::readers::SegmentRead;
use crate::outbound::{LinkAnswered, LinkEnded, LinkUp};
use actix::prelude::*;
use lance_messages::mail::connection::{Answer, Replies, ShardRestarted};
use std::time::Duration;

/// How long what was committed waits for company.
const LINGER: Duration = Duration::from_millis(5);

impl Handler<LinkUp> for TeeActor {
    type Result = ();

    fn handle(&mut self, message: LinkUp, ctx: &mut Self::Context) {
        let LinkUp { link, hello } = message;
        self.with_core(ctx, |core, now_ms, effects| core.on_link_up(link, hello, now_ms, effects));
    }
}

impl Handler<LinkAnswered> for TeeActor {
    type Result = ();

    fn handle(&mut self, message: LinkAnswered, ctx: &mut Self::Context) {
        let LinkAnswered { link, answers } = message;
        self.with_core(ctx, |core, now_ms, effects| core.on_answers(link, answers, now_ms, effects));
    }
}

impl Handler<LinkEnded> for TeeActor {
    type Result = ();

    fn handle(&mut self, message: LinkEnded, ctx: &mut Self::Context) {
        let LinkEnded { link, reason, .. } = message;
        self.links.remove(&link);
        self.with_core(ctx, |core, now_ms, effects| core.on_link_ended(link, &reason, now_ms, effects));
    }
}

impl Handler<Replies<SegmentRead>> for TeeActor {
    type Result = ();

    /// Waits that are over. What is committed within a moment goes on together: a read and a frame for each record of a slow
    /// source would take its processors from producers.
    fn handle(&mut self, message: Replies<SegmentRead>, ctx: &mut Self::Context) {
        ctx.run_later(LINGER, move |actor, ctx| {
            for reply in message.replies {
                let Answer::Fetched { result, .. } = reply.answer else { continue };
                let end_offset = result.ok().map(|(bounds, _)| bounds.high_watermark_offset);
                actor.with_core(ctx, |core, now_ms, effects| {
                    core.on_waited(reply.request, end_offset, now_ms, effects);
                });
            }
        });
    }
}

impl Handler<ShardRestarted> for TeeActor {
    type Result = ();

    fn handle(&mut self, _: ShardRestarted, ctx: &mut Self::Context) {
        self.with_core(ctx, |core, now_ms, effects| core.on_shard_restarted(now_ms, effects));
    }
}
