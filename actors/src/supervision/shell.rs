//! The guard every actor runs its core in, and what happens after a failure.
//!
//! `actix::Supervisor` restarts an actor that stops and knows nothing of panics, so a shell catches both an
//! error and an unwind of its core, drops the core, and stops its context; the supervisor keeps the address.

use super::policy::{RestartHistory, RestartPolicy, Verdict};
use super::vitals::{ActorState, Vitals};
use crate::events::{Event, events};
use actix::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Span;

/// An actor used up its restart budget; its parent has to decide.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Escalated {
    /// Name of the actor.
    pub name: String,
    /// Its last failure.
    pub reason: String,
}

/// Makes the receiving actor panic; sent only by fault injection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct InjectPanic;

/// The part of an actor's life that outlives its core.
pub struct Life {
    /// What the supervision tree shows.
    pub vitals: Arc<Vitals>,
    history: RestartHistory,
    pending_pause: Option<Verdict>,
    parent: Recipient<Escalated>,
    last_reason: String,
    origin: Instant,
    /// From a failure until it serves again; what is logged inside is told with it.
    restarting: Option<Span>,
}

impl Life {
    /// The life of a new actor below `parent`.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>) -> Self {
        Self {
            vitals,
            history: RestartHistory::new(policy),
            pending_pause: None,
            parent,
            last_reason: String::new(),
            origin: Instant::now(),
            restarting: None,
        }
    }

    fn on_failure(&mut self, reason: String) {
        let verdict = self.history.on_failure(self.origin.elapsed());
        self.restart(reason, verdict);
    }

    fn restart(&mut self, reason: String, verdict: Verdict) {
        self.vitals.set_state(ActorState::Restarting);
        self.vitals.count_restart();
        let pause_ms = match verdict {
            Verdict::RestartAfter(pause) => u64::try_from(pause.as_millis()).ok(),
            Verdict::Escalate => None,
        };
        let span = tracing::info_span!(
            "restart",
            lance.actor.name = %self.vitals.name,
            lance.actor = self.vitals.kind.as_str(),
            lance.actor.restarts = self.vitals.restarts(),
            lance.restart.reason = %reason,
            lance.restart.pause_ms = pause_ms,
        );
        span.in_scope(|| tracing::error!(actor = %self.vitals.name, %reason, "actor failed"));
        events().note(Event::of_restart(&self.vitals.name, &reason));
        (self.pending_pause, self.last_reason) = (Some(verdict), reason);
        self.restarting = Some(span);
    }

    /// The span of a restart that is under way.
    pub fn restarting(&self) -> Option<&Span> {
        self.restarting.as_ref()
    }

    /// Something went well: a restart is over once the actor serves.
    fn settle(&mut self) {
        if self.restarting.is_some() && self.vitals.state() == ActorState::Running {
            let span = self.restarting.take().unwrap_or_else(Span::none);
            span.in_scope(|| tracing::info!(actor = %self.vitals.name, "actor serves again"));
        }
    }
}

/// An actor whose core runs inside the guard.
pub trait Shell: Actor<Context = Context<Self>> + Supervised {
    /// Its life.
    fn life(&mut self) -> &mut Life;
    /// Drops the core: it failed and is never used again.
    fn drop_core(&mut self, ctx: &mut Self::Context);
    /// Builds a core from durable state and begins to serve; called at start and after each restart.
    /// A shell whose recovery takes time lets its context wait for it.
    fn begin(&mut self, ctx: &mut Self::Context);
}

/// To be called from `Actor::started`: begins at once, or after the pause that the last failure earned.
pub fn start<S: Shell>(shell: &mut S, ctx: &mut S::Context) {
    match shell.life().pending_pause.take() {
        None => begin_guarded(shell, ctx),
        Some(Verdict::RestartAfter(pause)) => {
            let pause = actix::fut::wrap_future::<_, S>(actix_rt::time::sleep(pause));
            ctx.wait(pause.map(|(), shell, ctx| begin_guarded(shell, ctx)));
        }
        Some(Verdict::Escalate) => {
            let life = shell.life();
            let message = Escalated { name: life.vitals.name.clone(), reason: life.last_reason.clone() };
            let span = life.restarting.take().unwrap_or_else(Span::none);
            span.in_scope(|| {
                tracing::error!(actor = %message.name, reason = %message.reason, "this actor is not started again");
            });
            let send = life.parent.send(message);
            let send = actix::fut::wrap_future::<_, S>(async move {
                // The parent ends the process; nothing is served until then.
                let _ = send.await;
                std::future::pending::<()>().await;
            });
            ctx.wait(send);
        }
    }
}

fn begin_guarded<S: Shell>(shell: &mut S, ctx: &mut S::Context) {
    guarded(shell, ctx, |shell, ctx| {
        shell.begin(ctx);
        Ok::<(), std::convert::Infallible>(())
    });
}

/// Runs `work` inside the guard; after an error or a panic the core is dropped and the actor restarts.
pub fn guarded<S: Shell, R, E: std::fmt::Display>(
    shell: &mut S,
    ctx: &mut S::Context,
    work: impl FnOnce(&mut S, &mut S::Context) -> Result<R, E>,
) -> Option<R> {
    let reason = match catch_unwind(AssertUnwindSafe(|| work(shell, ctx))) {
        Ok(Ok(value)) => {
            shell.life().settle();
            return Some(value);
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("panic: {}", panic_text(panic.as_ref())),
    };
    fail(shell, ctx, reason);
    None
}

/// Fails the actor from outside its guard, for a reason found by its shell.
pub fn fail<S: Shell>(shell: &mut S, ctx: &mut S::Context, reason: String) {
    shell.life().on_failure(reason);
    end_life(shell, ctx);
}

/// Fails the actor because one that it depends on did: that one's pause is waited for, and its policy bounds how often.
pub fn fail_along<S: Shell>(shell: &mut S, ctx: &mut S::Context, reason: String) {
    shell.life().restart(reason, Verdict::RestartAfter(Duration::ZERO));
    end_life(shell, ctx);
}

fn end_life<S: Shell>(shell: &mut S, ctx: &mut S::Context) {
    // A core that panics again while it is dropped must not take the thread with it.
    if catch_unwind(AssertUnwindSafe(|| shell.drop_core(ctx))).is_err() {
        tracing::error!(actor = %shell.life().vitals.name, "core panicked while it was dropped");
    }
    ctx.stop();
}

/// Ends the process from inside an actor whose restart would change nothing: its parent hears of it at once.
pub fn give_up<S: Shell>(shell: &mut S, ctx: &mut S::Context, reason: String) {
    fail(shell, ctx, reason);
    shell.life().pending_pause = Some(Verdict::Escalate);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

/// Waits for `duration` on the actor's own thread.
pub async fn pause(duration: Duration) {
    actix_rt::time::sleep(duration).await;
}

/// Implements `Actor`, `Supervised` and fault injection for a shell.
#[macro_export]
macro_rules! supervised_shell {
    ($shell:ty, $capacity:expr) => {
        impl actix::Actor for $shell {
            type Context = actix::Context<Self>;

            fn started(&mut self, ctx: &mut Self::Context) {
                ctx.set_mailbox_capacity($capacity);
                $crate::supervision::shell::start(self, ctx);
            }
        }

        impl actix::Supervised for $shell {}

        impl actix::Handler<$crate::supervision::shell::InjectPanic> for $shell {
            type Result = ();

            #[allow(clippy::panic, reason = "fault injection is a panic on purpose")]
            fn handle(&mut self, _: $crate::supervision::shell::InjectPanic, ctx: &mut Self::Context) {
                self.life.vitals.message_taken();
                $crate::supervision::shell::guarded(self, ctx, |_, _| -> Result<(), std::convert::Infallible> {
                    panic!("injected fault")
                });
            }
        }
    };
}
