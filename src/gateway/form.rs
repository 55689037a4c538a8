//! What an export needs to know beyond the values: how the file wrote what it wrote unusually.
//!
//! An export writes each typed field in the gateway's usual way. Where a file did otherwise, the [`Form`] of the entry
//! has its text, and the export uses it for as long as the text still says what the store holds. So it is the store
//! that answers: once a value changes, the remembered text is dead, and no other field is touched by that.
//!
//! Forms are kept, so the usual way is frozen: a change of what [`usual`] writes changes what old forms mean.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::times::Times;
use super::typed::{Typed, read, write};
use super::{Field, Gateway, Shown, Slot};
use crate::entry::{Extras, SessionEntry};

/// How a file wrote an entry, where that is not the usual way. Kept as JSON with the entry's extras.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Form {
    #[serde(rename = "of")]
    gateway: Gateway,
    /// Field → the text it had. Such a field is always written.
    #[serde(rename = "as", default, skip_serializing_if = "BTreeMap::is_empty")]
    texts: BTreeMap<String, String>,
    /// Fields that the file did not have, though they are usual or have a value from elsewhere.
    #[serde(rename = "no", default, skip_serializing_if = "BTreeSet::is_empty")]
    absent: BTreeSet<String>,
    /// Field → mark of the value that was put in place, where the text does not say it.
    #[serde(rename = "was", default, skip_serializing_if = "BTreeMap::is_empty")]
    marks: BTreeMap<String, String>,
}

/// Fields of an entry as they are written: names and JSON texts.
pub(crate) type Written = Vec<(String, String)>;

impl Form {
    fn new(gateway: Gateway) -> Self {
        Self { gateway, texts: BTreeMap::new(), absent: BTreeSet::new(), marks: BTreeMap::new() }
    }

    /// What is to be remembered of an entry that was read from `fields`; `None` if nothing is. The times in
    /// `repaired` were moved and are to be written as they are now.
    pub(crate) fn of(
        entry: &mut SessionEntry,
        fields: &BTreeMap<&str, &str>,
        repaired: &[&str],
        times: Times<'_>,
    ) -> Option<String> {
        let mut form = Self::new(times.gateway);
        for field in times.gateway.fields() {
            let value = field.slot.get(entry);
            let usual = usual(field, &value, times);
            let found = fields.get(field.name).copied();
            let moved = found.filter(|_| repaired.contains(&field.name));
            let moved = moved.map(|text| write(&value, field.slot, times, Some(text)));
            let found = moved.as_deref().or(found);
            if usual.as_deref() == found {
                continue;
            }
            let said = match found {
                Some(text) => {
                    form.texts.insert(field.name.into(), text.into());
                    read(field.slot.kind(), text, times)
                }
                None => {
                    form.absent.insert(field.name.into());
                    Typed::default_of(field.slot.kind())
                }
            };
            if said != value {
                form.marks.insert(field.name.into(), value.mark());
            }
        }
        if form == Self::new(times.gateway) {
            return None;
        }
        // Maps of texts always serialize.
        serde_json::to_string(&form).ok()
    }

    /// What was remembered of an entry by an import of this gateway's files.
    fn remembered(extras: &Extras, gateway: Gateway) -> Self {
        let form = extras.form.as_deref().and_then(|form| serde_json::from_str::<Self>(form).ok());
        form.filter(|form| form.gateway == gateway).unwrap_or_else(|| Self::new(gateway))
    }

    /// The text of a field; `None` if it is not to be written.
    fn write(&self, field: &Field, value: &Typed, times: Times<'_>) -> Option<String> {
        let written = self.texts.get(field.name).map(String::as_str);
        let is_absent = self.absent.contains(field.name);
        let unchanged = match (self.marks.get(field.name), written) {
            (Some(mark), _) => *mark == value.mark(),
            (None, Some(text)) => read(field.slot.kind(), text, times) == *value,
            (None, None) => is_absent && Typed::default_of(field.slot.kind()) == *value,
        };
        match written {
            Some(text) if unchanged => Some(text.into()),
            Some(text) => Some(write(value, field.slot, times, Some(text))),
            None if is_absent && unchanged => None,
            None if is_absent && field.shown != Shown::Alias => Some(write(value, field.slot, times, None)),
            None => usual(field, value, times),
        }
    }
}

/// How a field is written of which nothing is remembered.
fn usual(field: &Field, value: &Typed, times: Times<'_>) -> Option<String> {
    let is_default = *value == Typed::default_of(field.slot.kind());
    match field.shown {
        Shown::Alias => None,
        Shown::IfSet if is_default => None,
        Shown::IfSet | Shown::Always => Some(write(value, field.slot, times, None)),
    }
}

/// The fields of an entry as its gateway writes them: the typed ones in the usual order, then the others by name.
pub(crate) fn write_entry(entry: &mut SessionEntry, extras: &Extras, times: Times<'_>) -> Written {
    let form = Form::remembered(extras, times.gateway);
    let mut written: Written = Vec::with_capacity(40);
    for field in times.gateway.fields() {
        let value = field.slot.get(entry);
        written.extend(form.write(field, &value, times).map(|text| (field.name.to_owned(), text)));
        if field.slot == Slot::ChatType {
            let metadata = extras.text(Extras::METADATA);
            written.extend(metadata.map(|text| (Extras::METADATA.to_owned(), text.to_owned())));
        }
    }
    let is_typed = |name: &str| name == Extras::METADATA || times.gateway.fields().iter().any(|f| f.name == name);
    let others = extras.iter().filter(|(name, _)| !is_typed(name));
    written.extend(others.map(|(name, text)| (name.to_owned(), text.to_owned())));
    written
}
