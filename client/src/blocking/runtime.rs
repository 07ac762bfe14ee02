//! The thread that does the work, and waiting for it.

use crate::error::ClientError;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use tokio::runtime::{Builder, Runtime};

#[derive(Debug)]
pub(super) struct RuntimeThread {
    /// Taken when it ends.
    runtime: Option<Runtime>,
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl RuntimeThread {
    pub(super) fn start() -> Result<Self, ClientError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("lance-client").enable_all().build();
        let runtime = runtime.map_err(|error| ClientError::Runtime { reason: error.to_string() })?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Waits on this thread. The runtime's own `block_on` panics inside of another runtime; this one only blocks it.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let _inside = self.runtime.as_ref().map(Runtime::enter);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl Drop for RuntimeThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it is refused inside of another runtime.
            runtime.shutdown_background();
        }
    }
}
