//! A store from a backup.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use super::layout::Part;
use super::map::Kind;
use super::options::ClusterOptions;
use super::roll::NOBODY;
use super::store::ClusterStore;
use super::write::{Change, Kept};
use crate::backup::{BackupProgress, BackupReport, FrameKind, FrameReader};
use crate::codec::{self, BackupEndV1, BackupEntryV1, BackupNoteV1, BackupRecord, CheckedEntry, Term, Turn};
use crate::error::{Error, Result};
use crate::random;

/// Progress is told, and what was written is awaited, after so many entries.
const BATCH: u64 = 256;

impl ClusterStore {
    /// Makes a store from a [backup](ClusterStore::backup), of a cluster or of an embedded store, and closes it.
    ///
    /// While it is made nobody opens it, and if this ends early nobody will: call it again, from the beginning, or with
    /// another backup. Of two that make the same store the one that began last goes on. The last step opens the whole store to
    /// all. Where only the receipt of that step fails ([`Error::NotReplicated`], [`Error::Uncertain`]) the store is there: it can
    /// be opened, and to call this again is refused, unless a failover loses that step.
    ///
    /// Revisions are new. Notes of imported files, and the time zone of an import, are left out: nothing reads them here. Turns
    /// that were open are interrupted.
    ///
    /// # Errors
    /// [`Error::OtherStore`] if there is a store of that name, and what an opening fails with; the errors of
    /// [`SessionStore::restore`](crate::SessionStore::restore) for a file that is damaged: of that, what comes before the damage
    /// is on the nodes by then, as after a restore that was cut short.
    pub fn restore(
        options: ClusterOptions,
        input: impl Read,
        mut progress: impl FnMut(&BackupProgress),
    ) -> Result<BackupReport> {
        // A file that is no backup is refused before anything is made.
        let mut frames = FrameReader::begin(BufReader::new(input))?;
        let loader = format!("{:016x}", random::bits()?);
        let store = Self::begin_to_load(options, &loader)?;
        // What an attempt before has left.
        store.do_remove_all()?;
        let mut report = BackupReport { entries: 0, turns: 0, leases: 0, notes: 0, bytes: 0 };
        let mut tokens = BTreeMap::new();
        loop {
            let (kind, payload) = frames.next()?;
            let payload = payload.to_vec();
            match kind {
                FrameKind::Store => {}
                FrameKind::Note => {
                    let note = BackupNoteV1::from_bytes(&payload).map_err(|e| frames.damaged(e))?;
                    report.notes += u64::from(note.is_last);
                }
                FrameKind::Entry => {
                    let entry = BackupEntryV1::from_bytes(&payload).and_then(BackupEntryV1::check);
                    let entry = entry.map_err(|e| frames.damaged(e))?;
                    store.check_loader(&loader)?;
                    store.load(entry, &|e| frames.damaged(e), &mut tokens, &mut report)?;
                    if report.entries.is_multiple_of(BATCH) {
                        progress(&BackupProgress { entries: report.entries, bytes: frames.bytes() });
                    }
                }
                FrameKind::End => {
                    let end = BackupEndV1::from_bytes(&payload).map_err(|e| frames.damaged(e))?;
                    if (end.entries, end.notes) != (report.entries, report.notes) || end.crc != frames.crc_before() {
                        return Err(frames.damaged("not all that was written is here"));
                    }
                    frames.expect_end()?;
                    break;
                }
            }
        }
        report.bytes = frames.bytes();
        progress(&BackupProgress { entries: report.entries, bytes: report.bytes });
        // Later turns have greater numbers, and a nonce of sixteen bits after them.
        for (shard, token) in tokens {
            let token = token >> 16;
            let mut set = redis::cmd("HSET");
            set.arg(store.part(shard, Part::Mark)).arg("token").arg(token);
            store.call(shard, Kind::Write, &|_| vec![set.clone()])?;
        }
        // Another restore that this one has taken over from may have written an entry since.
        if store.count()? != report.entries {
            return Err(store.written_to());
        }
        store.flush_all()?;
        store.end_load(&loader)?;
        store.flush_all()?;
        store.leave()?;
        Ok(report)
    }

    fn written_to(&self) -> Error {
        let reason = "somebody else writes to it while it is restored".into();
        Error::OtherStore { name: self.name().to_owned(), reason }
    }

    fn load(
        &self,
        entry: CheckedEntry<'_>,
        damaged: &dyn Fn(codec::CodecError) -> Error,
        tokens: &mut BTreeMap<u32, u64>,
        report: &mut BackupReport,
    ) -> Result<()> {
        let CheckedEntry { record, key, hot, mut cold, .. } = entry;
        let index = cold.extras.take().unwrap_or_default();
        let parts: BTreeMap<u64, &[u8]> = record.parts.iter().map(|part| (part.generation, part.bytes)).collect();
        let assembled = codec::assemble(&index, |generation| parts.get(&generation).copied());
        let (details, extras) = assembled.map_err(damaged)?;
        if let Some(details) = details {
            cold.details = details;
        }
        let change = Change {
            extras: Kept::New(&extras),
            exact_time: true,
            exact_interaction: true,
            ..Change::of(None, hot, cold)
        };
        if self.write(&key, change)?.is_none() {
            return Err(self.written_to());
        }
        let shard = self.shard_of(&key);
        if let Some(turn) = record.turn {
            let turn = Turn::decode(turn).map_err(damaged)?;
            let body = Turn { token: 0, ..turn.clone() }.encode().map_err(damaged)?;
            let head = format!("{:016x}{:016x}{NOBODY}", turn.token, random::bits()?).into_bytes();
            let mut set = redis::cmd("HSET");
            set.arg(self.part(shard, Part::Turns)).arg(key.as_str()).arg([head, body].concat());
            self.call(shard, Kind::Write, &|_| vec![set.clone()])?;
            let greatest = tokens.entry(shard).or_default();
            *greatest = (*greatest).max(turn.token);
            report.turns += 1;
        }
        for (name, term) in record.leases {
            let Term { since, end } = Term::decode(term).map_err(damaged)?;
            let (since, end) = (since.as_micros(), end.as_micros().to_string());
            self.lease_script(&key, name, &format!("{since}:{end}"), &end)?;
            report.leases += 1;
        }
        report.entries += 1;
        Ok(())
    }
}
