//! The log of committed offsets: compacted as it rolls.

use crate::support::{Rig, eventually, with_node};
use futures_util::future::join_all;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};

const READ: TopicPartition = TopicPartition::new(TopicId(1), 0);
const CONSUMERS: u64 = 500;

/// Every consumer commits once.
async fn commit_all(rig: &Rig, offset: u64) {
    let commit = |consumer_id| rig.node.group.send(CommitOffset { partition: READ, consumer_id, offset });
    for answer in join_all((0..CONSUMERS).map(commit)).await {
        answer.unwrap().unwrap();
    }
}

async fn expect_all(rig: &Rig, offset: u64) {
    let ask = |consumer_id| rig.node.group.send(CommittedOffset { partition: READ, consumer_id });
    for answer in join_all((0..CONSUMERS).map(ask)).await {
        assert_eq!(answer.unwrap(), Ok(Some(offset)));
    }
}

#[test]
fn the_log_of_offsets_begins_at_a_snapshot_once_it_has_rolled() {
    with_node(
        |config| {
            config.admin.fault_injection = true;
            // Too little for the log: it is read back from its segments.
            config.storage.tail_ring_bytes = 64 * 1024;
        },
        async |rig| {
            commit_all(&rig, 1).await;
            let topic = rig.node.view.load().internal_topic("__groups").unwrap();
            let log = TopicPartition::new(topic, 0);
            let mut offset = 1;
            // Commits go on meanwhile: none is lost to a snapshot.
            while rig.status(log).await.unwrap().log_start == 0 {
                offset += 1;
                commit_all(&rig, offset).await;
                assert!(offset < 500, "it never becomes smaller");
            }
            commit_all(&rig, offset + 1).await;
            expect_all(&rig, offset + 1).await;
            let restarts = || rig.node.group.vitals().restarts();
            assert_eq!(rig.post("/v1/actors/group/panic", "").await.status, 202);
            eventually("the offsets are read again", async || restarts() > 0).await;
            expect_all(&rig, offset + 1).await;
            eventually("old segments are gone", async || rig.files(log, ".lnc").len() <= 3).await;
        },
    );
}
