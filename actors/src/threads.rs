//! Named threads that run actors.

use actix::prelude::*;

/// One thread with an actix arbiter.
pub struct Thread {
    arbiter: Arbiter,
}

impl Thread {
    /// Starts a thread that runs on the given CPUs alone; on any when there are none.
    pub fn start(name: &str, cpus: &[u32]) -> std::io::Result<Self> {
        let arbiter = if cpus.is_empty() { Arbiter::try_new()? } else { Self::start_apart()? };
        let (name, cpus) = (name.to_owned(), cpus.to_vec());
        arbiter.spawn_fn(move || {
            set_name(&name);
            if !cpus.is_empty()
                && let Err(error) = pin(&cpus)
            {
                tracing::warn!(thread = %name, ?cpus, %error, "cannot pin a thread");
            }
        });
        Ok(Self { arbiter })
    }

    /// An arbiter that will be pinned. What its runtime starts beside it, to wait for the disk, is not to share its CPU.
    fn start_apart() -> std::io::Result<Arbiter> {
        let all = allowed_cpus();
        let spread = move || {
            if let Err(error) = pin(&all) {
                tracing::debug!(%error, "a helper stays on the CPU of the thread that started it");
            }
        };
        Arbiter::try_with_tokio_rt(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().on_thread_start(spread).build()
        })
    }

    /// Where actors are started on it.
    pub fn handle(&self) -> ArbiterHandle {
        self.arbiter.handle()
    }
}

/// Names the thread for the tools that show threads; the kernel keeps 15 bytes.
fn set_name(name: &str) {
    let mut bytes = [0u8; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    // SAFETY: the buffer is a NUL-terminated string that lives over the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// CPUs that the calling thread, and so what it starts, may use; ascending, empty when the kernel does not tell.
pub fn allowed_cpus() -> Vec<u32> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; the set is a local of the given size.
    if unsafe { libc::sched_getaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: every number is below the size of the set.
    (0..libc::CPU_SETSIZE as u32).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu as usize, &set) }).collect()
}

/// The calling thread runs when no other wants to, almost: it does what is in no hurry.
pub fn stand_back() {
    // SAFETY: 0 is the calling thread; the call takes numbers alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a thread keeps its priority");
    }
}

fn pin(cpus: &[u32]) -> std::io::Result<()> {
    if cpus.iter().any(|cpu| *cpu >= libc::CPU_SETSIZE as u32) {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set, and every CPU is below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu as usize, &mut set));
        set
    };
    // SAFETY: 0 is the calling thread; the set is a local of the given size.
    match unsafe { libc::sched_setaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pinned_thread_starts_to_wait_may_run_anywhere() {
        let all = allowed_cpus();
        if all.len() < 2 {
            return eprintln!("one processor: nothing to tell apart");
        }
        let system = System::new();
        let thread = Thread::start("pinned", &all[..1]).unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        thread.handle().spawn(async move {
            let of_helper = actix_rt::task::spawn_blocking(allowed_cpus).await.unwrap();
            sender.send((allowed_cpus(), of_helper)).unwrap();
        });
        let (own, of_helper) = seen.recv().unwrap();
        assert_eq!((own, of_helper), (all[..1].to_vec(), all));
        drop(system);
    }
}
