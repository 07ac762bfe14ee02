//! Members share partitions, hand them over, and lose nothing.

use super::member::{Event, History, Member, options};
use super::{committed, create, produce};
use lance_integration::harness::{ServerSpec, ThreeNodes, eventually, is_long};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const PARTITIONS: u16 = 16;

fn owned_by(history: &History) -> BTreeMap<usize, BTreeSet<u16>> {
    let mut owned: BTreeMap<usize, BTreeSet<u16>> = BTreeMap::new();
    for seen in history.all() {
        match seen.event {
            Event::Assigned(partition) => _ = owned.entry(seen.member).or_default().insert(partition),
            Event::GivenUp(partition) | Event::Lost(partition) => {
                owned.entry(seen.member).or_default().remove(&partition);
            }
            Event::Crashed => _ = owned.remove(&seen.member),
            Event::Record(..) => {}
        }
    }
    owned.retain(|_, partitions| !partitions.is_empty());
    owned
}

fn await_shares(history: &History, members: usize) {
    let total = usize::from(PARTITIONS);
    eventually(&format!("{members} members share {PARTITIONS} partitions evenly"), || {
        let owned = owned_by(history);
        let even = owned.values().all(|own| (total / members..=total.div_ceil(members)).contains(&own.len()));
        (owned.len() == members && even && owned.values().map(BTreeSet::len).sum::<usize>() == total).then_some(())
    });
}

/// The longest time between two records of a partition of which more were to come.
fn longest_gap(history: &History, partition: u16, from: Instant, to: Instant) -> Duration {
    let all = history.all();
    let times = all.iter().filter(|seen| matches!(seen.event, Event::Record(of, _) if of == partition));
    let times: Vec<Instant> = times.map(|seen| seen.at).filter(|at| (from..to).contains(at)).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[test]
fn one_more_member_takes_its_share_and_nothing_else_moves() {
    let server = ServerSpec::new().start();
    let address = server.address();
    create(&address, "events", PARTITIONS);
    let session = Duration::from_secs(6);
    let history = History::default();
    let load = produce(&address, "events", PARTITIONS, 3_000, 12_000);
    let mut members: Vec<Member> =
        (0..3).map(|number| Member::start(&address, number, options("g", "events", session), &history)).collect();
    await_shares(&history, 3);
    let before = owned_by(&history);
    let joined = Instant::now();
    members.push(Member::start(&address, 3, options("g", "events", session), &history));
    await_shares(&history, 4);
    let moved: BTreeSet<u16> = owned_by(&history)[&3].clone();
    assert!(moved.len() <= usize::from(PARTITIONS).div_ceil(4), "{moved:?}");
    for (member, own) in owned_by(&history).iter().filter(|(member, _)| **member != 3) {
        assert!(own.is_subset(&before[member]), "what stays was where it is: {member}");
    }
    let given_up = history.all().into_iter().filter(|seen| seen.at >= joined);
    let given_up = given_up.filter_map(|seen| match seen.event {
        Event::GivenUp(partition) => Some(partition),
        Event::Lost(partition) => panic!("partition {partition} was lost"),
        _ => None,
    });
    assert_eq!(given_up.collect::<BTreeSet<_>>(), moved, "only what moves is given up");
    // A member leaves: only its partitions move.
    let left = Instant::now();
    members.pop().unwrap().leave();
    await_shares(&history, 3);
    let handed_over = history.all().iter().filter(|seen| seen.at >= left && seen.member != 3).fold(
        BTreeSet::new(),
        |mut set, seen| {
            assert!(!matches!(seen.event, Event::GivenUp(_) | Event::Lost(_)), "{seen:?}");
            if let Event::Assigned(partition) = seen.event {
                set.insert(partition);
            }
            set
        },
    );
    assert_eq!(handed_over, moved);
    load.join().unwrap();
    let expected = usize::from(PARTITIONS) * 3_000;
    eventually("everything is handled", || (history.handled_count() == expected).then_some(()));
    let ended = Instant::now();
    for partition in 0..PARTITIONS {
        let kind = if moved.contains(&partition) { "moved" } else { "stayed" };
        let gap = longest_gap(&history, partition, joined, ended);
        println!("partition {partition} {kind}: longest time without a record {gap:?}");
    }
    members.into_iter().for_each(Member::leave);
    history.expect_one_owner_at_a_time();
    // Nobody crashed: whatever moved was committed before.
    assert!(history.handled().values().all(|count| *count == 1), "each record once");
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let server = ServerSpec::new().start();
    let address = server.address();
    create(&address, "events", PARTITIONS);
    let session = Duration::from_secs(8);
    let history = History::default();
    let join = |number: usize, instance: &str| {
        let mut options = options("g", "events", session);
        options.instance = Some(instance.to_owned());
        Member::start(&address, number, options, &history)
    };
    let (stays, restarts) = (join(0, "a"), join(1, "b"));
    await_shares(&history, 2);
    let before = owned_by(&history);
    let moments = |history: &History| {
        let all = history.all();
        all.iter().filter(|seen| seen.member == 0 && !matches!(seen.event, Event::Record(..))).count()
    };
    let untouched = moments(&history);
    // Once with a word, once without one.
    restarts.leave();
    let restarts = join(2, "b");
    eventually("the restarted member has its partitions", || {
        (owned_by(&history).get(&2) == before.get(&1)).then_some(())
    });
    restarts.crash();
    let restarts = join(3, "b");
    eventually("the crashed member has its partitions", || {
        (owned_by(&history).get(&3) == before.get(&1)).then_some(())
    });
    assert_eq!(moments(&history), untouched, "nothing of the other member moved");
    stays.leave();
    restarts.leave();
    history.expect_one_owner_at_a_time();
}

#[test]
fn members_and_coordinators_die_and_every_record_is_handled() {
    let mut cluster = ThreeNodes::start();
    let servers = cluster.servers();
    create(&servers, "events", PARTITIONS);
    let each = if is_long() { 62_500 } else { 5_000 };
    let session = Duration::from_secs(6);
    let history = History::default();
    let load = produce(&servers, "events", PARTITIONS, each, if is_long() { 20_000 } else { 6_000 });
    let mut next = 0;
    let mut join = |instance: Option<&str>| {
        let mut options = options("g", "events", session);
        options.instance = instance.map(str::to_owned);
        next += 1;
        Member::start(&servers, next, options, &history)
    };
    let mut named = join(Some("s"));
    let mut members = vec![join(None), join(None), join(None)];
    await_shares(&history, 4);
    let mut high: BTreeMap<u16, u64> = BTreeMap::new();
    let mut expect_no_commit_goes_back = |servers: &str| {
        for (partition, offset) in committed(servers, "g").unwrap_or_default() {
            let before = high.insert(partition, offset).unwrap_or(0);
            assert!(offset >= before, "the commit of partition {partition} went from {before} to {offset}");
        }
    };
    let mut round = 0;
    while !load.is_finished() || round < 2 {
        round += 1;
        // A crash, a leave and a member with a name that is killed and comes back.
        let crashed = Instant::now();
        members.remove(0).crash();
        members.push(join(None));
        expect_no_commit_goes_back(&servers);
        if round % 2 == 1 {
            named.leave()
        } else {
            named.crash()
        }
        named = join(Some("s"));
        await_shares(&history, members.len() + 1);
        println!("round {round}: shared again {:?} after a crash", crashed.elapsed());
        expect_no_commit_goes_back(&servers);
        let coordinator = coordinator(&cluster);
        let killed = Instant::now();
        cluster.nodes[coordinator].kill();
        std::thread::sleep(Duration::from_millis(500));
        members.push(join(None));
        await_shares(&history, members.len() + 1);
        println!("round {round}: one more member joined {:?} after the coordinator's kill -9", killed.elapsed());
        members.pop().unwrap().leave();
        expect_no_commit_goes_back(&servers);
        cluster.nodes[coordinator].start_again();
        cluster.await_ready();
        await_shares(&history, members.len() + 1);
        expect_no_commit_goes_back(&servers);
    }
    load.join().unwrap();
    let expected = usize::from(PARTITIONS) * each as usize;
    eventually("everything is handled", || (history.handled_count() == expected).then_some(()));
    members.into_iter().chain([named]).for_each(Member::leave);
    expect_no_commit_goes_back(&servers);
    let again: usize = history.handled().values().map(|count| count - 1).sum();
    println!("{round} rounds, {expected} records, {again} handled more than once");
    history.expect_one_owner_at_a_time();
}

/// The node that coordinates the group.
fn coordinator(cluster: &ThreeNodes) -> usize {
    eventually("a coordinator", || {
        let admin = cluster.nodes[0].admin();
        let answer = lance_integration::harness::http::try_request(&admin, "GET", "/v1/groups", "").ok()?;
        usize::try_from(answer.json()["coordinator"].as_u64()?).ok()?.checked_sub(1)
    })
}
