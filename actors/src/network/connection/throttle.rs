//! Clients that move more than their quota wait.

use super::ConnectionActor;
use crate::network::quotas::{Meter, Meters};
use actix::prelude::*;
use std::time::Duration;

/// A throttled client hears from the server this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

impl ConnectionActor {
    pub(super) fn charge_produce(&mut self, bytes: u64, ctx: &mut Context<Self>) {
        self.charge(bytes, |meters| meters.produce.as_ref(), ctx);
    }

    pub(super) fn charge_fetch(&mut self, bytes: u64, ctx: &mut Context<Self>) {
        self.charge(bytes, |meters| meters.fetch.as_ref(), ctx);
    }

    /// A connection that says who it is owes what others of its name, or those before it, have left unpaid.
    pub(super) fn take_over_debts(&mut self, ctx: &mut Context<Self>) {
        self.charge_produce(0, ctx);
        self.charge_fetch(0, ctx);
    }

    fn charge(&mut self, bytes: u64, of: fn(&Meters) -> Option<&Meter>, ctx: &mut Context<Self>) {
        let now = self.setup.clock.now().elapsed;
        let meters = self.meters.iter().flatten().filter_map(|meters| of(meters));
        let Some(wait) = meters.map(|meter| meter.charge(bytes, now)).max() else { return };
        self.throttle(wait, now, ctx);
    }

    fn throttle(&mut self, wait: Duration, now: Duration, ctx: &mut Context<Self>) {
        if wait.is_zero() {
            return;
        }
        self.setup.metrics.throttled_ns.add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
        let before = self.throttled_until;
        self.throttled_until = before.max(now + wait);
        if before <= now {
            self.stay_throttled(now, ctx);
        }
    }

    fn stay_throttled(&mut self, now: Duration, ctx: &mut Context<Self>) {
        self.core.set_throttled(true);
        let wait = self.throttled_until.saturating_sub(now).min(SIGN_OF_LIFE);
        ctx.run_later(wait, |actor, ctx| {
            let now = actor.setup.clock.now().elapsed;
            if actor.throttled_until > now {
                actor.stay_throttled(now, ctx);
            } else {
                actor.core.set_throttled(false);
            }
            actor.wake();
        });
    }
}
