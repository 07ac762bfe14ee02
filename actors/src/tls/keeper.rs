//! `TlsKeeper`: the configurations in use. They follow the files; connections that stand keep theirs.

use super::material::{TlsConfigs, TlsFiles, TlsFilesError, TlsMaterial};
use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the files.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// TLS as it is spoken at the moment.
pub struct TlsKeeper {
    files: TlsFiles,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    material: TlsMaterial,
    configs: TlsConfigs,
}

/// What a look at the files found.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Unchanged,
    /// New connections get what is there now.
    Replaced,
}

impl fmt::Debug for TlsKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsKeeper").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsKeeper {
    /// Reads the files.
    pub fn open(files: TlsFiles) -> Result<Self, TlsFilesError> {
        let material = files.read()?;
        let configs = material.configs(&files)?;
        Ok(Self { files, current: ArcSwap::from_pointee(Loaded { material, configs }) })
    }

    /// Reads the files again. What cannot be used, such as a certificate whose key is not there yet, changes nothing.
    pub fn look(&self) -> Result<Look, TlsFilesError> {
        let material = self.files.read()?;
        if self.current.load().material == material {
            return Ok(Look::Unchanged);
        }
        let configs = material.configs(&self.files)?;
        self.current.store(Arc::new(Loaded { material, configs }));
        Ok(Look::Replaced)
    }

    /// How those who connect are spoken to.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().configs.server)
    }

    /// The same, without asking for a certificate.
    pub fn server_for_anybody(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().configs.server_for_anybody)
    }

    /// How other nodes are spoken to.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.current.load().configs.client.clone()
    }

    /// Follows the files for as long as the node lives.
    pub async fn follow(self: Arc<Self>) {
        let mut last_problem = String::new();
        loop {
            actix_rt::time::sleep(LOOK_INTERVAL).await;
            match self.look() {
                Ok(Look::Unchanged) => last_problem.clear(),
                Ok(Look::Replaced) => {
                    last_problem.clear();
                    tracing::info!("new certificates are in use");
                }
                Err(error) => {
                    let problem = error.to_string();
                    if problem != last_problem {
                        tracing::warn!(%error, "certificates stay as they are");
                        last_problem = problem;
                    }
                }
            }
        }
    }
}
