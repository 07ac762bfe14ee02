//! Committed offsets in a file that one process at a time uses.
//!
//! ```text
//! {"version":1,"offsets":[{"topic":"events","partition":0,"offset":128}]}
//! ```
//! A new file is written beside the old one, synced, and renamed over it: after a crash there is either the old one or the
//! new one, whole. `FILE.lock` stands for the right to do that, since the file itself is another one after each rename.

use super::{OffsetStore, StoreFuture};
use crate::consumer::Position;
use crate::error::ClientError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The format of the file.
const VERSION: u32 = 1;
/// A file over this is none of ours.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// A lock that somebody else holds is waited for so long, looking this often.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

type Offsets = BTreeMap<(String, u16), u64>;

/// Committed offsets in a file.
///
/// Whoever has it open holds an advisory lock; a second one is refused until the first is dropped or its process has ended.
/// What was stored survives kill -9 and a power cut. Clones share the file.
///
/// ```
/// use lance_client::Position;
/// use lance_client::offsets::{FileOffsets, OffsetStore};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let folder = std::env::temp_dir().join(format!("lance-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// let path = folder.join("reader.offsets");
/// let store = FileOffsets::open(&path).await?;
/// store.store(&[Position::new("events", 0, 128)]).await?;
/// assert!(FileOffsets::open(&path).await.is_err(), "it is in use");
/// drop(store);
/// assert_eq!(FileOffsets::open(&path).await?.load("events", 0).await?, Some(128));
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), lance_client::ClientError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FileOffsets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    offsets: Mutex<Offsets>,
    /// Unlocked when it is closed.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    offsets: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    topic: String,
    partition: u16,
    offset: u64,
}

impl FileOffsets {
    /// Opens a file, or begins one; its folder must be there.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let opened = move || -> Result<Inner, ClientError> {
            let lock = lock(&path)?;
            let offsets = read(&path)?;
            Ok(Inner { path, offsets: Mutex::new(offsets), _lock: lock })
        };
        Ok(Self { inner: Arc::new(away(opened).await?) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
}

impl Inner {
    fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, new: Vec<((String, u16), u64)>) -> Result<(), ClientError> {
        // Held over the writing: files are replaced one after another, and what is in memory is what was written.
        let mut offsets = self.offsets();
        let mut next = offsets.clone();
        next.extend(new);
        write(&self.path, &next)?;
        *offsets = next;
        Ok(())
    }
}

impl OffsetStore for FileOffsets {
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
        let (inner, key) = (Arc::clone(&self.inner), (topic.to_owned(), partition));
        // A write under way holds the offsets for as long as the disk takes.
        Box::pin(away(move || Ok(inner.offsets().get(&key).copied())))
    }

    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
        let inner = Arc::clone(&self.inner);
        let entry = |position: &Position| ((position.topic.to_string(), position.partition), position.offset);
        let new = positions.iter().map(entry).collect();
        Box::pin(away(move || inner.store(new)))
    }
}

/// Runs what waits for the disk on a thread that may wait.
async fn away<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ClientError::offset_store("offset file", error)))
}

fn failed(path: &Path, what: &str, error: &io::Error) -> ClientError {
    ClientError::offset_store(path.display(), format!("cannot {what}: {error}"))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<File, ClientError> {
    let lock = beside(path, ".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
    let file = file.map_err(|error| failed(&lock, "open", &error))?;
    let waited_since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A program that this one starts just now holds what was open here until it runs.
            Err(TryLockError::WouldBlock) if waited_since.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(ClientError::offset_store(path.display(), "it is in use by someone else"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&lock, "lock", &error)),
        }
    }
}

fn read(path: &Path) -> Result<Offsets, ClientError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Offsets::new()),
        Err(error) => return Err(failed(path, "open", &error)),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(|error| failed(path, "read", &error))?;
    let refused = |reason: String| ClientError::offset_store(path.display(), reason);
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(refused(format!("it is over {MAX_FILE_BYTES} bytes: no file of offsets")));
    }
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|error| refused(format!("no file of offsets: {error}")))?;
    if contents.version != VERSION {
        return Err(refused(format!("its version is {}, only {VERSION} is understood", contents.version)));
    }
    Ok(contents.offsets.into_iter().map(|entry| ((entry.topic, entry.partition), entry.offset)).collect())
}

fn write(path: &Path, offsets: &Offsets) -> Result<(), ClientError> {
    let entry = |((topic, partition), offset): (&(String, u16), &u64)| Entry {
        topic: topic.clone(),
        partition: *partition,
        offset: *offset,
    };
    let contents = Contents { version: VERSION, offsets: offsets.iter().map(entry).collect() };
    let mut text = serde_json::to_vec(&contents)
        .map_err(|error| ClientError::offset_store(path.display(), format!("cannot be encoded: {error}")))?;
    text.push(b'\n');
    let new = beside(path, ".new");
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    written.map_err(|error| failed(&new, "write", &error))?;
    fs::rename(&new, path).map_err(|error| failed(path, "replace", &error))?;
    sync_folder(path).map_err(|error| failed(path, "sync the folder of", &error))
}

/// A rename is on disk once its folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Folders cannot be synced here; the system logs renames by itself.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(list: &[(&str, u16, u64)]) -> Vec<Position> {
        list.iter().map(|&(topic, partition, offset)| Position::new(topic, partition, offset)).collect()
    }

    #[tokio::test]
    async fn what_was_stored_is_there_after_a_new_start_and_other_partitions_keep_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets");
        let store = FileOffsets::open(&path).await.unwrap();
        assert_eq!(store.load("a", 0).await.unwrap(), None);
        store.store(&positions(&[("a", 0, 7), ("a", 1, 8)])).await.unwrap();
        store.store(&positions(&[("a", 1, 9), ("b", 0, 0)])).await.unwrap();
        let golden = r#"{"version":1,"offsets":[{"topic":"a","partition":0,"offset":7},{"topic":"a","partition":1,"offset":9},{"topic":"b","partition":0,"offset":0}]}"#;
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{golden}\n"));
        drop(store);
        let store = FileOffsets::open(&path).await.unwrap();
        for (topic, partition, offset) in [("a", 0, Some(7)), ("a", 1, Some(9)), ("b", 0, Some(0)), ("b", 1, None)] {
            assert_eq!(store.load(topic, partition).await.unwrap(), offset, "{topic} {partition}");
        }
    }

    #[tokio::test]
    async fn a_crash_between_writing_and_renaming_leaves_what_was_stored_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets");
        let store = FileOffsets::open(&path).await.unwrap();
        store.store(&positions(&[("a", 0, 7)])).await.unwrap();
        drop(store);
        fs::write(beside(&path, ".new"), b"{\"version\":1,\"off").unwrap();
        let store = FileOffsets::open(&path).await.unwrap();
        assert_eq!(store.load("a", 0).await.unwrap(), Some(7));
        store.store(&positions(&[("a", 0, 8)])).await.unwrap();
        assert!(!beside(&path, ".new").exists());
    }

    #[tokio::test]
    async fn a_second_user_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets");
        let store = FileOffsets::open(&path).await.unwrap();
        let refused = FileOffsets::open(&path).await.unwrap_err().to_string();
        assert!(refused.contains("in use") && refused.contains("offsets"), "{refused}");
        let clone = store.clone();
        drop(store);
        assert!(FileOffsets::open(&path).await.is_err());
        drop(clone);
        FileOffsets::open(&path).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_file_of_offsets_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets");
        for (text, reason) in [
            ("", "EOF"),
            ("hello", "expected value"),
            (r#"{"version":2,"offsets":[]}"#, "version is 2"),
            (r#"{"version":1,"offsets":[{"topic":"a","partition":70000,"offset":1}]}"#, "70000"),
            (r#"{"version":1,"offsets":[],"more":1}"#, "more"),
        ] {
            fs::write(&path, text).unwrap();
            let refused = FileOffsets::open(&path).await.unwrap_err().to_string();
            assert!(refused.contains(reason), "{text}: {refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn a_store_that_cannot_write_says_so_and_keeps_what_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone").join("offsets");
        fs::create_dir(folder.path().join("gone")).unwrap();
        let store = FileOffsets::open(&path).await.unwrap();
        store.store(&positions(&[("a", 0, 7)])).await.unwrap();
        fs::remove_dir_all(folder.path().join("gone")).unwrap();
        assert!(store.store(&positions(&[("a", 0, 8)])).await.is_err());
        assert_eq!(store.load("a", 0).await.unwrap(), Some(7));
    }
}
