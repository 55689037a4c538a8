//! A store from a backup.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{BufReader, Read};
use std::task::Poll;
use std::thread;

use futures_channel::mpsc::{Receiver, Sender, channel};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;

use super::caller::{Caller, wait};
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
/// Entries that are written at a time. An entry waits for nodes three times, one after the other. While one waits the others send,
/// and what they send together goes in one pipeline.
const AT_ONCE: usize = 512;
/// The bytes of those in the file, at most, but for one of 3 MiB: a frame of the file has no more. With those that wait and the one that
/// is read no more than 120 MiB of the file are in memory.
const ROOM: usize = 64 << 20;
/// Entries that wait until there is room. Those are looked after together then: whether another restore has begun.
const WAITING: usize = 16;

/// An entry of the file.
struct Entry {
    /// Its bytes there.
    bytes: usize,
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
        Ok(Self { bytes: payload.len(), key, hot, cold, extras, turn, leases })
    }
}

/// What has been written.
#[derive(Default)]
struct Loaded {
    entries: u64,
    turns: u64,
    leases: u64,
    /// The greatest token of a turn in each shard.
    tokens: BTreeMap<u32, u64>,
    /// The first error, of a write or of the file. It ends both.
    failed: Option<Error>,
}

/// An entry that was written.
struct One {
    /// Its bytes in the file.
    bytes: usize,
    shard: u32,
    token: Option<u64>,
    leases: u64,
}

impl Loaded {
    fn note(&mut self, one: &One) {
        self.entries += 1;
        self.leases += one.leases;
        if let Some(token) = one.token {
            self.turns += 1;
            let greatest = self.tokens.entry(one.shard).or_default();
            *greatest = (*greatest).max(token);
        }
    }
}

/// What comes next: entries that were written, or one that was read.
enum Next {
    Written(Result<Vec<One>>),
    Read(Option<Box<Entry>>),
}

impl ClusterStore {
    /// Makes a store from a [backup](ClusterStore::backup), of a cluster or of an embedded store, and closes it.
    ///
    /// While it is made nobody opens it, and if this ends early nobody will: call it again, from the beginning, or with
    /// another backup. Of two that make the same store the one that began last goes on, and nothing that the other one has under way is
    /// written any more; it fails with [`Error::OtherStore`]. The last step opens the whole store to all. Where only the receipt of
    /// that step fails ([`Error::NotReplicated`], [`Error::Uncertain`]) the store is there: it can be opened, and to call this
    /// again is refused, unless a failover loses that step.
    ///
    /// An entry costs three round trips: one to the node of its hint, one from there to its replicas, and one to write it; and one
    /// more for its open turn and for each of its leases. Entries that begin together look once whether another restore has begun
    /// since. A thread of this call writes 512 entries at a time, or 64 MiB of the file; no more than 120 MiB of it are in memory.
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
        wait(store.fence(&loader))?;
        // What an attempt before has left.
        wait(store.do_remove_all())?;
        let (loaded, mut notes) = (Mutex::<Loaded>::default(), 0);
        thread::scope(|scope| {
            // It goes with this closure, and the writer ends then.
            let (mut give, take) = channel(WAITING);
            let (own, loader, loaded) = (Self { caller: Caller::Awaits, ..store.clone() }, &loader, &loaded);
            let write = move || {
                if let Err(error) = wait(own.load_all(loader, take, loaded)) {
                    loaded.lock().failed.get_or_insert(error);
                }
            };
            let writer = thread::Builder::new().name("cloakroom-load".into()).spawn_scoped(scope, write);
            let writer = writer.map_err(|e| Error::io("start the writer of", store.name(), e));
            let read = writer.and_then(|_| read_all(&mut frames, &mut give, loaded, &mut notes, &mut progress));
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

    /// Keeps out what another restore that began before has under way. Each new entry has a new hint, and so it is refused once its
    /// shard has another sweep than its writer knows: see [`repair`](super::repair).
    async fn fence(&self, loader: &str) -> Result<()> {
        let own = Self { caller: Caller::Awaits, ..self.clone() };
        let set = |shard| {
            let mut set = redis::cmd("HSET");
            set.arg(own.part(shard, Part::Mark)).arg("swept").arg(loader);
            let own = &own;
            async move {
                own.call(shard, Kind::Write, &|_| vec![set.clone()]).await?;
                own.inner.swept.put(shard, loader.to_owned());
                Ok::<_, Error>(())
            }
        };
        let all = (0..self.layout().shards()).map(set).collect::<FuturesUnordered<_>>();
        all.try_collect::<()>().await?;
        self.flush_all().await
    }

    fn written_to(&self) -> Error {
        let reason = "somebody else writes to it while it is restored".into();
        Error::OtherStore { name: self.name().to_owned(), reason }
    }

    /// Writes entries until no more come, or something has failed. Each has a key of its own, so they may be written in any order.
    async fn load_all(&self, loader: &str, mut entries: Receiver<Entry>, loaded: &Mutex<Loaded>) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        let (mut count, mut bytes, mut is_over) = (0, 0, false);
        while !is_over || !under_way.is_empty() {
            let has_room = !is_over && count < AT_ONCE && bytes <= ROOM;
            let next = poll_fn(|context| match under_way.poll_next_unpin(context) {
                Poll::Ready(Some(written)) => Poll::Ready(Next::Written(written)),
                Poll::Ready(None) | Poll::Pending if has_room => {
                    entries.poll_next_unpin(context).map(|entry| Next::Read(entry.map(Box::new)))
                }
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            });
            match next.await {
                Next::Written(written) => {
                    let group: Vec<One> = written?;
                    let mut loaded = loaded.lock();
                    for one in group {
                        bytes -= one.bytes;
                        count -= 1;
                        loaded.note(&one);
                    }
                    if loaded.failed.is_some() {
                        return Ok(());
                    }
                }
                Next::Read(None) => is_over = true,
                Next::Read(Some(entry)) => {
                    let mut group = vec![*entry];
                    let mut more = group.iter().map(|entry| entry.bytes).sum::<usize>();
                    while count + group.len() < AT_ONCE
                        && bytes + more <= ROOM
                        && let Ok(entry) = entries.try_recv()
                    {
                        more += entry.bytes;
                        group.push(entry);
                    }
                    bytes += more;
                    count += group.len();
                    under_way.push(async move {
                        self.check_loader(loader).await?;
                        group
                            .into_iter()
                            .map(|entry| self.load(entry))
                            .collect::<FuturesUnordered<_>>()
                            .try_collect()
                            .await
                    });
                }
            }
        }
        Ok(())
    }

    async fn load(&self, entry: Entry) -> Result<One> {
        let Entry { bytes, key, hot, cold, extras, turn, leases } = entry;
        let (shard, token) = (self.shard_of(&key), turn.as_ref().map(|turn| turn.token));
        let one = One { bytes, shard, token, leases: leases.len() as u64 };
        let change = Change {
            extras: Kept::New(&extras),
            exact_time: true,
            exact_interaction: true,
            is_loaded: true,
            ..Change::of(None, hot, cold)
        };
        if self.write(&key, change).await?.is_none() {
            return Err(self.written_to());
        }
        if let Some(turn) = turn {
            let body = Turn { token: 0, ..turn.clone() }.encode();
            let body = body.map_err(|source| Error::Engine { action: "encode a turn", source: source.into() })?;
            let head = format!("{:016x}{:016x}{NOBODY}", turn.token, random::bits()?).into_bytes();
            let mut set = redis::cmd("HSET");
            set.arg(self.part(shard, Part::Turns)).arg(key.as_str()).arg([head, body].concat());
            self.call(shard, Kind::Write, &|_| vec![set.clone()]).await?;
        }
        for (name, Term { since, end }) in leases {
            let (since, end) = (since.as_micros(), end.as_micros().to_string());
            self.lease_script(&key, &name, &format!("{since}:{end}"), &end).await?;
        }
        Ok(one)
    }
}

/// Reads the file to its end, and gives its entries to the writer. It ends early where that has failed.
fn read_all(
    frames: &mut FrameReader<impl Read>,
    give: &mut Sender<Entry>,
    loaded: &Mutex<Loaded>,
    notes: &mut u64,
    progress: &mut dyn FnMut(&BackupProgress),
) -> Result<()> {
    let (mut read, mut told) = (0, 0);
    loop {
        let (kind, payload) = frames.next()?;
        match kind {
            FrameKind::Store => {}
            FrameKind::Note => {
                let note = BackupNoteV1::from_bytes(payload).map(|note| note.is_last);
                *notes += u64::from(note.map_err(|e| frames.damaged(e))?);
            }
            FrameKind::Entry => {
                let entry = Entry::decode(payload);
                let entry = entry.map_err(|e| frames.damaged(e))?;
                let entries = loaded.lock().entries;
                if entries >= told + BATCH {
                    told = entries;
                    progress(&BackupProgress { entries, bytes: frames.bytes() });
                }
                // Nobody takes it where the writer has ended.
                if wait(poll_fn(|context| give.poll_ready(context))).is_err() || give.start_send(entry).is_err() {
                    return Ok(());
                }
                read += 1;
            }
            FrameKind::End => {
                let end = BackupEndV1::from_bytes(payload).map(|end| (end.entries, end.notes, end.crc));
                if end.map_err(|e| frames.damaged(e))? != (read, *notes, frames.crc_before()) {
                    return Err(frames.damaged("not all that was written is here"));
                }
                return frames.expect_end();
            }
        }
    }
}
