//! What may be decided: `[version u8 = 1][bincode of MetadataCommand]`; a variant's place in the enum is its number on disk, so new
//! ones go to the end.

use super::topic::{ReplicaIncarnation, TopicConfig};
use crate::codec::{self, CodecError};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TopicId, TopicPartition};
use serde::{Deserialize, Serialize};

/// Version byte before every command.
pub const COMMAND_VERSION: u8 = 1;
const WHAT: &str = "metadata command";

/// One decision proposed to the metadata plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetadataCommand {
    /// A node has started.
    RegisterNode {
        /// The node.
        node: NodeId,
        /// Id of the life of its data directory, not 0.
        incarnation: u64,
        /// Number of this start, synced before it is proposed.
        boot_number: u64,
        /// Made anew at each start.
        nonce: u64,
        /// Where clients and peers reach it, host:port.
        address: String,
    },
    /// Creates a topic; the name "default" gets id 0.
    CreateTopic {
        /// Its name.
        name: String,
        /// What it shall be.
        config: TopicConfig,
        /// The proposer's clock.
        created_at_secs: u64,
        /// A nonce that a retry repeats; 0 for none.
        request: u64,
    },
    /// Deletes a topic for ever.
    DeleteTopic {
        /// The topic.
        topic: TopicId,
        /// The proposer's clock.
        deleted_at_secs: u64,
    },
    /// Changes what is named and leaves the rest.
    AlterTopic {
        /// The topic.
        topic: TopicId,
        /// The new number of partitions, not below the present one.
        partitions: Option<u16>,
        /// The new retention age.
        max_age_secs: Option<u64>,
        /// The new retention size.
        max_bytes: Option<u64>,
    },
    /// Sets both limits of retention; 0 = unlimited.
    SetRetention {
        /// The topic.
        topic: TopicId,
        /// The new retention age.
        max_age_secs: u64,
        /// The new retention size.
        max_bytes: u64,
    },
    /// Allocates a producer id, or raises the epoch of one.
    InitProducer {
        /// The id and epoch held so far.
        existing: Option<(ProducerId, u16)>,
        /// The proposer's clock.
        now_secs: u64,
    },
    /// Ends the leadership of these partitions and opens the next epoch of each.
    OpenEpoch {
        /// Each judged alone.
        partitions: Vec<EpochOpening>,
    },
    /// Names the leaders of epochs that are open; the first choice wins.
    LeaderChosen {
        /// Each judged alone.
        partitions: Vec<LeaderChoice>,
    },
}

/// One partition's next epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochOpening {
    /// The partition.
    pub partition: TopicPartition,
    /// One more than its epoch when this was proposed.
    pub epoch: LeaderEpoch,
}

/// One partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderChoice {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch it shall lead in.
    pub epoch: LeaderEpoch,
    /// The node.
    pub leader: NodeId,
    /// The replica incarnation that answered.
    pub incarnation: ReplicaIncarnation,
    /// The boot number that answered.
    pub boot_number: u64,
}

impl MetadataCommand {
    /// The bytes that go into the Raft log.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(WHAT, COMMAND_VERSION, self)
    }

    /// Reads a command back.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(WHAT, COMMAND_VERSION, bytes)
    }
}
