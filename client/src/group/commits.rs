//! How far a member has come: what was handed out, what is handled, what is committed.

use super::admin::bad_reply;
use super::heartbeat::Shared;
use super::membership::AssignedPartition;
use crate::client::Client;
use crate::consumer::{ConsumedChunk, Position};
use crate::error::ClientError;
use crate::options::Backoff;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::wire::group::{FoundOffset, GroupCommit, GroupOffset, GroupOffsetsWanted};
use lance_messages::wire::{Request, Response};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Positions in the partitions of a member.
#[derive(Debug, Default)]
pub(super) struct Commits {
    partitions: HashMap<(Arc<str>, u16), Progress>,
    /// The partition of the chunk given last, and where it ends.
    handed_out: Option<(Arc<str>, u16, u64)>,
    /// Commits so far.
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    id: TopicPartition,
    handled: u64,
    /// What the log says; `None`: nothing yet.
    committed: Option<u64>,
}

impl Commits {
    /// Reading begins; what is not committed yet will be, even if nothing comes: the group goes on there.
    pub(super) fn begin(&mut self, gained: &[AssignedPartition], begins: &[Position], found: &[FoundOffset]) {
        for (partition, begin) in gained.iter().zip(begins) {
            let found = found.iter().find(|found| found.partition == partition.id);
            let committed = found.map(|found| found.offset);
            let progress = Progress { id: partition.id, handled: begin.offset, committed };
            self.partitions.insert((Arc::clone(&begin.topic), begin.partition), progress);
        }
    }

    pub(super) fn held(&self) -> Vec<AssignedPartition> {
        let partitions = self.partitions.iter();
        partitions.map(|((topic, _), at)| AssignedPartition { topic: Arc::clone(topic), id: at.id }).collect()
    }

    /// Where the next record begins that was not handed out.
    pub(super) fn position(&self, topic: &str, partition: u16) -> Option<u64> {
        let out = self.handed_out.as_ref().filter(|(name, number, _)| **name == *topic && *number == partition);
        let handled = || self.partitions.get(&(Arc::from(topic), partition)).map(|progress| progress.handled);
        out.map(|(_, _, next)| *next).or_else(handled)
    }

    pub(super) fn forget(&mut self, partitions: &[AssignedPartition]) {
        for partition in partitions {
            self.partitions.remove(&(Arc::clone(&partition.topic), partition.id.partition));
            if self
                .handed_out
                .as_ref()
                .is_some_and(|(topic, number, _)| *topic == partition.topic && *number == partition.id.partition)
            {
                self.handed_out = None;
            }
        }
    }

    /// A chunk goes to the caller; `false`: it is of no partition of the member's.
    pub(super) fn hand_out(&mut self, chunk: &ConsumedChunk) -> bool {
        let known = self.partitions.contains_key(&(Arc::clone(&chunk.topic), chunk.partition));
        if known {
            self.handed_out = Some((Arc::clone(&chunk.topic), chunk.partition, chunk.next_offset));
        }
        known
    }

    pub(super) fn handled_to(&mut self, offset: u64) {
        if let Some((_, _, next)) = &mut self.handed_out {
            *next = offset.min(*next);
        }
    }

    /// The caller is done with what it was given.
    pub(super) fn note_handled(&mut self) {
        if let Some((topic, partition, next)) = self.handed_out.take()
            && let Some(progress) = self.partitions.get_mut(&(topic, partition))
        {
            progress.handled = next;
        }
    }

    /// Commits what is handled and not committed yet, of all partitions or some.
    pub(super) async fn commit(
        &mut self,
        client: &Client,
        shared: &Shared,
        only: Option<&[AssignedPartition]>,
    ) -> Result<(), ClientError> {
        let wanted = |progress: &&Progress| {
            progress.committed != Some(progress.handled)
                && only.is_none_or(|only| only.iter().any(|partition| partition.id == progress.id))
        };
        let offsets: Vec<GroupOffset> = self
            .partitions
            .values()
            .filter(wanted)
            .map(|progress| GroupOffset { partition: progress.id, offset: progress.handled, metadata: String::new() })
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        self.count += 1;
        let refused = send(client, shared, &offsets, self.count).await?;
        for progress in self.partitions.values_mut() {
            let sent = offsets.iter().find(|sent| sent.partition == progress.id);
            if let Some(sent) = sent.filter(|sent| !refused.iter().any(|(id, _)| *id == sent.partition)) {
                progress.committed = Some(sent.offset);
            }
        }
        match refused.first() {
            None => Ok(()),
            Some((_, code)) => Err(ClientError::from_code(*code)),
        }
    }
}

/// Sends a commit, again and again while that can help; gives the partitions that were refused.
async fn send(
    client: &Client,
    shared: &Shared,
    offsets: &[GroupOffset],
    number: u64,
) -> Result<Vec<(TopicPartition, ErrorCode)>, ClientError> {
    let session = shared.membership().profile().session_timeout;
    let deadline = Instant::now() + session.min(client.options().delivery_timeout);
    let mut backoff = Backoff::new(client.options().retry_backoff);
    loop {
        let commit = {
            let membership = shared.membership();
            GroupCommit {
                group: membership.profile().group.clone(),
                member: membership.member().to_owned(),
                epoch: membership.epoch(),
                offsets: offsets.to_vec(),
                number,
            }
        };
        let epoch = commit.epoch;
        let error = match shared.coordinator.ask(&Request::GroupCommit(commit), "group commit", session / 3).await {
            Ok(Response::GroupCommit(committed)) => {
                let refused = committed.results.into_iter().filter_map(|(id, code)| code.map(|code| (id, code)));
                return Ok(refused.collect());
            }
            Ok(_) => return Err(bad_reply("group commit")),
            Err(error) => error,
        };
        // A heartbeat under way may just have moved the epoch on.
        let stale = error.code() == Some(ErrorCode::StaleMemberEpoch);
        if stale && shared.membership().epoch() == epoch {
            shared.wake.notify_one();
        }
        if !(stale || error.is_retriable()) || Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// What the group has committed for partitions.
pub(super) async fn fetch(
    client: &Client,
    shared: &Shared,
    partitions: &[AssignedPartition],
) -> Result<Vec<FoundOffset>, ClientError> {
    let group = shared.membership().profile().group.clone();
    let partitions = partitions.iter().map(|partition| partition.id).collect();
    let request = Request::GroupOffsets(GroupOffsetsWanted { group, partitions });
    let deadline = Instant::now() + client.options().delivery_timeout;
    match shared.coordinator.ask_until(&request, "group offsets", deadline).await? {
        Response::GroupOffsets(found) => Ok(found.offsets),
        _ => Err(bad_reply("group offsets")),
    }
}
