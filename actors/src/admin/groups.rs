//! Consumer groups as the admin interface lists them.

use crate::group::actor::GroupActor;
use crate::group::describing::DescribeAllGroups;
use crate::mailbox::Mailbox;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;

/// Answers `GET /v1/groups`.
pub type ListGroups = Arc<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>;

/// Lists the groups that this node coordinates, with how far they are behind.
pub fn list_groups(group: Mailbox<GroupActor>) -> ListGroups {
    Arc::new(move || {
        let asked = group.send(DescribeAllGroups);
        async move { asked.await.ok().flatten().unwrap_or_default() }.boxed()
    })
}
