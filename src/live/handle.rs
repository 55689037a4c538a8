//! Handles: what stands for a session key in a URL.

use std::fmt::Write;

use crate::codec::{ActivityRow, Fingerprint};
use crate::time::Timestamp;

/// Thirty-two hexadecimal digits.
pub(super) fn show(entry: Fingerprint) -> String {
    let mut text = String::with_capacity(32);
    for byte in entry.as_bytes() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) fn parse(text: &str) -> Option<Fingerprint> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(Fingerprint::from_bytes(number.to_be_bytes()))
}

/// A place in the list by recency, as text: a time in microseconds and a handle.
pub(super) fn show_place(row: ActivityRow) -> String {
    format!("{:x}-{}", row.time.as_micros(), show(row.entry))
}

pub(super) fn parse_place(text: &str) -> Option<ActivityRow> {
    let (time, entry) = text.split_once('-')?;
    let micros = i64::from_str_radix(time, 16).ok().filter(|micros| *micros >= 0)?;
    Some(ActivityRow { time: Timestamp::from_micros(micros), entry: parse(entry)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_reads_back_and_nothing_else_does() {
        let entry = Fingerprint::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(show(entry), "000102030405060708090a0b0c0d0eff");
        assert_eq!(parse(&show(entry)), Some(entry));
        let row = ActivityRow { time: Timestamp::from_micros(1_781_222_813_123_456), entry };
        assert_eq!(parse_place(&show_place(row)), Some(row));
        for bad in ["", "00", "000102030405060708090A0b0c0d0eff", "+00102030405060708090a0b0c0d0eff", "ä"] {
            assert_eq!(parse(bad), None, "{bad}");
            assert_eq!(parse_place(&format!("1-{bad}")), None, "{bad}");
        }
        for bad in ["", "1", "-1-000102030405060708090a0b0c0d0eff", "x-000102030405060708090a0b0c0d0eff"] {
            assert_eq!(parse_place(bad), None, "{bad}");
        }
    }
}
