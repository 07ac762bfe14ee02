//! For how long a leader may take it that nobody was put in its place: a partition gets another leader only once the
//! metadata leader has not heard the present one for its failure timeout.
//!
//! Nodes send each other heartbeats that say when they were sent, by the clock of who sends them, and answer those of
//! others. An answer proves something about the time its heartbeat was sent at and nothing about the time it arrives at:
//! a node that was stopped for a while finds old ones.

use super::core::MetadataCore;
use lance_messages::peer::PeerIdentity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A node that the metadata leader has not heard for this long is dead, milliseconds.
pub const FAILURE_TIMEOUT_MS: u64 = 1000;

/// For how long after it was surely counted as alive nobody is put in the place of a node, by its own clock: so much less than a
/// failure takes to be noticed that clocks may run apart by a tenth.
pub const LEASE: Duration = Duration::from_millis(FAILURE_TIMEOUT_MS - FAILURE_TIMEOUT_MS / 10);

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// When the heartbeat was sent, as it says.
    pub sent_ms: u64,
    /// The metadata term of who answers.
    pub term: u64,
    /// Whether who answers leads the metadata.
    pub leads_metadata: bool,
    /// The metadata entry up to which who answers has applied all.
    pub applied: u64,
}

/// The state of who gets an answer.
#[derive(Clone, Copy, Debug)]
pub struct LeaseFacts<'a> {
    /// Its metadata term.
    pub term: u64,
    /// Whether it leads the metadata.
    pub leads_metadata: bool,
    /// The metadata entry up to which it has applied all.
    pub applied: u64,
    /// Its raft id.
    pub id: u64,
    /// The voters, and those of the configuration that is being left.
    pub voters: [&'a [u64]; 2],
}

/// What a node knows from the answers to its heartbeats.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Of this term, by raft id: when the latest heartbeat was sent that the peer answered.
    term: u64,
    answered: BTreeMap<u64, u64>,
}

impl Lease {
    /// An answer: the time, if any, at which the metadata leader certainly counted this node as alive, and had nothing
    /// decided that this node does not know.
    pub fn on_answer(&mut self, from: PeerIdentity, answer: &HeartbeatAnswer, own: LeaseFacts<'_>) -> Option<u64> {
        if self.term != own.term {
            (self.term, self.answered) = (own.term, BTreeMap::new());
        }
        if answer.term != own.term {
            return None;
        }
        let latest = self.answered.entry(from.incarnation).or_default();
        *latest = answer.sent_ms.max(*latest);
        if own.leads_metadata {
            return own.voters.iter().filter(|voters| !voters.is_empty()).map(|it| self.heard_by(it, own.id)).min()?;
        }
        (answer.leads_metadata && answer.applied <= own.applied).then_some(answer.sent_ms)
    }

    /// When a majority of the voters, this node being one of them, still followed it.
    fn heard_by(&self, voters: &[u64], own: u64) -> Option<u64> {
        let others = voters.iter().filter(|voter| **voter != own);
        let mut times: Vec<u64> = others.filter_map(|voter| self.answered.get(voter).copied()).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let needed = voters.len() / 2 + 1 - usize::from(voters.contains(&own));
        times.get(needed.checked_sub(1)?).copied()
    }
}

impl MetadataCore {
    /// The answer to a heartbeat that says it was sent then.
    pub fn answer_heartbeat(&self, sent_ms: u64) -> HeartbeatAnswer {
        let (term, leads_metadata) = (self.raft().term(), self.raft().is_leading());
        HeartbeatAnswer { sent_ms, term, leads_metadata, applied: self.state().applied_index() }
    }

    /// A peer answered a heartbeat of this node: from which time on nobody was put in the place of this node for as long
    /// as a failure takes to be noticed, if that is later than known before.
    pub fn on_heartbeat_answered(&mut self, from: PeerIdentity, answer: &HeartbeatAnswer) -> Option<u64> {
        let conf = self.raft().conf();
        let own = LeaseFacts {
            term: self.raft().term(),
            leads_metadata: self.raft().is_leading(),
            applied: self.state().applied_index(),
            id: self.raft().id(),
            voters: [&conf.voters, &conf.voters_outgoing],
        };
        self.lease.on_answer(from, answer, own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::NodeId;

    const VOTERS: [u64; 3] = [1, 2, 3];

    fn facts(term: u64, leads_metadata: bool, applied: u64) -> LeaseFacts<'static> {
        LeaseFacts { term, leads_metadata, applied, id: 1, voters: [&VOTERS, &[]] }
    }

    fn peer(incarnation: u64) -> PeerIdentity {
        PeerIdentity { node: NodeId(incarnation as u16), incarnation, boot_number: 1 }
    }

    fn answer(sent_ms: u64, term: u64, leads_metadata: bool, applied: u64) -> HeartbeatAnswer {
        HeartbeatAnswer { sent_ms, term, leads_metadata, applied }
    }

    #[test]
    fn the_metadata_leader_counts_from_when_it_was_asked_and_only_for_who_knows_all_it_knows() {
        let mut lease = Lease::default();
        assert_eq!(lease.on_answer(peer(2), &answer(100, 5, true, 10), facts(5, false, 10)), Some(100));
        assert_eq!(lease.on_answer(peer(2), &answer(200, 5, true, 11), facts(5, false, 10)), None);
        assert_eq!(lease.on_answer(peer(3), &answer(300, 5, false, 10), facts(5, false, 10)), None);
        assert_eq!(lease.on_answer(peer(2), &answer(400, 4, true, 10), facts(5, false, 10)), None, "a former leader");
        assert_eq!(lease.on_answer(peer(2), &answer(400, 6, true, 10), facts(5, false, 10)), None, "a later term");
    }

    #[test]
    fn a_metadata_leader_counts_from_when_a_majority_followed_it_in_its_term() {
        let mut lease = Lease::default();
        assert_eq!(lease.on_answer(peer(2), &answer(100, 5, false, 0), facts(5, true, 9)), Some(100));
        assert_eq!(lease.on_answer(peer(3), &answer(50, 5, false, 0), facts(5, true, 9)), Some(100));
        assert_eq!(lease.on_answer(peer(3), &answer(150, 5, false, 0), facts(5, true, 9)), Some(150));
        assert_eq!(lease.on_answer(peer(3), &answer(250, 6, false, 0), facts(5, true, 9)), None, "it follows another");
        assert_eq!(lease.on_answer(peer(9), &answer(250, 7, false, 0), facts(7, true, 9)), None, "no voter");
        assert_eq!(lease.on_answer(peer(3), &answer(260, 7, false, 0), facts(7, true, 9)), Some(260));
    }

    #[test]
    fn while_voters_change_both_majorities_are_needed() {
        let mut lease = Lease::default();
        let own = LeaseFacts { voters: [&VOTERS, &[1, 4, 5]], ..facts(5, true, 9) };
        assert_eq!(lease.on_answer(peer(2), &answer(100, 5, false, 0), own), None);
        assert_eq!(lease.on_answer(peer(4), &answer(80, 5, false, 0), own), Some(80));
    }
}
