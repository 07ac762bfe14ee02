//! What one connection sends to the shards after a turn: batches gathered into one message a shard, in order.

use crate::forward::actor::ForwardActor;
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use actix::prelude::*;
use lance_messages::id::ConnectionId;
use lance_messages::mail::ingestion::{CancelWait, Fetch, LookUpOffset, Produce, ProduceRequest};

/// One message for a shard.
pub enum ShardMessage {
    /// Append.
    Produce(Produce),
    /// Read.
    Fetch(Fetch),
    /// Stop waiting.
    CancelWait(CancelWait),
    /// Look an offset up.
    LookUp(LookUpOffset),
}

/// Adds a batch to the message that is being gathered for its shard.
pub fn push_produce(
    outgoing: &mut Vec<(u16, ShardMessage)>,
    connection: ConnectionId,
    shard: u16,
    request: ProduceRequest,
) {
    for (other, message) in outgoing.iter_mut().rev() {
        if *other == shard
            && let ShardMessage::Produce(produce) = message
        {
            produce.requests.push(request);
            return;
        }
    }
    let requests = vec![request];
    outgoing.push((shard, ShardMessage::Produce(Produce { connection, requests })));
}

fn full<M>(sent: Result<(), SendError<M>>) -> Result<(), M> {
    match sent {
        // A closed mailbox means that the node goes down; the connection will be closed too.
        Ok(()) | Err(SendError::Closed(_)) => Ok(()),
        Err(SendError::Full(message)) => Err(message),
    }
}

/// Sends without waiting; a message for which there is no room comes back.
pub fn try_send(mailbox: &Mailbox<IngestionActor>, message: ShardMessage) -> Result<(), ShardMessage> {
    match message {
        ShardMessage::Produce(message) => full(mailbox.try_send(message)).map_err(ShardMessage::Produce),
        ShardMessage::Fetch(message) => full(mailbox.try_send(message)).map_err(ShardMessage::Fetch),
        ShardMessage::CancelWait(message) => full(mailbox.try_send(message)).map_err(ShardMessage::CancelWait),
        ShardMessage::LookUp(message) => full(mailbox.try_send(message)).map_err(ShardMessage::LookUp),
    }
}

/// As [`try_send`], to the forwarder, which is asked for batches and records only.
pub fn try_forward(mailbox: &Mailbox<ForwardActor>, message: ShardMessage) -> Result<(), ShardMessage> {
    match message {
        ShardMessage::Produce(message) => full(mailbox.try_send(message)).map_err(ShardMessage::Produce),
        ShardMessage::Fetch(message) => full(mailbox.try_send(message)).map_err(ShardMessage::Fetch),
        ShardMessage::CancelWait(_) | ShardMessage::LookUp(_) => Ok(()),
    }
}

/// As [`send`], to the forwarder.
pub async fn forward_message(mailbox: &Mailbox<ForwardActor>, message: ShardMessage) {
    let _ = match message {
        ShardMessage::Produce(message) => mailbox.send(message).await,
        ShardMessage::Fetch(message) => mailbox.send(message).await,
        ShardMessage::CancelWait(_) | ShardMessage::LookUp(_) => Ok(()),
    };
}

/// Sends, waiting for room.
pub async fn send(mailbox: &Mailbox<IngestionActor>, message: ShardMessage) {
    // As above: closed means that the node goes down.
    let _ = match message {
        ShardMessage::Produce(message) => mailbox.send(message).await,
        ShardMessage::Fetch(message) => mailbox.send(message).await,
        ShardMessage::CancelWait(message) => mailbox.send(message).await,
        ShardMessage::LookUp(message) => mailbox.send(message).await,
    };
}
