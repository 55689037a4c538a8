//! The repair of one that is closed.

use std::path::Path;

use serde::Serialize;

use crate::answer::OpenReport;
use crate::config::Options;
use crate::error::Result;
use crate::storage::{self, Repairs};
use crate::store::SessionStore;

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What opening the store found, and put right by itself.
    pub opened: OpenReport,
    /// What was put right in it then.
    pub repairs: Repairs,
}

impl SessionStore {
    /// Makes a store sound that [`verify`](SessionStore::verify) finds faults in, and closes it.
    ///
    /// Every index is built anew from the entries, and what belongs to none is removed. An entry stays if its cold
    /// record can be decoded. What is removed and held something goes to the file `quarantine` before, as JSON lines,
    /// readable by its owner alone; lines are added to a file that is there. Afterwards `verify` finds nothing. A repair
    /// that was cut short has lost nothing: run it again. A store whose state file is lost, which no opening takes, gets a
    /// new one. It is for a store that is closed; nobody else can open it meanwhile.
    ///
    /// # Errors
    /// Those of [`open`](SessionStore::open), for a database that does not open cannot be repaired: restore a backup.
    /// Those of writing the quarantine; then the store is as it was.
    pub fn repair(options: Options, quarantine: impl AsRef<Path>) -> Result<RepairReport> {
        options.check()?;
        let mut store = storage::open_to_repair(&options.path, options.cache_bytes, options.trust_group)?;
        let opened = OpenReport::of(&mut store);
        let repairs = storage::repair(&store.engine, &mut store.writer, quarantine.as_ref())
            .and_then(|repairs| store.writer.end_use(&store.engine).map(|()| repairs))
            .inspect_err(|error| store.engine.mark_suspect(error))?;
        tracing::info!(?repairs, "repaired");
        Ok(RepairReport { repairs, opened })
    }
}
