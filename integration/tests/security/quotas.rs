//! Quotas: who is over them waits, and nobody else.

use super::{TOKEN, guarded, with_token};
use bytes::Bytes;
use lance_client::{Client, ClientOptions, ProducerOptions, ProducerRecord};
use lance_integration::harness::{Server, ServerSpec, eventually, http};
use std::time::{Duration, Instant};

const RECORDS: usize = 64;
const RECORD_BYTES: usize = 16 * 1024;
/// What is sent, a little more than the bytes of the values.
const SENT: u64 = (RECORDS * RECORD_BYTES) as u64;
const RATE: u64 = 256 * 1024;

/// Sends everything and waits for every ack.
fn produce(server: &Server, client_name: &str, token: Option<&str>) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = ClientOptions::new(&server.address()).unwrap();
        options.client_name = client_name.to_owned();
        options.token = token.map(str::to_owned);
        let client = Client::connect(options).await.unwrap();
        let producer = client.producer(ProducerOptions::default());
        let started = Instant::now();
        let mut deliveries = Vec::new();
        for _ in 0..RECORDS {
            let record = ProducerRecord::new("events", Bytes::from(vec![b'x'; RECORD_BYTES]));
            deliveries.push(producer.send(record).await.unwrap());
            producer.flush().await;
        }
        for delivery in deliveries {
            delivery.await.expect("over a quota nothing is refused");
        }
        started.elapsed()
    })
}

/// The least time it may take: a second's worth goes at once, and who has just paid for the last frame is done.
fn least() -> Duration {
    Duration::from_secs_f64((SENT - RATE - 2 * RECORD_BYTES as u64) as f64 / RATE as f64)
}

fn throttled_seconds(server: &Server) -> f64 {
    http::metric(&server.admin(), "lance_throttled_seconds_total", &[]).unwrap_or_default()
}

#[test]
fn a_client_over_its_quota_waits_and_another_does_not() {
    let server = ServerSpec::new().set(format!("quotas.clients=slow*={RATE}/0")).start();
    produce(&server, "another", None);
    assert!(throttled_seconds(&server) == 0.0, "nobody is over a quota");
    let took = produce(&server, "slow-1", None);
    assert!(took >= least(), "{took:?}");
    // A client that hears of backpressure does most of the waiting itself.
    eventually("the wait is counted", || (throttled_seconds(&server) > 0.0).then_some(()));
}

#[test]
fn a_principal_has_its_quota_whatever_its_clients_call_themselves() {
    let server = guarded().set(format!("quotas.principals=alice={RATE}/0")).start();
    with_token(&server, TOKEN, &["topic", "create", "events"]).ok();
    let token_of = |user: &str| {
        let added = with_token(&server, TOKEN, &["user", "add", user, "--output", "json"]).ok();
        with_token(&server, TOKEN, &["acl", "add", user, "--allow", "write", "--topic", "events"]).ok();
        let added: serde_json::Value = serde_json::from_str(&added).unwrap();
        added["token"].as_str().unwrap().to_owned()
    };
    let (alice, bob) = (token_of("alice"), token_of("bob"));
    produce(&server, "tool", Some(&bob));
    assert!(throttled_seconds(&server) == 0.0, "bob has none");
    let took = produce(&server, "tool", Some(&alice));
    assert!(took >= least(), "{took:?}");
}
