//! Which partition a record goes to.

use crate::record::ProducerRecord;
use std::sync::atomic::{AtomicU32, Ordering};

/// Chooses partitions, for [`ProducerOptions::partitioner`](crate::ProducerOptions::partitioner). A closure is one.
///
/// ```
/// use lance_client::{ProducerOptions, ProducerRecord};
/// use std::sync::Arc;
///
/// // Urgent records have the first partition for themselves; the others go where their key says.
/// let urgent_first = |record: &ProducerRecord, _partitions: u16| {
///     record.headers.iter().any(|header| header.name == "urgent").then_some(0)
/// };
/// let options = ProducerOptions { partitioner: Some(Arc::new(urgent_first)), ..ProducerOptions::default() };
/// ```
pub trait Partitioner: Send + Sync {
    /// The partition of a record that names none, below `partitions`; `None` leaves it to the producer's own rule. Equal
    /// keys keep their order only in one partition.
    fn partition(&self, record: &ProducerRecord, partitions: u16) -> Option<u16>;
}

impl<F: Fn(&ProducerRecord, u16) -> Option<u16> + Send + Sync> Partitioner for F {
    fn partition(&self, record: &ProducerRecord, partitions: u16) -> Option<u16> {
        self(record, partitions)
    }
}

/// One partition after another, whatever the key.
///
/// ```
/// use lance_client::ProducerRecord;
/// use lance_client::partitioner::{Partitioner, RoundRobin};
///
/// let (turns, record) = (RoundRobin::default(), ProducerRecord::new("t", "x"));
/// let chosen: Vec<_> = (0..4).map(|_| turns.partition(&record, 3)).collect();
/// assert_eq!(chosen, [Some(0), Some(1), Some(2), Some(0)]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: AtomicU32,
}

impl Partitioner for RoundRobin {
    fn partition(&self, _record: &ProducerRecord, partitions: u16) -> Option<u16> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        Some((turn % u32::from(partitions.max(1))) as u16)
    }
}

/// Kafka's default: murmur2 of the key, sign bit cleared, modulo the number of partitions.
///
/// ```
/// use lance_client::partitioner::partition_of_key;
///
/// assert_eq!(partition_of_key(b"customer 7", 8), partition_of_key(b"customer 7", 8));
/// ```
pub fn partition_of_key(key: &[u8], partitions: u16) -> u16 {
    let hash = murmur2(key) & 0x7FFF_FFFF;
    (hash % u32::from(partitions.max(1))) as u16
}

/// The 32-bit MurmurHash2 with Kafka's seed.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const M: u32 = 0x5BD1_E995;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafka() {
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key) as i32, expected, "{key:?}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for count in [0, 1, 3, 16, u16::MAX] {
            assert!(partition_of_key(b"key", count) < count.max(1));
        }
    }
}
