//! From the text of an entry to the entry.

use std::collections::BTreeMap;

use super::bad::Bad;
use super::looks;
use super::report::ImportReport;
use crate::entry::{Extras, SessionEntry};
use crate::gateway::{Form, Gateway, Kind, Moment, Shown, Slot, Times, Typed, read_as, read_time};
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

/// What of one entry does not come back as it was, or is not in the store as the file says it. It counts only if the
/// entry is good.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Repairs {
    clamped: u64,
    skipped: u64,
    repeated: u64,
    without_time: bool,
    unreadable_times: u64,
    odd_values: u64,
    repeated_fields: u64,
}

impl Repairs {
    pub(super) fn count_in(&self, report: &mut ImportReport) {
        report.clamped += self.clamped;
        report.skipped_hours += self.skipped;
        report.repeated_hours += self.repeated;
        report.without_time += u64::from(self.without_time);
        report.unreadable_times += self.unreadable_times;
        report.odd_values += self.odd_values;
        report.repeated_fields += self.repeated_fields;
    }
}

/// An entry that was read.
#[derive(Debug)]
pub(super) struct ReadEntry {
    pub(super) entry: SessionEntry,
    pub(super) extras: Extras,
    pub(super) repairs: Repairs,
    /// When it was active by the file, in microseconds since 1970, if that says so.
    pub(super) activity: Option<i64>,
    /// Some of its times depend on the zone.
    pub(super) is_naive: bool,
}

/// The fields of an entry by name, and how many come again.
pub(super) struct Fields {
    by_name: BTreeMap<String, String>,
    repeated: u64,
}

impl Fields {
    pub(super) fn read(text: &str) -> Result<Self, Bad> {
        let not_an_object = || Bad::NoObject(looks::of_value(text));
        let mut fields = json::all_fields(text).map_err(Bad::Json)?.ok_or_else(not_an_object)?;
        let repeated = json::drop_repeated(&mut fields);
        let named = |(name, value): (String, String)| Some((json::whole_string(&name)?, value));
        let by_name = fields.into_iter().map(named).collect::<Option<_>>().ok_or(Bad::FieldHalf)?;
        Ok(Self { by_name, repeated })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The JSON text of a field.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(String::as_str)
    }

    /// Whether its first values are entries themselves.
    pub(super) fn are_entries(&self) -> bool {
        let is_entry = |value: &String| Self::read(value).is_ok_and(|fields| Gateway::of(|n| fields.has(n)).is_some());
        self.by_name.values().take(3).any(is_entry)
    }

    /// The id of the session in an entry of `gateway`.
    fn session_id(&self, gateway: Gateway) -> Result<SessionId, Bad> {
        let field = gateway.id_field();
        let Some(text) = self.by_name.get(field) else {
            let other = [Gateway::Hermes, Gateway::OpenClaw].into_iter().find(|other| self.has(other.id_field()));
            return Err(match other {
                Some(is) => Bad::OtherGateway { is, read_as: gateway },
                None if self.are_entries() => Bad::Entries,
                None => Bad::NoId(field),
            });
        };
        if json::has_half(text) {
            return Err(Bad::IdHalf(field));
        }
        let id = json::string(text).ok_or_else(|| Bad::IdKind { field, found: looks::of_value(text) })?;
        SessionId::new(id).map_err(Bad::Id)
    }
}

/// Reads an entry.
pub(super) fn read_entry(key: SessionKey, fields: &Fields, times: Times, bounds: Bounds) -> Result<ReadEntry, Bad> {
    let mut repairs = Repairs { repeated_fields: fields.repeated, ..Repairs::default() };
    let mut entry = SessionEntry::new(key, fields.session_id(times.gateway)?, bounds.file_time);
    let texts: BTreeMap<&str, &str> =
        fields.by_name.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut repaired = Vec::new();
    let mut is_naive = false;
    let (mut activity, mut interaction) = (None, None);
    let mut says_activity = false;
    let mut has_creation = false;
    for field in times.gateway.fields() {
        let Some(text) = texts.get(field.name) else { continue };
        let value = if field.slot.kind() == Kind::Time {
            let moment = read_time(text, times);
            is_naive |= moment.is_some_and(|moment| moment.is_naive);
            let is_said = *text != "null";
            repairs.unreadable_times += u64::from(is_said && moment.is_none());
            match field.slot {
                Slot::UpdatedAt => {
                    says_activity |= is_said;
                    activity = moment.map(|moment| moment.micros);
                }
                Slot::LastInteraction => {
                    says_activity |= is_said;
                    interaction = moment.map(|moment| moment.micros);
                }
                Slot::CreatedAt => has_creation |= moment.is_some(),
                _ => {}
            }
            let (time, is_repaired) = moment.map_or((Typed::Null, false), |at| believed(at, bounds, &mut repairs));
            repaired.extend(is_repaired.then_some(field.name));
            time
        } else {
            read_as(field.slot.kind(), text, times).unwrap_or_else(|| {
                repairs.odd_values += 1;
                Typed::default_of(field.slot.kind())
            })
        };
        // The newer name counts where both are there.
        let is_older_name = field.slot == Slot::ExpiryFinalized && field.shown == Shown::Alias;
        if !(is_older_name && texts.contains_key("expiry_finalized")) {
            field.slot.set(&mut entry, value);
        }
    }
    if let (None, Some(at)) = (activity, entry.last_interaction) {
        // The file says no other activity.
        entry.updated_at = at;
        activity = interaction;
    }
    repairs.without_time = !says_activity;
    if !has_creation {
        entry.created_at = entry.updated_at;
    }
    if let Some(platform) = times.gateway.platform(entry.key.as_str(), &texts) {
        entry.details.platform = Some(platform);
    }

    let form = Form::of(&mut entry, &texts, &repaired, times);
    let is_typed = |name: &str| times.gateway.fields().iter().any(|field| field.name == name);
    let others = texts.iter().filter(|(name, _)| !is_typed(name)).map(|(name, text)| (*name, *text)).collect();
    let extras = Extras::from_parts(others, form.as_deref());
    Ok(ReadEntry { entry, extras, repairs, activity, is_naive })
}

/// Moves a time to where it can be. Answers whether it had to be moved.
fn believed(moment: Moment, bounds: Bounds, repairs: &mut Repairs) -> (Typed, bool) {
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
