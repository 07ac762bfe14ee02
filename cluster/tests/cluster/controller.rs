//! How the metadata leader brings partitions to leaders.

use crate::support::{create, register};
use lance_cluster::metadata::{
    Controller, ControllerAction, MetadataCommand, MetadataState, PartitionRecovery, PromiseAnswer, PromiseOutcome,
    ReplicaIncarnation,
};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::peer::PeerIdentity;
use std::collections::{BTreeMap, BTreeSet};

pub const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);

pub struct World {
    pub state: MetadataState,
    pub controller: Controller,
    pub now_ms: u64,
    /// Node → the epoch it was last asked to promise.
    pub asked: BTreeMap<u16, u32>,
    /// Proposals not applied yet.
    pub proposed: Vec<MetadataCommand>,
    /// Moves asked for: epoch, from, to.
    pub moves: Vec<(u32, u16, u16)>,
    /// The same, to be carried out.
    pub movable: Vec<(TopicPartition, LeaderEpoch, NodeId)>,
    /// Nodes that send no heartbeats.
    pub silent: BTreeSet<u16>,
}

impl World {
    pub fn new(nodes: u16, copies: u8) -> Self {
        let mut world = Self {
            state: MetadataState::new(),
            controller: Controller::default(),
            now_ms: 0,
            asked: BTreeMap::new(),
            proposed: Vec::new(),
            moves: Vec::new(),
            movable: Vec::new(),
            silent: BTreeSet::new(),
        };
        world.act(|controller, state, now_ms, actions| controller.activate(state, now_ms, actions));
        (1..=nodes).for_each(|node| world.apply(&register(node, 100 + u64::from(node), 1)));
        world.apply(&create("alpha", 1, copies));
        world
    }

    pub fn act(&mut self, input: impl FnOnce(&mut Controller, &MetadataState, u64, &mut Vec<ControllerAction>)) {
        let mut actions = Vec::new();
        input(&mut self.controller, &self.state, self.now_ms, &mut actions);
        for action in actions {
            match action {
                ControllerAction::Propose(command) => self.proposed.push(command),
                ControllerAction::AskPromises { node, partitions } => {
                    self.asked.insert(node.0, partitions.last().unwrap().1.0);
                }
                ControllerAction::MoveLeader { partition, epoch, from, to } => {
                    self.moves.push((epoch.0, from.0, to.0));
                    self.movable.push((partition, epoch, to));
                }
            }
        }
    }

    pub fn apply(&mut self, command: &MetadataCommand) {
        let index = self.state.applied_index() + 1;
        let events = self.state.apply(index, command).events;
        self.act(|controller, state, now_ms, actions| controller.on_events(state, &events, now_ms, actions));
    }

    pub fn commit_proposed(&mut self) {
        for command in std::mem::take(&mut self.proposed) {
            self.apply(&command);
        }
    }

    /// Time passes in ticks, and all nodes that are not silent are heard.
    pub fn pass_ms(&mut self, duration_ms: u64) {
        let until = self.now_ms + duration_ms;
        while self.now_ms < until {
            self.now_ms = until.min(self.now_ms + 50);
            for (node, known) in self.state.nodes().filter(|(node, _)| !self.silent.contains(&node.0)) {
                let (incarnation, boot_number) = (known.incarnation, known.boot_number);
                self.controller.on_heard(&self.state, PeerIdentity { node, incarnation, boot_number }, self.now_ms);
            }
            self.act(|controller, state, now_ms, actions| controller.on_tick(state, now_ms, actions));
        }
    }

    pub fn answer(&mut self, node: u16, epoch: u32, outcome: PromiseOutcome) {
        let answers = [PromiseAnswer { partition: PARTITION, epoch: LeaderEpoch(epoch), outcome }];
        self.act(|controller, state, now_ms, actions| {
            controller.on_promises(state, NodeId(node), &answers, now_ms, actions);
        });
    }

    pub fn clean(&mut self, node: u16, epoch: u32, last_epoch: u32, durable_end: u64) {
        let outcome = clean_of(100 + u64::from(node), 1, last_epoch, durable_end);
        let given = self.state.partition(PARTITION).and_then(|decided| decided.copy_version(NodeId(node)));
        let outcome = match outcome {
            PromiseOutcome::Clean { incarnation, boot_number, last_epoch, durable_end } => PromiseOutcome::Clean {
                incarnation: ReplicaIncarnation { copy_version: given.unwrap_or(0), ..incarnation },
                boot_number,
                last_epoch,
                durable_end,
            },
            other => other,
        };
        self.answer(node, epoch, outcome);
    }

    /// A clean answer of the present epoch that holds `durable_end` of the epoch before.
    pub fn clean_for(&mut self, partition: TopicPartition, node: u16, epoch: u32, durable_end: u64) {
        let outcome = clean_of(100 + u64::from(node), 1, epoch - 1, durable_end);
        let answers = [PromiseAnswer { partition, epoch: LeaderEpoch(epoch), outcome }];
        self.act(|controller, state, now_ms, actions| {
            controller.on_promises(state, NodeId(node), &answers, now_ms, actions);
        });
    }

    pub fn report_leading(&mut self, partition: TopicPartition) {
        let epoch = self.state.partition(partition).unwrap().epoch;
        self.controller.on_leading(partition, epoch);
    }

    pub fn request_epoch(&mut self, epoch: u32) {
        let requests = [(PARTITION, LeaderEpoch(epoch))];
        self.act(|controller, state, now_ms, actions| {
            controller.on_epoch_requested(state, &requests, now_ms, actions);
        });
    }

    pub fn move_ready(&mut self, epoch: u32, to: u16) {
        self.ready_for(PARTITION, LeaderEpoch(epoch), NodeId(to));
    }

    pub fn ready_for(&mut self, partition: TopicPartition, epoch: LeaderEpoch, to: NodeId) {
        let leader = self.state.partition(partition).and_then(|decided| decided.leader);
        let from = leader.map_or(NodeId(0), |leader| leader.node);
        self.ready_from(from, partition, epoch, to);
    }

    pub fn ready_from(&mut self, from: NodeId, partition: TopicPartition, epoch: LeaderEpoch, to: NodeId) {
        self.act(|controller, state, now_ms, actions| {
            controller.on_move_ready(state, from, (partition, epoch, to), now_ms, actions);
        });
    }

    /// A topic of one partition that `node` leads.
    pub fn lead_elsewhere(&mut self, node: u16) {
        self.apply(&create("elsewhere", 1, 3));
        self.commit_proposed();
        let partition = TopicPartition::new(TopicId(2), 0);
        (1..=3).for_each(|other| self.clean_for(partition, other, 1, if other == node { 900 } else { 500 }));
        self.commit_proposed();
        self.report_leading(partition);
    }

    /// Time passes, and everything that is asked for is done at once.
    pub fn finish_moves(&mut self, duration_ms: u64) {
        let until = self.now_ms + duration_ms;
        while self.now_ms < until {
            self.pass_ms(50);
            for (partition, epoch, to) in std::mem::take(&mut self.movable) {
                self.ready_for(partition, epoch, to);
                self.commit_proposed();
                let epoch = self.state.partition(partition).unwrap().epoch.0;
                (1..=3).for_each(|node| self.clean_current(partition, node, epoch));
                self.commit_proposed();
                self.report_leading(partition);
            }
        }
    }

    fn clean_current(&mut self, partition: TopicPartition, node: u16, epoch: u32) {
        let boot_number = self.state.node(NodeId(node)).unwrap().boot_number;
        let outcome = clean_of(100 + u64::from(node), boot_number, epoch - 1, 500);
        let answers = [PromiseAnswer { partition, epoch: LeaderEpoch(epoch), outcome }];
        self.act(|controller, state, now_ms, actions| {
            controller.on_promises(state, NodeId(node), &answers, now_ms, actions);
        });
    }

    pub fn leader(&self) -> Option<(u16, u32)> {
        let decided = self.state.partition(PARTITION).unwrap();
        decided.leader.map(|leader| (leader.node.0, decided.epoch.0))
    }
}

pub fn clean_of(incarnation: u64, boot_number: u64, last_epoch: u32, durable_end: u64) -> PromiseOutcome {
    let incarnation = ReplicaIncarnation { node: incarnation, copy_version: 0, damage_count: 0 };
    PromiseOutcome::Clean { incarnation, boot_number, last_epoch: LeaderEpoch(last_epoch), durable_end }
}

#[test]
fn a_sole_replica_leads_after_its_own_promise() {
    let mut world = World::new(1, 1);
    assert!(world.asked.is_empty(), "nobody is asked before the epoch is committed");
    world.commit_proposed();
    assert_eq!(world.asked, BTreeMap::from([(1, 1)]));
    world.clean(1, 1, 0, 0);
    assert_eq!(world.leader(), None, "not before the choice is committed");
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 1)));
    assert!(world.controller.is_settled());
}

#[test]
fn a_restart_of_the_leader_opens_the_next_epoch() {
    let mut world = World::new(1, 1);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.commit_proposed();
    world.apply(&register(1, 101, 2));
    world.commit_proposed();
    assert_eq!(world.asked, BTreeMap::from([(1, 2)]));
    world.answer(1, 2, clean_of(101, 1, 1, 104));
    assert!(world.proposed.is_empty(), "an answer of the boot before does not count");
    world.answer(1, 2, clean_of(101, 2, 1, 104));
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 2)));
}

#[test]
fn of_three_the_better_of_two_clean_answers_wins() {
    for (second, third, winner) in [((2, 500), (1, 900), 2), ((2, 500), (2, 900), 3), ((2, 500), (2, 500), 2)] {
        let mut world = World::new(3, 3);
        world.commit_proposed();
        assert_eq!(world.asked.len(), 3);
        world.clean(2, 1, second.0, second.1);
        assert!(world.proposed.is_empty(), "one of three is too few");
        world.clean(3, 1, third.0, third.1);
        assert!(world.proposed.is_empty(), "the third may hold more");
        world.pass_ms(50);
        world.commit_proposed();
        assert_eq!(world.leader(), Some((winner, 1)));
    }
}

#[test]
fn unclean_and_foreign_answers_do_not_count_and_the_partition_stays_offline() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.answer(2, 1, PromiseOutcome::Unclean);
    world.answer(3, 1, clean_of(999, 1, 5, 5000));
    world.clean(3, 7, 5, 5000);
    assert!(world.proposed.is_empty());
    assert_eq!(world.controller.waiting().map(|(partition, _)| partition).collect::<Vec<_>>(), [PARTITION]);
    world.clean(3, 1, 0, 0);
    assert_eq!(world.proposed.len(), 1, "everyone has answered: nobody is waited for");
}

#[test]
fn unanswered_requests_are_repeated_to_those_that_owe() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.asked.clear();
    world.pass_ms(100);
    assert!(world.asked.is_empty());
    world.pass_ms(200);
    assert_eq!(world.asked, BTreeMap::from([(2, 1), (3, 1)]));
}

#[test]
fn a_lost_proposal_is_made_again() {
    let mut world = World::new(1, 1);
    world.proposed.clear();
    world.pass_ms(1001);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.proposed.clear();
    world.pass_ms(1001);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 1)));
}

#[test]
fn a_chosen_leader_that_does_not_report_leading_is_passed_over() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    (1..=3).for_each(|node| world.clean(node, 1, 0, 0));
    world.commit_proposed();
    world.pass_ms(999);
    assert!(world.proposed.is_empty());
    world.pass_ms(2);
    world.commit_proposed();
    world.clean(2, 2, 0, 0);
    world.clean(3, 2, 0, 0);
    world.pass_ms(50);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((2, 2)));
    world.controller.on_leading(PARTITION, LeaderEpoch(1));
    assert!(!world.controller.is_settled(), "a report of an older epoch is none");
    world.controller.on_leading(PARTITION, LeaderEpoch(2));
    assert!(world.controller.is_settled());
}

#[test]
fn a_leader_whose_copy_is_the_only_one_that_counts_is_not_passed_over() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    world.apply(&MetadataCommand::RecoverPartition(PartitionRecovery {
        partition: PARTITION,
        epoch: LeaderEpoch(1),
        node: NodeId(2),
        incarnation: ReplicaIncarnation { node: 102, copy_version: 0, damage_count: 0 },
        accept_data_loss: true,
        requested_by: "operator".into(),
        recovered_at_secs: 1,
        lost_from: 0,
        lost_to: 0,
    }));
    (0..10).for_each(|_| world.pass_ms(900));
    assert!(world.proposed.is_empty(), "a refill of others may take hours");
    assert_eq!(world.leader(), Some((2, 1)));
    let admitted = ReplicaIncarnation { node: 101, copy_version: 0, damage_count: 0 };
    let version = world.state.partition(PARTITION).unwrap().in_quorum_version;
    let partitions = vec![(PARTITION, admitted, LeaderEpoch(1), version)];
    world.apply(&MetadataCommand::Admit { node: NodeId(1), partitions });
    (0..2).for_each(|_| world.pass_ms(900));
    assert!(!world.proposed.is_empty(), "it should lead by now");
}

#[test]
fn a_leader_that_asks_gets_a_new_epoch_once() {
    let mut world = World::new(1, 1);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.commit_proposed();
    let ask = |world: &mut World, epoch| {
        let requests = [(PARTITION, LeaderEpoch(epoch))];
        world.act(|controller, state, now_ms, actions| {
            controller.on_epoch_requested(state, &requests, now_ms, actions);
        });
    };
    ask(&mut world, 1);
    ask(&mut world, 1);
    assert_eq!(world.proposed.len(), 1);
    world.commit_proposed();
    ask(&mut world, 1);
    assert!(world.proposed.is_empty(), "the epoch it left is over");
    world.clean(1, 2, 1, 104);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 2)));
}

#[test]
fn a_new_metadata_leader_takes_up_where_the_last_one_left() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    world.controller = Controller::default();
    world.asked.clear();
    world.clean(1, 1, 0, 0);
    world.clean(2, 1, 0, 0);
    assert!(world.proposed.is_empty(), "who does not lead decides nothing");
    world.act(|controller, state, now_ms, actions| controller.activate(state, now_ms, actions));
    assert_eq!(world.asked.len(), 3);
    (1..=3).for_each(|node| world.clean(node, 1, 0, 0));
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 1)));
}

#[test]
fn a_replica_that_promised_more_makes_the_next_epoch_open() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    world.answer(2, 1, PromiseOutcome::Promised { epoch: LeaderEpoch(2) });
    world.commit_proposed();
    assert_eq!(world.asked, BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
}

#[test]
fn a_deleted_topic_is_forgotten() {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    world.apply(&MetadataCommand::DeleteTopic { topic: TopicId(1), deleted_at_secs: 1 });
    assert!(world.controller.is_settled());
    world.pass_ms(5000);
    assert!(world.proposed.is_empty());
}
