//! Simulated time and the order of things: every message waits here for its turn.
//!
//! Messages of one sender to one receiver keep their order, as mailboxes and sockets do; everything else is ordered by
//! delays the seed has chosen.

use super::mail::{Address, Mail};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A message on its way.
#[derive(Debug)]
pub struct Envelope {
    /// Who sent it.
    pub from: Address,
    /// Who gets it.
    pub to: Address,
    /// The life of the receiver's process it was meant for; messages of earlier lives are lost.
    pub boot: u64,
    /// What it says.
    pub mail: Mail,
}

struct Due {
    at_ns: u64,
    number: u64,
    envelope: Envelope,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ns, self.number) == (other.at_ns, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

/// Everything that is still to happen.
#[derive(Default)]
pub struct Scheduler {
    now_ns: u64,
    number: u64,
    due: BinaryHeap<Reverse<Due>>,
    /// When the last message of a pair arrives.
    last_ns: BTreeMap<(Address, Address), u64>,
}

impl Scheduler {
    /// Simulated time since the beginning.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Sends a message that arrives after `delay_ns`, or right behind the last one of the same pair.
    pub fn send(&mut self, envelope: Envelope, delay_ns: u64) {
        let last_ns = self.last_ns.entry((envelope.from, envelope.to)).or_default();
        let at_ns = (self.now_ns + delay_ns).max(*last_ns + 1);
        *last_ns = at_ns;
        self.push(at_ns, envelope);
    }

    /// Wakes somebody after `delay_ns`, whatever else is under way.
    pub fn wake(&mut self, envelope: Envelope, delay_ns: u64) {
        self.push(self.now_ns + delay_ns, envelope);
    }

    fn push(&mut self, at_ns: u64, envelope: Envelope) {
        self.number += 1;
        let number = self.number;
        self.due.push(Reverse(Due { at_ns, number, envelope }));
    }

    /// The next message; time moves to its arrival.
    pub fn take_next(&mut self) -> Option<Envelope> {
        let Reverse(due) = self.due.pop()?;
        self.now_ns = self.now_ns.max(due.at_ns);
        Some(due.envelope)
    }
}
