//! Records over HTTP: any node answers for any partition, whatever is in them.

use lance_integration::harness::process::lnc;
use lance_integration::harness::{ServerSpec, ThreeNodes, eventually, http};
use serde_json::Value;

fn records(admin: &str, topic: &str, query: &str) -> Value {
    let reply = http::get(admin, &format!("/v1/topics/{topic}/partitions/0/records{query}"));
    assert_eq!(reply.status, 200, "{query}: {reply:?}");
    reply.json()
}

fn texts(listing: &Value) -> Vec<&str> {
    let text = |record: &'_ Value| -> Option<String> { record["value"]["text"].as_str().map(str::to_owned) };
    assert!(listing["records"].as_array().unwrap().iter().all(|record| text(record).is_some()), "{listing}");
    listing["records"].as_array().unwrap().iter().map(|record| record["value"]["text"].as_str().unwrap()).collect()
}

#[test]
fn records_are_read_from_any_place_and_on_from_where_an_answer_ended() {
    let server = ServerSpec::new().set("topics.default_partitions=1").start();
    let lines: Vec<String> = (0..120).map(|number| format!("record {number}")).collect();
    lnc(&server.address(), &["produce", "--topic", "events"], lines.join("\n").as_bytes()).ok();
    let admin = server.admin();
    let first = records(&admin, "events", "");
    assert_eq!(texts(&first), lines[..50], "fifty from the beginning, where nothing is said");
    let on = records(&admin, "events", &format!("?offset={}&max=500", first["next_offset"]));
    assert_eq!(texts(&on), lines[50..]);
    assert_eq!(on["next_offset"], on["end_offset"]);
    let nothing = records(&admin, "events", &format!("?offset={}", on["next_offset"]));
    assert_eq!((texts(&nothing), &nothing["next_offset"]), (vec![], &on["next_offset"]));
    assert_eq!(texts(&records(&admin, "events", "?last=3")), lines[117..]);
    assert_eq!(texts(&records(&admin, "events", "?last=1000&max=2")), lines[..2]);
    assert_eq!(texts(&records(&admin, "events", "?offset=latest")), Vec::<&str>::new());
    // An offset inside a record goes on with the next one.
    assert_eq!(texts(&records(&admin, "events", "?offset=3&max=1")), ["record 1"]);
}

#[test]
fn whatever_records_hold_is_text_or_base64_and_never_too_much() {
    let server = ServerSpec::new().set("topics.default_partitions=1").start();
    let produce = |arguments: &[&str], input: &[u8]| {
        lnc(&server.address(), &[&["produce", "--topic", "odd"], arguments].concat(), input).ok();
    };
    let markup = "</script><img src=x onerror=alert(1)>\u{202e}\u{0}\"'`";
    produce(&["--null-delimited", "--key", "<b>"], markup.replace('\0', "").as_bytes());
    produce(&["--null-delimited"], &[0xFF, 0xFE, 0x80]);
    produce(&[], "ä".repeat(400_000).as_bytes());
    produce(&[], b"last");
    let (mut found, mut next) = (Vec::new(), 0);
    loop {
        let listing = records(&server.admin(), "odd", &format!("?offset={next}"));
        found.extend(listing["records"].as_array().unwrap().iter().cloned());
        assert!(listing["next_offset"].as_u64() > Some(next), "it goes on: {listing}");
        next = listing["next_offset"].as_u64().unwrap();
        if listing["next_offset"] == listing["end_offset"] {
            break;
        }
    }
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found[0]["value"]["text"], markup.replace('\0', ""), "told as it is: escaping is for who shows it");
    assert_eq!(found[0]["key"]["text"], "<b>");
    assert_eq!((&found[1]["value"]["text"], found[1]["value"]["base64"].as_str()), (&Value::Null, Some("//6A")));
    let long = &found[2]["value"];
    assert_eq!((long["bytes"].as_u64(), long["truncated"].as_bool()), (Some(800_000), Some(true)));
    assert_eq!(long["text"].as_str().unwrap().len(), 4096);
    assert_eq!(found[3]["value"]["text"], "last", "a long record does not hide what follows");
    let query = format!("?offset={}&value_bytes=999999999", found[2]["offset"]);
    assert_eq!(records(&server.admin(), "odd", &query)["records"][0]["value"]["text"].as_str().unwrap().len(), 65536);
    assert_eq!(records(&server.admin(), "odd", "?max=0")["records"].as_array().unwrap().len(), 1);
}

#[test]
fn bytes_of_old_clients_that_are_no_records_are_shown_too() {
    let server = ServerSpec::new().start();
    let mut raw = server.connect();
    let created = raw.control(1, b"opaque").text();
    let topic = created.split("\"id\":").nth(1).unwrap().split([',', '}']).next().unwrap().parse().unwrap();
    raw.ingest(topic, 1, b"no record at all");
    let listing = records(&server.admin(), "opaque", "");
    assert_eq!(texts(&listing), ["no record at all"]);
    assert_eq!(listing["next_offset"], listing["end_offset"]);
}

#[test]
fn what_makes_no_sense_is_named() {
    let server = ServerSpec::new().set("topics.default_partitions=1").start();
    lnc(&server.address(), &["produce", "--topic", "events", "--data", "x"], b"").ok();
    for (path, status, said) in [
        ("/v1/topics/nothing/partitions/0/records", 404, "nothing"),
        ("/v1/topics/events/partitions/1/records", 404, "0 to 0"),
        ("/v1/topics/events/partitions/65536/records", 400, "65536"),
        ("/v1/topics/events/partitions/x/records", 400, "x"),
        ("/v1/topics/events/partitions/0/records?offset=soon", 400, "soon"),
        ("/v1/topics/events/partitions/0/records?offset=-1", 400, "-1"),
        ("/v1/topics/events/partitions/0/records?offset=1&last=1", 400, "exclude"),
        ("/v1/topics/events/partitions/0/records?ofset=1", 400, "ofset"),
        ("/v1/topics/%FF/partitions/0/records", 400, ""),
        ("/v1/topics/__groups/partitions/0/records", 404, "__groups"),
        ("/v1/events?after=x", 400, "after"),
    ] {
        let reply = http::get(&server.admin(), path);
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        assert!(reply.json()["message"].as_str().unwrap().contains(said), "{path}: {reply:?}");
    }
}

#[test]
fn every_node_answers_for_partitions_that_others_lead() {
    let cluster = ThreeNodes::start();
    lnc(&cluster.servers(), &["topic", "create", "spread", "--partitions", "3"], b"").ok();
    for partition in ["0", "1", "2"] {
        let data = format!("in {partition}");
        let produce = ["produce", "--topic", "spread", "--partition", partition, "--data", data.as_str()];
        lnc(&cluster.servers(), &produce, b"").ok();
        for node in &cluster.nodes {
            let path = format!("/v1/topics/spread/partitions/{partition}/records?last=5");
            let listing = eventually("the leader answers", || {
                let reply = http::get(&node.admin(), &path);
                (reply.status == 200).then(|| reply.json())
            });
            assert_eq!(texts(&listing), [data.as_str()], "{listing}");
            assert_eq!(listing["end_offset"], listing["next_offset"], "{listing}");
        }
    }
}
