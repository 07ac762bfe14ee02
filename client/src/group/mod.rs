//! Reads as a member of a consumer group: the server says which partitions, the group's offsets say from where.

mod admin;
mod commits;
mod coordinator;
mod heartbeat;
mod membership;

use self::commits::Commits;
use self::coordinator::Coordinator;
use self::heartbeat::{GroupEvent, Shared};
use self::membership::{Membership, Profile};
use crate::client::Client;
use crate::consumer::{ConsumedChunk, Consumer, ConsumerOptions, Position, StartOffset};
use crate::error::ClientError;
use lance_messages::wire::group::AssignmentStrategy;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

pub use self::admin::{GroupDescription, GroupPartition, MemberDescription, NamedPartition};
pub use self::membership::AssignedPartition;

pub(crate) use self::coordinator::Coordinator as GroupCoordinator;

/// Hears of partitions that come and go. Called from within [`GroupConsumer::next_chunk`], before anything of a new
/// partition is handed out and before an old one is given up.
pub trait RebalanceListener: Send + Sync {
    /// These are read from now on, from these offsets.
    fn assigned(&self, partitions: &[Position]) {
        let _ = partitions;
    }

    /// These go to other members; what was handed out of them is committed right after this, if that is automatic.
    fn revoked(&self, partitions: &[AssignedPartition]) {
        let _ = partitions;
    }

    /// These have gone to other members already: nothing of them can be committed any more.
    fn lost(&self, partitions: &[AssignedPartition]) {
        let _ = partitions;
    }
}

/// How a consumer takes part in a group.
#[derive(Clone)]
pub struct GroupOptions {
    /// The group.
    pub group: String,
    /// The topics to read.
    pub topics: Vec<String>,
    /// A name that stays the same when the process starts anew: its partitions wait for it, for as long as a session.
    pub instance: Option<String>,
    /// Where the consumer runs; empty: where [`ClientOptions::rack`](crate::ClientOptions::rack) says.
    pub rack: String,
    /// How long the consumer may be silent before its partitions go to others.
    pub session_timeout: Duration,
    /// How long giving up partitions may take, at most.
    pub rebalance_timeout: Duration,
    /// How long [`GroupConsumer::next_chunk`] may not be called before the consumer leaves.
    pub max_poll_interval: Duration,
    /// How partitions are spread; what most members ask for counts.
    pub strategy: AssignmentStrategy,
    /// Where to begin in a partition for which nothing is committed.
    pub start: StartOffset,
    /// How often what was handed out before is committed; `None`: only by [`GroupConsumer::commit`].
    pub auto_commit: Option<Duration>,
    /// How records are fetched.
    pub consumer: ConsumerOptions,
    /// Hears of partitions that come and go.
    pub listener: Option<Arc<dyn RebalanceListener>>,
}

impl GroupOptions {
    /// The defaults: sessions of 10 s, sticky assignment, from the earliest record on, a commit every second.
    pub fn new(group: impl Into<String>, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            instance: None,
            rack: String::new(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(60),
            max_poll_interval: Duration::from_secs(300),
            strategy: AssignmentStrategy::Sticky,
            start: StartOffset::Earliest,
            auto_commit: Some(Duration::from_secs(1)),
            consumer: ConsumerOptions::default(),
            listener: None,
        }
    }
}

impl fmt::Debug for GroupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupOptions").field("group", &self.group).field("topics", &self.topics).finish_non_exhaustive()
    }
}

/// A member of a consumer group.
///
/// A chunk counts as handled once the next one is asked for: that is what automatic commits store, so every record is
/// handled at least once. Dropping the consumer leaves the group only when its session ends; [`GroupConsumer::close`]
/// does at once.
///
/// ```no_run
/// use lance_client::{Client, ClientOptions, GroupOptions};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// let mut consumer = client.group_consumer(GroupOptions::new("billing", ["events"]));
/// loop {
///     let chunk = consumer.next_chunk().await?;
///     for record in &chunk.records {
///         println!("{} {}: {:?}", chunk.partition, record.offset, record.value);
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct GroupConsumer {
    client: Client,
    options: GroupOptions,
    shared: Arc<Shared>,
    consumer: Consumer,
    events: mpsc::UnboundedReceiver<GroupEvent>,
    /// What was heard and is not done yet: the first may be half done.
    pending: VecDeque<GroupEvent>,
    commits: Commits,
    commit_timer: Option<tokio::time::Interval>,
    heartbeats: tokio::task::JoinHandle<()>,
}

impl GroupConsumer {
    pub(crate) fn new(client: Client, options: GroupOptions) -> Self {
        let rack = if options.rack.is_empty() { &client.options().rack } else { &options.rack }.clone();
        let profile = Profile {
            group: options.group.clone(),
            instance: options.instance.clone(),
            rack: rack.clone(),
            session_timeout: options.session_timeout,
            rebalance_timeout: options.rebalance_timeout,
            strategy: options.strategy,
            topics: options.topics.clone(),
        };
        let membership = Membership::new(profile, heartbeat::new_member_name());
        let coordinator = Coordinator::new(client.clone());
        let shared = Arc::new(Shared::new(membership, coordinator, options.max_poll_interval));
        let (sender, events) = mpsc::unbounded_channel();
        let heartbeats = tokio::spawn(heartbeat::run(Arc::clone(&shared), sender));
        let commit_timer = options.auto_commit.map(|every| {
            let mut timer = tokio::time::interval_at(Instant::now() + every, every.max(Duration::from_millis(1)));
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer
        });
        Self {
            consumer: Consumer::in_rack(client.clone(), options.consumer, rack),
            client,
            options,
            shared,
            events,
            pending: VecDeque::new(),
            commits: Commits::default(),
            commit_timer,
            heartbeats,
        }
    }

    /// The name the coordinator knows this member by; another one after every time it had to join again.
    pub fn member(&self) -> String {
        self.shared.membership().member().to_owned()
    }

    /// The member's epoch, which grows with every change of the group that concerns it; 0 while it is no member.
    pub fn epoch(&self) -> i32 {
        self.shared.membership().epoch()
    }

    /// The partitions that are this member's.
    pub fn assignment(&self) -> Vec<AssignedPartition> {
        self.shared.membership().assigned().collect()
    }

    /// The partitions it reads at the moment: of those it was assigned the ones whose beginning is known already.
    pub fn held(&self) -> Vec<AssignedPartition> {
        self.commits.held()
    }

    /// Where the next record of a partition begins that was not handed out; `None` where this member does not read.
    pub fn position(&self, topic: &str, partition: u16) -> Option<u64> {
        self.commits.position(topic, partition)
    }

    /// The next records, of any of the member's partitions; waits for some.
    ///
    /// The chunk given before counts as handled. Can be dropped and called again without losing records.
    pub async fn next_chunk(&mut self) -> Result<ConsumedChunk, ClientError> {
        self.shared.note_poll();
        self.commits.note_handled();
        loop {
            while !self.pending.is_empty() {
                self.follow_next_event().await?;
            }
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.pending.push_back(event),
                    None => return Err(ClientError::Closed { what: "group consumer" }),
                },
                () = tick(self.commit_timer.as_mut()) => self.commit_quietly().await,
                chunk = self.consumer.next_chunk() => {
                    let chunk = chunk?;
                    if self.commits.hand_out(&chunk) {
                        return Ok(chunk);
                    }
                }
            }
            self.shared.note_poll();
        }
    }

    /// The caller handled the chunk given last only up to `offset`: that is what commits store, until the next chunk.
    pub fn handled_to(&mut self, offset: u64) {
        self.commits.handled_to(offset);
    }

    /// Commits everything handed out so far, the last chunk included; durable on a quorum when this returns.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.shared.note_poll();
        self.commits.note_handled();
        self.commits.commit(&self.client, &self.shared, None).await
    }

    /// Where the group goes on in a partition, and what was kept with it; `None` when nothing is committed.
    pub async fn committed(&self, partition: &AssignedPartition) -> Result<Option<(u64, String)>, ClientError> {
        let found = commits::fetch(&self.client, &self.shared, std::slice::from_ref(partition)).await?;
        Ok(found.into_iter().next().map(|found| (found.offset, found.metadata)))
    }

    /// Commits what is handled, if that is automatic, and leaves the group. A static member's partitions wait for it to
    /// come back, for as long as a session.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.commits.note_handled();
        let committed = match self.options.auto_commit {
            Some(_) => self.commits.commit(&self.client, &self.shared, None).await,
            None => Ok(()),
        };
        self.heartbeats.abort();
        heartbeat::leave(&self.shared, heartbeat::leaving_epoch(&self.shared)).await;
        committed
    }

    /// Does what the first event wants; it stays until that is done, so that a call that is dropped is taken up again.
    async fn follow_next_event(&mut self) -> Result<(), ClientError> {
        match self.pending.front() {
            Some(GroupEvent::Gained(gained)) => {
                let gained = gained.clone();
                self.begin(&gained).await?;
            }
            Some(GroupEvent::Revoked(revoked)) => {
                let revoked = revoked.clone();
                self.give_up(&revoked).await;
            }
            Some(GroupEvent::Lost(lost)) => {
                let lost = lost.clone();
                self.stop(&lost);
                if let Some(listener) = &self.options.listener {
                    listener.lost(&lost);
                }
            }
            Some(GroupEvent::Ended(error)) => return Err(error.clone()),
            None => {}
        }
        self.pending.pop_front();
        Ok(())
    }

    async fn begin(&mut self, gained: &[AssignedPartition]) -> Result<(), ClientError> {
        let found = commits::fetch(&self.client, &self.shared, gained).await?;
        let mut begins = Vec::with_capacity(gained.len());
        for partition in gained {
            let number = partition.id.partition;
            let known = self.client.topic(&partition.topic, false).await?;
            if usize::from(number) >= known.partitions.len() || known.id != partition.id.topic {
                self.client.refresh_topic(&partition.topic, false).await?;
            }
            let offset = match found.iter().find(|found| found.partition == partition.id) {
                Some(found) => found.offset,
                None => self.client.resolve_offset(&partition.topic, number, self.options.start).await?,
            };
            begins.push(Position { topic: Arc::clone(&partition.topic), partition: number, offset });
        }
        self.commits.begin(gained, &begins, &found);
        self.consumer.assign_at(&begins);
        if let Some(listener) = &self.options.listener {
            listener.assigned(&begins);
        }
        Ok(())
    }

    async fn give_up(&mut self, revoked: &[AssignedPartition]) {
        if let Some(listener) = &self.options.listener {
            listener.revoked(revoked);
        }
        if self.options.auto_commit.is_some()
            && let Err(error) = self.commits.commit(&self.client, &self.shared, Some(revoked)).await
        {
            tracing::warn!(%error, "what was handled could not be committed: others will handle it again");
        }
        self.stop(revoked);
        self.shared.membership().release(revoked);
        self.shared.wake.notify_one();
    }

    fn stop(&mut self, partitions: &[AssignedPartition]) {
        self.commits.forget(partitions);
        for partition in partitions {
            self.consumer.unassign(&partition.topic, Some(&[partition.id.partition]));
        }
    }

    async fn commit_quietly(&mut self) {
        if let Err(error) = self.commits.commit(&self.client, &self.shared, None).await {
            tracing::warn!(%error, "offsets could not be committed; the next commit carries them");
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}

async fn tick(timer: Option<&mut tokio::time::Interval>) {
    match timer {
        Some(timer) => _ = timer.tick().await,
        None => std::future::pending().await,
    }
}
