//! The entries of one bucket of the index by age, in the order of their exact time.
//!
//! The index knows the minute alone, and the exact time stands in each entry's hot record. So a reader of the first few
//! of a minute looks at all of it, but keeps no more of it than it needs.

use crate::codec::{Bucket, Fingerprint, Hot};
use crate::error::Result;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// Index rows read at a time.
const PAGE: usize = 512;
/// Entries that are looked at for the oldest and the newest time.
const LOOKS: usize = 1024;

/// Which end of a bucket comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    OldestFirst,
    NewestFirst,
}

/// A place in such an order, in which no two entries meet.
pub(crate) type Place = (i64, Fingerprint);

impl Order {
    pub(crate) fn place(self, time: Timestamp, entry: Fingerprint) -> Place {
        match self {
            Self::OldestFirst => (time.as_micros(), entry),
            Self::NewestFirst => (-time.as_micros(), entry),
        }
    }
}

/// Entries that follow each other.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) rows: Vec<(Fingerprint, Hot)>,
    /// The bucket has more of them.
    pub(crate) is_cut: bool,
}

impl SessionStore {
    /// The first `limit` of the `wanted` entries of `bucket` behind the place `after`. Costs a look at each entry of the
    /// bucket, and memory for twice the limit. `None` if `go_on` said no on the way.
    pub(crate) fn first_of_bucket(
        &self,
        (bucket, order): (Bucket, Order),
        after: Option<Place>,
        limit: usize,
        unreadable: &mut Unreadable,
        go_on: impl Fn() -> bool,
        wanted: impl Fn(&Hot) -> bool,
    ) -> Result<Option<Piece>> {
        let place = |(entry, hot): &(Fingerprint, Hot)| order.place(hot.updated_at, *entry);
        let room = limit.saturating_mul(2).max(PAGE);
        let mut piece = Piece { rows: Vec::new(), is_cut: false };
        let mut last = None;
        loop {
            let page = self.commits().engine()?.bucket_rows(bucket, last, PAGE, unreadable)?;
            last = page.last().copied();
            let is_full = page.len() == PAGE;
            for entry in page {
                let Some(Some(hot)) = unreadable.pass(self.live_hot(bucket, entry))? else { continue };
                let row = (entry, hot);
                if wanted(&hot) && after.is_none_or(|after| place(&row) > after) {
                    piece.rows.push(row);
                }
                if piece.rows.len() >= room {
                    piece.keep(limit, place);
                }
            }
            if last.is_none() {
                break;
            }
            if is_full && !go_on() {
                return Ok(None);
            }
        }
        piece.keep(limit, place);
        piece.rows.sort_unstable_by_key(place);
        Ok(Some(piece))
    }

    /// The hot record of an entry that has a row in `bucket`, if it belongs there: otherwise the row is out of date, or
    /// the entry was touched just now.
    fn live_hot(&self, bucket: Bucket, entry: Fingerprint) -> Result<Option<Hot>> {
        Ok(self.commits().peek_hot(entry)?.filter(|hot| Bucket::of(hot.updated_at) == bucket))
    }

    /// The oldest and the newest `updated_at`.
    pub(crate) fn ends(&self, unreadable: &mut Unreadable) -> Result<Option<(Timestamp, Timestamp)>> {
        self.commits().apply_pending()?;
        let engine = self.commits().engine()?;
        let mut bucket = engine.oldest_bucket(None)?;
        let oldest = loop {
            let Some(at) = bucket else { return Ok(None) };
            match self.some_times(at, unreadable)?.into_iter().min() {
                Some(oldest) => break oldest,
                None => bucket = engine.oldest_bucket(Some(at))?,
            }
        };
        let mut bucket = engine.newest_bucket(None, unreadable)?;
        let newest = loop {
            let Some(at) = bucket else { return Ok(None) };
            match (self.some_times(at, unreadable)?.into_iter().max(), at.previous()) {
                (Some(newest), _) => break newest,
                (None, Some(previous)) => bucket = engine.newest_bucket(Some(previous), unreadable)?,
                (None, None) => return Ok(None),
            }
        };
        Ok(Some((oldest, newest)))
    }

    /// The times of about `LOOKS` entries of a bucket; empty if it has none.
    fn some_times(&self, bucket: Bucket, unreadable: &mut Unreadable) -> Result<Vec<Timestamp>> {
        let mut last = None;
        loop {
            let page = self.commits().engine()?.bucket_rows(bucket, last, LOOKS, unreadable)?;
            last = page.last().copied();
            let mut times = Vec::new();
            for entry in page {
                times.extend(unreadable.pass(self.live_hot(bucket, entry))?.flatten().map(|hot| hot.updated_at));
            }
            if !times.is_empty() || last.is_none() {
                return Ok(times);
            }
        }
    }
}

impl Piece {
    /// Drops all but the first `limit`.
    fn keep(&mut self, limit: usize, place: impl Fn(&(Fingerprint, Hot)) -> Place) {
        if self.rows.len() > limit {
            self.rows.select_nth_unstable_by_key(limit, place);
            self.rows.truncate(limit);
            self.is_cut = true;
        }
    }
}
