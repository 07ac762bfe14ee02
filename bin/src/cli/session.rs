//! From the common flags to a connected client.

use super::args::Common;
use super::failure::Failure;
use lance_client::connection::TlsConnector;
use lance_client::{Client, ClientOptions, Login};
use std::path::Path;
use std::sync::Arc;

/// Connects as the flags say.
pub async fn connect(common: &Common) -> Result<Client, Failure> {
    connect_in(common, "").await
}

/// As [`connect`], from a rack whose replicas are read from rather than leaders.
pub async fn connect_in(common: &Common, rack: &str) -> Result<Client, Failure> {
    let options = ClientOptions::new(&common.server).map_err(|error| Failure::usage(format!("--server: {error}")))?;
    let mut options = ClientOptions {
        client_name: concat!("lnc/", env!("CARGO_PKG_VERSION")).to_owned(),
        rack: rack.to_owned(),
        token: token(common)?,
        login: login(common)?,
        ..options
    };
    if let Some(connector) = tls(common)? {
        options.connector = Arc::new(connector);
    }
    Client::connect(options).await.map_err(|error| Failure::of("no connection", &error))
}

/// How connections are encrypted; `None` where they are not.
pub fn tls(common: &Common) -> Result<Option<TlsConnector>, Failure> {
    let own = match (&common.tls_cert, &common.tls_key) {
        (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
        (None, None) => None,
        _ => return Err(Failure::usage("--tls-cert and --tls-key go together")),
    };
    match &common.tls_ca {
        Some(ca) => {
            let connector = TlsConnector::from_files(ca, own);
            connector.map(Some).map_err(|error| Failure::usage(format!("--tls-ca, --tls-cert, --tls-key: {error}")))
        }
        None if own.is_some() => Err(Failure::usage("--tls-cert needs --tls-ca: the authority of the server")),
        None => Ok(None),
    }
}

/// The token of the flags, the environment or a file.
pub fn token(common: &Common) -> Result<Option<String>, Failure> {
    match (&common.token, &common.token_file) {
        (_, Some(path)) => secret_in(path, "--token-file").map(Some),
        (token, None) => Ok(token.clone()),
    }
}

fn login(common: &Common) -> Result<Option<Login>, Failure> {
    let Some(user) = &common.user else { return Ok(None) };
    let password = match &common.password_file {
        Some(path) => secret_in(path, "--password-file")?,
        None => std::env::var("LNC_PASSWORD")
            .map_err(|_| Failure::usage("--user needs a password: --password-file or LNC_PASSWORD"))?,
    };
    Ok(Some(Login { user: user.clone(), password }))
}

fn secret_in(path: &Path, flag: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::usage(format!("{flag} {}: {error}", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
