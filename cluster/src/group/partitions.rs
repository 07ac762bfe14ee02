//! Sets of partitions, as a group's records hold them. Integers are little-endian; topics and partitions ascend.
//!
//! ```text
//! partitions   count of topics u16, each: topic u32 · form u8 · body
//! form 0 list    count u16 · partitions u16
//! form 1 ranges  count u16, each: first u16 · last u16, with a gap between one and the next
//! form 2 bitmap  first u16 · bytes u16 · bits, lowest first; bit 0 is `first`, the last byte is not 0
//! ```

use super::codec::{OffsetRecordError, Reader};
use super::limits::MAX_GROUP_PARTITIONS;
use lance_messages::id::{TopicId, TopicPartition};

const FORM_LIST: u8 = 0;
const FORM_RANGES: u8 = 1;
const FORM_BITMAP: u8 = 2;

/// A set of partitions, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions(Vec<TopicPartition>);

impl Partitions {
    /// No partitions.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Them, in ascending order.
    pub fn as_slice(&self) -> &[TopicPartition] {
        &self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each one, ascending.
    pub fn iter(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.0.iter().copied()
    }

    /// Whether this one is there.
    pub fn contains(&self, partition: TopicPartition) -> bool {
        self.0.binary_search(&partition).is_ok()
    }

    /// Those which are not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        self.filtered(other, false)
    }

    /// Those which are in both.
    pub fn common(&self, other: &Self) -> Self {
        self.filtered(other, true)
    }

    fn filtered(&self, other: &Self, shared: bool) -> Self {
        let mut others = other.0.iter().peekable();
        let keeps = |partition: &TopicPartition| {
            while others.next_if(|next| *next < partition).is_some() {}
            (others.peek() == Some(&partition)) == shared
        };
        let mut keeps = keeps;
        Self(self.0.iter().filter(|partition| keeps(partition)).copied().collect())
    }

    /// Those of both.
    pub fn plus(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// Whether each of `asked` is in one of two sets.
    pub fn all_in(asked: &Self, first: &Self, second: &Self) -> bool {
        asked.len() <= first.len() + second.len()
            && asked.iter().all(|partition| first.contains(partition) || second.contains(partition))
    }

    /// The partitions of each topic.
    pub fn by_topic(&self) -> impl Iterator<Item = (TopicId, &[TopicPartition])> {
        self.0.chunk_by(|a, b| a.topic == b.topic).filter_map(|of_topic| Some((of_topic.first()?.topic, of_topic)))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
        if self.len() > MAX_GROUP_PARTITIONS {
            return Err(OffsetRecordError::TooManyPartitions { found: self.len() });
        }
        let topics = self.by_topic().count();
        let too_many = OffsetRecordError::TooMany { field: "topics", found: topics };
        out.extend(u16::try_from(topics).map_err(|_| too_many)?.to_le_bytes());
        for (topic, of_topic) in self.by_topic() {
            out.extend(topic.0.to_le_bytes());
            encode_topic(of_topic, out);
        }
        Ok(())
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, OffsetRecordError> {
        let mut found = Vec::new();
        let mut before = None;
        for _ in 0..reader.u16("count of topics")? {
            let topic = TopicId(reader.u32("topic")?);
            if before.replace(topic).is_some_and(|before| before >= topic) {
                return Err(OffsetRecordError::BadPartitions { topic });
            }
            decode_topic(topic, reader, &mut found)?;
            if found.len() > MAX_GROUP_PARTITIONS {
                return Err(OffsetRecordError::TooManyPartitions { found: found.len() });
            }
        }
        Ok(Self(found))
    }
}

impl From<Vec<TopicPartition>> for Partitions {
    fn from(mut partitions: Vec<TopicPartition>) -> Self {
        if !partitions.is_sorted_by(|a, b| a < b) {
            partitions.sort_unstable();
            partitions.dedup();
        }
        Self(partitions)
    }
}

impl FromIterator<TopicPartition> for Partitions {
    fn from_iter<I: IntoIterator<Item = TopicPartition>>(partitions: I) -> Self {
        partitions.into_iter().collect::<Vec<_>>().into()
    }
}

/// In the form that takes the fewest bytes.
fn encode_topic(of_topic: &[TopicPartition], out: &mut Vec<u8>) {
    let numbers = || of_topic.iter().map(|partition| partition.partition);
    let runs = || of_topic.chunk_by(|a, b| a.partition.checked_add(1) == Some(b.partition));
    let (first, last) = (numbers().next().unwrap_or(0), numbers().next_back().unwrap_or(0));
    let bitmap_bytes = usize::from(last - first) / 8 + 1;
    let (list, ranges, bitmap) = (2 * of_topic.len(), 4 * runs().count(), 2 + bitmap_bytes);
    if list <= ranges.min(bitmap) {
        out.push(FORM_LIST);
        out.extend((of_topic.len() as u16).to_le_bytes());
        out.extend(numbers().flat_map(u16::to_le_bytes));
    } else if ranges <= bitmap {
        out.push(FORM_RANGES);
        out.extend((runs().count() as u16).to_le_bytes());
        for (first, last) in runs().filter_map(|run| run.first().zip(run.last())) {
            out.extend(first.partition.to_le_bytes());
            out.extend(last.partition.to_le_bytes());
        }
    } else {
        out.push(FORM_BITMAP);
        out.extend(first.to_le_bytes());
        out.extend((bitmap_bytes as u16).to_le_bytes());
        let mut bits = vec![0_u8; bitmap_bytes];
        for number in numbers().map(|number| usize::from(number - first)) {
            bits[number / 8] |= 1 << (number % 8);
        }
        out.extend(bits);
    }
}

fn decode_topic(
    topic: TopicId,
    reader: &mut Reader<'_>,
    found: &mut Vec<TopicPartition>,
) -> Result<(), OffsetRecordError> {
    let bad = OffsetRecordError::BadPartitions { topic };
    let begin = found.len();
    let mut push = |number: u16| found.push(TopicPartition::new(topic, number));
    match reader.u8("form of partitions")? {
        FORM_LIST => {
            for _ in 0..reader.u16("count of partitions")? {
                push(reader.u16("partition")?);
            }
        }
        FORM_RANGES => {
            let mut next_free = 0;
            for _ in 0..reader.u16("count of ranges")? {
                let (first, last) = (reader.u16("first partition")?, reader.u16("last partition")?);
                if last < first || u32::from(first) < next_free {
                    return Err(bad);
                }
                // A range that begins where one ends is a part of it.
                next_free = u32::from(last) + 2;
                (first..=last).for_each(&mut push);
            }
        }
        FORM_BITMAP => {
            let first = reader.u16("first partition")?;
            let bytes = usize::from(reader.u16("bytes of a bitmap")?);
            let bits = reader.take(bytes, "bitmap")?;
            if bits.first().is_none_or(|byte| byte & 1 == 0) || bits.last() == Some(&0) {
                return Err(bad);
            }
            let set = (0..bits.len() * 8).filter(|bit| bits[bit / 8] & (1 << (bit % 8)) != 0);
            for number in set {
                push(u16::try_from(usize::from(first) + number).map_err(|_| bad.clone())?);
            }
        }
        _ => return Err(bad),
    }
    match &found[begin..] {
        [] => Err(bad),
        of_topic if of_topic.is_sorted_by(|a, b| a < b) => Ok(()),
        _ => Err(bad),
    }
}
