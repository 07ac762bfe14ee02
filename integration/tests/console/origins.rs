//! What pages of other sites, and other names of this address, can do: nothing.

use lance_integration::harness::{ServerSpec, http};

#[test]
fn a_page_of_another_site_changes_nothing() {
    let server = ServerSpec::new().start();
    let admin = server.admin();
    let own = format!("http://{admin}");
    let body = r#"{"name":"forged"}"#;
    for headers in [
        &[("Origin", "https://evil.example")][..],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", &own)],
        // Another port of this host is another site.
        &[("Origin", "http://127.0.0.1:1")],
    ] {
        for (method, path) in
            [("POST", "/v1/topics"), ("DELETE", "/v1/topics/forged"), ("POST", "/v1/drain"), ("PUT", "/v1/log-level")]
        {
            let reply = http::request_with(&admin, method, path, headers, body);
            assert_eq!(reply.status, 403, "{method} {path} with {headers:?}: {reply:?}");
            assert_eq!(reply.json()["code"], "forbidden");
        }
    }
    assert_eq!(http::get(&admin, "/v1/topics").json()["topics"], serde_json::json!([]));
    assert_eq!(http::get(&admin, "/health/ready").status, 200, "nobody drained it");
    for headers in [&[("Origin", own.as_str())][..], &[("Sec-Fetch-Site", "same-origin")], &[]] {
        let name = format!("own-{}", headers.first().map_or("tool", |(name, _)| name));
        let reply = http::request_with(&admin, "POST", "/v1/topics", headers, &format!(r#"{{"name":"{name}"}}"#));
        assert_eq!(reply.status, 201, "{headers:?}: {reply:?}");
    }
}

#[test]
fn a_name_that_somebody_else_can_point_here_shows_nothing() {
    let server = ServerSpec::new().set("admin.allowed_hosts=console.example.com").start();
    let ask = |host: &str, path: &str| http::request_with(&server.admin(), "GET", path, &[("Host", host)], "").status;
    for path in ["/", "/v1/topics", "/v1/cluster", "/console/js/main.js"] {
        for own in [server.admin().as_str(), "localhost:9644", "lance-1:9644", "[::1]", "console.example.com"] {
            assert_eq!(ask(own, path), 200, "{path} of {own}");
        }
        for other in ["evil.example.com:9644", "127.0.0.1.nip.io", "console.example.com.evil.org"] {
            assert_eq!(ask(other, path), 421, "{path} of {other}");
        }
    }
    // Probes and scrapers may use any name.
    assert_eq!((ask("evil.example.com", "/metrics"), ask("evil.example.com", "/health/ready")), (200, 200));
}

#[test]
fn where_a_token_is_wanted_any_name_will_do() {
    let token = "a-token-that-is-long-enough-for-anybody";
    let server = ServerSpec::new().set("auth.enabled=true").set(format!("auth.token={token}")).start();
    let bearer = format!("Bearer {token}");
    let headers = [("Host", "lance.example.com"), ("Authorization", bearer.as_str())];
    assert_eq!(http::request_with(&server.admin(), "GET", "/v1/topics", &headers, "").status, 200);
    assert_eq!(http::request_with(&server.admin(), "GET", "/v1/topics", &headers[..1], "").status, 401);
    let forged = [headers[0], headers[1], ("Origin", "https://evil.example")];
    assert_eq!(http::request_with(&server.admin(), "POST", "/v1/topics", &forged, r#"{"name":"a"}"#).status, 403);
}
