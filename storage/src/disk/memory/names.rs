//! The folder tree: what lookups see, what survives a power cut, and the changes between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fault::Dice;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// A folder.
    Dir,
    /// A file, by inode number.
    File(u64),
}

/// One change of the tree.
#[derive(Debug, Clone)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn apply(&self, tree: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add(path, node) => drop(tree.insert(path.clone(), *node)),
            Self::Remove(path) => tree.retain(|name, _| !name.starts_with(path)),
            Self::Rename(from, to, node) => {
                tree.remove(from);
                tree.insert(to.clone(), *node);
            }
        }
    }

    fn is_below(&self, dir: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) => path.starts_with(dir),
            Self::Rename(from, to, _) => from.starts_with(dir) || to.starts_with(dir),
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

/// All names of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    unsynced: Vec<Change>,
}

impl Names {
    /// What a path stands for.
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.live.get(path).copied()
    }

    /// What a path stands for after a power cut that drops everything unsynced.
    pub(super) fn get_durable(&self, path: &Path) -> Option<Node> {
        self.durable.get(path).copied()
    }

    /// Every path, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PathBuf, Node)> {
        self.live.iter().map(|(path, node)| (path, *node))
    }

    /// Whether a path may hold entries: the roots always do.
    pub(super) fn is_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || path.as_os_str().is_empty() || self.get(path) == Some(Node::Dir)
    }

    /// Adds a folder, durable at once; so is then that one of this name was removed before.
    pub(super) fn add_dir(&mut self, path: &Path) {
        let removes = |change: &Change| matches!(change, Change::Remove(removed) if path.starts_with(removed));
        if let Some(last) = self.unsynced.iter().rposition(removes) {
            let later = self.unsynced.split_off(last + 1);
            let removal = self.unsynced.pop();
            if let Some(Change::Remove(removed)) = &removal {
                // Whatever happened below it before is undone by it.
                self.unsynced.retain(|change| !change.is_below(removed));
            }
            removal.iter().for_each(|change| change.apply(&mut self.durable));
            self.unsynced.extend(later);
        }
        self.live.insert(path.to_owned(), Node::Dir);
        self.durable.insert(path.to_owned(), Node::Dir);
    }

    /// Adds a file.
    pub(super) fn add_file(&mut self, path: &Path, inode: u64) {
        self.change(Change::Add(path.to_owned(), Node::File(inode)));
    }

    /// Removes a path and all below it.
    pub(super) fn remove(&mut self, path: &Path) {
        self.change(Change::Remove(path.to_owned()));
    }

    /// Moves a file, replacing the target.
    pub(super) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        self.change(Change::Rename(from.to_owned(), to.to_owned(), node));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// Makes the changes of one folder's entries durable.
    pub(super) fn sync(&mut self, dir: &Path) {
        let Self { durable, unsynced, .. } = self;
        unsynced.retain(|change| {
            let synced = change.is_in(dir);
            if synced {
                change.apply(durable);
            }
            !synced
        });
    }

    /// The power cut: with dice a prefix of the changes is kept, without them all or none.
    pub(super) fn crash(&mut self, keep: bool, dice: Option<&mut Dice>) {
        let kept = match dice {
            Some(dice) => dice.below(self.unsynced.len() as u64 + 1) as usize,
            None if keep => self.unsynced.len(),
            None => 0,
        };
        for change in self.unsynced.drain(..).take(kept) {
            change.apply(&mut self.durable);
        }
        // What lost its folder is out of reach.
        let all = self.durable.clone();
        self.durable.retain(|path, _| {
            path.ancestors().skip(1).all(|above| {
                above.parent().is_none() || above.as_os_str().is_empty() || all.get(above) == Some(&Node::Dir)
            })
        });
        self.live = self.durable.clone();
    }
}
