//! The public clients of LWP 1.0, unmodified, on servers that encrypt and authenticate: as far as they can say who they are,
//! by a certificate or by a token in a frame of their own making.

use super::certificates::{Certificates, shown};
use super::encryption::{encrypted, over_tls};
use super::{TOKEN, guarded};
use bytes::Bytes;
use lance_integration::harness::python::run_script;
use lance_integration::harness::records::record;
use lance_integration::harness::{PATIENCE, Server, ServerSpec};
use lnc_client::{ClientConfig, ClientError, LanceClient, TlsClientConfig};

/// A server where `al` may use the topic `orders`, and no other.
fn server(certificates: &Certificates) -> Server {
    let own = certificates.issue("lance");
    let spec = guarded().set("auth.superusers=root").set("topics.auto_create=false");
    let server = encrypted(spec, &own, certificates, "optional").start();
    let root = certificates.issue("root");
    for arguments in [
        &["topic", "create", "orders"][..],
        &["topic", "create", "secret"],
        &["acl", "add", "al", "--allow", "all", "--topic", "orders"],
    ] {
        over_tls(&server, certificates, Some(&root), arguments).ok();
    }
    server
}

#[test]
fn the_rust_client_encrypts_and_is_told_what_it_lacks() {
    let certificates = Certificates::new();
    let (guarded, own) = (server(&certificates), certificates.issue("lance"));
    let open = encrypted(ServerSpec::new(), &own, &certificates, "optional").start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let run = async {
        let trusts = TlsClientConfig::new().with_ca_cert(certificates.ca()).with_server_name("localhost");
        let mut client =
            LanceClient::connect(ClientConfig::new(open.address()).with_tls(trusts.clone())).await.unwrap();
        let topic = client.create_topic("orders").await.unwrap().id;
        let payload = Bytes::from(record(b"from afar"));
        client.send_ingest_to_topic_sync(topic, payload.clone(), 1, None).await.unwrap();
        assert_eq!(client.fetch(topic, 0, 1000).await.unwrap().data, payload);
        // It has no tokens, and shows no certificate whatever it is told: where somebody must be named it is refused.
        let mut nobody = LanceClient::connect(ClientConfig::new(guarded.address()).with_tls(trusts)).await.unwrap();
        let refused = nobody.list_topics().await;
        assert!(matches!(&refused, Err(ClientError::ServerError(text)) if text.contains("Authentication required")));
        // A server that nobody vouches for.
        let stranger = TlsClientConfig::new().with_ca_cert(Certificates::new().ca()).with_server_name("localhost");
        assert!(LanceClient::connect(ClientConfig::new(open.address()).with_tls(stranger)).await.is_err());
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, run).await.expect("the client finishes") });
}

const PYTHON: &str = r#"
import asyncio, ssl, sys
from lnc_client import LanceClient, ClientConfig, Producer, ProducerConfig, StandaloneConsumer, StandaloneConfig, LanceError
from lnc_client.protocol import build_control_frame

async def main(address, ca, cert, key, token):
    host, port = address.rsplit(":", 1)
    encrypted = ssl.create_default_context(cafile=ca)
    async with LanceClient(ClientConfig(host=host, port=int(port), ssl_context=encrypted)) as client:
        try:
            await client.list_topics()
            raise SystemExit("nobody may list topics")
        except LanceError as error:
            assert "Authentication required" in str(error), error
        await client._conn.send_frame(build_control_frame(0x08, token.encode()))
        _, answer = await client._conn.recv_frame(timeout=10)
        assert answer.endswith(b"Authenticated"), answer
        assert [topic.name for topic in await client.list_topics()] == ["orders", "secret"]

    proven = ssl.create_default_context(cafile=ca)
    proven.load_cert_chain(cert, key)
    async with LanceClient(ClientConfig(host=host, port=int(port), ssl_context=proven)) as client:
        topics = await client.list_topics()
        assert [topic.name for topic in topics] == ["orders"], topics
    producer = await Producer.connect(address, ProducerConfig(ssl_context=proven))
    await producer.send(topic="orders", data=b"from afar")
    await producer.close()
    config = StandaloneConfig(consumer_name="reader", topic_id=topics[0].id, ssl_context=proven)
    consumer = await StandaloneConsumer.connect(address, config)
    polled = await consumer.poll(timeout=10)
    print([record.value for record in polled.records])
    await consumer.close()

asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
"#;

#[test]
fn the_python_client_proves_itself_by_token_and_by_certificate() {
    let certificates = Certificates::new();
    let (server, al) = (server(&certificates), certificates.issue("al"));
    let ca = certificates.ca();
    let arguments = [&server.address(), shown(&ca), shown(&al.cert), shown(&al.key), TOKEN];
    let Some(finished) = run_script(PYTHON, &arguments) else { return };
    assert_eq!(finished.ok(), "[b'from afar']\n");
}
