//! What each command may and may not do.

use crate::support::{create, register};
use lance_cluster::metadata::{
    EpochOpening, LeaderChoice, MetadataAnswer, MetadataCommand, MetadataEvent, MetadataRefusal, MetadataState,
    PartitionLeader, ReplicaIncarnation,
};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TopicId, TopicPartition};

pub struct World {
    pub state: MetadataState,
    pub index: u64,
}

impl World {
    pub fn of_nodes(count: u16) -> Self {
        let mut world = Self { state: MetadataState::new(), index: 0 };
        for node in 1..=count {
            world.ok(register(node, 100 + u64::from(node), 1));
        }
        world
    }

    pub fn apply(&mut self, command: MetadataCommand) -> (Vec<MetadataEvent>, Result<MetadataAnswer, MetadataRefusal>) {
        self.index += 1;
        let applied = self.state.apply(self.index, &command);
        assert_eq!(self.state.contradiction(), None, "{command:?}");
        (applied.events, applied.answer)
    }

    pub fn ok(&mut self, command: MetadataCommand) -> MetadataAnswer {
        self.apply(command).1.unwrap()
    }

    pub fn refused(&mut self, command: MetadataCommand) -> MetadataRefusal {
        let before = self.state.clone();
        let (events, answer) = self.apply(command);
        assert_eq!(events, []);
        let mut expected = before;
        expected.skip(self.index);
        assert_eq!(self.state, expected, "a refused command changes nothing");
        answer.unwrap_err()
    }

    pub fn created(&mut self, command: MetadataCommand) -> TopicId {
        match self.ok(command) {
            MetadataAnswer::TopicCreated { topic } => topic,
            other => panic!("{other:?}"),
        }
    }

    pub fn delete(&mut self, topic: TopicId) -> MetadataAnswer {
        self.ok(MetadataCommand::DeleteTopic { topic, deleted_at_secs: 5 })
    }

    pub fn open(&mut self, partition: TopicPartition, epoch: u32) -> Vec<MetadataEvent> {
        let partitions = vec![EpochOpening { partition, epoch: LeaderEpoch(epoch) }];
        self.apply(MetadataCommand::OpenEpoch { partitions }).0
    }

    pub fn choose(&mut self, choice: LeaderChoice) -> Vec<MetadataEvent> {
        self.apply(MetadataCommand::LeaderChosen { partitions: vec![choice] }).0
    }

    pub fn producer(&mut self, existing: Option<(u64, u16)>, now_secs: u64) -> (u64, u16) {
        let existing = existing.map(|(id, epoch)| (ProducerId(id), epoch));
        match self.ok(MetadataCommand::InitProducer { existing, now_secs }) {
            MetadataAnswer::Producer { producer, epoch } => (producer.0, epoch),
            other => panic!("{other:?}"),
        }
    }
}

pub fn choice(partition: TopicPartition, epoch: u32, node: u16, incarnation: u64, boot_number: u64) -> LeaderChoice {
    let incarnation = ReplicaIncarnation { node: incarnation, copy_version: 0, damage_count: 0 };
    LeaderChoice { partition, epoch: LeaderEpoch(epoch), leader: NodeId(node), incarnation, boot_number }
}

#[test]
fn topic_ids_begin_at_1_and_default_is_0() {
    let mut world = World::of_nodes(1);
    assert_eq!(world.created(create("alpha", 1, 1)), TopicId(1));
    assert_eq!(world.created(create("default", 1, 1)), TopicId(0));
    assert_eq!(world.created(create("beta", 1, 1)), TopicId(2));
    let listed: Vec<_> = world.state.topics().map(|(id, topic)| (id.0, topic.name.as_str())).collect();
    assert_eq!(listed, [(0, "default"), (1, "alpha"), (2, "beta")]);
    assert_eq!(world.state.topic_id("beta"), Some(TopicId(2)));
}

#[test]
fn a_deleted_topic_never_comes_back_and_its_name_gets_a_new_id_and_epoch() {
    let mut world = World::of_nodes(1);
    let first = world.created(create("alpha", 2, 1));
    world.delete(first);
    assert!(world.state.is_deleted(first) && world.state.topic(first).is_none());
    assert_eq!(world.state.tombstone(first).unwrap().name, "alpha");
    let delete = MetadataCommand::DeleteTopic { topic: first, deleted_at_secs: 5 };
    assert_eq!(world.refused(delete), MetadataRefusal::TopicNotFound { topic: first });
    let second = world.created(create("alpha", 1, 1));
    assert_eq!((second, world.state.topic(second).unwrap().topic_epoch), (TopicId(2), 2));
    assert!(world.state.is_deleted(first) && !world.state.is_deleted(second) && !world.state.is_deleted(TopicId(3)));
}

#[test]
fn the_default_topic_stays() {
    let mut world = World::of_nodes(1);
    let delete = MetadataCommand::DeleteTopic { topic: TopicId(0), deleted_at_secs: 5 };
    assert_eq!(world.refused(delete.clone()), MetadataRefusal::TopicNotFound { topic: TopicId(0) });
    world.created(create("default", 1, 1));
    assert_eq!(world.refused(delete), MetadataRefusal::DefaultTopicStays);
}

#[test]
fn bad_requests_are_refused_with_what_is_wrong() {
    let mut world = World::of_nodes(1);
    world.created(create("alpha", 4, 1));
    let refusals = [
        (create("", 1, 1), "Topic name required"),
        (create("alpha", 1, 1), "Topic 'alpha' already exists"),
        (create("b", 0, 1), "A topic needs at least 1 partition"),
        (create("b", 1, 2), "Replication factor 2 needs as many nodes; 1 are registered"),
        (create("b", 1, 0), "Replication factor 0 needs as many nodes; 1 are registered"),
        (alter(1, Some(3)), "Topic 1 has 4 partitions, which cannot become 3"),
        (alter(9, Some(3)), "Topic not found"),
        (register(0, 5, 1), "Node 0 registers with an invalid node id 0"),
        (register(2, 0, 1), "Node 2 registers with an invalid incarnation 0"),
        (register(2, 5, 0), "Node 2 registers with an invalid boot number 0"),
    ];
    for (command, text) in refusals {
        assert_eq!(world.refused(command).to_string(), text);
    }
    assert!(matches!(world.refused(create("a/b", 1, 1)), MetadataRefusal::InvalidTopicName { .. }));
}

fn alter(topic: u32, partitions: Option<u16>) -> MetadataCommand {
    MetadataCommand::AlterTopic { topic: TopicId(topic), partitions, max_age_secs: None, max_bytes: None }
}

#[test]
fn the_cluster_has_a_limit_of_partitions_and_deleting_makes_room() {
    let mut world = World::of_nodes(1);
    let topics: Vec<_> = (0..3).map(|number| world.created(create(&format!("t{number}"), 65_535, 1))).collect();
    assert_eq!(world.state.partition_count(), 3 * 65_535);
    assert!(matches!(world.refused(create("more", 65_535, 1)), MetadataRefusal::TooManyPartitions { .. }));
    world.delete(topics[0]);
    world.created(create("more", 65_535, 1));
    assert_eq!(world.state.replica_counts()[&NodeId(1)], 3 * 65_535);
}

#[test]
fn a_retried_creation_hears_that_the_first_try_created_it() {
    let mut world = World::of_nodes(1);
    let with_request = |request| match create("alpha", 1, 1) {
        MetadataCommand::CreateTopic { name, config, created_at_secs, .. } => {
            MetadataCommand::CreateTopic { name, config, created_at_secs, request }
        }
        other => other,
    };
    let topic = world.created(with_request(77));
    let (events, answer) = world.apply(with_request(77));
    assert_eq!((events, answer), (vec![], Ok(MetadataAnswer::TopicCreated { topic })));
    assert!(matches!(world.refused(with_request(78)), MetadataRefusal::TopicExists { .. }));
    assert!(matches!(world.refused(with_request(0)), MetadataRefusal::TopicExists { .. }));
}

#[test]
fn partitions_are_added_and_retention_is_set_separately() {
    let mut world = World::of_nodes(1);
    let topic = world.created(create("alpha", 2, 1));
    let (events, _) = world.apply(alter(1, Some(5)));
    assert_eq!(events, [MetadataEvent::PartitionsAdded { topic, first: 2, partitions: 5 }]);
    let retention = MetadataCommand::SetRetention { topic, max_age_secs: 60, max_bytes: 0 };
    let (events, _) = world.apply(retention.clone());
    assert_eq!(events, [MetadataEvent::RetentionSet { topic, max_age_secs: 60, max_bytes: 0 }]);
    assert_eq!(world.apply(retention).0, []);
    let config = world.state.topic(topic).unwrap().config;
    assert_eq!((config.partitions, config.max_age_secs, config.max_bytes), (5, 60, 0));
}

#[test]
fn new_partitions_go_to_the_nodes_with_the_fewest_replicas() {
    let mut world = World::of_nodes(3);
    world.created(create("alpha", 3, 2));
    assert!(world.state.replica_counts().values().all(|count| *count == 2));
    for (_, partition) in world.state.partitions() {
        assert_eq!(partition.in_quorum.len(), 2);
        assert!(partition.in_quorum.iter().all(|node| partition.has_replica(*node)));
    }
}

#[test]
fn a_registration_is_repeated_without_effect_and_an_older_disk_is_refused() {
    let mut world = World::of_nodes(0);
    assert_eq!(world.apply(register(1, 50, 3)).0.len(), 1);
    assert_eq!(world.apply(register(1, 50, 3)), (vec![], Ok(MetadataAnswer::NodeRegistered)));
    let rolled_back = MetadataRefusal::RolledBack { node: NodeId(1), given: 2, registered: 3 };
    assert_eq!(world.refused(register(1, 50, 2)), rolled_back);
    let mut same_boot = register(1, 50, 3);
    if let MetadataCommand::RegisterNode { nonce, .. } = &mut same_boot {
        *nonce += 1;
    }
    assert!(matches!(world.refused(same_boot), MetadataRefusal::RolledBack { given: 3, .. }));
    assert_eq!(world.apply(register(1, 50, 4)).0.len(), 1);
}

#[test]
fn an_incarnation_that_was_replaced_never_returns() {
    let mut world = World::of_nodes(0);
    world.ok(register(1, 50, 9));
    world.ok(register(1, 51, 1));
    assert!(matches!(world.refused(register(1, 50, 10)), MetadataRefusal::RetiredIncarnation { incarnation: 50, .. }));
    assert_eq!(world.state.node(NodeId(1)).unwrap().retired_incarnations, [50]);
}

#[test]
fn epochs_open_one_after_the_other_and_the_first_choice_of_a_leader_wins() {
    let mut world = World::of_nodes(3);
    let partition = TopicPartition::new(world.created(create("alpha", 1, 3)), 0);
    assert_eq!(world.open(partition, 2), [], "an epoch is not skipped");
    assert_eq!(world.choose(choice(partition, 1, 1, 101, 1)), [], "no leader before its epoch");
    assert_eq!(world.open(partition, 1).len(), 1);
    assert_eq!(world.open(partition, 1), [], "an epoch opens once");
    for (what, wrong) in [
        ("incarnation", choice(partition, 1, 1, 999, 1)),
        ("boot", choice(partition, 1, 1, 101, 2)),
        ("epoch", choice(partition, 2, 1, 101, 1)),
        ("node", choice(partition, 1, 9, 101, 1)),
    ] {
        assert_eq!(world.choose(wrong), [], "wrong {what}");
    }
    assert_eq!(world.choose(choice(partition, 1, 2, 102, 1)).len(), 1);
    assert_eq!(world.choose(choice(partition, 1, 1, 101, 1)), [], "the first wins");
    let decided = world.state.partition(partition).unwrap().clone();
    let incarnation = ReplicaIncarnation { node: 102, copy_version: 0, damage_count: 0 };
    assert_eq!(decided.leader, Some(PartitionLeader { node: NodeId(2), incarnation, boot_number: 1 }));
    assert_eq!((decided.in_quorum.len(), decided.in_quorum_version), (3, 1));
    assert!(world.state.leader_is_current(&decided));
    world.ok(register(2, 102, 2));
    assert!(!world.state.leader_is_current(world.state.partition(partition).unwrap()), "a later boot does not lead");
    assert_eq!(world.open(partition, 2).len(), 1);
    assert_eq!(world.state.partition(partition).unwrap().leader, None);
}

#[test]
fn producer_ids_are_allocated_once_and_raised_epochs_fence_older_instances() {
    let mut world = World::of_nodes(1);
    assert_eq!(world.producer(None, 10), (1, 0));
    assert_eq!(world.producer(None, 10), (2, 0));
    assert_eq!(world.producer(Some((1, 0)), 10), (1, 1));
    assert_eq!(world.producer(Some((1, 1)), 10), (1, 2));
    let existing = Some((ProducerId(1), 1));
    let fenced = world.refused(MetadataCommand::InitProducer { existing, now_secs: 10 });
    assert_eq!(fenced, MetadataRefusal::ProducerFenced { producer: ProducerId(1), given: 1, current: 2 });
    assert_eq!(world.producer(Some((99, 3)), 10), (3, 0), "an id that was never given out is not taken on trust");
    let week = 8 * 24 * 3600;
    assert_eq!(world.producer(Some((1, 2)), week), (4, 0), "a forgotten epoch gets a new id");
}

#[test]
fn a_producer_that_comes_back_keeps_its_epoch_and_takes_no_other() {
    let mut world = World::of_nodes(1);
    assert_eq!(world.producer(None, 10), (1, 0));
    assert_eq!(world.producer(Some((1, 0)), 10), (1, 1));
    let producer = ProducerId(1);
    let bind = |epoch| MetadataCommand::BindProducer { producer, epoch };
    assert_eq!(world.ok(bind(1)), MetadataAnswer::Producer { producer, epoch: 1 });
    assert_eq!(world.ok(bind(1)), MetadataAnswer::Producer { producer, epoch: 1 }, "again, and nothing is raised");
    let (given, current) = (0, 1);
    assert_eq!(world.refused(bind(0)), MetadataRefusal::ProducerFenced { producer, given, current });
    let unknown = MetadataRefusal::ProducerUnknown { producer, given: u16::MAX, current };
    assert_eq!(world.refused(bind(u16::MAX)), unknown);
    let stranger = MetadataCommand::BindProducer { producer: ProducerId(9), epoch: 4 };
    assert_eq!(world.ok(stranger), MetadataAnswer::Producer { producer: ProducerId(2), epoch: 0 });
}

#[test]
fn a_producer_whose_epochs_ran_out_gets_a_new_id() {
    let mut world = World::of_nodes(1);
    let mut held = world.producer(None, 10);
    for _ in 0..u16::MAX {
        held = world.producer(Some(held), 10);
    }
    assert_eq!(held, (1, u16::MAX));
    assert_eq!(world.producer(Some(held), 10), (2, 0));
}

#[test]
fn an_entry_is_applied_once() {
    let mut world = World::of_nodes(1);
    let before = world.state.clone();
    let applied = world.state.apply(1, &create("alpha", 1, 1));
    assert_eq!(applied.answer, Err(MetadataRefusal::AlreadyApplied { index: 1, applied_index: 1 }));
    assert_eq!(world.state, before);
}
