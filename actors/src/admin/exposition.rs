//! The node's figures as OpenMetrics text: names begin with `lance_`, units are seconds and bytes.

use super::cluster_figures::ClusterFigures;
use super::replication_figures::{encode_followers, encode_links};
use super::tee_figures::TeeFigures;
use crate::metrics::{GroupLag, LatencyHistogram, Metrics};
use crate::supervision::{ActorKind, Vitals};
use crate::telemetry::{SpanCounts, Tracer, tracer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What one scrape shows.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// Every actor.
    pub vitals: Vec<Arc<Vitals>>,
    /// Name of the disk backend.
    pub backend: String,
    /// Whether the node serves.
    pub is_ready: bool,
    /// Of the cluster, as this node knows it.
    pub cluster: ClusterFigures,
    /// Of the partitions that this node forwards.
    pub tee: TeeFigures,
}

/// The text of a scrape.
pub fn render(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("lance");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

type Encoded = Result<(), fmt::Error>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        self.histograms(&mut encoder)?;
        self.counters(&mut encoder)?;
        self.gauges(&mut encoder)?;
        self.cluster.encode(&mut encoder)?;
        self.tee.encode(&mut encoder)?;
        encode_followers(&self.metrics.followers, &mut encoder)?;
        encode_links(&self.metrics.links, &mut encoder)?;
        self.groups(&mut encoder)?;
        spans(&mut encoder)?;
        self.actors(&mut encoder)?;
        let backend = [("backend", self.backend.as_str())];
        let mut family =
            encoder.encode_descriptor("io_backend", "The disk backend that runs", None, MetricType::Gauge)?;
        sample(&mut family, &backend, 1)?;
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family = encoder.encode_descriptor("build", "What was built", None, MetricType::Info)?;
        family.encode_info(&build)
    }
}

impl Scrape {
    fn histograms(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let metrics = &self.metrics;
        let histograms: [(&str, &str, &LatencyHistogram); 3] = [
            (
                "produce_latency_seconds",
                "Produce request until its ack is handed to the socket",
                &metrics.produce_latency,
            ),
            (
                "fetch_latency_seconds",
                "Fetch request until its answer is handed to the socket, without waiting at the end",
                &metrics.fetch_latency,
            ),
            ("sync_latency_seconds", "Group of writes handed to the disk until it is durable", &metrics.sync_latency),
        ];
        for (name, help, histogram) in histograms {
            let (sum, count, buckets) = histogram.encoded();
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let metrics = &self.metrics;
        let counters = [
            ("produced_bytes", "Record bytes appended", &metrics.produced_bytes),
            ("produced_records", "Records appended", &metrics.produced_records),
            ("produced_batches", "Batches appended", &metrics.produced_batches),
            ("duplicate_batches", "Batches recognised as retries and stored once", &metrics.duplicate_batches),
            ("fetched_bytes", "Record bytes sent to consumers", &metrics.fetched_bytes),
            (
                "fetched_kernel_bytes",
                "Of those, bytes sent from segments inside the kernel",
                &metrics.fetched_kernel_bytes,
            ),
            ("tail_fetches", "Fetches answered from memory", &metrics.tail_fetches),
            ("replica_fetches", "Fetches of readers nearer to this node than to the leader", &metrics.replica_fetches),
            ("segment_fetches", "Fetches answered from segments", &metrics.segment_fetches),
            ("pool_waits", "Appends that waited for a free write buffer", &metrics.pool_waits),
            ("connection_failures", "Connections closed because their actor failed", &metrics.connection_failures),
            ("connections_refused", "Connections refused because of the limit", &metrics.connections_refused),
            ("bad_frames", "Malformed frames received", &metrics.bad_frames),
            (
                "request_errors",
                "Produce, fetch and look-up requests that a shard answered with an error",
                &metrics.errors,
            ),
            ("damaged_batches", "Damaged ranges found by the scrubber or by readers", &metrics.damaged_batches),
            ("scrubbed_bytes", "Bytes of closed segments read again and checked", &metrics.scrubbed_bytes),
            (
                "retention_removed_bytes",
                "Bytes removed because their topic no longer keeps them",
                &metrics.retention_removed_bytes,
            ),
        ];
        for (name, help, figure) in counters {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(figure.get()).encode(family)?;
        }
        let help = "Seconds that quotas let clients wait, all together";
        let family = encoder.encode_descriptor("throttled_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(metrics.throttled_ns.get() as f64 / 1e9).encode(family)?;
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let metrics = &self.metrics;
        let gauges = [
            ("ready", "1 while the node serves", u64::from(self.is_ready)),
            ("connections", "Open client connections", metrics.connections.get()),
            ("partitions", "Partitions on this node", metrics.partitions.get()),
            (
                "partitions_open",
                "Partitions whose log was opened, or found impossible to open",
                metrics.partitions_open.get(),
            ),
            (
                "partitions_stopped",
                "Partitions that take nothing because of damage or a failed sync",
                metrics.partitions_stopped.get(),
            ),
            (
                "partitions_read_only",
                "Partitions that were started on a full disk and take no records until there is space",
                metrics.partitions_read_only.get(),
            ),
            (
                "damaged_replicas_waiting",
                "Damaged replicas that are refilled once enough other copies count",
                metrics.damaged_replicas_waiting.get(),
            ),
            (
                "group_records_undecodable",
                "Records of __groups that could not be read when offsets were last loaded",
                metrics.undecodable_group_records.get(),
            ),
            ("pool_slots", "Write buffers", metrics.pool_slots.get()),
            ("pool_free_slots", "Free write buffers", metrics.pool_free_slots.get()),
            (
                "recovery_truncated_bytes",
                "Bytes of torn tails that recovery cut since the process started",
                metrics.recovery_truncated_bytes.get(),
            ),
            ("disk_free_bytes", "Free bytes of the data directory's file system", metrics.disk_free_bytes.get()),
            ("disk_size_bytes", "Bytes of the data directory's file system", metrics.disk_total_bytes.get()),
        ];
        for (name, help, value) in gauges {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge(value).encode(family)?;
        }
        Ok(())
    }

    fn groups(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let shown = self.metrics.groups.load();
        let help = "Members of a consumer group";
        let mut family = encoder.encode_descriptor("group_members", help, None, MetricType::Gauge)?;
        for (group, members, ..) in &shown.groups {
            sample(&mut family, &[("group", group.as_str())], *members)?;
        }
        let help = "1 while partitions of a consumer group are on their way from one member to another";
        let mut family = encoder.encode_descriptor("group_reconciling", help, None, MetricType::Gauge)?;
        for (group, _, reconciling, _) in &shown.groups {
            sample(&mut family, &[("group", group.as_str())], u64::from(*reconciling))?;
        }
        let help = "Epoch of a consumer group, which counts its changes";
        let mut family = encoder.encode_descriptor("group_epoch", help, None, MetricType::Gauge)?;
        for (group, _, _, epoch) in &shown.groups {
            sample(&mut family, &[("group", group.as_str())], u64::try_from(*epoch).unwrap_or(0))?;
        }
        let lags = |lag: &GroupLag| [lag.records as f64, lag.bytes as f64, lag.seconds];
        let families = [
            ("group_lag_records", "Records of a partition that a consumer group has not committed as read"),
            ("group_lag_bytes", "Bytes of a partition that a consumer group has not committed as read"),
            ("group_lag_seconds", "Age of the first record that a consumer group has not committed as read"),
        ];
        for (index, (name, help)) in families.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for lag in &shown.lags {
                let partition = lag.partition.to_string();
                let labels =
                    [("group", lag.group.as_str()), ("topic", lag.topic.as_str()), ("partition", partition.as_str())];
                ConstGauge::new(lags(lag)[index]).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn actors(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let rows = actor_rows(&self.vitals, self.metrics.connection_failures.get());
        let help = "Restarts of an actor after a failure";
        let mut family = encoder.encode_descriptor("actor_restarts", help, None, MetricType::Counter)?;
        for row in &rows {
            ConstCounter::new(row.restarts).encode(family.encode_family(&row.labels())?)?;
        }
        let help = "Messages that wait in an actor's mailbox";
        let mut family = encoder.encode_descriptor("actor_mailbox_depth", help, None, MetricType::Gauge)?;
        for row in &rows {
            sample(&mut family, &row.labels(), row.mailbox_depth)?;
        }
        let help = "Messages an actor's mailbox takes before senders feel it";
        let mut family = encoder.encode_descriptor("actor_mailbox_capacity", help, None, MetricType::Gauge)?;
        for row in &rows {
            sample(&mut family, &row.labels(), row.mailbox_capacity)?;
        }
        Ok(())
    }
}

/// What became of spans; zeroes where traces are not exported.
fn spans(encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let counts = tracer().map(Tracer::counts);
    let of = |count: fn(&SpanCounts) -> u64| counts.map_or(0, count);
    let counters = [
        ("telemetry_exported_spans", "Spans that the collector took", of(SpanCounts::exported)),
        ("telemetry_dropped_spans", "Spans for which there was no room", of(SpanCounts::dropped)),
        ("telemetry_failed_spans", "Spans that the collector did not take", of(SpanCounts::failed)),
    ];
    for (name, help, value) in counters {
        let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(family)?;
    }
    let family = encoder.encode_descriptor(
        "telemetry_waiting_spans",
        "Spans that wait to be exported",
        None,
        MetricType::Gauge,
    )?;
    gauge(tracer().map_or(0, |tracer| tracer.waiting() as u64)).encode(family)
}

struct ActorRow<'a> {
    name: &'a str,
    kind: &'static str,
    restarts: u64,
    mailbox_depth: u64,
    mailbox_capacity: u64,
}

impl ActorRow<'_> {
    fn labels(&self) -> [(&str, &str); 2] {
        [("actor", self.name), ("kind", self.kind)]
    }
}

/// One row an actor, and one for all connections together: their names come and go by the thousand.
fn actor_rows(vitals: &[Arc<Vitals>], connection_failures: u64) -> Vec<ActorRow<'_>> {
    let kind = ActorKind::Connection.as_str();
    let mut connections =
        ActorRow { name: "connections", kind, restarts: connection_failures, mailbox_depth: 0, mailbox_capacity: 0 };
    let mut rows = Vec::new();
    for actor in vitals {
        if actor.kind == ActorKind::Connection {
            connections.mailbox_depth += actor.mailbox_depth();
            connections.mailbox_capacity += actor.mailbox_capacity as u64;
            continue;
        }
        rows.push(ActorRow {
            name: &actor.name,
            kind: actor.kind.as_str(),
            restarts: actor.restarts(),
            mailbox_depth: actor.mailbox_depth(),
            mailbox_capacity: actor.mailbox_capacity as u64,
        });
    }
    rows.push(connections);
    rows
}

fn sample<S: EncodeLabelSet>(family: &mut MetricEncoder<'_>, labels: &S, value: u64) -> Encoded {
    gauge(value).encode(family.encode_family(labels)?)
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::NodeId;
    use std::time::Duration;

    fn rendered() -> String {
        let metrics = Arc::new(Metrics::default());
        metrics.produced_bytes.add(1024);
        metrics.sync_latency.observe(Duration::from_micros(90));
        metrics.sync_latency.observe(Duration::from_secs(60));
        metrics.connection_failures.add(2);
        let ingestion = Vitals::new("ingestion-0", ActorKind::Ingestion, 8192);
        ingestion.count_restart();
        ingestion.message_sent();
        let connections = (1..=3).map(|n| Vitals::new(format!("connection-{n}"), ActorKind::Connection, 100));
        let vitals = [ingestion].into_iter().chain(connections).collect();
        let cluster = ClusterFigures { lag_bytes: [(NodeId(2), 17)].into(), ..ClusterFigures::default() };
        let tee = TeeFigures(vec![crate::tee::core::status::FlowStatus {
            tee: lance_messages::id::TeeId(3),
            topic: "events".to_owned(),
            partition: lance_messages::id::TopicPartition::new(lance_messages::id::TopicId(1), 2),
            state: lance_messages::wire::tee::TeeState::Waiting,
            lag_records: 4,
            lag_bytes: 500,
            lag_ms: 1500,
            counts: crate::tee::core::status::TeeCounts { duplicates: 6, ..Default::default() },
            error: String::new(),
        }]);
        render(Scrape { metrics, vitals, backend: "io_uring".to_owned(), is_ready: true, cluster, tee }).unwrap()
    }

    #[test]
    fn samples_have_the_documented_names_and_labels() {
        let text = rendered();
        for line in [
            "lance_io_backend{backend=\"io_uring\"} 1",
            "lance_actor_restarts_total{actor=\"ingestion-0\",kind=\"ingestion\"} 1",
            "lance_actor_mailbox_depth{actor=\"ingestion-0\",kind=\"ingestion\"} 1",
            "lance_actor_mailbox_capacity{actor=\"connections\",kind=\"connection\"} 300",
            "lance_actor_restarts_total{actor=\"connections\",kind=\"connection\"} 2",
            "lance_produced_bytes_total 1024",
            "lance_replication_lag_bytes{follower=\"2\"} 17",
            "lance_tee_lag_bytes{tee=\"3\",topic=\"events\",partition=\"2\"} 500",
            "lance_tee_lag_seconds{tee=\"3\",topic=\"events\",partition=\"2\"} 1.5",
            "lance_tee_duplicates_total{tee=\"3\",topic=\"events\",partition=\"2\"} 6",
            "lance_partition_leaders 0",
            "lance_leader_changes_total 0",
            "lance_sync_latency_seconds_bucket{le=\"0.0001\"} 1",
            "lance_sync_latency_seconds_bucket{le=\"5.0\"} 1",
            "lance_sync_latency_seconds_bucket{le=\"+Inf\"} 2",
            "lance_sync_latency_seconds_count 2",
            "lance_recovery_truncated_bytes 0",
            "lance_ready 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("connection-1"), "no sample for each connection");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_family_has_the_prefix_a_help_and_no_unit_but_seconds_and_bytes() {
        let text = rendered();
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() > 25, "{families:?}");
        for family in families {
            let name = family.split(' ').next().unwrap();
            assert!(name.starts_with("lance_"), "{name}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
            for unit in ["_ms", "_millis", "_micros", "_ns", "_kb", "_mb"] {
                assert!(!name.ends_with(unit), "{name}");
            }
        }
    }
}
