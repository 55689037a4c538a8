//! Backups: the file that the embedded store writes and reads.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::call::Done;
use super::caller::wait;
use super::layout::Part;
use super::leases::{member_of, terms_of};
use super::store::ClusterStore;
use super::turns::Marker;
use super::value::{at, bytes, list, pairs, text};
use crate::backup::{BackupOptions, BackupProgress, BackupReport, FrameKind, FrameWriter};
use crate::codec::{BackupEndV1, BackupEntryV1, BackupPartV1, BackupRecord, BackupStoreV1, CodecError, Term, Turn};
use crate::error::{Error, Result};
use crate::key::SessionKey;

/// Progress is told after so many entries.
const TELL_EACH: u64 = 256;
/// Entries that are read together. All of them are in memory, and one may have 3 MiB.
const TOGETHER: usize = 32;

impl ClusterStore {
    /// Writes all entries to `output`, with their extras, open turns and named leases, in key order. It is the file that
    /// [`SessionStore::restore`](crate::SessionStore::restore) makes a store from.
    ///
    /// It is **not of one moment**: each entry is whole, as it was when it was read; one that is created, removed or changed
    /// meanwhile may be in it or not. The report says so, and when that was (`began`, `ended`, by the clock of the store); the file
    /// does not, for readers of its format would take what tells that for damage. The keys of all entries are held in memory, and 32 entries at a time, which are asked for
    /// together: an entry costs a round trip, and so many of them are under way at once.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`] if an entry cannot be decoded, for a backup that lacks it would hide that.
    pub fn backup(&self, output: impl Write, mut progress: impl FnMut(&BackupProgress)) -> Result<BackupReport> {
        let mut report = BackupReport { began: Some(self.now()), ..BackupReport::of(0, 0) };
        let mut out = FrameWriter::begin(BufWriter::new(output))?;
        out.frame(FrameKind::Store, &encoded(BackupStoreV1 { zone: None }.to_bytes())?)?;
        let mut greatest = 0;
        for keys in wait(self.do_keys(""))?.chunks(TOGETHER) {
            for (key, done) in keys.iter().zip(self.read_entries(keys)?) {
                greatest = greatest.max(self.write_entry(&mut out, key, &done, &mut report)?);
                if report.entries.is_multiple_of(TELL_EACH) {
                    progress(&BackupProgress { entries: report.entries, bytes: out.bytes() });
                }
            }
        }
        progress(&BackupProgress { entries: report.entries, bytes: out.bytes() });
        // The number of a commit, which all numbers that were given lie below.
        let end = BackupEndV1 { entries: report.entries, notes: 0, commit: (greatest >> 24) + 1, crc: out.crc() };
        out.frame(FrameKind::End, &encoded(end.to_bytes())?)?;
        out.flush()?;
        (report.bytes, report.ended) = (out.bytes(), Some(self.now()));
        Ok(report)
    }

    /// Writes a [`backup`](ClusterStore::backup) into a file, as
    /// [`SessionStore::backup_to_file`](crate::SessionStore::backup_to_file) does: all of it or nothing, and only its owner
    /// may read it.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Io`] and its like, and those of [`backup`](ClusterStore::backup).
    pub fn backup_to_file(
        &self,
        path: impl AsRef<Path>,
        options: BackupOptions,
        progress: impl FnMut(&BackupProgress),
    ) -> Result<BackupReport> {
        options.write_whole(path.as_ref(), |file| self.backup(file, progress))
    }

    /// Asks for entries, for all of them at once; for each of them one of its node's moments has all that hangs on it.
    fn read_entries(&self, keys: &[SessionKey]) -> Result<Vec<Done>> {
        let numbered: Vec<_> = (0..).zip(keys).map(|(n, key)| (n, self.layout().slot_of(self.shard_of(key)))).collect();
        let ask = |n: u32| {
            let Some(key) = keys.get(n as usize) else { return Vec::new() };
            let shard = self.shard_of(key);
            let mut commands = self.look_commands(shard, key, true);
            commands.push(redis::cmd("HGET").arg(self.part(shard, Part::Turns)).arg(key.as_str()).to_owned());
            commands.push(redis::cmd("HGETALL").arg(self.layout().leases(shard, key)).to_owned());
            commands
        };
        let done = wait(self.inner.nodes.scatter(self.caller, &numbered, &ask))?;
        Ok(done.into_iter().map(|(_, done)| done).collect())
    }

    /// Writes an entry, if it is there still. Returns the greatest number in it.
    fn write_entry<W: Write>(
        &self,
        out: &mut FrameWriter<W>,
        key: &SessionKey,
        done: &Done,
        report: &mut BackupReport,
    ) -> Result<u64> {
        let shard = self.shard_of(key);
        let own = done.values.get(..5).unwrap_or_default();
        let Some(look) = self.looked(shard, key, own, &done.node)? else { return Ok(0) };
        let hot = encoded(look.hot.encode())?;
        let cold = bytes(at(list(at(&done.values, 0)), 2)).unwrap_or_default();
        let part = |(generation, bytes_of): (&redis::Value, _)| {
            Some(BackupPartV1 { generation: text(generation)?.parse().ok()?, bytes: bytes(bytes_of)? })
        };
        let mut parts: Vec<_> = pairs(at(&done.values, 4)).into_iter().filter_map(part).collect();
        parts.sort_unstable_by_key(|part| part.generation);
        let marker = bytes(at(&done.values, 5)).map(|marker| Marker::decode(key, marker)).transpose()?;
        let marker = marker.filter(|marker| marker.turn.session_id == look.cold.session_id);
        let turn = marker.map(|marker| Turn { token: marker.token, ..marker.turn });
        let turn_record = turn.as_ref().map(|turn| encoded(turn.encode())).transpose()?;
        let mut terms = terms_of(at(&done.values, 6));
        terms.retain(|term| member_of(&term.name).is_none());
        terms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let term = |(since, end)| encoded(Term { since, end }.encode());
        let records: Vec<_> = terms.iter().map(|one| term((one.since, one.end))).collect::<Result<_>>()?;
        let leases: Vec<_> =
            terms.iter().map(|term| term.name.as_str()).zip(records.iter().map(Vec::as_slice)).collect();
        let numbers = parts.iter().map(|part| part.generation).chain(turn.map(|turn| turn.token));
        let greatest = numbers.max().unwrap_or(0);
        report.entries += 1;
        report.turns += u64::from(turn_record.is_some());
        report.leases += leases.len() as u64;
        let entry = BackupEntryV1 { key: key.as_str(), hot: &hot, cold, parts, turn: turn_record.as_deref(), leases };
        out.frame(FrameKind::Entry, &encoded(entry.to_bytes())?)?;
        Ok(greatest)
    }
}

fn encoded(bytes: std::result::Result<Vec<u8>, CodecError>) -> Result<Vec<u8>> {
    bytes.map_err(|source| Error::Engine { action: "encode an entry", source: source.into() })
}
