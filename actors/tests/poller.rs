//! The poller over a disk that stalls: its failure holds nobody's thread up.
#![allow(clippy::unwrap_used, reason = "a test throughout")]

use actix::prelude::*;
use lance_actors::metrics::Metrics;
use lance_actors::poller::actor::{POLLER_MAILBOX, PollerActor, PollerSetup};
use lance_actors::supervision::shell::{Escalated, InjectPanic};
use lance_actors::supervision::{ActorKind, ActorState, RestartPolicy, Vitals};
use lance_messages::mail::poller::{Drain, Submit};
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{
    Arena, Backend, DirEntry, Disk, DiskCompletion, DiskError, DiskFile, DiskOp, OpKind, OpenMode, QueueOptions, Space,
    WriteQueue,
};
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Clone, Default)]
struct Stall {
    over: Arc<AtomicBool>,
    /// A queue was dropped, which waits, with something in flight.
    waited: Arc<AtomicBool>,
}

struct StallingDisk(Arc<dyn Disk>, Stall);

impl Disk for StallingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.0.open(path, mode)
    }
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.0.list(path)
    }
    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.0.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.0.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.0.sync_dir(path)
    }
    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.0.space(path)
    }
    fn backend(&self) -> Backend {
        self.0.backend()
    }
    fn write_queue(&self, _: &QueueOptions, _: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError> {
        Ok(Box::new(StallingQueue { operations: Vec::new(), stall: self.1.clone() }))
    }
}

struct StallingQueue {
    operations: Vec<DiskOp>,
    stall: Stall,
}

impl WriteQueue for StallingQueue {
    fn submit(&mut self, operation: DiskOp) -> Result<(), DiskOp> {
        self.operations.push(operation);
        Ok(())
    }
    fn kick(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        if self.stall.over.load(Ordering::Acquire) {
            out.extend(self.operations.drain(..).map(|operation| DiskCompletion {
                token: operation.token,
                result: Ok(()),
                chunks: Vec::new(),
                file: None,
                times: Default::default(),
            }));
        }
    }
    fn wait(&mut self, _: Duration) {}
    fn notify_fd(&self) -> Option<RawFd> {
        None
    }
    fn in_flight(&self) -> usize {
        self.operations.len()
    }
}

impl Drop for StallingQueue {
    fn drop(&mut self) {
        self.stall.waited.fetch_or(!self.operations.is_empty(), Ordering::AcqRel);
    }
}

struct Parent;

impl Actor for Parent {
    type Context = Context<Self>;
}

impl Handler<Escalated> for Parent {
    type Result = ();

    fn handle(&mut self, message: Escalated, _: &mut Self::Context) {
        panic!("{} gave up: {}", message.name, message.reason);
    }
}

#[test]
fn a_poller_that_fails_while_the_disk_stalls_blocks_no_thread_and_drains_once_it_goes_on() {
    System::new().block_on(async {
        let memory = MemoryDisk::new(MemoryConfig::default()).as_disk();
        let file = memory.open(Path::new("/log"), OpenMode::CreateOrOpen).unwrap();
        let stall = Stall::default();
        let setup = PollerSetup {
            disk: Arc::new(StallingDisk(memory, stall.clone())),
            arena: Arena::new(4096, 1).unwrap(),
            queue: QueueOptions::default(),
            metrics: Arc::new(Metrics::default()),
        };
        let vitals = Vitals::new("poller-0".to_owned(), ActorKind::Poller, POLLER_MAILBOX);
        let own = Arc::clone(&vitals);
        let parent = Parent.start().recipient();
        let poller = Supervisor::start(|_| PollerActor::new(own, RestartPolicy::default(), parent, setup));
        let sync = DiskOp { token: 1, file, kind: OpKind::Sync };
        poller.send(Submit { ingestion_life: 1, operations: vec![sync], watch: Duration::ZERO }).await.unwrap();
        tokio::task::yield_now().await;
        poller.send(InjectPanic).await.unwrap();
        while vitals.restarts() == 0 || vitals.state() != ActorState::Running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!stall.waited.load(Ordering::Acquire), "the shard's thread waited for the disk");
        let mut drained = Box::pin(poller.send(Drain));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut drained).await;
        assert!(early.is_err(), "the sync is still under way");
        stall.over.store(true, Ordering::Release);
        // Without a descriptor to watch, the poller looks when it is spoken to.
        poller.send(Submit { ingestion_life: 1, operations: Vec::new(), watch: Duration::ZERO }).await.unwrap();
        drained.await.unwrap();
    });
}
