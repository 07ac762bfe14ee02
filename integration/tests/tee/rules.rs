//! Rules: added, shown, removed; circles refused.

use super::{add, list, produce, server};
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Server, TopicView, eventually, http};

fn refusal(server: &Server, topic: &str, to: &str) -> String {
    let (code, text) = lnc(&server.address(), &["topic", "tee", "add", topic, "--to", to], b"").failure();
    assert_eq!(code, 1, "{text}");
    text
}

fn create(server: &Server, topic: &str, more: &[&str]) {
    lnc(&server.address(), &[&["topic", "create", topic][..], more].concat(), b"").ok();
}

#[test]
fn a_rule_is_shown_everywhere_until_it_is_removed_and_its_id_never_comes_back() {
    let (source, target) = (server(), server());
    let here = source.address();
    create(&source, "events", &["--partitions", "2"]);
    let to = format!("{}/copy", target.address());
    assert_eq!(add(&here, "events", &to, &["--rate-limit", "10MiB"]), 1);
    let rules = eventually("both partitions are forwarded", || {
        let rules = list(&here);
        let states: Vec<_> = rules[0]["partitions"].as_array()?.iter().map(|it| it["state"].clone()).collect();
        (states == ["forwarding", "forwarding"]).then_some(rules)
    });
    assert_eq!(rules.len(), 1);
    assert_eq!((&rules[0]["topic"], &rules[0]["to"]), (&"events".into(), &to.clone().into()));
    assert_eq!(rules[0]["bytes_per_second"], 10 << 20);
    let described = lnc(&here, &["topic", "describe", "events"], b"").ok();
    assert!(described.contains(&format!("→ {to}")), "{described}");
    let topics = http::get(&source.admin(), "/v1/topics").json();
    assert_eq!(topics["topics"][0]["tees"][0]["topic"], "copy");
    let again = refusal(&source, "events", &to);
    assert!(again.contains("rule 1 goes there already"), "{again}");

    let wrong = lnc(&here, &["topic", "tee", "remove", "events", "--to", "127.0.0.1:9/copy"], b"").failure();
    assert!(wrong.1.contains("no rule of topic 'events' goes to 127.0.0.1:9/copy"), "{wrong:?}");
    lnc(&here, &["topic", "tee", "remove", "events", "--to", &to], b"").ok();
    assert!(list(&here).is_empty());
    produce(&here, "events", "not forwarded\n");
    assert_eq!(add(&here, "events", &to, &["--from", "latest"]), 2);
    lnc(&here, &["topic", "delete", "events"], b"").ok();
    assert!(list(&here).is_empty(), "rules go with their topic");
}

#[test]
fn from_latest_leaves_out_what_was_there_before() {
    let (source, target) = (server(), server());
    produce(&source.address(), "events", "before\n");
    add(&source.address(), "events", &format!("{}/copy", target.address()), &["--from", "latest"]);
    produce(&source.address(), "events", "after\n");
    let copy = eventually("a record arrives", || {
        let copy = TopicView::new(&target.address(), "copy");
        copy.end(0).filter(|end| *end > 0).map(|_| copy.read(0))
    });
    assert_eq!(copy.len(), 1);
    assert_eq!(copy[0].2.as_deref(), Some(&b"after"[..]));
}

#[test]
fn keys_times_and_bytes_that_are_no_records_arrive_as_they_are() {
    let (source, target) = (server(), server());
    lnc(&source.address(), &["produce", "--topic", "events", "--key", "k", "--data", "v"], b"").ok();
    let topic = source.connect().control(3, b"").json()["topics"][0]["id"].as_u64().unwrap() as u32;
    source.connect().store(topic, 1, b"no record at all");
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    let all = source.connect().read_from(topic, 0);
    eventually("everything is there", || {
        let mut there = target.connect();
        let topics = there.control(3, b"").json();
        let copy = topics["topics"].as_array()?.iter().find(|topic| topic["name"] == "copy")?.clone();
        (there.read_from(copy["id"].as_u64()? as u32, 0) == all).then_some(())
    });
    assert!(all.ends_with(b"no record at all"));
}

#[test]
fn a_target_with_fewer_partitions_takes_several_of_the_source_in_one() {
    let (source, target) = (server(), server());
    create(&source, "events", &["--partitions", "5"]);
    create(&target, "copy", &["--partitions", "2"]);
    for partition in 0..5 {
        let number = partition.to_string();
        lnc(&source.address(), &["produce", "--topic", "events", "--partition", &number, "--data", &number], b"").ok();
    }
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    let copy = TopicView::new(&target.address(), "copy");
    let texts = |partition| {
        let read = copy.read(partition).into_iter();
        let mut texts: Vec<String> = read.map(|(_, _, value)| String::from_utf8(value.unwrap()).unwrap()).collect();
        texts.sort();
        texts
    };
    eventually("each is where its number says", || {
        (texts(0) == ["0", "2", "4"] && texts(1) == ["1", "3"]).then_some(())
    });
}

#[test]
fn circles_are_refused_in_one_cluster_and_through_others() {
    let (one, two) = (server(), server());
    create(&one, "a", &[]);
    create(&one, "b", &[]);
    create(&two, "a", &[]);
    let at = |server: &Server, topic: &str| format!("{}/{topic}", server.address());
    let refused = refusal(&one, "a", &at(&one, "a"));
    assert!(refused.contains("would come back"), "{refused}");
    add(&one.address(), "a", &at(&one, "b"), &[]);
    let refused = refusal(&one, "b", &at(&one, "a"));
    assert!(refused.contains("would come back"), "{refused}");
    add(&one.address(), "b", &at(&two, "a"), &[]);
    let refused = refusal(&two, "a", &at(&one, "a"));
    assert!(refused.contains("would come back") && refused.contains("/b"), "{refused}");
    // Another topic of the same clusters is no circle.
    create(&two, "c", &[]);
    add(&two.address(), "c", &at(&one, "c"), &[]);
}

#[test]
fn what_cannot_be_meant_or_reached_is_refused_by_name() {
    let one = server();
    create(&one, "a", &[]);
    let refused = refusal(&one, "a", "127.0.0.1:9/x");
    assert!(refused.contains("the target cannot be asked for its rules: 127.0.0.1:9"), "{refused}");
    let refused = refusal(&one, "missing", &format!("{}/x", one.address()));
    assert!(refused.contains("topic 'missing' does not exist"), "{refused}");
    let refused = refusal(&one, "a", &format!("{}/__groups", one.address()));
    assert!(refused.contains("target topic"), "{refused}");
    let (code, _) = lnc(&one.address(), &["topic", "tee", "add", "a", "--to", "nowhere"], b"").failure();
    assert_eq!(code, 2);
    let (code, text) = lnc(&one.address(), &["topic", "tee", "remove", "a"], b"").failure();
    assert!(code == 2 && text.contains("--to"), "{text}");
}
