//! `RepairCore`: when a replica that was found damaged is cut back and refilled.
//!
//! From its cut until it is refilled a replica is unclean: it does not vote. So it is cut only while another node leads and
//! the others that count and live make up a quorum without it, or are all there are. Until then it stays as it is, and what
//! it still can read counts. A damaged leader hands its role to another node, which serves its readers and feeds followers
//! meanwhile; while it leads it may be the only one that holds what lies above the damage, and is never cut.
//!
//! The metadata learns late that a replica was cut: others that were damaged too wait until it has stayed the same for a
//! while, each for another one. One that was found damaged when it was opened takes part in nothing; it is cut once another
//! node was chosen to lead, which shows that what is committed is elsewhere, or once it was chosen itself: it gave no answer
//! that elects it, so an operator did, who accepted the loss.

use lance_cluster::replica::quorum::quorum_size;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use std::collections::BTreeMap;
use std::time::Duration;

/// For this long, times its place, who counts must have stayed the same before a replica is cut.
const STEP: Duration = Duration::from_secs(5);
/// Another node is asked to lead again after this, and a cut that came to nothing is repeated.
const RETRY: Duration = Duration::from_secs(15);
/// The longest pause between two hand-overs is [`RETRY`] doubled so many times.
const MAX_DOUBLINGS: u32 = 5;

/// How a partition stands of which this node holds a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Whether this node leads it, in this start of its process; `None` while no living node is known to.
    pub leads: Option<bool>,
    /// How many nodes hold a copy, at least 2.
    pub copies: usize,
    /// The place of this node among them, from 0.
    pub place: usize,
    /// The others that are admitted, in the in-quorum set, and alive.
    pub counting: Vec<NodeId>,
    /// Those of them that can lead.
    pub successors: Vec<NodeId>,
}

impl Standing {
    /// How many others have to count before this copy may be given up: a quorum, or all there are.
    pub fn needed(&self) -> usize {
        quorum_size(self.copies).min(self.copies.saturating_sub(1))
    }

    fn is_spare(&self) -> bool {
        self.counting.len() >= self.needed()
    }

    /// How long the same others must have counted.
    fn pause(&self) -> Duration {
        STEP.saturating_mul(u32::try_from(self.place).unwrap_or(u32::MAX).saturating_add(1))
    }
}

/// What is to be done about a damaged replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairEffect {
    /// Cut it back to this position and refill it.
    Cut(TopicPartition, u64),
    /// Hand the leadership of this epoch to a node.
    HandOver(TopicPartition, LeaderEpoch, NodeId),
    /// Say that it stays as it is: too few others count.
    Waits(TopicPartition, u64, Standing),
}

#[derive(Clone, Debug, Default)]
struct Damaged {
    good_end: u64,
    /// It takes part in nothing: nothing is lost by its cut.
    is_unusable: bool,
    seen: Option<Standing>,
    /// Since when these others count; who leads may go to and fro while roles are balanced.
    counting_since: Duration,
    /// Since when another node leads, or none does, or this one.
    leads_since: Duration,
    /// Since when another node was chosen to lead, also where none does by now, and this one was not since.
    elsewhere_since: Option<Duration>,
    /// This node was seen not to lead since the damage was found.
    was_not_leading: bool,
    cut_at: Option<Duration>,
    handed_over_at: Option<Duration>,
    hand_overs: u32,
    /// That it waits was said.
    waits: bool,
}

/// The damaged replicas of a node; one entry a partition.
#[derive(Debug, Default)]
pub struct RepairCore {
    damaged: BTreeMap<TopicPartition, Damaged>,
}

impl RepairCore {
    /// A replica that takes part was found damaged from `good_end` on.
    pub fn on_found(&mut self, partition: TopicPartition, good_end: u64) {
        let fresh = || Damaged { good_end, ..Damaged::default() };
        let damaged = self.damaged.entry(partition).or_insert_with(fresh);
        damaged.good_end = damaged.good_end.min(good_end);
    }

    /// A replica was found damaged when it was opened, and takes part in nothing.
    pub fn on_unusable(&mut self, partition: TopicPartition, good_end: u64) {
        self.on_found(partition, good_end);
        if let Some(damaged) = self.damaged.get_mut(&partition) {
            (damaged.is_unusable, damaged.cut_at) = (true, None);
            (damaged.elsewhere_since, damaged.was_not_leading) = (None, false);
        }
    }

    /// The log ends here now, for whatever reason.
    pub fn on_cut(&mut self, partition: TopicPartition, end: u64) {
        if self.damaged.get(&partition).is_some_and(|damaged| damaged.good_end >= end) {
            self.damaged.remove(&partition);
        }
    }

    /// Partitions that are not held here any more.
    pub fn on_gone(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.damaged.remove(partition);
        }
    }

    /// Whether no replica is known to be damaged.
    pub fn is_idle(&self) -> bool {
        self.damaged.is_empty()
    }

    /// How many replicas are damaged and not cut yet because too few others count.
    pub fn waiting_count(&self) -> usize {
        self.damaged.values().filter(|damaged| damaged.waits).count()
    }

    /// Looks after every damaged replica; `look` tells how a partition stands by committed metadata, nothing where this
    /// node holds none of several copies.
    pub fn on_tick(
        &mut self,
        now: Duration,
        look: impl Fn(TopicPartition) -> Option<Standing>,
        effects: &mut Vec<RepairEffect>,
    ) {
        for (partition, damaged) in &mut self.damaged {
            match look(*partition) {
                Some(standing) => damaged.look_after(*partition, standing, now, effects),
                // Nothing is known of it yet, or there are no other copies at present.
                None => (damaged.seen, damaged.waits) = (None, false),
            }
        }
    }
}

impl Damaged {
    fn look_after(
        &mut self,
        partition: TopicPartition,
        standing: Standing,
        now: Duration,
        effects: &mut Vec<RepairEffect>,
    ) {
        if self.seen.as_ref().is_none_or(|seen| seen.counting != standing.counting) {
            self.counting_since = now;
        }
        if self.seen.as_ref().is_none_or(|seen| seen.leads != standing.leads) {
            self.leads_since = now;
        }
        match standing.leads {
            Some(true) => self.elsewhere_since = None,
            Some(false) => _ = self.elsewhere_since.get_or_insert(now),
            None => {}
        }
        self.was_not_leading |= standing.leads != Some(true);
        let next = (self.hand_overs as usize).checked_rem(standing.successors.len());
        if let (Some(true), Some(to)) = (standing.leads, next.and_then(|next| standing.successors.get(next)).copied())
            && !self.is_unusable
            && self.is_hand_over_due(now)
        {
            (self.handed_over_at, self.hand_overs) = (Some(now), self.hand_overs.saturating_add(1));
            effects.push(RepairEffect::HandOver(partition, standing.epoch, to));
        }
        let is_led_long = now >= self.leads_since.saturating_add(STEP);
        let is_settled = is_led_long && now >= self.counting_since.saturating_add(standing.pause());
        let (may_be_cut, waits) = match self.is_unusable {
            true => {
                let is_elsewhere = self.elsewhere_since.is_some_and(|since| now >= since.saturating_add(STEP));
                let is_chosen = self.was_not_leading && standing.leads == Some(true);
                (is_elsewhere || is_chosen && is_led_long, self.elsewhere_since.is_none() && !is_chosen && is_led_long)
            }
            false => {
                let is_led_elsewhere = standing.leads == Some(false);
                (
                    is_led_elsewhere && standing.is_spare() && is_settled,
                    !standing.is_spare() || is_led_long && !is_led_elsewhere,
                )
            }
        };
        if may_be_cut {
            self.cut(partition, now, effects);
        }
        if waits && !self.waits {
            effects.push(RepairEffect::Waits(partition, self.good_end, standing.clone()));
        }
        self.waits = waits;
        self.seen = Some(standing);
    }

    /// Roles that come back are handed over again, less and less often.
    fn is_hand_over_due(&self, now: Duration) -> bool {
        let doublings = self.hand_overs.saturating_sub(1).min(MAX_DOUBLINGS);
        self.handed_over_at.is_none_or(|last| now >= last.saturating_add(RETRY.saturating_mul(1 << doublings)))
    }

    fn cut(&mut self, partition: TopicPartition, now: Duration, effects: &mut Vec<RepairEffect>) {
        if self.cut_at.is_none_or(|last| now >= last.saturating_add(RETRY)) {
            self.cut_at = Some(now);
            effects.push(RepairEffect::Cut(partition, self.good_end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
    const EPOCH: LeaderEpoch = LeaderEpoch(4);

    /// A copy of three at the first place, which another node leads.
    fn follower(counting: &[u16]) -> Standing {
        let counting: Vec<NodeId> = counting.iter().copied().map(NodeId).collect();
        let successors = counting.clone();
        Standing { epoch: EPOCH, leads: Some(false), copies: 3, place: 0, counting, successors }
    }

    fn leader(counting: &[u16]) -> Standing {
        Standing { leads: Some(true), ..follower(counting) }
    }

    fn look(core: &mut RepairCore, seconds: u64, standing: &Standing) -> Vec<RepairEffect> {
        let mut effects = Vec::new();
        core.on_tick(Duration::from_secs(seconds), |_| Some(standing.clone()), &mut effects);
        effects
    }

    fn handed_to(effects: &[RepairEffect]) -> Option<NodeId> {
        effects.iter().find_map(|effect| match effect {
            RepairEffect::HandOver(_, _, to) => Some(*to),
            _ => None,
        })
    }

    fn damaged() -> RepairCore {
        let mut core = RepairCore::default();
        core.on_found(PARTITION, 300);
        core
    }

    #[test]
    fn a_replica_is_cut_while_the_others_make_up_a_quorum_without_it() {
        let mut core = damaged();
        assert_eq!(look(&mut core, 1, &follower(&[2, 3])), []);
        assert_eq!(look(&mut core, 5, &follower(&[2, 3])), []);
        assert_eq!(look(&mut core, 6, &follower(&[2, 3])), [RepairEffect::Cut(PARTITION, 300)]);
        assert_eq!(core.waiting_count(), 0);
    }

    #[test]
    fn a_replica_that_the_others_need_stays_and_says_so_once() {
        let mut core = damaged();
        let alone = follower(&[2]);
        assert_eq!(look(&mut core, 1, &alone), [RepairEffect::Waits(PARTITION, 300, alone.clone())]);
        assert_eq!((look(&mut core, 1000, &alone), core.waiting_count()), (Vec::new(), 1));
        // Nobody else is left, then one, then both.
        assert_eq!(look(&mut core, 1001, &follower(&[])), []);
        assert_eq!(look(&mut core, 1002, &alone), []);
        assert_eq!(look(&mut core, 1003, &follower(&[2, 3])), []);
        assert_eq!(look(&mut core, 1008, &follower(&[2, 3])), [RepairEffect::Cut(PARTITION, 300)]);
    }

    #[test]
    fn two_damaged_replicas_are_cut_one_after_the_other() {
        let (mut first, mut second) = (damaged(), damaged());
        let of_second = |counting: &[u16]| Standing { place: 1, ..follower(counting) };
        assert_eq!(look(&mut first, 1, &follower(&[2, 3])), []);
        assert_eq!(look(&mut second, 1, &of_second(&[1, 3])), []);
        assert_eq!(look(&mut first, 6, &follower(&[2, 3])), [RepairEffect::Cut(PARTITION, 300)]);
        assert_eq!(look(&mut second, 6, &of_second(&[1, 3])), [], "the metadata does not know of it yet");
        let waits = look(&mut second, 8, &of_second(&[3]));
        assert_eq!(waits, [RepairEffect::Waits(PARTITION, 300, of_second(&[3]))]);
        assert_eq!(look(&mut second, 60, &of_second(&[3])), []);
        assert_eq!(look(&mut second, 61, &of_second(&[1, 3])), [], "the first is back");
        assert_eq!(look(&mut second, 71, &of_second(&[1, 3])), [RepairEffect::Cut(PARTITION, 300)]);
    }

    #[test]
    fn a_damaged_leader_hands_over_at_once_whether_it_may_be_cut_or_not() {
        for counting in [&[2][..], &[2, 3]] {
            let next = NodeId(*counting.last().unwrap());
            let mut core = damaged();
            let mut at = |seconds| handed_to(&look(&mut core, seconds, &leader(counting)));
            assert_eq!(at(1), Some(NodeId(2)));
            assert_eq!(at(15), None, "that may take a while");
            assert_eq!(at(16), Some(next), "the first may never hold everything");
            assert_eq!(at(45), None, "it came back twice");
            assert_eq!(at(46), Some(NodeId(2)));
            assert_eq!(core.waiting_count(), 1);
        }
    }

    #[test]
    fn a_leader_is_never_cut() {
        let alone = Standing { copies: 2, successors: Vec::new(), ..leader(&[2]) };
        for standing in [leader(&[2, 3]), alone] {
            let mut core = damaged();
            for seconds in 0..1000 {
                let effects = look(&mut core, seconds, &standing);
                assert!(!effects.iter().any(|effect| matches!(effect, RepairEffect::Cut(..))), "{effects:?}");
            }
        }
    }

    #[test]
    fn nobody_is_cut_without_a_leader_and_a_new_one_begins_the_wait_anew() {
        let mut core = damaged();
        look(&mut core, 0, &follower(&[2, 3]));
        let next = Standing { epoch: LeaderEpoch(5), leads: None, ..follower(&[2, 3]) };
        assert_eq!(look(&mut core, 4, &next), []);
        assert_eq!(look(&mut core, 100, &next), [RepairEffect::Waits(PARTITION, 300, next.clone())]);
        let led = Standing { leads: Some(false), ..next };
        assert_eq!(look(&mut core, 101, &led), []);
        assert_eq!(look(&mut core, 106, &led), [RepairEffect::Cut(PARTITION, 300)]);
    }

    #[test]
    fn of_two_copies_one_may_be_cut_while_the_other_counts() {
        let pair = |counting| Standing { copies: 2, ..follower(counting) };
        let mut core = damaged();
        look(&mut core, 0, &pair(&[2]));
        assert_eq!(look(&mut core, 5, &pair(&[2])), [RepairEffect::Cut(PARTITION, 300)]);
        let mut core = damaged();
        look(&mut core, 0, &pair(&[]));
        assert_eq!(look(&mut core, 5, &pair(&[])), []);
    }

    #[test]
    fn what_takes_part_in_nothing_is_cut_once_another_node_leads_and_again_until_it_was() {
        let mut core = RepairCore::default();
        core.on_unusable(PARTITION, 300);
        let unled = Standing { leads: None, ..follower(&[2, 3]) };
        assert_eq!(look(&mut core, 1, &unled), []);
        assert_eq!((core.waiting_count(), look(&mut core, 6, &unled).len(), core.waiting_count()), (0, 1, 1));
        assert_eq!(look(&mut core, 600, &unled), [], "all copies may be damaged");
        let cut = [RepairEffect::Cut(PARTITION, 300)];
        assert_eq!(look(&mut core, 601, &follower(&[2])), []);
        assert_eq!(look(&mut core, 606, &follower(&[2])), cut);
        assert_eq!(look(&mut core, 607, &follower(&[2])), []);
        assert_eq!(look(&mut core, 621, &follower(&[2])), cut);
        core.on_cut(PARTITION, 300);
        assert!(core.is_idle());
    }

    #[test]
    fn of_two_unusable_copies_none_is_cut_and_of_one_the_other_is_chosen_again_and_again() {
        let mut core = RepairCore::default();
        core.on_unusable(PARTITION, 300);
        let pair = Standing { copies: 2, ..follower(&[2]) };
        let unled = Standing { leads: None, ..pair.clone() };
        (0..100)
            .for_each(|second| assert!(!look(&mut core, second, &unled).contains(&RepairEffect::Cut(PARTITION, 300))));
        assert_eq!(look(&mut core, 100, &pair), []);
        (101..105).for_each(|second| assert_eq!(look(&mut core, second, &unled), [], "its epoch cannot begin"));
        assert_eq!(look(&mut core, 105, &unled), [RepairEffect::Cut(PARTITION, 300)]);
    }

    #[test]
    fn an_unusable_copy_that_an_operator_chose_is_cut() {
        let mut core = RepairCore::default();
        core.on_unusable(PARTITION, 300);
        let led = leader(&[2, 3]);
        (0..50).for_each(|second| assert!(!look(&mut core, second, &led).contains(&RepairEffect::Cut(PARTITION, 300))));
        let unled = Standing { leads: None, ..led.clone() };
        look(&mut core, 50, &unled);
        assert_eq!(look(&mut core, 51, &led), []);
        assert_eq!(look(&mut core, 56, &led), [RepairEffect::Cut(PARTITION, 300)]);
    }

    #[test]
    fn the_lowest_damage_counts_and_is_forgotten_once_it_was_cut_away() {
        let mut core = damaged();
        core.on_found(PARTITION, 900);
        core.on_found(PARTITION, 200);
        core.on_cut(PARTITION, 250);
        look(&mut core, 0, &follower(&[2, 3]));
        assert_eq!(look(&mut core, 5, &follower(&[2, 3])), [RepairEffect::Cut(PARTITION, 200)]);
        core.on_cut(PARTITION, 100);
        assert!(core.is_idle());
        let mut core = damaged();
        core.on_gone(&[PARTITION]);
        assert!(core.is_idle());
    }
}
