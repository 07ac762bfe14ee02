//! Tee rules: their figures, and how a topic's rules are listed.

use crate::tee::core::status::FlowStatus;
use crate::view::ClusterView;
use lance_messages::id::{TeeId, TopicId};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use std::fmt;

/// What one scrape shows of the partitions that this node forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeeFigures(pub Vec<FlowStatus>);

type Labels = [(&'static str, String); 3];

impl TeeFigures {
    /// Writes them, with the labels `tee`, `topic` and `partition`.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Value = fn(&FlowStatus) -> u64;
        let gauges: [(&str, &str, Value); 3] = [
            ("tee_lag_bytes", "Committed bytes that the target has not acked", |flow| flow.lag_bytes),
            ("tee_lag_records", "Committed records that the target has not acked", |flow| flow.lag_records),
            ("tee_state", "1 starting, 2 forwarding, 3 waiting for the target, 4 stuck", |flow| flow.state as u64),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for flow in &self.0 {
                let gauge = ConstGauge::new(i64::try_from(value(flow)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&labels(flow))?)?;
            }
        }
        let help = "Age of the oldest committed record that the target has not acked";
        let mut family = encoder.encode_descriptor("tee_lag_seconds", help, None, MetricType::Gauge)?;
        for flow in &self.0 {
            let gauge = ConstGauge::new(flow.lag_ms as f64 / 1e3);
            gauge.encode(family.encode_family(&labels(flow))?)?;
        }
        let counters: [(&str, &str, Value); 10] = [
            ("tee_batches", "Batches acked by the target", |flow| flow.counts.batches),
            ("tee_records", "Records acked by the target", |flow| flow.counts.records),
            ("tee_bytes", "Record bytes acked by the target", |flow| flow.counts.bytes),
            ("tee_kernel_bytes", "Record bytes of those handed on inside the kernel", |flow| flow.counts.kernel_bytes),
            ("tee_errors", "Failures of the target and of the way to it", |flow| flow.counts.errors),
            ("tee_retries", "Batches sent again", |flow| flow.counts.retries),
            ("tee_duplicates", "Batches that the target had stored before", |flow| flow.counts.duplicates),
            ("tee_restarts", "Returns to the last checkpoint", |flow| flow.counts.restarts),
            ("tee_lost_records", "Records removed before they were forwarded", |flow| flow.counts.lost_records),
            ("tee_lost_bytes", "Bytes removed before they were forwarded", |flow| flow.counts.lost_bytes),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for flow in &self.0 {
                ConstCounter::new(value(flow)).encode(family.encode_family(&labels(flow))?)?;
            }
        }
        Ok(())
    }
}

fn labels(flow: &FlowStatus) -> Labels {
    [("tee", flow.tee.to_string()), ("topic", flow.topic.clone()), ("partition", flow.partition.partition.to_string())]
}

/// A rule of a topic.
#[derive(Debug, Serialize)]
pub struct TeeListing {
    /// Its id.
    pub id: TeeId,
    /// Nodes of the target's cluster.
    pub addresses: Vec<String>,
    /// The topic there.
    pub topic: String,
    /// Most bytes a second; 0 = unlimited.
    pub bytes_per_second: u64,
    /// Unix seconds.
    pub created_at: u64,
    /// The partitions that this node forwards.
    pub partitions: Vec<TeePartitionListing>,
}

/// How far a rule is with one partition.
#[derive(Debug, Serialize)]
pub struct TeePartitionListing {
    /// Its number.
    pub partition: u16,
    /// `starting`, `forwarding`, `waiting` or `stuck`.
    pub state: &'static str,
    /// Committed records that the target has not acked.
    pub lag_records: u64,
    /// Their bytes.
    pub lag_bytes: u64,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// Records that were removed before they were forwarded, since this node forwards.
    pub lost_records: u64,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The rules of a topic.
pub fn rules_of(topic: TopicId, view: &ClusterView, flows: &[FlowStatus]) -> Vec<TeeListing> {
    let of_topic = view.tees.iter().filter(|(_, rule)| rule.topic == topic);
    let listed = of_topic.map(|(id, rule)| TeeListing {
        id: *id,
        addresses: rule.target.addresses.clone(),
        topic: rule.target.topic.clone(),
        bytes_per_second: rule.bytes_per_second,
        created_at: rule.created_at_secs,
        partitions: flows.iter().filter(|flow| flow.tee == *id).map(partition).collect(),
    });
    listed.collect()
}

fn partition(flow: &FlowStatus) -> TeePartitionListing {
    TeePartitionListing {
        partition: flow.partition.partition,
        state: flow.state.name(),
        lag_records: flow.lag_records,
        lag_bytes: flow.lag_bytes,
        lag_seconds: flow.lag_ms as f64 / 1e3,
        lost_records: flow.counts.lost_records,
        error: (!flow.error.is_empty()).then(|| flow.error.clone()),
    }
}
