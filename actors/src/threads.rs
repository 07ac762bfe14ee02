//! Named threads that run actors.

use actix::prelude::*;

/// One thread with an actix arbiter.
pub struct Thread {
    arbiter: Arbiter,
}

impl Thread {
    /// Starts a thread, pinned to a processor when one is given.
    pub fn start(name: &str, cpu: Option<u32>) -> std::io::Result<Self> {
        let arbiter = Arbiter::new();
        let name = name.to_owned();
        arbiter.spawn_fn(move || {
            set_name(&name);
            if let Some(cpu) = cpu
                && let Err(error) = pin(cpu)
            {
                tracing::warn!(thread = %name, cpu, %error, "cannot pin a thread");
            }
        });
        Ok(Self { arbiter })
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

fn pin(cpu: u32) -> std::io::Result<()> {
    if cpu as usize >= libc::CPU_SETSIZE as usize {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set, and `cpu` is below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu as usize, &mut set);
        set
    };
    // SAFETY: 0 is the calling thread; the set is a local of the given size.
    match unsafe { libc::sched_setaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
