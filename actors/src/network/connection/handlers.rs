//! What a connection does with each message.

use super::{BeginDrain, CloseWhenIdle, ConnectionActor, LookUpDone, PlanDone};
use crate::ingestion::damage;
use crate::network::readers::{ReadFailure, SegmentRead};
use crate::sendfile::{FileSent, is_writable};
use crate::supervision::shell::InjectPanic;
use actix::prelude::*;
use lance_messages::mail::connection::{Replies, ShardRestarted};
use std::io::ErrorKind;
use tokio::io::Interest;

impl Handler<Replies<SegmentRead>> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, message: Replies<SegmentRead>, ctx: &mut Self::Context) {
        self.with_core(ctx, |core, view, now, effects| {
            core.on_replies(message, view, now, effects);
        });
    }
}

impl Handler<ShardRestarted> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, message: ShardRestarted, ctx: &mut Self::Context) {
        self.with_core(ctx, |core, _, now, effects| core.on_shard_restarted(message.shard, now, effects));
    }
}

impl ConnectionActor {
    /// Reports what is damage; whether the failure is worth a line in the log, as damage is once.
    fn report_damage(&self, failure: &ReadFailure) -> bool {
        let Some(found) = failure.damage() else { return true };
        let is_news = damage::report(&self.setup.shards, found);
        self.setup.metrics.damaged_batches.add(u64::from(is_news));
        is_news
    }
}

impl Handler<PlanDone> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, message: PlanDone, ctx: &mut Self::Context) {
        if let Err(error) = &message.plan
            && self.report_damage(error)
        {
            tracing::error!(connection = self.id.0, %error, "a read failed");
        }
        self.with_core(ctx, |core, view, now, effects| {
            core.on_plan(message.request, message.part, message.plan, (view, now), effects);
        });
    }
}

impl Handler<LookUpDone> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, message: LookUpDone, ctx: &mut Self::Context) {
        if let Err(error) = &message.result {
            self.report_damage(error);
        }
        self.with_core(ctx, |core, view, now, effects| {
            core.on_look_up_done(message.request, message.result, view, now, effects);
        });
    }
}

impl Handler<FileSent> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, message: FileSent, ctx: &mut Self::Context) {
        self.sending_file = false;
        self.setup.metrics.fetched_kernel_bytes.add(message.sent);
        self.on_sent(message.sent as usize);
        if let Some(error) = message.error {
            tracing::debug!(connection = self.id.0, %error, "sending a segment failed: closing");
            ctx.stop();
            return;
        }
        if message.blocked {
            // Asks the socket once more: the runtime may only be told that it is full while it really is.
            let full = self.stream.try_io(Interest::WRITABLE, || match is_writable(&self.stream) {
                true => Ok(()),
                false => Err(ErrorKind::WouldBlock.into()),
            });
            self.file_blocked = full.is_err();
        }
    }
}

impl Handler<BeginDrain> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, _: BeginDrain, ctx: &mut Self::Context) {
        self.with_core(ctx, |core, _, _, effects| core.on_drain(effects));
    }
}

impl Handler<CloseWhenIdle> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, _: CloseWhenIdle, ctx: &mut Self::Context) {
        self.close_when_idle = true;
        // It may have missed the news while its mailbox was full.
        self.with_core(ctx, |core, _, _, effects| core.on_drain(effects));
    }
}

impl Handler<InjectPanic> for ConnectionActor {
    type Result = ();

    #[allow(clippy::panic, reason = "fault injection is a panic on purpose")]
    fn handle(&mut self, _: InjectPanic, ctx: &mut Self::Context) {
        self.with_core(ctx, |_, _, _, _| panic!("injected fault"));
    }
}
