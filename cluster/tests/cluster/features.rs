//! Feature levels, maintenance and restored topics: what is refused before its level, what a snapshot keeps, and what a program
//! of the level before reads.

use crate::support::{create, register};
use lance_cluster::metadata::{
    FeatureLevel, MetadataAnswer, MetadataCommand, MetadataRefusal, MetadataState, TopicConfig, TopicRestoration,
};
use lance_messages::batch::BatchPlace;
use lance_messages::id::{NodeId, TopicId, TopicPartition};

const RAISE: MetadataCommand = MetadataCommand::RaiseFeatureLevel { level: FeatureLevel(2) };

/// A state that commands are applied to one after the other; its snapshots give it back.
struct Log(MetadataState, u64);

impl Log {
    fn new() -> Self {
        let mut log = Self(MetadataState::new(), 0);
        log.apply(&register(1, 10, 1)).unwrap();
        log
    }

    fn apply(&mut self, command: &MetadataCommand) -> Result<MetadataAnswer, MetadataRefusal> {
        let written = command.encode().unwrap();
        assert_eq!(MetadataCommand::decode(&written).unwrap(), *command);
        self.1 += 1;
        let answer = self.0.apply(self.1, command).answer;
        assert_eq!(self.0.contradiction(), None);
        assert_eq!(MetadataState::decode_snapshot(&self.0.encode_snapshot().unwrap()).unwrap(), self.0);
        answer
    }

    fn is_read_by_the_version_before(&self) -> bool {
        MetadataState::decode_snapshot_up_to(FeatureLevel::FIRST, &self.0.encode_snapshot().unwrap()).is_ok()
    }
}

fn restoration(id: u32, name: &str) -> MetadataCommand {
    MetadataCommand::RestoreTopic(TopicRestoration {
        topic: TopicId(id),
        name: name.to_owned(),
        config: TopicConfig { partitions: 2, ..TopicConfig::default() },
        created_at_secs: 5,
        beginnings: vec![(0, 0), (700, 7)],
    })
}

fn maintenance(on: bool) -> MetadataCommand {
    MetadataCommand::SetMaintenance { node: NodeId(1), on }
}

#[test]
fn what_is_new_waits_for_its_level_and_is_written_for_programs_that_know_it() {
    let mut log = Log::new();
    let ids = MetadataCommand::RestoreIds { next_topic_id: 9, next_producer_id: 9 };
    for command in [maintenance(true), restoration(3, "a"), ids] {
        let refused = MetadataRefusal::FeatureLevel { needed: FeatureLevel(2), level: FeatureLevel::FIRST };
        assert_eq!(log.apply(&command), Err(refused));
        let error = MetadataCommand::decode_up_to(FeatureLevel::FIRST, &command.encode().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "metadata command: version 5 is unknown, this program reads version 4");
    }
    let usual = create("b", 1, 1).encode().unwrap();
    assert!(MetadataCommand::decode_up_to(FeatureLevel::FIRST, &usual).is_ok());
    assert!(log.is_read_by_the_version_before());
    assert_eq!(log.apply(&RAISE), Ok(MetadataAnswer::FeatureLevel { level: FeatureLevel(2) }));
    assert!(!log.is_read_by_the_version_before());
    let lower = MetadataCommand::RaiseFeatureLevel { level: FeatureLevel::FIRST };
    assert_eq!(log.apply(&lower), Ok(MetadataAnswer::FeatureLevel { level: FeatureLevel(2) }), "it never goes back");
}

#[test]
fn maintenance_outlives_a_start_and_draining_does_not() {
    let mut log = Log::new();
    log.apply(&RAISE).unwrap();
    let draining = |log: &Log| log.0.node(NodeId(1)).unwrap().draining;
    log.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: true }).unwrap();
    log.apply(&register(1, 10, 2)).unwrap();
    assert!(!draining(&log));
    log.apply(&maintenance(true)).unwrap();
    log.apply(&register(1, 10, 3)).unwrap();
    assert!(draining(&log) && log.0.is_in_maintenance(NodeId(1)));
    log.apply(&maintenance(false)).unwrap();
    assert!(!draining(&log) && !log.0.is_in_maintenance(NodeId(1)));
    log.apply(&maintenance(true)).unwrap();
    log.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: false }).unwrap();
    assert!(!log.0.is_in_maintenance(NodeId(1)));
}

#[test]
fn a_restored_topic_keeps_its_id_where_that_is_free_and_its_beginnings() {
    let mut log = Log::new();
    log.apply(&RAISE).unwrap();
    let made = |topic| Ok(MetadataAnswer::TopicCreated { topic: TopicId(topic) });
    assert_eq!(log.apply(&restoration(5, "a")), made(5));
    assert_eq!(log.apply(&restoration(5, "a")), made(5), "a retry, or a restoration that goes on");
    assert_eq!(log.apply(&restoration(5, "b")), made(6), "the id is taken");
    assert_eq!(log.apply(&restoration(2, "c")), made(2));
    let partition = TopicPartition::new(TopicId(5), 1);
    assert_eq!(log.0.beginning(partition), BatchPlace { offset: 700, record: 7 });
    assert_eq!(log.0.beginning(TopicPartition::new(TopicId(5), 0)), BatchPlace::default());
    log.apply(&create("d", 2, 1)).unwrap();
    let exists = MetadataRefusal::TopicExists { name: "d".to_owned(), topic: TopicId(7) };
    assert_eq!(log.apply(&restoration(9, "d")), Err(exists));
    log.apply(&MetadataCommand::RestoreIds { next_topic_id: 20, next_producer_id: 30 }).unwrap();
    log.apply(&MetadataCommand::RestoreIds { next_topic_id: 1, next_producer_id: 1 }).unwrap();
    assert_eq!((log.0.next_topic_id().0, log.0.next_producer_id().0), (20, 30));
    log.apply(&MetadataCommand::DeleteTopic { topic: TopicId(5), deleted_at_secs: 1 }).unwrap();
    assert_eq!(log.0.beginning(partition), BatchPlace::default());
    assert_eq!(log.apply(&restoration(5, "a")), made(20), "an id that was deleted stays so");
}
