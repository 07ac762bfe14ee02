//! The files of all nodes beside each other, and a bit that is flipped in one of them.

use super::cluster::Cluster;
use super::report::Verdict;
use rand::Rng;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What is compared of a log: of each segment its name, length and SHA-256. A closed segment counts as it is. The last one is
/// open: its node keeps zeros behind the last batch for what comes, as many as it likes, and these do not count.
type Segments = BTreeMap<String, (u64, String)>;

/// Segments are the same on all nodes: closed ones, and what is written of the last ones.
pub fn judge_segments(cluster: &Cluster) -> Vec<Verdict> {
    let folders: Vec<(u16, PathBuf)> = cluster.nodes.iter().map(|node| (node.id, node.data().join("logs"))).collect();
    judge_folders(&folders)
}

fn judge_folders(folders: &[(u16, PathBuf)]) -> Vec<Verdict> {
    let mut closed = Verdict::new(2, "closed segments have the same SHA-256 on all nodes");
    let mut open = Verdict::new(2, "what is written of open segments is the same on all nodes");
    let mut logs: BTreeSet<String> = BTreeSet::new();
    for (node, folder) in folders {
        match names(folder, "") {
            Ok(found) => logs.extend(found),
            Err(error) => closed.broken(format!("node {node}: its logs cannot be listed: {error}")),
        }
    }
    for log in &logs {
        let mut first: Option<(u16, Segments)> = None;
        for (node, folder) in folders {
            match (digests(&folder.join(log)), &first) {
                (Err(error), _) => closed.broken(format!("node {node}: log {log}: {error}")),
                (Ok(segments), None) => first = Some((*node, segments)),
                (Ok(segments), Some((other, theirs))) => {
                    compare((&mut closed, &mut open), log, (*other, theirs), (*node, &segments));
                }
            }
        }
    }
    vec![closed, open]
}

fn compare(
    (closed, open): (&mut Verdict, &mut Verdict),
    log: &str,
    (one, ones): (u16, &Segments),
    (other, others): (u16, &Segments),
) {
    let (names, other_names) = (ones.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
    if names != other_names {
        closed.broken(format!("log {log}: node {one} has {names:?}, node {other} has {other_names:?}"));
    }
    let last = names.last().copied();
    for (name, mine) in ones {
        let Some(theirs) = others.get(name) else { continue };
        let verdict = if Some(name) == last { &mut *open } else { &mut *closed };
        match mine == theirs {
            true => verdict.held(),
            false => verdict.broken(format!("log {log}: {name} is {mine:?} on node {one}, {theirs:?} on node {other}")),
        }
    }
}

fn digests(folder: &Path) -> io::Result<Segments> {
    let names = names(folder, ".lnc")?;
    let last = names.last().cloned();
    let digest = |name: String| {
        let path = folder.join(&name);
        let bytes = if Some(&name) == last.as_ref() { written_bytes(&path)? } else { fs::metadata(&path)?.len() };
        let mut hash = Sha256::new();
        each_chunk(&path, bytes, |chunk| hash.update(chunk))?;
        let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok((name, (bytes, hex)))
    };
    names.into_iter().map(digest).collect()
}

/// Up to the last byte that is not zero.
fn written_bytes(path: &Path) -> io::Result<u64> {
    let (mut at, mut end) = (0, 0);
    each_chunk(path, u64::MAX, |chunk| {
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            end = at + last as u64 + 1;
        }
        at += chunk.len() as u64;
    })?;
    Ok(end)
}

fn each_chunk(path: &Path, bytes: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?.take(bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            read => take(&chunk[..read]),
        }
    }
}

fn names(folder: &Path, extension: &str) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    Ok(names)
}

/// A bit that was flipped.
#[derive(Clone, Debug)]
pub struct Flip {
    path: PathBuf,
    at: u64,
    /// What was there.
    byte: u8,
}

impl Flip {
    /// Flips a bit in a closed segment below `logs`; `None` while there is none.
    pub fn inject(logs: &Path, rng: &mut impl Rng) -> io::Result<Option<Self>> {
        let mut closed = Vec::new();
        for log in names(logs, "")? {
            let mut segments = names(&logs.join(&log), ".lnc")?;
            // The last one is open.
            segments.pop();
            closed.extend(segments.into_iter().map(|name| logs.join(&log).join(name)));
        }
        if closed.is_empty() {
            return Ok(None);
        }
        let path = closed.swap_remove(rng.random_range(0..closed.len()));
        let file = File::options().read(true).write(true).open(&path)?;
        let bytes = file.metadata()?.len();
        if bytes == 0 {
            return Ok(None);
        }
        let (at, mut byte) = (rng.random_range(0..bytes), [0]);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << rng.random_range(0..8))], at)?;
        Ok(Some(Self { path, at, byte: byte[0] }))
    }

    /// Whether the byte is again what it was, or the log begins behind it by now.
    pub fn is_repaired(&self) -> bool {
        let (log, name) = (self.path.parent().unwrap_or(Path::new("")), self.path.file_name().unwrap_or_default());
        if names(log, ".lnc")
            .is_ok_and(|names| names.first().is_some_and(|first| first.as_str() > name.to_string_lossy().as_ref()))
        {
            return true;
        }
        let mut byte = [0];
        let read = File::open(&self.path).and_then(|file| file.read_exact_at(&mut byte, self.at));
        read.is_ok() && byte[0] == self.byte
    }

    /// Where it is.
    pub fn describe(&self) -> String {
        format!("{} at {}", self.path.display(), self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Two nodes with a closed and an open segment each.
    fn nodes() -> (tempfile::TempDir, Vec<(u16, PathBuf)>) {
        let folder = tempfile::tempdir().unwrap();
        let nodes: Vec<(u16, PathBuf)> =
            [1, 2].map(|node: u16| (node, folder.path().join(node.to_string()).join("logs"))).into();
        for (_, logs) in &nodes {
            fs::create_dir_all(logs.join("1-0")).unwrap();
            fs::write(logs.join("1-0/00.lnc"), [7, 0, 0, 9, 0]).unwrap();
            fs::write(logs.join("1-0/05.lnc"), [1, 2, 0, 0]).unwrap();
        }
        (folder, nodes)
    }

    fn broken(nodes: &[(u16, PathBuf)]) -> Vec<u64> {
        judge_folders(nodes).iter().map(|verdict| verdict.broken).collect()
    }

    #[test]
    fn zeros_that_an_open_segment_keeps_do_not_count_and_those_of_a_closed_one_do() {
        let (_folder, nodes) = nodes();
        fs::write(nodes[1].1.join("1-0/05.lnc"), [1, 2, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(broken(&nodes), [0, 0]);
        fs::write(nodes[1].1.join("1-0/00.lnc"), [7, 0, 0, 9]).unwrap();
        assert_eq!(broken(&nodes), [1, 0]);
    }

    #[test]
    fn other_bytes_and_missing_files_are_found() {
        let (_folder, nodes) = nodes();
        fs::write(nodes[1].1.join("1-0/05.lnc"), [1, 3]).unwrap();
        assert_eq!(broken(&nodes), [0, 1]);
        fs::remove_file(nodes[1].1.join("1-0/00.lnc")).unwrap();
        assert_eq!(broken(&nodes)[0], 1);
        fs::remove_dir_all(nodes[1].1.join("1-0")).unwrap();
        assert_eq!(broken(&nodes)[0], 1);
    }

    #[test]
    fn a_flip_changes_one_bit_of_a_closed_segment_and_knows_when_that_was_repaired() {
        let (_folder, nodes) = nodes();
        let flip = Flip::inject(&nodes[0].1, &mut StdRng::seed_from_u64(3)).unwrap().unwrap();
        assert_eq!(broken(&nodes), [1, 0]);
        assert!(!flip.is_repaired());
        fs::copy(nodes[1].1.join("1-0/00.lnc"), nodes[0].1.join("1-0/00.lnc")).unwrap();
        assert!(flip.is_repaired());
        assert_eq!(broken(&nodes), [0, 0]);
        fs::remove_file(nodes[0].1.join("1-0/05.lnc")).unwrap();
        assert!(Flip::inject(&nodes[0].1, &mut StdRng::seed_from_u64(3)).unwrap().is_none(), "the last one is open");
    }
}
