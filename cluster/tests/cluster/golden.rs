//! Bytes that were once written must be read for ever.

use crate::support::{create, register};
use crate::tees::{checkpoint, rule};
use lance_cluster::codec::CodecError;
use lance_cluster::metadata::{
    EpochOpening, LeaderChoice, MetadataCommand, MetadataState, PartitionRecovery, ReplicaIncarnation, ReplicationMode,
    TeeAdvance, TeeCheckpoint, TeeClaim, TopicConfig,
};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TeeId, TopicId, TopicPartition};
use lance_messages::security::{AclRule, Credentials, Operation, ResourceKind, ScramVerifier};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn commands() -> Vec<(MetadataCommand, &'static str)> {
    let partition = TopicPartition::new(TopicId(7), 2);
    let config = TopicConfig {
        partitions: 3,
        replication_factor: 2,
        mode: ReplicationMode::L2,
        max_age_secs: 604_800,
        max_bytes: 10 << 30,
    };
    let (topic, epoch) = (TopicId(7), LeaderEpoch(5));
    let incarnation = ReplicaIncarnation { node: 0xabcd, copy_version: 0, damage_count: 1 };
    vec![
        (register(1, 0xabcd, 4), "040001fbcdab04fba00f0c6c616e63652d313a3930303000"),
        (
            MetadataCommand::CreateTopic { name: "ab".into(), config, created_at_secs: 1_700_000_000, request: 9 },
            "04010261620302 01 fc803a0900 fd0000008002000000 fc00f15365 09",
        ),
        (MetadataCommand::DeleteTopic { topic, deleted_at_secs: 11 }, "0402070b"),
        (
            MetadataCommand::AlterTopic { topic, partitions: Some(300), max_age_secs: None, max_bytes: Some(0) },
            "040307 01fb2c01 00 0100",
        ),
        (MetadataCommand::SetRetention { topic, max_age_secs: 60, max_bytes: 250 }, "0404073cfa"),
        (MetadataCommand::InitProducer { existing: Some((ProducerId(3), 1)), now_secs: 5 }, "040501030105"),
        (MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch }] }, "04060107 0205"),
        (
            MetadataCommand::LeaderChosen {
                partitions: vec![LeaderChoice { partition, epoch, leader: NodeId(1), incarnation, boot_number: 4 }],
            },
            "040701070205 01 fbcdab 00 01 04",
        ),
    ]
}

fn cluster_commands() -> Vec<(MetadataCommand, &'static str)> {
    let partition = TopicPartition::new(TopicId(7), 2);
    let (node, epoch) = (NodeId(3), LeaderEpoch(5));
    let incarnation = ReplicaIncarnation { node: 0xabcd, copy_version: 0, damage_count: 1 };
    let order = PartitionRecovery {
        partition,
        epoch,
        node,
        incarnation,
        accept_data_loss: true,
        requested_by: "me".into(),
        recovered_at_secs: 9,
        lost_from: 16,
        lost_to: 250,
    };
    vec![
        (MetadataCommand::Evict { node, partitions: vec![(partition, epoch, 6)] }, "04 08 03 01 0702 05 06"),
        (
            MetadataCommand::Rejoin { node, partitions: vec![(partition, incarnation, epoch, 6)] },
            "04 09 03 01 0702 fbcdab0001 05 06",
        ),
        (
            MetadataCommand::Admit { node, partitions: vec![(partition, incarnation, epoch, 6)] },
            "04 0a 03 01 0702 fbcdab0001 05 06",
        ),
        (
            MetadataCommand::SwapIn {
                partition,
                epoch,
                in_quorum_version: 6,
                out: NodeId(1),
                into: NodeId(3),
                incarnation,
            },
            "04 0b 0702 05 06 01 03 fbcdab0001",
        ),
        (
            MetadataCommand::ReplaceReplica {
                partition,
                epoch,
                replicas_version: 4,
                replicas: vec![NodeId(1), node],
                newcomer: Some((node, incarnation)),
            },
            "04 0c 0702 05 04 02 01 03 01 03 fbcdab0001",
        ),
        (MetadataCommand::SetDraining { node, draining: true }, "04 0d 03 01"),
        (MetadataCommand::AllowNode { node, address: "a:1".into() }, "04 0e 03 03613a31"),
        (MetadataCommand::RemoveNode { node }, "04 0f 03"),
        (MetadataCommand::SetTopicMode { topic: TopicId(7), mode: ReplicationMode::L2 }, "04 10 07 01"),
        (MetadataCommand::RecoverPartition(order), "04 11 0702 05 03 fbcdab0001 01 026d65 09 10 fa"),
        (MetadataCommand::BindProducer { producer: ProducerId(3), epoch: 1 }, "04 12 03 01"),
        (MetadataCommand::PlanReplicas { partition, replicas_version: 6, replicas: vec![node] }, "04 13 0702 06 01 03"),
        (MetadataCommand::SetLeaving { node }, "04 14 03"),
        (MetadataCommand::SetReplicationFactor { topic: TopicId(7), replication_factor: 3 }, "04 15 07 03"),
    ]
}

fn tee_commands() -> Vec<(MetadataCommand, &'static str)> {
    let (tee, topic) = (TeeId(5), TopicId(7));
    let claim = TeeClaim { tee, partition: 2, epoch: LeaderEpoch(6) };
    let advance = TeeAdvance { tee, partition: 2, claim: 9, checkpoint: checkpoint(5) };
    let no_producer = TeeAdvance { checkpoint: TeeCheckpoint { producer: None, ..checkpoint(5) }, ..advance };
    vec![
        (
            MetadataCommand::AddTee { rule: rule(7, "x", 78), own_cluster: 77 },
            "04 16 07 01 03613a31 0178 4e fa 09 05 4d",
        ),
        (MetadataCommand::RemoveTee { topic, tee }, "04 17 07 05"),
        (MetadataCommand::ClaimTees { claims: vec![claim] }, "04 18 01 05 02 06"),
        (
            MetadataCommand::AdvanceTees { advances: vec![advance, no_producer] },
            "04 19 02 05 02 09 05 06 07 03 02 01 08 01 0b 05 02 09 05 06 07 03 02 00 0b",
        ),
    ]
}

fn security_commands() -> Vec<(MetadataCommand, &'static str)> {
    let scram = ScramVerifier { iterations: 4096, salt: [1; 16], stored_key: [2; 32], server_key: [3; 32] };
    let rule = AclRule {
        principal: "al".into(),
        kind: ResourceKind::Topic,
        name: "t".into(),
        prefix: true,
        operation: Some(Operation::Write),
        allow: true,
    };
    let everything = AclRule { operation: None, allow: false, ..rule.clone() };
    let name = || "al".to_owned();
    vec![
        (MetadataCommand::AddUser { name: name(), credentials: Credentials::default() }, "04 1a 02616c 00 00"),
        (
            MetadataCommand::SetCredentials {
                name: name(),
                credentials: Credentials { token_hash: None, scram: Some(scram) },
            },
            "04 1b 02616c 00 01 fb0010 01010101010101010101010101010101 \
             0202020202020202020202020202020202020202020202020202020202020202 \
             0303030303030303030303030303030303030303030303030303030303030303",
        ),
        (MetadataCommand::RemoveUser { name: name() }, "04 1c 02616c"),
        (MetadataCommand::AddAcl { rule }, "04 1d 02616c 00 0174 01 01 01 01"),
        (MetadataCommand::RemoveAcl { rule: everything }, "04 1e 02616c 00 0174 01 00 00"),
    ]
}

#[test]
fn golden_bytes_of_every_command() {
    let all = commands().into_iter().chain(cluster_commands()).chain(tee_commands()).chain(security_commands());
    for (command, golden) in all {
        let bytes = command.encode().unwrap();
        let golden: String = golden.chars().filter(|byte| *byte != ' ').collect();
        assert_eq!(hex(&bytes), golden, "{command:?}");
        assert_eq!(MetadataCommand::decode(&bytes).unwrap(), command);
    }
}

#[test]
fn golden_bytes_of_a_snapshot() {
    let mut state = MetadataState::new();
    state.apply(1, &register(1, 0xabcd, 4));
    state.apply(2, &create("ab", 1, 1));
    let partition = TopicPartition::new(TopicId(1), 0);
    state.apply(3, &MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch: LeaderEpoch(1) }] });
    let bytes = state.encode_snapshot().unwrap();
    let golden = "06 03 02 01 \
        01 01 fbcdab 04 fba00f 0c6c616e63652d313a39303030 00 00 00 00 \
        00 00 \
        01 01 026162 fc00f15365 01 00 01 01 00 00 00 \
        01 01 01 fbcdab 00 00 00 01 00 01 01 00 00 00 00 00 00 01 00 00 00 00 00";
    let golden: String = golden.chars().filter(|byte| !byte.is_whitespace()).collect();
    assert_eq!(hex(&bytes), golden);
    assert_eq!(MetadataState::decode_snapshot(&bytes).unwrap(), state);
}

#[test]
fn golden_bytes_of_what_a_snapshot_of_a_cluster_adds() {
    let mut state = MetadataState::new();
    let node = |node| MetadataCommand::RemoveNode { node: NodeId(node) };
    let commands = [
        register(1, 0xabcd, 4),
        register(2, 0xabce, 1),
        node(2),
        MetadataCommand::AllowNode { node: NodeId(3), address: "a:1".into() },
        MetadataCommand::SetDraining { node: NodeId(1), draining: true },
        create("ab", 1, 1),
        MetadataCommand::SetTopicMode { topic: TopicId(1), mode: ReplicationMode::L2 },
        MetadataCommand::RecoverPartition(PartitionRecovery {
            partition: TopicPartition::new(TopicId(1), 0),
            epoch: LeaderEpoch(1),
            node: NodeId(1),
            incarnation: ReplicaIncarnation { node: 0xabcd, copy_version: 0, damage_count: 2 },
            accept_data_loss: true,
            requested_by: "me".into(),
            recovered_at_secs: 9,
            lost_from: 16,
            lost_to: 250,
        }),
    ];
    for (index, command) in (1..).zip(&commands) {
        assert!(state.apply(index, command).answer.is_ok(), "{command:?}");
    }
    let golden = "06 08 02 01 \
        01 01 fbcdab 04 fba00f 0c6c616e63652d313a39303030 00 01 00 00 \
        01 03 03613a31 01 02 01 fbceab \
        01 01 026162 fc00f15365 01 00 01 01 01 00 00 \
        01 01 01 fbcdab 00 02 01 01 01 01 fbcdab 00 02 04 01 01 01 00 00 00 00 \
        01 08 0100 01 01 fbcdab 00 02 026d65 09 10 fa 01 00 00 00 00 00";
    let golden: String = golden.chars().filter(|byte| !byte.is_whitespace()).collect();
    let bytes = state.encode_snapshot().unwrap();
    assert_eq!(hex(&bytes), golden);
    assert_eq!(MetadataState::decode_snapshot(&bytes).unwrap(), state);
    let older = MetadataState::decode_snapshot(&[1, 0]);
    assert!(matches!(older, Err(CodecError::UnknownVersion { found: 1, known: 6, .. })));
}

#[test]
fn golden_bytes_of_what_a_snapshot_of_rules_adds() {
    let mut state = MetadataState::new();
    let partition = TopicPartition::new(TopicId(1), 0);
    let incarnation = ReplicaIncarnation { node: 0xabcd, copy_version: 0, damage_count: 0 };
    let (tee, epoch) = (TeeId(1), LeaderEpoch(1));
    let commands = [
        register(1, 0xabcd, 4),
        create("ab", 1, 1),
        MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch }] },
        MetadataCommand::LeaderChosen {
            partitions: vec![LeaderChoice { partition, epoch, leader: NodeId(1), incarnation, boot_number: 4 }],
        },
        MetadataCommand::AddTee { rule: rule(1, "x", 78), own_cluster: 77 },
        MetadataCommand::ClaimTees { claims: vec![TeeClaim { tee, partition: 0, epoch }] },
        MetadataCommand::AdvanceTees {
            advances: vec![TeeAdvance { tee, partition: 0, claim: 1, checkpoint: checkpoint(5) }],
        },
    ];
    for (index, command) in (1..).zip(&commands) {
        assert!(state.apply(index, command).answer.is_ok(), "{command:?}");
    }
    let bytes = hex(&state.encode_snapshot().unwrap());
    let golden = "02 01 01 01 01 03613a31 0178 4e fa 09 05 01 01 00 01 01 05 06 07 03 02 01 08 01 0b 00 00 00";
    let golden: String = golden.chars().filter(|byte| *byte != ' ').collect();
    assert!(bytes.starts_with("0607") && bytes.ends_with(&golden), "{bytes}");
    assert_eq!(MetadataState::decode_snapshot(&state.encode_snapshot().unwrap()).unwrap(), state);
}

#[test]
fn unknown_versions_commands_and_trailing_bytes_are_errors() {
    let mut bytes = commands()[2].0.encode().unwrap();
    bytes.push(0);
    assert!(matches!(MetadataCommand::decode(&bytes), Err(CodecError::Trailing { trailing: 1, .. })));
    assert!(matches!(MetadataCommand::decode(&[]), Err(CodecError::Empty { .. })));
    assert!(matches!(MetadataCommand::decode(&[1, 0]), Err(CodecError::UnknownVersion { found: 1, known: 4, .. })));
    assert!(matches!(MetadataCommand::decode(&[4, 200]), Err(CodecError::Undecodable { .. })));
    let vast = [4, 6, 253, 255, 255, 255, 255, 255, 255, 255, 127];
    assert!(MetadataCommand::decode(&vast).is_err(), "a vast length allocates nothing");
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = MetadataCommand::decode(&bytes);
        let _ = MetadataState::decode_snapshot(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 4;
        }
        let _ = MetadataCommand::decode(&bytes);
        let _ = MetadataState::decode_snapshot(&bytes);
    }
}
