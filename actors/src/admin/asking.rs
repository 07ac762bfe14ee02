//! What the admin actor asks shards and other nodes about partitions: one more connection in their eyes, numbered and answered
//! like any client's.

use super::actor::AdminActor;
use crate::ingestion::actor::{RegisterConnection, ReplyTo};
use crate::network::readers::SegmentRead;
use crate::network::session::shard_of;
use actix::prelude::*;
use hashbrown::HashMap;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, TopicPartition};
use lance_messages::mail::connection::{Answer, Replies, ShardRestarted};
use lance_messages::mail::ingestion::{Fetch, LookUpOffset, OffsetQuery};
use std::time::Duration;
use tokio::sync::oneshot;

/// The admin actor's id as seen by shards; clients begin far above.
const CONNECTION: ConnectionId = ConnectionId(3);
/// Questions that may be open at once.
const MAX_OPEN: usize = 64;

/// What is asked of the leader of a partition, here or on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Answer<SegmentRead>, ErrorCode>")]
pub struct AskLeader {
    /// Which one.
    pub partition: TopicPartition,
    /// What.
    pub question: Question,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Where something is.
    LookUp(OffsetQuery),
    /// Committed records.
    Fetch {
        /// From there on.
        offset: u64,
        /// About so many bytes.
        max_bytes: u32,
    },
}

/// Who waits for which answer.
#[derive(Debug, Default)]
pub struct Asked {
    next: u64,
    open: HashMap<u64, oneshot::Sender<Answer<SegmentRead>>>,
}

impl Asked {
    /// Nobody waits any more.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// A number for a question, unless too many are open.
    fn open(&mut self) -> Option<(u64, oneshot::Receiver<Answer<SegmentRead>>)> {
        // Who waited too long has gone.
        self.open.retain(|_, answer| !answer.is_closed());
        if self.open.len() >= MAX_OPEN {
            return None;
        }
        self.next += 1;
        let (answer, answered) = oneshot::channel();
        self.open.insert(self.next, answer);
        Some((self.next, answered))
    }
}

impl AdminActor {
    /// Tells shards and the forwarder where answers go.
    pub(super) fn register(&self, ctx: &mut Context<Self>) {
        let reply_to = || {
            let address = ctx.address();
            ReplyTo { replies: address.clone().recipient(), restarted: address.recipient() }
        };
        let register = |reply_to| RegisterConnection { connection: CONNECTION, reply_to };
        let shards: Vec<_> = self.setup.shards.iter().map(|shard| shard.addr().send(register(reply_to()))).collect();
        let forward = self.setup.forward.addr().send(register(reply_to()));
        actix_rt::spawn(async move {
            // Closed only while the process goes down.
            for registration in shards {
                let _ = registration.await;
            }
            let _ = forward.await;
        });
    }
}

impl Handler<AskLeader> for AdminActor {
    type Result = ResponseFuture<Result<Answer<SegmentRead>, ErrorCode>>;

    fn handle(&mut self, message: AskLeader, _: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let Some((request, answered)) = self.asked.open() else {
            return Box::pin(async { Err(ErrorCode::Overloaded) });
        };
        let AskLeader { partition, question } = message;
        let is_here = {
            let view = self.setup.view.load();
            view.leads(partition) || view.is_alone()
        };
        let shard = self.setup.shards.get(usize::from(shard_of(partition, self.setup.shards.len() as u16)));
        let (shard, forward) = (shard.filter(|_| is_here).cloned(), self.setup.forward.clone());
        Box::pin(async move {
            let sent = match question {
                Question::LookUp(query) => {
                    let look_up = LookUpOffset { connection: CONNECTION, request, partition, query };
                    match shard {
                        Some(shard) => shard.send(look_up).await,
                        None => forward.send(look_up).await,
                    }
                }
                Question::Fetch { offset, max_bytes } => {
                    let fetch = Fetch {
                        connection: CONNECTION,
                        request,
                        part: 0,
                        partition,
                        offset,
                        max_bytes,
                        max_wait: Duration::ZERO,
                        stored: false,
                        near: false,
                        trace: None,
                    };
                    match shard {
                        Some(shard) => shard.send(fetch).await,
                        None => forward.send(fetch).await,
                    }
                }
            };
            sent.map_err(|_| ErrorCode::Unavailable)?;
            answered.await.map_err(|_| ErrorCode::Unavailable)
        })
    }
}

impl Handler<Replies<SegmentRead>> for AdminActor {
    type Result = ();

    fn handle(&mut self, message: Replies<SegmentRead>, _: &mut Self::Context) {
        for reply in message.replies {
            if let Some(answer) = self.asked.open.remove(&reply.request) {
                // Who asked may have gone.
                let _ = answer.send(reply.answer);
            }
        }
    }
}

impl Handler<ShardRestarted> for AdminActor {
    type Result = ();

    /// Which questions the shard had is not kept: those who wait ask again.
    fn handle(&mut self, _: ShardRestarted, _: &mut Self::Context) {
        self.asked.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_nobody_waits_for_make_room() {
        let mut asked = Asked::default();
        let waiting: Vec<_> = std::iter::from_fn(|| asked.open()).collect();
        assert_eq!(waiting.len(), MAX_OPEN);
        drop(waiting);
        assert_eq!(asked.open().map(|(number, _)| number), Some(MAX_OPEN as u64 + 1));
    }
}
