//! Figures of the links to other nodes, of the followers behind them, and of what was decided about those.

use crate::metrics::{FollowerFigures, JudgedFollower, LinkFigures};
use lance_messages::id::NodeId;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

type Encoded = Result<(), fmt::Error>;
type Shown = fn(&JudgedFollower) -> Option<f64>;

/// What a follower was judged by; one that there is nothing to say of has no sample.
const JUDGED: [(&str, &str, Shown); 6] = [
    (
        "follower_ack_p99_seconds",
        "99th percentile from an append to a follower's ack, in the last window that was judged",
        |one| one.figures.p99_micros.map(seconds),
    ),
    ("follower_ack_others_median_seconds", "Median of that percentile among the other followers", |one| {
        one.figures.others_median_micros.map(seconds)
    }),
    ("follower_ack_threshold_seconds", "Above this a follower's percentile counts as slow", |one| {
        Some(seconds(one.figures.threshold_micros))
    }),
    ("follower_ack_outstanding_seconds", "How long a follower has owed an ack; 0 while it owes none", |one| {
        Some(one.figures.outstanding_ms.unwrap_or(0) as f64 / 1e3)
    }),
    ("follower_slow_windows", "Windows in a row in which a follower was slow or silent", |one| {
        Some(f64::from(one.figures.slow_count))
    }),
    (
        "follower_demoted",
        "1 while a follower is slow: it counts, and is sent later and in larger pieces what others are pushed",
        |one| Some(f64::from(u8::from(one.is_demoted))),
    ),
];

fn seconds(micros: u32) -> f64 {
    f64::from(micros) / 1e6
}

/// Writes what is known of followers.
pub(super) fn encode_followers(followers: &FollowerFigures, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let label = |node: NodeId| [("follower", node.to_string())];
    let judged = followers.judged();
    for (name, help, shown) in JUDGED {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for one in judged.iter() {
            if let Some(value) = shown(one) {
                ConstGauge::new(value).encode(family.encode_family(&label(one.node))?)?;
            }
        }
    }
    let help =
        "Decisions about followers that were made here: admit, demote, promote, evict-slow, evict-silent, rejoin";
    let mut family = encoder.encode_descriptor("follower_decisions", help, None, MetricType::Counter)?;
    for ((node, decision), count) in followers.decisions().iter() {
        let [follower] = label(*node);
        let labels = [follower, ("decision", decision.as_str().to_owned())];
        ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
    }
    let help = "Times that this node found itself slower than its followers";
    let family = encoder.encode_descriptor("slow_leader", help, None, MetricType::Counter)?;
    ConstCounter::new(followers.slow_leader.get()).encode(family)?;
    let help = "From an append until a follower that was fed from memory has confirmed it";
    let mut family = encoder.encode_descriptor("replication_latency_seconds", help, None, MetricType::Histogram)?;
    for (node, histogram) in followers.latencies().iter() {
        let (sum, count, buckets) = histogram.encoded();
        let labels = label(*node);
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// Writes which links stand.
pub(super) fn encode_links(links: &LinkFigures, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let links = links.shown();
    let label = |peer: NodeId, kind: &str| [("peer", peer.to_string()), ("kind", kind.to_owned())];
    let help = "1 while this node's own link to another node stands";
    let mut family = encoder.encode_descriptor("peer_link_up", help, None, MetricType::Gauge)?;
    for ((peer, kind), link) in links.iter() {
        let up = i64::try_from(link.up.get()).unwrap_or(i64::MAX);
        ConstGauge::new(up).encode(family.encode_family(&label(*peer, kind))?)?;
    }
    let help = "Times that this node's own link to another node was lost";
    let mut family = encoder.encode_descriptor("peer_link_losses", help, None, MetricType::Counter)?;
    for ((peer, kind), link) in links.iter() {
        ConstCounter::new(link.losses.get()).encode(family.encode_family(&label(*peer, kind))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::cluster_figures::ClusterFigures;
    use crate::admin::exposition::{Scrape, render};
    use crate::metrics::{FollowerDecision, LatencyCounts, Metrics};
    use lance_cluster::replica::Figures;
    use lance_messages::peer::LinkKind;
    use std::sync::Arc;
    use std::time::Duration;

    fn rendered(metrics: Metrics) -> String {
        let (backend, cluster) = ("pool".to_owned(), ClusterFigures::default());
        render(Scrape {
            metrics: Arc::new(metrics),
            vitals: Vec::new(),
            backend,
            is_ready: true,
            cluster,
            tee: Default::default(),
        })
        .unwrap()
    }

    #[test]
    fn a_follower_is_shown_with_what_it_was_judged_by_and_what_was_decided() {
        let metrics = Metrics::default();
        let figures = Figures {
            p99_micros: Some(40_000),
            others_median_micros: None,
            threshold_micros: 5_000,
            slow_count: 3,
            outstanding_ms: Some(1_500),
        };
        metrics.followers.show(vec![JudgedFollower { node: NodeId(2), figures, is_demoted: true }]);
        metrics.followers.decided(FollowerDecision::EvictSlow, NodeId(2));
        metrics.followers.decided(FollowerDecision::EvictSlow, NodeId(2));
        let mut acks = LatencyCounts::default();
        acks.observe(Duration::from_millis(1));
        acks.observe(Duration::from_secs(60));
        metrics.followers.add_latencies(NodeId(2), &acks);
        metrics.followers.add_latencies(NodeId(2), &acks);
        let text = rendered(metrics);
        for line in [
            "lance_follower_ack_p99_seconds{follower=\"2\"} 0.04",
            "lance_follower_ack_threshold_seconds{follower=\"2\"} 0.005",
            "lance_follower_ack_outstanding_seconds{follower=\"2\"} 1.5",
            "lance_follower_slow_windows{follower=\"2\"} 3.0",
            "lance_follower_demoted{follower=\"2\"} 1.0",
            "lance_follower_decisions_total{follower=\"2\",decision=\"evict-slow\"} 2",
            "lance_slow_leader_total 0",
            "lance_replication_latency_seconds_bucket{le=\"0.0016\",follower=\"2\"} 2",
            "lance_replication_latency_seconds_bucket{le=\"+Inf\",follower=\"2\"} 4",
            "lance_replication_latency_seconds_count{follower=\"2\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("others_median_seconds{"), "nothing is said of what is not known:\n{text}");
    }

    #[test]
    fn links_are_shown_until_they_are_forgotten() {
        let metrics = Metrics::default();
        let link = metrics.links.of(NodeId(3), LinkKind::Data);
        metrics.links.of(NodeId(4), LinkKind::Control);
        metrics.links.forget(NodeId(4), LinkKind::Control);
        link.up.set(1);
        link.losses.add(2);
        let text = rendered(metrics);
        for line in [
            "lance_peer_link_up{peer=\"3\",kind=\"data\"} 1",
            "lance_peer_link_losses_total{peer=\"3\",kind=\"data\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("peer=\"4\""), "{text}");
    }
}
