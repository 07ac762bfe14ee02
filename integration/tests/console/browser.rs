//! The console in a real browser, where one is found: what an operator does with it, on a cluster under load with an evicted
//! node. `LANCE_SCREENSHOTS` names a folder for pictures.

use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Browser, Load, Server, ServerSpec, ThreeNodes, eventually, http, not_run};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const DESKTOP: (u32, u32, bool) = (1440, 900, false);
const PHONE: (u32, u32, bool) = (375, 812, true);

/// A browser with the console of a node; none where no browser is installed.
fn console(server: &Server) -> Option<Browser> {
    let Some(program) = Browser::find() else {
        not_run("no browser is installed");
        return None;
    };
    let mut browser = Browser::start(&program);
    let (width, height, is_phone) = DESKTOP;
    browser.resize(width, height, is_phone);
    browser.prefer("light");
    browser.open(&format!("http://{}/", server.admin()));
    Some(browser)
}

fn picture(browser: &mut Browser, name: &str) {
    let Some(folder) = std::env::var_os("LANCE_SCREENSHOTS").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).unwrap();
    browser.screenshot(&folder.join(format!("{name}.png")));
}

fn go(browser: &mut Browser, view: &str, text: &str) {
    browser.evaluate(&format!("location.hash = {}", json!(view)));
    browser.await_text(text);
}

/// Nothing is wider than the window, nothing complains.
fn expect_tidy(browser: &mut Browser, place: &str) {
    let too_wide = "(() => { const most = document.documentElement.clientWidth; \
        return document.documentElement.scrollWidth > most ? [...document.querySelectorAll('main *')] \
        .filter((it) => it.getBoundingClientRect().right > most + 1).slice(0, 5).map((it) => it.outerHTML.slice(0, 200)) : []; })()";
    assert_eq!(browser.evaluate(too_wide), json!([]), "{place}: wider than the window");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{place}: {complaints:?}");
}

struct Scene {
    cluster: ThreeNodes,
    leader: usize,
    slow: usize,
    load: Load,
}

/// Three nodes under load, one of which was evicted, and a group that is behind.
fn scene() -> Scene {
    let settings = ["eviction.window_ms=500ms", "eviction.slow_windows=2"];
    let cluster = ThreeNodes::start_with(&|spec| settings.iter().fold(spec, |spec, setting| spec.set(*setting)));
    let servers = cluster.servers();
    lnc(&servers, &["topic", "create", "orders", "--partitions", "1", "--retention-age", "7d"], b"").ok();
    for (name, partitions) in [("payments", "6"), ("audit.log-of-everything-that-anybody-ever-did", "2")] {
        lnc(&servers, &["topic", "create", name, "--partitions", partitions], b"").ok();
    }
    let leader = cluster.leader("orders", 0);
    let slow = cluster.others(leader)[0];
    let options = LoadOptions { pause: Duration::from_millis(3), ..LoadOptions::new("orders", 1) };
    let load = Load::start(&servers, options);
    load.await_more(50);
    let consume = ["consume", "--topic", "orders", "--group", "billing", "--offset", "earliest", "--count", "20"];
    lnc(&servers, &consume, b"").ok();
    let fault = r#"{"kind":"slow","millis":150,"path":"logs/"}"#;
    assert_eq!(http::post(&cluster.nodes[slow].admin(), "/v1/faults", fault).status, 200);
    eventually("the slow follower is evicted", || {
        let events = http::get(&cluster.nodes[leader].admin(), "/v1/events").json();
        events["events"].as_array()?.iter().find(|event| event["kind"] == "evict").map(|_| ())
    });
    Scene { cluster, leader, slow, load }
}

#[test]
fn an_operator_sees_the_cluster_and_makes_follows_and_deletes_a_topic() {
    if Browser::find().is_none() {
        return not_run("no browser is installed");
    }
    let Scene { cluster, leader, slow, load } = scene();
    let mut browser = console(&cluster.nodes[leader]).unwrap();
    browser.await_that("document.querySelector('#health').textContent === 'Degraded'");
    browser.await_text(&format!("Follower {} was evicted", slow + 1));
    browser.await_that(
        "document.querySelectorAll('.spark .line:not(.second)')[0].getAttribute('d').split('L').length > 8",
    );
    browser.await_text("orders-0");
    expect_tidy(&mut browser, "overview");
    picture(&mut browser, "desktop-overview");

    make_a_topic(&mut browser);
    follow_hostile_records(&mut browser, &cluster.servers());
    follow_the_load(&mut browser);
    look_at_the_lag(&mut browser);
    for (name, theme, (width, height, is_phone)) in [
        ("desktop", "light", DESKTOP),
        ("desktop-dark", "dark", DESKTOP),
        ("phone", "light", PHONE),
        ("phone-dark", "dark", PHONE),
    ] {
        browser.resize(width, height, is_phone);
        browser.prefer(theme);
        for (view, text) in [
            ("#/", "Attention"),
            ("#/nodes", "this one"),
            ("#/topics", "audit.log-of-everything"),
            ("#/topics/payments", "Partitions"),
            ("#/topics/orders", "Following, "),
            ("#/groups", "billing"),
            ("#/actors", "ingestion-0"),
            ("#/events", "was evicted"),
        ] {
            go(&mut browser, view, text);
            expect_tidy(&mut browser, &format!("{name} {view}"));
            let view = view.trim_start_matches("#/").replace('/', "-");
            let view = if view.is_empty() { "overview" } else { &view };
            picture(&mut browser, &format!("{name}-{view}"));
        }
    }
    let (width, height, is_phone) = DESKTOP;
    browser.resize(width, height, is_phone);
    delete_the_topic(&mut browser);
    load.finish();
}

fn make_a_topic(browser: &mut Browser) {
    go(browser, "#/topics", "payments");
    browser.click("[data-action=create-topic]");
    browser.await_that("document.querySelector('dialog[open] #topic-name') === document.activeElement");
    browser.type_text("no such name!");
    browser.press("Enter");
    browser.await_that(
        "document.querySelector('dialog[open]') && document.querySelector('#topic-name').matches(':invalid')",
    );
    browser.evaluate("document.querySelector('#topic-name').select()");
    browser.type_text("payments");
    browser.press("Enter");
    browser.await_text("already exists");
    picture(browser, "desktop-create");
    browser.evaluate("document.querySelector('#topic-name').select()");
    browser.type_text("made-here");
    browser.click("#topic-partitions");
    browser.type_text("2");
    browser.press("Enter");
    browser.await_that("location.hash === '#/topics/made-here' && !document.querySelector('dialog')");
    browser.await_that("document.querySelector('h1').textContent === 'made-here'");
    browser.await_that("document.querySelectorAll('tbody tr').length === 2");
}

fn follow_hostile_records(browser: &mut Browser, servers: &str) {
    browser.await_text("Following, 0 records");
    let markup = "<img src=x onerror=\"window.broken=1\"><script>window.broken=1</script>";
    let produce = ["produce", "--topic", "made-here", "--key", "<b>bold</b>", "--data", markup];
    lnc(servers, &produce, b"").ok();
    browser.await_text(markup);
    browser.await_text("<b>bold</b>");
    assert_eq!(browser.evaluate("document.querySelectorAll('main img, main b, main script').length"), 0);
    assert_eq!(browser.evaluate("typeof window.broken"), "undefined");
    lnc(servers, &["produce", "--topic", "made-here"], &[0xFF, 0xFE, b'\n']).ok();
    browser.await_text("base64 ");
    expect_tidy(browser, "hostile records");
}

/// The tail goes on by itself, stays while the view is drawn anew, and rests when told.
fn follow_the_load(browser: &mut Browser) {
    go(browser, "#/topics/orders", "Following, ");
    let rows =
        |browser: &mut Browser| browser.evaluate("document.querySelectorAll('.tail .row').length").as_u64().unwrap();
    browser.await_that("document.querySelectorAll('.tail .row').length > 10");
    let before = rows(browser);
    browser.await_that(&format!("document.querySelectorAll('.tail .row').length > {before}"));
    browser.evaluate(
        "[...document.querySelectorAll('.tail-bar button')].find((it) => it.textContent === 'Pause').click()",
    );
    browser.await_text("Paused, ");
    browser.evaluate(
        "[...document.querySelectorAll('.tail-bar button')].find((it) => it.textContent === 'Resume').click()",
    );
    browser.await_text("Following, ");
}

/// Any node shows how far groups are behind.
fn look_at_the_lag(browser: &mut Browser) {
    go(browser, "#/groups", "billing");
    browser.await_that(
        "[...document.querySelectorAll('td[data-label=\"Lag, records\"]')].some((it) => Number(it.textContent.replace(',', '')) > 0)",
    );
}

fn delete_the_topic(browser: &mut Browser) {
    go(browser, "#/topics/made-here", "Delete topic");
    browser.click("[data-action=delete-topic]");
    browser.await_that("document.querySelector('dialog[open] .primary').disabled");
    picture(browser, "desktop-delete");
    browser.press("Escape");
    browser.await_that("!document.querySelector('dialog')");
    browser.click("[data-action=delete-topic]");
    browser.await_that("document.activeElement?.id === 'confirm-word'");
    browser.type_text("made-here");
    browser.await_that("!document.querySelector('dialog[open] .primary').disabled");
    browser.press("Enter");
    browser.await_that("location.hash === '#/topics'");
    browser.await_that("![...document.querySelectorAll('td .name')].some((it) => it.textContent === 'made-here')");
}

#[test]
fn who_has_a_token_signs_in_for_the_tab_and_the_keyboard_will_do() {
    let token = "the-token-of-somebody-who-signs-in";
    let server = ServerSpec::new().set("auth.enabled=true").set(format!("auth.token={token}")).start();
    let Some(mut browser) = console(&server) else { return };
    browser.await_text("Sign in");
    browser.await_that("document.querySelector('#health').textContent === 'Signed out'");
    // The first stop of the keyboard skips what stands before the content.
    browser.press("Tab");
    assert_eq!(browser.evaluate("document.activeElement.className"), "skip");
    browser.press("Enter");
    assert_eq!(browser.evaluate("document.activeElement.id"), "main");
    browser.press("Tab");
    assert_eq!(browser.evaluate("document.activeElement.id"), "token");
    browser.type_text("a guess");
    browser.press("Enter");
    browser.await_text("does not know this token");
    picture(&mut browser, "desktop-sign-in");
    browser.evaluate("document.querySelector('#token').select()");
    browser.type_text(token);
    browser.press("Enter");
    browser.await_text("Nodes up");
    browser.await_text("__bootstrap");
    browser.await_that("document.querySelector('#health').textContent === 'Healthy'");
    assert_eq!(browser.evaluate("localStorage.length + document.cookie.length"), 0, "for the tab only");
    go(&mut browser, "#/topics", "Create topic");
    browser.click("#theme");
    browser.await_that("getComputedStyle(document.documentElement).colorScheme === 'light'");
    browser.click("#theme");
    browser.await_that("getComputedStyle(document.documentElement).colorScheme === 'dark'");
    browser.click("[data-action=sign-out]");
    browser.await_that("document.querySelector('#token') && sessionStorage.length === 0");
    expect_tidy(&mut browser, "signed out");
}

#[test]
fn who_may_not_see_the_cluster_is_told_so() {
    let token = "the-token-of-the-administrator-here";
    let server = ServerSpec::new().set("auth.enabled=true").set(format!("auth.token={token}")).start();
    let added = lnc(&server.address(), &["user", "add", "al", "--output", "json", "--token", token], b"").ok();
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let Some(mut browser) = console(&server) else { return };
    browser.await_text("Sign in");
    browser.click("#token");
    browser.type_text(added["token"].as_str().unwrap());
    browser.press("Enter");
    browser.await_text("al may not describe the cluster");
    expect_tidy(&mut browser, "forbidden");
    picture(&mut browser, "desktop-forbidden");
}

#[test]
fn a_node_that_goes_is_told_of_and_found_again() {
    let mut server = ServerSpec::new().start();
    let Some(mut browser) = console(&server) else { return };
    browser.await_that("document.querySelector('#health').textContent === 'Healthy'");
    server.kill();
    browser.await_that("document.querySelector('#health').textContent === 'Unreachable'");
    browser.await_text("This node does not answer.");
    picture(&mut browser, "desktop-unreachable");
    server.start_again();
    browser.await_that("document.querySelector('#health').textContent === 'Healthy'");
    expect_tidy(&mut browser, "found again");
}
