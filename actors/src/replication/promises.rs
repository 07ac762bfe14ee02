//! The body of the file `promises`: what this node's replicas promised, and how often each was found damaged.
//!
//! ```text
//! for each partition, in order:  topic u32 · partition u16 · promised epoch u32 · damage count u32     little-endian
//! ```

use lance_messages::id::{LeaderEpoch, TopicId, TopicPartition};

/// Version of the checkpoint's body.
pub const PROMISES_VERSION: u8 = 2;
const ENTRY_BYTES: usize = 14;

/// What is kept of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromiseRecord {
    /// The partition.
    pub partition: TopicPartition,
    /// The promised epoch.
    pub promised: LeaderEpoch,
    /// How often its replica was found damaged in this life of the node's disk.
    pub damage_count: u32,
}

/// Why the file makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are no list of promises of {ENTRY_BYTES} bytes each")]
pub struct PromisesError {
    /// Its length.
    pub bytes: usize,
}

/// Writes the body.
pub fn encode(records: impl Iterator<Item = PromiseRecord>) -> Vec<u8> {
    let mut body = Vec::new();
    for PromiseRecord { partition, promised, damage_count } in records {
        body.extend_from_slice(&partition.topic.0.to_le_bytes());
        body.extend_from_slice(&partition.partition.to_le_bytes());
        body.extend_from_slice(&promised.0.to_le_bytes());
        body.extend_from_slice(&damage_count.to_le_bytes());
    }
    body
}

/// Reads it back.
pub fn decode(body: &[u8]) -> Result<Vec<PromiseRecord>, PromisesError> {
    if !body.len().is_multiple_of(ENTRY_BYTES) {
        return Err(PromisesError { bytes: body.len() });
    }
    let u32_at = |entry: &[u8], at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let read = |entry: &[u8]| PromiseRecord {
        partition: TopicPartition::new(TopicId(u32_at(entry, 0)), u16::from_le_bytes([entry[4], entry[5]])),
        promised: LeaderEpoch(u32_at(entry, 6)),
        damage_count: u32_at(entry, 10),
    };
    Ok(body.chunks_exact(ENTRY_BYTES).map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_have_these_bytes() {
        let partition = TopicPartition::new(TopicId(0x0102_0304), 0x0506);
        let record = PromiseRecord { partition, promised: LeaderEpoch(0x0708_090A), damage_count: 1 };
        let body = encode([record].into_iter());
        assert_eq!(body, [4, 3, 2, 1, 6, 5, 10, 9, 8, 7, 1, 0, 0, 0]);
        assert_eq!(decode(&body), Ok(vec![record]));
        assert_eq!(decode(&body[..13]), Err(PromisesError { bytes: 13 }));
    }
}
