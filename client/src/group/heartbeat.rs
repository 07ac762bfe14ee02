//! The task that keeps a membership alive.

use super::admin::bad_reply;
use super::coordinator::Coordinator;
use super::membership::{AssignedPartition, Membership};
use crate::error::ClientError;
use crate::options::Backoff;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{GroupAssignment, LEAVE_EPOCH, PAUSE_EPOCH};
use lance_messages::wire::{Request, Response};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// First wait after a heartbeat that failed.
const RETRY: Duration = Duration::from_millis(50);
/// How long leaving may take: the session ends by itself where nobody hears of it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// What the consumer has to know.
#[derive(Debug)]
pub(super) enum GroupEvent {
    /// Read these from now on.
    Gained(Vec<AssignedPartition>),
    /// Give these up, and say so.
    Revoked(Vec<AssignedPartition>),
    /// These are others' by now.
    Lost(Vec<AssignedPartition>),
    /// There is no membership any more.
    Ended(ClientError),
}

/// What the task and the consumer share.
#[derive(Debug)]
pub(super) struct Shared {
    membership: Mutex<Membership>,
    pub(super) coordinator: Coordinator,
    /// A heartbeat is wanted now.
    pub(super) wake: Notify,
    /// When the consumer asked for records last.
    polled: Mutex<Instant>,
    max_poll_interval: Duration,
    started: Instant,
}

impl Shared {
    pub(super) fn new(membership: Membership, coordinator: Coordinator, max_poll_interval: Duration) -> Self {
        let (membership, wake, started) = (Mutex::new(membership), Notify::new(), Instant::now());
        Self { membership, coordinator, wake, polled: Mutex::new(started), max_poll_interval, started }
    }

    pub(super) fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer asks for records.
    pub(super) fn note_poll(&self) {
        *self.polled.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_idle(&self) -> bool {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > self.max_poll_interval
    }
}

/// A name that no other member has.
pub(super) fn new_member_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Heartbeats until the membership ends or the consumer is gone.
pub(super) async fn run(shared: Arc<Shared>, events: mpsc::UnboundedSender<GroupEvent>) {
    let mut backoff = Backoff::new(RETRY);
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.wake.notified() => {}
            () = events.closed() => return,
        }
        if shared.is_idle() {
            // Whoever takes no records for so long must not keep others from them.
            leave(&shared, LEAVE_EPOCH).await;
            tracing::warn!(after = ?shared.max_poll_interval, "the group is left: no records were asked for");
            lose(&shared, &events);
            while shared.is_idle() && !events.is_closed() {
                tokio::time::sleep(RETRY).await;
            }
            continue;
        }
        match beat(&shared).await {
            Ok((sent, assignment)) => {
                backoff.reset();
                wait = Duration::from_millis(u64::from(assignment.heartbeat_interval_ms.max(10)));
                let change = shared.membership().on_assignment(sent, &assignment);
                // A consumer that is gone needs no events: the loop ends.
                if !change.revoked.is_empty() {
                    _ = events.send(GroupEvent::Revoked(change.revoked));
                }
                if !change.gained.is_empty() {
                    _ = events.send(GroupEvent::Gained(change.gained));
                }
            }
            Err(error) if has_to_join_again(&error) => {
                tracing::info!(%error, "joining the group again");
                lose(&shared, &events);
                wait = Duration::ZERO;
            }
            Err(error) if error.is_retriable() => {
                tracing::debug!(%error, "a heartbeat failed");
                if shared.membership().is_expired(shared.started.elapsed()) {
                    lose(&shared, &events);
                }
                wait = backoff.next_wait();
            }
            Err(error) => {
                lose(&shared, &events);
                _ = events.send(GroupEvent::Ended(error));
                return;
            }
        }
    }
}

/// One heartbeat; gives when it was sent.
async fn beat(shared: &Shared) -> Result<(Duration, GroupAssignment), ClientError> {
    let sent = shared.started.elapsed();
    let (heartbeat, session) = {
        let membership = shared.membership();
        (membership.heartbeat(membership.epoch()), membership.profile().session_timeout)
    };
    match shared.coordinator.ask(&Request::GroupHeartbeat(heartbeat), "group heartbeat", session / 3).await? {
        Response::GroupHeartbeat(assignment) => Ok((sent, assignment)),
        _ => Err(bad_reply("group heartbeat")),
    }
}

fn lose(shared: &Shared, events: &mpsc::UnboundedSender<GroupEvent>) {
    let lost = shared.membership().start_over(new_member_name());
    if !lost.is_empty() {
        _ = events.send(GroupEvent::Lost(lost));
    }
}

/// Tells the coordinator that the member goes.
pub(super) async fn leave(shared: &Shared, epoch: i32) {
    let heartbeat = shared.membership().heartbeat(epoch);
    let asked = shared.coordinator.ask(&Request::GroupHeartbeat(heartbeat), "leave group", LEAVE_PATIENCE).await;
    if let Err(error) = asked {
        tracing::debug!(%error, "leaving the group was not heard; the session will end by itself");
    }
}

/// The epoch with which a member goes: one with a name of its own comes back to what it had.
pub(super) fn leaving_epoch(shared: &Shared) -> i32 {
    if shared.membership().profile().instance.is_some() { PAUSE_EPOCH } else { LEAVE_EPOCH }
}

fn has_to_join_again(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::UnknownMember | ErrorCode::StaleMemberEpoch))
}
