//! Planned moves of a leadership, the lease of topics that ack alone, and which followers may come back.

use super::committing::{queue, release};
use super::{Effects, IngestionCore, IngestionEffect, Now};
use crate::ingestion::partition::{Leadership, Partition};
use crate::ingestion::replica::{LeaderSide, Move};
use lance_cluster::replica::{FollowerWindow, Vote};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};
use std::collections::BTreeMap;
use std::time::Duration;

/// A move whose target does not catch up by then is given up.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A follower that could count again, if the metadata agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The partition.
    pub partition: TopicPartition,
    /// The follower's node.
    pub node: NodeId,
    /// The life of its replica.
    pub incarnation: ReplicaIncarnation,
    /// The epoch it was fed in.
    pub epoch: LeaderEpoch,
    /// The version of the in-quorum set this was found against.
    pub in_quorum_version: u32,
    /// Its incarnation is not admitted, and it holds everything it has to for that.
    pub may_be_admitted: bool,
    /// It is evicted, and holds everything below the high watermark.
    pub may_rejoin: bool,
}

/// A follower that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The partition.
    pub partition: TopicPartition,
    /// The follower's node.
    pub node: NodeId,
    /// The epoch it is fed in.
    pub epoch: LeaderEpoch,
    /// The version of the in-quorum set that it is in.
    pub in_quorum_version: u32,
    /// How many nodes hold the partition.
    pub copies: usize,
}

impl IngestionCore {
    /// How the followers of partitions led here did since the last call, by node.
    pub fn take_windows(&mut self, now: Now) -> Vec<FollowerWindow> {
        let mut nodes: BTreeMap<NodeId, (Option<Duration>, u32, u32)> = BTreeMap::new();
        for leader in self.partitions.iter().flatten().filter_map(|partition| partition.leader.as_ref()) {
            for follower in &leader.followers {
                let (outstanding, in_quorum, evicted) = nodes.entry(follower.node).or_default();
                let counts = leader.role.votes.iter().any(|vote| vote.node == follower.node && vote.in_quorum);
                // A stopped log that nobody counts on says nothing about the others on its node.
                if counts || !follower.flow.is_refused() {
                    *outstanding = (*outstanding).max(follower.flow.outstanding(now.elapsed));
                }
                *(if counts { in_quorum } else { evicted }) += 1;
            }
        }
        let meters = &mut self.meters;
        let window = |(node, (outstanding, in_quorum, evicted)): (NodeId, (Option<Duration>, u32, u32))| {
            meters.entry(node).or_default().take_window(node, outstanding, in_quorum, evicted)
        };
        nodes.into_iter().map(window).collect()
    }

    /// Has followers that are idle answer too, so that the next window can be judged.
    pub fn measure_followers(&mut self) {
        for leader in self.partitions.iter_mut().flatten().filter_map(|partition| partition.leader.as_mut()) {
            leader.followers.iter_mut().for_each(|follower| follower.flow.request_measure());
        }
    }

    /// Only the followers on these nodes are not pushed what is appended, but sent it a little later and in larger pieces.
    pub fn demote_followers(&mut self, demoted: &[NodeId]) {
        for leader in self.partitions.iter_mut().flatten().filter_map(|partition| partition.leader.as_mut()) {
            for follower in &mut leader.followers {
                follower.flow.set_demoted(demoted.contains(&follower.node));
            }
        }
    }

    /// Followers of partitions led here that count.
    pub fn counted(&self) -> Vec<Counted> {
        self.counted_where(|_, _| true)
    }

    /// Those of them whose copy was cut for damage and lacks what it has to hold: the metadata cannot know it yet.
    pub fn refilling(&self) -> Vec<Counted> {
        self.counted_where(|leader, vote| {
            let follower = leader.followers.iter().find(|follower| follower.node == vote.node);
            follower.and_then(|follower| follower.incarnation).is_some_and(|incarnation| {
                let is_new = incarnation.node == vote.admitted.node && incarnation != vote.admitted;
                is_new && !leader.quorum.may_admit(vote.node, incarnation)
            })
        })
    }

    fn counted_where(&self, holds: impl Fn(&LeaderSide, &Vote) -> bool) -> Vec<Counted> {
        let led = self.partitions.iter().flatten().filter(|partition| partition.leading_epoch().is_some());
        let leaders = led.filter_map(|partition| partition.leader.as_ref());
        // One change at a time: an eviction could leave a proposed replica set without a quorum.
        let leaders = leaders.filter(|leader| !leader.quorum.is_change_pending());
        let counted = leaders.flat_map(|leader| {
            let role = &leader.role;
            let followers = role.votes.iter().filter(|vote| vote.in_quorum && vote.node != self.options.node);
            followers.filter(|vote| holds(leader, vote)).map(|vote| Counted {
                partition: role.partition,
                node: vote.node,
                epoch: role.epoch,
                in_quorum_version: role.in_quorum_version,
                copies: role.votes.len(),
            })
        });
        counted.collect()
    }

    /// The metadata moves a leadership away: nothing is appended from now on, and once the target holds everything that
    /// is reported.
    pub fn on_move(&mut self, id: TopicPartition, epoch: LeaderEpoch, to: NodeId, now: Now, effects: &mut Effects) {
        let Some(slot) = self.index.get(&id).copied() else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let leads = partition.leading_epoch() == Some(epoch);
        if let Some(leader) = partition.leader.as_mut().filter(|_| leads) {
            leader.moving = Some(Move { to, until: now.elapsed + MOVE_TIMEOUT, reported: false });
            queue(&mut self.dirty, partition, slot);
            report_move(partition, effects);
        }
    }

    /// Looks after moves that are under way; the shell calls this together with feeding the followers.
    pub fn check_moves(&mut self, now: Now, effects: &mut Effects) {
        for slot in 0..self.partitions.len() as u32 {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let Some(leader) = partition.leader.as_mut() else { continue };
            match leader.moving {
                None => {}
                Some(under_way) if under_way.until <= now.elapsed => {
                    leader.moving = None;
                    self.serve_ready(slot, now, effects);
                }
                Some(_) => report_move(partition, effects),
            }
        }
    }

    /// Nobody is put in the place of this node before then: a leader of a topic in mode L1 may ack without a quorum.
    pub fn on_lease(&mut self, until: Duration, now: Now, effects: &mut Effects) {
        self.lease_until = self.lease_until.max(until);
        self.check_lease(now, effects);
    }

    /// Looks whether the lease still holds.
    pub fn check_lease(&mut self, now: Now, effects: &mut Effects) {
        let holds = now.elapsed < self.lease_until;
        if std::mem::replace(&mut self.lease_holds, holds) == holds || !holds {
            return;
        }
        let terms = self.terms();
        for partition in self.partitions.iter_mut().flatten().filter(|partition| partition.leader.is_some()) {
            release(partition, terms, effects);
        }
    }

    /// Followers of partitions led here that do not count and could; also where the epoch has not begun for want of a quorum,
    /// since that may be waiting for just these.
    pub fn candidates(&self) -> Vec<Candidate> {
        let is_led = |partition: &&Partition| {
            matches!(partition.leadership, Leadership::Starting { .. } | Leadership::Leading { .. })
        };
        let led = self.partitions.iter().flatten().filter(is_led);
        let mut found = Vec::new();
        for partition in led {
            let Some(leader) = partition.leader.as_ref() else { continue };
            for vote in &leader.role.votes {
                let follower = leader.followers.iter().find(|follower| follower.node == vote.node);
                let Some(incarnation) = follower.and_then(|follower| follower.incarnation) else {
                    continue;
                };
                let admitted = vote.admitted == incarnation;
                let may_be_admitted = !admitted && leader.quorum.may_admit(vote.node, incarnation);
                let may_rejoin = admitted && !vote.in_quorum && leader.quorum.may_rejoin(vote.node);
                if may_be_admitted || may_rejoin {
                    found.push(Candidate {
                        partition: partition.id,
                        node: vote.node,
                        incarnation,
                        epoch: leader.role.epoch,
                        in_quorum_version: leader.role.in_quorum_version,
                        may_be_admitted,
                        may_rejoin,
                    });
                }
            }
        }
        found
    }
}

/// Reports a move once the target holds everything and nobody waits for an ack any more.
fn report_move(partition: &mut Partition, effects: &mut Effects) {
    let (Some(log), Some(leader)) = (partition.log.as_ref(), partition.leader.as_mut()) else {
        return;
    };
    let Some(under_way) = leader.moving.filter(|under_way| !under_way.reported) else {
        return;
    };
    let target = leader.followers.iter().find(|follower| follower.node == under_way.to);
    let holds_everything = target.is_some_and(|follower| follower.flow.acked() == Some(log.log_end()));
    let Leadership::Leading { epoch } = partition.leadership else {
        return;
    };
    if holds_everything && partition.pending.is_empty() {
        leader.moving = Some(Move { reported: true, ..under_way });
        effects.push(IngestionEffect::MoveReady(partition.id, epoch, under_way.to));
    }
}
