//! The console: its files, as they were built in, and what browsers are told about them.

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// Nothing is loaded but what is served here, nothing runs that is not in a file, and no page may frame it.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; manifest-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

struct Asset {
    /// Name below `/console/`; the page itself is `/`.
    name: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        &[$(Asset { name: $name, text: include_str!(concat!("../../console/", $name)) }),*]
    };
}

const ASSETS: &[Asset] = assets![
    "index.html",
    "icon.svg",
    "css/base.css",
    "css/layout.css",
    "css/parts.css",
    "js/main.js",
    "js/lib/api.js",
    "js/lib/dom.js",
    "js/lib/format.js",
    "js/lib/histogram.js",
    "js/lib/openmetrics.js",
    "js/lib/poller.js",
    "js/lib/theme.js",
    "js/parts/card.js",
    "js/parts/confirm.js",
    "js/parts/dialog.js",
    "js/parts/sparkline.js",
    "js/parts/table.js",
    "js/parts/toast.js",
    "js/state/cluster.js",
    "js/state/figures.js",
    "js/state/store.js",
    "js/views/actors.js",
    "js/views/create_topic.js",
    "js/views/events.js",
    "js/views/groups.js",
    "js/views/nodes.js",
    "js/views/overview.js",
    "js/views/sign_in.js",
    "js/views/tail.js",
    "js/views/topic.js",
    "js/views/topics.js",
];

/// One tag for all files: what was built together is used together.
static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.name);
        hash.update([0]);
        hash.update(asset.text);
        hash.update([0]);
    }
    let tag: String = hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"console\""))
});

/// The page under `/`, and its files.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = |headers: HeaderMap| async move { serve("index.html", &headers) };
    Router::new().route("/", get(page)).route("/console", get(page)).route("/console/", get(page)).route(
        "/console/{*name}",
        get(|Path(name): Path<String>, request: Request| async move { serve(&name, request.headers()) }),
    )
}

fn serve(name: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return super::error::ApiError::not_found("the console has no such file").into_response();
    };
    let mut response = match headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == *TAG) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => asset.text.into_response(),
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    out.insert(header::ETAG, TAG.clone());
    // Asked for anew each time: another version of the node has other files under the same names.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    out.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ] {
        out.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
