//! Work of an actor that waits for something: it runs beside the mailbox, and inside the actor's guard all the same.

use crate::supervision::shell::{Shell, guarded};
use actix::prelude::*;
use futures_util::FutureExt;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, resume_unwind};

/// Runs `work` on the actor's thread, then `then` with its outcome. A panic of either fails the actor; a restart of
/// the actor ends the work.
pub fn spawn_guarded<S: Shell, T: 'static>(
    ctx: &mut Context<S>,
    work: impl Future<Output = T> + 'static,
    then: impl FnOnce(T, &mut S, &mut Context<S>) + 'static,
) {
    let work = actix::fut::wrap_future::<_, S>(AssertUnwindSafe(work).catch_unwind());
    ctx.spawn(work.map(|outcome, shell, ctx| {
        guarded(shell, ctx, |shell, ctx| -> Result<(), Infallible> {
            match outcome {
                Ok(outcome) => then(outcome, shell, ctx),
                Err(panic) => resume_unwind(panic),
            }
            Ok(())
        });
    }));
}

/// Calls `tick` at each interval, inside the actor's guard.
pub fn run_guarded_interval<S: Shell>(
    ctx: &mut Context<S>,
    interval: std::time::Duration,
    mut tick: impl FnMut(&mut S, &mut Context<S>) + 'static,
) {
    ctx.run_interval(interval, move |shell, ctx| {
        guarded(shell, ctx, |shell, ctx| -> Result<(), Infallible> {
            tick(shell, ctx);
            Ok(())
        });
    });
}
