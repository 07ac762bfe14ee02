//! Who can be written to, and what can be said: the messages of the real actors, and what stands for their timers,
//! sockets and futures.

use bytes::Bytes;
use lance_actors::ingestion::opener::Opened;
use lance_actors::ingestion::replica::{Fenced, LeaderRole};
use lance_actors::ingestion::replica_handlers::{MoveLeadership, ReplicaReport};
use lance_actors::network::readers::{ReadFailure, SegmentRead};
use lance_actors::network::session::MetadataCall;
use lance_actors::network::session::answers::CallFailure;
use lance_actors::replication::actor::ReplicaNews;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, PromiseAnswer};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::mail::connection::Replies;
use lance_messages::mail::ingestion::{CancelWait, DiskDone, Fetch, LookUpOffset, OffsetQuery, Produce};
use lance_messages::mail::peer::{AppendReplica, ReplicaAnswered};
use lance_messages::peer::{AppendResponse, PeerIdentity, ReplicaRequest};
use lance_storage::disk::{DiskCompletion, DiskOp};
use lance_storage::log::Log;
use lance_storage::reader::ReadPlan;
use std::fmt;
use std::time::Duration;

/// An actor of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The process itself: starts, and steps of its disk.
    Process,
    /// The ingestion actor of a shard.
    Ingestion(u16),
    /// The poller of a shard.
    Poller(u16),
    /// The reader threads.
    Reader,
    /// The metadata actor.
    Metadata,
    /// The replication actor.
    Replication,
    /// The actor of a connection.
    Connection(u64),
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// What makes faults happen.
    World,
    /// A client.
    Client(u16),
    /// A part of a node.
    Node(u16, Part),
}

/// What an actor wakes itself up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The mailbox is empty: flush what was appended, or submit what was asked for.
    Turn,
    /// The clock of Raft.
    Tick,
    /// The first parked fetch has waited long enough.
    Deadline,
    /// Once a second.
    Second,
    /// The sync interval is over.
    Sync,
    /// The pause before a restart is over.
    Restart,
    /// One queued operation of the disk happens.
    Disk,
    /// The scrubber reads on.
    Scrub,
    /// The process starts.
    Start,
    /// A client's next idea; the number tells old ideas from new ones.
    Idea(u64),
    /// The next fault.
    Fault,
    /// Faults end.
    Heal,
    /// What the operator does about a node in trouble.
    Operator,
    /// A heartbeat to every other node.
    Beat,
    /// Followers are looked after.
    Feed,
    /// The network looks after its links.
    Links,
    /// A process that stood still goes on.
    Resume,
    /// A machine is as fast, and its clock as right, as it should be.
    Recover(u16),
}

/// What is said.
#[derive(Debug)]
#[expect(missing_docs, reason = "the messages of the actors, documented where they are defined")]
pub enum Mail {
    Wake(Wake),
    // A socket.
    Connect { connection: u64, client: u16 },
    Bytes(u64, Bytes),
    Closed(u64),
    // To an ingestion actor.
    Produce(Produce),
    Fetch(Fetch),
    CancelWait(CancelWait),
    LookUp(LookUpOffset),
    DiskDone(DiskDone<DiskCompletion>),
    PollerFailed,
    Assign(u64, Vec<(TopicPartition, u32)>, Vec<TopicId>),
    Introduce(Vec<(TopicPartition, LeaderEpoch, ReplicaIncarnation)>),
    Fence(Vec<(TopicPartition, LeaderEpoch)>),
    Lead(Vec<LeaderRole>),
    Drained(u64),
    LogsOpened(LogsOpened),
    RemoveLog(TopicPartition),
    // To a poller.
    Submit(u64, Vec<DiskOp>),
    Drain(u64),
    // To a connection.
    Replies(Replies<SegmentRead>),
    ShardRestarted(u16),
    Planned { request: u64, part: u16, plan: Result<ReadPlan, ReadFailure> },
    LookedUp { request: u64, result: Result<(u64, u64, u64), ReadFailure> },
    Answered { request: u64, result: Result<MetadataAnswer, CallFailure> },
    // To the reader threads.
    Plan { connection: u64, request: u64, part: u16, read: SegmentRead, offset: u64, max_bytes: u32 },
    LookUpSegments { connection: u64, request: u64, read: SegmentRead, query: OffsetQuery },
    // To the metadata actor.
    Call { connection: u64, request: u64, call: MetadataCall },
    Promised(Vec<PromiseAnswer>),
    EpochsRequested(Vec<(TopicPartition, LeaderEpoch)>),
    Led(TopicPartition, LeaderEpoch),
    Assigned(u64),
    // To the replication actor.
    EpochsWanted(Vec<(TopicPartition, u32, u32)>),
    LeadershipChanged(TopicPartition, Result<LeaderEpoch, String>),
    PromiseWanted(Vec<(TopicPartition, LeaderEpoch)>),
    LeadersChosen(Vec<LeaderRole>),
    Fenced(Vec<(TopicPartition, LeaderEpoch, Fenced)>),
    News(ReplicaNews),
    Report(Box<ReplicaReport>),
    RolesChanged(Vec<LeaderRole>),
    MoveWanted(MoveLeadership),
    PartitionsGone(Vec<TopicPartition>),
    // About replicas, to an ingestion actor.
    ChangeRoles(Vec<LeaderRole>),
    Move(MoveLeadership),
    ExtendLease(Duration),
    Refill(TopicPartition, u64),
    AppendReplica(AppendReplica),
    ReplicaAnswered(ReplicaAnswered),
    ReplicaRead(ReplicaReadDone),
    Truncated(LogCut),
    // From a link.
    LinkChanged(NodeId, Option<PeerIdentity>),
    Control(PeerIdentity, Bytes),
    // What is said over a link, before it is under way and while it is.
    Say(Bytes),
    Replicate(Vec<ReplicaRequest>),
    Confirm { session: u64, shard: u16, responses: Vec<AppendResponse> },
    Linked(u64, Box<Mail>),
    // To the metadata actor.
    Propose(MetadataCommand),
    MoveReady { partition: TopicPartition, epoch: LeaderEpoch, to: NodeId },
}

/// What was read for a follower.
#[derive(Debug)]
#[expect(missing_docs, reason = "as in the effect that asked for it")]
pub struct ReplicaReadDone {
    pub life: u64,
    pub partition: TopicPartition,
    pub node: NodeId,
    pub epoch: LeaderEpoch,
    pub from: u64,
    pub read: Result<Bytes, String>,
}

/// A log that was cut, or begun anew.
pub struct LogCut {
    /// The life of the actor that asked.
    pub life: u64,
    /// Whose log.
    pub partition: TopicPartition,
    /// The log.
    pub result: Box<Result<Log, String>>,
}

impl fmt::Debug for LogCut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the log of {}", self.partition)
    }
}

/// Logs that were opened away from their actor.
pub struct LogsOpened {
    /// The life of the actor that asked.
    pub life: u64,
    /// Whether its mailbox waits for them.
    pub awaited: bool,
    /// The logs.
    pub logs: Vec<Opened>,
}

impl fmt::Debug for LogsOpened {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} logs", self.logs.len())
    }
}

impl Mail {
    /// Whether it is the end of a future rather than a message: it does not wait in the mailbox.
    pub fn is_continuation(&self) -> bool {
        matches!(self, Self::Drained(_) | Self::LogsOpened(_) | Self::Assigned(_) | Self::Wake(Wake::Restart))
    }

    /// A name for the trace.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Wake(wake) => wake.name(),
            Self::Connect { .. } => "connect",
            Self::Bytes(..) => "bytes",
            Self::Closed(_) => "closed",
            Self::Produce(_) => "produce",
            Self::Fetch(_) => "fetch",
            Self::CancelWait(_) => "cancel wait",
            Self::LookUp(_) => "look up",
            Self::DiskDone(_) => "disk done",
            Self::PollerFailed => "poller failed",
            Self::Assign(..) => "assign",
            Self::Introduce(_) => "introduce",
            Self::Fence(_) => "fence",
            Self::Lead(_) => "lead",
            Self::Drained(_) => "drained",
            Self::LogsOpened(_) => "logs opened",
            Self::RemoveLog(_) => "remove log",
            Self::Propose(_) => "propose",
            Self::Submit(..) => "submit",
            Self::Drain(_) => "drain",
            Self::Replies(_) => "replies",
            Self::ShardRestarted(_) => "shard restarted",
            Self::Planned { .. } => "planned",
            Self::LookedUp { .. } => "looked up",
            Self::Answered { .. } => "answered",
            Self::Plan { .. } => "plan",
            Self::LookUpSegments { .. } => "look up segments",
            Self::Call { .. } => "call",
            Self::Promised(_) => "promised",
            Self::EpochsRequested(_) => "epochs requested",
            Self::Led(..) => "led",
            Self::Assigned(_) => "assigned",
            Self::EpochsWanted(_) => "epochs wanted",
            Self::LeadershipChanged(..) => "leadership changed",
            Self::PromiseWanted(_) => "promise wanted",
            Self::LeadersChosen(_) => "leaders chosen",
            Self::Fenced(_) => "fenced",
            Self::News(_) => "news",
            Self::Report(_) => "report",
            Self::RolesChanged(_) => "roles changed",
            Self::MoveWanted(_) => "move wanted",
            Self::PartitionsGone(_) => "partitions gone",
            Self::ChangeRoles(_) => "change roles",
            Self::Move(_) => "move",
            Self::ExtendLease(_) => "extend lease",
            Self::Refill(..) => "refill",
            Self::AppendReplica(_) => "append replica",
            Self::ReplicaAnswered(_) => "replica answered",
            Self::ReplicaRead(_) => "replica read",
            Self::Truncated(_) => "truncated",
            Self::LinkChanged(_, Some(_)) => "link up",
            Self::LinkChanged(_, None) => "link down",
            Self::Control(..) => "control",
            Self::Say(_) => "say",
            Self::Replicate(_) => "replicate",
            Self::Confirm { .. } => "confirm",
            Self::Linked(_, mail) => mail.name(),
            Self::MoveReady { .. } => "move ready",
        }
    }
}

impl Wake {
    fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Tick => "tick",
            Self::Deadline => "deadline",
            Self::Second => "second",
            Self::Sync => "sync",
            Self::Restart => "restart",
            Self::Disk => "disk",
            Self::Scrub => "scrub",
            Self::Start => "start",
            Self::Idea(_) => "idea",
            Self::Fault => "fault",
            Self::Heal => "heal",
            Self::Operator => "operator",
            Self::Beat => "beat",
            Self::Feed => "feed",
            Self::Links => "links",
            Self::Resume => "resume",
            Self::Recover(_) => "recover",
        }
    }
}

impl Address {
    /// A number for the trace.
    pub fn number(self) -> u64 {
        let part = |part| match part {
            Part::Process => 1,
            Part::Reader => 2,
            Part::Metadata => 3,
            Part::Replication => 4,
            Part::Ingestion(shard) => 0x100 + u64::from(shard),
            Part::Poller(shard) => 0x200 + u64::from(shard),
            Part::Connection(connection) => 0x1000 + connection,
        };
        match self {
            Self::World => 0,
            Self::Client(client) => 1 << 48 | u64::from(client),
            Self::Node(node, of) => 2 << 48 | u64::from(node) << 32 | part(of),
        }
    }
}
