//! Any bytes through the decoding of records and rows: an error or a value, never a panic; and a value that was decoded
//! and is encoded again decodes to itself.
//!
//! The codec is private in the library, so it is compiled here once more, with the modules below it.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

#[path = "../../../../src/codec/mod.rs"]
mod codec;
#[path = "../../../../src/entry.rs"]
mod entry;
#[path = "../../../../src/key.rs"]
mod key;
#[path = "../../../../src/source.rs"]
mod source;
#[path = "../../../../src/time.rs"]
mod time;

use cloakroom_fuzz::{Dice, run};
use codec::{ActivityRow, Cold, ExtrasRef, ExtrasRow, Hot, IdRow, NoteRow, decode_blob, decode_cold, encode_blob};
use entry::{Details, Extras};
use key::{SessionId, SessionKey};
use source::SessionSource;
use time::Timestamp;

const WORDS: &[&[u8]] = &[
    b"\x00",
    b"\x01",
    b"\x02",
    b"\xfa",
    b"\xfb",
    b"\xfc",
    b"\xfd",
    b"\xfe",
    b"\xff",
    b"\xfc\xff\xff\xff\xff",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"{}",
    b"a",
    b"\xc3\x28",
];

fn seeds() -> Vec<Vec<u8>> {
    let id = SessionId::new("20260612_000653_3f9a01c2").expect("an id");
    let key = SessionKey::new("agent:main:discord:dm:1").expect("a key");
    let entry = codec::Seed::new(&[7; 16]).fingerprint(&key);
    let now = Timestamp::from_micros(1_781_222_813_123_456);
    let source = SessionSource { platform: "discord".into(), user_name: Some("a".into()), ..SessionSource::default() };
    let mut details = Details::from_source(source);
    details.prev_session_id = Some(id.clone());
    details.last_resume_marked_at = Some(now);
    let mut extras = Extras::default();
    extras.insert("metadata", &serde_json::json!({"a": [1, null, "x"]}));
    let extras_at = Some(ExtrasRef { generation: 5, bytes: 90 });
    let cold = Cold { session_id: id.clone(), created_at: now, details: details.clone(), extras: extras_at };
    let bucket = codec::Bucket::of(now);
    let mut seeds = vec![
        Hot::fresh(now).encode().expect("a record"),
        cold.encode().expect("a record").expect("a small one"),
        cold.encode_spilled().expect("a record"),
        encode_blob(Some(&details), &extras).expect("a blob"),
        encode_blob(None, &extras).expect("a blob"),
        ActivityRow { bucket, entry }.encode().to_vec(),
        IdRow::encode(&id, entry),
        codec::encode_name(&key),
        codec::encode_meta(&"Europe/Berlin").expect("a value"),
        codec::encode_meta(&77_u64).expect("a value"),
    ];
    seeds.extend(ExtrasRow::encode_all(entry, 5, &[1; 5000]).flat_map(|(row, value)| [row, value]));
    seeds.extend(NoteRow::encode_all("_note", "{\"a\":1}").into_iter().flat_map(|(row, value)| [row, value]));
    seeds
}

fn main() {
    let seeds = seeds();
    let next = |dice: &mut Dice| {
        let mut input = dice.pick(&seeds).clone();
        if dice.roll(4) == 0 {
            input = (0..dice.roll(80)).map(|_| dice.roll(256) as u8).collect();
        }
        dice.mutate(&mut input, WORDS);
        input
    };
    run("records", next, |input| {
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
        if let Ok((details, extras)) = decode_blob(input) {
            let bytes = encode_blob(details.as_ref(), &extras).expect("what was decoded");
            let (details, extras) = decode_blob(&bytes).expect("what was encoded");
            assert_eq!(encode_blob(details.as_ref(), &extras).expect("the same"), bytes);
        }
        if let Ok(row) = ActivityRow::decode(input) {
            assert_eq!(row.encode().as_slice(), input);
        }
        if let Ok(row) = IdRow::decode(input) {
            assert_eq!(IdRow::encode(&row.id, row.entry), input);
        }
        if let Ok(key) = codec::decode_name(input) {
            assert_eq!(codec::encode_name(&key), input);
        }
        let _ = ExtrasRow::decode(input);
        let _ = ExtrasRow::part(input);
        let _ = NoteRow::decode(input);
        let _ = NoteRow::part(input);
        let _ = codec::decode_meta::<String>(input);
        let _ = codec::decode_meta::<u64>(input);
        let _ = codec::decode_meta::<bool>(input);
    });
}
