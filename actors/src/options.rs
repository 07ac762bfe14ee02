//! From the configuration to what each part is told: the only place where the two meet.

use crate::ingestion::core::IngestionOptions;
use crate::metadata::calls::TopicLimits;
use crate::network::quotas::Quotas;
use crate::network::session::SessionLimits;
use crate::network::session::access::{self, AuthGate};
use crate::peer::{PeerTrust, PeerVersions};
use crate::supervision::RestartPolicy;
use crate::telemetry::{TelemetryOptions, TraceOptions, Transport, tracer};
use bytes::Bytes;
use lance_cluster::metadata::{ReplicationMode, TopicConfig};
use lance_cluster::replica::{EvictionOptions, FlowOptions};
use lance_config::address::{Address, PortRule};
use lance_config::model::{
    Config, IoBackend, LogFormat, OtlpProtocol, Placement, ReplicationMode as ConfiguredMode, Secret, SyncPolicy,
};
use lance_config::quota::ClientQuota;
use lance_messages::id::NodeId;
use lance_messages::wire::peer::FEATURE_LEVEL_2_VERSION;
use lance_storage::checkpoint::{FIRST_FORMAT, NEWEST_FORMAT};
use lance_storage::disk::{BackendChoice, DiskOptions, QueueOptions};
use std::time::Duration;

/// Bytes of batches sent to a follower of one partition and not acked yet.
const FOLLOWER_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// Shards of a node at most: their index is an actor id in sort keys.
const MAX_SHARDS: u16 = 255;

/// Threads that serve shards and connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Number of shards, one thread each.
    pub shards: u16,
    /// Connections have threads of their own, one for each shard.
    pub own_network_threads: bool,
}

/// How shards and connections are placed.
pub fn thread_plan(config: &Config) -> ThreadPlan {
    ThreadPlan {
        shards: config.shards.count.clamp(1, MAX_SHARDS),
        own_network_threads: config.shards.placement == Placement::Dedicated,
    }
}

/// Which disk.
pub fn disk_options(config: &Config) -> DiskOptions {
    let backend = match config.io.backend {
        IoBackend::Auto => BackendChoice::Auto,
        IoBackend::IoUring => BackendChoice::IoUring,
        IoBackend::TokioUring => BackendChoice::TokioUring,
        IoBackend::Blocking => BackendChoice::Blocking,
    };
    DiskOptions { backend, o_direct: config.io.o_direct }
}

/// How a poller's queue is set up.
pub fn queue_options(config: &Config) -> QueueOptions {
    QueueOptions { depth: config.io.uring_sq_depth as usize, ..QueueOptions::default() }
}

/// How an ingestion core is set up.
pub fn ingestion_options(config: &Config, shard: u16) -> IngestionOptions {
    let (sync_always, sync_bytes) = match config.storage.sync {
        SyncPolicy::Always => (true, 0),
        SyncPolicy::Window { bytes, .. } => (false, bytes),
    };
    let flow = FlowOptions { window_bytes: FOLLOWER_WINDOW_BYTES, ack_timeout: config.eviction.ack_timeout };
    IngestionOptions { node: NodeId(config.node.id), shard, sync_always, sync_bytes, flow }
}

/// In interval mode, how often what is written is synced.
pub fn sync_interval(config: &Config) -> Option<Duration> {
    match config.storage.sync {
        SyncPolicy::Always => None,
        SyncPolicy::Window { interval, .. } => Some(interval),
    }
}

/// How fast clients may be; the rules of the configuration were checked when it was read.
pub fn quotas(config: &Config) -> Quotas {
    let quotas = &config.quotas;
    let parsed = |texts: &[String]| texts.iter().filter_map(|text| ClientQuota::parse(text)).collect();
    let every = (quotas.produce_bytes_per_second, quotas.fetch_bytes_per_second);
    Quotas::new(every, parsed(&quotas.clients), parsed(&quotas.principals))
}

/// What one connection may do.
pub fn session_limits(config: &Config) -> SessionLimits {
    SessionLimits {
        max_payload_bytes: config.limits.max_frame_bytes,
        max_record_bytes: config.limits.max_record_bytes,
        max_in_flight_bytes: usize::try_from(config.limits.max_in_flight_bytes).unwrap_or(usize::MAX),
        max_requests: config.limits.max_in_flight_requests as usize,
        max_fetch_bytes: config.limits.max_fetch_bytes,
        max_fetch_wait: config.limits.max_fetch_wait,
        auto_create: config.topics.auto_create,
        shards: thread_plan(config).shards,
        node: NodeId(config.node.id),
        traces: tracer().map(|tracer| tracer.request_traces(rand::random())),
    }
}

/// Which traces are exported, as far as the configuration says; `is_set` tells whether a key is more than its default.
pub fn trace_options(config: &Config, is_set: impl Fn(&str) -> bool) -> TraceOptions {
    let telemetry = &config.telemetry;
    TraceOptions {
        service: "lance",
        instance: Some(config.node.id.to_string()),
        endpoint: telemetry.otlp_endpoint.clone(),
        transport: is_set("telemetry.otlp_protocol").then_some(match telemetry.otlp_protocol {
            OtlpProtocol::Grpc => Transport::Grpc,
            OtlpProtocol::Http => Transport::Http,
        }),
        ratio: is_set("telemetry.sample_ratio").then_some(telemetry.sample_ratio),
        default_ratio: telemetry.sample_ratio,
    }
}

/// What a topic has that says nothing itself; no copies stands for [`crate::metadata::calls`] deciding by the nodes there are.
pub fn topic_defaults(config: &Config) -> TopicConfig {
    TopicConfig {
        partitions: config.topics.default_partitions.max(1),
        replication_factor: config.topics.default_replication_factor,
        mode: match config.replication.mode {
            ConfiguredMode::L1 => ReplicationMode::L1,
            ConfiguredMode::L2 => ReplicationMode::L2,
        },
        max_age_secs: config.topics.default_retention_age.as_secs(),
        max_bytes: config.topics.default_retention_bytes,
    }
}

/// How many topics and partitions clients may make.
pub fn topic_limits(config: &Config) -> TopicLimits {
    TopicLimits {
        max_topics: config.limits.max_topics as usize,
        max_partitions: config.limits.max_partitions_per_topic,
    }
}

/// Which log lines are written, and how.
pub fn telemetry_options(config: &Config) -> TelemetryOptions {
    TelemetryOptions {
        filter: config.telemetry.log_level.clone(),
        json: config.telemetry.log_format == LogFormat::Json,
    }
}

/// What connections are held against; `None` where anybody may do everything.
pub fn auth_gate(config: &Config) -> Option<AuthGate> {
    let auth = &config.auth;
    let token = auth.token.as_ref().map(Secret::expose);
    let secret = config.cluster.secret.as_ref().map(Secret::expose);
    auth.enabled.then(|| AuthGate::new(token, secret, auth.superusers.iter().cloned(), rand::random()))
}

/// What this node authenticates with to others when it forwards for clients.
pub fn node_token(config: &Config) -> Option<Bytes> {
    let secret = config.cluster.secret.as_ref().filter(|_| config.auth.enabled)?;
    Some(Bytes::from(access::node_token(secret.expose().as_bytes())))
}

/// What this node authenticates with to the targets of tee rules: never with what nodes of its own cluster share.
pub fn tee_token(config: &Config) -> Option<Bytes> {
    config.tee.token.as_ref().map(|token| Bytes::from(token.expose().to_owned()))
}

/// What makes this node trust a peer: the secret, else that both are on this machine.
pub fn peer_trust(config: &Config) -> PeerTrust {
    let bind = Address::parse(&config.network.bind, PortRule::AnyFree);
    match &config.cluster.secret {
        Some(secret) => PeerTrust::Secret(secret.expose().as_bytes().to_vec()),
        None if bind.is_some_and(|address| address.is_loopback()) => PeerTrust::SameMachine,
        None => PeerTrust::Nothing,
    }
}

/// How failed actors are started again.
pub fn restart_policy(config: &Config) -> RestartPolicy {
    RestartPolicy {
        backoff_min: config.supervision.backoff_min,
        backoff_max: config.supervision.backoff_max,
        budget: config.supervision.max_restarts,
        window: config.supervision.restart_window,
    }
}

/// Slots of one shard's pool: size and number.
pub fn arena_shape(config: &Config) -> (usize, usize) {
    let slot_bytes = config.io.batch_size as usize;
    let slots = config.io.buffer_pool_bytes / u64::from(config.io.batch_size.max(1));
    (slot_bytes, usize::try_from(slots).unwrap_or(usize::MAX).max(8))
}

/// When a follower counts as slow.
pub fn eviction_options(config: &Config) -> EvictionOptions {
    let eviction = &config.eviction;
    EvictionOptions {
        enabled: eviction.enabled,
        slow_windows: eviction.slow_windows,
        slow_factor: eviction.slow_factor,
        slow_floor: eviction.slow_floor,
        ack_timeout: eviction.ack_timeout,
        rejoin_windows: eviction.rejoin_windows,
        rejoin_factor: eviction.rejoin_factor,
        backoff: eviction.backoff,
        backoff_window: eviction.backoff_window,
    }
}

/// The variable by which a node behaves as one of an earlier feature level, where faults may be injected.
const FEATURE_LEVEL_VARIABLE: &str = "LANCE_FEATURE_LEVEL";

/// Whether this node is to behave as one that knows nothing newer than feature level 1: for tests of upgrades.
fn is_of_first_level(config: &Config) -> bool {
    config.admin.fault_injection && std::env::var(FEATURE_LEVEL_VARIABLE).is_ok_and(|level| level == "1")
}

/// What this node speaks with its peers.
pub fn peer_versions(config: &Config) -> PeerVersions {
    match is_of_first_level(config) {
        true => PeerVersions::up_to(FEATURE_LEVEL_2_VERSION - 1),
        false => PeerVersions::default(),
    }
}

/// The newest format of a data dir that this node opens.
pub fn newest_format(config: &Config) -> u64 {
    if is_of_first_level(config) { FIRST_FORMAT } else { NEWEST_FORMAT }
}
