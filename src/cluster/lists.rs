//! Lists: from all shards, merged.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;

use super::caller::wait;
use super::layout::Part;
use super::map::Kind;
use super::store::ClusterStore;
use super::value::{at, bytes, int, list, pairs, text};
use crate::codec::Hot;
use crate::entry::SessionEntry;
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};
use crate::query::{Cursor, Filter, Page, Summary, summary};
use crate::time::Timestamp;
use crate::unreadable::{Listing, Unreadable};

/// Rows that are read of a shard at first, and at most.
const FIRST: usize = 2;
const MOST: usize = 128;

/// A place in the list: the newest first, and of one time the last key.
type Place = (Timestamp, SessionKey);

/// The rows of all shards, newest first.
struct Rows<'a> {
    store: &'a ClusterStore,
    /// Only rows after this.
    after: Option<Place>,
    /// Only rows at this time or later.
    since: Option<Timestamp>,
    shards: HashMap<u32, Shard>,
    heap: BinaryHeap<(Place, Reverse<u32>)>,
    is_begun: bool,
}

#[derive(Default)]
struct Shard {
    rows: VecDeque<Place>,
    /// The last row that was read.
    last: Option<Place>,
    piece: usize,
    is_read: bool,
}

impl<'a> Rows<'a> {
    fn new(store: &'a ClusterStore, after: Option<Place>, since: Option<Timestamp>) -> Self {
        Self { store, after, since, shards: HashMap::new(), heap: BinaryHeap::new(), is_begun: false }
    }

    fn ask(&self, shard: u32, skipped: usize, piece: usize) -> Vec<redis::Cmd> {
        let last = self.shards.get(&shard).and_then(|shard| shard.last.as_ref()).or(self.after.as_ref());
        let max = last.map_or("+inf".to_owned(), |(time, _)| time.as_micros().to_string());
        let min = self.since.map_or("-inf".to_owned(), |time| time.as_micros().to_string());
        let mut rows = redis::cmd("ZREVRANGEBYSCORE");
        rows.arg(self.store.part(shard, Part::Updated)).arg(max).arg(min).arg("WITHSCORES");
        rows.arg("LIMIT").arg(skipped).arg(piece);
        let mark = redis::cmd("HGET").arg(self.store.part(shard, Part::Mark)).arg("mark").to_owned();
        vec![rows, mark]
    }

    /// The first rows of all shards.
    async fn begin(&mut self) -> Result<()> {
        self.is_begun = true;
        let shards = 0..self.store.layout().shards();
        let found = self.store.scatter(shards, &|shard| self.ask(shard, 0, FIRST)).await?;
        for (shard, done) in found {
            self.store.check_mark(shard, at(&done.values, 1), &done.node)?;
            self.take(shard, at(&done.values, 0), FIRST)?;
            self.fill(shard).await?;
            self.offer(shard);
        }
        Ok(())
    }

    /// Takes rows of a shard. Those that came before are passed over.
    fn take(&mut self, shard: u32, rows: &redis::Value, piece: usize) -> Result<()> {
        let after = self.after.clone();
        let state = self.shards.entry(shard).or_insert_with(|| Shard { piece, ..Shard::default() });
        let rows = pairs(rows);
        state.is_read = rows.len() < piece;
        for (key, score) in rows {
            let key = SessionKey::new(text(key).unwrap_or_default()).map_err(Error::InvalidKey)?;
            let place = (Timestamp::from_micros(int(score).unwrap_or(0)), key);
            let is_new = |limit: &Option<Place>| limit.as_ref().is_none_or(|limit| place < *limit);
            if is_new(&after) && is_new(&state.last) {
                state.last = Some(place.clone());
                state.rows.push_back(place);
            }
        }
        Ok(())
    }

    /// Reads more of a shard that has run out.
    async fn fill(&mut self, shard: u32) -> Result<()> {
        let mut skipped = 0;
        loop {
            let Some(state) = self.shards.get_mut(&shard) else { return Ok(()) };
            if !state.rows.is_empty() || state.is_read {
                return Ok(());
            }
            state.piece = (state.piece * 4).min(MOST);
            let piece = state.piece;
            let commands = self.ask(shard, skipped, piece);
            let done = self.store.call(shard, Kind::Read, &|_| commands.clone()).await?;
            self.store.check_mark(shard, at(&done.values, 1), &done.node)?;
            self.take(shard, at(&done.values, 0), piece)?;
            // Of many rows with one time the first may all be known.
            skipped += piece;
        }
    }

    fn offer(&mut self, shard: u32) {
        if let Some(place) = self.shards.get(&shard).and_then(|state| state.rows.front()) {
            self.heap.push((place.clone(), Reverse(shard)));
        }
    }

    async fn next(&mut self) -> Result<Option<Place>> {
        if !self.is_begun {
            self.begin().await?;
        }
        let Some((place, Reverse(shard))) = self.heap.pop() else { return Ok(None) };
        if let Some(state) = self.shards.get_mut(&shard) {
            state.rows.pop_front();
        }
        self.fill(shard).await?;
        self.offer(shard);
        Ok(Some(place))
    }
}

/// Entries, newest first. See [`ClusterStore::iter`].
pub struct ClusterIter<'a> {
    rows: Rows<'a>,
    filter: Filter,
    found: VecDeque<(Timestamp, Summary)>,
    piece: usize,
    /// Where the entry was that was answered last.
    last: Option<Place>,
    unreadable: Unreadable,
    is_over: bool,
}

impl fmt::Debug for ClusterIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterIter").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl<'a> ClusterIter<'a> {
    pub(super) fn new(store: &'a ClusterStore, filter: Filter, after: Option<&Cursor>, piece: usize) -> Self {
        let cursor = after.map(|cursor| (cursor.updated_at, cursor.key.clone()));
        // The first place at that time is after every one that is younger: a key is never empty.
        let idle = filter.idle_since.map(|time| time.as_micros().saturating_sub(1)).map(Timestamp::from_micros);
        let rows = Rows::new(store, cursor, filter.active_since);
        let mut this = Self {
            rows,
            filter,
            found: VecDeque::new(),
            piece: piece.clamp(1, MOST),
            last: None,
            unreadable: Unreadable::default(),
            is_over: false,
        };
        if this.rows.after.is_none()
            && let Some(idle) = idle
        {
            this.rows.after = SessionKey::new("\u{10ffff}").ok().map(|last| (idle, last));
        }
        this
    }

    /// The records that were passed over so far because they cannot be decoded.
    #[must_use]
    pub fn unreadable(&self) -> &Unreadable {
        &self.unreadable
    }

    /// Goes on after the entry that was answered last, whatever was under way.
    fn begin_again(&mut self) {
        let after = self.last.take().or(self.rows.after.take());
        self.rows = Rows::new(self.rows.store, after, self.rows.since);
        self.found.clear();
        self.is_over = false;
    }

    async fn read(&mut self) -> Result<()> {
        let store = self.rows.store;
        let mut keys = Vec::new();
        while keys.len() < self.piece {
            match self.rows.next().await? {
                Some((_, key)) if !self.filter.accepts_key(&key) => {}
                Some(place) => keys.push(place),
                None => {
                    self.is_over = true;
                    break;
                }
            }
        }
        for (time, key) in keys {
            let found = if self.filter.needs_entry() {
                let look = self.unreadable.pass(store.look(&key, false).await)?.flatten();
                let accepted = look.filter(|look| self.filter.accepts_entry(&look.entry(&key)));
                accepted.map(|look| look.hot)
            } else {
                self.unreadable.pass(store.look_hot(&key).await)?.flatten()
            };
            // Of one that was used since the list has a newer row, which was passed.
            let found = found.filter(|hot| hot.updated_at == time && self.filter.accepts_hot(hot));
            self.found.extend(found.map(|hot| (time, summary(key, &hot))));
        }
        Ok(())
    }

    async fn step(&mut self) -> Option<Result<Summary>> {
        let next = self.advance().await;
        self.is_over |= next.is_err();
        next.map(|found| found.map(|(_, summary)| summary)).transpose()
    }

    async fn advance(&mut self) -> Result<Option<(Timestamp, Summary)>> {
        loop {
            if let Some(found) = self.found.pop_front() {
                self.last = Some((found.0, found.1.key.clone()));
                return Ok(Some(found));
            }
            if self.is_over {
                return Ok(None);
            }
            self.read().await?;
        }
    }
}

/// The same as futures. See [`AsyncClusterStore::iter`](super::AsyncClusterStore::iter).
#[derive(Debug)]
pub struct AsyncClusterIter<'a> {
    entries: ClusterIter<'a>,
    /// The future of the last step was dropped.
    is_cut: bool,
}

impl<'a> AsyncClusterIter<'a> {
    pub(super) fn new(entries: ClusterIter<'a>) -> Self {
        Self { entries, is_cut: false }
    }

    /// The next entry. After an error there is none. Where the future was dropped before it was ready the next one begins anew after
    /// the entry that was answered last.
    pub async fn next(&mut self) -> Option<Result<Summary>> {
        if std::mem::replace(&mut self.is_cut, true) {
            self.entries.begin_again();
        }
        let next = self.entries.step().await;
        self.is_cut = false;
        next
    }

    /// The records that were passed over so far because they cannot be decoded.
    #[must_use]
    pub fn unreadable(&self) -> &Unreadable {
        self.entries.unreadable()
    }
}

impl Iterator for ClusterIter<'_> {
    type Item = Result<Summary>;

    fn next(&mut self) -> Option<Self::Item> {
        wait(self.step())
    }
}

impl ClusterStore {
    /// The entries that a filter accepts, newest first. It asks all shards, so it is for people and reports.
    #[must_use]
    pub fn iter(&self, filter: Filter) -> ClusterIter<'_> {
        ClusterIter::new(self, filter, None, usize::MAX)
    }

    /// The hot record of an entry, with its times.
    async fn look_hot(&self, key: &SessionKey) -> Result<Option<Hot>> {
        let shard = self.shard_of(key);
        let ask = || {
            let mut records = redis::cmd("HMGET");
            records.arg(self.layout().entry(shard, key)).arg(&["v", "h"]);
            let score = redis::cmd("ZSCORE").arg(self.part(shard, Part::Updated)).arg(key.as_str()).to_owned();
            let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            vec![records, score, mark]
        };
        let done = self.call(shard, Kind::Read, &|_| ask()).await?;
        let Some(record) = bytes(at(list(at(&done.values, 0)), 1)) else {
            self.check_mark(shard, at(&done.values, 2), &done.node)?;
            return Ok(None);
        };
        let hot = Hot::decode(record).map_err(|source| Error::DamagedRecord {
            record: "h",
            key: key.to_string(),
            source: source.into(),
        })?;
        let score = int(at(&done.values, 1)).map_or(hot.updated_at, Timestamp::from_micros);
        Ok(Some(Hot { updated_at: score, ..hot }))
    }

    pub(super) async fn do_recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        let mut rows = ClusterIter::new(self, Filter::default(), cursor, limit);
        let mut page = Page { entries: Vec::new(), next: None, unreadable: Unreadable::default() };
        while page.entries.len() < limit {
            match rows.advance().await? {
                Some((place, summary)) => {
                    page.next = Some(Cursor { updated_at: place, key: summary.key.clone() });
                    page.entries.push(summary);
                }
                None => return Ok(Page { unreadable: rows.unreadable, next: None, ..page }),
            }
        }
        Ok(Page { unreadable: rows.unreadable, ..page })
    }

    pub(super) async fn do_find(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        let shard = self.layout().shard_of_id(id);
        let hints = redis::cmd("SMEMBERS").arg(self.layout().hints(shard, id)).to_owned();
        let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
        let done = self.call(shard, Kind::Read, &|_| vec![hints.clone(), mark.clone()]).await?;
        self.check_mark(shard, at(&done.values, 1), &done.node)?;
        // Sixteen digits that name the hint, then the key.
        let key = |hint: &redis::Value| SessionKey::new(text(hint)?.get(16..)?).ok();
        let mut keys: Vec<_> = list(at(&done.values, 0)).iter().filter_map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        let (mut items, mut unreadable) = (Vec::new(), Unreadable::default());
        for key in keys {
            let look = unreadable.pass(self.look(&key, false).await)?.flatten();
            items.extend(look.filter(|look| look.cold.session_id == *id).map(|look| look.entry(&key)));
        }
        Ok(Listing { items, unreadable })
    }
}
