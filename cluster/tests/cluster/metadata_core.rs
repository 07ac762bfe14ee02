//! The metadata plane of a single node, from its first start on.

use crate::support::{RaftDisk, create, register};
use bytes::Bytes;
use lance_cluster::metadata::{
    MetadataAnswer, MetadataCommand, MetadataCore, MetadataEffect, MetadataError, MetadataEvent, MetadataRefusal,
    PersistedRaft, PromiseAnswer, PromiseOutcome, ProposalFailure, ProposeFailure, RaftConf, RaftConfig, RaftEntry,
    ReplicaIncarnation,
};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use std::collections::VecDeque;

const INCARNATION: u64 = 0xabc;

struct Node {
    core: MetadataCore,
    disk: RaftDisk,
    boot_number: u64,
    events: Vec<MetadataEvent>,
    answers: Vec<(u64, Result<MetadataAnswer, ProposeFailure>)>,
    /// The log order of what was seen, to check that facts come before answers.
    order: Vec<&'static str>,
}

impl Node {
    /// Starts as the shell does: open, register, then answer every request for promises.
    fn start(disk: RaftDisk, boot_number: u64) -> Self {
        let config =
            RaftConfig { snapshot_interval_entries: 10, kept_entries: 2, ..RaftConfig::new(INCARNATION, boot_number) };
        let mut effects = Vec::new();
        let core = MetadataCore::new(config, &disk.durable, 0, &mut effects).unwrap();
        let mut node = Self { core, disk, boot_number, events: Vec::new(), answers: Vec::new(), order: Vec::new() };
        node.obey(effects);
        node.propose(0, &register(1, INCARNATION, boot_number));
        node
    }

    fn propose(&mut self, request: u64, command: &MetadataCommand) {
        let mut effects = Vec::new();
        self.core.on_propose(request, command, &mut effects).unwrap();
        self.obey(effects);
    }

    /// Effects are obeyed in the order they came.
    fn obey(&mut self, effects: Vec<MetadataEffect>) {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let mut follow_ups = Vec::new();
            match effect {
                MetadataEffect::Persist(persist) => {
                    self.disk.pending.push(persist);
                    let number = self.disk.sync_one().unwrap();
                    self.core.on_persisted(number, &mut follow_ups).unwrap();
                }
                MetadataEffect::SaveSnapshot { snapshot, drop_through } => {
                    self.disk.save_snapshot(snapshot, drop_through);
                }
                MetadataEffect::Committed { events, .. } => {
                    self.order.push("committed");
                    self.events.extend(events);
                }
                MetadataEffect::Answer { request, result, .. } => {
                    self.order.push("answer");
                    self.answers.push((request, result));
                }
                MetadataEffect::AskPromises { node, partitions } => self.promise(node, &partitions, &mut follow_ups),
                MetadataEffect::Send { .. } | MetadataEffect::MoveLeader { .. } => panic!("there is nobody else"),
                MetadataEffect::LeaderChanged { .. } | MetadataEffect::Leading { .. } => {}
            }
            queue.extend(follow_ups);
        }
    }

    fn promise(
        &mut self,
        node: NodeId,
        partitions: &[(TopicPartition, LeaderEpoch)],
        effects: &mut Vec<MetadataEffect>,
    ) {
        let answers: Vec<PromiseAnswer> = partitions
            .iter()
            .map(|&(partition, epoch)| {
                let incarnation = ReplicaIncarnation { node: INCARNATION, copy_version: 0, damage_count: 0 };
                let (boot_number, last_epoch) = (self.boot_number, LeaderEpoch(epoch.0 - 1));
                let outcome = PromiseOutcome::Clean { incarnation, boot_number, last_epoch, durable_end: 0 };
                PromiseAnswer { partition, epoch, outcome }
            })
            .collect();
        self.core.on_promises(node, &answers, effects).unwrap();
    }

    fn epochs(&self) -> Vec<(u32, u16, u32, bool)> {
        let state = self.core.state();
        state
            .partitions()
            .map(|(id, decided)| (id.topic.0, id.partition, decided.epoch.0, state.leader_is_current(decided)))
            .collect()
    }
}

#[test]
fn a_created_topic_has_leaders_at_once_by_way_of_an_epoch_and_a_promise() {
    let mut node = Node::start(RaftDisk::new(&[INCARNATION]), 1);
    assert!(node.core.is_leading());
    assert_eq!(node.core.leader_node(), Some(NodeId(1)));
    node.propose(1, &create("alpha", 2, 1));
    let topic = TopicId(1);
    assert_eq!(
        node.answers,
        [(0, Ok(MetadataAnswer::NodeRegistered)), (1, Ok(MetadataAnswer::TopicCreated { topic }))]
    );
    assert_eq!(node.epochs(), [(1, 0, 1, true), (1, 1, 1, true)]);
    let kinds: Vec<&str> = node.events.iter().map(kind).collect();
    assert_eq!(kinds, ["registered", "created", "opened", "opened", "chosen", "chosen"]);
    assert_eq!(node.order[..4], ["committed", "answer", "committed", "answer"], "facts come before answers");
}

fn kind(event: &MetadataEvent) -> &'static str {
    match event {
        MetadataEvent::NodeRegistered { .. } => "registered",
        MetadataEvent::TopicCreated { .. } => "created",
        MetadataEvent::EpochOpened { .. } => "opened",
        MetadataEvent::LeaderChosen { .. } => "chosen",
        _ => "other",
    }
}

#[test]
fn every_start_leads_in_a_new_epoch_and_remembers_everything() {
    let mut disk = RaftDisk::new(&[INCARNATION]);
    for boot_number in 1..30 {
        let mut node = Node::start(disk, boot_number);
        node.propose(1, &create(&format!("t{boot_number}"), 1, 1));
        let expected: Vec<_> =
            (1..=boot_number as u32).map(|topic| (topic, 0, boot_number as u32 + 1 - topic, true)).collect();
        assert_eq!(node.epochs(), expected);
        assert!(node.core.controller().is_settled());
        disk = node.disk;
        assert!(boot_number < 5 || disk.durable.snapshot.is_some(), "the log is compacted now and then");
    }
}

#[test]
fn refusals_are_answered_and_the_core_goes_on() {
    let mut node = Node::start(RaftDisk::new(&[INCARNATION]), 1);
    node.propose(1, &create("alpha", 1, 1));
    node.propose(2, &create("alpha", 1, 1));
    let refusal = MetadataRefusal::TopicExists { name: "alpha".into(), topic: TopicId(1) };
    assert_eq!(node.answers.last(), Some(&(2, Err(ProposeFailure::Refused(refusal)))));
    let huge = create(&"x".repeat(9 << 20), 1, 1);
    node.propose(3, &huge);
    assert!(matches!(node.answers.last(), Some((3, Err(ProposeFailure::TooLarge { .. })))));
    node.propose(4, &create("beta", 1, 1));
    assert!(matches!(node.answers.last(), Some((4, Ok(MetadataAnswer::TopicCreated { topic: TopicId(2) })))));
}

#[test]
fn who_does_not_lead_refuses_at_once() {
    let disk = RaftDisk::new(&[INCARNATION, 2, 3]);
    let mut effects = Vec::new();
    let mut core = MetadataCore::new(RaftConfig::new(INCARNATION, 1), &disk.durable, 0, &mut effects).unwrap();
    assert_eq!(effects, []);
    core.on_propose(8, &create("alpha", 1, 1), &mut effects).unwrap();
    let result = Err(ProposeFailure::Failed(ProposalFailure::NotLeader { leader: None }));
    assert_eq!(effects, [MetadataEffect::Answer { request: 8, index: None, result }]);
}

#[test]
fn ten_thousand_partitions_get_their_leaders_in_a_few_commands() {
    let mut node = Node::start(RaftDisk::new(&[INCARNATION]), 1);
    node.propose(1, &create("wide", 10_000, 1));
    assert!(node.epochs().iter().all(|(_, _, epoch, led)| *epoch == 1 && *led));
    assert!(node.core.raft().applied_index() < 12, "{}", node.core.raft().applied_index());
}

#[test]
fn a_command_that_cannot_be_read_stops_the_core_for_good() {
    let entry = RaftEntry { index: 1, term: 1, bytes: Bytes::from_static(&[1, 0, 99]) };
    let conf = RaftConf::of_voters([INCARNATION]);
    let persisted = PersistedRaft { entries: vec![entry], conf, ..PersistedRaft::default() };
    let mut effects = Vec::new();
    let mut core = MetadataCore::new(RaftConfig::new(INCARNATION, 1), &persisted, 0, &mut effects).unwrap();
    let numbers: Vec<u64> = effects
        .iter()
        .filter_map(|effect| match effect {
            MetadataEffect::Persist(persist) => Some(persist.number),
            _ => None,
        })
        .collect();
    let error = core.on_persisted(*numbers.last().unwrap(), &mut effects).unwrap_err();
    assert!(matches!(error, MetadataError::Command { index: 1, .. }) && error.is_fatal());
    assert!(core.on_tick(1, &mut effects).unwrap_err().is_fatal());
    assert!(core.on_promises(NodeId(1), &[], &mut effects).is_err());
}
