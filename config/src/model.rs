//! The configuration as plain structs: what a running node may be told, with its defaults.
//!
//! Nothing here parses or checks: [`crate::keys`] ties every field to its TOML key and its rule, [`crate::check`] holds
//! the rules that span several keys.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Everything a node can be configured with.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Config {
    /// `[node]`: who this node is.
    pub node: NodeConfig,
    /// `[network]`: the one port of clients and peers.
    pub network: NetworkConfig,
    /// `[io]`: how bytes reach the disk.
    pub io: IoConfig,
    /// `[numa]`: which memory node serves which device.
    pub numa: NumaConfig,
    /// `[replication]`: the other nodes, and the default mode of topics.
    pub replication: ReplicationConfig,
    /// `[cluster]`: how peers prove themselves.
    pub cluster: ClusterConfig,
    /// `[admin]`: the HTTP address.
    pub admin: AdminConfig,
    /// `[storage]`: segments, durability, retention, disk watermarks.
    pub storage: StorageConfig,
    /// `[topics]`: defaults of new topics.
    pub topics: TopicsConfig,
    /// `[telemetry]`: log, metrics, traces.
    pub telemetry: TelemetryConfig,
    /// `[tls]`: encryption of clients, peers and the admin interface.
    pub tls: TlsConfig,
    /// `[auth]`: who may do what.
    pub auth: AuthConfig,
    /// `[limits]`: a bound on everything a client can ask for.
    pub limits: LimitsConfig,
    /// `[quotas]`: how fast clients may be.
    pub quotas: QuotasConfig,
    /// `[shutdown]`: the graceful drain.
    pub shutdown: ShutdownConfig,
    /// `[tee]`: how topics go on to other ones.
    pub tee: TeeConfig,
    /// `[eviction]`: when a slow follower leaves the quorum, and when it returns.
    pub eviction: EvictionConfig,
    /// `[shards]`: threads, and which work shares one.
    pub shards: ShardsConfig,
    /// `[supervision]`: restarts of failed actors.
    pub supervision: SupervisionConfig,
}

/// A text that no log, error or listing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` out of sight.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Number of this node, unique in its cluster, 1..=65535 (16 bits of every sort key).
    pub id: u16,
    /// Folder of everything this node stores.
    pub data_dir: PathBuf,
    /// What fails together with this node; copies are spread over racks first.
    pub rack: Option<String>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { id: 1, data_dir: PathBuf::from("./lance-data"), rack: None }
    }
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// Address that clients and peers connect to; port 0 takes a free one.
    pub bind: String,
    /// Address told to others in place of `bind`.
    pub advertise: Option<String>,
    /// PCI address of the network card, to find its NUMA node.
    pub nic_pci_addr: Option<String>,
    /// Silence after which the kernel probes a connection.
    pub tcp_keepalive: Duration,
    /// How long sent bytes may stay unacknowledged before the kernel gives a connection up.
    pub tcp_user_timeout: Duration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bind: "127.0.0.1:1992".to_owned(),
            advertise: None,
            nic_pci_addr: None,
            tcp_keepalive: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(60),
        }
    }
}

/// Which implementation of the disk seam serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring where the kernel allows it, else the blocking one; what runs is reported.
    Auto,
    /// io_uring with explicit submission.
    IoUring,
    /// tokio-uring on a thread of its own.
    TokioUring,
    /// `pwritev2` and `fdatasync` on threads of their own.
    Blocking,
}

/// `[io]`.
#[derive(Clone, Debug, PartialEq)]
pub struct IoConfig {
    /// Entries of a shard's submission queue.
    pub uring_sq_depth: u32,
    /// Bytes of one slot of the write buffer pool, and so of one write; a multiple of 4096.
    pub batch_size: u32,
    /// Bypasses the page cache where the file system allows it.
    pub o_direct: bool,
    /// Which disk implementation serves.
    pub backend: IoBackend,
    /// Bytes of the write buffer pool of one shard.
    pub buffer_pool_bytes: u64,
}

impl Default for IoConfig {
    fn default() -> Self {
        Self {
            uring_sq_depth: 256,
            batch_size: (256 * KIB) as u32,
            o_direct: true,
            backend: IoBackend::Auto,
            buffer_pool_bytes: 32 * MIB,
        }
    }
}

/// `[numa]`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct NumaConfig {
    /// Binds threads and their memory to NUMA nodes.
    pub enabled: bool,
    /// Node of the network card; found from `network.nic_pci_addr` when absent.
    pub nic_node: Option<u32>,
    /// Node of the disk; found from `node.data_dir` when absent.
    pub nvme_node: Option<u32>,
    /// Moves the interrupts of the network card to the CPUs of its node.
    pub steer_irqs: bool,
}

/// How far a topic waits before it acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationMode {
    /// Acked when the leader's disk has it.
    L1,
    /// Acked when a quorum has it.
    L2,
}

/// `[replication]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicationConfig {
    /// Mode of topics that do not say their own.
    pub mode: ReplicationMode,
    /// Addresses of the nodes, with or without this one; empty for a single node.
    pub peers: Vec<String>,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self { mode: ReplicationMode::L2, peers: Vec::new() }
    }
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClusterConfig {
    /// Shared secret by which peers prove themselves to each other.
    pub secret: Option<Secret>,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// Address of the HTTP interface.
    pub bind: String,
    /// Names under which browsers may ask for it, beside addresses and names of private networks.
    pub allowed_hosts: Vec<String>,
    /// Opens the endpoints that break things on purpose, for tests.
    pub fault_injection: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { bind: "127.0.0.1:9644".to_owned(), allowed_hosts: Vec::new(), fault_injection: false }
    }
}

/// When written bytes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before every ack.
    Always,
    /// After this time or this many bytes, whichever comes first: acks in that window are lost with the power.
    Window {
        /// Longest time between two syncs.
        interval: Duration,
        /// Most bytes between two syncs.
        bytes: u64,
    },
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// When an ack may be sent.
    pub sync: SyncPolicy,
    /// Length at which a segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// Distance between two entries of a segment's index.
    pub index_interval_bytes: u64,
    /// Zeroes written ahead of a busy log, which halves the cost of a small sync; 0 switches it off.
    pub zero_ahead_bytes: u64,
    /// Bytes of the ring of recent batches, from which a shard serves readers at the tail.
    pub tail_ring_bytes: u64,
    /// Segment files that reader threads keep open at most.
    pub open_files: u32,
    /// Threads that read cold data.
    pub reader_threads: u32,
    /// Time between two looks for segments past their retention.
    pub retention_interval: Duration,
    /// Time in which every closed segment is read and checked once; zero switches the scrubber off.
    pub scrub_interval: Duration,
    /// Rate the scrubber reads at, at most.
    pub scrub_bytes_per_second: u64,
    /// Free disk space below which a warning is given.
    pub disk_low_free_bytes: u64,
    /// Free disk space below which appends get a retriable error.
    pub disk_min_free_bytes: u64,
    /// File given back when the disk is full, so that metadata can still be written.
    pub reserve_bytes: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Always,
            segment_bytes: 256 * MIB,
            index_interval_bytes: 64 * KIB,
            zero_ahead_bytes: 4 * MIB,
            tail_ring_bytes: 16 * MIB,
            open_files: 512,
            reader_threads: 2,
            retention_interval: Duration::from_secs(60),
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            scrub_bytes_per_second: 32 * MIB,
            disk_low_free_bytes: GIB,
            disk_min_free_bytes: 128 * MIB,
            reserve_bytes: 64 * MIB,
        }
    }
}

/// `[tee]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TeeConfig {
    /// Carries out the rules by which topics go on to other ones, for the partitions that this node leads.
    pub enabled: bool,
    /// Memory of one rule for what was read and not acked by its target.
    pub buffer_bytes: u64,
    /// Hands large batches of closed segments on inside the kernel, where targets are not encrypted to.
    pub in_kernel: bool,
    /// The token that this node authenticates with to targets.
    pub token: Option<Secret>,
}

impl Default for TeeConfig {
    fn default() -> Self {
        Self { enabled: true, buffer_bytes: 16 * MIB, in_kernel: true, token: None }
    }
}

/// `[topics]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicsConfig {
    /// Creates a topic at its first use.
    pub auto_create: bool,
    /// Partitions of a topic that does not say its own number.
    pub default_partitions: u16,
    /// Copies of a topic that does not say its own number; 0 = three, or as many as there are nodes.
    pub default_replication_factor: u8,
    /// Age at which records go; zero keeps them for ever.
    pub default_retention_age: Duration,
    /// Bytes of a partition above which its oldest segments go; 0 keeps them for ever.
    pub default_retention_bytes: u64,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            auto_create: true,
            default_partitions: 1,
            default_replication_factor: 0,
            default_retention_age: Duration::ZERO,
            default_retention_bytes: 0,
        }
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Transport of exported traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP with protobuf bodies.
    Http,
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryConfig {
    /// Filter of the log, as `tracing` spells it: `info`, or `info,lance_storage=debug`.
    pub log_level: String,
    /// Shape of a log line.
    pub log_format: LogFormat,
    /// Base URL of the collector of traces; none are exported when absent.
    pub otlp_endpoint: Option<String>,
    /// Transport to that collector.
    pub otlp_protocol: OtlpProtocol,
    /// Share of traces begun here that are kept, 0..=1.
    pub sample_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            otlp_protocol: OtlpProtocol::Grpc,
            sample_ratio: 0.01,
        }
    }
}

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsConfig {
    /// Serves TLS only; a plaintext first byte closes the connection.
    pub enabled: bool,
    /// Certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Private key, PEM.
    pub key_file: Option<PathBuf>,
    /// Authorities of the certificates that clients and peers show, PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// One that is shown must be good.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AuthConfig {
    /// Requires every client to authenticate.
    pub enabled: bool,
    /// The token of the bootstrap administrator.
    pub token: Option<Secret>,
    /// Principals that may do everything.
    pub superusers: Vec<String>,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Largest payload of one frame.
    pub max_frame_bytes: u32,
    /// Longest record that is taken, its header included; a payload that is no records counts as one.
    pub max_record_bytes: u32,
    /// Topics of a cluster, those of the broker itself not counted.
    pub max_topics: u32,
    /// Partitions of one topic.
    pub max_partitions_per_topic: u16,
    /// Client connections of a node; peers are not counted.
    pub max_connections: u32,
    /// Bytes of requests one connection may have unanswered.
    pub max_in_flight_bytes: u64,
    /// Requests one connection may have unanswered.
    pub max_in_flight_requests: u32,
    /// Largest data of one fetch reply.
    pub max_fetch_bytes: u32,
    /// Longest time a fetch may wait for data.
    pub max_fetch_wait: Duration,
    /// Silence after which a connection that said Hello is closed; zero never closes one.
    pub idle_timeout: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_frame_bytes: (16 * MIB) as u32,
            max_record_bytes: (16 * MIB) as u32,
            max_topics: 10_000,
            max_partitions_per_topic: 1024,
            max_connections: 10_000,
            max_in_flight_bytes: 32 * MIB,
            max_in_flight_requests: 4096,
            max_fetch_bytes: (16 * MIB) as u32 - 60,
            max_fetch_wait: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(600),
        }
    }
}

/// `[quotas]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotasConfig {
    /// Bytes a second the clients of one name may produce at this node; 0 = unlimited.
    pub produce_bytes_per_second: u64,
    /// Bytes a second the clients of one name may fetch from this node; 0 = unlimited.
    pub fetch_bytes_per_second: u64,
    /// Clients with quotas of their own, `NAME=PRODUCE/FETCH`; see [`crate::quota::ClientQuota`].
    pub clients: Vec<String>,
    /// Principals with quotas, likewise, whatever their clients call themselves.
    pub principals: Vec<String>,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ShutdownConfig {
    /// Time a graceful drain may take.
    pub drain_timeout: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_timeout: Duration::from_secs(25) }
    }
}

/// `[eviction]`.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionConfig {
    /// Judges followers at all.
    pub enabled: bool,
    /// Length of a window of measurement.
    pub window: Duration,
    /// Slow windows in a row that evict.
    pub slow_windows: u32,
    /// A follower is slow above this many times the median of the others …
    pub slow_factor: f64,
    /// … and above this.
    pub slow_floor: Duration,
    /// Silence with requests outstanding that evicts.
    pub ack_timeout: Duration,
    /// Windows looked back on before a return.
    pub rejoin_windows: u32,
    /// A follower returns below this share of the threshold it was evicted by.
    pub rejoin_factor: f64,
    /// Wait before the return from a second eviction; doubles with each further one.
    pub backoff: Duration,
    /// Time within which evictions count as repeated.
    pub backoff_window: Duration,
}

impl Default for EvictionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window: Duration::from_secs(1),
            slow_windows: 3,
            slow_factor: 4.0,
            slow_floor: Duration::from_millis(5),
            ack_timeout: Duration::from_secs(1),
            rejoin_windows: 10,
            rejoin_factor: 0.5,
            backoff: Duration::from_secs(30),
            backoff_window: Duration::from_secs(600),
        }
    }
}

/// Which work shares a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Connections, ingestion and poller of a shard on one thread.
    Fused,
    /// Connections on threads of their own, one for each shard.
    Dedicated,
}

/// `[shards]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardsConfig {
    /// Shards of the node; a partition belongs to one by hash.
    pub count: u16,
    /// Which work shares a thread.
    pub placement: Placement,
    /// CPUs that shard threads are pinned to, in order; none are pinned when empty.
    pub cpus: Vec<u32>,
}

impl Default for ShardsConfig {
    fn default() -> Self {
        Self { count: 1, placement: Placement::Fused, cpus: Vec::new() }
    }
}

/// `[supervision]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SupervisionConfig {
    /// Wait before the first restart of an actor; doubles with each further one.
    pub backoff_min: Duration,
    /// Longest wait before a restart.
    pub backoff_max: Duration,
    /// Restarts of one actor within `restart_window` above which its parent fails.
    pub max_restarts: u32,
    /// Time over which restarts are counted.
    pub restart_window: Duration,
}

impl Default for SupervisionConfig {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            max_restarts: 10,
            restart_window: Duration::from_secs(60),
        }
    }
}
