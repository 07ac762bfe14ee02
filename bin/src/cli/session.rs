//! From the common flags to a connected client.

use super::args::Common;
use super::failure::Failure;
use lance_client::{Client, ClientOptions};

/// Connects as the flags say.
pub async fn connect(common: &Common) -> Result<Client, Failure> {
    if common.tls_ca.is_some() || common.tls_cert.is_some() || common.tls_key.is_some() {
        return Err(Failure::usage(
            "TLS is not available in this version: --tls-ca, --tls-cert and --tls-key are refused",
        ));
    }
    let options = ClientOptions::new(&common.server).map_err(|error| Failure::usage(format!("--server: {error}")))?;
    let options = ClientOptions {
        client_name: concat!("lnc/", env!("CARGO_PKG_VERSION")).to_owned(),
        token: common.token.clone(),
        ..options
    };
    Client::connect(options).await.map_err(|error| Failure::of("no connection", &error))
}
