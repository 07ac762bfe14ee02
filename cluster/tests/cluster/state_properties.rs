//! Properties of the state machine under arbitrary commands.

use lance_cluster::metadata::{
    Applied, EpochOpening, LeaderChoice, MetadataAnswer, MetadataCommand, MetadataState, PartitionRecovery,
    ReplicaIncarnation, ReplicationMode, TeeAdvance, TeeClaim, TopicConfig,
};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TeeId, TopicId, TopicPartition};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn partition() -> impl Strategy<Value = TopicPartition> {
    (0u32..6, 0u16..3).prop_map(|(topic, number)| TopicPartition::new(TopicId(topic), number))
}

fn config() -> impl Strategy<Value = TopicConfig> {
    (0u16..4, 0u8..4, any::<bool>(), 0u64..3, 0u64..3).prop_map(|(partitions, factor, strong, age, bytes)| {
        let mode = if strong { ReplicationMode::L2 } else { ReplicationMode::L1 };
        TopicConfig { partitions, replication_factor: factor, mode, max_age_secs: age, max_bytes: bytes }
    })
}

fn choice() -> impl Strategy<Value = LeaderChoice> {
    (partition(), 0u32..4, 1u16..4, 0u64..3, 1u64..4).prop_map(|(partition, epoch, node, life, boot_number)| {
        let incarnation = ReplicaIncarnation { node: u64::from(node) * 10 + life, copy_version: 0, damage_count: 0 };
        LeaderChoice { partition, epoch: LeaderEpoch(epoch), leader: NodeId(node), incarnation, boot_number }
    })
}

fn opening() -> impl Strategy<Value = EpochOpening> {
    (partition(), 0u32..4).prop_map(|(partition, epoch)| EpochOpening { partition, epoch: LeaderEpoch(epoch) })
}

fn incarnation() -> impl Strategy<Value = ReplicaIncarnation> {
    (1u64..4, 0u64..3, 0u32..2).prop_map(|(node, life, damage_count)| ReplicaIncarnation {
        node: node * 10 + life,
        copy_version: 0,
        damage_count,
    })
}

fn entries() -> impl Strategy<Value = Vec<(TopicPartition, ReplicaIncarnation, LeaderEpoch, u32)>> {
    let entry = (partition(), incarnation(), 1u32..3, 1u32..4)
        .prop_map(|(partition, life, epoch, version)| (partition, life, LeaderEpoch(epoch), version));
    proptest::collection::vec(entry, 0..6)
}

/// Commands that change who counts, who holds copies, and who is a member.
fn cluster_command() -> impl Strategy<Value = MetadataCommand> {
    let node = || (1u16..5).prop_map(NodeId);
    let newcomer = proptest::option::of((node(), incarnation()));
    prop_oneof![
        (node(), entries()).prop_map(|(node, entries)| {
            let partitions = entries.into_iter().map(|(partition, _, epoch, version)| (partition, epoch, version));
            MetadataCommand::Evict { node, partitions: partitions.collect() }
        }),
        (node(), entries()).prop_map(|(node, partitions)| MetadataCommand::Rejoin { node, partitions }),
        (node(), entries()).prop_map(|(node, partitions)| MetadataCommand::Admit { node, partitions }),
        (partition(), 1u32..3, 1u32..4, node(), node(), incarnation()).prop_map(
            |(partition, epoch, in_quorum_version, out, into, incarnation)| {
                let epoch = LeaderEpoch(epoch);
                MetadataCommand::SwapIn { partition, epoch, in_quorum_version, out, into, incarnation }
            }
        ),
        (partition(), 1u32..3, 0u32..3, proptest::collection::vec(node(), 0..4), newcomer).prop_map(
            |(partition, epoch, replicas_version, replicas, newcomer)| {
                let epoch = LeaderEpoch(epoch);
                MetadataCommand::ReplaceReplica { partition, epoch, replicas_version, replicas, newcomer }
            }
        ),
        (partition(), 0u32..3, proptest::collection::vec(node(), 0..4)).prop_map(
            |(partition, replicas_version, replicas)| {
                MetadataCommand::PlanReplicas { partition, replicas_version, replicas }
            }
        ),
        node().prop_map(|node| MetadataCommand::SetLeaving { node }),
        (0u32..6, 0u8..4).prop_map(|(topic, replication_factor)| MetadataCommand::SetReplicationFactor {
            topic: TopicId(topic),
            replication_factor,
        }),
        (node(), any::<bool>()).prop_map(|(node, draining)| MetadataCommand::SetDraining { node, draining }),
        node().prop_map(|node| MetadataCommand::AllowNode { node, address: "a:1".to_owned() }),
        node().prop_map(|node| MetadataCommand::RemoveNode { node }),
        (0u32..6, any::<bool>()).prop_map(|(topic, strong)| MetadataCommand::SetTopicMode {
            topic: TopicId(topic),
            mode: if strong { ReplicationMode::L2 } else { ReplicationMode::L1 },
        }),
        (partition(), 1u32..4, node(), incarnation(), any::<bool>()).prop_map(
            |(partition, epoch, node, incarnation, accept_data_loss)| {
                MetadataCommand::RecoverPartition(PartitionRecovery {
                    partition,
                    epoch: LeaderEpoch(epoch),
                    node,
                    incarnation,
                    accept_data_loss,
                    requested_by: "me".to_owned(),
                    recovered_at_secs: 1,
                    lost_from: 0,
                    lost_to: 9,
                })
            }
        ),
    ]
}

/// A cluster with topics that are led, so that most later commands find what they are about.
fn beginning() -> Vec<MetadataCommand> {
    let mut commands: Vec<MetadataCommand> =
        (1..4).map(|node| crate::support::register(node, u64::from(node) * 10, 1)).collect();
    commands.extend([crate::support::create("a", 2, 3), crate::support::create("b", 2, 1)]);
    for (topic, number) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let (partition, epoch) = (TopicPartition::new(TopicId(topic), number), LeaderEpoch(1));
        commands.push(MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch }] });
        let choices = (1..4).map(|node| LeaderChoice {
            partition,
            epoch,
            leader: NodeId(node),
            incarnation: ReplicaIncarnation { node: u64::from(node) * 10, copy_version: 0, damage_count: 0 },
            boot_number: 1,
        });
        commands.push(MetadataCommand::LeaderChosen { partitions: choices.collect() });
    }
    commands
}

/// Any commands, after a beginning that gives them something to be about.
fn history(most: usize) -> impl Strategy<Value = Vec<MetadataCommand>> {
    (any::<bool>(), proptest::collection::vec(command(), 1..most)).prop_map(|(begins, commands)| {
        let beginning = if begins { beginning() } else { Vec::new() };
        beginning.into_iter().chain(commands).collect()
    })
}

fn command() -> impl Strategy<Value = MetadataCommand> {
    prop_oneof![4 => topic_command(), 4 => cluster_command(), 1 => tee_command(), 1 => security_command()]
}

/// Changes of users and rules.
fn security_command() -> impl Strategy<Value = MetadataCommand> {
    let name = || prop_oneof![Just("al"), Just("bo"), Just("*"), Just("")].prop_map(str::to_owned);
    let rule = || {
        (name(), 0usize..3, name(), proptest::bool::ANY).prop_map(|(principal, kind, name, allow)| {
            let kind = lance_messages::security::ResourceKind::ALL[kind];
            lance_messages::security::AclRule { principal, kind, name, prefix: false, operation: None, allow }
        })
    };
    prop_oneof![
        name().prop_map(|name| MetadataCommand::AddUser { name, credentials: Default::default() }),
        name().prop_map(|name| MetadataCommand::SetCredentials { name, credentials: Default::default() }),
        name().prop_map(|name| MetadataCommand::RemoveUser { name }),
        rule().prop_map(|rule| MetadataCommand::AddAcl { rule }),
        rule().prop_map(|rule| MetadataCommand::RemoveAcl { rule }),
    ]
}

/// Changes of tee rules, and of how far they are.
fn tee_command() -> impl Strategy<Value = MetadataCommand> {
    let place = || (1u32..4, 0u16..3);
    let to = prop_oneof![Just("a"), Just("b"), Just("c"), Just("bad name")];
    prop_oneof![
        (1u32..4, to, 0u64..3).prop_map(|(topic, to, cluster)| MetadataCommand::AddTee {
            rule: crate::tees::rule(topic, to, cluster),
            own_cluster: 1,
        }),
        (1u32..4, 1u32..4)
            .prop_map(|(topic, tee)| MetadataCommand::RemoveTee { topic: TopicId(topic), tee: TeeId(tee) }),
        proptest::collection::vec((place(), 0u32..3), 0..4).prop_map(|claims| {
            let claims = claims.into_iter().map(|((tee, partition), epoch)| TeeClaim {
                tee: TeeId(tee),
                partition,
                epoch: LeaderEpoch(epoch),
            });
            MetadataCommand::ClaimTees { claims: claims.collect() }
        }),
        proptest::collection::vec((place(), 0u64..3, 0u64..9), 0..4).prop_map(|advances| {
            let advances = advances.into_iter().map(|((tee, partition), claim, position)| TeeAdvance {
                tee: TeeId(tee),
                partition,
                claim,
                checkpoint: crate::tees::checkpoint(position),
            });
            MetadataCommand::AdvanceTees { advances: advances.collect() }
        }),
    ]
}

fn topic_command() -> impl Strategy<Value = MetadataCommand> {
    let name = prop_oneof![Just("default"), Just("a"), Just("b"), Just("c"), Just("bad name"), Just("")];
    prop_oneof![
        3 => (0u16..4, 0u64..3, 0u64..4, 0u64..2).prop_map(|(node, life, boot_number, nonce)| {
            let incarnation = u64::from(node) * 10 + life;
            let address = format!("lance-{node}:9000");
            let rack = String::new();
            MetadataCommand::RegisterNode { node: NodeId(node), incarnation, boot_number, nonce, address, rack }
        }),
        4 => (name, config(), 0u64..100, 0u64..3).prop_map(|(name, config, created_at_secs, request)| {
            MetadataCommand::CreateTopic { name: name.to_owned(), config, created_at_secs, request }
        }),
        2 => (0u32..6, 0u64..100).prop_map(|(topic, deleted_at_secs)| {
            MetadataCommand::DeleteTopic { topic: TopicId(topic), deleted_at_secs }
        }),
        2 => (0u32..6, proptest::option::of(0u16..6), proptest::option::of(0u64..9)).prop_map(
            |(topic, partitions, max_bytes)| {
                MetadataCommand::AlterTopic { topic: TopicId(topic), partitions, max_age_secs: None, max_bytes }
            },
        ),
        1 => (0u32..6, 0u64..9, 0u64..9).prop_map(|(topic, max_age_secs, max_bytes)| {
            MetadataCommand::SetRetention { topic: TopicId(topic), max_age_secs, max_bytes }
        }),
        2 => (proptest::option::of((0u64..6, 0u16..3)), 0u64..2_000_000).prop_map(|(existing, now_secs)| {
            let existing = existing.map(|(id, epoch)| (ProducerId(id), epoch));
            MetadataCommand::InitProducer { existing, now_secs }
        }),
        1 => (0u64..6, 0u16..3)
            .prop_map(|(id, epoch)| MetadataCommand::BindProducer { producer: ProducerId(id), epoch }),
        3 => proptest::collection::vec(opening(), 0..4)
            .prop_map(|partitions| MetadataCommand::OpenEpoch { partitions }),
        3 => proptest::collection::vec(choice(), 0..6)
            .prop_map(|partitions| MetadataCommand::LeaderChosen { partitions }),
    ]
}

fn apply_all(state: &mut MetadataState, first: u64, commands: &[MetadataCommand]) -> Vec<Applied> {
    (first..).zip(commands).map(|(index, command)| state.apply(index, command)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn applying_is_deterministic_and_a_snapshot_anywhere_changes_nothing(
        commands in history(60),
        cut in 0usize..60,
    ) {
        let cut = cut.min(commands.len());
        let mut state = MetadataState::new();
        let outcomes = apply_all(&mut state, 1, &commands);

        let mut before = MetadataState::new();
        let mut again = apply_all(&mut before, 1, &commands[..cut]);
        let mut restored = MetadataState::decode_snapshot(&before.encode_snapshot().unwrap()).unwrap();
        prop_assert_eq!(&restored, &before);
        again.extend(apply_all(&mut restored, cut as u64 + 1, &commands[cut..]));
        prop_assert_eq!(&restored, &state);
        prop_assert_eq!(again, outcomes);
        prop_assert_eq!(restored.encode_snapshot().unwrap(), state.encode_snapshot().unwrap());
    }

    #[test]
    fn any_sequence_of_commands_keeps_the_invariants(commands in history(80)) {
        let mut state = MetadataState::new();
        let (mut topics, mut producers) = (BTreeSet::new(), BTreeSet::new());
        let (mut leaders, mut incarnations, mut ended) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (index, command) in (1..).zip(&commands) {
            let before = state.clone();
            let applied = state.apply(index, command);
            prop_assert_eq!(state.contradiction(), None);
            if applied.answer.is_err() {
                prop_assert!(applied.events.is_empty());
            }
            if let Ok(MetadataAnswer::TopicCreated { topic }) = applied.answer {
                let retried = before.topic(topic).is_some();
                prop_assert!(retried || topics.insert(topic), "a topic id is never reused");
            }
            if let Ok(MetadataAnswer::Producer { producer, epoch: 0 }) = applied.answer {
                let bind = *command == MetadataCommand::BindProducer { producer, epoch: 0 };
                let bound = bind && before.producer_epoch(producer) == Some(0);
                prop_assert!(bound || producers.insert(producer), "a producer id is never reused");
                prop_assert!(producers.contains(&producer), "only an id that was given out is bound");
            }
            for (partition, decided) in state.partitions() {
                let earlier = before.partition(partition).map_or(LeaderEpoch(0), |earlier| earlier.epoch);
                prop_assert!(decided.epoch >= earlier, "an epoch never falls");
                prop_assert!(decided.in_quorum.len() >= decided.quorum_size(), "an in-quorum set is a quorum");
                prop_assert!(decided.in_quorum.iter().all(|node| decided.has_replica(*node)), "Q is within R");
                if let Some(earlier) = before.partition(partition) {
                    let same = earlier.in_quorum == decided.in_quorum;
                    prop_assert!(same || decided.in_quorum_version > earlier.in_quorum_version);
                    let same = earlier.replicas.len() == decided.replicas.len()
                        && earlier.replicas.iter().all(|replica| decided.has_replica(replica.node));
                    prop_assert!(same || decided.replicas_version > earlier.replicas_version);
                    let kept = decided.replicas.iter().filter(|replica| earlier.has_replica(replica.node)).count();
                    prop_assert!(kept + 1 >= earlier.replicas.len() && decided.replicas.len() <= kept + 1);
                }
                if let Some(leader) = decided.leader {
                    let first = leaders.entry((partition, decided.epoch)).or_insert(leader);
                    prop_assert_eq!(*first, leader, "an epoch has one leader");
                }
            }
            for (node, known) in state.nodes() {
                let owner = incarnations.entry(known.incarnation).or_insert(node);
                prop_assert_eq!(*owner, node, "an incarnation has one node for ever");
                prop_assert!(!ended.contains(&known.incarnation), "an incarnation that ended never returns");
            }
            for (_, known) in before.nodes() {
                if state.nodes().all(|(_, later)| later.incarnation != known.incarnation) {
                    ended.insert(known.incarnation);
                }
            }
            for topic in topics.iter().filter(|topic| state.topic(**topic).is_none()) {
                prop_assert!(state.is_deleted(*topic));
            }
            for (id, _) in state.topics() {
                prop_assert!(!before.is_deleted(id), "a deleted topic never comes back");
            }
        }
    }

    #[test]
    fn every_command_survives_its_encoding(command in command()) {
        prop_assert_eq!(MetadataCommand::decode(&command.encode().unwrap()).unwrap(), command);
    }
}
