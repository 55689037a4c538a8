//! Changing all entries of a prefix: `rename`, `forget`. Each closes the store before it reports, so what it says is
//! durable.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::change::ask;
use super::failure::Failure;
use super::list::none_unreadable;
use super::output::{Out, thousands};
use super::source::{Db, with_own};
use super::{Exit, Format, with_store};

/// Give all entries whose key begins with OLD a key that begins with NEW instead.
///
/// With `agent:a:` and `agent:b:`, agent:a:x becomes agent:b:x. Bytes are compared: with `agent:a` and `agent:b`, agent:ab:x
/// becomes agent:bb:x too, so end both with a colon to rename what is below it alone. If other entries have some of the new keys, nothing is
/// renamed, and the exit code is 1. After a crash run it again: it goes on with those that are left.
///
/// It asks first. Where it cannot ask, for standard input is no terminal, it needs --yes, or else renames nothing and ends
/// with exit code 2.
///
/// With --json, one object: moved, collisions (new keys that are taken), colliding (the first ten of them), unreadable
/// (entries that cannot be decoded, which keep their key; the exit code is then 1). With a collision before anything was
/// moved, there is the error alone.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Rename {
    /// What the keys begin with.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    old: String,
    /// What they are to begin with.
    new: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

/// Erase a user: remove the entry whose key is PREFIX and all below it, whatever protects them.
///
/// They are gone at once, but the files of the store hold their bytes until `cloakroom compact` has run; on a cluster, until each
/// node has rewritten its own (`BGREWRITEAOF`). Backups, exports, quarantine files and copies are yours to remove.
///
/// Below agent:main:telegram:dm:5678 is agent:main:telegram:dm:5678:9, but not agent:main:telegram:dm:56789: the key ends
/// where PREFIX does, or goes on with a colon. It asks first, and tells how many there are. Where it
/// cannot ask, for standard input is no terminal, it needs --yes, or else removes nothing and ends with exit code 2.
///
/// With --json, one object: removed, unreadable (entries that cannot be decoded, which stay; the exit code is then 1). On a
/// cluster these go too.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Forget {
    /// The key, or the parts that the keys begin with.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    prefix: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

impl Rename {
    pub(super) fn run(self, db: &Path, out: &mut Out) -> Result<Exit> {
        let report = with_store(db, |store| {
            if !self.yes {
                ask(&format!("rename {} entries", thousands(store.count_prefix(&self.old)?)), "renamed")?;
            }
            Ok(store.rename(&self.old, &self.new)?)
        })?;
        if report.moved == 0 && report.collisions > 0 {
            // Nothing happened, and the error says all.
        } else if self.format.json {
            out.json(&report)?;
        } else {
            out.line(format_args!("renamed {} entries", thousands(report.moved)))?;
        }
        if let Some(first) = report.colliding.first() {
            return Err(Failure::Collision { collisions: report.collisions, first: first.clone() }.into());
        }
        none_unreadable(0, &report.unreadable)
    }
}

impl Forget {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let report = with_own(db, |store| {
            if !self.yes {
                let found = store
                    .keys(&self.prefix)?
                    .try_fold(0, |found, key| key.map(|key| found + u64::from(key.is_within(&self.prefix))))?;
                ask(&format!("remove {} entries for good", thousands(found)), "removed")?;
            }
            Ok(store.forget(&self.prefix)?)
        })?;
        if self.format.json {
            out.json(&report)?;
        } else {
            out.line(format_args!("removed {} entries", thousands(report.removed)))?;
            out.line(match db.cluster {
                None => {
                    "`cloakroom compact` takes their bytes from the store's files; backups and exports are yours to remove"
                }
                Some(_) => {
                    "the nodes' files hold their bytes until they are written anew (`BGREWRITEAOF` on each node); backups, \
                     exports and the nodes' snapshots are yours to remove"
                }
            })?;
        }
        none_unreadable(0, &report.unreadable)
    }
}
