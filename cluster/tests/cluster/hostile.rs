//! Hostile bytes where metadata, what Raft keeps and what nodes say are read back: refused, or understood so that they come
//! back from the bytes they are encoded to.

use crate::support::register;
use lance_cluster::codec::CodecError;
use lance_cluster::control::ControlMessage;
use lance_cluster::formation::{FormationReport, Genesis};
use lance_cluster::metadata::{EpochOpening, HardStateRecord, MetadataCommand, MetadataState, RaftConf, RaftSnapshot};
use lance_messages::id::{LeaderEpoch, TopicId, TopicPartition};
use proptest::prelude::*;

/// Version bytes there are, and one more.
const VERSIONS: std::ops::Range<u8> = 0..9;

fn comes_back<T>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
    encode: impl Fn(&T) -> Result<Vec<u8>, CodecError>,
) {
    if let Ok(value) = decode(data) {
        let bytes = encode(&value).unwrap();
        assert_eq!(encode(&decode(&bytes).unwrap()).unwrap(), bytes);
    }
}

fn decode_all(data: &[u8]) {
    comes_back(data, MetadataCommand::decode, MetadataCommand::encode);
    comes_back(data, MetadataState::decode_snapshot, MetadataState::encode_snapshot);
    comes_back(data, HardStateRecord::decode, HardStateRecord::encode);
    comes_back(data, RaftSnapshot::decode, RaftSnapshot::encode);
    comes_back(data, ControlMessage::decode, ControlMessage::encode);
    comes_back(data, Genesis::decode, Genesis::encode);
    comes_back(data, FormationReport::decode, FormationReport::encode);
}

/// Something of every kind, as it is written.
fn written() -> Vec<Vec<u8>> {
    let partition = TopicPartition::new(TopicId(1), 2);
    let epochs = MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch: LeaderEpoch(5) }; 3] };
    let mut state = MetadataState::default();
    state.apply(1, &register(1, 0xabcd, 4));
    let snapshot = RaftSnapshot {
        index: 7,
        term: 3,
        conf: RaftConf::of_voters([1, 2, 3]),
        data: state.encode_snapshot().unwrap().into(),
    };
    vec![
        epochs.encode().unwrap(),
        state.encode_snapshot().unwrap(),
        HardStateRecord { term: 9, vote: 2, commit: 300 }.encode().unwrap(),
        snapshot.encode().unwrap(),
        ControlMessage::Propose { request: 5, command: vec![1; 20] }.encode().unwrap(),
        ControlMessage::AskPromises(vec![(partition, LeaderEpoch(3)); 4]).encode().unwrap(),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_of_every_version_are_refused_or_come_back(
        version in VERSIONS,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        decode_all(&[&[version], &bytes[..]].concat());
    }

    #[test]
    fn what_was_written_and_harmed_is_refused_or_comes_back(
        of in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..12),
        end in any::<prop::sample::Index>(),
    ) {
        let all = written();
        let mut bytes = all[of.index(all.len())].clone();
        let from = at.index(bytes.len());
        let to = (from + with.len()).min(bytes.len());
        bytes.splice(from..to, with);
        decode_all(&bytes);
        bytes.truncate(end.index(bytes.len()));
        decode_all(&bytes);
    }
}
