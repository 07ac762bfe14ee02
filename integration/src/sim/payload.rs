//! Batches that say themselves who made them, so that whatever comes back can be told from everything else.
//!
//! ```text
//! records: one raw TLV each     [01][length u32] then the value
//! opaque:  one run of bytes     [00] then the value
//! value:   client u16 · lane u16 · number u32 · record u32 · noise
//! ```

use super::rng::Rng;
use bytes::Bytes;

/// Bytes of a value in front of its noise.
const KEY_BYTES: usize = 12;

/// Names one batch of the whole simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchKey {
    /// The client that made it.
    pub client: u16,
    /// Which of the client's lanes; a lane writes to one partition.
    pub lane: u16,
    /// Counts the lane's batches.
    pub number: u32,
}

/// A batch as it is sent.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its name.
    pub key: BatchKey,
    /// Its payload.
    pub payload: Bytes,
    /// Records in it.
    pub record_count: u32,
}

impl Batch {
    /// A batch of `record_count` records of about `record_bytes` each; without records an opaque one.
    pub fn new(key: BatchKey, record_count: u32, record_bytes: usize) -> Self {
        let mut noise = Rng::new(u64::from(key.client) << 48 | u64::from(key.lane) << 32 | u64::from(key.number));
        let mut payload = Vec::with_capacity((record_bytes + KEY_BYTES + 5) * record_count.max(1) as usize);
        for record in 0..record_count.max(1) {
            if record_count == 0 {
                payload.push(0);
            } else {
                payload.push(1);
                payload.extend_from_slice(&((record_bytes + KEY_BYTES) as u32).to_le_bytes());
            }
            payload.extend_from_slice(&key.client.to_le_bytes());
            payload.extend_from_slice(&key.lane.to_le_bytes());
            payload.extend_from_slice(&key.number.to_le_bytes());
            payload.extend_from_slice(&record.to_le_bytes());
            let end = payload.len() + record_bytes;
            while payload.len() < end {
                let word = noise.next_u64().to_le_bytes();
                payload.extend_from_slice(&word[..word.len().min(end - payload.len())]);
            }
        }
        Self { key, payload: payload.into(), record_count: record_count.max(1) }
    }
}

/// Who made a payload.
pub fn key_of(payload: &[u8]) -> Option<BatchKey> {
    let start = match payload.first()? {
        0 => 1,
        1 => 5,
        _ => return None,
    };
    let value = payload.get(start..start + KEY_BYTES)?;
    let u16_at = |at: usize| u16::from_le_bytes([value[at], value[at + 1]]);
    let number = u32::from_le_bytes([value[4], value[5], value[6], value[7]]);
    Some(BatchKey { client: u16_at(0), lane: u16_at(2), number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::record::count_records;

    #[test]
    fn a_payload_names_its_batch() {
        let key = BatchKey { client: 3, lane: 1, number: 77 };
        let records = Batch::new(key, 4, 50);
        assert_eq!(count_records(&records.payload), Some(4));
        assert_eq!(key_of(&records.payload), Some(key));
        let opaque = Batch::new(key, 0, 50);
        assert_eq!(count_records(&opaque.payload), None);
        assert_eq!(key_of(&opaque.payload), Some(key));
    }
}
