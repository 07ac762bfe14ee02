//! Managing topics.

use crate::server::Server;

#[test]
fn a_topic_lives_from_create_to_delete() {
    let server = Server::start();
    let create =
        ["topic", "create", "life", "--partitions", "2", "--retention-age", "7d", "--retention-bytes", "10GiB"];
    let created = &server.lnc(&[&create[..], &["--output", "json"]].concat()).json()[0];
    assert_eq!((&created["topic"], &created["partitions"]), (&"life".into(), &2.into()));
    let described = &server.lnc(&["topic", "describe", "life", "--output", "json"]).json()[0];
    assert_eq!(described["retention_age_secs"], 604_800);
    assert_eq!(described["retention_bytes"], 10_u64 << 30);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 2);
    server.lnc(&["topic", "alter", "life", "--partitions", "5"]).ok();
    server.lnc(&["topic", "set-retention", "life", "--retention-bytes", "1MiB"]).ok();
    let listed = &server.lnc(&["topic", "list", "--output", "json"]).json()[0]["topics"];
    let life = listed.as_array().unwrap().iter().find(|topic| topic["topic"] == "life").unwrap();
    assert_eq!(life["partitions"].as_array().unwrap().len(), 5);
    assert_eq!((&life["retention_age_secs"], &life["retention_bytes"]), (&0.into(), &1_048_576.into()));
    assert!(server.lnc(&["topic", "list"]).ok().contains("life"));
    server.lnc(&["topic", "delete", "life"]).ok();
    assert_eq!(server.lnc(&["topic", "describe", "life"]).code, Some(1));
}

#[test]
fn creating_twice_fails_unless_that_is_fine() {
    let server = Server::start();
    server.lnc(&["topic", "create", "twice"]).ok();
    let again = server.lnc(&["topic", "create", "twice"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("Topic 'twice' already exists"));
    server.lnc(&["topic", "create", "twice", "--if-not-exists"]).ok();
}

#[test]
fn a_server_that_creates_no_topics_says_so() {
    let server = Server::start_with(&["topics.auto_create=false"]);
    let refused = server.lnc(&["produce", "--topic", "nowhere", "--data", "x"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("topic 'nowhere' does not exist") && refused.err.contains("lnc topic create"));
}

#[test]
fn a_bad_name_is_explained() {
    let server = Server::start();
    for arguments in [&["topic", "create", "bad name"][..], &["produce", "--topic", "bad name", "--data", "x"]] {
        let refused = server.lnc(arguments);
        assert_eq!(refused.code, Some(1));
        assert!(refused.err.contains("A-Z a-z 0-9 . _ -"), "{refused:?}");
    }
}
