//! Whether records would come back to where they came from: follows the rules of cluster after cluster.

use lance_messages::wire::tee::{TeeList, TeeTarget};
use std::collections::{BTreeSet, VecDeque};

/// How many rules in a row are followed.
pub const MAX_DEPTH: usize = 8;
/// Most places that are looked at.
const MAX_PLACES: usize = 256;

/// A topic of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    cluster: u64,
    topic: String,
}

#[derive(Clone, Debug)]
struct Step {
    target: TeeTarget,
    /// What was passed before it, as text.
    way: Vec<String>,
}

/// What the walk wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkStep {
    /// Ask whoever is there for the rules of its cluster, then [`LoopWalk::on_rules`] or [`LoopWalk::on_silence`].
    Ask(TeeTarget),
    /// Nothing leads back.
    Free,
    /// Records would come back, on this way.
    Circle(Vec<String>),
}

/// A walk along rules, from the target of a new one.
///
/// What it does not see: rules that are added elsewhere at the same moment, more than [`MAX_DEPTH`] rules in a row,
/// clusters on the way that do not answer, and whatever copies records without being a rule.
#[derive(Debug)]
pub struct LoopWalk {
    source: Place,
    steps: VecDeque<Step>,
    asked: Option<Step>,
    seen: BTreeSet<Place>,
    circle: Option<Vec<String>>,
    /// The cluster at the target of the new rule.
    target_cluster: Option<u64>,
}

impl LoopWalk {
    /// The walk for a new rule from a topic of the cluster `cluster` to `target`.
    pub fn new(cluster: u64, topic: &str, target: TeeTarget) -> Self {
        Self {
            source: Place { cluster, topic: topic.to_owned() },
            steps: VecDeque::from([Step { target, way: Vec::new() }]),
            asked: None,
            seen: BTreeSet::new(),
            circle: None,
            target_cluster: None,
        }
    }

    /// What is to be done next.
    pub fn step(&mut self) -> WalkStep {
        if let Some(circle) = &self.circle {
            return WalkStep::Circle(circle.clone());
        }
        match self.steps.pop_front().filter(|_| self.seen.len() < MAX_PLACES) {
            Some(step) => {
                let target = step.target.clone();
                self.asked = Some(step);
                WalkStep::Ask(target)
            }
            None => WalkStep::Free,
        }
    }

    /// The rules of the cluster at the place that was asked.
    pub fn on_rules(&mut self, rules: &TeeList) {
        let Some(Step { target, mut way }) = self.asked.take() else { return };
        self.target_cluster.get_or_insert(rules.cluster);
        way.push(format!("{}/{}", target.addresses.first().map_or("?", String::as_str), target.topic));
        let place = Place { cluster: rules.cluster, topic: target.topic };
        if place == self.source {
            self.circle = Some(way);
            return;
        }
        if !self.seen.insert(place.clone()) || way.len() >= MAX_DEPTH {
            return;
        }
        let onward = rules.rules.iter().filter(|rule| rule.topic_name == place.topic);
        self.steps.extend(onward.map(|rule| Step { target: rule.target.clone(), way: way.clone() }));
    }

    /// Nobody answered at the place that was asked.
    pub fn on_silence(&mut self) {
        self.asked = None;
    }

    /// The cluster at the target of the new rule, once it has answered.
    pub fn target_cluster(&self) -> Option<u64> {
        self.target_cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::{TeeId, TopicId};
    use lance_messages::wire::tee::TeeDescription;

    /// A topic of a cluster, and a rule from one to another.
    type At<'a> = (u64, &'a str);
    type Rule<'a> = (At<'a>, At<'a>);

    fn target(cluster: u64, topic: &str) -> TeeTarget {
        TeeTarget { addresses: vec![format!("c{cluster}:1")], topic: topic.to_owned() }
    }

    /// Walks over clusters whose rules are (cluster, topic) → (cluster, topic); cluster 9 never answers.
    fn walk(rules: &[Rule<'_>], from: At<'_>, to: At<'_>) -> (WalkStep, usize) {
        let mut walk = LoopWalk::new(from.0, from.1, target(to.0, to.1));
        for asked in 0..1000 {
            let step = walk.step();
            let WalkStep::Ask(at) = step else { return (step, asked) };
            let cluster: u64 = at.addresses[0][1..].split(':').next().unwrap().parse().unwrap();
            if cluster == 9 {
                walk.on_silence();
                continue;
            }
            let of_cluster = rules.iter().filter(|((from, _), _)| *from == cluster).map(|((_, topic), (to, there))| {
                TeeDescription {
                    id: TeeId(1),
                    topic: TopicId(1),
                    topic_name: (*topic).to_owned(),
                    target: target(*to, there),
                    target_cluster: *to,
                    bytes_per_second: 0,
                    from_ns: 0,
                    created_at: 0,
                    partitions: Vec::new(),
                }
            });
            walk.on_rules(&TeeList { cluster, rules: of_cluster.collect() });
        }
        panic!("a walk without end");
    }

    fn circle(way: &[&str]) -> WalkStep {
        WalkStep::Circle(way.iter().map(|place| (*place).to_owned()).collect())
    }

    #[test]
    fn a_topic_that_leads_to_itself_is_a_circle() {
        assert_eq!(walk(&[], (1, "a"), (1, "a")).0, circle(&["c1:1/a"]));
        assert_eq!(walk(&[], (1, "a"), (1, "b")).0, WalkStep::Free);
        assert_eq!(walk(&[], (1, "a"), (2, "a")).0, WalkStep::Free);
    }

    #[test]
    fn circles_through_other_clusters_are_found() {
        let rules = [((2, "a"), (3, "b")), ((3, "b"), (1, "a")), ((3, "c"), (1, "a"))];
        assert_eq!(walk(&rules, (1, "a"), (2, "a")).0, circle(&["c2:1/a", "c3:1/b", "c1:1/a"]));
        assert_eq!(walk(&rules, (1, "x"), (2, "a")).0, WalkStep::Free);
        assert_eq!(walk(&rules, (1, "a"), (2, "other")).0, WalkStep::Free);
    }

    #[test]
    fn what_circles_elsewhere_ends_the_walk() {
        let rules = [((2, "a"), (3, "a")), ((3, "a"), (2, "a"))];
        assert_eq!(walk(&rules, (1, "a"), (2, "a")), (WalkStep::Free, 3));
    }

    #[test]
    fn clusters_that_do_not_answer_and_long_ways_are_not_seen() {
        let rules = [((2, "a"), (9, "a")), ((9, "a"), (1, "a"))];
        assert_eq!(walk(&rules, (1, "a"), (2, "a")).0, WalkStep::Free);
        let long: Vec<(u64, String)> = (10..20).map(|cluster| (cluster, "a".to_owned())).collect();
        let rules: Vec<Rule<'_>> =
            long.windows(2).map(|pair| ((pair[0].0, "a"), (pair[1].0, "a"))).chain([((19, "a"), (1, "a"))]).collect();
        assert_eq!(walk(&rules, (1, "a"), (10, "a")), (WalkStep::Free, MAX_DEPTH));
        assert!(matches!(walk(&rules, (1, "a"), (13, "a")).0, WalkStep::Circle(way) if way.len() == MAX_DEPTH));
    }
}
