//! One voter: it elects itself, and commits what its disk has.

use crate::support::{Chance, RaftDisk};
use bytes::Bytes;
use lance_cluster::metadata::{
    HardStateRecord, PersistedRaft, ProposalFailure, RaftConf, RaftConfig, RaftCore, RaftEffect, RaftEntry, RaftError,
    RaftSnapshot,
};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

fn config() -> RaftConfig {
    RaftConfig { snapshot_interval_entries: 8, kept_entries: 3, ..RaftConfig::new(7, 1) }
}

struct Node {
    core: RaftCore,
    disk: RaftDisk,
    applied: Vec<(u64, Bytes, Option<u64>)>,
    other: Vec<RaftEffect>,
}

impl Node {
    fn start(disk: RaftDisk) -> Self {
        let mut effects = Vec::new();
        let core = RaftCore::new(config(), &disk.durable, &mut effects).unwrap();
        let mut node = Self { core, disk, applied: Vec::new(), other: Vec::new() };
        node.take(effects);
        node
    }

    fn take(&mut self, effects: Vec<RaftEffect>) {
        for effect in effects {
            match effect {
                RaftEffect::Persist(persist) => self.disk.pending.push(persist),
                RaftEffect::Apply { index, command, proposal, .. } => self.applied.push((index, command, proposal)),
                RaftEffect::SaveSnapshot { snapshot, drop_through } => self.disk.save_snapshot(snapshot, drop_through),
                other => self.other.push(other),
            }
        }
    }

    fn sync_all(&mut self) {
        while let Some(number) = self.disk.sync_one() {
            let mut effects = Vec::new();
            self.core.on_persisted(number, &mut effects).unwrap();
            self.take(effects);
        }
    }

    fn propose(&mut self, id: u64, command: &'static [u8]) {
        let mut effects = Vec::new();
        self.core.on_propose(id, command.to_vec(), &mut effects).unwrap();
        self.take(effects);
    }

    fn commands(&self) -> Vec<&[u8]> {
        self.applied.iter().map(|(_, command, _)| &command[..]).filter(|command| !command.is_empty()).collect()
    }
}

#[test]
fn a_sole_voter_leads_at_once_and_is_leading_once_its_first_entry_is_durable() {
    let mut node = Node::start(RaftDisk::new(&[7]));
    assert!(node.core.is_leader() && !node.core.is_leading());
    assert_eq!(node.other, [RaftEffect::LeaderChanged { term: 1, leader: Some(7) }]);
    node.sync_all();
    assert!(node.core.is_leading());
    assert_eq!(node.other.last(), Some(&RaftEffect::Leading { term: 1 }));
}

#[test]
fn nothing_is_applied_before_it_is_durable() {
    let mut node = Node::start(RaftDisk::new(&[7]));
    node.sync_all();
    node.propose(1, b"a");
    node.propose(2, b"b");
    assert!(node.commands().is_empty());
    let number = node.disk.sync_one().unwrap();
    let mut effects = Vec::new();
    node.core.on_persisted(number, &mut effects).unwrap();
    node.take(effects);
    assert_eq!(node.applied.last().unwrap(), &(2, Bytes::from_static(b"a"), Some(1)));
    node.sync_all();
    assert_eq!(node.applied.last().unwrap(), &(3, Bytes::from_static(b"b"), Some(2)));
}

#[test]
fn several_writes_may_be_reported_by_the_last_number() {
    let mut node = Node::start(RaftDisk::new(&[7]));
    node.propose(1, b"a");
    node.propose(2, b"b");
    let mut last = 0;
    while let Some(number) = node.disk.sync_one() {
        last = number;
    }
    let mut effects = Vec::new();
    node.core.on_persisted(last, &mut effects).unwrap();
    node.take(effects);
    assert_eq!(node.commands(), [b"a", b"b"]);
}

#[test]
fn a_restart_applies_what_was_durable_again_behind_the_snapshot() {
    let mut chance = Chance(3);
    for round in 0..200 {
        let mut node = Node::start(RaftDisk::new(&[7]));
        node.sync_all();
        let proposals = chance.below(6);
        for id in 0..proposals {
            node.propose(id as u64, b"x");
            if chance.percent(60) {
                node.sync_all();
            }
        }
        let acked = node.commands().len();
        node.disk.crash(&mut chance);
        let mut again = Node::start(node.disk);
        again.sync_all();
        assert!(again.commands().len() >= acked, "round {round}");
        assert!(again.core.is_leading() && again.core.term() >= node.core.term());
        assert!(again.applied.iter().all(|(_, _, proposal)| proposal.is_none()));
    }
}

#[test]
fn a_snapshot_drops_the_log_and_a_restart_begins_with_it() {
    let mut node = Node::start(RaftDisk::new(&[7]));
    node.sync_all();
    for id in 0..20 {
        node.propose(id, b"x");
        node.sync_all();
    }
    assert!(node.core.wants_snapshot());
    let index = node.core.applied_index();
    let mut effects = Vec::new();
    let early = node.core.compact(index - 1, Bytes::new(), &mut effects);
    assert!(matches!(early, Err(RaftError::SnapshotNotApplied { .. })) && effects.is_empty());
    node.core.compact(index, Bytes::from_static(b"state"), &mut effects).unwrap();
    node.take(effects);
    assert!(!node.core.wants_snapshot());
    assert_eq!(node.disk.durable.entries.first().unwrap().index, index - 2);
    node.propose(99, b"after");
    node.sync_all();

    let mut again = Node::start(node.disk);
    again.sync_all();
    assert_eq!(again.commands(), [b"after"], "only what the snapshot lacks is applied");
    assert_eq!(again.applied.first().unwrap().0, index + 1);
}

#[test]
fn a_log_that_lost_what_it_confirmed_is_refused() {
    let entry = |index| RaftEntry { index, term: 1, bytes: Bytes::from_static(&[1, 0]) };
    let start =
        |persisted: &PersistedRaft| RaftCore::new(config(), persisted, &mut Vec::new()).map(|_| ()).unwrap_err();
    let mut persisted = PersistedRaft {
        hard_state: HardStateRecord { term: 1, vote: 7, commit: 3 },
        entries: vec![entry(1), entry(2)],
        snapshot: None,
        conf: RaftConf::of_voters([7]),
    };
    assert!(matches!(start(&persisted), RaftError::LostEntries { last_index: 2, commit: 3 }));
    persisted.entries.push(entry(4));
    assert!(matches!(start(&persisted), RaftError::LogGap { expected: 3, found: 4 }));
    persisted.entries[2] = RaftEntry { index: 3, term: 1, bytes: Bytes::from_static(&[9]) };
    assert!(matches!(start(&persisted), RaftError::EntryUndecodable { index: 3, .. }));
    persisted.conf = RaftConf::default();
    persisted.entries[2] = entry(3);
    assert!(matches!(start(&persisted), RaftError::ConfigInvalid { .. }));
}

#[test]
fn a_log_that_a_snapshot_overtook_is_dropped_before_anything_follows() {
    let entry = |index, term| RaftEntry { index, term, bytes: Bytes::from_static(&[1, 0]) };
    let snapshot = RaftSnapshot { index: 5, term: 3, conf: RaftConf::of_voters([7]), data: Bytes::new() };
    for entries in [vec![entry(1, 1), entry(2, 1)], (1..=9).map(|index| entry(index, 2)).collect()] {
        let stale_from = if entries.len() == 2 { 1 } else { 5 };
        let persisted = PersistedRaft {
            hard_state: HardStateRecord { term: 2, vote: 9, commit: 1 },
            entries,
            snapshot: Some(snapshot.clone()),
            conf: RaftConf::default(),
        };
        let mut effects = Vec::new();
        let core = RaftCore::new(config(), &persisted, &mut effects).unwrap();
        let RaftEffect::Persist(first) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!((first.truncate_from, first.must_sync), (Some(stale_from), false));
        let RaftEffect::Persist(second) = &effects[2] else { panic!("{effects:?}") };
        assert_eq!((second.entries[0].index, second.truncate_from), (6, None));
        assert_eq!((core.term(), core.applied_index()), (4, 5), "the snapshot's term is the least");
    }
}

#[test]
fn hostile_messages_change_nothing() {
    let mut node = Node::start(RaftDisk::new(&[7]));
    node.sync_all();
    let mut effects = Vec::new();
    assert!(matches!(node.core.on_message(&[0xff; 9], &mut effects), Err(RaftError::MessageMalformed { .. })));
    assert!(matches!(node.core.on_message(&[], &mut effects), Err(RaftError::MessageMisdirected { .. })));
    // An append response to node 7 from 9, who is no member.
    let stranger = [0x08, 4, 0x10, 7, 0x18, 9, 0x20, 1];
    assert!(matches!(node.core.on_message(&stranger, &mut effects), Err(RaftError::MessageRefused { .. })));
    assert_eq!(effects, []);
    node.propose(1, b"a");
    node.sync_all();
    assert_eq!(node.commands(), [b"a"]);
}

#[test]
fn a_message_above_the_limit_is_not_parsed() {
    let config = RaftConfig { max_message_bytes: 10, ..config() };
    let mut core = RaftCore::new(config, &RaftDisk::new(&[7]).durable, &mut Vec::new()).unwrap();
    let result = core.on_message(&[0; 11], &mut Vec::new());
    assert!(matches!(result, Err(RaftError::MessageTooLarge { bytes: 11, limit: 10 })));
}

#[test]
fn after_a_panic_the_node_is_never_used_again() {
    let mut node = Node::start(RaftDisk::new(&[7, 8]));
    // An entry that does not follow those it is said to follow: the raft crate panics.
    let mut append = Message { from: 8, to: 7, term: 5, ..Message::default() };
    append.set_msg_type(MessageType::MsgAppend);
    append.mut_entries().push(Entry { index: 5, term: 5, ..Entry::default() });
    let append = append.write_to_bytes().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = node.core.on_message(&append, &mut Vec::new());
    }));
    assert!(panicked.is_err());
    assert!(matches!(node.core.on_tick(1, &mut Vec::new()), Err(RaftError::Stopped)));
    assert!(matches!(node.core.on_propose(1, vec![1], &mut Vec::new()), Err(RaftError::Stopped)));
}

#[test]
fn a_log_that_lost_what_its_leader_counts_on_is_used_no_more() {
    let mut node = Node::start(RaftDisk::new(&[7, 8]));
    let heartbeat = |term, commit| {
        let mut message = Message { from: 8, to: 7, term, commit, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.write_to_bytes().unwrap()
    };
    node.core.on_message(&heartbeat(5, 0), &mut Vec::new()).unwrap();
    // What a leader of the past says proves nothing.
    node.core.on_message(&heartbeat(4, 100), &mut Vec::new()).unwrap();
    let lost = node.core.on_message(&heartbeat(5, 1), &mut Vec::new()).unwrap_err();
    assert!(matches!(lost, RaftError::LostAcked { last_index: 0, acked: 1 }) && lost.is_loss() && lost.is_fatal());
    assert!(matches!(node.core.on_tick(1, &mut Vec::new()), Err(RaftError::Stopped)));
}

#[test]
fn a_node_without_a_leader_refuses_proposals() {
    let mut node = Node::start(RaftDisk::new(&[7, 8, 9]));
    node.propose(5, b"a");
    let reason = ProposalFailure::NotLeader { leader: None };
    assert_eq!(node.other, [RaftEffect::ProposalFailed { id: 5, reason }]);
    assert!(node.disk.pending.is_empty());
}
