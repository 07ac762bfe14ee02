//! As much HTTP as the admin interface of a node needs.

use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A stopped process takes connections and never answers.
const PATIENCE: Duration = Duration::from_secs(2);

/// Status and body of a GET.
pub async fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    request(address, "GET", path, "").await
}

/// Status and body of a POST.
pub async fn post(address: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    request(address, "POST", path, body).await
}

/// The JSON a node answers with; `None` when it does not.
pub async fn json(address: &str, path: &str) -> Option<Value> {
    let (status, body) = get(address, path).await.ok()?;
    (status == 200).then(|| serde_json::from_str(&body).ok()).flatten()
}

async fn request(address: &str, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}
