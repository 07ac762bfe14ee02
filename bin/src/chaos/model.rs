//! Which faults may overlap so that everything promised still has to hold. Pure: no process, no clock.

use super::faults::FaultKind;

/// A fault that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// What it is.
    pub kind: FaultKind,
    /// Whom it hurts.
    pub victim: usize,
    /// Whether it still lasts; else it is over, and the node lacks what it took.
    pub lasts: bool,
}

/// What limits the faults of a run.
#[derive(Clone, Copy, Debug)]
pub struct FaultModel {
    /// Nodes; each holds a copy of everything.
    pub nodes: usize,
    /// Faults that may last at the same time.
    pub overlap: usize,
    /// Whether links of a pair can fail alone.
    pub is_per_pair: bool,
}

/// What a fault takes for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurts {
    /// The process or the disk of one node: whoever heals it must know in what state it is.
    Node,
    /// Every process.
    AllNodes,
    /// Packets.
    Links,
    /// Nothing: orders that any operator gives.
    Nothing,
}

fn hurts(kind: FaultKind) -> Hurts {
    match kind {
        FaultKind::KillAll => Hurts::AllNodes,
        FaultKind::LinkCut
        | FaultKind::LinkStall
        | FaultKind::LinkBridge
        | FaultKind::LinkOneWay
        | FaultKind::LinkSlow => Hurts::Links,
        FaultKind::TopicChurn | FaultKind::LeaderMove => Hurts::Nothing,
        FaultKind::Kill
        | FaultKind::Pause
        | FaultKind::Restart
        | FaultKind::Wipe
        | FaultKind::DiskSlow
        | FaultKind::DiskSync
        | FaultKind::DiskWrite
        | FaultKind::DiskFull
        | FaultKind::BitFlip
        | FaultKind::ActorPanic => Hurts::Node,
    }
}

impl FaultKind {
    /// Whether a node holds less than before until it was refilled.
    pub fn takes_data(self) -> bool {
        matches!(self, Self::Wipe | Self::BitFlip)
    }
}

impl FaultModel {
    /// Nodes that may lack data at once: a majority keeps its disks.
    pub fn minority(&self) -> usize {
        self.nodes.saturating_sub(1) / 2
    }

    /// Whether a fault can ever begin here.
    pub fn knows(&self, kind: FaultKind) -> bool {
        let takes_two = matches!(kind, FaultKind::LinkBridge | FaultKind::LinkOneWay | FaultKind::LeaderMove);
        !(kind.takes_data() && self.minority() == 0 || takes_two && self.nodes < 2)
    }

    /// Whether a fault may begin while others are under way.
    pub fn may_begin(&self, kind: FaultKind, victim: usize, active: &[Active]) -> bool {
        let lasting = active.iter().filter(|other| other.lasts).count();
        if lasting >= self.overlap || !self.knows(kind) || active.iter().any(|other| other.kind == kind && other.lasts)
        {
            return false;
        }
        if kind.takes_data() {
            let mut lacking: Vec<usize> =
                active.iter().filter(|other| other.kind.takes_data()).map(|it| it.victim).collect();
            // A second blow to a node that is being refilled could not be told from the first.
            if lacking.contains(&victim) {
                return false;
            }
            lacking.sort_unstable();
            lacking.dedup();
            if lacking.len() >= self.minority() {
                return false;
            }
        }
        let clashes = |other: &Active| match (hurts(kind), hurts(other.kind)) {
            (Hurts::Nothing, _) | (_, Hurts::Nothing) => false,
            (Hurts::Links, Hurts::Links) => !self.is_per_pair && victim == other.victim,
            (Hurts::Links, _) | (_, Hurts::Links) => false,
            (Hurts::AllNodes, _) | (_, Hurts::AllNodes) => other.lasts,
            (Hurts::Node, Hurts::Node) => other.lasts && victim == other.victim,
        };
        !active.iter().any(clashes)
    }

    /// The first of `waiting`, from its end on, that may begin, and whom it hurts: `preferred`, or the next who can be.
    pub fn choose(&self, waiting: &[FaultKind], preferred: usize, active: &[Active]) -> Option<(usize, usize)> {
        let victims = || (0..self.nodes).map(|step| (preferred + step) % self.nodes.max(1));
        let choices = (0..waiting.len()).rev().flat_map(|index| victims().map(move |victim| (index, victim)));
        choices.into_iter().find(|(index, victim)| self.may_begin(waiting[*index], *victim, active))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    const THREE: FaultModel = FaultModel { nodes: 3, overlap: 3, is_per_pair: true };

    fn active(kind: FaultKind, victim: usize) -> Active {
        Active { kind, victim, lasts: true }
    }

    #[test]
    fn never_more_than_a_minority_lacks_data() {
        let refilling = Active { lasts: false, ..active(FaultKind::Wipe, 0) };
        assert!(!THREE.may_begin(FaultKind::Wipe, 1, &[refilling]));
        assert!(!THREE.may_begin(FaultKind::BitFlip, 1, &[refilling]));
        assert!(THREE.may_begin(FaultKind::Kill, 1, &[refilling]), "its disk stays");
        let five = FaultModel { nodes: 5, ..THREE };
        assert!(five.may_begin(FaultKind::BitFlip, 1, &[refilling]));
        assert!(!five.may_begin(FaultKind::BitFlip, 0, &[refilling]), "twice the same node");
        let second = Active { lasts: false, ..active(FaultKind::BitFlip, 1) };
        assert!(!five.may_begin(FaultKind::Wipe, 2, &[refilling, second]));
        let two = FaultModel { nodes: 2, ..THREE };
        assert!(!two.may_begin(FaultKind::Wipe, 0, &[]), "the other one alone is no majority");
    }

    #[test]
    fn a_process_has_one_fault_at_a_time_and_links_fail_beside_it() {
        let paused = [active(FaultKind::Pause, 1)];
        assert!(!THREE.may_begin(FaultKind::Kill, 1, &paused));
        assert!(!THREE.may_begin(FaultKind::KillAll, 0, &paused));
        assert!(THREE.may_begin(FaultKind::Kill, 2, &paused));
        assert!(THREE.may_begin(FaultKind::LinkStall, 1, &paused));
        assert!(THREE.may_begin(FaultKind::TopicChurn, 1, &paused));
        assert!(!THREE.may_begin(FaultKind::Pause, 2, &paused), "one of a kind");
    }

    #[test]
    fn a_proxy_has_one_fault_at_a_time_and_pairs_have_several() {
        let stalled = [active(FaultKind::LinkStall, 1)];
        assert!(THREE.may_begin(FaultKind::LinkOneWay, 1, &stalled));
        let proxies = FaultModel { is_per_pair: false, ..THREE };
        assert!(!proxies.may_begin(FaultKind::LinkCut, 1, &stalled));
        assert!(proxies.may_begin(FaultKind::LinkCut, 2, &stalled));
    }

    #[test]
    fn no_more_faults_last_than_may_overlap_and_refilling_is_not_counted() {
        let one = FaultModel { overlap: 1, ..THREE };
        assert!(!one.may_begin(FaultKind::LinkSlow, 0, &[active(FaultKind::Kill, 1)]));
        assert!(one.may_begin(FaultKind::LinkSlow, 0, &[Active { lasts: false, ..active(FaultKind::Wipe, 1) }]));
    }

    #[test]
    fn what_may_not_begin_waits_and_another_fault_or_victim_is_taken() {
        let refilling = [Active { lasts: false, ..active(FaultKind::Wipe, 0) }, active(FaultKind::Kill, 2)];
        let waiting = [FaultKind::Pause, FaultKind::BitFlip, FaultKind::Wipe];
        assert_eq!(THREE.choose(&waiting, 2, &refilling), Some((0, 0)));
        assert_eq!(THREE.choose(&waiting[1..], 2, &refilling), None);
    }

    /// Any run of choices stays within the model, judged here without the rules themselves.
    #[test]
    fn whatever_is_chosen_a_majority_keeps_its_disks() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (nodes, overlap) = (rng.random_range(1..6), rng.random_range(1..5));
            let model = FaultModel { nodes, overlap, is_per_pair: rng.random_bool(0.5) };
            let (mut under_way, mut waiting): (Vec<Active>, Vec<FaultKind>) = (Vec::new(), Vec::new());
            for _ in 0..300 {
                if waiting.is_empty() {
                    waiting = FaultKind::value_variants().to_vec();
                    waiting.shuffle(&mut rng);
                }
                if let Some((index, victim)) = model.choose(&waiting, rng.random_range(0..nodes), &under_way) {
                    under_way.push(active(waiting.remove(index), victim));
                }
                let lacking = |node| under_way.iter().any(|it: &Active| it.kind.takes_data() && it.victim == node);
                assert!(2 * (0..nodes).filter(|node| !lacking(*node)).count() > nodes, "seed {seed}: {under_way:?}");
                assert!(under_way.iter().filter(|it| it.lasts).count() <= overlap, "seed {seed}: {under_way:?}");
                if !under_way.is_empty() && rng.random_bool(0.6) {
                    let index = rng.random_range(0..under_way.len());
                    match under_way[index] {
                        Active { lasts: true, kind, .. } if kind.takes_data() => under_way[index].lasts = false,
                        _ => {
                            under_way.remove(index);
                        }
                    }
                }
            }
        }
    }
}
