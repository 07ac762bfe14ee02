//! Heartbeats: how members come, stay and go.
//!
//! Only a heartbeat with the member's current epoch changes anything for a member that is known; any other is answered with
//! what the member may hold, or with an error, and changes nothing. So a heartbeat that comes late, or twice, frees nothing.

use super::appends::{GroupAnswer, GroupEffect};
use super::coordinator::{Coordinator, surroundings};
use super::group::Group;
use super::limits::{MAX_GROUP_NAME_BYTES, MAX_LABEL_BYTES};
use super::member::{Member, Profile, is_member_id};
use super::partitions::Partitions;
use super::topics::TopicCatalog;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{
    AssignedTopic, GroupAssignment, GroupHeartbeat, JOIN_EPOCH, LEAVE_EPOCH, PAUSE_EPOCH,
};
use std::sync::Arc;
use std::time::Duration;

impl Coordinator {
    /// A member says that it lives, joins or goes. `client` is what its connection calls itself.
    pub fn on_heartbeat<C: TopicCatalog>(
        &mut self,
        token: u64,
        heartbeat: &GroupHeartbeat,
        client: &str,
        catalog: &C,
        now: Duration,
        effects: &mut Vec<GroupEffect>,
    ) {
        let answer = match self.refusal().or(malformed(heartbeat)) {
            Some(code) => Err(code),
            None => {
                self.look_at_topics(catalog, now);
                match heartbeat.epoch {
                    LEAVE_EPOCH => self.leave(heartbeat, now),
                    PAUSE_EPOCH => self.pause(heartbeat, now),
                    JOIN_EPOCH => self.join(heartbeat, client, catalog, now),
                    _ => self.beat(heartbeat, client, catalog, now),
                }
            }
        };
        let depends = self.append_of(&heartbeat.group, effects);
        self.appends.answer(depends, token, GroupAnswer::Heartbeat(answer), effects);
    }

    fn leave(&mut self, heartbeat: &GroupHeartbeat, now: Duration) -> Result<GroupAssignment, ErrorCode> {
        let gone = GroupAssignment { epoch: LEAVE_EPOCH, ..GroupAssignment::default() };
        let Some(group) = self.groups.get_mut(heartbeat.group.as_str()) else { return Ok(gone) };
        if group.replaced.contains(&heartbeat.member) {
            return Err(ErrorCode::FencedInstance);
        }
        let member = group.drop_member(&heartbeat.member, &mut surroundings!(self, now));
        Ok(member.map_or(gone.clone(), |member| GroupAssignment { epoch: member.epoch, ..gone }))
    }

    fn pause(&mut self, heartbeat: &GroupHeartbeat, now: Duration) -> Result<GroupAssignment, ErrorCode> {
        let group = self.groups.get_mut(heartbeat.group.as_str()).ok_or(ErrorCode::UnknownMember)?;
        let member = known(group, &heartbeat.member)?;
        if member.instance.is_none() {
            return Err(ErrorCode::InvalidRequest);
        }
        member.last_heard = now;
        let epoch = member.epoch;
        if group.free_revoking(&heartbeat.member) {
            group.push_member(&heartbeat.member, &mut self.records);
        }
        Ok(GroupAssignment { epoch, ..GroupAssignment::default() })
    }

    fn join(
        &mut self,
        heartbeat: &GroupHeartbeat,
        client: &str,
        catalog: &dyn TopicCatalog,
        now: Duration,
    ) -> Result<GroupAssignment, ErrorCode> {
        if !heartbeat.owned.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let profile = Profile::of(heartbeat, client, &self.limits)?;
        let name: Arc<str> = heartbeat.group.as_str().into();
        let is_new = !self.groups.contains_key(&name);
        if is_new {
            if self.groups.len() >= self.limits.groups {
                return Err(ErrorCode::LimitReached);
            }
            self.groups.insert(Arc::clone(&name), Group::new(Arc::clone(&name), self.epoch_floor));
        }
        let Some(group) = self.groups.get_mut(&name) else { return Err(ErrorCode::Internal) };
        let joined = admit(group, heartbeat, profile, catalog, &mut surroundings!(self, now));
        if joined.is_err() && is_new {
            self.groups.remove(&name);
        }
        joined?;
        self.assignment(&heartbeat.group, &heartbeat.member, catalog)
    }

    fn beat(
        &mut self,
        heartbeat: &GroupHeartbeat,
        client: &str,
        catalog: &dyn TopicCatalog,
        now: Duration,
    ) -> Result<GroupAssignment, ErrorCode> {
        let id = heartbeat.member.as_str();
        let group = self.groups.get_mut(heartbeat.group.as_str()).ok_or(ErrorCode::UnknownMember)?;
        let member = known(group, id)?;
        same_life(member, heartbeat)?;
        let owned = Partitions::from(heartbeat.owned.clone());
        let holds_its_own = Partitions::all_in(&owned, &member.assigned, &member.revoking);
        if member.expelled || heartbeat.epoch > member.epoch || !holds_its_own {
            return Err(ErrorCode::UnknownMember);
        }
        member.last_heard = now;
        if heartbeat.epoch == member.epoch {
            let profile = Profile::of(heartbeat, client, &self.limits)?;
            let reads_the_same = member.topics[..] == heartbeat.topics[..];
            if !reads_the_same
                && group.partitions_with(&heartbeat.topics, catalog, &self.topics) > self.limits.partitions
            {
                return Err(ErrorCode::LimitReached);
            }
            let mut around = surroundings!(self, now);
            let mut changed = group.update_profile(id, profile, &heartbeat.topics, catalog, &mut around);
            group.retarget(&mut around);
            changed |= group.reconcile(id, Some(&owned), now);
            if changed {
                group.push_member(id, around.records);
                let id: Arc<str> = id.into();
                group.set_member_timer(&id, around.timers);
            }
        }
        self.assignment(&heartbeat.group, id, catalog)
    }

    /// What a member is told.
    fn assignment(&self, group: &str, id: &str, catalog: &dyn TopicCatalog) -> Result<GroupAssignment, ErrorCode> {
        let group = self.groups.get(group).ok_or(ErrorCode::UnknownMember)?;
        let member = group.members.get(id).ok_or(ErrorCode::UnknownMember)?;
        let interval = group.heartbeat_interval(member.profile.session_timeout);
        // A topic without a name is deleted: nobody reads it.
        let topics = member.assigned.by_topic().filter_map(|(id, partitions)| {
            let partitions = partitions.iter().map(|partition| partition.partition).collect();
            Some(AssignedTopic { id, name: catalog.name(id)?.to_owned(), partitions })
        });
        Ok(GroupAssignment {
            epoch: member.epoch,
            heartbeat_interval_ms: interval.as_millis() as u32,
            topics: topics.collect(),
        })
    }
}

fn malformed(heartbeat: &GroupHeartbeat) -> Option<ErrorCode> {
    let is_sound = (1..=MAX_GROUP_NAME_BYTES).contains(&heartbeat.group.len())
        && is_member_id(&heartbeat.member)
        && heartbeat.instance.as_ref().is_none_or(|name| (1..=MAX_LABEL_BYTES).contains(&name.len()))
        && heartbeat.epoch >= PAUSE_EPOCH;
    (!is_sound).then_some(ErrorCode::InvalidRequest)
}

/// A member, or why there is none.
fn known<'a>(group: &'a mut Group, id: &str) -> Result<&'a mut Member, ErrorCode> {
    let fenced = group.replaced.contains(id);
    group.members.get_mut(id).ok_or(if fenced { ErrorCode::FencedInstance } else { ErrorCode::UnknownMember })
}

/// Under one id instance and session stay: whoever is answered counts on the session it asked for.
fn same_life(member: &Member, heartbeat: &GroupHeartbeat) -> Result<(), ErrorCode> {
    let session = Duration::from_millis(u64::from(heartbeat.session_timeout_ms));
    let is_same = member.instance == heartbeat.instance && member.profile.session_timeout == session;
    if is_same { Ok(()) } else { Err(ErrorCode::InvalidRequest) }
}

/// Takes in a member that joins.
fn admit(
    group: &mut Group,
    heartbeat: &GroupHeartbeat,
    profile: Profile,
    catalog: &dyn TopicCatalog,
    around: &mut super::group::Surroundings<'_>,
) -> Result<(), ErrorCode> {
    let id: Arc<str> = heartbeat.member.as_str().into();
    if group.replaced.contains(&*id) {
        return Err(ErrorCode::FencedInstance);
    }
    if group.epoch == i32::MAX {
        return Err(ErrorCode::LimitReached);
    }
    if let Some(member) = group.members.get_mut(&id) {
        same_life(member, heartbeat)?;
        // It begins a new life with the place it had. This may also be its first joining, come late: so nothing is free by it.
        if !member.is_out_of_epochs() {
            member.raise_epoch(group.epoch);
        }
        around.earlier_commits.keep(&group.name, &id, member);
        member.begin_commits();
        member.last_heard = around.now;
        member.expelled = false;
        member.revoking_since = member.revoking_since.map(|_| around.now);
    } else {
        if group.partitions_with(&heartbeat.topics, catalog, around.topics) > around.limits.partitions {
            return Err(ErrorCode::LimitReached);
        }
        let place = heartbeat.instance.as_ref().and_then(|instance| group.instances.get(instance).cloned());
        match place {
            Some(old) => {
                group.take_place(&old, &id, around).ok_or(ErrorCode::Internal)?;
                if let Some(member) = group.members.get_mut(&id) {
                    member.raise_epoch(group.epoch);
                    member.begin_commits();
                }
                group.update_profile(&id, profile, &heartbeat.topics, catalog, around);
            }
            None => {
                if group.members.len() >= around.limits.members {
                    return Err(ErrorCode::LimitReached);
                }
                let topics = group.subscribe(heartbeat.topics.clone(), Some(catalog), around);
                let mut member = Member::new(profile, topics, group.epoch.saturating_add(1), around.now);
                member.instance.clone_from(&heartbeat.instance);
                group.insert(Arc::clone(&id), member, around);
                group.note_change(around);
                group.retarget(around);
                group.take_first(&id);
            }
        }
    }
    group.push_member(&id, around.records);
    let id = &id;
    group.set_member_timer(id, around.timers);
    Ok(())
}
