//! From the text of an entry to the entry.

use std::collections::BTreeMap;

use super::bad::Bad;
use super::report::ImportReport;
use crate::entry::{Details, Extras, SessionEntry, Usage};
use crate::gateway::{Form, Gateway, Kind, Shown, Slot, Times, Typed, read, read_time};
use crate::json;
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;
use crate::zone::Hour;

/// What times are measured against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The age of an entry without one, and of one from the future.
    pub(super) file_time: Timestamp,
    /// The latest time that is believed.
    pub(super) latest: Timestamp,
}

/// What of one entry does not come back as it was: its times, and fields that it has twice. They count only if the entry is good.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Repairs {
    clamped: u64,
    skipped: u64,
    repeated: u64,
    without_time: bool,
    repeated_fields: u64,
}

impl Repairs {
    pub(super) fn count_in(&self, report: &mut ImportReport) {
        report.clamped += self.clamped;
        report.skipped_hours += self.skipped;
        report.repeated_hours += self.repeated;
        report.without_time += u64::from(self.without_time);
        report.repeated_fields += self.repeated_fields;
    }
}

/// An entry that was read.
#[derive(Debug)]
pub(super) struct ReadEntry {
    pub(super) entry: SessionEntry,
    pub(super) extras: Extras,
    pub(super) repairs: Repairs,
}

/// Reads the fields of an entry, as [`json::all_fields`] gives them.
pub(super) fn read_entry(
    key: SessionKey,
    mut fields: Vec<(String, String)>,
    times: Times,
    bounds: Bounds,
) -> Result<ReadEntry, Bad> {
    let mut repairs = Repairs { repeated_fields: json::drop_repeated(&mut fields), ..Repairs::default() };
    let id = times.gateway.id_field();
    let texts: BTreeMap<&str, &str> = fields.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let session_id = texts.get(id).and_then(|text| json::string(text)).ok_or(Bad::NoId(id))?;
    let mut entry = SessionEntry {
        key,
        session_id: SessionId::new(session_id).map_err(Bad::Id)?,
        created_at: bounds.file_time,
        updated_at: bounds.file_time,
        suspended: false,
        resume_pending: false,
        usage: Usage::ZERO,
        details: Details::default(),
        extras_bytes: 0,
        extras_generation: 0,
    };
    let mut repaired = Vec::new();
    let mut has = [false; 2];
    for field in times.gateway.fields() {
        let Some(text) = texts.get(field.name) else { continue };
        let value = if field.slot.kind() == Kind::Time {
            let (time, is_repaired) = believed(text, times, bounds, &mut repairs);
            repaired.extend(is_repaired.then_some(field.name));
            time
        } else {
            read(field.slot.kind(), text, times)
        };
        let is_set = value != Typed::Null;
        match field.slot {
            Slot::UpdatedAt => has[0] |= is_set,
            Slot::CreatedAt => has[1] |= is_set,
            // The newer name counts where both are there.
            Slot::ExpiryFinalized if field.shown == Shown::Alias && texts.contains_key("expiry_finalized") => continue,
            _ => {}
        }
        field.slot.set(&mut entry, value);
    }
    let [has_activity, has_creation] = has;
    repairs.without_time = !has_activity;
    if !has_creation {
        entry.created_at = entry.updated_at;
    }
    if entry.details.platform.is_none() && times.gateway == Gateway::OpenClaw {
        // Older entries say only where the reply went.
        entry.details.platform = texts.get("lastChannel").and_then(|text| json::string(text));
    }

    let form = Form::of(&mut entry, &texts, &repaired, times);
    let is_typed = |name: &str| times.gateway.fields().iter().any(|field| field.name == name);
    let others = texts.iter().filter(|(name, _)| !is_typed(name)).map(|(name, text)| (*name, *text)).collect();
    let extras = Extras::from_parts(others, form.as_deref());
    Ok(ReadEntry { entry, extras, repairs })
}

/// Reads a time and moves it to where it can be. Answers whether it had to be moved.
fn believed(text: &str, times: Times, bounds: Bounds, repairs: &mut Repairs) -> (Typed, bool) {
    let Some(moment) = read_time(text, times) else { return (Typed::Null, false) };
    match moment.hour {
        Hour::Plain => {}
        Hour::Skipped => repairs.skipped += 1,
        Hour::Repeated => repairs.repeated += 1,
    }
    let time = if moment.micros < Timestamp::MIN.as_micros() {
        Timestamp::MIN
    } else if moment.micros > bounds.latest.as_micros() {
        bounds.file_time
    } else {
        return (Typed::Time(Timestamp::from_micros(moment.micros)), false);
    };
    repairs.clamped += 1;
    (Typed::Time(time), true)
}
