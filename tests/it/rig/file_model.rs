//! One file in the model: what of its content is durable, and what may be.
//!
//! Content is kept in pages of 4 KiB. Each page has one durable image and the
//! images that unsynced writes made of it. A power cut leaves any one of them,
//! or two of them torn at a 512-byte boundary; each page decides for itself.
//! The length is decided apart from the content: any length the file has had
//! since its last sync. A cut of the length (truncate) is ordered with the
//! length, so bytes from before it do not come back behind it.
//!
//! A failed sync leaves the written pages clean and not durable, as Linux does:
//! a later sync does not save them unless they are written again.
//!
//! Not modelled: the old content of reused disk blocks, bit rot, and more than
//! `KEPT` unsynced images of one page (the older ones are forgotten).

use std::collections::{BTreeMap, BTreeSet};

pub use crate::suite::Dice;

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const KEPT: usize = 32;

type Image = Box<[u8; PAGE]>;

#[derive(Default)]
struct Page {
    /// None: zeros.
    durable: Option<Image>,
    /// (operation, image), oldest first.
    pending: Vec<(usize, Image)>,
}

impl Page {
    fn latest(&self) -> Image {
        let last = self.pending.last().map(|(_, image)| image);
        let image = last.or(self.durable.as_ref()).cloned();
        image.unwrap_or_else(|| Box::new([0; PAGE]))
    }
}

/// A change of the length that is not durable yet.
struct NewLen {
    op: usize,
    len: u64,
    cut: bool,
}

#[derive(Default)]
pub struct FileModel {
    pages: BTreeMap<u64, Page>,
    /// Pages that the next sync makes durable.
    dirty: BTreeSet<u64>,
    durable_len: u64,
    lens: Vec<NewLen>,
}

impl FileModel {
    /// A file that is durable from the start.
    pub fn durable(content: &[u8]) -> FileModel {
        let mut file = FileModel::default();
        file.write(0, 0, content);
        file.sync();
        file
    }

    fn len(&self) -> u64 {
        self.lens.last().map_or(self.durable_len, |last| last.len)
    }

    pub fn write(&mut self, op: usize, mut offset: u64, mut data: &[u8]) {
        let end = offset + data.len() as u64;
        while !data.is_empty() {
            let (number, start) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let (now, later) = data.split_at(data.len().min(PAGE - start));
            self.change(op, number, |image| {
                image[start..start + now.len()].copy_from_slice(now);
            });
            offset += now.len() as u64;
            data = later;
        }
        if end > self.len() {
            let (len, cut) = (end, false);
            self.lens.push(NewLen { op, len, cut });
        }
    }

    pub fn set_len(&mut self, op: usize, len: u64) {
        let cut = len < self.len();
        if cut {
            let first = len / PAGE as u64;
            let cut_pages: Vec<u64> = self.pages.range(first..).map(|(n, _)| *n).collect();
            for number in cut_pages {
                self.change(op, number, |image| clear_from(image, number, len));
            }
        }
        self.lens.push(NewLen { op, len, cut });
    }

    /// Adds an unsynced image of a page.
    fn change(&mut self, op: usize, number: u64, edit: impl FnOnce(&mut Image)) {
        let page = self.pages.entry(number).or_default();
        let mut image = page.latest();
        edit(&mut image);
        if page.pending.len() == KEPT {
            page.pending.remove(0);
        }
        page.pending.push((op, image));
        self.dirty.insert(number);
    }

    pub fn sync(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            let page = self.pages.get_mut(&number).expect("a dirty page exists");
            let last = page.pending.pop().expect("a dirty page has an image");
            page.durable = Some(last.1);
            page.pending.clear();
        }
        self.durable_len = self.len();
        self.lens.clear();
    }

    pub fn sync_failed(&mut self) {
        self.dirty.clear();
    }

    /// The content that is sure.
    pub fn synced(&self) -> Vec<u8> {
        self.content(self.durable_len, |_, page| page.durable.clone())
    }

    /// The content as the running child sees it.
    pub fn latest(&self) -> Vec<u8> {
        self.content(self.len(), |_, page| Some(page.latest()))
    }

    /// A content that a power cut may leave. `keep` of 8 pages keep their
    /// newest image.
    pub fn random(&self, dice: &mut Dice, keep: usize) -> Vec<u8> {
        // The length first: it says which cuts have taken place.
        let chosen = match dice.roll(8) < keep {
            true => self.lens.len(),
            false => dice.roll(self.lens.len() + 1),
        };
        let (done, to_come) = self.lens.split_at(chosen);
        let len = done.last().map_or(self.durable_len, |last| last.len);
        self.content(len, |number, page| {
            if page.pending.is_empty() && done.is_empty() {
                return page.durable.clone();
            }
            let images = possible_images(number, page, done, to_come);
            let any = |dice: &mut Dice| images[dice.roll(images.len())].clone();
            if dice.roll(8) < keep {
                return images.last().cloned();
            }
            Some(match dice.roll(3) {
                0 => images[0].clone(),
                1 => any(dice),
                _ => {
                    let (mut image, tail) = (any(dice), any(dice));
                    let at = SECTOR * (1 + dice.roll(PAGE / SECTOR - 1));
                    image[at..].copy_from_slice(&tail[at..]);
                    image
                }
            })
        })
    }

    fn content(&self, len: u64, mut pick: impl FnMut(u64, &Page) -> Option<Image>) -> Vec<u8> {
        let mut content = vec![0; usize::try_from(len).expect("a length")];
        for (number, page) in &self.pages {
            // Pick for pages behind the end too: the dice must not depend on it.
            let image = pick(*number, page);
            let start = *number as usize * PAGE;
            if let (Some(image), Some(place)) = (image, content.get_mut(start..)) {
                let n = place.len().min(PAGE);
                place[..n].copy_from_slice(&image[..n]);
            }
        }
        content
    }
}

/// The images a page may have, oldest first; the first is the durable one.
fn possible_images(number: u64, page: &Page, done: &[NewLen], to_come: &[NewLen]) -> Vec<Image> {
    let end = (number + 1) * PAGE as u64;
    let reaches = |cut: &&NewLen| cut.cut && cut.len < end;
    let limit = to_come.iter().find(reaches).map_or(usize::MAX, |cut| cut.op);
    let durable = page.durable.clone().unwrap_or_else(|| Box::new([0; PAGE]));
    let pending = page.pending.iter().filter(|(op, _)| *op < limit);
    let mut images: Vec<(usize, Image)> = vec![(0, durable)];
    images.extend(pending.cloned());
    for (op, image) in &mut images {
        let born = *op;
        for cut in done.iter().filter(|cut| cut.op > born).filter(reaches) {
            clear_from(image, number, cut.len);
        }
    }
    images.into_iter().map(|(_, image)| image).collect()
}

/// Zeros the part of a page that lies behind a length.
fn clear_from(image: &mut Image, number: u64, len: u64) {
    let start = len.saturating_sub(number * PAGE as u64);
    if start < PAGE as u64 {
        image[start as usize..].fill(0);
    }
}
