//! Answers to requests that come to nothing.

use super::reading::answer_fetch;
use super::{Effects, IngestionEffect, Now};
use crate::ingestion::partition::{Held, Leadership, Partition};
use crate::ingestion::waiters::Waiters;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::ConnectionId;
use lance_messages::mail::connection::{Answer, Reply};
use lance_storage::log::Latch;

pub(super) fn stop(partition: &mut Partition, reason: String, latch: Option<Latch>, effects: &mut Effects) {
    if matches!(partition.leadership, Leadership::Stopped { .. }) {
        return;
    }
    partition.succeeded = matches!(partition.leadership, Leadership::Following { .. });
    partition.leadership = Leadership::Stopped { reason: reason.clone() };
    // What was appended may be durable, here or on a follower: nobody may send something else in its place.
    refuse_pending(partition, ErrorCode::OutcomeUnknown, effects);
    let code = stopped_code(partition);
    refuse_all_held(partition, code, effects);
    refuse_waiters(&mut partition.waiters, code, effects);
    effects.push(IngestionEffect::Stopped(partition.id, reason, latch));
}

/// Another node takes over what this one led; a partition without other copies is offline.
fn stopped_code(partition: &Partition) -> ErrorCode {
    let led_elsewhere = partition.succeeded || partition.leader.is_some();
    if led_elsewhere { ErrorCode::NotLeader } else { ErrorCode::StorageOffline }
}

pub(super) fn fail_all(partition: &mut Partition, code: ErrorCode, effects: &mut Effects) {
    refuse_pending(partition, code, effects);
    refuse_all_held(partition, code, effects);
    refuse_waiters(&mut partition.waiters, code, effects);
}

/// Answers every request whose batch is appended and not committed.
pub(super) fn refuse_pending(partition: &mut Partition, code: ErrorCode, effects: &mut Effects) {
    for pending in partition.pending.drain() {
        refuse(effects, pending.connection, pending.request, code);
    }
}

/// Answers every fetch that waits for records.
pub(super) fn refuse_waiters(waiters: &mut Waiters, code: ErrorCode, effects: &mut Effects) {
    while let Some(fetch) = waiters.take_any() {
        // What has befallen a replica is not for its readers to know: the leader goes on.
        let code = if fetch.near { ErrorCode::NotLeader } else { code };
        answer_fetch(effects, &fetch, Err(code));
    }
}

pub(super) fn hold_or_refuse(partition: &mut Partition, held: Held, now: Now, effects: &mut Effects) {
    match partition.leadership {
        Leadership::Following { .. } => refuse_held(held, ErrorCode::NotLeader, effects),
        Leadership::Stopped { .. } => refuse_held(held, stopped_code(partition), effects),
        _ => {
            if partition.held.is_empty() {
                partition.held_since = now.elapsed;
            }
            partition.held.push_back(held);
        }
    }
}

/// Answers every request that waits for an epoch.
pub(super) fn refuse_all_held(partition: &mut Partition, code: ErrorCode, effects: &mut Effects) {
    while let Some(held) = partition.held.pop_front() {
        refuse_held(held, code, effects);
    }
}

fn refuse_held(held: Held, code: ErrorCode, effects: &mut Effects) {
    match held {
        Held::Produce(connection, request) => refuse(effects, connection, request.request, code),
        Held::Fetch(fetch) => answer_fetch(effects, &fetch, Err(code)),
        Held::LookUp(look_up) => {
            let reply = Reply { request: look_up.request, answer: Answer::LookedUp(Err(code)) };
            effects.push(IngestionEffect::Reply(look_up.connection, reply));
        }
    }
}

pub(super) fn refuse(effects: &mut Effects, connection: ConnectionId, request: u64, code: ErrorCode) {
    effects.push(IngestionEffect::Reply(connection, Reply { request, answer: Answer::Produced(Err(code)) }));
}
