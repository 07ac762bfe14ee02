//! Stages of an epoch: from its opening until it has a leader, what its replicas promise, and until that leader serves. Every
//! node derives the ids of an epoch's trace from what all of them know of it, so that nothing need be sent for that.

use super::{Stage, StageSpan};
use hashbrown::HashMap;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::wire::TraceContext;
use std::time::Duration;

/// So many epochs are followed at once: a start of a cluster opens thousands, and their spans would push out all others.
const MOST: usize = 128;
/// What has gone on for so long makes room.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an epoch was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochCause {
    /// The partition is new.
    Created,
    /// The leader is not heard any more.
    LeaderGone,
    /// It was asked for: the leader started again, found damage, or hands over.
    Requested,
}

/// What a replica said when it was asked to promise an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromiseKind {
    /// It acks nothing below the epoch, and holds everything up to its end.
    Clean,
    /// It may have lost what it confirmed, and does not count.
    Unclean,
    /// It has promised a higher one.
    Refused,
}

/// The context of the span that an epoch's trace begins with.
pub fn epoch_context(cluster_id: u64, partition: TopicPartition, epoch: LeaderEpoch) -> TraceContext {
    let number = u64::from(partition.topic.0) << 32 | u64::from(epoch.0);
    TraceContext::root(cluster_id ^ u64::from(partition.partition).rotate_right(16), number)
}

/// A stage of an epoch that began at `started` and is over now.
pub fn epoch_stage(
    cluster_id: u64,
    partition: TopicPartition,
    epoch: LeaderEpoch,
    stage: Stage,
    started: Duration,
) -> StageSpan {
    let context = epoch_context(cluster_id, partition, epoch);
    let below = StageSpan::until_now(context, stage, partition, started);
    match stage {
        Stage::Election { .. } => {
            let parent = TraceContext { span_id: [0; 8], ..context };
            StageSpan { parent, span_id: Some(context.span_id), ..below }
        }
        _ => below,
    }
}

/// The election of the metadata's leader, which is a trace of its own.
pub fn term_stage(cluster_id: u64, term: u64, leader: NodeId, started: Duration) -> StageSpan {
    let context = TraceContext::root(!cluster_id, term);
    let parent = TraceContext { span_id: [0; 8], ..context };
    let stage = Stage::MetadataElection { term, leader };
    StageSpan { parent, span_id: Some(context.span_id), stage, partition: None, started, ended: None, error: None }
}

/// What has begun for some epochs and is not over.
#[derive(Debug)]
pub struct BegunEpochs<T>(HashMap<TopicPartition, (LeaderEpoch, Duration, T)>);

impl<T> Default for BegunEpochs<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy> BegunEpochs<T> {
    /// It begins; what went on for an earlier epoch of the partition is forgotten.
    pub fn begin(&mut self, partition: TopicPartition, epoch: LeaderEpoch, now: Duration, what: T) {
        if self.0.len() >= MOST && !self.0.contains_key(&partition) {
            self.0.retain(|_, (_, began, _)| now < began.saturating_add(PATIENCE));
            if self.0.len() >= MOST {
                return;
            }
        }
        let begun = self.0.entry(partition).or_insert((epoch, now, what));
        // Asked again, it goes on.
        if begun.0 < epoch {
            *begun = (epoch, now, what);
        }
    }

    /// It is over, in this epoch or in whichever it was: that epoch, when it began, and what was said of it then.
    pub fn end(&mut self, partition: TopicPartition, epoch: Option<LeaderEpoch>) -> Option<(LeaderEpoch, Duration, T)> {
        self.0.get(&partition).filter(|begun| epoch.is_none_or(|epoch| begun.0 == epoch))?;
        self.0.remove(&partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const ID: u64 = 77;
    const PARTITION: TopicPartition = TopicPartition::new(TopicId(3), 1);
    const AT: Duration = Duration::from_secs(1);

    #[test]
    fn every_node_derives_the_same_trace_of_an_epoch_and_no_two_epochs_share_one() {
        let context = epoch_context(ID, PARTITION, LeaderEpoch(2));
        assert_eq!(context, epoch_context(ID, PARTITION, LeaderEpoch(2)));
        let others = [
            epoch_context(ID + 1, PARTITION, LeaderEpoch(2)),
            epoch_context(ID, PARTITION, LeaderEpoch(3)),
            epoch_context(ID, TopicPartition::new(TopicId(3), 2), LeaderEpoch(2)),
            epoch_context(ID, TopicPartition::new(TopicId(2), 1), LeaderEpoch(2)),
        ];
        assert!(others.iter().all(|other| other.trace_id != context.trace_id), "{others:?}");
    }

    #[test]
    fn an_election_is_the_root_and_promises_lie_below_it() {
        let context = epoch_context(ID, PARTITION, LeaderEpoch(2));
        let election =
            Stage::Election { epoch: LeaderEpoch(2), leader: NodeId(1), before: None, cause: EpochCause::Created };
        let root = epoch_stage(ID, PARTITION, LeaderEpoch(2), election, AT);
        assert_eq!((root.parent.span_id, root.span_id), ([0; 8], Some(context.span_id)));
        let promise = Stage::Promise { epoch: LeaderEpoch(2), kind: PromiseKind::Clean, durable_end: Some(9) };
        let below = epoch_stage(ID, PARTITION, LeaderEpoch(2), promise, AT);
        assert_eq!((below.parent, below.span_id), (context, None));
    }

    #[test]
    fn the_latest_epoch_of_a_partition_counts_and_is_told_once() {
        let mut begun = BegunEpochs::default();
        begun.begin(PARTITION, LeaderEpoch(1), AT, 'a');
        begun.begin(PARTITION, LeaderEpoch(2), AT * 2, 'b');
        begun.begin(PARTITION, LeaderEpoch(2), AT * 3, 'c');
        assert_eq!(begun.end(PARTITION, Some(LeaderEpoch(1))), None);
        assert_eq!(begun.end(PARTITION, Some(LeaderEpoch(2))), Some((LeaderEpoch(2), AT * 2, 'b')));
        assert_eq!(begun.end(PARTITION, None), None);
    }

    #[test]
    fn a_crowd_is_not_followed_and_those_that_never_end_make_room() {
        let mut begun = BegunEpochs::default();
        let number = |number| TopicPartition::new(TopicId(1), number);
        (0..1000).for_each(|partition| begun.begin(number(partition), LeaderEpoch(1), AT, ()));
        let followed = (0..1000).filter(|partition| begun.0.contains_key(&number(*partition))).count();
        assert_eq!(followed, MOST);
        begun.begin(PARTITION, LeaderEpoch(1), AT + PATIENCE, ());
        assert_eq!(begun.end(PARTITION, None), Some((LeaderEpoch(1), AT + PATIENCE, ())));
    }
}
