//! When the life of this node's disk is over: its peers know of starts that the disk has forgotten, or its Raft log is not what
//! it was. The next start then begins a new life, that votes and counts once it holds everything again.

use super::actor::{MetadataActor, Running};
use crate::supervision::shell::{fail, give_up};
use actix::prelude::*;
use lance_cluster::control::ControlMessage;
use lance_cluster::metadata::{MetadataRefusal, NodeStart, START_CHECK_MS, StartCheck, StartKnowledge};
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use lance_storage::checkpoint::order_renewal;
use std::collections::BTreeMap;

/// How often peers are asked what they know of this start.
const ASK_INTERVAL_MS: u64 = 200;

/// What this start knows of itself; it outlives the core.
#[derive(Debug, Default)]
pub(super) struct OwnStart {
    check: Option<StartCheck>,
    asked_at_ms: Option<u64>,
    /// Since when links to peers are up.
    linked: BTreeMap<NodeId, u64>,
    /// Why this life is over.
    over: Option<String>,
}

impl MetadataActor {
    fn own_start(&self) -> NodeStart {
        let setup = &self.setup;
        let (node, incarnation) = (setup.node, setup.incarnation);
        NodeStart { node, incarnation, boot_number: setup.boot_number, nonce: setup.nonce }
    }

    /// Whether the cluster began with others, or without this life, or has them now: they keep the metadata, too.
    pub(super) fn has_others(&self) -> bool {
        let own = self.setup.node;
        let votes_with = |running: &Running| !running.core.other_voters(own).is_empty();
        self.setup.genesis.len() > 1 || !self.setup.is_voter || self.running.as_ref().is_some_and(votes_with)
    }

    /// Votes and acks of an older disk would break what the newer one promised: Raft waits until peers were asked.
    pub(super) fn takes_part(&mut self, now_ms: u64) -> bool {
        let (Some(running), own) = (self.running.as_ref(), self.setup.node) else { return false };
        let check = self.own_start.check.get_or_insert_with(|| StartCheck::new(now_ms));
        self.own_start.over.is_none() && check.is_passed(running.core.other_voters(own), now_ms)
    }

    /// Asks what the voters know of this start until it is registered, and ends this life when it has to be.
    pub(super) fn check_start(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        if let Some(reason) = self.own_start.over.clone() {
            return self.renew_unless_needed(ctx, &reason);
        }
        let Some(running) = self.running.as_ref() else { return };
        let own = self.own_start();
        if self.has_others() && running.knows(own).judge(own, |number| self.setup.past.nonce_of(number)).is_err() {
            // What is on the disk itself tells of a start that is not among its own: they are of different times.
            return self.on_start_answered(own.node, own, running.knows(own));
        }
        let due = self.own_start.asked_at_ms.is_none_or(|at| now_ms >= at.saturating_add(ASK_INTERVAL_MS));
        if !due || self.is_registered() {
            return;
        }
        let mut asked = running.core.other_voters(own.node);
        if asked.is_empty() {
            // Who is not a member yet knows no voters.
            asked.extend(self.links.keys());
        }
        self.own_start.asked_at_ms = Some(now_ms);
        asked.into_iter().filter(|node| self.is_unheard(*node)).for_each(|node| self.ask_about_start(node));
    }

    fn is_unheard(&self, node: NodeId) -> bool {
        self.own_start.check.as_ref().is_none_or(|check| check.is_open(node))
    }

    /// Whether a peer may propose the registration of this start: once it has said what it knows, or had the time for it.
    pub(super) fn may_register_with(&self, node: NodeId, now_ms: u64) -> bool {
        let linked = self.own_start.linked.get(&node);
        !self.is_unheard(node) || linked.is_some_and(|at| now_ms >= at.saturating_add(START_CHECK_MS))
    }

    /// The link to a peer is up, or down.
    pub(super) fn on_link(&mut self, node: NodeId, is_up: bool, now_ms: u64) {
        match is_up {
            true => self.own_start.linked.insert(node, now_ms),
            false => self.own_start.linked.remove(&node),
        };
    }

    /// Asks a peer what it knows of this start.
    pub(super) fn ask_about_start(&self, node: NodeId) {
        self.send_to(node, &ControlMessage::StartAsked(self.own_start()));
    }

    pub(super) fn on_start_asked(&mut self, from: PeerIdentity, start: NodeStart) {
        let is_own =
            (from.node, from.incarnation, from.boot_number) == (start.node, start.incarnation, start.boot_number);
        let Some(running) = self.running.as_mut().filter(|_| is_own) else { return };
        let answers = running.starts.answers(running.core.state(), start);
        let known = running.knows(start);
        if known == StartKnowledge::Unknown || known.judge(start, |_| None).is_ok() {
            running.starts.note(start);
        }
        for known in answers {
            self.send_to(from.node, &ControlMessage::StartAnswered { start, known });
        }
    }

    pub(super) fn on_start_answered(&mut self, from: NodeId, start: NodeStart, known: StartKnowledge) {
        if start != self.own_start() {
            return;
        }
        match known.judge(start, |number| self.setup.past.nonce_of(number)) {
            Ok(()) => {
                if let Some(check) = &mut self.own_start.check {
                    check.on_told(from);
                }
            }
            Err(past) => self.end_life(past.to_string()),
        }
    }

    /// Whether a refused registration says that this life is over.
    pub(super) fn is_end_of_life(&self, refusal: &MetadataRefusal) -> bool {
        let of_the_past =
            matches!(refusal, MetadataRefusal::RolledBack { .. } | MetadataRefusal::RetiredIncarnation { .. });
        of_the_past && self.has_others()
    }

    /// From now on this start takes no part in Raft any more; the next tick ends it.
    pub(super) fn end_life(&mut self, reason: String) {
        self.own_start.over.get_or_insert(reason);
    }

    /// Ends this life where the other voters can replace it: without them its disk is for an operator to judge.
    fn renew_unless_needed(&mut self, ctx: &mut Context<Self>, reason: &str) {
        let Some(running) = self.running.as_ref().filter(|_| self.has_others()) else {
            return self.ask_for_copy(ctx, reason, "of the only voter of the metadata");
        };
        let conf = running.core.raft().conf();
        if can_replace(&conf.voters, self.setup.incarnation)
            && can_replace(&conf.voters_outgoing, self.setup.incarnation)
        {
            return self.renew(ctx, reason);
        }
        let others = running.core.other_voters(self.setup.node);
        let whose = match others.first() {
            None => "of the only voter of the metadata".to_owned(),
            Some(other) => format!("of one of two voters of the metadata, and node {other} cannot replace it alone"),
        };
        self.ask_for_copy(ctx, reason, &whose);
    }

    fn ask_for_copy(&mut self, ctx: &mut Context<Self>, reason: &str, whose: &str) {
        let dir = self.setup.dir.display();
        fail(self, ctx, format!("{reason}; {dir} is {whose}: restore its newest copy"));
    }

    /// Orders a new life and ends the process: nothing of the old one is open when the next start carries that out.
    pub(super) fn renew(&mut self, ctx: &mut Context<Self>, reason: &str) {
        let (setup, dir) = (&self.setup, self.setup.dir.clone());
        let ordered = dir.parent().map(|path| order_renewal(&setup.disk, path, setup.incarnation, reason));
        match ordered {
            Some(Ok(())) => {
                give_up(self, ctx, format!("{reason}; start this node again: it begins a new life and is refilled"));
            }
            Some(Err(error)) => fail(self, ctx, format!("{reason}; a new life cannot be ordered: {error}")),
            None => fail(self, ctx, format!("{reason}; {} lies in no data directory", dir.display())),
        }
    }
}

/// Whether the other voters are a majority without the one whose life ends.
fn can_replace(voters: &[u64], ending: u64) -> bool {
    let others = voters.iter().filter(|voter| **voter != ending).count();
    voters.is_empty() || others > voters.len() / 2
}

impl Running {
    fn knows(&self, start: NodeStart) -> StartKnowledge {
        self.starts.about(self.core.state(), start)
    }
}
