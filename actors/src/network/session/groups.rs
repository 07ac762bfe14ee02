//! Requests about consumer groups: they go to the node that coordinates them.

use super::replies::ControlKind;
use super::routing::Route;
use super::{Effects, SessionCore, SessionEffect};
use crate::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::mail::group::{AskGroup, GroupRequest};
use lance_messages::wire::{Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// The request to the coordinator, if it is one.
pub(super) fn group_request(request: &Request) -> Option<GroupRequest> {
    Some(match request {
        Request::GroupHeartbeat(heartbeat) => GroupRequest::Heartbeat(heartbeat.clone()),
        Request::GroupCommit(commit) => GroupRequest::Commit(commit.clone()),
        Request::GroupOffsets(wanted) => GroupRequest::Offsets(wanted.clone()),
        Request::DescribeGroups(describe) => GroupRequest::Describe(describe.clone()),
        Request::DeleteGroup { group } => GroupRequest::Delete(group.clone()),
        _ => return None,
    })
}

impl SessionCore {
    pub(super) fn on_group_request(
        &mut self,
        asked: GroupRequest,
        action: Option<String>,
        correlation: u64,
        command: u8,
        view: &ClusterView,
        effects: &mut Effects,
    ) {
        if self.route_offsets(view) != Route::Here {
            return self.redirect_offsets(correlation, command, view);
        }
        let request = self.reserve_control(correlation, command, ControlKind::Group);
        self.note_action(request, action);
        let (client, trace) = (Arc::clone(&self.client_name), self.spans.group_trace(request));
        effects.push(SessionEffect::Group(request, AskGroup { client, request: asked, trace }));
    }

    /// The coordinator's answer.
    pub fn on_group_answer(
        &mut self,
        request: u64,
        answer: Result<Response, ErrorCode>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        self.audit_outcome(
            request,
            || answer.as_ref().map_or_else(|code| code.text().to_owned(), |_| "done".to_owned()),
            effects,
        );
        self.finish_control(request, view, |_| answer.map_err(|code| (code, None)));
        self.advance(effects, now);
    }
}
