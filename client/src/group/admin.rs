//! Groups as tools see them.

use super::GroupCoordinator;
use crate::admin::Admin;
use crate::error::ClientError;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::{DescribeGroups, FoundOffset, GroupCommit, GroupOffset, GroupOffsetsWanted};
use lance_messages::wire::request::CommitOffset;
use lance_messages::wire::{Request, Response};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A consumer group and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// Its name.
    pub name: String,
    /// `empty`, `stable` or `reconciling`.
    pub state: String,
    /// Counts its changes.
    #[serde(default)]
    pub epoch: i64,
    /// How partitions are spread.
    #[serde(default)]
    pub strategy: String,
    /// The node that coordinates it.
    #[serde(default)]
    pub coordinator: u16,
    /// Its members.
    #[serde(default)]
    pub members: Vec<MemberDescription>,
    /// The partitions it has committed or reads.
    #[serde(default)]
    pub partitions: Vec<GroupPartition>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberDescription {
    /// The name it chose when it started.
    pub member: String,
    /// The name that stays over restarts, of a static member.
    #[serde(default)]
    pub instance: Option<String>,
    /// What its client calls itself.
    #[serde(default)]
    pub client: String,
    /// Where it runs.
    #[serde(default)]
    pub rack: String,
    /// Its epoch.
    #[serde(default)]
    pub epoch: i64,
    /// Milliseconds since it was heard.
    #[serde(default)]
    pub silent_ms: u64,
    /// Its partitions.
    #[serde(default)]
    pub partitions: Vec<NamedPartition>,
    /// Those it is giving up.
    #[serde(default)]
    pub revoking: Vec<NamedPartition>,
}

/// A partition by the name of its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPartition {
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: u16,
}

/// How far a group is in a partition. Lags are `None` while the partition's leader has not told its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupPartition {
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: u16,
    /// The next offset the group reads; `None` before the first commit.
    pub committed: Option<u64>,
    /// The high watermark.
    #[serde(default)]
    pub end_offset: Option<u64>,
    /// Records between them.
    #[serde(default)]
    pub lag_records: Option<u64>,
    /// Bytes between them.
    #[serde(default)]
    pub lag_bytes: Option<u64>,
    /// Age of the first record that is not committed as read; 0 without any.
    #[serde(default)]
    pub lag_seconds: Option<f64>,
    /// The member that reads it.
    #[serde(default)]
    pub owner: Option<String>,
    /// What was kept with the commit.
    #[serde(default)]
    pub metadata: String,
    /// When it was committed, ms since the Unix epoch.
    #[serde(default)]
    pub committed_at_ms: u64,
}

#[derive(Deserialize)]
struct Described {
    groups: Vec<GroupDescription>,
    #[serde(default)]
    consumers: Vec<PlainConsumer>,
}

/// A consumer of 1.0.
#[derive(Deserialize)]
struct PlainConsumer {
    consumer_id: u64,
    partitions: Vec<PlainOffset>,
}

#[derive(Deserialize)]
struct PlainOffset {
    topic_id: u32,
    partition: u16,
    committed: u64,
}

impl Admin {
    /// Groups by name, all without any name. Of one that does not exist nothing is told.
    pub async fn describe_groups(&self, names: &[String]) -> Result<Vec<GroupDescription>, ClientError> {
        let request = Request::DescribeGroups(DescribeGroups { groups: names.to_vec() });
        match self.ask_coordinator(&request, "describe groups").await? {
            Response::DescribeGroups(json) => {
                let described: Described = serde_json::from_slice(&json).map_err(|_| bad_reply("describe groups"))?;
                Ok(described.groups)
            }
            _ => Err(bad_reply("describe groups")),
        }
    }

    /// What consumers of 1.0 have committed: consumer, topic, partition, offset.
    pub async fn plain_consumers(&self) -> Result<Vec<(u64, TopicId, u16, u64)>, ClientError> {
        let request = Request::DescribeGroups(DescribeGroups { groups: Vec::new() });
        let Response::DescribeGroups(json) = self.ask_coordinator(&request, "describe groups").await? else {
            return Err(bad_reply("describe groups"));
        };
        let described: Described = serde_json::from_slice(&json).map_err(|_| bad_reply("describe groups"))?;
        let rows = described.consumers.into_iter().flat_map(|PlainConsumer { consumer_id, partitions }| {
            let row = move |at: PlainOffset| (consumer_id, TopicId(at.topic_id), at.partition, at.committed);
            partitions.into_iter().map(row)
        });
        Ok(rows.collect())
    }

    /// Sets where a consumer of 1.0 goes on.
    pub async fn commit_plain_offset(
        &self,
        consumer_id: u64,
        at: TopicPartition,
        offset: u64,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.client.options().delivery_timeout;
        let request = Request::CommitOffset(CommitOffset { topic: at.topic, consumer_id, offset });
        let coordinator = GroupCoordinator::new(self.client.clone()).about(at.partition);
        coordinator.ask_until(&request, "commit offset", deadline).await.map(drop)
    }

    /// Forgets a group and its offsets. It must have no members.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let request = Request::DeleteGroup { group: group.to_owned() };
        self.ask_coordinator(&request, "delete group").await.map(|_| ())
    }

    /// What a group has committed.
    pub async fn group_offsets(&self, group: &str) -> Result<Vec<FoundOffset>, ClientError> {
        let wanted = GroupOffsetsWanted { group: group.to_owned(), partitions: Vec::new() };
        match self.ask_coordinator(&Request::GroupOffsets(wanted), "group offsets").await? {
            Response::GroupOffsets(found) => Ok(found.offsets),
            _ => Err(bad_reply("group offsets")),
        }
    }

    /// Sets where a group goes on. It must have no members: they would commit over it.
    pub async fn reset_group_offsets(&self, group: &str, offsets: &[(TopicPartition, u64)]) -> Result<(), ClientError> {
        let offset = |(partition, offset): &(TopicPartition, u64)| GroupOffset {
            partition: *partition,
            offset: *offset,
            metadata: String::new(),
        };
        self.commit_group_offsets(group, offsets.iter().map(offset).collect()).await
    }

    /// As [`Admin::reset_group_offsets`], with what is kept beside each.
    pub async fn commit_group_offsets(&self, group: &str, offsets: Vec<GroupOffset>) -> Result<(), ClientError> {
        let commit = GroupCommit { group: group.to_owned(), offsets, ..GroupCommit::default() };
        match self.ask_coordinator(&Request::GroupCommit(commit), "reset offsets").await? {
            Response::GroupCommit(committed) => {
                let refused: Option<ErrorCode> = committed.results.into_iter().find_map(|(_, code)| code);
                refused.map_or(Ok(()), |code| Err(ClientError::from_code(code)))
            }
            _ => Err(bad_reply("reset offsets")),
        }
    }

    async fn ask_coordinator(&self, request: &Request, what: &'static str) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.client.options().delivery_timeout;
        GroupCoordinator::new(self.client.clone()).ask_until(request, what, deadline).await
    }
}

pub(super) fn bad_reply(request: &'static str) -> ClientError {
    ClientError::UnexpectedReply { address: "the coordinator of the group".to_owned(), request }
}
