//! Judgements of followers: the cases of `testdata/eviction.txt`, and what holds for all of them.

use lance_cluster::replica::{EvictionCause, EvictionCore, EvictionOptions, FollowerWindow, Verdict};
use lance_messages::id::NodeId;

const CASES: &str = include_str!("../../testdata/eviction.txt");

struct Run {
    core: EvictionCore,
    now_ms: u64,
    own_sync_p99_micros: Option<u32>,
}

impl Run {
    fn new() -> Self {
        Self { core: EvictionCore::new(EvictionOptions::default()), now_ms: 5_000_000, own_sync_p99_micros: None }
    }

    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let node = || NodeId(words[1].parse().unwrap());
        match words[0] {
            "own" => self.own_sync_p99_micros = words[1].parse().ok(),
            "evicted" => self.core.on_evicted(node(), self.now_ms),
            "admit" => self.core.admit(node()),
            "pass" => self.now_ms += words[1].parse::<u64>().unwrap(),
            count => {
                let (input, expected) = line.split_once("->").unwrap();
                let windows: Vec<FollowerWindow> = input.split_whitespace().skip(2).map(window).collect();
                for number in 0..count.parse::<u32>().unwrap() {
                    self.now_ms += 1000;
                    let mut verdicts = Vec::new();
                    self.core.on_window(&windows, self.own_sync_p99_micros, self.now_ms, &mut verdicts);
                    let verdicts: Vec<String> = verdicts.iter().map(said).collect();
                    let verdicts = if verdicts.is_empty() { "-".to_owned() } else { verdicts.join(" | ") };
                    assert_eq!(verdicts, expected.trim(), "window {number} of {line}");
                }
            }
        }
    }
}

fn window(text: &str) -> FollowerWindow {
    let (node, fields) = text.split_once(':').unwrap();
    let mut window = FollowerWindow {
        node: NodeId(node.parse().unwrap()),
        p99_micros: None,
        acks: 0,
        outstanding_ms: None,
        sync_p99_micros: None,
        in_quorum_count: 1,
        evicted_count: 0,
    };
    for field in fields.split(',').filter(|field| !field.is_empty()) {
        let (kind, number) = field.split_at(1);
        let number: u32 = number.parse().unwrap();
        match kind {
            "p" => (window.p99_micros, window.acks) = (Some(number), 10),
            "o" => window.outstanding_ms = Some(u64::from(number)),
            "s" => window.sync_p99_micros = Some(number),
            "q" => window.in_quorum_count = number,
            "e" => window.evicted_count = number,
            _ => panic!("unknown field {field}"),
        }
    }
    window
}

fn said(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Demote { node, .. } => format!("demote {node}"),
        Verdict::Promote { node, .. } => format!("promote {node}"),
        Verdict::Evict { node, cause: EvictionCause::Slow, .. } => format!("evict {node} slow"),
        Verdict::Evict { node, cause: EvictionCause::Silent, .. } => format!("evict {node} silent"),
        Verdict::Rejoin { node, .. } => format!("rejoin {node}"),
        Verdict::MoveLeadership { .. } => "move".to_owned(),
    }
}

#[test]
fn cases_of_the_data_file_hold() {
    let mut count = 0;
    let mut run = Run::new();
    for line in CASES.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if line.starts_with("case ") {
            run = Run::new();
            count += 1;
        } else {
            run.step(line);
        }
    }
    assert!(count >= 25, "{count}");
}

#[test]
fn a_verdict_says_what_led_to_it() {
    let mut run = Run::new();
    let windows = [window("2:p900,s300"), window("3:p21000,o20")];
    let mut verdicts = Vec::new();
    (0..3).for_each(|_| run.core.on_window(&windows, None, run.now_ms, &mut verdicts));
    let Some(Verdict::Evict { node: NodeId(3), figures, .. }) = verdicts.last() else {
        panic!("{verdicts:?}");
    };
    assert_eq!((figures.p99_micros, figures.others_median_micros), (Some(21_000), Some(900)));
    assert_eq!((figures.threshold_micros, figures.slow_count, figures.outstanding_ms), (5_000, 3, Some(20)));
    assert!(run.core.is_demoted(NodeId(3)) && !run.core.is_demoted(NodeId(2)));
    assert_eq!(run.core.demoted(), [NodeId(3)]);
}

#[test]
fn the_back_off_ends_where_evictions_are_forgotten() {
    let mut run = Run::new();
    for _ in 0..40 {
        run.core.on_evicted(NodeId(3), run.now_ms);
        run.core.on_window(&[window("2:p900"), window("3:p900")], None, run.now_ms, &mut Vec::new());
    }
    assert_eq!(run.core.backoff_left_ms(NodeId(3), run.now_ms), 600_000);
    run.core.retain(|node| node != NodeId(3));
    assert_eq!(run.core.backoff_left_ms(NodeId(3), run.now_ms), 0);
}

#[test]
fn nobody_is_judged_when_that_is_switched_off() {
    let mut core = EvictionCore::new(EvictionOptions { enabled: false, ..EvictionOptions::default() });
    let mut verdicts = Vec::new();
    (0..9).for_each(|_| core.on_window(&[window("2:p900"), window("3:p90000,o5000")], None, 0, &mut verdicts));
    assert_eq!(verdicts, []);
}
