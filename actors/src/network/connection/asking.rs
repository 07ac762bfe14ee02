//! What a connection asks of other actors, and the answers it waits for.

use super::ConnectionActor;
use crate::ingestion::maintenance::describe_partitions;
use crate::metadata::actor::Call;
use crate::network::session::answers::CallFailure;
use crate::network::session::{DEFAULT_TOPIC_REQUEST, MetadataCall};
use crate::tee::TeeCall;
use actix::prelude::*;
use lance_messages::error_code::ErrorCode;
use lance_messages::mail::group::AskGroup;
use lance_messages::wire::tee::TeeRequest;

impl ConnectionActor {
    pub(super) fn ask_metadata(&mut self, request: u64, call: MetadataCall, ctx: &mut Context<Self>) {
        let answer = actix::fut::wrap_future::<_, Self>(self.setup.metadata.send(Call(call)));
        ctx.spawn(answer.map(move |answer, actor, ctx| {
            let unavailable = |_| Err(CallFailure::Failed(ErrorCode::Unavailable, "no metadata".to_owned()));
            let answer = answer.unwrap_or_else(unavailable);
            actor.with_core_later(ctx, |core, view, now, effects| {
                if request == DEFAULT_TOPIC_REQUEST {
                    core.on_default_topic(answer.is_ok(), view, now, effects);
                } else {
                    core.on_metadata(request, answer, view, now, effects);
                }
            });
        }));
    }

    /// Asks the tee actor about rules.
    pub(super) fn ask_tee(&mut self, request: u64, asked: TeeRequest, ctx: &mut Context<Self>) {
        let answer = actix::fut::wrap_future::<_, Self>(self.setup.tee.send(TeeCall(asked)));
        ctx.spawn(answer.map(move |answer, actor, ctx| {
            let unknown = |_| {
                let code = ErrorCode::OutcomeUnknown;
                Err(CallFailure::Failed(code, code.text().to_owned()))
            };
            let answer = answer.unwrap_or_else(unknown);
            actor.with_core_later(ctx, |core, view, now, effects| core.on_tee(request, answer, view, now, effects));
        }));
    }

    pub(super) fn ask_group(&mut self, request: u64, asked: AskGroup, ctx: &mut Context<Self>) {
        let answer = actix::fut::wrap_future::<_, Self>(self.setup.group.send(asked));
        ctx.spawn(answer.map(move |answer, actor, ctx| {
            let answer = answer.unwrap_or(Err(ErrorCode::OutcomeUnknown));
            actor.with_core_later(ctx, |core, view, now, effects| {
                core.on_group_answer(request, answer, view, now, effects);
            });
        }));
    }

    /// Asks every shard how its partitions stand.
    pub(super) fn describe(&mut self, request: u64, ctx: &mut Context<Self>) {
        let shards = self.setup.shards.clone();
        let described = async move { describe_partitions(&shards).await };
        let described = actix::fut::wrap_future::<_, Self>(described);
        ctx.spawn(described.map(move |statuses, actor, ctx| {
            actor.with_core_later(ctx, |core, view, now, effects| {
                core.on_described(request, &statuses, view, now, effects);
            });
        }));
    }

    pub(super) fn await_commit(
        &self,
        request: u64,
        answer: impl Future<Output = Result<Result<(), ErrorCode>, MailboxError>> + 'static,
        ctx: &mut Context<Self>,
    ) {
        ctx.spawn(actix::fut::wrap_future::<_, Self>(answer).map(move |answer, actor, ctx| {
            let result = answer.unwrap_or(Err(ErrorCode::OutcomeUnknown));
            actor.with_core_later(ctx, |core, view, now, effects| {
                core.on_committed(request, result, view, now, effects);
            });
        }));
    }

    pub(super) fn await_committed(
        &self,
        request: u64,
        answer: impl Future<Output = Result<Result<Option<u64>, ErrorCode>, MailboxError>> + 'static,
        ctx: &mut Context<Self>,
    ) {
        ctx.spawn(actix::fut::wrap_future::<_, Self>(answer).map(move |answer, actor, ctx| {
            let result = answer.unwrap_or(Err(ErrorCode::Unavailable));
            actor.with_core_later(ctx, |core, view, now, effects| {
                core.on_committed_offset(request, result, view, now, effects);
            });
        }));
    }
}
