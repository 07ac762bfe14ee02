//! Three nodes with logs in memory and links that keep order until they break: the cores wired as actors wire them.

use super::log::{PARTITION, TestLog, UNIT, batch, epoch, incarnation};
use lance_cluster::replica::{
    AppendDecision, DivergedAnswer, DivergedStep, FlowLog, FlowOptions, FlowStep, FollowerFlow, FollowerReplica,
    LeaderEffect, LeaderLog, LeaderReplica, TruncateDecision, Vote,
};
use lance_messages::id::NodeId;
use lance_messages::peer::{
    AppendOutcome, AppendRequest, AppendResponse, BelowStart, LogPlace, ReplicaBatch, ReplicaRequest, TruncateRequest,
};
use std::collections::VecDeque;
use std::time::Duration;

pub const NODES: usize = 3;

/// The present leader.
pub struct Leading {
    pub node: usize,
    pub core: LeaderReplica,
    flows: Vec<FollowerFlow>,
}

pub struct Cluster {
    pub logs: [TestLog; NODES],
    followers: [FollowerReplica; NODES],
    pub leading: Option<Leading>,
    pub epoch: u32,
    requests: [VecDeque<ReplicaRequest>; NODES],
    responses: [VecDeque<AppendResponse>; NODES],
    pub up: [bool; NODES],
    pub now: Duration,
    values: u32,
    /// Everything that was ever committed.
    pub committed: Vec<(u32, u32)>,
}

pub fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap())
}

fn life(node: usize) -> lance_messages::id::ReplicaIncarnation {
    incarnation(u16::try_from(node).unwrap())
}

impl Cluster {
    pub fn new() -> Self {
        let follower = |node| FollowerReplica::new(PARTITION, life(node), epoch(0));
        Self {
            logs: Default::default(),
            followers: std::array::from_fn(follower),
            leading: None,
            epoch: 0,
            requests: Default::default(),
            responses: Default::default(),
            up: [true; NODES],
            now: Duration::from_secs(1),
            values: 0,
            committed: Vec::new(),
        }
    }

    /// The next epoch: all but the absent node promise it, the one that holds most leads, and an earlier leader ends.
    pub fn elect(&mut self, absent: usize) {
        self.epoch += 1;
        let of_epoch = self.epoch;
        self.end_leading();
        let answer = |node: usize| {
            let clean = self.logs[node].facts(|facts| self.followers[node].promise_answer(facts));
            clean.map(|(last_epoch, durable_end)| (last_epoch, durable_end, node))
        };
        let answers: Vec<_> = (0..NODES).filter(|node| *node != absent).filter_map(answer).collect();
        for node in (0..NODES).filter(|node| *node != absent) {
            self.followers[node].promise(epoch(of_epoch));
        }
        if answers.len() >= 2 {
            let winner = answers.iter().max().map(|(.., node)| *node);
            self.lead(winner.unwrap());
        }
    }

    fn lead(&mut self, node: usize) {
        let log = &mut self.logs[node];
        let complete = (log.start() / UNIT..self.committed.len() as u64)
            .all(|at| log.at(at * UNIT) == Some(self.committed[usize::try_from(at).unwrap()]));
        assert!(complete, "the new leader lacks what is committed");
        let vote = |member| Vote { node: id(member), admitted: life(member), in_quorum: true };
        let votes: Vec<Vote> = (0..NODES).map(vote).collect();
        let leader_epoch = epoch(self.epoch);
        let mut core =
            LeaderReplica::new(PARTITION, leader_epoch, id(node), &votes, log.high_watermark, log.durable_end);
        log.batches.push((self.epoch, 0));
        core.on_epoch_started(log.end(), &mut Vec::new());
        let options = FlowOptions { window_bytes: 5 * UNIT, ack_timeout: Duration::from_secs(1) };
        let mut flows = vec![FollowerFlow::new(options); NODES];
        flows.iter_mut().zip(self.up).filter(|(_, up)| *up).for_each(|(flow, _)| flow.on_link_up());
        self.leading = Some(Leading { node, core, flows });
    }

    fn end_leading(&mut self) {
        if let Some(leading) = self.leading.take() {
            let promised = leading.core.epoch();
            self.followers[leading.node] = FollowerReplica::new(PARTITION, life(leading.node), promised);
        }
    }

    /// A producer's batch at the leader, pushed from memory to whoever is live.
    pub fn produce(&mut self) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        self.values += 1;
        let log = &mut self.logs[leading.node];
        let from = log.end();
        log.batches.push((self.epoch, self.values));
        for node in (0..NODES).filter(|node| *node != leading.node) {
            if leading.flows[node].is_live(from) {
                let request = append_request(log, self.epoch, from, log.end());
                leading.flows[node].on_sent(from, log.end(), log.high_watermark, self.now);
                self.requests[node].push_back(ReplicaRequest::Append(request));
            }
        }
    }

    /// Whatever the leader has to send to a node.
    pub fn pump(&mut self, node: usize) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.node != node) else {
            return;
        };
        let log = &self.logs[leading.node];
        let facts = FlowLog {
            log_start: log.start(),
            log_end: log.end(),
            high_watermark: log.high_watermark,
            allowance: u64::MAX,
        };
        let flow = &mut leading.flows[node];
        for _ in 0..100 {
            let (from, end) = match flow.next(&facts, self.now) {
                FlowStep::Nothing => return,
                FlowStep::Probe { prev_end } => (prev_end, prev_end),
                FlowStep::Send { from, max_bytes } => (from, (from + max_bytes.max(UNIT) / UNIT * UNIT).min(log.end())),
            };
            let request = append_request(log, self.epoch, from, end);
            flow.on_sent(from, end, log.high_watermark, self.now);
            self.requests[node].push_back(ReplicaRequest::Append(request));
        }
        panic!("the flow never has enough");
    }

    /// The oldest request under way to a node arrives.
    pub fn deliver_request(&mut self, node: usize) {
        let Some(request) = self.requests[node].pop_front() else {
            return;
        };
        if self.leading.as_ref().is_some_and(|leading| leading.node == node) {
            return;
        }
        match request {
            ReplicaRequest::Append(request) => self.append(node, &request),
            ReplicaRequest::Truncate(request) => self.truncate(node, &request),
        }
    }

    fn append(&mut self, node: usize, request: &AppendRequest) {
        let (log, core) = (&mut self.logs[node], &mut self.followers[node]);
        match log.facts(|facts| core.on_append(facts, request)) {
            AppendDecision::Fenced { promised } => {
                self.respond(node, request.epoch.0, AppendOutcome::Fenced { promised });
            }
            AppendDecision::Diverged => {
                let history = log.history();
                let outcome = AppendOutcome::Diverged {
                    last_epoch: history.last_epoch(),
                    log_start: log.start(),
                    log_end: log.end(),
                    history: history.starts().iter().map(|start| (start.epoch, start.start_position)).collect(),
                };
                self.respond(node, request.epoch.0, outcome);
            }
            AppendDecision::Append { skip_batches, high_watermark } => {
                for ReplicaBatch { header, .. } in &request.batches[skip_batches..] {
                    assert_eq!(header.position, log.end());
                    let value = u32::try_from(header.max_timestamp_ns).unwrap();
                    log.batches.push((header.leader_epoch.0, value));
                }
                assert!(high_watermark >= log.high_watermark);
                log.high_watermark = high_watermark;
                self.confirm(node);
            }
        }
    }

    fn truncate(&mut self, node: usize, request: &TruncateRequest) {
        let (log, core) = (&mut self.logs[node], &mut self.followers[node]);
        match log.facts(|facts| core.on_truncate(facts, request)) {
            TruncateDecision::Ignore => {}
            TruncateDecision::Fenced { promised } => {
                self.respond(node, request.epoch.0, AppendOutcome::Fenced { promised });
            }
            TruncateDecision::Cut { position } => {
                log.truncate_to(position);
                self.confirm(node);
            }
            TruncateDecision::Restart { place } => {
                log.restart(place.position / UNIT);
                self.confirm(node);
            }
            TruncateDecision::BelowHighWatermark { position, high_watermark } => {
                panic!("node {node} was to cut at {position}, below {high_watermark}");
            }
        }
    }

    fn confirm(&mut self, node: usize) {
        let log = &mut self.logs[node];
        let core = &self.followers[node];
        log.high_watermark = log.high_watermark.max(core.high_watermark_limit(log.durable_end));
        if let Some((of_epoch, durable_end)) = core.on_flushed(log.durable_end) {
            self.respond(node, of_epoch.0, AppendOutcome::Appended { durable_end, sync_p99_micros: 0 });
        }
    }

    fn respond(&mut self, node: usize, of_epoch: u32, outcome: AppendOutcome) {
        let response =
            AppendResponse { partition: PARTITION, epoch: epoch(of_epoch), incarnation: life(node), outcome };
        self.responses[node].push_back(response);
    }

    /// The oldest answer of a node arrives at the leader.
    pub fn deliver_response(&mut self, node: usize) {
        let Some(response) = self.responses[node].pop_front() else {
            return;
        };
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.core.epoch() == response.epoch) else {
            return;
        };
        let flow = &mut leading.flows[node];
        let mut effects = Vec::new();
        if let AppendOutcome::Appended { durable_end, .. } = response.outcome {
            flow.on_appended(response.incarnation, durable_end, self.now);
            leading.core.on_appended(id(node), response.epoch, response.incarnation, durable_end, &mut effects);
        }
        if let Some(answer) = DivergedAnswer::of(&response) {
            let log = &self.logs[leading.node];
            let history = log.history();
            let start = LogPlace { position: log.start(), offset: 0, record: 0 };
            let ours = LeaderLog { start, log_end: log.end(), history: &history };
            if let DivergedStep::Truncate { answers, to } = flow.on_diverged(&ours, &answer, self.now) {
                let request = TruncateRequest {
                    partition: PARTITION,
                    epoch: response.epoch,
                    answers,
                    to,
                    below: BelowStart::default(),
                };
                self.requests[node].push_back(ReplicaRequest::Truncate(request));
            }
        }
        self.obey(&effects);
    }

    /// A node syncs its log.
    pub fn flush(&mut self, node: usize) {
        let log = &mut self.logs[node];
        log.durable_end = log.end();
        match self.leading.as_mut().filter(|leading| leading.node == node) {
            Some(leading) => {
                let mut effects = Vec::new();
                leading.core.on_local_flushed(log.durable_end, &mut effects);
                self.obey(&effects);
            }
            None => self.confirm(node),
        }
    }

    fn obey(&mut self, effects: &[LeaderEffect]) {
        let Some(leading) = &self.leading else {
            return;
        };
        let log = &mut self.logs[leading.node];
        for effect in effects {
            if let LeaderEffect::HighWatermarkAdvanced { position, .. } = effect {
                assert!(*position > log.high_watermark && *position <= log.durable_end);
                log.high_watermark = *position;
                let known = self.committed.len() as u64;
                let more = (known..*position / UNIT).map(|at| log.at(at * UNIT).unwrap());
                self.committed.extend(more);
            }
        }
    }

    /// A node loses what is not synced, and its links.
    pub fn crash(&mut self, node: usize) {
        if self.leading.as_ref().is_some_and(|leading| leading.node == node) {
            self.end_leading();
        }
        let log = &mut self.logs[node];
        log.truncate_to(log.durable_end);
        log.high_watermark = log.start();
        let promised = self.followers[node].promised().max(log.history().last_epoch());
        self.followers[node] = FollowerReplica::new(PARTITION, life(node), promised);
        self.set_link(node, false);
    }

    /// The link between the leader and a node breaks, or stands anew; what was on it is gone.
    pub fn set_link(&mut self, node: usize, up: bool) {
        self.up[node] = up;
        self.requests[node].clear();
        self.responses[node].clear();
        if let Some(leading) = &mut self.leading {
            if up { leading.flows[node].on_link_up() } else { leading.flows[node].on_link_down() }
        }
    }

    /// A node drops all that is committed but the last two batches, as retention does.
    pub fn drop_front(&mut self, node: usize) {
        let log = &mut self.logs[node];
        let committed = log.high_watermark.min(log.durable_end).saturating_sub(log.start()) / UNIT;
        // Never all of it: the active segment stays.
        log.drop_front(committed.min(log.batches.len() as u64).saturating_sub(2));
    }

    /// What must hold at any time.
    pub fn check(&self) {
        for (node, log) in self.logs.iter().enumerate() {
            for at in log.start() / UNIT..log.high_watermark / UNIT {
                let committed = self.committed.get(usize::try_from(at).unwrap()).copied();
                assert!(committed.is_some() && log.at(at * UNIT) == committed, "node {node} at {at}");
            }
            for other in &self.logs[node + 1..] {
                let (start, end) = (log.start().max(other.start()), log.end().min(other.end()));
                let places: Vec<u64> = (start / UNIT..end / UNIT).map(|at| at * UNIT).collect();
                let same_epoch = |at: &&u64| log.at(**at).map(|one| one.0) == other.at(**at).map(|one| one.0);
                if let Some(last) = places.iter().rev().find(same_epoch) {
                    let same = places.iter().take_while(|at| *at <= last).all(|at| log.at(*at) == other.at(*at));
                    assert!(same, "logs with the same epoch at {last} differ below it");
                }
            }
        }
    }
}

fn append_request(log: &TestLog, in_epoch: u32, from: u64, end: u64) -> AppendRequest {
    let made = |at: u64| {
        let (of_epoch, value) = log.at(at * UNIT).unwrap();
        let mut made = batch(at * UNIT, of_epoch);
        made.header.max_timestamp_ns = u64::from(value);
        made
    };
    AppendRequest {
        partition: PARTITION,
        epoch: epoch(in_epoch),
        prev_end: from,
        prev_epoch: log.history().epoch_before(from).unwrap_or(epoch(0)),
        high_watermark: log.high_watermark,
        log_start: log.start(),
        batches: (from / UNIT..end / UNIT).map(made).collect(),
        traced: Vec::new(),
    }
}
