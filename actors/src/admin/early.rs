//! Probes while a node starts: recovery takes its time, and a cluster forms only once every node is there. Whoever
//! watches the process has to tell that from one that hangs.

use super::bounded::Bounded;
use super::encrypted::EncryptedListener;
use super::error::ApiError;
use super::health::Health;
use crate::tls::TlsKeeper;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Answers the probes until the admin interface does. Dropping it ends that, and waits until nothing is accepted any more.
#[derive(Debug)]
pub struct EarlyProbes {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EarlyProbes {
    /// Serves on this listener, from a thread of its own; the listener stays usable for who serves after.
    /// With TLS it asks for certificates if `asks_clients`, as the interface itself will.
    pub fn start(
        listener: &TcpListener,
        health: Arc<Health>,
        tls: Option<Arc<TlsKeeper>>,
        asks_clients: bool,
    ) -> io::Result<Self> {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let serve = move || {
            runtime.block_on(async move {
                let listener = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::warn!(%error, "no probes are answered while the node starts"),
                };
                let served = async {
                    match tls {
                        None => axum::serve(Bounded::new(listener), router(health)).await,
                        Some(tls) => {
                            let listener = EncryptedListener::start(listener, tls, asks_clients)?;
                            axum::serve(Bounded::new(listener), router(health)).await
                        }
                    }
                };
                // A connection that is cut asks again, and hears the whole interface.
                tokio::select! {
                    served = served => if let Err(error) = served {
                        tracing::warn!(%error, "no probes are answered while the node starts");
                    },
                    _ = ended => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("early-probes".to_owned()).spawn(serve)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for EarlyProbes {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // It may have ended by itself.
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported, and ends nothing else.
            let _ = thread.join();
        }
    }
}

fn router(health: Arc<Health>) -> Router {
    let not_ready = move || {
        let reason = health.not_serving().unwrap_or_else(|| "the node is starting".to_owned());
        async move { ApiError::not_ready(reason) }
    };
    Router::new()
        .route("/health/live", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/health/ready", get(not_ready.clone()))
        .route("/health/startup", get(not_ready.clone()))
        .merge(super::assets::routes())
        .fallback(not_ready)
}
