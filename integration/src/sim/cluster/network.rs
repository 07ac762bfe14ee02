//! The network between nodes: each opens a link to each of the others, requests go over the own link and answers come back
//! on it. A link keeps its order; when it breaks, what was on its way is lost.

use crate::sim::mail::{Address, Mail};
use crate::sim::rng::Rng;
use crate::sim::scheduler::Envelope;
use lance_messages::mail::peer::{AppendReplica, ReplicaAnswered};
use lance_messages::peer::PeerIdentity;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// From one node to another.
pub type Pair = (u16, u16);

/// What runs on a machine, as its links see it.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// Counts its processes.
    pub boot: u64,
    /// Who answers there; `None` while nobody does.
    pub identity: Option<PeerIdentity>,
    /// Its process stands still.
    pub paused: bool,
}

#[derive(Debug)]
struct Link {
    session: u64,
    boots: (u64, u64),
    /// Who opened it, and who accepted it.
    from: PeerIdentity,
    to: PeerIdentity,
    /// When both ends find out that nothing comes through.
    breaks_ns: Option<u64>,
    /// What waits to be sent again, there and back.
    held: (VecDeque<Envelope>, VecDeque<Envelope>),
}

/// A link that stands, or stands no more, as its owner is told.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Whose link.
    pub owner: u16,
    /// To whom.
    pub peer: u16,
    /// Who is there.
    pub identity: Option<PeerIdentity>,
}

/// Links between all nodes.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<Pair, Link>,
    sessions: BTreeMap<u64, Pair>,
    last_session: u64,
    retry_ns: BTreeMap<Pair, u64>,
    /// Directions in which nothing comes through.
    blocked: BTreeSet<Pair>,
    /// What every message takes in addition, in nanoseconds.
    slow: BTreeMap<Pair, u64>,
}

impl Network {
    /// Nothing comes through in this direction from now on.
    pub fn block(&mut self, pair: Pair) {
        self.blocked.insert(pair);
    }

    /// Everything in this direction takes longer.
    pub fn slow_down(&mut self, pair: Pair, by_ns: u64) {
        self.slow.insert(pair, by_ns);
    }

    /// The network works; answers what had waited, in order.
    pub fn heal(&mut self) -> Vec<Envelope> {
        self.blocked.clear();
        self.slow.clear();
        let mut waited = Vec::new();
        for link in self.links.values_mut() {
            link.breaks_ns = None;
            waited.extend(link.held.0.drain(..));
            waited.extend(link.held.1.drain(..));
        }
        waited
    }

    /// Breaks the links between two nodes.
    pub fn reset(&mut self, (a, b): Pair) {
        for pair in [(a, b), (b, a)] {
            if let Some(link) = self.links.get_mut(&pair) {
                link.breaks_ns = Some(0);
            }
        }
    }

    fn delay(&self, pair: Pair, rng: &mut Rng) -> u64 {
        let usual = if rng.once_in(50) {
            rng.range(MILLISECOND, 40 * MILLISECOND)
        } else {
            rng.range(30 * MICROSECOND, 400 * MICROSECOND)
        };
        usual + self.slow.get(&pair).map_or(0, |by| rng.range(by / 2, *by))
    }

    /// Puts a message on its link: who gets it, how, and after what time. `None`: the link is down.
    pub fn send(&self, from: u16, to: Address, mail: Mail, rng: &mut Rng) -> Option<(Address, Mail, u64)> {
        if let Mail::Confirm { session, shard, .. } = &mail {
            let session = *session;
            let (owner, _) = self.sessions.get(&session).copied()?;
            let to = Address::Node(owner, crate::sim::mail::Part::Ingestion(*shard));
            return Some((to, Mail::Linked(session, Box::new(mail)), self.delay((from, owner), rng)));
        }
        let Address::Node(peer, _) = to else { return None };
        let link = self.links.get(&(from, peer))?;
        Some((to, Mail::Linked(link.session, Box::new(mail)), self.delay((from, peer), rng)))
    }

    /// A message arrives at the end of its link: what the receiver is handed, unless it is lost or has to wait.
    pub fn arrive(&mut self, envelope: Envelope) -> Option<Envelope> {
        let Envelope { from, to, boot, mail } = envelope;
        let Mail::Linked(session, mail) = mail else { return Some(Envelope { from, to, boot, mail }) };
        let pair = self.sessions.get(&session).copied()?;
        let link = self.links.get_mut(&pair).filter(|link| link.session == session)?;
        let back = matches!(*mail, Mail::Confirm { .. });
        let direction = if back { (pair.1, pair.0) } else { pair };
        let held = if back { &mut link.held.1 } else { &mut link.held.0 };
        if self.blocked.contains(&direction) || !held.is_empty() {
            held.push_back(Envelope { from, to, boot, mail: Mail::Linked(session, mail) });
            return None;
        }
        let mail = match *mail {
            Mail::Say(bytes) => Mail::Control(link.from, bytes),
            Mail::Replicate(requests) => Mail::AppendReplica(AppendReplica { from: link.from, session, requests }),
            Mail::Confirm { responses, .. } => Mail::ReplicaAnswered(ReplicaAnswered { from: link.to, responses }),
            other => other,
        };
        Some(Envelope { from, to, boot, mail })
    }

    /// Looks after all links.
    pub fn look_after(&mut self, now_ns: u64, stations: &[Station], rng: &mut Rng) -> Vec<Change> {
        let mut changes = Vec::new();
        let count = stations.len() as u16;
        let pairs = (0..count).flat_map(|owner| (0..count).map(move |peer| (owner, peer)));
        for pair in pairs.filter(|(owner, peer)| owner != peer) {
            self.look_after_one(pair, now_ns, stations, rng, &mut changes);
        }
        changes
    }

    fn look_after_one(
        &mut self,
        pair: Pair,
        now_ns: u64,
        stations: &[Station],
        rng: &mut Rng,
        changes: &mut Vec<Change>,
    ) {
        let (owner, peer) = pair;
        let (own, other) = (stations[usize::from(owner)], stations[usize::from(peer)]);
        let blocked = self.blocked.contains(&pair) || self.blocked.contains(&(peer, owner));
        if let Some(link) = self.links.get_mut(&pair) {
            let gone = link.boots != (own.boot, other.boot);
            if (blocked || other.paused) && link.breaks_ns.is_none() {
                link.breaks_ns = Some(now_ns + rng.range(200 * MILLISECOND, 3_000 * MILLISECOND));
            } else if !blocked && !other.paused && link.breaks_ns.is_some_and(|at| at > now_ns) {
                link.breaks_ns = None;
            }
            if gone && !blocked || link.breaks_ns.is_some_and(|at| at <= now_ns) {
                let session = link.session;
                if own.identity == Some(link.from) {
                    changes.push(Change { owner, peer, identity: None });
                }
                self.links.remove(&pair);
                self.sessions.remove(&session);
                self.retry_ns.insert(pair, now_ns + rng.range(5 * MILLISECOND, 250 * MILLISECOND));
            }
            return;
        }
        let due = self.retry_ns.get(&pair).is_none_or(|at| *at <= now_ns);
        let (Some(from), Some(to)) = (own.identity, other.identity) else { return };
        if blocked || own.paused || other.paused || !due {
            return;
        }
        self.last_session += 1;
        let (session, boots) = (self.last_session, (own.boot, other.boot));
        self.sessions.insert(session, pair);
        self.links.insert(pair, Link { session, boots, from, to, breaks_ns: None, held: Default::default() });
        changes.push(Change { owner, peer, identity: Some(to) });
    }
}
