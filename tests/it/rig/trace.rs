//! The record of one child: every effective file operation, in one order.
//!
//! Files and directories are nodes with a number that outlives renames. The
//! shim writes inode numbers and paths; here they become nodes and directory
//! slots, because an inode number is used again after an unlink.
//!
//! A torn last record (the child was killed while it wrote the trace) is left
//! out. Not modelled: symbolic links, permissions, times.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::record::{Record, bad};

pub type NodeId = usize;

/// The node of the watched root directory.
pub const ROOT: NodeId = 0;

/// The test's own channel, directly below the root.
pub const ACKS: &str = "acks";

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub dir: NodeId,
    pub name: String,
}

#[derive(Debug, Clone)]
pub enum Op {
    Create {
        slot: Slot,
        node: NodeId,
    },
    Mkdir {
        slot: Slot,
        node: NodeId,
    },
    Link {
        slot: Slot,
        node: NodeId,
    },
    Rename {
        from: Slot,
        to: Slot,
    },
    Unlink {
        slot: Slot,
    },
    Rmdir {
        slot: Slot,
    },
    Write {
        node: NodeId,
        offset: u64,
        data: Vec<u8>,
    },
    SetLen {
        node: NodeId,
        len: u64,
    },
    /// fsync or fdatasync of a file, or fsync of a directory.
    Sync {
        node: NodeId,
    },
    SyncFailed {
        node: NodeId,
    },
    /// sync_file_range: makes nothing durable.
    RangeSync {
        node: NodeId,
    },
}

/// What was there before the child, all of it durable.
#[derive(Debug)]
pub struct BaseEntry {
    pub slot: Slot,
    pub node: NodeId,
    /// None for a directory.
    pub content: Option<Vec<u8>>,
}

/// One write to a file.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteInfo {
    /// The index of the operation.
    pub op: usize,
    pub offset: u64,
    pub len: u64,
}

#[derive(Default)]
pub struct Trace {
    ops: Vec<Op>,
    base: Vec<BaseEntry>,
    /// Per node: all paths it was made, renamed or opened with.
    paths: Vec<Vec<String>>,
    /// The names as the child sees them, and the inodes it has opened.
    names: BTreeMap<(NodeId, String), NodeId>,
    inodes: BTreeMap<u64, NodeId>,
}

impl Trace {
    /// Reads the trace of a child that began with an empty root.
    pub fn load(path: &Path) -> io::Result<Trace> {
        Trace::load_on(path, None)
    }

    /// The same for a root that began as a copy of `base`.
    pub fn load_on(path: &Path, base: Option<&Path>) -> io::Result<Trace> {
        let mut trace = Trace { paths: vec![vec![String::new()]], ..Trace::default() };
        if let Some(base) = base {
            trace.load_base(base, "")?;
        }
        let bytes = fs::read(path)?;
        let mut rest = &bytes[..];
        while let Some(record) = Record::take(&mut rest) {
            trace.add(&record)?;
        }
        Ok(trace)
    }

    /// The number of operations; a cut may be at 0 to this.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn base(&self) -> &[BaseEntry] {
        &self.base
    }

    /// All writes to files that had a path ending so, at any time.
    pub fn writes_to(&self, path_suffix: &str) -> Vec<WriteInfo> {
        let mut found = Vec::new();
        for (op, what) in self.ops.iter().enumerate() {
            if let Op::Write { node, offset, data } = what
                && self.is_called(*node, path_suffix)
            {
                let (offset, len) = (*offset, data.len() as u64);
                found.push(WriteInfo { op, offset, len });
            }
        }
        found
    }

    /// All syncs that went well of files that had a path ending so.
    pub fn syncs_of(&self, path_suffix: &str) -> Vec<usize> {
        let is_sync = |op: &Op| matches!(op, Op::Sync { node } if self.is_called(*node, path_suffix));
        (0..self.ops.len()).filter(|at| is_sync(&self.ops[*at])).collect()
    }

    /// The largest number of bytes written to one such file without a sync of
    /// it in between (the tail after the last sync counts too).
    pub fn unsynced_high_water(&self, path_suffix: &str) -> u64 {
        self.most_unsynced(path_suffix).iter().map(|(_, len)| *len).sum()
    }

    /// Where such a file was written between the two syncs with the most in between, and how much each time.
    pub fn most_unsynced(&self, path_suffix: &str) -> Vec<(u64, u64)> {
        let mut open: BTreeMap<NodeId, (u64, Vec<(u64, u64)>)> = BTreeMap::new();
        let (mut most, mut worst) = (0, Vec::new());
        for op in &self.ops {
            match op {
                Op::Write { node, offset, data } if self.is_called(*node, path_suffix) => {
                    let (bytes, writes) = open.entry(*node).or_default();
                    *bytes += data.len() as u64;
                    writes.push((*offset, data.len() as u64));
                    if *bytes > most {
                        (most, worst) = (*bytes, writes.clone());
                    }
                }
                Op::Sync { node } => {
                    open.remove(node);
                }
                _ => {}
            }
        }
        worst
    }

    /// Which parts of such files were written and not synced after that.
    pub fn unsynced_parts(&self, path_suffix: &str) -> Vec<Range<u64>> {
        let last = self.syncs_of(path_suffix).pop();
        let writes = self.writes_to(path_suffix).into_iter().filter(|write| last.is_none_or(|last| write.op > last));
        writes.map(|write| write.offset..write.offset + write.len).collect()
    }

    /// The whole lines that the child wrote to `acks` in the first `at`
    /// operations, durable or not: what the outside world has been told.
    pub fn acks_before(&self, at: usize) -> Vec<String> {
        let mut text = Vec::new();
        let is_acks = |node: NodeId| self.paths[node].iter().any(|path| path == ACKS);
        for op in &self.ops[..at] {
            match op {
                Op::Write { node, data, .. } if is_acks(*node) => text.extend(data),
                _ => {}
            }
        }
        let text = String::from_utf8(text).expect("acks are text");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Whole path components are compared: `db` matches `db` and `a/db`.
    fn is_called(&self, node: NodeId, suffix: &str) -> bool {
        let matches = |path: &String| Path::new(path).ends_with(suffix);
        self.paths[node].iter().any(matches)
    }

    fn load_base(&mut self, dir: &Path, below: &str) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| bad("a name"))?;
            let path = join(below, &name);
            let (slot, node) = self.new_node(&path)?;
            let is_dir = entry.file_type()?.is_dir();
            let content = match is_dir {
                true => None,
                false => Some(fs::read(entry.path())?),
            };
            self.base.push(BaseEntry { slot, node, content });
            if is_dir {
                self.load_base(&entry.path(), &path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, record: &Record) -> io::Result<()> {
        let op = match record.kind {
            1 => {
                let (slot, node) = self.new_node(record.path()?)?;
                self.inodes.insert(record.inode, node);
                Op::Create { slot, node }
            }
            2 => {
                let path = record.path()?.to_owned();
                let node = self.find(&path)?;
                self.inodes.insert(record.inode, node);
                // A directory above may have been renamed.
                if !self.paths[node].contains(&path) {
                    self.paths[node].push(path);
                }
                return Ok(());
            }
            3 => Op::Write { node: self.node(record)?, offset: record.number, data: record.one.to_vec() },
            4 => Op::SetLen { node: self.node(record)?, len: record.number },
            5 => Op::Sync { node: self.node(record)? },
            6 => Op::SyncFailed { node: self.node(record)? },
            7 => Op::RangeSync { node: self.node(record)? },
            8 => {
                let (from, to) = (self.slot(record.path()?)?, self.slot(record.second()?)?);
                let key = (from.dir, from.name.clone());
                let node = self.names.remove(&key).ok_or_else(|| bad("rename"))?;
                self.set_name(&to, node, record.second()?);
                Op::Rename { from, to }
            }
            9 => {
                let node = self.find(record.path()?)?;
                let slot = self.slot(record.second()?)?;
                self.set_name(&slot, node, record.second()?);
                Op::Link { slot, node }
            }
            10 | 12 => {
                let slot = self.slot(record.path()?)?;
                self.names.remove(&(slot.dir, slot.name.clone()));
                match record.kind {
                    10 => Op::Unlink { slot },
                    _ => Op::Rmdir { slot },
                }
            }
            11 => {
                let (slot, node) = self.new_node(record.path()?)?;
                Op::Mkdir { slot, node }
            }
            _ => return Err(bad("unknown kind")),
        };
        self.ops.push(op);
        Ok(())
    }

    fn node(&self, record: &Record) -> io::Result<NodeId> {
        let node = self.inodes.get(&record.inode);
        node.copied().ok_or_else(|| bad("unknown inode"))
    }

    fn find(&self, path: &str) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = self.names.get(&(node, name.to_owned()));
            node = *next.ok_or_else(|| bad(&format!("unknown path {path}")))?;
        }
        Ok(node)
    }

    fn slot(&self, path: &str) -> io::Result<Slot> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (dir, name) = (self.find(dir)?, name.to_owned());
        Ok(Slot { dir, name })
    }

    fn new_node(&mut self, path: &str) -> io::Result<(Slot, NodeId)> {
        let (slot, node) = (self.slot(path)?, self.paths.len());
        self.paths.push(Vec::new());
        self.set_name(&slot, node, path);
        Ok((slot, node))
    }

    fn set_name(&mut self, slot: &Slot, node: NodeId, path: &str) {
        self.names.insert((slot.dir, slot.name.clone()), node);
        self.paths[node].push(path.to_owned());
    }
}

fn join(dir: &str, name: &str) -> String {
    match dir {
        "" => name.to_owned(),
        dir => format!("{dir}/{name}"),
    }
}
