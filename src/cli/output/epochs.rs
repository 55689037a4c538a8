//! JSON with a number beside each time.
//!
//! Tools whose parsers know no fractions of a second cannot read our times. So after a field `updated_at` comes
//! `updated_at_epoch`, seconds since 1970 with six digits, or null where there is no time.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use cloakroom::Timestamp;

/// The fields that hold times. Extras are written raw and never looked at.
const TIMES: [&str; 12] = [
    "active_turn_started_at",
    "created_at",
    "cutoff",
    "end",
    "last_interaction",
    "last_resume_marked_at",
    "marked_at",
    "newest",
    "oldest",
    "since",
    "started_at",
    "updated_at",
];

/// The value as one line of JSON.
pub(super) fn to_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, Epochs::default()))?;
    // The serializer writes UTF-8 only.
    Ok(String::from_utf8_lossy(&json).into_owned())
}

/// Writes compact JSON, and remembers the field it is in.
#[derive(Default)]
struct Epochs {
    is_name: bool,
    name: String,
    text: String,
}

impl Formatter for Epochs {
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.is_name = true;
        self.name.clear();
        if first { Ok(()) } else { writer.write_all(b",") }
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_name = false;
        self.text.clear();
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if self.is_name { &mut self.name } else { &mut self.text }.push_str(fragment);
        writer.write_all(fragment.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let name = std::mem::take(&mut self.name);
        if !TIMES.contains(&name.as_str()) {
            return Ok(());
        }
        match serde_json::from_value::<Timestamp>(self.text.as_str().into()) {
            Ok(time) => {
                let micros = time.as_micros();
                write!(writer, ",\"{name}_epoch\":{}.{:06}", micros / 1_000_000, micros % 1_000_000)
            }
            Err(_) => write!(writer, ",\"{name}_epoch\":null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_stands_beside_each_time() {
        let time = Timestamp::from_micros(1_780_447_279_000_050);
        let value = json!({"cutoff": time, "kept": 1, "turns": [{"started_at": time}], "updated_at": null, "z": time});
        assert_eq!(
            to_json(&value).unwrap(),
            "{\"cutoff\":\"2026-06-03T00:41:19.000050Z\",\"cutoff_epoch\":1780447279.000050,\"kept\":1,\
             \"turns\":[{\"started_at\":\"2026-06-03T00:41:19.000050Z\",\"started_at_epoch\":1780447279.000050}],\
             \"updated_at\":null,\"updated_at_epoch\":null,\"z\":\"2026-06-03T00:41:19.000050Z\"}"
        );
    }
}
