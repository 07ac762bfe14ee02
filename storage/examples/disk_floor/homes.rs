//! The homes as the broker uses them: submit, kick, poll the descriptor, collect.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lance_storage::disk::{
    Arena, BackendChoice, Chunk, DiskFile, DiskOp, DiskOptions, OpKind, OpenMode, QueueOptions, SlotPool, WriteQueue,
    open_disk,
};

use super::{Failure, KB, MB, ROUNDS, Samples};

/// One home with a file and its buffers.
struct Home {
    name: &'static str,
    queue: Box<dyn WriteQueue>,
    file: Arc<dyn DiskFile>,
    free: Vec<Chunk>,
    chunks: Vec<Vec<Chunk>>,
    samples: [Samples; 2],
    end: u64,
}

impl Home {
    const AREA: u64 = 32 * MB as u64;

    fn new(folder: &Path, name: &'static str, backend: BackendChoice, threads: usize) -> Result<Self, Failure> {
        let disk = open_disk(DiskOptions { backend, o_direct: true })?;
        let arena = Arena::new(MB, 4)?;
        let queue = disk.write_queue(&QueueOptions { depth: 16, threads }, &arena)?;
        let file = disk.open(&folder.join(format!("home {name} {threads}")), OpenMode::CreateOrOpen)?;
        let mut pool = SlotPool::new(arena);
        let free = std::iter::from_fn(|| pool.take());
        let free = free.map(|slot| Chunk { slot, slot_start: 0, len: 0, file_offset: 0 }).collect();
        let mut bench = Self { name, queue, file, free, chunks: Vec::new(), samples: Default::default(), end: 0 };
        while bench.end < Self::AREA {
            bench.group(MB, bench.end)?;
            bench.end += MB as u64;
        }
        Ok(bench)
    }

    fn group(&mut self, bytes: usize, offset: u64) -> io::Result<()> {
        let mut chunks = self.chunks.pop().unwrap_or_default();
        let mut done = 0;
        while done < bytes {
            let Some(mut chunk) = self.free.pop() else { break };
            chunk.len = (bytes - done).min(MB) as u32;
            chunk.file_offset = offset + done as u64;
            done += chunk.len as usize;
            chunks.push(chunk);
        }
        let op = DiskOp { token: 0, file: Arc::clone(&self.file), kind: OpKind::Write { chunks, sync: true } };
        self.queue.submit(op).map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        self.queue.kick().map_err(io::Error::other)?;
        let mut out = Vec::new();
        while out.is_empty() {
            self.queue.wait(Duration::from_secs(5));
            self.queue.completions(&mut out);
        }
        for mut completion in out {
            completion.result.map_err(io::Error::other)?;
            self.free.append(&mut completion.chunks);
            self.chunks.push(completion.chunks);
        }
        Ok(())
    }
}

/// Prints what each home takes for a synced group; with `neighbour`, while another thread uses a processor.
pub fn measure(folder: &Path, neighbour: bool) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(!neighbour));
    let stopped = Arc::clone(&stop);
    let busy = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    println!("\n{}:", if neighbour { "Homes, a busy thread beside them" } else { "Homes" });
    let result = compare(folder);
    stop.store(true, Ordering::Relaxed);
    let _ = busy.join();
    result
}

fn compare(folder: &Path) -> Result<(), Failure> {
    let mut homes = vec![
        Home::new(folder, "io_uring", BackendChoice::IoUring, 0)?,
        Home::new(folder, "tokio_uring", BackendChoice::TokioUring, 0)?,
        Home::new(folder, "blocking, own thread", BackendChoice::Blocking, 1)?,
        Home::new(folder, "blocking, inline", BackendChoice::Blocking, 0)?,
    ];
    println!("\n| home | group | written blocks p50 µs | p99 | append p50 µs | p99 |\n|---|---|---|---|---|---|");
    for bytes in [4 * KB, 64 * KB, MB, 4 * MB] {
        let steps = if bytes > 64 * KB { 8 } else { 60 };
        for round in 0..ROUNDS {
            for home in &mut homes {
                let [mut over, mut append] = std::mem::take(&mut home.samples);
                for step in 0..steps {
                    let at = ((round * steps + step) * bytes) as u64 % Home::AREA;
                    over.time(|| home.group(bytes, at))?;
                }
                for _ in 0..steps {
                    let end = home.end;
                    append.time(|| home.group(bytes, end))?;
                    home.end += bytes as u64;
                }
                home.samples = [over, append];
            }
        }
        for home in &mut homes {
            let [mut over, mut append] = std::mem::take(&mut home.samples);
            println!(
                "| {} | {} KB | {:.0} | {:.0} | {:.0} | {:.0} |",
                home.name,
                bytes / KB,
                over.quantile(0.5),
                over.quantile(0.99),
                append.quantile(0.5),
                append.quantile(0.99)
            );
        }
    }
    Ok(())
}
