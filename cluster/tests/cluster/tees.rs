//! Tee rules: what is refused, who may store checkpoints, what goes with a topic; and their bytes.

use crate::support::{create, register};
use lance_cluster::metadata::{
    EpochOpening, LeaderChoice, MetadataAnswer, MetadataCommand, MetadataEvent, MetadataRefusal, MetadataState,
    PartitionRecovery, ReplicaIncarnation, TeeAdvance, TeeCheckpoint, TeeClaim, TeeProducer, TeeProgress, TeeRefusal,
    TeeRule, TeeTarget,
};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TeeId, TopicId, TopicPartition};

const OWN: u64 = 77;
const ELSEWHERE: u64 = 78;

pub fn rule(topic: u32, to: &str, cluster: u64) -> TeeRule {
    TeeRule {
        topic: TopicId(topic),
        target: TeeTarget { addresses: vec!["a:1".to_owned()], topic: to.to_owned(), cluster },
        bytes_per_second: 250,
        from_ns: 9,
        created_at_secs: 5,
    }
}

fn add(rule: TeeRule) -> MetadataCommand {
    MetadataCommand::AddTee { rule, own_cluster: OWN }
}

pub fn checkpoint(position: u64) -> TeeCheckpoint {
    TeeCheckpoint {
        position,
        offset: 6,
        record: 7,
        topic: TopicId(3),
        partition: 2,
        producer: Some(TeeProducer { id: ProducerId(8), epoch: 1 }),
        sequence: 11,
    }
}

/// A state that commands are applied to one after the other.
struct Log(MetadataState, u64);

impl Log {
    /// A cluster of one node with the topics "a", "b" and "c" of two partitions each.
    fn new() -> Self {
        let mut log = Self(MetadataState::new(), 0);
        log.apply(&register(1, 10, 1)).unwrap();
        for name in ["a", "b", "c"] {
            log.apply(&create(name, 2, 1)).unwrap();
        }
        log
    }

    fn apply(&mut self, command: &MetadataCommand) -> Result<MetadataAnswer, MetadataRefusal> {
        self.1 += 1;
        let answer = self.0.apply(self.1, command).answer;
        assert_eq!(self.0.contradiction(), None);
        assert_eq!(MetadataState::decode_snapshot(&self.0.encode_snapshot().unwrap()).unwrap(), self.0);
        answer
    }

    fn lead(&mut self, topic: u32, epoch: u32) {
        let (partition, epoch) = (TopicPartition::new(TopicId(topic), 0), LeaderEpoch(epoch));
        self.apply(&MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch }] }).unwrap();
        let incarnation = ReplicaIncarnation { node: 10, copy_version: 0, damage_count: 0 };
        let choice = LeaderChoice { partition, epoch, leader: NodeId(1), incarnation, boot_number: 1 };
        self.apply(&MetadataCommand::LeaderChosen { partitions: vec![choice] }).unwrap();
    }

    fn claim(&mut self, tee: u32, epoch: u32) -> Result<TeeProgress, TeeRefusal> {
        let claim = TeeClaim { tee: TeeId(tee), partition: 0, epoch: LeaderEpoch(epoch) };
        match self.apply(&MetadataCommand::ClaimTees { claims: vec![claim] }) {
            Ok(MetadataAnswer::TeesClaimed { claimed }) => claimed[0],
            other => panic!("{other:?}"),
        }
    }

    fn advance(&mut self, tee: u32, claim: u64, position: u64) -> Result<(), TeeRefusal> {
        let advance = TeeAdvance { tee: TeeId(tee), partition: 0, claim, checkpoint: checkpoint(position) };
        match self.apply(&MetadataCommand::AdvanceTees { advances: vec![advance] }) {
            Ok(MetadataAnswer::TeesAdvanced { advanced }) => advanced[0],
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn ids_of_rules_are_never_used_again() {
    let mut log = Log::new();
    assert_eq!(log.apply(&add(rule(1, "x", ELSEWHERE))), Ok(MetadataAnswer::TeeAdded { tee: TeeId(1) }));
    let removed = MetadataCommand::RemoveTee { topic: TopicId(1), tee: TeeId(1) };
    assert_eq!(log.apply(&removed), Ok(MetadataAnswer::TeeRemoved { tee: TeeId(1) }));
    assert_eq!(log.apply(&removed), Err(MetadataRefusal::TeeNotFound { tee: TeeId(1) }));
    assert_eq!(log.apply(&add(rule(1, "x", ELSEWHERE))), Ok(MetadataAnswer::TeeAdded { tee: TeeId(2) }));
    let of_another_topic = MetadataCommand::RemoveTee { topic: TopicId(2), tee: TeeId(2) };
    assert_eq!(log.apply(&of_another_topic), Err(MetadataRefusal::TeeNotFound { tee: TeeId(2) }));
}

#[test]
fn a_rule_to_the_same_place_and_one_that_cannot_be_meant_are_refused() {
    let mut log = Log::new();
    log.apply(&add(rule(1, "x", ELSEWHERE))).unwrap();
    assert_eq!(log.apply(&add(rule(1, "x", ELSEWHERE))), Err(MetadataRefusal::TeeExists { tee: TeeId(1) }));
    log.apply(&add(rule(1, "x", ELSEWHERE + 1))).unwrap();
    assert_eq!(log.apply(&add(rule(9, "x", ELSEWHERE))), Err(MetadataRefusal::TopicNotFound { topic: TopicId(9) }));
    let mut addresses = vec![vec![], vec!["a:1".to_owned(); 17]];
    addresses.extend(["a", "a:", ":1", "a:0", "a:70000", "a b:1"].map(|address| vec![address.to_owned()]));
    for addresses in addresses {
        let mut bad = rule(1, "y", ELSEWHERE);
        bad.target.addresses = addresses;
        assert!(matches!(log.apply(&add(bad.clone())), Err(MetadataRefusal::InvalidTee { .. })), "{bad:?}");
    }
    for topic in ["", ".", "a/b", "__groups"] {
        let refused = log.apply(&add(rule(1, topic, ELSEWHERE)));
        assert!(matches!(refused, Err(MetadataRefusal::InvalidTee { .. })), "{topic}");
    }
}

#[test]
fn rules_of_one_cluster_close_no_circle() {
    let mut log = Log::new();
    let through = |log: &mut Log, topic, to| match log.apply(&add(rule(topic, to, OWN))) {
        Err(MetadataRefusal::TeeCycle { through, .. }) => through.join(" "),
        other => panic!("{other:?}"),
    };
    assert_eq!(through(&mut log, 1, "a"), "a");
    log.apply(&add(rule(1, "b", OWN))).unwrap();
    log.apply(&add(rule(2, "c", OWN))).unwrap();
    log.apply(&add(rule(1, "c", OWN))).unwrap();
    assert_eq!(through(&mut log, 3, "a"), "a c");
    assert_eq!(through(&mut log, 3, "b"), "b c");
    // A topic that does not exist yet is on the way all the same, and another cluster's "a" is another topic.
    log.apply(&add(rule(3, "d", OWN))).unwrap();
    log.apply(&create("d", 1, 1)).unwrap();
    assert_eq!(through(&mut log, 4, "a"), "a c d");
    log.apply(&add(rule(4, "a", ELSEWHERE))).unwrap();
}

#[test]
fn only_the_newest_claim_of_the_present_epoch_stores_checkpoints() {
    let mut log = Log::new();
    log.apply(&add(rule(1, "x", ELSEWHERE))).unwrap();
    let (given, current) = (LeaderEpoch(1), LeaderEpoch(0));
    assert_eq!(log.claim(1, 1), Err(TeeRefusal::NotLed { given, current }));
    log.lead(1, 1);
    assert_eq!(log.claim(1, 1), Ok(TeeProgress { claim: 1, checkpoint: None }));
    assert_eq!(log.advance(1, 1, 100), Ok(()));
    log.lead(1, 2);
    let (given, current) = (LeaderEpoch(1), LeaderEpoch(2));
    assert_eq!(log.claim(1, 1), Err(TeeRefusal::NotLed { given, current }));
    // A leader that does not know of its end goes on storing until the next one begins.
    assert_eq!(log.advance(1, 1, 200), Ok(()));
    assert_eq!(log.claim(1, 2), Ok(TeeProgress { claim: 2, checkpoint: Some(checkpoint(200)) }));
    assert_eq!(log.advance(1, 1, 300), Err(TeeRefusal::StaleClaim { given: 1, current: 2 }));
    // The same leader after a restart of its own: what it stored under the claim before is void too.
    assert_eq!(log.claim(1, 2).map(|progress| progress.claim), Ok(3));
    assert_eq!(log.advance(1, 2, 300), Err(TeeRefusal::StaleClaim { given: 2, current: 3 }));
    assert_eq!(log.advance(1, 3, 300), Ok(()));
    assert_eq!(log.advance(2, 3, 300), Err(TeeRefusal::NotFound));
    assert_eq!(log.claim(2, 2), Err(TeeRefusal::NotFound));
}

#[test]
fn rules_and_checkpoints_go_with_their_topic() {
    let mut log = Log::new();
    log.apply(&add(rule(1, "x", ELSEWHERE))).unwrap();
    log.apply(&add(rule(2, "x", ELSEWHERE))).unwrap();
    log.lead(1, 1);
    log.claim(1, 1).unwrap();
    log.apply(&MetadataCommand::DeleteTopic { topic: TopicId(1), deleted_at_secs: 1 }).unwrap();
    assert_eq!(log.0.tees().map(|(tee, _)| tee).collect::<Vec<_>>(), [TeeId(2)]);
    assert_eq!(log.0.tee_progress(TeeId(1), 0), None);
    assert_eq!(log.advance(1, 1, 100), Err(TeeRefusal::NotFound));
}

#[test]
fn a_recovery_that_gives_records_up_takes_checkpoints_back() {
    let mut log = Log::new();
    log.apply(&add(rule(1, "x", ELSEWHERE))).unwrap();
    log.lead(1, 1);
    log.claim(1, 1).unwrap();
    log.advance(1, 1, 100).unwrap();
    let partition = TopicPartition::new(TopicId(1), 0);
    let mut epoch = LeaderEpoch(1);
    for (lost_from, expected) in [
        (100, checkpoint(100)),
        (60, TeeCheckpoint { producer: None, ..checkpoint(60) }),
        (80, TeeCheckpoint { producer: None, ..checkpoint(60) }),
    ] {
        epoch.0 += 1;
        log.apply(&MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition, epoch }] }).unwrap();
        log.apply(&MetadataCommand::RecoverPartition(PartitionRecovery {
            partition,
            epoch,
            node: NodeId(1),
            incarnation: ReplicaIncarnation { node: 10, copy_version: 0, damage_count: epoch.0 },
            accept_data_loss: true,
            requested_by: "me".to_owned(),
            recovered_at_secs: 1,
            lost_from,
            lost_to: 200,
        }))
        .unwrap();
        assert_eq!(log.0.tee_progress(TeeId(1), 0).unwrap().checkpoint, Some(expected));
    }
}

#[test]
fn changes_of_rules_are_news_and_checkpoints_are_none() {
    let mut log = Log::new();
    log.lead(1, 1);
    let mut events = |command: &MetadataCommand| {
        log.1 += 1;
        log.0.apply(log.1, command).events
    };
    let changed = vec![MetadataEvent::TeesChanged { topic: TopicId(1) }];
    assert_eq!(events(&add(rule(1, "x", ELSEWHERE))), changed);
    let claim = TeeClaim { tee: TeeId(1), partition: 0, epoch: LeaderEpoch(1) };
    assert_eq!(events(&MetadataCommand::ClaimTees { claims: vec![claim] }), []);
    let advance = TeeAdvance { tee: TeeId(1), partition: 0, claim: 1, checkpoint: checkpoint(1) };
    assert_eq!(events(&MetadataCommand::AdvanceTees { advances: vec![advance] }), []);
    assert_eq!(events(&MetadataCommand::RemoveTee { topic: TopicId(1), tee: TeeId(1) }), changed);
}
