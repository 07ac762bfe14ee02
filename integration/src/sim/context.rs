//! What a part of the simulation is handed with each message: the time, chance, the truth, and a way to answer.

use super::mail::{Address, Mail, Wake};
use super::oracle::Oracle;
use super::rng::Rng;
use lance_actors::ingestion::core::Now;
use std::time::Duration;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
/// What an operation of a slow disk takes at most.
const SLOWEST_DISK: u64 = 1_000 * MILLISECOND;

/// Something to be put into the schedule once the message is handled.
#[derive(Debug)]
pub enum Outgoing {
    /// A message.
    Send {
        /// From whom.
        from: Address,
        /// To whom.
        to: Address,
        /// The message.
        mail: Mail,
        /// How long it takes.
        delay_ns: u64,
    },
    /// A wake-up.
    Wake {
        /// Of whom.
        whom: Address,
        /// For what.
        wake: Wake,
        /// After how long.
        delay_ns: u64,
    },
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Topics are made; nothing goes wrong.
    #[default]
    Setup,
    /// Everything goes wrong.
    Chaos,
    /// Nothing goes wrong any more; work is finished.
    Settle,
}

/// How many times slower than usual a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slowness {
    /// Its disk.
    pub disk: u32,
    /// Its threads.
    pub threads: u32,
}

impl Default for Slowness {
    fn default() -> Self {
        Self { disk: 1, threads: 1 }
    }
}

/// The surroundings of one handler.
pub struct Context<'a> {
    /// Who handles.
    pub me: Address,
    /// Simulated time.
    pub now_ns: u64,
    /// The clocks of the machine it runs on.
    pub now: Now,
    /// How slow that machine is.
    pub slowness: Slowness,
    /// Where the run stands.
    pub phase: Phase,
    /// Chance.
    pub rng: &'a mut Rng,
    /// The truth.
    pub oracle: &'a mut Oracle,
    /// What follows.
    pub out: &'a mut Vec<Outgoing>,
}

impl Context<'_> {
    /// Sends a message, which takes as long as it takes between those two.
    pub fn send(&mut self, to: Address, mail: Mail) {
        let delay_ns = match (self.me, to) {
            (Address::Client(_), _) | (_, Address::Client(_)) => network_delay(self.rng),
            _ => mailbox_delay(self.rng) * u64::from(self.slowness.threads),
        };
        self.out.push(Outgoing::Send { from: self.me, to, mail, delay_ns });
    }

    /// How long an operation of the machine's disk takes.
    pub fn disk_delay(&mut self) -> u64 {
        let usual = disk_delay(self.rng);
        let slow = usual * u64::from(self.slowness.disk);
        slow.min(usual.max(SLOWEST_DISK))
    }

    /// Wakes the handler itself.
    pub fn wake(&mut self, wake: Wake, delay: Duration) {
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.out.push(Outgoing::Wake { whom: self.me, wake, delay_ns });
    }

    /// Milliseconds since the process started.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.now.elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Mostly the hop between two threads, sometimes a thread that was not scheduled for a while.
fn mailbox_delay(rng: &mut Rng) -> u64 {
    if rng.once_in(60) { rng.range(100 * MICROSECOND, 3 * MILLISECOND) } else { rng.range(500, 30 * MICROSECOND) }
}

/// Mostly a local network, sometimes a packet that was lost and sent again.
fn network_delay(rng: &mut Rng) -> u64 {
    if rng.once_in(40) {
        rng.range(MILLISECOND, 60 * MILLISECOND)
    } else {
        rng.range(20 * MICROSECOND, 300 * MICROSECOND)
    }
}

/// Mostly a good device, sometimes one that stalls.
fn disk_delay(rng: &mut Rng) -> u64 {
    match rng.below(200) {
        0 => rng.range(50 * MILLISECOND, 800 * MILLISECOND),
        1..=10 => rng.range(2 * MILLISECOND, 20 * MILLISECOND),
        _ => rng.range(20 * MICROSECOND, 1_500 * MICROSECOND),
    }
}
