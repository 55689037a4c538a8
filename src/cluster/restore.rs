//! A store from a backup.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::caller::wait;
use super::layout::Part;
use super::map::Kind;
use super::options::ClusterOptions;
use super::roll::NOBODY;
use super::store::ClusterStore;
use super::write::{Change, Kept};
use crate::backup::{BackupProgress, BackupReport, FrameKind, FrameReader};
use crate::codec::{self, BackupEndV1, BackupEntryV1, BackupNoteV1, BackupRecord, CheckedEntry, CodecError};
use crate::codec::{Cold, Hot, Term, Turn};
use crate::entry::Extras;
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::random;

/// The caller hears of its progress after so many entries.
const BATCH: u64 = 256;
/// Threads that write. An entry waits for nodes four times, one after the other. While one thread waits the others send, and what
/// they send together goes in one pipeline. On six nodes of one host these write three to four times what one writes; twice as many
/// write a fifth more, and have twice as much in memory.
const WRITERS: usize = 32;
/// Entries that wait for a writer. One has 3 MiB at most, for a frame of the file has no more: so with those that are being written
/// and the one that is read no more than 200 MiB are in memory.
const WAITING: usize = WRITERS;

/// An entry of the file.
struct Entry {
    key: SessionKey,
    hot: Hot,
    cold: Cold,
    extras: Extras,
    turn: Option<Turn>,
    leases: Vec<(String, Term)>,
}

impl Entry {
    fn decode(payload: &[u8]) -> std::result::Result<Self, CodecError> {
        let CheckedEntry { record, key, hot, mut cold, .. } = BackupEntryV1::from_bytes(payload)?.check()?;
        let index = cold.extras.take().unwrap_or_default();
        let parts: BTreeMap<u64, &[u8]> = record.parts.iter().map(|part| (part.generation, part.bytes)).collect();
        let (details, extras) = codec::assemble(&index, |generation| parts.get(&generation).copied())?;
        if let Some(details) = details {
            cold.details = details;
        }
        let turn = record.turn.map(Turn::decode).transpose()?;
        let leases = record.leases.into_iter().map(|(name, term)| Ok((name.to_owned(), Term::decode(term)?)));
        let leases = leases.collect::<std::result::Result<_, CodecError>>()?;
        Ok(Self { key, hot, cold, extras, turn, leases })
    }
}

/// What the writers have done together.
struct Loaded {
    entries: u64,
    turns: u64,
    leases: u64,
    /// The greatest token of a turn in each shard.
    tokens: BTreeMap<u32, u64>,
    /// The first error, of a writer or of the file. It ends all of them.
    failed: Option<Error>,
}

impl ClusterStore {
    /// Makes a store from a [backup](ClusterStore::backup), of a cluster or of an embedded store, and closes it.
    ///
    /// While it is made nobody opens it, and if this ends early nobody will: call it again, from the beginning, or with
    /// another backup. Of two that make the same store the one that began last goes on; it fails with [`Error::OtherStore`] too
    /// if it finds an entry that the other one wrote late. The last step opens the whole store to all. Where only the receipt of
    /// that step fails ([`Error::NotReplicated`], [`Error::Uncertain`]) the store is there: it can be opened, and to call this
    /// again is refused, unless a failover loses that step.
    ///
    /// An entry costs four round trips: one to see that no other restore has begun, one to the node of its hint, one from there to
    /// its replicas, and one to write it; and one more for its open turn and for each of its leases. Threads of this call write 32
    /// entries at a time. 65 entries are in memory at most, of up to 3 MiB each.
    ///
    /// Revisions are new. Notes of imported files, and the time zone of an import, are left out: nothing reads them here. Turns
    /// that were open are interrupted.
    ///
    /// # Errors
    /// [`Error::OtherStore`] if there is a store of that name, and what an opening fails with; the errors of
    /// [`SessionStore::restore`](crate::SessionStore::restore) for a file that is damaged: of that, some of what comes before the
    /// damage is on the nodes by then, as after a restore that was cut short. The first error ends it.
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
        wait(store.do_remove_all())?;
        let loaded = Mutex::new(Loaded { entries: 0, turns: 0, leases: 0, tokens: BTreeMap::new(), failed: None });
        let mut notes = 0;
        thread::scope(|scope| {
            // It goes with this closure, and the writers end then.
            let (give, take) = bounded(WAITING);
            let read = (0..WRITERS).try_for_each(|_| {
                let (take, store, loader, loaded) = (take.clone(), &store, &loader, &loaded);
                let writer = thread::Builder::new().name("cloakroom-load".into());
                let writer = writer.spawn_scoped(scope, move || store.load_all(loader, &take, loaded));
                writer.map(drop).map_err(|e| Error::io("start a writer of", store.name(), e))
            });
            drop(take);
            let read = read.and_then(|()| read_all(&mut frames, &give, &loaded, &mut notes, &mut progress));
            if let Err(error) = read {
                loaded.lock().failed.get_or_insert(error);
            }
        });
        let Loaded { entries, turns, leases, tokens, failed } = loaded.into_inner();
        if let Some(error) = failed {
            return Err(error);
        }
        let report = BackupReport { turns, leases, notes, ..BackupReport::of(entries, frames.bytes()) };
        progress(&BackupProgress { entries, bytes: report.bytes });
        // Later turns have greater numbers, and a nonce of sixteen bits after them.
        for (shard, token) in tokens {
            let token = token >> 16;
            let mut set = redis::cmd("HSET");
            set.arg(store.part(shard, Part::Mark)).arg("token").arg(token);
            wait(store.call(shard, Kind::Write, &|_| vec![set.clone()]))?;
        }
        // Another restore that this one has taken over from may have written an entry since.
        if wait(store.count())? != report.entries {
            return Err(store.written_to());
        }
        wait(store.flush_all())?;
        store.end_load(&loader)?;
        wait(store.flush_all())?;
        wait(store.leave())?;
        Ok(report)
    }

    fn written_to(&self) -> Error {
        let reason = "somebody else writes to it while it is restored".into();
        Error::OtherStore { name: self.name().to_owned(), reason }
    }

    /// Writes entries until no more come, or a writer has failed. Each has a key of its own, so they may be written in any order.
    fn load_all(&self, loader: &str, entries: &Receiver<Entry>, loaded: &Mutex<Loaded>) {
        for entry in entries {
            if loaded.lock().failed.is_some() {
                return;
            }
            let shard = self.shard_of(&entry.key);
            let (token, leases) = (entry.turn.as_ref().map(|turn| turn.token), entry.leases.len() as u64);
            let outcome = self.check_loader(loader).and_then(|()| self.load(entry));
            let mut loaded = loaded.lock();
            if let Err(error) = outcome {
                loaded.failed.get_or_insert(error);
                return;
            }
            loaded.entries += 1;
            loaded.leases += leases;
            if let Some(token) = token {
                loaded.turns += 1;
                let greatest = loaded.tokens.entry(shard).or_default();
                *greatest = (*greatest).max(token);
            }
        }
    }

    fn load(&self, entry: Entry) -> Result<()> {
        let Entry { key, hot, cold, extras, turn, leases } = entry;
        let change = Change {
            extras: Kept::New(&extras),
            exact_time: true,
            exact_interaction: true,
            ..Change::of(None, hot, cold)
        };
        if wait(self.write(&key, change))?.is_none() {
            return Err(self.written_to());
        }
        if let Some(turn) = turn {
            let shard = self.shard_of(&key);
            let body = Turn { token: 0, ..turn.clone() }.encode();
            let body = body.map_err(|source| Error::Engine { action: "encode a turn", source: source.into() })?;
            let head = format!("{:016x}{:016x}{NOBODY}", turn.token, random::bits()?).into_bytes();
            let mut set = redis::cmd("HSET");
            set.arg(self.part(shard, Part::Turns)).arg(key.as_str()).arg([head, body].concat());
            wait(self.call(shard, Kind::Write, &|_| vec![set.clone()]))?;
        }
        for (name, Term { since, end }) in leases {
            let (since, end) = (since.as_micros(), end.as_micros().to_string());
            wait(self.lease_script(&key, &name, &format!("{since}:{end}"), &end))?;
        }
        Ok(())
    }
}

/// Reads the file to its end, and gives its entries to the writers. It ends early where one of them has failed.
fn read_all(
    frames: &mut FrameReader<impl Read>,
    give: &Sender<Entry>,
    loaded: &Mutex<Loaded>,
    notes: &mut u64,
    progress: &mut dyn FnMut(&BackupProgress),
) -> Result<()> {
    let (mut read, mut told) = (0, 0);
    loop {
        let (kind, payload) = frames.next()?;
        let payload = payload.to_vec();
        match kind {
            FrameKind::Store => {}
            FrameKind::Note => {
                let note = BackupNoteV1::from_bytes(&payload).map_err(|e| frames.damaged(e))?;
                *notes += u64::from(note.is_last);
            }
            FrameKind::Entry => {
                let entry = Entry::decode(&payload).map_err(|e| frames.damaged(e))?;
                let entries = {
                    let loaded = loaded.lock();
                    if loaded.failed.is_some() {
                        return Ok(());
                    }
                    loaded.entries
                };
                if entries >= told + BATCH {
                    told = entries;
                    progress(&BackupProgress { entries, bytes: frames.bytes() });
                }
                // Nobody takes it where all of them have ended.
                if give.send(entry).is_err() {
                    return Ok(());
                }
                read += 1;
            }
            FrameKind::End => {
                let end = BackupEndV1::from_bytes(&payload).map_err(|e| frames.damaged(e))?;
                if (end.entries, end.notes) != (read, *notes) || end.crc != frames.crc_before() {
                    return Err(frames.damaged("not all that was written is here"));
                }
                return frames.expect_end();
            }
        }
    }
}
