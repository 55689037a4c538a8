//! An entry's extras: what its cold record says of them, and what is where.
//!
//! A *part* is bytes under a number of their own, its generation, which a store never uses twice. A part never changes.
//! There are two kinds: a *base*, which is a directory by name, and a *value*, which is one JSON text. The cold record
//! owns the parts: it has the newest of the directory, and names the base with the rest, if there is one.
//!
//! | what | where it goes |
//! | --- | --- |
//! | a text of at most [`MAX_INLINE_TEXT`] bytes | into the directory |
//! | a longer one | a value of its own; the directory says which |
//! | the directory, while it takes at most [`MAX_INLINE`] bytes | into the cold record; there is no base |
//! | a longer one | a base; what changes next goes into the cold record on top of it, until that is full and a new base is made |
//! | details that the cold record has no room for | into a base |
//! | the form of an imported entry | as any text, but always named by the cold record |
//!
//! So a change writes the cold record and what is long in the change, and reads the directory. `arrange.rs` decides all of
//! this. A writer keeps to an order: new parts, then the record, then the removal of parts that it names no more. Then
//! a crash leaves the old extras or the new ones, and parts that no record names at the most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::details::{DetailsV1, details, details_v1};
use super::{CodecError, decode, encode};
use crate::entry::{Details, Extras};
use crate::json;

/// The longest text that is kept in a directory, in bytes.
pub(crate) const MAX_INLINE_TEXT: usize = 512;
/// What the extras may take of a cold record, in bytes.
pub(crate) const MAX_INLINE: usize = 1536;
/// What a field takes in a directory beside its name and its text, at most.
const FIELD_BYTES: usize = 20;

/// A part, and how long it is. Its chunks are numbered from 0 and full but for the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ExtrasRef {
    pub(crate) generation: u64,
    pub(crate) bytes: u32,
}

/// Parts that are in memory, by generation.
pub(crate) type Parts = BTreeMap<u64, Arc<[u8]>>;

/// A directory: where the text of each name is.
pub(crate) type Directory = BTreeMap<String, Field>;

/// Where the text of a field is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    /// Here.
    Text(String),
    /// A part of its own.
    Stored(ExtrasRef),
}

/// What a cold record says of the extras of its entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ExtrasIndex {
    /// Bytes of all names and texts, the form included.
    pub(crate) bytes: u32,
    pub(crate) base: Option<ExtrasRef>,
    /// What differs from the base. `None` for a name that is gone.
    pub(crate) changed: BTreeMap<String, Option<Field>>,
    /// How an imported file wrote the entry.
    pub(crate) form: Option<Field>,
}

/// A base, decoded.
#[derive(PartialEq, Debug, Default)]
pub(crate) struct Base {
    /// The details of the entry, where they did not fit into its record.
    pub(crate) details: Option<Details>,
    pub(crate) fields: Directory,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ExtrasV1<'a> {
    bytes: u32,
    base: Option<ExtrasRef>,
    #[serde(borrow)]
    changed: Vec<(&'a str, Option<FieldV1<'a>>)>,
    #[serde(borrow)]
    form: Option<FieldV1<'a>>,
}

#[derive(Serialize, Deserialize)]
enum FieldV1<'a> {
    Text(&'a str),
    Stored(ExtrasRef),
}

/// What the chunks of a base hold, put together.
#[derive(Serialize, Deserialize)]
struct BaseV1<'a> {
    #[serde(borrow)]
    details: Option<DetailsV1<'a>>,
    #[serde(borrow)]
    fields: Vec<(&'a str, FieldV1<'a>)>,
}

impl Field {
    fn record(&self) -> FieldV1<'_> {
        match self {
            Self::Text(text) => FieldV1::Text(text),
            Self::Stored(at) => FieldV1::Stored(*at),
        }
    }

    /// How long the text is.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Stored(at) => usize::try_from(at.bytes).unwrap_or(usize::MAX),
        }
    }

    /// What it takes in a directory.
    pub(super) fn inline_len(&self) -> usize {
        FIELD_BYTES + self.text().map_or(0, str::len)
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Stored(_) => None,
        }
    }

    pub(crate) fn stored(&self) -> Option<ExtrasRef> {
        match self {
            Self::Text(_) => None,
            Self::Stored(at) => Some(*at),
        }
    }
}

impl From<FieldV1<'_>> for Field {
    fn from(record: FieldV1<'_>) -> Self {
        match record {
            FieldV1::Text(text) => Self::Text(text.into()),
            FieldV1::Stored(at) => Self::Stored(at),
        }
    }
}

impl ExtrasIndex {
    pub(super) fn record(&self) -> ExtrasV1<'_> {
        ExtrasV1 {
            bytes: self.bytes,
            base: self.base,
            changed: self
                .changed
                .iter()
                .map(|(name, field)| (name.as_str(), field.as_ref().map(Field::record)))
                .collect(),
            form: self.form.as_ref().map(Field::record),
        }
    }

    /// The directory, of which `base` is the one that the index names.
    pub(crate) fn directory(&self, base: Base) -> Directory {
        let mut all = base.fields;
        for (name, field) in &self.changed {
            match field {
                Some(field) => drop(all.insert(name.clone(), field.clone())),
                None => drop(all.remove(name)),
            }
        }
        all
    }

    /// The parts that the record names itself.
    pub(crate) fn named(&self) -> impl Iterator<Item = ExtrasRef> {
        let fields = self.changed.values().flatten().chain(&self.form).filter_map(Field::stored);
        fields.chain(self.base)
    }

    /// The generations that must stay, of which `base` names some.
    pub(crate) fn live(&self, base: &Base) -> BTreeSet<u64> {
        let under = base.fields.iter().filter(|(name, _)| !self.changed.contains_key(*name));
        let under = under.filter_map(|(_, field)| field.stored());
        self.named().chain(under).map(|at| at.generation).collect()
    }

    /// Whether a part that `before` needs may not be needed any more.
    pub(crate) fn may_let_go(before: Option<&Self>, now: Option<&Self>) -> bool {
        let Some(before) = before else { return false };
        let Some(now) = now else { return before.named().next().is_some() };
        let hides_more = now.base.is_some() && now.changed.keys().any(|name| !before.changed.contains_key(name));
        before.base != now.base || hides_more || {
            let named: BTreeSet<u64> = now.named().map(|at| at.generation).collect();
            before.named().any(|at| !named.contains(&at.generation))
        }
    }

    /// What it takes in the cold record.
    pub(crate) fn inline_len(&self) -> usize {
        let field = |(name, field): (&String, &Option<Field>)| {
            name.len() + field.as_ref().map_or(FIELD_BYTES, Field::inline_len)
        };
        self.changed.iter().map(field).sum::<usize>() + self.form.as_ref().map_or(0, Field::inline_len)
    }

    /// Bytes that are not in the cold record.
    pub(crate) fn bytes_outside(&self) -> u64 {
        let named: u64 = self.named().map(|at| u64::from(at.bytes)).sum();
        let inline = |field: &Field| field.text().map_or(0, str::len) as u64;
        let fields = self.changed.iter().filter_map(|(name, field)| Some(name.len() as u64 + inline(field.as_ref()?)));
        let inline = fields.sum::<u64>() + self.form.as_ref().map_or(0, inline);
        // A base says more than names and texts, and may say less than there is below it.
        named.max(u64::from(self.bytes).saturating_sub(inline))
    }
}

impl From<ExtrasV1<'_>> for ExtrasIndex {
    fn from(record: ExtrasV1<'_>) -> Self {
        let changed = record.changed.into_iter().map(|(name, field)| (name.into(), field.map(Field::from))).collect();
        Self { bytes: record.bytes, base: record.base, changed, form: record.form.map(Field::from) }
    }
}

impl Base {
    pub(crate) fn encode(details: Option<&Details>, fields: &Directory) -> Result<Vec<u8>, CodecError> {
        let fields = fields.iter().map(|(name, field)| (name.as_str(), field.record())).collect();
        encode(&BaseV1 { details: details.map(details_v1), fields }, 1024)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let base: BaseV1<'_> = decode(bytes)?;
        let fields = base.fields.into_iter().map(|(name, field)| (name.into(), field.into())).collect();
        Ok(Self { details: base.details.map(details).transpose()?, fields })
    }
}

/// The text that a value holds. Its chunks may be damaged, and what is no JSON must not get into an export.
pub(crate) fn value_text(part: &[u8]) -> Result<&str, CodecError> {
    let text = std::str::from_utf8(part)?;
    json::normal(text).map_err(|_| CodecError::NoJson)?;
    Ok(text)
}

/// Puts extras together from their parts; with the details, where those are in the base.
pub(crate) fn assemble<'p>(
    index: &ExtrasIndex,
    part: impl Fn(u64) -> Option<&'p [u8]>,
) -> Result<(Option<Details>, Extras), CodecError> {
    let read = |at: ExtrasRef| {
        let (part, expected) =
            (part(at.generation).unwrap_or_default(), usize::try_from(at.bytes).unwrap_or(usize::MAX));
        let is_whole = part.len() == expected;
        if is_whole { Ok(part) } else { Err(CodecError::ExtrasLength { found: part.len(), expected }) }
    };
    let text = |field: Field| match field {
        Field::Text(text) => Ok(text),
        Field::Stored(at) => value_text(read(at)?).map(str::to_owned),
    };
    let mut base = index.base.map(|at| Base::decode(read(at)?)).transpose()?.unwrap_or_default();
    let details = base.details.take();
    let mut extras = Extras::default();
    for (name, field) in index.directory(base) {
        extras.insert_checked(name, text(field)?);
    }
    extras.form = match &index.form {
        Some(Field::Stored(at)) => Some(std::str::from_utf8(read(*at)?)?.to_owned()),
        Some(Field::Text(form)) => Some(form.clone()),
        None => None,
    };
    Ok((details, extras))
}
