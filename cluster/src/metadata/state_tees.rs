//! Tee rules: added, removed, and how far each of their partitions is.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::name::is_valid_topic_name;
use super::state::{MAX_ADDRESS_BYTES, MetadataState, Outcome};
use super::tee::{MAX_TEE_ADDRESSES, MAX_TEE_PLACES, MAX_TEES, TeeAdvance, TeeClaim, TeeProgress, TeeRefusal, TeeRule};
use lance_messages::id::{TeeId, TopicId, TopicPartition};
use std::collections::BTreeSet;

impl MetadataState {
    pub(super) fn add_tee(&mut self, rule: &TeeRule, own_cluster: u64, events: &mut Vec<MetadataEvent>) -> Outcome {
        let topic = rule.topic;
        let name = &self.topics.get(&topic).ok_or(MetadataRefusal::TopicNotFound { topic })?.name;
        check_target(rule)?;
        let place = |rule: &TeeRule| (rule.topic, rule.target.cluster, rule.target.topic.clone());
        let is_same = |known: &TeeRule| place(known) == place(rule);
        if let Some((tee, _)) = self.tees.iter().find(|(_, known)| is_same(known)) {
            return Err(MetadataRefusal::TeeExists { tee: *tee });
        }
        if rule.target.cluster == own_cluster
            && let Some(through) = self.way_between(&rule.target.topic, name, own_cluster)
        {
            return Err(MetadataRefusal::TeeCycle { topic: name.clone(), through });
        }
        if self.tees.len() >= MAX_TEES {
            return Err(MetadataRefusal::TooManyTees { limit: MAX_TEES });
        }
        let tee = TeeId(self.next_tee_id);
        self.next_tee_id =
            self.next_tee_id.checked_add(1).ok_or(MetadataRefusal::IdsExhausted { what: "tee rule id" })?;
        self.tees.insert(tee, rule.clone());
        events.push(MetadataEvent::TeesChanged { topic });
        Ok(MetadataAnswer::TeeAdded { tee })
    }

    pub(super) fn remove_tee(&mut self, topic: TopicId, tee: TeeId, events: &mut Vec<MetadataEvent>) -> Outcome {
        if self.tees.get(&tee).is_none_or(|rule| rule.topic != topic) {
            return Err(MetadataRefusal::TeeNotFound { tee });
        }
        self.forget_tee(tee);
        events.push(MetadataEvent::TeesChanged { topic });
        Ok(MetadataAnswer::TeeRemoved { tee })
    }

    /// The rules of a topic go with it.
    pub(super) fn forget_tees_of(&mut self, topic: TopicId) {
        let of_topic = self.tees.iter().filter(|(_, rule)| rule.topic == topic).map(|(tee, _)| *tee);
        for tee in of_topic.collect::<Vec<_>>() {
            self.forget_tee(tee);
        }
    }

    fn forget_tee(&mut self, tee: TeeId) {
        self.tees.remove(&tee);
        self.tee_progress.retain(|(of, _), _| *of != tee);
    }

    /// A partition goes on from an earlier place: what was forwarded beyond it is no longer what is there. Other batches
    /// take those positions, so they come from another producer.
    pub(super) fn rewind_tees(&mut self, partition: TopicPartition, position: u64) {
        let tees: Vec<TeeId> = self.tees_of(partition.topic).map(|(tee, _)| tee).collect();
        for tee in tees {
            let progress = self.tee_progress.get_mut(&(tee, partition.partition));
            if let Some(checkpoint) = progress.and_then(|progress| progress.checkpoint.as_mut())
                && checkpoint.position > position
            {
                checkpoint.position = position;
                checkpoint.producer = None;
            }
        }
    }

    pub(super) fn claim_tees(&mut self, claims: &[TeeClaim]) -> MetadataAnswer {
        MetadataAnswer::TeesClaimed { claimed: claims.iter().map(|claim| self.claim_tee(claim)).collect() }
    }

    fn claim_tee(&mut self, &TeeClaim { tee, partition, epoch }: &TeeClaim) -> Result<TeeProgress, TeeRefusal> {
        let topic = self.tees.get(&tee).ok_or(TeeRefusal::NotFound)?.topic;
        let decided = self.partition(TopicPartition::new(topic, partition)).ok_or(TeeRefusal::NotFound)?;
        if decided.epoch != epoch || decided.leader.is_none() {
            return Err(TeeRefusal::NotLed { given: epoch, current: decided.epoch });
        }
        let places = self.tee_progress.len();
        let place = (tee, partition);
        if places >= MAX_TEE_PLACES && !self.tee_progress.contains_key(&place) {
            return Err(TeeRefusal::TooMany);
        }
        let progress = self.tee_progress.entry(place).or_default();
        progress.claim += 1;
        Ok(*progress)
    }

    pub(super) fn advance_tees(&mut self, advances: &[TeeAdvance]) -> MetadataAnswer {
        MetadataAnswer::TeesAdvanced { advanced: advances.iter().map(|advance| self.advance_tee(advance)).collect() }
    }

    fn advance_tee(&mut self, advance: &TeeAdvance) -> Result<(), TeeRefusal> {
        let &TeeAdvance { tee, partition, claim, checkpoint } = advance;
        let progress = self.tee_progress.get_mut(&(tee, partition)).ok_or(TeeRefusal::NotFound)?;
        if progress.claim != claim {
            return Err(TeeRefusal::StaleClaim { given: claim, current: progress.claim });
        }
        progress.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Every rule, in the order of their ids.
    pub fn tees(&self) -> impl Iterator<Item = (TeeId, &TeeRule)> {
        self.tees.iter().map(|(tee, rule)| (*tee, rule))
    }

    /// The rules of a topic.
    pub fn tees_of(&self, topic: TopicId) -> impl Iterator<Item = (TeeId, &TeeRule)> {
        self.tees().filter(move |(_, rule)| rule.topic == topic)
    }

    /// How far a rule is with a partition; `None` before its first claim.
    pub fn tee_progress(&self, tee: TeeId, partition: u16) -> Option<&TeeProgress> {
        self.tee_progress.get(&(tee, partition))
    }

    /// The id the next rule gets.
    pub fn next_tee_id(&self) -> TeeId {
        TeeId(self.next_tee_id)
    }

    /// The topics by which the rules of this cluster lead from one of its topics to another, itself included.
    fn way_between(&self, from: &str, to: &str, own_cluster: u64) -> Option<Vec<String>> {
        let (mut seen, mut ways) = (BTreeSet::new(), vec![vec![from.to_owned()]]);
        while let Some(way) = ways.pop() {
            let Some(last) = way.last().filter(|last| seen.insert((*last).clone())) else { continue };
            if last == to {
                return Some(way);
            }
            let next = self.topic_id(last).into_iter().flat_map(|topic| self.tees_of(topic));
            let next = next.filter(|(_, rule)| rule.target.cluster == own_cluster);
            let longer = next.map(|(_, rule)| way.iter().chain([&rule.target.topic]).cloned().collect());
            ways.extend(longer.collect::<Vec<_>>());
        }
        None
    }

    /// What no sequence of commands can have made of the rules.
    pub(super) fn tee_contradiction(&self) -> Option<&'static str> {
        if self.tees.keys().any(|tee| tee.0 == 0 || tee.0 >= self.next_tee_id) {
            return Some("a tee rule's id was never allocated");
        }
        if self.tees.values().any(|rule| !self.topics.contains_key(&rule.topic)) {
            return Some("a tee rule is one of a topic that does not exist");
        }
        self.tee_progress
            .keys()
            .any(|(tee, _)| !self.tees.contains_key(tee))
            .then_some("a tee has progress and no rule")
    }
}

fn check_target(rule: &TeeRule) -> Result<(), MetadataRefusal> {
    let invalid = |what| Err(MetadataRefusal::InvalidTee { what });
    let target = &rule.target;
    if !(1..=MAX_TEE_ADDRESSES).contains(&target.addresses.len()) {
        return invalid("number of addresses: 1 to 16");
    }
    if target.addresses.iter().any(|address| !is_address(address)) {
        return invalid("address: host:port, at most 255 bytes");
    }
    if !is_valid_topic_name(&target.topic) || target.topic.starts_with("__") {
        return invalid("target topic: 1 to 255 of A-Z a-z 0-9 . _ - and no name that starts with __");
    }
    Ok(())
}

/// Whether a text may be host:port.
fn is_address(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    let valid = parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    valid && address.len() <= MAX_ADDRESS_BYTES && !address.contains(char::is_whitespace)
}
