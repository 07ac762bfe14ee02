//! Browsers that other sites send here: a page elsewhere changes nothing, and a name that somebody else can point at this
//! address shows nothing.
//!
//! Programs that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and are asked for nothing.

use super::actor::AdminSetup;
use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Ends of names that nobody can register for the world.
const PRIVATE_ENDS: [&str; 9] =
    ["localhost", "local", "internal", "lan", "home.arpa", "test", "svc", "intranet", "private"];

/// Refuses what another site would have a browser do.
pub async fn same_site(State(setup): State<Arc<AdminSetup>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_probe = path.starts_with("/health/") || path == "/metrics";
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // A token is no cookie: another name does not have it.
    if setup.auth.is_none() && !is_probe && !host.is_none_or(|host| is_own_name(host, &setup.allowed_hosts)) {
        let host = host.unwrap_or_default();
        let sentence = format!(
            "{host:?} may be anybody's name for this address: ask for an address or a private name, or list it in admin.allowed_hosts"
        );
        return ApiError::misdirected(sentence).into_response();
    }
    let asks = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !asks && !is_same_origin(request.headers(), host, &setup.allowed_hosts) {
        return ApiError::forbidden("a page of another site may not change anything here").into_response();
    }
    next.run(request).await
}

/// Whether nobody but who runs this network can have pointed the name here.
fn is_own_name(host: &str, allowed: &[String]) -> bool {
    let name = name_of(host).to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let is_address = name.parse::<Ipv4Addr>().is_ok() || name.parse::<Ipv6Addr>().is_ok();
    // Names without a dot are in nobody's public zone.
    let is_private = !name.contains('.')
        || PRIVATE_ENDS.iter().any(|end| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')));
    is_address || is_private || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// The host without its port and brackets.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether a request that changes something comes from a page of this interface, or from no page at all.
fn is_same_origin(headers: &HeaderMap, host: Option<&str>, allowed: &[String]) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Some((_, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else { return false };
    host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
        || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name_of(authority)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_private_networks_and_listed_ones_are_own() {
        let allowed = ["console.example.com".to_owned()];
        for own in [
            "127.0.0.1:9644",
            "[::1]:9644",
            "localhost:9644",
            "localhost",
            "lance-1:9644",
            "lance-1",
            "10.0.0.7",
            "lance-0.lance.default.svc.cluster.local:9644",
            "lance-0.lance.default.svc:9644",
            "a.internal",
            "A.LAN.",
            "console.example.com:443",
            "CONSOLE.example.com",
        ] {
            assert!(is_own_name(own, &allowed), "{own}");
        }
        for other in
            ["evil.example", "evil.com:9644", "localhost.evil.com", "127.0.0.1.nip.io", "notlocal.com", "1.2.3"]
        {
            assert!(!is_own_name(other, &allowed), "{other}");
        }
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let from = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            is_same_origin(&headers, Some("127.0.0.1:9644"), &["front.example".to_owned()])
        };
        for same in [
            &[][..],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:9644")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://127.0.0.1:9644")],
            &[("origin", "https://front.example")],
        ] {
            assert!(from(same), "{same:?}");
        }
        for other in [
            &[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:9644")][..],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "http://127.0.0.1:9999")],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
        ] {
            assert!(!from(other), "{other:?}");
        }
    }
}
