//! Hostile bytes where metadata, what Raft keeps and what nodes say are read back: refused, or understood so that they come
//! back from the bytes they are encoded to.

use crate::decoders::decode_all;
use crate::support::register;
use lance_cluster::control::ControlMessage;
use lance_cluster::formation::{FormationReport, Genesis, Voter};
use lance_cluster::metadata::{EpochOpening, HardStateRecord, MetadataCommand, MetadataState, RaftConf, RaftSnapshot};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use proptest::prelude::*;

/// Version bytes there are, and one more.
const VERSIONS: std::ops::Range<u8> = 0..9;

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
    let voter = |number: u16| Voter {
        node: NodeId(number),
        incarnation: 0xabcd + u64::from(number),
        address: format!("node-{number}:1992"),
    };
    let genesis = Genesis { cluster_id: 0x1234, voters: (1..4).map(voter).collect() };
    let report = FormationReport {
        speaker: voter(2),
        cluster_id: genesis.cluster_id,
        genesis: Some(genesis.clone()),
        members: Some(genesis.voters.iter().map(|voter| (voter.node, voter.incarnation)).collect()),
    };
    vec![
        epochs.encode().unwrap(),
        state.encode_snapshot().unwrap(),
        HardStateRecord { term: 9, vote: 2, commit: 300 }.encode().unwrap(),
        snapshot.encode().unwrap(),
        ControlMessage::Propose { request: 5, command: vec![1; 20] }.encode().unwrap(),
        ControlMessage::AskPromises(vec![(partition, LeaderEpoch(3)); 4]).encode().unwrap(),
        genesis.encode().unwrap(),
        report.encode().unwrap(),
        FormationReport { cluster_id: 0, genesis: None, members: None, ..report }.encode().unwrap(),
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
