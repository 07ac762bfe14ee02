//! TopicTee: the rules by which the records of a topic go on to other topics. `text` is a u16 length and UTF-8.
//!
//! ```text
//! TopicTee 0x58: u8 what, then
//!   1 add     u32 topic id, target, u64 bytes a second (0: as fast as it goes), u8 from (1 earliest, 2 latest)
//!   2 remove  u32 topic id, u32 rule
//!   3 list    u8 1 = one topic, 0 = all; u32 topic id
//! target      u8 count, text addresses (host:port); text topic
//! TopicTeeResponse 0xD8: u8 what, then
//!   1 added, 2 removed  u32 rule
//!   3 list    u64 cluster id of who answers, u32 count of rules, each:
//!     u32 rule, u32 topic id, text topic, target, u64 cluster id of the target, u64 bytes a second,
//!     u64 from: ns since the Unix epoch (0: the earliest record), u64 created at, s,
//!     u16 count of partitions that the node that answers forwards, each:
//!       u16 partition, u8 state (1 starting, 2 forwarding, 3 waiting for the target, 4 stuck),
//!       u64 records, u64 bytes, u64 ms that it lags behind, u64 records forwarded, u64 records lost, text last error
//! ```

use super::payload::{PayloadReader, put_text};
use crate::id::{TeeId, TopicId};
use bytes::{BufMut, BytesMut};

/// Most addresses of one target.
pub const MAX_TEE_ADDRESSES: usize = 16;

const ADD: u8 = 1;
const REMOVE: u8 = 2;
const LIST: u8 = 3;
const EARLIEST: u8 = 1;
const LATEST: u8 = 2;

/// Where records go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeeTarget {
    /// Nodes of the target's cluster, host:port; the others are found through them.
    pub addresses: Vec<String>,
    /// The topic there.
    pub topic: String,
}

/// The first records that go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeeFrom {
    /// All that are there.
    Earliest,
    /// Those stored after the rule was added.
    Latest,
}

/// A change of the rules, or a question about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeeRequest {
    /// A new rule.
    Add(AddTee),
    /// A rule ends.
    Remove {
        /// Its topic.
        topic: TopicId,
        /// Its id.
        tee: TeeId,
    },
    /// Which rules there are.
    List {
        /// Of which topic; `None` for all.
        topic: Option<TopicId>,
    },
}

/// A new rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddTee {
    /// Whose records go on.
    pub topic: TopicId,
    /// Where to.
    pub target: TeeTarget,
    /// Most bytes a second; 0 = unlimited.
    pub bytes_per_second: u64,
    /// From where on.
    pub from: TeeFrom,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeeReply {
    /// The rule has this id.
    Added(TeeId),
    /// The rule is gone.
    Removed(TeeId),
    /// The rules.
    List(TeeList),
}

/// The rules of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeeList {
    /// The cluster that answers.
    pub cluster: u64,
    /// Its rules, in the order of their ids.
    pub rules: Vec<TeeDescription>,
}

/// A rule as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeeDescription {
    /// Its id.
    pub id: TeeId,
    /// Whose records go on.
    pub topic: TopicId,
    /// The name of that topic.
    pub topic_name: String,
    /// Where to.
    pub target: TeeTarget,
    /// The cluster that was there when the rule was added.
    pub target_cluster: u64,
    /// Most bytes a second; 0 = unlimited.
    pub bytes_per_second: u64,
    /// Records stored at or after this time go on, ns since the Unix epoch; 0 = all.
    pub from_ns: u64,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// The partitions that the node that answers forwards.
    pub partitions: Vec<TeePartition>,
}

/// What a rule does with a partition at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TeeState {
    /// Its place is being looked up.
    Starting = 1,
    /// Records go on as they come.
    Forwarding = 2,
    /// The target is away or refuses for now: tried again.
    Waiting = 3,
    /// The target refuses for good, or what is to be read cannot be: tried again, and somebody has to look.
    Stuck = 4,
}

/// How far a rule is with one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeePartition {
    /// Which one.
    pub partition: u16,
    /// What happens.
    pub state: TeeState,
    /// Committed records that the target has not acked.
    pub lag_records: u64,
    /// Their bytes.
    pub lag_bytes: u64,
    /// How long the oldest of them has been stored, ms.
    pub lag_ms: u64,
    /// Records acked by the target since this node forwards.
    pub forwarded_records: u64,
    /// Records that retention removed before they were forwarded, since this node forwards.
    pub lost_records: u64,
    /// What went wrong last; empty while nothing is.
    pub error: String,
}

impl TeeState {
    /// The state of a byte on the wire.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Starting),
            2 => Some(Self::Forwarding),
            3 => Some(Self::Waiting),
            4 => Some(Self::Stuck),
            _ => None,
        }
    }

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Forwarding => "forwarding",
            Self::Waiting => "waiting",
            Self::Stuck => "stuck",
        }
    }
}

impl TeeTarget {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<Self> {
        let count = usize::from(reader.u8()?);
        if count > MAX_TEE_ADDRESSES {
            return None;
        }
        let addresses = (0..count).map(|_| reader.text()).collect::<Option<_>>()?;
        Some(Self { addresses, topic: reader.text()? })
    }

    fn encode(&self, out: &mut BytesMut) {
        let count = self.addresses.len().min(MAX_TEE_ADDRESSES);
        out.put_u8(count as u8);
        self.addresses[..count].iter().for_each(|address| put_text(out, address));
        put_text(out, &self.topic);
    }
}

impl TeeRequest {
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = PayloadReader::new(payload);
        match reader.u8()? {
            ADD => {
                let topic = TopicId(reader.u32()?);
                let target = TeeTarget::decode(&mut reader)?;
                let bytes_per_second = reader.u64()?;
                let from = match reader.u8()? {
                    EARLIEST => TeeFrom::Earliest,
                    LATEST => TeeFrom::Latest,
                    _ => return None,
                };
                Some(Self::Add(AddTee { topic, target, bytes_per_second, from }))
            }
            REMOVE => Some(Self::Remove { topic: TopicId(reader.u32()?), tee: TeeId(reader.u32()?) }),
            LIST => {
                let one = match reader.u8()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                let topic = TopicId(reader.u32()?);
                Some(Self::List { topic: one.then_some(topic) })
            }
            _ => None,
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Add(AddTee { topic, target, bytes_per_second, from }) => {
                out.put_u8(ADD);
                out.put_u32_le(topic.0);
                target.encode(out);
                out.put_u64_le(*bytes_per_second);
                out.put_u8(match from {
                    TeeFrom::Earliest => EARLIEST,
                    TeeFrom::Latest => LATEST,
                });
            }
            Self::Remove { topic, tee } => {
                out.put_u8(REMOVE);
                out.put_u32_le(topic.0);
                out.put_u32_le(tee.0);
            }
            Self::List { topic } => {
                out.put_u8(LIST);
                out.put_u8(u8::from(topic.is_some()));
                out.put_u32_le(topic.map_or(0, |topic| topic.0));
            }
        }
    }
}

impl TeeReply {
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = PayloadReader::new(payload);
        match reader.u8()? {
            ADD => Some(Self::Added(TeeId(reader.u32()?))),
            REMOVE => Some(Self::Removed(TeeId(reader.u32()?))),
            LIST => {
                let (cluster, count) = (reader.u64()?, reader.u32()?);
                let mut rules = Vec::new();
                for _ in 0..count {
                    rules.push(TeeDescription::decode(&mut reader)?);
                }
                Some(Self::List(TeeList { cluster, rules }))
            }
            _ => None,
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Added(tee) => {
                out.put_u8(ADD);
                out.put_u32_le(tee.0);
            }
            Self::Removed(tee) => {
                out.put_u8(REMOVE);
                out.put_u32_le(tee.0);
            }
            Self::List(TeeList { cluster, rules }) => {
                out.put_u8(LIST);
                out.put_u64_le(*cluster);
                out.put_u32_le(rules.len() as u32);
                rules.iter().for_each(|rule| rule.encode(out));
            }
        }
    }
}

impl TeeDescription {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<Self> {
        let (id, topic, topic_name) = (TeeId(reader.u32()?), TopicId(reader.u32()?), reader.text()?);
        let target = TeeTarget::decode(reader)?;
        let (target_cluster, bytes_per_second) = (reader.u64()?, reader.u64()?);
        let (from_ns, created_at) = (reader.u64()?, reader.u64()?);
        let mut partitions = Vec::new();
        for _ in 0..reader.u16()? {
            partitions.push(TeePartition::decode(reader)?);
        }
        Some(Self { id, topic, topic_name, target, target_cluster, bytes_per_second, from_ns, created_at, partitions })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.id.0);
        out.put_u32_le(self.topic.0);
        put_text(out, &self.topic_name);
        self.target.encode(out);
        for number in [self.target_cluster, self.bytes_per_second, self.from_ns, self.created_at] {
            out.put_u64_le(number);
        }
        let count = self.partitions.len().min(usize::from(u16::MAX));
        out.put_u16_le(count as u16);
        self.partitions[..count].iter().for_each(|partition| partition.encode(out));
    }
}

impl TeePartition {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<Self> {
        Some(Self {
            partition: reader.u16()?,
            state: TeeState::from_code(reader.u8()?)?,
            lag_records: reader.u64()?,
            lag_bytes: reader.u64()?,
            lag_ms: reader.u64()?,
            forwarded_records: reader.u64()?,
            lost_records: reader.u64()?,
            error: reader.text()?,
        })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.partition);
        out.put_u8(self.state as u8);
        let Self { lag_records, lag_bytes, lag_ms, forwarded_records, lost_records, .. } = *self;
        for number in [lag_records, lag_bytes, lag_ms, forwarded_records, lost_records] {
            out.put_u64_le(number);
        }
        put_text(out, &self.error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target() -> TeeTarget {
        TeeTarget { addresses: vec!["a:1".to_owned(), "b".to_owned()], topic: "t".to_owned() }
    }

    const TARGET: &[u8] = &[2, 3, 0, b'a', b':', b'1', 1, 0, b'b', 1, 0, b't'];

    #[test]
    fn requests_are_golden() {
        let (topic, tee) = (TopicId(7), TeeId(3));
        let add = AddTee { topic, target: target(), bytes_per_second: 9, from: TeeFrom::Latest };
        let cases = [
            (TeeRequest::Add(add), [&[1u8, 7, 0, 0, 0][..], TARGET, &[9, 0, 0, 0, 0, 0, 0, 0, 2]].concat()),
            (TeeRequest::Remove { topic, tee }, vec![2, 7, 0, 0, 0, 3, 0, 0, 0]),
            (TeeRequest::List { topic: Some(topic) }, vec![3, 1, 7, 0, 0, 0]),
            (TeeRequest::List { topic: None }, vec![3, 0, 0, 0, 0, 0]),
        ];
        for (request, golden) in cases {
            let mut out = BytesMut::new();
            request.encode(&mut out);
            assert_eq!(&out[..], &golden[..], "{request:?}");
            for cut in 0..golden.len() {
                assert_eq!(TeeRequest::decode(&golden[..cut]), None, "{request:?} cut at {cut}");
            }
            assert_eq!(TeeRequest::decode(&golden), Some(request));
        }
        assert_eq!(TeeRequest::decode(&[4, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn replies_are_golden() {
        let partition = TeePartition {
            partition: 2,
            state: TeeState::Waiting,
            lag_records: 1,
            lag_bytes: 2,
            lag_ms: 3,
            forwarded_records: 4,
            lost_records: 5,
            error: "e".to_owned(),
        };
        let rule = TeeDescription {
            id: TeeId(3),
            topic: TopicId(7),
            topic_name: "s".to_owned(),
            target: target(),
            target_cluster: 11,
            bytes_per_second: 12,
            from_ns: 13,
            created_at: 14,
            partitions: vec![partition],
        };
        let word = |number: u8| [number, 0, 0, 0, 0, 0, 0, 0];
        let list = [
            &[3u8][..],
            &word(10),
            &[1, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, 1, 0, b's'],
            TARGET,
            &[11, 12, 13, 14].map(word).concat(),
            &[1, 0, 2, 0, 3],
            &[1, 2, 3, 4, 5].map(word).concat(),
            &[1, 0, b'e'],
        ]
        .concat();
        let cases = [
            (TeeReply::Added(TeeId(3)), vec![1, 3, 0, 0, 0]),
            (TeeReply::Removed(TeeId(3)), vec![2, 3, 0, 0, 0]),
            (TeeReply::List(TeeList { cluster: 10, rules: vec![rule] }), list),
        ];
        for (reply, golden) in cases {
            let mut out = BytesMut::new();
            reply.encode(&mut out);
            assert_eq!(&out[..], &golden[..], "{reply:?}");
            for cut in 0..golden.len() {
                assert_eq!(TeeReply::decode(&golden[..cut]), None, "{reply:?} cut at {cut}");
            }
            assert_eq!(TeeReply::decode(&golden), Some(reply));
        }
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = TeeRequest::decode(&bytes);
            let _ = TeeReply::decode(&bytes);
        }
    }
}
