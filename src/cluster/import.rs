//! Import of the gateways' files into a store that is there.

use std::io::Read;

use super::caller::wait;
use super::store::ClusterStore;
use super::write::{Change, Kept};
use crate::entry::{Extras, SessionEntry};
use crate::error::Result;
use crate::events::EventKind;
use crate::import::{Decide, Holder, ImportOptions, ImportProgress, ImportReport, OpenStore, Present};
use crate::key::SessionKey;
use crate::rules;
use crate::sessions::Sessions;

impl ClusterStore {
    /// Imports a gateway's `sessions.json`, as [`SessionStore::import`](crate::SessionStore::import) does, and answers what
    /// became of each entry.
    ///
    /// It differs in this: the store keeps no notes, so those of the file count as left out; it remembers no time zone, so
    /// naive times are in that of the options, or in this machine's; and it does not remember what an import wrote, so with
    /// [`Newer`](crate::import::OnConflict::Newer) an entry of the same time that differs stays and counts as changed here.
    /// Entries go one after the other, by three to five round trips each. More than 16 MiB of the input lie meanwhile in an
    /// unnamed file in the directory for temporary files.
    ///
    /// Others may change the store meanwhile. When it returns, what was imported is as durable as a receipt says.
    ///
    /// # Errors
    /// Those of [`SessionStore::import`](crate::SessionStore::import), and of the verbs of this store. What was imported
    /// before these stays.
    pub fn import(
        &self,
        input: impl Read,
        options: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        let open = OpenStore {
            store: self.writable()?,
            now: self.now(),
            entries: &|| wait(self.count()),
            zone: &|| Ok(None),
            flush: &|| wait(self.flush_all()),
        };
        open.import_once(input, &std::env::temp_dir(), options, progress)
    }
}

impl Holder for ClusterStore {
    fn place(&self, new: &SessionEntry, extras: &Extras, replaces: Decide<'_>) -> Result<()> {
        let tries = self.tries();
        loop {
            let seen = wait(self.look(&new.key, true))?;
            if let Some(seen) = &seen {
                let old_extras = || Ok(seen.extras.clone().unwrap_or_default());
                if !replaces(&Present::unmarked(seen.entry(&new.key), &old_extras))? {
                    return Ok(());
                }
            }
            let (hot, cold) = rules::records(new.clone());
            let (exact_time, exact_interaction, unless_touched) = (true, true, true);
            let extras = Kept::New(extras);
            let change = Change::of(seen.as_ref(), hot, cold);
            let kind = Some(EventKind::Replaced);
            let change = Change { extras, exact_time, exact_interaction, unless_touched, kind, ..change };
            if wait(self.write(&new.key, change))?.is_some() {
                return Ok(());
            }
            // Looked at again.
            tries.again()?;
        }
    }

    fn look(&self, key: &SessionKey, replaces: Decide<'_>) -> Result<()> {
        let Some((entry, extras)) = self.get_with_extras(key)? else { return Ok(()) };
        replaces(&Present::unmarked(entry, &|| Ok(extras.clone()))).map(drop)
    }

    fn put_note(&self, _: String, _: String, _: bool, _: bool) -> Result<bool> {
        Ok(false)
    }

    fn put_zone(&self, _: String) -> Result<()> {
        Ok(())
    }
}
