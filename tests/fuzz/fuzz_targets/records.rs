//! Any bytes through the decoding of records and rows: an error or a value, never a panic; and a value that was decoded
//! and is encoded again decodes to itself.
//!
//! The codec is private in the library, so it is compiled here once more, with the modules below it.

#![no_main]
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

#[path = "../../../src/codec/mod.rs"]
mod codec;
#[path = "../../../src/entry.rs"]
mod entry;
#[path = "../../../src/json.rs"]
mod json;
#[path = "../../../src/key.rs"]
mod key;
#[path = "../../../src/source.rs"]
mod source;
#[path = "../../../src/time.rs"]
mod time;

use codec::{
    Activity, ActivityRow, AgePage, Base, ExtrasRow, Hot, IdRow, JournalRow, LeaseRow, NoteRow, Term, Turn, decode_cold,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(hot) = Hot::decode(input) {
        let bytes = hot.encode().expect("what was decoded");
        assert_eq!(Hot::decode(&bytes).expect("what was encoded").encode().expect("the same"), bytes);
    }
    if let Ok((cold, spilled)) = decode_cold(input) {
        if !spilled {
            // Too large for a record is an answer too.
            if let Some(bytes) = cold.encode().expect("what was decoded") {
                let again = decode_cold(&bytes).expect("what was encoded").0.encode().expect("the same");
                assert_eq!(again, Some(bytes));
            }
        }
    }
    if let Ok(base) = Base::decode(input) {
        let bytes = Base::encode(base.details.as_ref(), &base.fields).expect("what was decoded");
        assert_eq!(Base::decode(&bytes).expect("what was encoded"), base);
    }
    if let Ok(row) = ActivityRow::decode(input) {
        assert_eq!(row.encode().as_slice(), input);
    }
    if let Ok(row) = IdRow::decode(input) {
        assert_eq!(IdRow::encode(&row.id, row.entry), input);
    }
    if let Ok(Activity { key, hot }) = Activity::decode(input) {
        let bytes = Activity::encode(&key, &hot).expect("what was decoded");
        let again = Activity::decode(&bytes).expect("what was encoded");
        // Compared as bytes: a cost that is no number equals nothing.
        assert_eq!(Activity::encode(&again.key, &again.hot).expect("the same"), bytes);
        assert_eq!(Activity::decode_key(input).expect("a part of it"), key);
        Activity::decode_hot(input).expect("a part of it");
    }
    if let Ok(LeaseRow { entry, name }) = LeaseRow::decode(input) {
        assert_eq!(LeaseRow::encode(entry, name), input);
    }
    if let Ok(term) = Term::decode(input) {
        assert_eq!(Term::decode(&term.encode().expect("what was decoded")).expect("what was encoded"), term);
    }
    if let Ok(turn) = Turn::decode(input) {
        let bytes = turn.encode().expect("what was decoded");
        assert_eq!(Turn::decode(&bytes).expect("what was encoded").encode().expect("the same"), bytes);
    }
    if let Ok(records) = JournalRow::decode(input) {
        let mut row = JournalRow::new();
        records.iter().for_each(|record| row.push(record).expect("what was decoded"));
        let again = JournalRow::decode(row.value()).expect("what was encoded");
        // Compared as bytes: a cost that is no number equals nothing.
        let mut same = JournalRow::new();
        again.iter().for_each(|record| same.push(record).expect("the same"));
        assert_eq!(same.value(), row.value());
    }
    if let Ok(rows) = AgePage::decode(&AgePage::FIRST, input) {
        assert_eq!(AgePage::encode(&rows), input);
    }
    let _ = JournalRow::number(input);
    let _ = ExtrasRow::decode(input);
    let _ = ExtrasRow::part(input);
    let _ = NoteRow::decode(input);
    let _ = NoteRow::part(input);
    let _ = codec::decode_meta::<String>(input);
    let _ = codec::decode_meta::<u64>(input);
    let _ = codec::decode_meta::<bool>(input);
});
