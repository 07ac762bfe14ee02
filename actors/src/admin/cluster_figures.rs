//! Figures of the cluster as one node knows it: who leads, what is missing, who is behind.

use crate::ingestion::maintenance::PartitionStatus;
use crate::view::ClusterView;
use lance_messages::id::NodeId;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::collections::BTreeMap;
use std::fmt;

/// What one scrape shows of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFigures {
    /// Partitions that this node leads.
    pub partition_leaders: u64,
    /// Partitions of the cluster that have no leader.
    pub partitions_offline: u64,
    /// Partitions led here that wait for fewer copies than they have, or for one whose node is down.
    pub under_replicated: u64,
    /// Bytes that followers have not acked yet, over all partitions led here, by node.
    pub lag_bytes: BTreeMap<NodeId, u64>,
    /// Raft term of the metadata.
    pub metadata_term: u64,
    /// The feature level that the cluster uses.
    pub feature_level: u64,
    /// 1 while this node is in maintenance.
    pub maintenance: u64,
    /// Leaders chosen since this node started, of all partitions.
    pub leader_changes: u64,
}

impl ClusterFigures {
    /// What `view` and the shards of this node say.
    pub fn new(view: &ClusterView, statuses: &[PartitionStatus]) -> Self {
        let mut figures = Self {
            metadata_term: view.term,
            leader_changes: view.leader_changes,
            feature_level: view.feature_level.0.into(),
            maintenance: view.node.is_some_and(|node| view.maintenance.contains(&node)).into(),
            ..Self::default()
        };
        for partition in view.partitions() {
            match view.leader(partition) {
                None => figures.partitions_offline += 1,
                Some(leader) if Some(leader) == view.node => {
                    figures.partition_leaders += 1;
                    let topic = view.any_topic(partition.topic);
                    let members = topic.and_then(|topic| topic.members.get(usize::from(partition.partition)));
                    let missing = members.is_some_and(|members| {
                        let counting = members.in_quorum.iter().filter(|node| view.is_alive(**node)).count();
                        counting < members.replicas.len()
                    });
                    figures.under_replicated += u64::from(missing);
                }
                Some(_) => {}
            }
        }
        for status in statuses {
            for follower in &status.followers {
                let lag = status.log_end.saturating_sub(follower.acked.unwrap_or(0));
                *figures.lag_bytes.entry(follower.node).or_default() += lag;
            }
        }
        figures
    }

    /// Writes them.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauges = [
            ("partition_leaders", "Partitions that this node leads", self.partition_leaders),
            ("partitions_offline", "Partitions of the cluster that have no leader", self.partitions_offline),
            (
                "partitions_under_replicated",
                "Partitions led by this node that miss a copy, or have one that is not waited for",
                self.under_replicated,
            ),
            ("metadata_term", "Raft term of the metadata", self.metadata_term),
            ("feature_level", "Feature level that the cluster uses", self.feature_level),
            ("maintenance", "1 while this node is in maintenance and leads nothing", self.maintenance),
        ];
        for (name, help, value) in gauges {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge(value).encode(family)?;
        }
        let help = "Leaders chosen since this node started, of all partitions";
        let family = encoder.encode_descriptor("leader_changes", help, None, MetricType::Counter)?;
        ConstCounter::new(self.leader_changes).encode(family)?;
        let help = "Bytes of partitions led by this node that a follower has not acked yet";
        let mut family = encoder.encode_descriptor("replication_lag_bytes", help, None, MetricType::Gauge)?;
        for (node, bytes) in &self.lag_bytes {
            let labels = [("follower", node.to_string())];
            gauge(*bytes).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingestion::maintenance::FollowerStatus;
    use crate::view::{PartitionMembers, TopicView};
    use lance_cluster::metadata::TopicConfig;
    use lance_messages::id::{LeaderEpoch, TopicId, TopicPartition};

    fn three_partitions() -> ClusterView {
        let mut view = ClusterView::default();
        (view.node, view.term, view.leader_changes) = (Some(NodeId(1)), 4, 5);
        let all = vec![NodeId(1), NodeId(2), NodeId(3)];
        let members = |in_quorum: Vec<NodeId>| PartitionMembers {
            replicas: all.clone(),
            in_quorum,
            ..PartitionMembers::default()
        };
        view.insert(TopicView {
            id: TopicId(1),
            name: "events".to_owned(),
            created_at: 0,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: [Some(NodeId(1)), Some(NodeId(1)), None].map(|leader| (leader, LeaderEpoch(1))).to_vec(),
            members: vec![members(all.clone()), members(vec![NodeId(1), NodeId(2)]), members(all.clone())],
        });
        view
    }

    #[test]
    fn partitions_are_counted_by_what_they_lack() {
        let mut view = three_partitions();
        let figures = ClusterFigures::new(&view, &[]);
        let counted = (figures.partition_leaders, figures.partitions_offline, figures.under_replicated);
        assert_eq!(counted, (2, 1, 1));
        view.alive.insert(NodeId(3), false);
        assert_eq!(ClusterFigures::new(&view, &[]).under_replicated, 2, "a copy on a dead node is missing too");
    }

    #[test]
    fn lag_is_summed_over_the_partitions_led_here() {
        let status = |number, acked| PartitionStatus {
            partition: TopicPartition::new(TopicId(1), number),
            state: "serving",
            reason: None,
            log_start: 0,
            high_watermark: 10,
            durable_end: 12,
            log_end: 12,
            followers: vec![FollowerStatus { node: NodeId(2), acked }],
        };
        let figures = ClusterFigures::new(&three_partitions(), &[status(0, Some(7)), status(1, None)]);
        assert_eq!(figures.lag_bytes, BTreeMap::from([(NodeId(2), 5 + 12)]));
    }
}
