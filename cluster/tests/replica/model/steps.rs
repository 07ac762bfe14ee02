//! What can happen in a state, and what follows from it: the wiring of actors in small, around the real cores.

use super::state::{
    Ack, Batch, PARTITION, Role, Sent, State, Truncation, batches, epoch_before, history, incarnation, leader_epoch,
    node_id, position,
};
use super::{Bounds, Sabotage};
use lance_cluster::replica::{
    AppendDecision, DivergedAnswer, FollowerReplica, LeaderLog, LeaderReplica, LogFacts, Resolution, TruncateDecision,
    Vote, resolve,
};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader};
use lance_messages::id::{LeaderEpoch, NodeId};
use lance_messages::peer::{AppendRequest, BelowStart, LogPlace, ReplicaBatch, TruncateRequest};
use lance_messages::sort_key::SortKey;

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The leader of an epoch appends a record.
    Record { epoch: u8 },
    /// A node syncs its log.
    Flush { node: u8 },
    /// An append of the leader of an epoch arrives: one batch, or none, behind the first `prev`.
    Append { epoch: u8, to: u8, prev: u8, batch: bool },
    /// An ack arrives at the leader of an epoch.
    Ack { ack: Ack, epoch: u8 },
    /// The last truncation sent to a node arrives.
    Truncate { node: u8 },
    /// The next epoch is opened, and a node promises it.
    Open { node: u8 },
    /// A node promises the present epoch.
    Promise { node: u8 },
    /// The winner is chosen.
    Choose { node: u8 },
    /// The chosen one begins to lead.
    Lead,
    /// A node loses what is not synced and starts again.
    Crash { node: u8 },
    /// A node loses its disk.
    Wipe { node: u8 },
    /// The leader of an epoch wants a follower admitted, and it is.
    Admit { epoch: u8, node: u8 },
    /// The leader of an epoch is about to propose an eviction.
    ProposeEviction { epoch: u8, node: u8 },
    /// It was committed and the leader learns of it.
    Evicted { epoch: u8, node: u8 },
}

fn epochs(state: &State) -> impl Iterator<Item = u8> {
    1..=state.epoch
}

impl State {
    /// Everything that can happen, perhaps without consequence.
    pub fn actions(&self, bounds: &Bounds, sabotage: Option<Sabotage>, actions: &mut Vec<Action>) {
        for node in 0..bounds.replicas {
            let known = &self.nodes[usize::from(node)];
            if known.durable < known.log.len() {
                actions.push(Action::Flush { node });
            }
            if self.truncations[usize::from(node)].is_some() {
                actions.push(Action::Truncate { node });
            }
            // A start that loses nothing is one that nobody notices.
            let loses = known.durable < known.log.len() || known.high_watermark > 0;
            let matters =
                loses || !matches!(known.role, Role::Follower(_)) || self.chosen.is_some_and(|(n, _)| n == node);
            if self.crashes < bounds.crashes
                && node < bounds.failing
                && (matters || sabotage == Some(Sabotage::PromiseInMemory))
            {
                actions.push(Action::Crash { node });
            }
            if self.wipes < bounds.wipes && node < bounds.failing {
                actions.push(Action::Wipe { node });
            }
        }
        self.election_actions(bounds, sabotage, actions);
        for epoch in epochs(self) {
            self.actions_of_epoch(epoch, bounds, sabotage, actions);
        }
    }

    fn actions_of_epoch(&self, epoch: u8, bounds: &Bounds, sabotage: Option<Sabotage>, actions: &mut Vec<Action>) {
        let leader = self.leader_of(epoch);
        let sent = self.sent.iter().find(|sent| sent.epoch == epoch);
        let log = leader.map(|node| &self.nodes[usize::from(node)].log).or(sent.map(|sent| &sent.log));
        let Some(log) = log else {
            return;
        };
        for to in (0..bounds.replicas).filter(|to| Some(*to) != leader) {
            // An append of a node to itself never was.
            if self.led[usize::from(epoch) - 1] == Some(to) {
                continue;
            }
            // What lies behind the first difference is refused alike, what lies far before it confirms only less.
            let follower = &self.nodes[usize::from(to)].log;
            let same = log.iter().zip(follower.iter()).take_while(|(ours, theirs)| ours == theirs).count();
            let mut places = [same.saturating_sub(1), same, log.len()].map(|prev| (prev, prev < log.len()));
            places.sort_unstable();
            for (at, &(prev, batch)) in places.iter().enumerate() {
                if at == 0 || places[at - 1].0 != prev {
                    actions.push(Action::Append { epoch, to, prev: u8::try_from(prev).unwrap(), batch });
                }
            }
        }
        let Some(leader) = leader else {
            return;
        };
        if self.records < bounds.records {
            actions.push(Action::Record { epoch });
        }
        let counts = |ack: &&Ack| {
            ack.epoch == epoch || sabotage == Some(Sabotage::StaleAckCounts) && ack.epoch < epoch && ack.from != leader
        };
        actions.extend(self.acks.iter().filter(counts).map(|&ack| Action::Ack { ack, epoch }));
        let Role::Leader(core) = &self.nodes[usize::from(leader)].role else {
            return;
        };
        for node in (0..bounds.replicas).filter(|node| *node != leader) {
            if core.is_change_pending() {
                actions.extend((self.evicting == Some(node)).then_some(Action::Evicted { epoch, node }));
            } else if self.evictions < bounds.evictions && core.may_evict(node_id(node)) {
                actions.push(Action::ProposeEviction { epoch, node });
            }
            if bounds.wipes > 0 && self.may_admit(core, node, sabotage) && epoch == self.epoch {
                actions.push(Action::Admit { epoch, node });
            }
        }
    }

    fn may_admit(&self, core: &LeaderReplica, node: u8, sabotage: Option<Sabotage>) -> bool {
        let life = incarnation(node, self.nodes[usize::from(node)].damage);
        if sabotage != Some(Sabotage::AdmitAtHighWatermark) {
            return core.may_admit(node_id(node), life);
        }
        let known = core.followers().find(|follower| follower.node == node_id(node));
        known.is_some_and(|known| {
            known.admitted != life && known.incarnation == life && known.durable_end >= Some(core.high_watermark())
        })
    }

    /// Does it; an error is a rule that did not hold.
    pub fn act(&mut self, action: Action, sabotage: Option<Sabotage>) -> Result<(), String> {
        self.act_on(action, sabotage)?;
        if self.syncs_at_once {
            for node in 0..u8::try_from(self.nodes.len()).unwrap() {
                self.flush(node, sabotage)?;
            }
        }
        self.forget();
        if sabotage != Some(Sabotage::StaleAckCounts) {
            self.forget_acks();
        }
        Ok(())
    }

    fn act_on(&mut self, action: Action, sabotage: Option<Sabotage>) -> Result<(), String> {
        match action {
            Action::Record { epoch } => self.record(epoch, sabotage),
            Action::Flush { node } => self.flush(node, sabotage),
            Action::Append { epoch, to, prev, batch } => self.append(epoch, to, usize::from(prev), batch, sabotage),
            Action::Ack { ack, epoch } => self.ack(ack, epoch, sabotage),
            Action::Truncate { node } => self.truncate(node, sabotage),
            Action::Open { node } => {
                self.epoch += 1;
                self.chosen = None;
                self.promise(node, sabotage)
            }
            Action::Promise { node } => self.promise(node, sabotage),
            Action::Choose { node } => self.choose(node, sabotage),
            Action::Lead => self.lead(sabotage),
            Action::Crash { node } => {
                self.crashes += 1;
                self.restart(node);
                Ok(())
            }
            Action::Wipe { node } => self.wipe(node),
            Action::Admit { epoch, node } => self.admit(epoch, node),
            Action::ProposeEviction { epoch, node } => self.propose_eviction(epoch, node),
            Action::Evicted { epoch, node } => self.evicted(epoch, node, sabotage),
        }
    }

    pub(super) fn leader_mut(&mut self, epoch: u8) -> Option<(u8, &mut LeaderReplica)> {
        let node = self.leader_of(epoch)?;
        match &mut self.nodes[usize::from(node)].role {
            Role::Leader(core) => Some((node, core)),
            Role::Follower(_) => None,
        }
    }

    fn record(&mut self, epoch: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        let Some(leader) = self.leader_of(epoch) else {
            return Ok(());
        };
        self.records += 1;
        let value = self.records;
        self.nodes[usize::from(leader)].log.push(Batch { epoch, value });
        if sabotage == Some(Sabotage::LeaderVoteBeforeSync) {
            let end = position(self.nodes[usize::from(leader)].log.len());
            if let Some((_, core)) = self.leader_mut(epoch) {
                core.on_local_flushed(end, &mut Vec::new());
            }
        }
        self.commit(leader)
    }

    fn flush(&mut self, number: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        let node = &mut self.nodes[usize::from(number)];
        if node.durable == node.log.len() {
            return Ok(());
        }
        node.durable = node.log.len();
        let end = position(node.durable);
        match &mut node.role {
            Role::Leader(core) => {
                core.on_local_flushed(end, &mut Vec::new());
                self.commit(number)
            }
            Role::Follower(core) => {
                node.high_watermark = node.high_watermark.max(batches(core.high_watermark_limit(end)));
                self.confirm(number, sabotage);
                Ok(())
            }
        }
    }

    /// A follower says what it has synced; what it said is kept, its greatest word in each epoch and life.
    fn confirm(&mut self, number: u8, sabotage: Option<Sabotage>) {
        let node = &self.nodes[usize::from(number)];
        let Role::Follower(core) = &node.role else {
            return;
        };
        let before = node.before_promise.as_ref().filter(|_| sabotage == Some(Sabotage::AckAfterPromise));
        let end = if sabotage == Some(Sabotage::AckBeforeSync) { node.log.len() } else { node.durable };
        let Some((epoch, end)) = before.unwrap_or(core).on_flushed(position(end)) else {
            return;
        };
        let end = if sabotage == Some(Sabotage::UnmatchedConfirmed) { position(node.durable) } else { end };
        let (from, damage, epoch) = (number, node.damage, u8::try_from(epoch.0).unwrap());
        let same = |ack: &&mut Ack| (ack.from, ack.damage, ack.epoch) == (from, damage, epoch);
        match self.acks.iter_mut().find(same) {
            Some(ack) => ack.end = ack.end.max(end),
            None => {
                self.acks.push(Ack { from, damage, epoch, end });
                self.acks.sort_unstable_by_key(|ack| (ack.epoch, ack.from, ack.damage));
            }
        }
    }

    fn append(
        &mut self,
        epoch: u8,
        to: u8,
        prev: usize,
        batch: bool,
        sabotage: Option<Sabotage>,
    ) -> Result<(), String> {
        let request = self.append_request(epoch, prev, batch);
        let value = self.sent_log(epoch).0.get(prev).copied();
        self.follow(to, epoch);
        let node = &mut self.nodes[usize::from(to)];
        let Role::Follower(core) = &mut node.role else {
            return Ok(());
        };
        let log = node.log;
        let real = |end: u64| log.get(..batches(end)).map(|below| leader_epoch(epoch_before(below, below.len())));
        let blind = |end: u64| if end == request.prev_end { Some(request.prev_epoch) } else { real(end) };
        let mut facts = facts(&log, node.durable, node.high_watermark, &real);
        if sabotage == Some(Sabotage::NoPrevEpochCheck) {
            facts.epoch_before = &blind;
        }
        let decision = core.on_append(&facts, &request);
        match decision {
            AppendDecision::Fenced { .. } => {}
            AppendDecision::Diverged => self.diverged(epoch, to),
            AppendDecision::Append { skip_batches, high_watermark } => {
                if skip_batches < request.batches.len() {
                    value.into_iter().for_each(|batch| node.log.push(batch));
                }
                node.high_watermark = batches(high_watermark);
                node.before_promise = None;
                self.confirm(to, sabotage);
            }
        }
        Ok(())
    }

    /// What the leader of an epoch has, or had when its role ended, with its high watermark.
    fn sent_log(&self, epoch: u8) -> (&[Batch], usize) {
        if let Some(leader) = self.leader_of(epoch) {
            let node = &self.nodes[usize::from(leader)];
            return (&node.log, node.high_watermark);
        }
        let sent = self.sent.iter().find(|sent| sent.epoch == epoch);
        sent.map_or((&[], 0), |sent| (&sent.log, sent.high_watermark))
    }

    fn append_request(&self, epoch: u8, prev: usize, batch: bool) -> AppendRequest {
        let (log, high_watermark) = self.sent_log(epoch);
        let taken = if batch { &log[prev..=prev] } else { &[] };
        AppendRequest {
            partition: PARTITION,
            epoch: leader_epoch(epoch),
            prev_end: position(prev),
            prev_epoch: leader_epoch(epoch_before(log, prev)),
            high_watermark: if self.tells { position(high_watermark) } else { 0 },
            log_start: 0,
            batches: taken.iter().map(|batch| replica_batch(position(prev), batch.epoch)).collect(),
            traced: Vec::new(),
        }
    }

    /// A leader that hears of a later epoch leads no more.
    pub(super) fn follow(&mut self, number: u8, epoch: u8) {
        let node = &self.nodes[usize::from(number)];
        if let Role::Leader(core) = &node.role
            && core.epoch() < leader_epoch(epoch)
        {
            let promised = core.epoch();
            self.end_role(number);
            let node = &mut self.nodes[usize::from(number)];
            node.role = Role::Follower(FollowerReplica::new(PARTITION, incarnation(number, node.damage), promised));
        }
    }

    /// What a leader has sent stays under way when its role ends.
    pub(super) fn end_role(&mut self, number: u8) {
        let node = &self.nodes[usize::from(number)];
        if let Role::Leader(core) = &node.role {
            let epoch = u8::try_from(core.epoch().0).unwrap();
            self.sent.retain(|sent| sent.epoch != epoch);
            let (log, high_watermark) = (node.log, node.high_watermark);
            self.sent.push(Sent { epoch, log, high_watermark });
            self.sent.sort_unstable_by_key(|sent| sent.epoch);
        }
    }

    /// The leader that is told, if it still leads, compares the logs and may answer.
    fn diverged(&mut self, epoch: u8, from: u8) {
        let Some(leader) = self.leader_of(epoch) else {
            return;
        };
        let (ours, theirs) = (&self.nodes[usize::from(leader)], &self.nodes[usize::from(from)]);
        let their_history = history(&theirs.log);
        let starts: Vec<(LeaderEpoch, u64)> =
            their_history.starts().iter().map(|start| (start.epoch, start.start_position)).collect();
        let answer = DivergedAnswer {
            incarnation: incarnation(from, theirs.damage),
            last_epoch: their_history.last_epoch(),
            log_start: 0,
            log_end: position(theirs.log.len()),
            history: &starts,
        };
        let our_history = history(&ours.log);
        let log = LeaderLog { start: LogPlace::default(), log_end: position(ours.log.len()), history: &our_history };
        if let Ok(Resolution::Truncate(to)) = resolve(&log, &answer) {
            let (partition, epoch, answers) = (PARTITION, leader_epoch(epoch), answer.state());
            let request = TruncateRequest { partition, epoch, answers, to, below: BelowStart::default() };
            self.truncations[usize::from(from)] = Some(Truncation(request));
        }
    }

    fn truncate(&mut self, number: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        let node = &mut self.nodes[usize::from(number)];
        let (Some(Truncation(mut request)), Role::Follower(core)) =
            (self.truncations[usize::from(number)].clone(), &mut node.role)
        else {
            return Ok(());
        };
        let log = node.log;
        let real = |end: u64| log.get(..batches(end)).map(|below| leader_epoch(epoch_before(below, below.len())));
        let mut facts = facts(&log, node.durable, node.high_watermark, &real);
        if sabotage == Some(Sabotage::AnyTruncate) {
            request.answers.last_epoch = facts.last_epoch;
            request.answers.log_end = facts.log_end;
            // The alarm must not be what finds it.
            facts.high_watermark = 0;
        }
        match core.on_truncate(&facts, &request) {
            TruncateDecision::Cut { position } => {
                node.log.truncate(batches(position));
                node.durable = node.durable.min(node.log.len());
                node.before_promise = None;
                self.confirm(number, sabotage);
                Ok(())
            }
            TruncateDecision::BelowHighWatermark { .. } => Err(format!("node {number} was to cut what is committed")),
            TruncateDecision::Ignore | TruncateDecision::Fenced { .. } | TruncateDecision::Restart { .. } => Ok(()),
        }
    }

    fn ack(&mut self, ack: Ack, epoch: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        let damage =
            if sabotage == Some(Sabotage::AnyIncarnation) { self.admitted[usize::from(ack.from)] } else { ack.damage };
        let Some((leader, core)) = self.leader_mut(epoch) else {
            return Ok(());
        };
        // The epoch of the ack itself, unless a stale one is to count.
        let said = leader_epoch(if sabotage == Some(Sabotage::StaleAckCounts) { epoch } else { ack.epoch });
        let life = incarnation(ack.from, damage);
        core.on_appended(node_id(ack.from), said, life, ack.end, &mut Vec::new());
        self.commit(leader)
    }

    fn admit(&mut self, epoch: u8, node: u8) -> Result<(), String> {
        let damage = self.nodes[usize::from(node)].damage;
        self.admitted[usize::from(node)] = damage;
        let Some((leader, core)) = self.leader_mut(epoch) else {
            return Ok(());
        };
        core.on_admitted(node_id(node), incarnation(node, damage), &mut Vec::new());
        self.commit(leader)
    }

    fn in_quorum_without(&mut self, epoch: u8, node: u8) -> Vec<NodeId> {
        let quorum = self.leader_mut(epoch).map_or_else(Vec::new, |(_, core)| core.in_quorum());
        quorum.into_iter().filter(|member| *member != node_id(node)).collect()
    }

    fn propose_eviction(&mut self, epoch: u8, node: u8) -> Result<(), String> {
        self.evictions += 1;
        self.evicting = Some(node);
        let in_quorum = self.in_quorum_without(epoch, node);
        if let Some((_, core)) = self.leader_mut(epoch) {
            core.on_quorum_change_proposed(&in_quorum);
        }
        Ok(())
    }

    fn evicted(&mut self, epoch: u8, node: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        let in_quorum = self.in_quorum_without(epoch, node);
        let Some((leader, core)) = self.leader_mut(epoch) else {
            return Ok(());
        };
        core.on_in_quorum_changed(&in_quorum, &mut Vec::new());
        if sabotage == Some(Sabotage::QuorumOfInQuorum) {
            let counted = core.followers().filter(|follower| in_quorum.contains(&follower.node));
            let votes =
                counted.map(|follower| Vote { node: follower.node, admitted: follower.admitted, in_quorum: true });
            let votes: Vec<Vote> = votes.collect();
            core.on_replicas_changed(&votes, &mut Vec::new());
        }
        self.commit(leader)
    }
}

pub(super) fn facts<'a>(
    log: &[Batch],
    durable: usize,
    high_watermark: usize,
    epoch_before_position: &'a dyn Fn(u64) -> Option<LeaderEpoch>,
) -> LogFacts<'a> {
    LogFacts {
        log_start: 0,
        log_end: position(log.len()),
        durable_end: position(durable),
        high_watermark: position(high_watermark),
        last_epoch: leader_epoch(epoch_before(log, log.len())),
        epoch_before: epoch_before_position,
    }
}

/// A batch without records.
pub fn replica_batch(at: u64, epoch: u8) -> ReplicaBatch {
    let header = BatchHeader {
        flags: BatchFlags::CONTROL,
        records_crc: 0,
        position: at,
        base_offset: 0,
        base_record: 0,
        stored_len: 0,
        plain_len: 0,
        record_count: 0,
        leader_epoch: leader_epoch(epoch),
        committed_through: 0,
        sort_key: SortKey::default(),
        max_timestamp_ns: 0,
        producer: None,
    };
    ReplicaBatch { raw_header: [0; BATCH_HEADER_BYTES], header, records: bytes::Bytes::new() }
}
