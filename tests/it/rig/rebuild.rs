//! Makes a directory as a power cut may leave it.
//!
//! Content: see `file_model`. Names: creations, renames, links and unlinks are
//! a journal. An entry is durable once its directory is synced; a creation or
//! link also once the file itself is synced (as on ext4 and xfs). A rename
//! between two directories is durable with a sync of either. A directory's own
//! entry needs a sync of its parent; no sync below it helps. An earlier change
//! of the same name never stays behind a durable one.
//!
//! * `OnlySynced`: durable content and durable entries, nothing else.
//! * `Random`: besides, a prefix of the entries that are not durable, and any
//!   content that `file_model` allows.
//! * `All`: everything, as after a kill without a power cut. A check of the rig.
//!
//! A file whose creation is lost is absent, whatever its content. `acks` is
//! left out. Hard links become separate files.
//! Not modelled: that a sync of one file on ext4 commits the whole
//! journal (the model may lose more), lost or crossed unsynced entries out of
//! order (the model may lose less than a file system without a journal).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::file_model::{Dice, FileModel};
use super::trace::{ACKS, NodeId, Op, ROOT, Slot, Trace};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    OnlySynced,
    Random { seed: u64 },
    All,
}

/// The power goes after the first `at` operations.
#[derive(Debug, Clone, Copy)]
pub struct PowerCut {
    pub at: usize,
    pub survival: Survival,
}

/// Writes the state after the cut into an empty directory.
pub fn rebuild(trace: &Trace, cut: &PowerCut, out_dir: &Path) -> io::Result<()> {
    let mut model = Model::new(trace);
    model.advance(cut.at);
    model.write(cut.survival, out_dir)
}

/// The model of the file system while the trace runs by. For many cuts in
/// rising order, advance one model and write it out at each.
pub struct Model<'a> {
    trace: &'a Trace,
    at: usize,
    files: BTreeMap<NodeId, FileModel>,
    /// The operations on names so far, and whether they are durable.
    entries: Vec<(&'a Op, bool)>,
}

impl<'a> Model<'a> {
    pub fn new(trace: &'a Trace) -> Model<'a> {
        let files = trace.base().iter().filter_map(|entry| {
            let content = entry.content.as_ref()?;
            Some((entry.node, FileModel::durable(content)))
        });
        Model { trace, at: 0, files: files.collect(), entries: Vec::new() }
    }

    /// Runs on to the cut. It cannot go back.
    pub fn advance(&mut self, at: usize) {
        assert!(self.at <= at, "the model cannot go back");
        let trace = self.trace;
        for (index, op) in trace.ops().iter().enumerate().take(at).skip(self.at) {
            // Operation numbers from 1: 0 stands for what is durable.
            let number = index + 1;
            match op {
                Op::Write { node, offset, data } => {
                    self.file(*node).write(number, *offset, data);
                }
                Op::SetLen { node, len } => self.file(*node).set_len(number, *len),
                Op::Sync { node } => self.sync(*node),
                Op::SyncFailed { node } => {
                    if let Some(file) = self.files.get_mut(node) {
                        file.sync_failed();
                    }
                }
                Op::RangeSync { .. } => {}
                _ => {
                    if let Op::Create { node, .. } = op {
                        self.files.insert(*node, FileModel::default());
                    }
                    self.entries.push((op, false));
                }
            }
        }
        self.at = at;
    }

    fn file(&mut self, node: NodeId) -> &mut FileModel {
        self.files.get_mut(&node).expect("a file is created before")
    }

    fn sync(&mut self, synced: NodeId) {
        let file = self.files.get_mut(&synced);
        let is_file = file.is_some();
        if let Some(file) = file {
            file.sync();
        }
        // Newest first. A durable change takes along the older changes of the
        // names it touches.
        let mut taken: Vec<&Slot> = Vec::new();
        for (op, durable) in self.entries.iter_mut().rev().filter(|entry| !entry.1) {
            let slots = slots(op);
            let own = match op {
                Op::Create { node, .. } | Op::Link { node, .. } if is_file => *node == synced,
                _ => slots.iter().any(|slot| slot.dir == synced),
            };
            if own || slots.iter().any(|slot| taken.contains(slot)) {
                *durable = true;
                taken.extend(slots);
            }
        }
    }

    /// Writes the state after a cut here into an empty directory.
    pub fn write(&self, survival: Survival, out_dir: &Path) -> io::Result<()> {
        if fs::read_dir(out_dir)?.next().is_some() {
            return Err(io::Error::other("the directory is not empty"));
        }
        let mut dice = match survival {
            Survival::Random { seed } => Dice(seed),
            _ => Dice(0),
        };
        // Most of the pages lost, most kept, or something between.
        let keep = dice.roll(9);
        let open = self.entries.iter().filter(|entry| !entry.1).count();
        let kept = match survival {
            Survival::OnlySynced => 0,
            Survival::Random { .. } => dice.roll(open + 1),
            Survival::All => open,
        };
        let mut content = |file: &FileModel| match survival {
            Survival::OnlySynced => file.synced(),
            Survival::Random { .. } => file.random(&mut dice, keep),
            Survival::All => file.latest(),
        };
        let dirs = self.names(kept);
        self.write_dir(&dirs, ROOT, out_dir, &mut content)
    }

    /// The directories, with the first `kept` of the entries not durable.
    fn names(&self, mut kept: usize) -> Dirs {
        let mut dirs = Dirs::new();
        let set = |dirs: &mut Dirs, slot: &Slot, node| {
            let dir = dirs.entry(slot.dir).or_default();
            dir.insert(slot.name.clone(), node);
        };
        for entry in self.trace.base() {
            set(&mut dirs, &entry.slot, entry.node);
            if entry.content.is_none() {
                dirs.entry(entry.node).or_default();
            }
        }
        for (op, durable) in &self.entries {
            if !durable {
                if kept == 0 {
                    continue;
                }
                kept -= 1;
            }
            match op {
                Op::Create { slot, node } | Op::Link { slot, node } => {
                    set(&mut dirs, slot, *node);
                }
                Op::Mkdir { slot, node } => {
                    set(&mut dirs, slot, *node);
                    dirs.entry(*node).or_default();
                }
                Op::Rename { from, to } => {
                    let node = clear(&mut dirs, from).expect("the old name is durable too");
                    set(&mut dirs, to, node);
                }
                Op::Unlink { slot } | Op::Rmdir { slot } => {
                    clear(&mut dirs, slot);
                }
                _ => unreachable!("not an operation on names"),
            }
        }
        dirs
    }

    fn write_dir(
        &self,
        dirs: &Dirs,
        dir: NodeId,
        out: &Path,
        content: &mut impl FnMut(&FileModel) -> Vec<u8>,
    ) -> io::Result<()> {
        for (name, node) in dirs.get(&dir).into_iter().flatten() {
            let path = out.join(name);
            if let Some(file) = self.files.get(node) {
                if dir != ROOT || name != ACKS {
                    fs::write(path, content(file))?;
                }
            } else {
                fs::create_dir(&path)?;
                self.write_dir(dirs, *node, &path, content)?;
            }
        }
        Ok(())
    }
}

type Dirs = BTreeMap<NodeId, BTreeMap<String, NodeId>>;

fn clear(dirs: &mut Dirs, slot: &Slot) -> Option<NodeId> {
    dirs.get_mut(&slot.dir)?.remove(&slot.name)
}

/// The names an operation changes.
fn slots(op: &Op) -> Vec<&Slot> {
    match op {
        Op::Create { slot, .. } | Op::Mkdir { slot, .. } | Op::Link { slot, .. } => vec![slot],
        Op::Unlink { slot } | Op::Rmdir { slot } => vec![slot],
        Op::Rename { from, to } => vec![from, to],
        _ => Vec::new(),
    }
}
