//! Who leads: promises and their answers, the choice, the beginning of a role, and starts that end it.

use super::state::{
    Answer, Batch, PARTITION, Role, State, batches, epoch_before, incarnation, leader_epoch, node_id, position,
};
use super::steps::{Action, facts};
use super::{Bounds, Sabotage};
use lance_cluster::replica::quorum::quorum_size;
use lance_cluster::replica::{FollowerReplica, LeaderReplica, Promise, Vote};

impl State {
    /// The first leader has its start on every disk.
    pub fn begin_settled(&mut self, settled: bool) {
        self.begin_to_lead(0, None, settled);
        let followers = 1..u8::try_from(self.nodes.len()).unwrap();
        if let Some((_, core)) = self.leader_mut(1).filter(|_| settled) {
            for node in followers {
                core.on_appended(node_id(node), leader_epoch(1), incarnation(node, 0), position(1), &mut Vec::new());
            }
        }
        self.commit(0).unwrap();
    }

    pub(super) fn election_actions(&self, bounds: &Bounds, sabotage: Option<Sabotage>, actions: &mut Vec<Action>) {
        if self.epoch < bounds.epochs {
            actions.extend((0..bounds.replicas).map(|node| Action::Open { node }));
        }
        if let Some((node, _)) = self.chosen {
            if self.led[usize::from(self.epoch) - 1].is_none() || sabotage == Some(Sabotage::LeadsAfterRestart) {
                let leads = matches!(self.nodes[usize::from(node)].role, Role::Leader(_));
                actions.extend((!leads).then_some(Action::Lead));
            }
            return;
        }
        let copies = self.nodes.len();
        let fewer = usize::from(sabotage == Some(Sabotage::OneAnswerFewer));
        let enough = self.answers.iter().flatten().count() >= copies + 1 - quorum_size(copies) - fewer;
        let best = self.answers.iter().flatten().map(|answer| (answer.last_epoch, answer.end)).max();
        for (node, answer) in (0..bounds.replicas).zip(&self.answers) {
            match answer {
                None => actions.push(Action::Promise { node }),
                Some(answer) => {
                    let wins = best == Some((answer.last_epoch, answer.end)) || sabotage == Some(Sabotage::AnyWinner);
                    actions.extend((enough && wins).then_some(Action::Choose { node }));
                }
            }
        }
    }

    pub(super) fn promise(&mut self, number: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        let epoch = self.epoch;
        self.follow(number, epoch);
        let is_clean = self.nodes[usize::from(number)].damage == self.admitted[usize::from(number)];
        let node = &mut self.nodes[usize::from(number)];
        let Role::Follower(core) = &mut node.role else {
            return Ok(());
        };
        node.before_promise = (sabotage == Some(Sabotage::AckAfterPromise)).then(|| core.clone());
        if let Promise::Higher(_) = core.promise(leader_epoch(epoch)) {
            return Ok(());
        }
        if sabotage != Some(Sabotage::PromiseInMemory) {
            node.promise = epoch;
        }
        let log = node.log;
        let real = |end: u64| log.get(..batches(end)).map(|below| leader_epoch(epoch_before(below, below.len())));
        let end = if sabotage == Some(Sabotage::AnswerLogEnd) { log.len() } else { node.durable };
        let Some((last_epoch, end)) = core.promise_answer(&facts(&log, end, node.high_watermark, &real)) else {
            return Ok(());
        };
        let answer = Answer { last_epoch: u8::try_from(last_epoch.0).unwrap(), end: batches(end), boot: node.boot };
        if is_clean || sabotage == Some(Sabotage::UncleanAnswers) {
            self.answers[usize::from(number)] = Some(answer);
        }
        Ok(())
    }

    /// The chosen one takes its role at once where no restart may come between.
    pub(super) fn choose(&mut self, node: u8, sabotage: Option<Sabotage>) -> Result<(), String> {
        self.chosen = self.answers[usize::from(node)].map(|answer| (node, answer.boot));
        if self.restarts { Ok(()) } else { self.lead(sabotage) }
    }

    pub(super) fn lead(&mut self, sabotage: Option<Sabotage>) -> Result<(), String> {
        let Some((number, boot)) = self.chosen else {
            return Ok(());
        };
        let node = &self.nodes[usize::from(number)];
        let Role::Follower(core) = &node.role else {
            return Ok(());
        };
        // A start that goes unnoticed between answer and role is what the durable end guards against.
        let same_start = node.boot == boot || sabotage == Some(Sabotage::AnswerLogEnd);
        let is_fit = same_start && node.damage == self.admitted[usize::from(number)];
        if core.promised() != leader_epoch(self.epoch) || !is_fit && sabotage != Some(Sabotage::LeadsAfterRestart) {
            return Ok(());
        }
        self.check_complete(number)?;
        self.begin_to_lead(number, sabotage, false);
        self.commit(number)
    }

    fn begin_to_lead(&mut self, number: u8, sabotage: Option<Sabotage>, settled: bool) {
        let epoch = self.epoch;
        self.led[usize::from(epoch) - 1] = Some(number);
        let vote = |node: u8| Vote {
            node: node_id(node),
            admitted: incarnation(node, self.admitted[usize::from(node)]),
            in_quorum: true,
        };
        let votes: Vec<Vote> = (0..u8::try_from(self.nodes.len()).unwrap()).map(vote).collect();
        let node = &mut self.nodes[usize::from(number)];
        let (high_watermark, durable_end) = (position(node.high_watermark), position(node.durable));
        let (id, epoch_id) = (node_id(number), leader_epoch(epoch));
        let mut core = LeaderReplica::new(PARTITION, epoch_id, id, &votes, high_watermark, durable_end);
        if !settled {
            node.log.push(Batch { epoch, value: 0 });
        }
        let gate = if sabotage == Some(Sabotage::NoEpochStartGate) { 0 } else { position(node.log.len()) };
        core.on_epoch_started(gate, &mut Vec::new());
        node.role = Role::Leader(core);
    }

    /// The process ends and starts again, with what is on its disk.
    pub(super) fn restart(&mut self, number: u8) {
        self.end_role(number);
        let node = &mut self.nodes[usize::from(number)];
        node.log.truncate(node.durable);
        node.high_watermark = 0;
        node.boot += 1;
        node.before_promise = None;
        let promised = leader_epoch(node.promise.max(epoch_before(&node.log, node.durable)));
        node.role = Role::Follower(FollowerReplica::new(PARTITION, incarnation(number, node.damage), promised));
    }

    pub(super) fn wipe(&mut self, number: u8) -> Result<(), String> {
        self.wipes += 1;
        self.end_role(number);
        let node = &mut self.nodes[usize::from(number)];
        (node.durable, node.promise) = (0, 0);
        node.damage += 1;
        self.restart(number);
        Ok(())
    }
}
