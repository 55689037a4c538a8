//! Where the extras of an entry go, when they change. `extras.rs` says what there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::extras::{Base, Directory, ExtrasIndex, ExtrasRef, Field, MAX_INLINE, MAX_INLINE_TEXT, Parts};
use super::{CodecError, Cold, MAX_EXTRAS_BYTES};
use crate::entry::Extras;

/// What is to become of the extras of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewExtras<'a> {
    /// They stay.
    Kept,
    /// These are all there are.
    All(&'a Extras),
    /// These names have these texts, or none, and the others stay.
    Changed(&'a BTreeMap<String, Option<String>>),
}

/// Why an entry cannot be arranged.
#[derive(Debug)]
pub(crate) enum ArrangeError<E> {
    Encode(CodecError),
    /// It would have this many bytes of extras.
    TooLarge(usize),
    Base(E),
}

/// Decides where the extras of an entry go, and its details if its record has no room for them. `cold` becomes the
/// record to be written; the answer are the parts that are new, with numbers from `next`. `base` reads the base that
/// `cold` names, and is called only where it is needed.
pub(crate) fn arrange<E>(
    cold: &mut Cold,
    new: NewExtras<'_>,
    base: impl FnOnce(ExtrasRef) -> Result<Base, E>,
    next: impl FnMut() -> u64,
) -> Result<Parts, ArrangeError<E>> {
    let there = cold.extras.take().map(Arc::unwrap_or_clone).unwrap_or_default();
    let mut arranging = Arranging { index: there, base: None, read: Some(base), parts: Parts::new(), next };
    match new {
        NewExtras::Kept => {}
        NewExtras::All(extras) => {
            arranging.index = ExtrasIndex::default();
            for (name, text) in extras.iter() {
                arranging.set(name, Some(text))?;
            }
            arranging.set_form(extras.form.as_deref())?;
        }
        NewExtras::Changed(changes) => {
            for (name, text) in changes {
                arranging.set(name, text.as_deref())?;
            }
        }
    }
    arranging.finish(cold)
}

struct Arranging<R, N> {
    index: ExtrasIndex,
    /// The one that the index names, once it was read.
    base: Option<Base>,
    read: Option<R>,
    parts: Parts,
    next: N,
}

impl<E, R: FnOnce(ExtrasRef) -> Result<Base, E>, N: FnMut() -> u64> Arranging<R, N> {
    fn base(&mut self) -> Result<&Base, ArrangeError<E>> {
        if let (None, Some(at)) = (&self.base, self.index.base)
            && let Some(read) = self.read.take()
        {
            self.base = Some(read(at).map_err(ArrangeError::Base)?);
        }
        Ok(self.base.get_or_insert_default())
    }

    fn set(&mut self, name: &str, text: Option<&str>) -> Result<(), ArrangeError<E>> {
        let before = match self.index.changed.get(name) {
            Some(field) => field.as_ref().map(Field::len),
            None => self.base()?.fields.get(name).map(Field::len),
        };
        self.count(before.map(|len| name.len() + len), text.map(|text| name.len() + text.len()))?;
        match text {
            Some(text) => {
                let field = self.field(text)?;
                self.index.changed.insert(name.into(), Some(field));
            }
            None if before.is_none() => {}
            // It may be below.
            None if self.index.base.is_some() => drop(self.index.changed.insert(name.into(), None)),
            None => drop(self.index.changed.remove(name)),
        }
        Ok(())
    }

    fn set_form(&mut self, form: Option<&str>) -> Result<(), ArrangeError<E>> {
        self.count(self.index.form.as_ref().map(Field::len), form.map(str::len))?;
        self.index.form = form.map(|form| self.field(form)).transpose()?;
        Ok(())
    }

    fn field(&mut self, text: &str) -> Result<Field, ArrangeError<E>> {
        if text.len() <= MAX_INLINE_TEXT {
            return Ok(Field::Text(text.into()));
        }
        self.part(text.as_bytes().into()).map(Field::Stored)
    }

    fn part(&mut self, bytes: Arc<[u8]>) -> Result<ExtrasRef, ArrangeError<E>> {
        let length = u32::try_from(bytes.len()).map_err(|_| ArrangeError::TooLarge(bytes.len()))?;
        let at = ExtrasRef { generation: (self.next)(), bytes: length };
        self.parts.insert(at.generation, bytes);
        Ok(at)
    }

    fn count(&mut self, before: Option<usize>, after: Option<usize>) -> Result<(), ArrangeError<E>> {
        let others = usize::try_from(self.index.bytes).unwrap_or(usize::MAX).saturating_sub(before.unwrap_or(0));
        let bytes = others + after.unwrap_or(0);
        // Numbers beyond this are damage, and a limit that is passed below is found when all is set.
        self.index.bytes = u32::try_from(bytes).map_err(|_| ArrangeError::TooLarge(bytes))?;
        Ok(())
    }

    fn finish(mut self, cold: &mut Cold) -> Result<Parts, ArrangeError<E>> {
        let bytes = usize::try_from(self.index.bytes).unwrap_or(usize::MAX);
        if bytes > MAX_EXTRAS_BYTES {
            return Err(ArrangeError::TooLarge(bytes));
        }
        if self.index.base.is_some() && bytes == 0 {
            // All names are gone.
            self.index = ExtrasIndex::default();
            self.base = None;
        }
        if self.index.inline_len() <= MAX_INLINE && self.fits(cold)? {
            return Ok(self.parts);
        }
        // The directory as a whole, for the record or for a new base.
        self.base()?;
        let fields = self.index.directory(self.base.take().unwrap_or_default());
        self.index.base = None;
        let inline = |(name, field): (&String, &Field)| name.len() + field.inline_len();
        if fields.iter().map(inline).sum::<usize>() <= MAX_INLINE / 2 {
            self.index.changed = fields.iter().map(|(name, field)| (name.clone(), Some(field.clone()))).collect();
            if self.fits(cold)? {
                return Ok(self.parts);
            }
        }
        self.index.changed.clear();
        let mut spilled = None;
        loop {
            let base = Base::encode(spilled.as_ref(), &fields).map_err(ArrangeError::Encode)?;
            if let Some(details) = &spilled {
                let details = Base::encode(Some(details), &Directory::new()).map_err(ArrangeError::Encode)?;
                let all = bytes + details.len();
                if all > MAX_EXTRAS_BYTES {
                    return Err(ArrangeError::TooLarge(all));
                }
            }
            let at = self.part(base.into())?;
            self.index.base = Some(at);
            if spilled.is_some() || self.fits(cold)? {
                self.index_into(cold);
                return Ok(self.parts);
            }
            self.parts.remove(&at.generation);
            spilled = Some(cold.details.clone());
        }
    }

    fn index_into(&self, cold: &mut Cold) {
        cold.extras = (self.index != ExtrasIndex::default()).then(|| Arc::new(self.index.clone()));
    }

    /// Whether the record has room for the index and the details. It has the index then.
    fn fits(&self, cold: &mut Cold) -> Result<bool, ArrangeError<E>> {
        self.index_into(cold);
        cold.encode().map(|record| record.is_some()).map_err(ArrangeError::Encode)
    }
}
