//! The index by age: a row of time and entry for each entry, in pages.
//!
//! A write of sled's costs about the same whatever is in it. So `by_updated_at` has up to 32 rows in one of sled's, and
//! rows of about one time are written together. A page has the rows from its key up to that of the next page, and
//! the first one has whatever comes before. A split writes the upper pages first, so a crash leaves rows in two pages;
//! the page that is lower has them for nothing, and they do not count.
//!
//! Rows that their entries have left stay for a while, and do not count: see `gone.rs`.

use std::ops::Bound;

use sled::IVec;

use super::runs::{AgeOrder, AgeRange};
use super::trees::{Write, delete, engine_error, put};
use super::write::Writer;
use super::{Engine, damaged_at};
use crate::codec::{ActivityRow, AgePage, CodecError};
use crate::error::Result;
use crate::unreadable::if_readable;

/// A page as it is in the tree, without rows that the next page has.
#[derive(Debug)]
pub(in crate::storage) struct Page {
    pub(in crate::storage) key: IVec,
    pub(in crate::storage) rows: Result<Vec<ActivityRow>, CodecError>,
}

impl Page {
    fn new(key: IVec, value: &[u8], end: Option<&IVec>) -> Self {
        let mut rows = AgePage::decode(&key, value);
        if let (Ok(rows), Some(end)) = (&mut rows, end) {
            rows.truncate(rows.partition_point(|row| row.encode().as_slice() < end.as_ref()));
        }
        Self { key, rows }
    }
}

/// The pages that may have rows of a range, from one of its ends. Whatever is split meanwhile, no row that stays is passed over.
pub(in crate::storage) struct Pages {
    tree: sled::Tree,
    order: AgeOrder,
    /// What is left of the tree.
    left: (Bound<IVec>, Bound<IVec>),
    /// From the oldest: a reader that has come to a page meets what a split puts behind it.
    oldest: sled::Iter,
    /// The next page, to know where the one before it ends.
    held: Option<(IVec, IVec)>,
}

impl Pages {
    pub(in crate::storage) fn of(tree: &sled::Tree, range: &AgeRange, order: AgeOrder) -> Result<Self> {
        let from = match range.0 {
            Bound::Included(row) | Bound::Excluded(row) => page_key(tree, &row)?,
            Bound::Unbounded => None,
        };
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        let to = match range.1 {
            Bound::Included(row) | Bound::Excluded(row) => Bound::Included(IVec::from(&row.encode())),
            Bound::Unbounded => Bound::Unbounded,
        };
        let left = (from, to);
        let mut pages = Self { tree: tree.clone(), order, oldest: tree.range(left.clone()), left, held: None };
        if order == AgeOrder::OldestFirst {
            pages.held = read(pages.oldest.next())?;
        }
        Ok(pages)
    }

    fn next_oldest(&mut self) -> Result<Option<Page>> {
        let Some((key, value)) = self.held.take() else { return Ok(None) };
        self.held = read(self.oldest.next())?;
        Ok(Some(Page::new(key, &value, self.held.as_ref().map(|(key, _)| key))))
    }

    /// A split writes the upper pages first. So one that has nothing behind it, once it was read, was whole when it was.
    fn next_newest(&mut self) -> Result<Option<Page>> {
        loop {
            let (from, to) = self.left.clone();
            let Some((key, value)) = read(self.tree.range((from, to.clone())).next_back())? else { return Ok(None) };
            if read(self.tree.range((Bound::Excluded(key.clone()), to.clone())).next())?.is_some() {
                continue;
            }
            let end = match &to {
                Bound::Excluded(end) => Some(end),
                Bound::Included(_) | Bound::Unbounded => None,
            };
            let page = Page::new(key.clone(), &value, end);
            self.left.1 = Bound::Excluded(key);
            return Ok(Some(page));
        }
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.order {
            AgeOrder::OldestFirst => self.next_oldest(),
            AgeOrder::NewestFirst => self.next_newest(),
        }
        .transpose()
    }
}

fn read(row: Option<sled::Result<(IVec, IVec)>>) -> Result<Option<(IVec, IVec)>> {
    row.transpose().map_err(|e| engine_error("read", e))
}

/// The key of the page that a row belongs to.
fn page_key(tree: &sled::Tree, row: &ActivityRow) -> Result<Option<IVec>> {
    Ok(read(tree.range(..=row.encode()).next_back())?.map(|(key, _)| key))
}

/// The page that a row belongs to, and the key of the next one.
fn page_of(tree: &sled::Tree, row: &ActivityRow) -> Result<(Option<Page>, Option<IVec>)> {
    let next = read(tree.range((Bound::Excluded(row.encode()), Bound::Unbounded)).next())?.map(|(key, _)| key);
    let page = read(tree.range(..=row.encode()).next_back())?;
    Ok((page.map(|(key, value)| Page::new(key, &value, next.as_ref())), next))
}

/// The writes that put rows into their pages. The rows are in order, and none is there twice.
pub(in crate::storage) fn puts(tree: &sled::Tree, mut rows: &[ActivityRow]) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    while let Some(first) = rows.first() {
        let (page, next) = page_of(tree, first)?;
        let here;
        (here, rows) = split_at(rows, next.as_ref());
        let (key, before, here) = match page {
            None => (AgePage::FIRST.to_vec(), Vec::new(), here),
            Some(Page { key, rows: Ok(before) }) => (key.to_vec(), before, here),
            // What it has is for a repair. The new rows get a page behind it, but for one that would be in its place.
            Some(Page { key, rows: Err(_) }) => {
                let behind = here.split_first().filter(|(first, _)| first.encode().as_slice() == key.as_ref());
                let here = behind.map_or(here, |(_, behind)| behind);
                let Some(first) = here.first() else { continue };
                (first.encode().to_vec(), Vec::new(), here)
            }
        };
        // Rows that come behind all others fill their pages; most do.
        let is_end = before.last().is_none_or(|last| last < first);
        let mut all = [&before, here].concat();
        all.sort_unstable();
        all.dedup();
        let pages = all.len().div_ceil(AgePage::MAX_ROWS).max(1);
        let per_page = if is_end { AgePage::MAX_ROWS } else { all.len().div_ceil(pages) };
        let mut pages = all.chunks(per_page);
        let lowest = pages.next().unwrap_or_default();
        let upper = pages.rev().filter_map(|page| Some((page.first()?.encode().to_vec(), Some(AgePage::encode(page)))));
        writes.extend(upper);
        if lowest != before {
            writes.push((key, Some(AgePage::encode(lowest))));
        }
    }
    Ok(writes)
}

/// The writes that remove rows from their pages, likewise. Rows that are not there cost nothing.
pub(in crate::storage) fn removals(tree: &sled::Tree, mut rows: &[ActivityRow]) -> Result<Vec<Write>> {
    let (mut writes, mut written) = (Vec::new(), None);
    while let Some(first) = rows.first() {
        let (page, next) = page_of(tree, first)?;
        let here;
        (here, rows) = split_at(rows, next.as_ref());
        let Some(Page { key, rows: Ok(before), .. }) = page else { continue };
        let left: Vec<_> = before.iter().filter(|row| here.binary_search(row).is_err()).copied().collect();
        if left.len() == before.len() {
            continue;
        }
        if left.is_empty() {
            // What a crash has left in the page before it would count again.
            let lower = read(tree.range::<&[u8], _>(..key.as_ref()).next_back())?;
            if let Some((lower, value)) = lower.filter(|(lower, _)| written.as_ref() != Some(lower))
                && let Ok(all) = AgePage::decode(&lower, &value)
                && let Page { rows: Ok(kept), .. } = Page::new(lower.clone(), &value, Some(&key))
                && kept.len() < all.len()
            {
                writes.push((lower.to_vec(), Some(AgePage::encode(&kept))));
            }
            writes.push((key.to_vec(), None));
        } else {
            writes.push((key.to_vec(), Some(AgePage::encode(&left))));
        }
        written = Some(key);
    }
    Ok(writes)
}

/// Writes where nobody else looks, and no order counts.
pub(in crate::storage) fn write(tree: &sled::Tree, writes: Vec<Write>) -> Result<()> {
    writes.into_iter().try_for_each(|(row, value)| match value {
        Some(value) => put(tree, row, &value),
        None => delete(tree, row),
    })
}

/// What comes before the next page, and the rest.
fn split_at<'a>(rows: &'a [ActivityRow], next: Option<&IVec>) -> (&'a [ActivityRow], &'a [ActivityRow]) {
    let here = next.map_or(rows.len(), |next| rows.partition_point(|row| row.encode().as_slice() < next.as_ref()));
    rows.split_at_checked(here).unwrap_or((rows, &[]))
}

impl Engine {
    /// Whether the index has this row. A page that cannot be decoded has none.
    pub(in crate::storage) fn has_age_row(&self, row: &ActivityRow) -> Result<bool> {
        let (page, _) = page_of(&self.trees.by_updated_at, row)?;
        let is_there = page.and_then(|page| page.rows.ok()).is_some_and(|rows| rows.binary_search(row).is_ok());
        Ok(is_there && !self.gone.contains(row))
    }

    /// A row of the tree as a page.
    pub(in crate::storage) fn page(&self, key: &[u8], value: &[u8]) -> Result<Page> {
        let next = read(self.trees.by_updated_at.range::<&[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next())?;
        Ok(Page::new(key.into(), value, next.as_ref().map(|(key, _)| key)))
    }

    /// The rows of a page that count. The error names the page.
    pub(in crate::storage) fn rows_of(&self, page: Page) -> Result<Vec<ActivityRow>> {
        let mut rows = page.rows.map_err(|error| damaged_at("by_updated_at", &page.key, error))?;
        self.gone.retain_others(&mut rows);
        Ok(rows)
    }
}

impl Writer {
    /// Puts rows into the index by age, where they count from now on.
    pub(in crate::storage) fn put_age_rows(&mut self, engine: &Engine, mut rows: Vec<ActivityRow>) -> Result<()> {
        self.write_age_rows(engine, &mut rows)?;
        engine.gone.forget(&rows);
        Ok(())
    }

    pub(super) fn write_age_rows(&mut self, engine: &Engine, rows: &mut Vec<ActivityRow>) -> Result<()> {
        rows.sort_unstable();
        rows.dedup();
        self.write_pages(engine, puts(&engine.trees.by_updated_at, rows)?)
    }

    /// Removes rows from the index by age. Answers how many pages it wrote.
    pub(in crate::storage) fn remove_age_rows(&mut self, engine: &Engine, mut rows: Vec<ActivityRow>) -> Result<usize> {
        rows.sort_unstable();
        let writes = removals(&engine.trees.by_updated_at, &rows)?;
        let written = writes.len();
        self.write_pages(engine, writes)?;
        engine.gone.forget(&rows);
        Ok(written)
    }

    fn write_pages(&mut self, engine: &Engine, writes: Vec<Write>) -> Result<()> {
        let tree = &engine.trees.by_updated_at;
        writes.into_iter().try_for_each(|(row, value)| self.write(engine, tree, row, value.as_deref()))
    }

    /// Clears an index row that a crash has left: its entry is gone, or the row is earlier than the hot record in its
    /// tree. A row that is later stays, for that record may be about to be written. Returns whether it was cleared.
    pub(crate) fn recheck(&mut self, engine: &Engine, row: &ActivityRow) -> Result<bool> {
        // The row of an entry whose record cannot be decoded stays: it is the only trace of its time.
        let Some(hot) = if_readable(engine.stored_hot(row.entry))? else { return Ok(false) };
        // A row of no entry is the only trace of its time, if `verify` finds that the entry has lost its record.
        let Some(right) = hot.map(|hot| ActivityRow::of(&hot, row.entry)) else { return Ok(false) };
        // It may be gone since it was met.
        if row.time >= right.time || !engine.has_age_row(row)? {
            return Ok(false);
        }
        // Without any row no later pass would find the entry.
        if !engine.has_age_row(&right)? {
            self.put_age_rows(engine, vec![right])?;
        }
        self.append_left(engine, &[*row])?;
        engine.gone.add([*row], self.journal.epoch);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
