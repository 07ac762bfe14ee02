//! An administrator: makes the topics everybody uses, then makes, widens and deletes others, and looks whether all is there.

use super::wire::Wire;
use crate::sim::check::metadata::created;
use crate::sim::context::{Context, Phase};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicId;
use lance_messages::wire::topics::{AlterTopic, CreateTopicWithConfig, MetadataRequest, MetadataResponse};
use lance_messages::wire::{Request, Response};
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Debug)]
enum Task {
    Create(String, u16),
    /// Its creation was refused because it exists: which id has it?
    Find(String, u16),
    Widen(String, TopicId, u16),
    Delete(String, TopicId),
    /// Everything created must be listed.
    List(BTreeMap<String, TopicId>),
}

/// An administrator.
pub struct Admin {
    tasks: VecDeque<Task>,
    asked: Option<Task>,
    extra: u32,
    next_idea_ns: u64,
    paused_until_ns: u64,
    /// Makes the first topics and nothing else.
    calm: bool,
    /// Among several nodes: the one that answers may be behind the others.
    several: bool,
}

impl Admin {
    /// An administrator who makes these topics first.
    pub fn new(topics: &[(String, u16)]) -> Self {
        let tasks = topics.iter().map(|(name, partitions)| Task::Create(name.clone(), *partitions)).collect();
        Self { tasks, asked: None, extra: 0, next_idea_ns: 0, paused_until_ns: 0, calm: false, several: false }
    }

    /// One who makes these topics and is content, whichever node answers.
    pub fn calm(topics: &[(String, u16)]) -> Self {
        Self { calm: true, ..Self::changing(topics) }
    }

    /// One who makes these topics, and then others come and go, whichever node answers.
    pub fn changing(topics: &[(String, u16)]) -> Self {
        Self { several: true, ..Self::new(topics) }
    }

    /// What is still to be done.
    pub fn unfinished(&self, phase: Phase) -> Option<String> {
        if phase == Phase::Setup && !(self.tasks.is_empty() && self.asked.is_none()) {
            return Some("the topics are not made yet".to_owned());
        }
        let task = self.asked.as_ref().or(self.tasks.front())?;
        Some(format!("the administrator waits for {task:?}"))
    }

    /// Asks for the next thing.
    pub fn work(&mut self, wire: &mut Wire, ctx: &mut Context<'_>) {
        if ctx.phase == Phase::Chaos && !self.calm && self.tasks.is_empty() && ctx.now_ns > self.next_idea_ns {
            self.next_idea_ns = ctx.now_ns + ctx.rng.range(50_000_000, 600_000_000);
            self.have_idea(ctx);
        }
        if self.asked.is_some() || ctx.now_ns < self.paused_until_ns {
            return;
        }
        let Some(task) = self.tasks.pop_front() else { return };
        let request = match &task {
            Task::Create(name, partitions) => Request::CreateTopicWithConfig(CreateTopicWithConfig {
                name: name.clone(),
                partitions: Some(*partitions),
                replication_factor: None,
                mode: None,
                max_age_secs: None,
                max_bytes: None,
            }),
            Task::Widen(_, topic, partitions) => Request::AlterTopic(AlterTopic {
                topic: *topic,
                partitions: Some(*partitions),
                max_age_secs: None,
                max_bytes: None,
            }),
            Task::Delete(name, topic) => {
                if let Some(truth) = ctx.oracle.topics.get_mut(name) {
                    truth.deleting = true;
                }
                Request::DeleteTopic { topic: *topic }
            }
            Task::Find(..) | Task::List(_) => {
                Request::Metadata(MetadataRequest { topics: Vec::new(), create_missing: false })
            }
        };
        self.asked = Some(task);
        wire.send(request, 0, 1, ctx);
    }

    fn have_idea(&mut self, ctx: &mut Context<'_>) {
        let extra = ctx.oracle.topics.iter().filter(|(name, topic)| name.starts_with('x') && !topic.deleting);
        let extra: Vec<(String, TopicId, u16)> = extra.map(|(name, t)| (name.clone(), t.id, t.partitions)).collect();
        let one = extra.get(ctx.rng.below(extra.len() as u64) as usize).cloned();
        let task = match (ctx.rng.below(5), one) {
            (0 | 1, _) => {
                self.extra += 1;
                // Names come again, ids must not.
                Task::Create(format!("x{}", self.extra % 7), 1 + ctx.rng.below(3) as u16)
            }
            (2, Some((name, id, partitions))) => Task::Widen(name, id, partitions + 1),
            (3, Some((name, id, _))) => Task::Delete(name, id),
            _ if self.several => return,
            _ => {
                let topics = ctx.oracle.topics.iter().filter(|(_, topic)| !topic.deleting);
                Task::List(topics.map(|(name, topic)| (name.clone(), topic.id)).collect())
            }
        };
        // A name in use is made again only once it is gone.
        let taken = matches!(&task, Task::Create(name, _) if ctx.oracle.topics.contains_key(name));
        if !taken {
            self.tasks.push_back(task);
        }
    }

    /// The connection is gone: whatever was asked is asked again.
    pub fn on_lost(&mut self) {
        if let Some(task) = self.asked.take() {
            self.tasks.push_front(task);
        }
    }

    /// A reply.
    pub fn on_reply(&mut self, response: Response, ctx: &mut Context<'_>) {
        let Some(task) = self.asked.take() else { return };
        match (task, response) {
            (Task::Create(name, partitions), Response::CreateTopicWithConfig(topic)) => {
                created(ctx.oracle, &name, topic.topic, partitions);
            }
            (Task::Create(name, partitions), Response::Error(error)) if error.code == ErrorCode::TopicExists => {
                self.tasks.push_front(Task::Find(name, partitions));
            }
            (Task::Find(name, partitions), Response::Metadata(metadata)) => {
                match metadata.topics.iter().find(|topic| topic.name == name) {
                    Some(topic) => created(ctx.oracle, &name, topic.id, partitions),
                    None if self.several => self.tasks.push_front(Task::Find(name, partitions)),
                    None => ctx.oracle.violated(format!("topic {name} exists and is not listed")),
                }
            }
            (Task::Widen(name, _, partitions), Response::AlterTopic(_)) => {
                if let Some(truth) = ctx.oracle.topics.get_mut(&name) {
                    truth.partitions = partitions;
                }
            }
            (Task::Delete(name, id), Response::Topic(_)) => gone(&name, id, ctx),
            (Task::Delete(..), Response::Error(error)) if self.several && error.code == ErrorCode::TopicNotFound => {}
            // The first try had worked, and its answer was lost.
            (Task::Delete(name, id), Response::Error(error)) if error.code == ErrorCode::TopicNotFound => {
                gone(&name, id, ctx);
            }
            (Task::List(expected), Response::Metadata(metadata)) => listed(&expected, &metadata, ctx),
            (task, Response::Error(error)) if error.code.is_retriable() || self.several => {
                self.paused_until_ns = ctx.now_ns + ctx.rng.range(5_000_000, 100_000_000);
                self.tasks.push_front(task);
            }
            (task, other) => ctx.oracle.violated(format!("{task:?} was answered {other:?}")),
        }
    }
}

fn gone(name: &str, id: TopicId, ctx: &mut Context<'_>) {
    ctx.oracle.topics.remove(name);
    ctx.oracle.deleted.insert(id);
}

fn listed(expected: &BTreeMap<String, TopicId>, metadata: &MetadataResponse, ctx: &mut Context<'_>) {
    for (name, id) in expected {
        let found = metadata.topics.iter().find(|topic| topic.name == *name).map(|topic| topic.id);
        // It may have been deleted since.
        let deleting = ctx.oracle.topics.get(name).is_none_or(|truth| truth.deleting);
        if found != Some(*id) && !deleting {
            ctx.oracle.violated(format!("topic {name} has the id {id}, the list says {found:?}"));
        }
    }
}
