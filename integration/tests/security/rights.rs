//! Tokens, passwords, users and rules.

use crate::{TOKEN, guarded, with_token};
use lance_integration::harness::process::{lnc, run};
use lance_integration::harness::raw::ACK;
use lance_integration::harness::{ServerSpec, ThreeNodes, eventually, http};
use std::io::Write as _;

fn secret_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

#[test]
fn a_client_of_lwp_1_0_authenticates_before_anything_else() {
    let server = guarded().start();
    let mut raw = server.connect();
    for (command, payload) in [(3u64, &b""[..]), (1, b"alpha"), (0x10, &[0; 16]), (7, b""), (0x20, &[0; 24])] {
        let reply = raw.control(command, payload);
        assert_eq!((reply.batch_id, reply.text().as_str()), (0xFF, "Authentication required"), "{command:#x}");
    }
    for (token, expected) in [
        (&b""[..], &b"\0No token provided"[..]),
        (b"guess", b"\0Invalid token"),
        (TOKEN.as_bytes(), b"\x01Authenticated"),
    ] {
        let reply = raw.control(8, token);
        assert_eq!((reply.batch_id, &reply.payload[..]), (9, expected));
    }
    assert_eq!(raw.control(1, b"alpha").batch_id, 0x80);
    assert_eq!(raw.control(8, b"another guess").payload, b"\0Invalid token");
    assert_eq!(raw.control(3, b"").text(), "Authentication required", "a wrong token ends what was before");
    let log = server.stderr();
    assert!(log.contains("__bootstrap") && log.contains("create topic alpha"), "no audit log:\n{log}");
    assert!(!log.contains(TOKEN) && !log.contains("guess"), "a token in the log:\n{log}");
}

#[test]
fn a_user_may_do_what_rules_allow_and_nothing_else() {
    let server = guarded().start();
    let admin = |arguments: &[&str]| with_token(&server, TOKEN, arguments).ok();
    admin(&["topic", "create", "orders"]);
    admin(&["topic", "create", "secret"]);
    let added = admin(&["user", "add", "al", "--output", "json"]);
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let token = added["token"].as_str().unwrap().to_owned();
    let al = |arguments: &[&str]| with_token(&server, &token, arguments);
    assert!(al(&["produce", "-t", "orders", "-d", "x"]).failure().1.contains("Permission denied"));
    admin(&["acl", "add", "al", "--allow", "write", "--topic", "orders"]);
    admin(&["acl", "add", "al", "--allow", "read", "--topic", "ord", "--prefix"]);
    al(&["produce", "-t", "orders", "-d", "x"]).ok();
    assert_eq!(al(&["consume", "-t", "orders", "--offset", "earliest", "-e"]).ok(), "x\n");
    for refused in [
        &["produce", "-t", "secret", "-d", "x"][..],
        &["consume", "-t", "secret", "-e"],
        &["topic", "delete", "orders"],
        &["topic", "create", "more"],
        &["user", "list"],
        &["acl", "add", "al", "--allow", "all", "--cluster"],
        &["cluster", "status"],
        &["consume", "-t", "orders", "--group", "g", "-e"],
    ] {
        assert!(!al(refused).status.success(), "{refused:?}");
    }
    assert!(!al(&["topic", "list"]).ok().contains("secret"), "only what may be seen is listed");
    admin(&["acl", "add", "*", "--deny", "write", "--topic", "orders"]);
    assert!(al(&["produce", "-t", "orders", "-d", "y"]).failure().1.contains("Permission denied"), "deny wins");
    admin(&["acl", "remove", "*", "--deny", "write", "--topic", "orders"]);
    al(&["produce", "-t", "orders", "-d", "y"]).ok();
    admin(&["user", "set-token", "al"]);
    assert!(al(&["topic", "list"]).failure().1.contains("Invalid token"), "the old token is over");
    admin(&["user", "remove", "al"]);
    assert!(!admin(&["user", "list"]).contains("al "));
    server.await_log(&["Permission denied"]);
}

#[test]
fn users_and_rules_outlive_the_process_and_passwords_prove_both_sides() {
    let mut server = guarded().start();
    let password = secret_file("correct horse battery");
    let add = ["user", "add", "bo", "--password-stdin", "--token", TOKEN];
    lnc(&server.address(), &add, b"correct horse battery\n").ok();
    with_token(&server, TOKEN, &["acl", "add", "bo", "--allow", "all", "--topic", "", "--prefix"]).ok();
    server.kill_and_start();
    let path = password.path().to_str().unwrap();
    let login = ["--user", "bo", "--password-file", path];
    let bo = |arguments: &[&str]| lnc(&server.address(), &[arguments, &login].concat(), &[]);
    bo(&["produce", "-t", "mine", "-d", "x"]).ok();
    assert_eq!(bo(&["consume", "-t", "mine", "--offset", "earliest", "-e"]).ok(), "x\n");
    let wrong = secret_file("wrong horse battery");
    let wrong = ["topic", "list", "--user", "bo", "--password-file", wrong.path().to_str().unwrap()];
    assert!(lnc(&server.address(), &wrong, &[]).failure().1.contains("Invalid user or password"));
    let unknown = ["topic", "list", "--user", "nobody", "--password-file", path];
    assert!(lnc(&server.address(), &unknown, &[]).failure().1.contains("Invalid user or password"));
}

#[test]
fn auth_without_any_credential_refuses_to_start() {
    let (code, text) = run("lance", &["--set", "auth.enabled=true", "--check-config"], &[]).failure();
    assert_eq!(code, 2);
    assert!(text.contains("auth.enabled") && text.contains("auth.token"), "{text}");
}

#[test]
fn the_admin_interface_wants_a_token_but_for_health_and_metrics() {
    let server = guarded().start();
    for open in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(http::get(&server.admin(), open).status, 200, "{open}");
    }
    for path in ["/v1/cluster", "/v1/topics", "/v1/actors"] {
        assert_eq!(http::get(&server.admin(), path).status, 401, "{path}");
        assert_eq!(http::get_with_token(&server.admin(), path, "guess").status, 401, "{path}");
        assert_eq!(http::get_with_token(&server.admin(), path, TOKEN).status, 200, "{path}");
    }
    assert_eq!(http::post(&server.admin(), "/v1/drain", "").status, 401);
    server.await_log(&["POST /v1/drain"]);
}

/// Paths of the admin interface, and what each takes of a user; `None`: a token is enough.
const ADMIN_RIGHTS: [(&str, &str, &str, Option<&[&str]>); 11] = [
    ("GET", "/v1/whoami", "", None),
    ("GET", "/v1/cluster", "", Some(&["describe", "--cluster"])),
    ("GET", "/v1/topics", "", Some(&["describe", "--cluster"])),
    ("GET", "/v1/groups", "", Some(&["describe", "--cluster"])),
    ("GET", "/v1/actors", "", Some(&["describe", "--cluster"])),
    ("GET", "/v1/events", "", Some(&["describe", "--cluster"])),
    ("GET", "/v1/topics/orders/partitions/0/records", "", Some(&["read", "--topic", "orders"])),
    ("POST", "/v1/topics", r#"{"name":"made"}"#, Some(&["create", "--topic", "made"])),
    ("DELETE", "/v1/topics/made", "", Some(&["delete", "--topic", "made"])),
    ("PUT", "/v1/log-level", r#"{"level":"info"}"#, Some(&["admin", "--cluster"])),
    ("POST", "/v1/drain", "", Some(&["admin", "--cluster"])),
];

#[test]
fn each_path_of_the_admin_interface_takes_exactly_its_right() {
    let server = guarded().start();
    let admin = |arguments: &[&str]| with_token(&server, TOKEN, arguments).ok();
    admin(&["topic", "create", "orders", "--partitions", "1"]);
    let added: serde_json::Value = serde_json::from_str(&admin(&["user", "add", "al", "--output", "json"])).unwrap();
    let bearer = format!("Bearer {}", added["token"].as_str().unwrap());
    let ask = |method, path, body, headers: &[(&str, &str)]| {
        http::request_with(&server.admin(), method, path, headers, body).status
    };
    for (method, path, body, right) in ADMIN_RIGHTS {
        let with = [("Authorization", bearer.as_str())];
        assert_eq!(ask(method, path, body, &[]), 401, "{method} {path} of nobody");
        assert_eq!(ask(method, path, body, &[("Authorization", "Bearer guess")]), 401, "{method} {path} of a stranger");
        if let Some(right) = right {
            assert_eq!(ask(method, path, body, &with), 403, "{method} {path} without a right");
            // Rights on other topics, and less than is needed, do not help.
            admin(&["acl", "add", "al", "--allow", "all", "--topic", "other"]);
            assert_eq!(ask(method, path, body, &with), 403, "{method} {path} with rights on something else");
            admin(&[&["acl", "add", "al", "--allow"], right].concat());
        }
        let answered = ask(method, path, body, &with);
        assert!((200..300).contains(&answered), "{method} {path} with its right: {answered}");
        if let Some(right) = right.filter(|_| path != "/v1/drain") {
            admin(&[&["acl", "remove", "al", "--allow"], right].concat());
            admin(&["acl", "remove", "al", "--allow", "all", "--topic", "other"]);
        }
    }
    server.await_log(&["DELETE /v1/topics/made"]);
}

#[test]
fn the_page_itself_is_open_and_shows_nothing() {
    let server = guarded().start();
    for path in ["/", "/console/js/main.js", "/console/css/base.css"] {
        assert_eq!(http::get(&server.admin(), path).status, 200, "{path}");
    }
    assert_eq!(http::post(&server.admin(), "/", "").status, 401);
}

#[test]
fn nodes_forward_for_clients_of_1_0_where_everybody_authenticates() {
    let mut cluster = ThreeNodes::prepare();
    for node in &mut cluster.nodes {
        for set in ["auth.enabled=true", "cluster.secret=the secret of the cluster"] {
            node.set(set);
        }
        node.set(format!("auth.token={TOKEN}"));
    }
    cluster.spawn_all();
    cluster.nodes.iter_mut().for_each(lance_integration::harness::Server::await_serving);
    cluster.await_ready();
    let create = ["topic", "create", "spread", "--partitions", "1", "--replication-factor", "3"];
    with_token(&cluster.nodes[0], TOKEN, &create).ok();
    // Whoever leads, two of the three have to forward.
    for node in &cluster.nodes {
        eventually("a record is acked", || {
            let mut raw = node.connect();
            assert_eq!(raw.control(8, TOKEN.as_bytes()).payload, b"\x01Authenticated");
            let topics = raw.control(3, b"").text();
            let topic = topics.split("\"id\":").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
            (raw.ingest(topic, 1, b"forwarded").flags == ACK).then_some(())
        });
    }
}

#[test]
fn without_auth_everything_stays_as_it_was() {
    let server = ServerSpec::new().start();
    let mut raw = server.connect();
    assert_eq!(raw.control(8, b"any token").payload, b"\x01Authenticated");
    assert_eq!(raw.control(3, b"").batch_id, 0x80);
}
