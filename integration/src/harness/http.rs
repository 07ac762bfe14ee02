//! As much HTTP as the admin interface needs.

use super::PATIENCE;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines, as they came.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Reply {
    /// A header by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// GET.
pub fn get(address: &str, path: &str) -> Reply {
    request(address, "GET", path, "")
}

/// GET with a bearer token.
pub fn get_with_token(address: &str, path: &str, token: &str) -> Reply {
    request_with(address, "GET", path, &[("Authorization", &format!("Bearer {token}"))], "")
}

/// POST of a JSON body.
pub fn post(address: &str, path: &str, body: &str) -> Reply {
    request(address, "POST", path, body)
}

/// Any request.
pub fn request(address: &str, method: &str, path: &str, body: &str) -> Reply {
    try_request(address, method, path, body).unwrap_or_else(|error| panic!("{method} http://{address}{path}: {error}"))
}

/// Any request with further header lines; `Host` replaces the usual one.
pub fn request_with(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    exchange(address, method, path, headers, body)
        .unwrap_or_else(|error| panic!("{method} http://{address}{path}: {error}"))
}

/// Any request, to a server that may not be there.
pub fn try_request(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
    exchange(address, method, path, &[], body)
}

fn exchange(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let host = [("Host", address)].into_iter().filter(|_| !headers.iter().any(|(name, _)| *name == "Host"));
    let lines: String =
        host.chain(headers.iter().copied()).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    read_reply(stream)
}

fn read_reply(mut stream: TcpStream) -> std::io::Result<Reply> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let bad = || std::io::Error::other(format!("no HTTP: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
}

/// The value of a sample of `/metrics` whose line starts with `name` and contains all of `labels`; several are added up.
pub fn metric(address: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let text = get(address, "/metrics").body;
    let is_sample = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
            && labels.iter().all(|label| line.contains(label))
    };
    let values: Vec<f64> =
        text.lines().filter(is_sample).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
