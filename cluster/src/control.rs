//! What nodes say to each other about the cluster: `[version u8 = 2][bincode of ControlMessage]`, over control links.
//!
//! Any of these may be lost; whoever needs an answer asks again.

use crate::codec::{self, CodecError};
use crate::metadata::{HeartbeatAnswer, NodeStart, PromiseAnswer, StartKnowledge};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use serde::{Deserialize, Serialize};

/// Version byte before every message.
pub const CONTROL_VERSION: u8 = 2;
const WHAT: &str = "control message";

/// One message; a variant's place is its number on the wire, so new ones go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// The sender lives.
    Heartbeat {
        /// When, in milliseconds of its own clock since it started.
        sent_ms: u64,
    },
    /// A message of Raft.
    Raft(Vec<u8>),
    /// Propose a command, as it is encoded.
    Propose {
        /// Comes back with the outcome.
        request: u64,
        /// The command.
        command: Vec<u8>,
    },
    /// What became of a proposal.
    Proposed {
        /// As in the request.
        request: u64,
        /// What it came to.
        outcome: ProposeOutcome,
    },
    /// Promise these epochs.
    AskPromises(Vec<(TopicPartition, LeaderEpoch)>),
    /// The sender's promises.
    Promises(Vec<PromiseAnswer>),
    /// Leaders want a new epoch instead of these.
    RequestEpochs(Vec<(TopicPartition, LeaderEpoch)>),
    /// The sender leads these.
    Leading(Vec<(TopicPartition, LeaderEpoch)>),
    /// Hand a leadership over to another node.
    MoveLeader {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it is led in.
        epoch: LeaderEpoch,
        /// To whom.
        to: NodeId,
    },
    /// The target of a move holds everything.
    MoveReady {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it is led in.
        epoch: LeaderEpoch,
        /// The target.
        to: NodeId,
    },
    /// A heartbeat arrived.
    HeartbeatAnswer(HeartbeatAnswer),
    /// The sender has started: is that its newest start?
    StartAsked(NodeStart),
    /// What the sender knows of the start it was asked about.
    StartAnswered {
        /// The start.
        start: NodeStart,
        /// What is known of its life.
        known: StartKnowledge,
    },
    /// The sender leads these, and found its own disk slower than those of its followers: others shall lead them.
    LeaderSlow(Vec<(TopicPartition, LeaderEpoch)>),
    /// An operator lifts the back-off of a node's return to the quorums.
    LiftBackOff(NodeId),
}

/// What a proposal came to at the node that led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProposeOutcome {
    /// It was applied as this entry; every node that applies it finds the same answer.
    Applied {
        /// The entry's index.
        index: u64,
        /// Why it changed nothing, for who cannot apply it yet.
        refused: Option<String>,
    },
    /// It was refused before it was proposed.
    Refused(String),
    /// It was not proposed, or nothing is known of its outcome.
    Failed {
        /// It may be committed all the same.
        outcome_unknown: bool,
    },
}

impl ControlMessage {
    /// The bytes of a message.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(WHAT, CONTROL_VERSION, self)
    }

    /// Reads a message back.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(WHAT, CONTROL_VERSION, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    #[test]
    fn messages_have_these_bytes() {
        let partition = TopicPartition::new(TopicId(7), 1);
        let start = NodeStart { node: NodeId(3), incarnation: 9, boot_number: 4, nonce: 8 };
        let cases = [
            (ControlMessage::Heartbeat { sent_ms: 3 }, vec![2, 0, 3]),
            (ControlMessage::Raft(vec![9, 8]), vec![2, 1, 2, 9, 8]),
            (ControlMessage::Propose { request: 5, command: vec![1] }, vec![2, 2, 5, 1, 1]),
            (ControlMessage::AskPromises(vec![(partition, LeaderEpoch(3))]), vec![2, 4, 1, 7, 1, 3]),
            (ControlMessage::MoveLeader { partition, epoch: LeaderEpoch(3), to: NodeId(2) }, vec![2, 8, 7, 1, 3, 2]),
            (ControlMessage::StartAsked(start), vec![2, 11, 3, 9, 4, 8]),
            (ControlMessage::LiftBackOff(NodeId(2)), vec![2, 14, 2]),
            (ControlMessage::LeaderSlow(vec![(partition, LeaderEpoch(3))]), vec![2, 13, 1, 7, 1, 3]),
            (
                ControlMessage::StartAnswered { start, known: StartKnowledge::Newest { boot_number: 5, nonce: 7 } },
                vec![2, 12, 3, 9, 4, 8, 1, 5, 7],
            ),
        ];
        for (message, bytes) in cases {
            assert_eq!(message.encode().unwrap(), bytes);
            assert_eq!(ControlMessage::decode(&bytes).unwrap(), message);
        }
        assert!(ControlMessage::decode(&[1, 0, 1]).is_err());
        assert!(ControlMessage::decode(&[2, 0, 1, 0]).is_err());
    }
}
