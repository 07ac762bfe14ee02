//! Tables of formation, and three nodes that form a cluster over a network that loses what it likes.

use super::*;
use proptest::prelude::*;

fn voter(node: u16) -> Voter {
    Voter { node: NodeId(node), incarnation: 0x100 + u64::from(node), address: address(node) }
}

fn address(node: u16) -> String {
    format!("n{node}:9000")
}

fn core(node: u16, listed: &[u16]) -> FormationCore {
    let fresh = 0xF000 + u64::from(node);
    FormationCore::new(voter(node), listed.iter().map(|node| address(*node)), fresh, 0, None)
}

fn members(nodes: &[u16]) -> Option<Vec<Member>> {
    Some(nodes.iter().map(|node| voter(*node).member()).collect())
}

fn report(node: u16, members: Option<Vec<Member>>) -> FormationReport {
    FormationReport { speaker: voter(node), cluster_id: 0, genesis: None, members }
}

fn in_cluster(node: u16, genesis: &Genesis) -> FormationReport {
    let (cluster_id, genesis) = (genesis.cluster_id, Some(genesis.clone()));
    FormationReport { speaker: voter(node), cluster_id, genesis, members: None }
}

fn genesis(cluster_id: u64, nodes: &[u16]) -> Genesis {
    Genesis { cluster_id, voters: nodes.iter().map(|node| voter(*node)).collect() }
}

fn answer(core: &mut FormationCore, report: FormationReport) -> Vec<FormationEffect> {
    let mut effects = Vec::new();
    core.on_answer(&address(report.speaker.node.0), report, &mut effects);
    effects
}

fn problem(effects: &[FormationEffect]) -> &str {
    match effects.last() {
        Some(FormationEffect::Problem(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_alone_makes_a_genesis_of_one_at_once() {
    let (mut core, mut effects) = (core(1, &[]), Vec::new());
    core.on_start(&mut effects);
    assert_eq!(effects, [FormationEffect::AdoptGenesis(genesis(0xF001, &[1]))]);
    assert_eq!(core.report().cluster_id, 0, "nobody hears of a genesis that is not durable");
    effects.clear();
    core.on_synced(&mut effects);
    assert_eq!(effects, [FormationEffect::Ready]);
    assert_eq!(core.report().genesis, Some(genesis(0xF001, &[1])));
}

#[test]
fn a_node_with_a_cluster_is_ready_at_once_and_takes_no_other() {
    let kept = genesis(7, &[1, 2]);
    let mut core = FormationCore::new(voter(1), [address(2)], 9, 7, Some(kept.clone()));
    let mut effects = Vec::new();
    core.on_start(&mut effects);
    assert_eq!(effects, [FormationEffect::Ready]);
    assert_eq!(answer(&mut core, in_cluster(2, &genesis(8, &[1, 2]))), []);
    core.on_asked(&in_cluster(2, &genesis(8, &[1, 2])), &mut effects);
    assert_eq!((effects.len(), core.genesis()), (1, Some(&kept)));
}

#[test]
fn the_lowest_id_makes_the_genesis_once_all_agree_and_tells_the_others() {
    let mut core = core(1, &[1, 2, 3]);
    let mut effects = Vec::new();
    core.on_own_address(&address(1), &mut effects);
    assert!(problem(&effects).contains("n2:9000, n3:9000"), "{effects:?}");
    assert!(problem(&answer(&mut core, report(2, None))).contains("n3:9000"));
    assert!(problem(&answer(&mut core, report(3, members(&[1, 2, 3])))).contains("n2:9000, which has not reached"));
    assert_eq!(core.report().members, members(&[1, 2, 3]));
    let expected = genesis(0xF001, &[1, 2, 3]);
    let effects = answer(&mut core, report(2, members(&[1, 2, 3])));
    assert_eq!(effects, [FormationEffect::AdoptGenesis(expected.clone())]);
    let mut effects = Vec::new();
    core.on_synced(&mut effects);
    let send = |node| FormationEffect::Send { address: address(node) };
    assert_eq!(effects, [send(2), send(3), FormationEffect::Ready]);
    assert!(core.is_settled() && core.genesis() == Some(&expected));
}

#[test]
fn who_lists_only_the_others_forms_the_same_cluster() {
    let mut core = core(1, &[2]);
    let effects = answer(&mut core, report(2, members(&[1, 2])));
    assert_eq!(effects, [FormationEffect::AdoptGenesis(genesis(0xF001, &[1, 2]))]);
}

#[test]
fn others_wait_for_the_lowest_id_and_take_its_genesis_asked_or_told() {
    let made = genesis(0xF001, &[1, 2, 3]);
    let gathered = || {
        let mut core = core(2, &[1, 3]);
        answer(&mut core, report(1, members(&[1, 2, 3])));
        assert!(problem(&answer(&mut core, report(3, members(&[1, 2, 3])))).contains("waiting for node 1"));
        core
    };
    assert_eq!(answer(&mut gathered(), in_cluster(1, &made)), [FormationEffect::AdoptGenesis(made.clone())]);
    let mut effects = Vec::new();
    gathered().on_asked(&in_cluster(1, &made), &mut effects);
    assert_eq!(effects, [FormationEffect::AdoptGenesis(made)]);
}

#[test]
fn the_first_genesis_is_kept_while_it_is_being_synced() {
    let mut core = core(2, &[1, 3]);
    let first = genesis(5, &[1, 2, 3]);
    assert_eq!(answer(&mut core, in_cluster(1, &first)), [FormationEffect::AdoptGenesis(first.clone())]);
    assert_eq!(answer(&mut core, in_cluster(3, &genesis(6, &[1, 2, 3]))), []);
    core.on_synced(&mut Vec::new());
    assert_eq!(core.genesis(), Some(&first));
}

#[test]
fn who_is_not_named_in_the_cluster_there_is_joins_it() {
    let there = genesis(5, &[1, 3]);
    assert_eq!(answer(&mut core(2, &[1, 3]), in_cluster(1, &there)), [FormationEffect::JoinExisting(there)]);
    let mut another_life = genesis(5, &[1, 2, 3]);
    another_life.voters[1].incarnation = 1;
    let effects = answer(&mut core(2, &[1, 3]), in_cluster(1, &another_life));
    assert_eq!(effects, [FormationEffect::JoinExisting(another_life)]);
}

#[test]
fn who_asks_brings_a_cluster_only_to_those_it_names() {
    let (mut core, mut effects) = (core(2, &[1, 3]), Vec::new());
    core.on_asked(&in_cluster(9, &genesis(5, &[8, 9])), &mut effects);
    assert_eq!(effects, []);
}

#[test]
fn problems_name_both_sides_and_are_said_once() {
    let mut same_id = report(2, members(&[1, 2]));
    same_id.speaker.node = NodeId(1);
    let mut effects = Vec::new();
    let mut alike = core(1, &[2]);
    alike.on_answer(&address(2), same_id.clone(), &mut effects);
    let text = problem(&effects).to_owned();
    assert!(text.contains("node id 1 is used twice") && text.contains("n1:9000") && text.contains("n2:9000"), "{text}");
    alike.on_answer(&address(2), same_id, &mut effects);
    assert_eq!(effects.len(), 1);

    let mut unequal = core(1, &[2, 3]);
    answer(&mut unequal, report(2, members(&[1, 2])));
    let effects = answer(&mut unequal, report(3, members(&[1, 2, 3])));
    let text = problem(&effects);
    assert!(text.contains("1 (0000000000000101), 2 (0000000000000102), 3 (0000000000000103)"), "{text}");
    assert!(text.contains("n2:9000 sees 1 (0000000000000101), 2 (0000000000000102)"), "{text}");

    let mut torn = core(3, &[1, 2]);
    answer(&mut torn, FormationReport { genesis: None, ..in_cluster(1, &genesis(5, &[1])) });
    let effects = answer(&mut torn, in_cluster(2, &genesis(6, &[2])));
    assert!(problem(&effects).contains("n1:9000 belongs to 0000000000000005, n2:9000 to 0000000000000006"));
}

#[test]
fn a_cluster_that_does_not_know_its_genesis_is_named_until_somebody_does() {
    let mut core = core(3, &[1, 2]);
    let unknown = FormationReport { genesis: None, ..in_cluster(1, &genesis(5, &[1])) };
    assert!(problem(&answer(&mut core, unknown)).contains("does not know how it began"));
    let known = genesis(5, &[1]);
    assert_eq!(answer(&mut core, in_cluster(2, &known)), [FormationEffect::JoinExisting(known)]);
}

#[test]
fn an_answer_counts_only_while_who_gave_it_is_reached() {
    let mut core = core(1, &[2, 3]);
    answer(&mut core, report(2, members(&[1, 2, 3])));
    let mut effects = Vec::new();
    core.on_lost(&address(2), &mut effects);
    assert!(problem(&answer(&mut core, report(3, members(&[1, 2, 3])))).contains("waiting for n2:9000"));
}

#[test]
fn a_life_that_another_has_followed_brings_no_genesis_any_more() {
    let mut core = core(2, &[1, 3]);
    answer(&mut core, report(1, members(&[1, 2, 3])));
    let mut wiped = report(1, None);
    wiped.speaker.incarnation = 0x999;
    answer(&mut core, wiped);
    let mut effects = Vec::new();
    core.on_asked(&in_cluster(1, &genesis(5, &[1, 2, 3])), &mut effects);
    assert_eq!(effects, []);
}

#[test]
fn genesis_and_report_have_golden_bytes() {
    let made = genesis(0xF1, &[1, 2]);
    let bytes = made.encode().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&bytes), "01f10201fb0101076e313a3930303002fb0201076e323a39303030");
    assert_eq!(Genesis::decode(&bytes).unwrap(), made);
    let said = in_cluster(2, &made);
    let bytes = said.encode().unwrap();
    assert_eq!(hex(&bytes), "0102fb0201076e323a39303030f101f10201fb0101076e313a3930303002fb0201076e323a3930303000");
    assert_eq!(FormationReport::decode(&bytes).unwrap(), said);
}

#[test]
fn a_genesis_that_contradicts_itself_is_refused() {
    let refused = |genesis: Genesis| Genesis::decode(&genesis.encode().unwrap()).is_err();
    assert!(!refused(genesis(1, &[1, 2])));
    assert!(refused(genesis(0, &[1])) && refused(genesis(1, &[])) && refused(genesis(1, &[2, 1])));
    assert!(refused(genesis(1, &[1, 1])) && refused(genesis(1, &[0])));
    let other = FormationReport { cluster_id: 2, ..in_cluster(1, &genesis(1, &[1])) };
    assert!(FormationReport::decode(&other.encode().unwrap()).is_err());
    assert!(matches!(Genesis::decode(&[9]), Err(CodecError::UnknownVersion { found: 9, .. })));
}

/// One step of the network.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A node asks another; the question, its answer, or neither is lost.
    Ask { from: usize, to: usize, lost: u8 },
    /// A node's sync is done.
    Sync { node: usize },
    /// A node starts again with what it has synced.
    Restart { node: usize },
    /// A node finds that it does not reach another.
    Lose { from: usize, to: usize },
}

struct World {
    cores: Vec<FormationCore>,
    synced: Vec<Option<Genesis>>,
    syncing: Vec<Option<Genesis>>,
    starts: u64,
}

impl World {
    fn new() -> Self {
        let cores = (1..=3).map(|node| core(node, &[1, 2, 3])).collect();
        Self { cores, synced: vec![None; 3], syncing: vec![None; 3], starts: 0 }
    }

    fn obey(&mut self, node: usize, effects: Vec<FormationEffect>) {
        for effect in effects {
            match effect {
                FormationEffect::AdoptGenesis(genesis) => self.syncing[node] = Some(genesis),
                FormationEffect::JoinExisting(genesis) => panic!("node {node} is not in {genesis:?}"),
                FormationEffect::Send { .. } | FormationEffect::Problem(_) | FormationEffect::Ready => {}
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask { from, to, lost } => self.ask(from, to, lost),
            Step::Sync { node } => self.sync(node),
            Step::Restart { node } => {
                self.starts += 1;
                let number = node as u16 + 1;
                let (fresh, listed) = (self.starts << 8 | 1, [1, 2, 3].map(address));
                self.cores[node] = FormationCore::new(voter(number), listed, fresh, 0, self.synced[node].clone());
                self.syncing[node] = None;
            }
            Step::Lose { from, to } => {
                let mut effects = Vec::new();
                self.cores[from].on_lost(&address(to as u16 + 1), &mut effects);
                self.obey(from, effects);
            }
        }
    }

    fn ask(&mut self, from: usize, to: usize, lost: u8) {
        let address = address(to as u16 + 1);
        let mut effects = Vec::new();
        if from == to {
            self.cores[from].on_own_address(&address, &mut effects);
            return self.obey(from, effects);
        }
        if lost == 0 {
            return;
        }
        let asked = FormationReport::decode(&self.cores[from].report().encode().unwrap()).unwrap();
        self.cores[to].on_asked(&asked, &mut effects);
        self.obey(to, effects);
        let answer = self.cores[to].report();
        if lost == 1 {
            return;
        }
        let mut effects = Vec::new();
        self.cores[from].on_answer(&address, answer, &mut effects);
        self.obey(from, effects);
    }

    fn sync(&mut self, node: usize) {
        let Some(genesis) = self.syncing[node].take() else { return };
        assert!(self.synced[node].is_none(), "node {node} syncs a second genesis");
        self.synced[node] = Some(genesis);
        let mut effects = Vec::new();
        self.cores[node].on_synced(&mut effects);
        self.obey(node, effects);
    }

    fn check(&self) {
        let mut known = self.synced.iter().flatten();
        if let Some(first) = known.next() {
            assert!(known.all(|other| other == first), "{:?}", self.synced);
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..3, 0usize..3, 0u8..4).prop_map(|(from, to, lost)| Step::Ask { from, to, lost }),
        2 => (0usize..3).prop_map(|node| Step::Sync { node }),
        1 => (0usize..3).prop_map(|node| Step::Restart { node }),
        1 => (0usize..3, 0usize..3).prop_map(|(from, to)| Step::Lose { from, to }),
    ]
}

proptest! {
    #[test]
    fn three_nodes_agree_on_one_genesis_whatever_the_network_loses(
        steps in prop::collection::vec(any_step(), 0..200),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // Once the network is whole, a few rounds settle everybody.
        for _ in 0..4 {
            for from in 0..3 {
                for to in 0..3 {
                    world.step(Step::Ask { from, to, lost: 3 });
                }
            }
            for node in 0..3 {
                world.step(Step::Sync { node });
            }
        }
        world.check();
        prop_assert!(world.cores.iter().all(FormationCore::is_settled));
        prop_assert_eq!(&world.synced[0], &Some(world.cores[1].genesis().unwrap().clone()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Genesis::decode(&bytes);
        let _ = FormationReport::decode(&bytes);
    }
}
