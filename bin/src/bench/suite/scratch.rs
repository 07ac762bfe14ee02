//! The folder of a suite and the server that runs in it: both go when the suite ends, also when it is interrupted.

use crate::cli::failure::Failure;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// The folder, and who runs in it.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    running: Arc<Mutex<Option<u32>>>,
}

impl Scratch {
    /// Makes a folder of its own under `parent`, or under the system's temporary one.
    pub fn create(parent: Option<&Path>) -> Result<Self, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let failed = |error: io::Error| Failure::failed(format!("no folder for data in {}: {error}", parent.display()));
        fs::create_dir_all(&parent).map_err(failed)?;
        let parent = parent.canonicalize().map_err(failed)?;
        let folder = tempfile::Builder::new().prefix("lnc-bench-").tempdir_in(&parent).map_err(failed)?;
        let running = Arc::new(Mutex::new(None));
        watch(folder.path().to_owned(), Arc::clone(&running))?;
        Ok(Self { folder, running })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a program that ends at the latest with this one.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut running = lock(&self.running);
        let child = command.spawn()?;
        *running = Some(child.id());
        Ok(child)
    }

    /// Whether the program has ended. Its process id is not used any more from then on.
    pub fn ended(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let mut running = lock(&self.running);
        let status = child.try_wait()?;
        if status.is_some() {
            *running = None;
        }
        Ok(status)
    }

    /// Removes what is in the folder, and waits until the device has nothing left to do for it.
    pub fn clear(&self) -> Result<(), Failure> {
        let clear = || {
            for entry in fs::read_dir(self.path())? {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
            sync_file_system(self.path())
        };
        clear().map_err(|error| Failure::failed(format!("cannot clear {}: {error}", self.path().display())))
    }
}

/// Writes back everything of the file system that holds `path`.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    let folder = File::open(path)?;
    // SAFETY: the descriptor is open during the call.
    let synced = unsafe { libc::syncfs(folder.as_raw_fd()) };
    if synced < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn lock(running: &Mutex<Option<u32>>) -> MutexGuard<'_, Option<u32>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cleans up when this process is told to end.
fn watch(folder: PathBuf, running: Arc<Mutex<Option<u32>>>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot watch for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // Held to the end, so that no other program is started.
        let running = lock(&running);
        if let Some(pid) = *running {
            // SAFETY: plain integers and a null pointer; the child has not been waited for, so the id is still its own.
            unsafe {
                libc::kill(pid as libc::pid_t, libc::SIGKILL);
                libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0);
            }
        }
        if let Err(error) = fs::remove_dir_all(&folder) {
            eprintln!("lnc-bench: cannot remove {}: {error}", folder.display());
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clearing_keeps_the_folder_and_the_end_removes_it() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(Some(&parent.path().join("new"))).unwrap();
        let folder = scratch.path().to_owned();
        fs::create_dir(folder.join("data")).unwrap();
        fs::write(folder.join("data/file"), "x").unwrap();
        fs::write(folder.join("log"), "x").unwrap();
        scratch.clear().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        drop(scratch);
        assert!(!folder.exists());
    }
}
