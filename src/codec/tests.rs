//! The format: golden bytes, round trips, and bytes that are nothing.
//!
//! The golden bytes were put together by hand from the format table. If one of them changes, stores that exist no
//! longer read: a new record version is needed, not a new golden text.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::entry::{Details, Extras, Revision, Usage};
use crate::key::{SessionId, SessionKey};
use crate::source::SessionSource;
use crate::time::{BootTime, Reading, Timestamp};

const NOW: Timestamp = Timestamp::from_micros(1_781_222_813_123_456);
const KEY: &str = "agent:main:discord:group:1:2";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn key(text: &str) -> SessionKey {
    SessionKey::new(text).unwrap()
}

fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

fn text(text: &str) -> Option<String> {
    Some(text.into())
}

fn later(micros: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + micros)
}

fn used() -> Usage {
    Usage {
        input_tokens: 1,
        output_tokens: 250,
        cache_read_tokens: 251,
        cache_write_tokens: 65_536,
        total_tokens: 1 << 32,
        last_prompt_tokens: 7,
        estimated_cost_usd: 0.25,
    }
}

fn full_details() -> Details {
    let origin = SessionSource {
        platform: "slack".into(),
        chat_type: "thread".into(),
        chat_id: text("c"),
        chat_name: text("cn"),
        user_id: text("u"),
        user_name: text("un"),
        thread_id: text("t"),
        chat_topic: text("ct"),
        user_id_alt: text("ua"),
        chat_id_alt: text("ca"),
        scope_id: text("sc"),
        guild_id: text("g"),
        parent_chat_id: text("pc"),
        message_id: text("m"),
        profile: text("pr"),
        prospective_thread_id: text("pt"),
    };
    Details {
        display_name: text("Ä"),
        platform: text("slack"),
        chat_type: text("thread"),
        origin: Some(origin),
        cost_status: text("estimated"),
        expiry_finalized: true,
        resume_reason: text("restart"),
        last_resume_marked_at: Some(later(1)),
        active_turn_token: text("tok"),
        active_turn_started_at: Some(later(2)),
        is_fresh_reset: true,
        was_auto_reset: true,
        auto_reset_reason: text("suspended"),
        reset_had_activity: true,
        prev_session_id: Some(id("prev")),
    }
}

fn small_cold() -> Cold {
    Cold { session_id: id("i"), created_at: NOW, details: Details::default(), extras: None }
}

fn extras(fields: &[(&str, &str)], form: Option<&str>) -> Extras {
    Extras::from_parts(fields.to_vec(), form)
}

/// The record that takes the most bytes.
fn largest(usage: Usage) -> Hot {
    let (revision, last_interaction) = (Revision::from_number(u64::MAX), Some(Timestamp::MAX));
    Hot { updated_at: Timestamp::MAX, flags: 255, revision, last_interaction, usage }
}

// Golden bytes.

#[test]
fn golden_hot() {
    let cases = [
        (Hot::fresh(NOW), "01fd80c30a41035406000000000000000000000000"),
        (
            Hot {
                flags: SUSPENDED | RESUME_PENDING,
                revision: Revision::from_number(0x0102),
                last_interaction: Some(Timestamp::from_micros(7)),
                usage: used(),
                ..Hot::fresh(NOW)
            },
            "01fd80c30a410354060003020100000000000001070101fafbfb00fc00000100fd000000000100000007000000000000d03f",
        ),
        (
            Hot { usage: Usage { total_tokens: 3, ..Usage::ZERO }, ..Hot::fresh(NOW) },
            "01fd80c30a410354060000000000000000000000010000000003000000000000000000",
        ),
        (Hot::fresh(Timestamp::MIN), "01000000000000000000000000"),
        (Hot::fresh(Timestamp::MAX), "01fdff5f73cc0c4484030000000000000000000000"),
    ];
    for (hot, golden) in cases {
        let bytes = hot.encode().unwrap();
        assert_eq!(hex(&bytes), golden);
        assert_eq!(Hot::decode(&bytes).unwrap(), hot);
    }
    // Most hot records fit in sled's 22 inline bytes.
    assert!(Hot::fresh(NOW).encode().unwrap().len() <= 22);
}

#[test]
fn a_flag_leaves_the_others_alone() {
    let mut hot = Hot::fresh(NOW);
    let flags = |hot: &Hot| (hot.is(SUSPENDED), hot.is(RESUME_PENDING));
    assert_eq!(flags(&hot), (false, false));
    for (flag, on, expected) in [
        (SUSPENDED, true, (true, false)),
        (SUSPENDED, true, (true, false)),
        (RESUME_PENDING, true, (true, true)),
        (SUSPENDED, false, (false, true)),
        (SUSPENDED, false, (false, true)),
        (RESUME_PENDING, false, (false, false)),
    ] {
        hot.set(flag, on);
        assert_eq!(flags(&hot), expected);
    }
}

#[test]
fn golden_cold() {
    let full = Cold {
        session_id: id("20260612_000653_p67x61eb"),
        created_at: NOW,
        details: full_details(),
        extras: index(300, Some(ExtrasRef { generation: 5 << 24, bytes: 300 })),
    };
    let golden = "011832303236303631325f3030303635335f7036377836316562fd80c30a4103540600010102c3840105736c61636b0106746872\
                  6561640105736c61636b067468726561640101630102636e0101750102756e01017401026374010275610102636101027363010167\
                  0102706301016d0102707201027074010965737469\
                  6d617465640101077265737461727401fd81c30a41035406000103746f6b01fd82c30a41\
                  035406000101010973757370656e6465640101047072657601fb2c0101fc00000005fb2c010000";
    let bytes = full.encode().unwrap().unwrap();
    assert_eq!(hex(&bytes), golden);
    assert_eq!(decode_cold(&bytes).unwrap(), (full, false));

    let bytes = small_cold().encode().unwrap().unwrap();
    assert_eq!(hex(&bytes), "010169fd80c30a41035406000100000000000000000000000000000000");
    assert_eq!(decode_cold(&bytes).unwrap(), (small_cold(), false));

    let at = index(0, Some(ExtrasRef { generation: 9, bytes: 5000 }));
    let spilled = Cold { details: full_details(), extras: at.clone(), ..small_cold() };
    let bytes = spilled.encode_spilled().unwrap();
    assert_eq!(hex(&bytes), "010169fd80c30a41035406000001000109fb88130000");
    assert_eq!(decode_cold(&bytes).unwrap(), (Cold { extras: at, ..small_cold() }, true));
}

#[test]
fn golden_turn() {
    let turn = Turn { token: 5 << 24, started_at: NOW, session_id: id("s1") };
    let bytes = turn.encode().unwrap();
    assert_eq!(hex(&bytes), "01fc00000005fd80c30a4103540600027331");
    assert_eq!(Turn::decode(&bytes).unwrap(), turn);
}

#[test]
fn golden_lease() {
    let term = Term { since: NOW, end: Timestamp::from_micros(250) };
    let bytes = term.encode().unwrap();
    assert_eq!(hex(&bytes), "01fd80c30a4103540600fa");
    assert_eq!(Term::decode(&bytes).unwrap(), term);
    let row = LeaseRow::encode(entry(), "job");
    assert_eq!((&row[..16], &row[16..]), (&entry().as_bytes()[..], &b"job"[..]));
    assert_eq!(
        LeaseRow::decode(&row).map(|row| (row.entry, row.name.to_owned())).unwrap(),
        (entry(), "job".to_owned())
    );
    assert!(LeaseRow::decode(&row[..16]).is_err() && LeaseRow::decode(b"short").is_err());
}

#[test]
fn golden_intent() {
    let replace = |old_id| Step::Replace { entry: entry(), checksum: 0x0102_0304, hot: Hot::fresh(NOW), old_id };
    let intent = Intent {
        count: 300,
        steps: vec![
            Step::Create(entry()),
            Step::Remove(entry()),
            replace(None),
            replace(Some(id("s1"))),
            Step::Move { from: entry(), to: entry() },
        ],
    };
    let bytes = intent.encode().unwrap();
    let replaced = format!("02{ENTRY}fc040302011501fd80c30a41035406000000000000000000000000");
    assert_eq!(hex(&bytes), format!("01fb2c010500{ENTRY}01{ENTRY}{replaced}00{replaced}0102733103{ENTRY}{ENTRY}"));
    assert_eq!(Intent::decode(&bytes).unwrap(), intent);

    // However long a step is, the writer has reckoned with it.
    let usage = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, total_tokens: u64::MAX, ..used() };
    let hot = largest(usage);
    let steps = |old_id| vec![Step::Replace { entry: entry(), checksum: u32::MAX, hot, old_id }];
    for old_id in [None, Some(id(&"x".repeat(255)))] {
        let steps = steps(old_id);
        let most = steps[0].max_bytes();
        let bytes = Intent { count: u64::MAX, steps }.encode().unwrap();
        assert!(bytes.len() <= most + 16 && most <= MAX_VALUE_BYTES / 8, "{} of {most}", bytes.len());
    }
}

#[test]
fn golden_journal() {
    assert_eq!(hex(&JournalRow::key(258)), "0000000000000102");
    assert_eq!(JournalRow::number(&JournalRow::key(258)).unwrap(), 258);
    assert!(matches!(JournalRow::number(&[0; 7]), Err(CodecError::Short)));
    assert!(matches!(JournalRow::number(&[0; 9]), Err(CodecError::Trailing(1))));

    let records = [
        JournalRecord::Set(entry(), Hot::fresh(NOW)),
        JournalRecord::Forget(entry()),
        JournalRecord::Touch(entry(), NOW),
        JournalRecord::Left(entry(), NOW),
    ];
    let mut row = JournalRow::new();
    assert!(row.is_empty());
    records.iter().for_each(|record| row.push(record).unwrap());
    assert_eq!(
        hex(row.value()),
        format!(
            "0100{ENTRY}fd80c30a4103540600000000000000000000000001{ENTRY}02{ENTRY}80c30a410354060003{ENTRY}80c30a4103540600"
        )
    );
    assert_eq!(JournalRow::decode(row.value()).unwrap(), records);
    let cut = &row.value()[..row.value().len() - 1];
    assert!(matches!(JournalRow::decode(cut), Err(CodecError::Short)));
    let [set, ..] = records.map(|record| {
        let mut row = JournalRow::new();
        row.push(&record).unwrap();
        row.value().to_vec()
    });
    assert!(matches!(JournalRow::decode(&set[..set.len() - 1]), Err(CodecError::Decode(_))));
    assert!(matches!(JournalRow::decode(&[1, 4, 0]), Err(CodecError::Short)));
    assert!(matches!(JournalRow::decode(&[&[1, 4][..], &[0; 16]].concat()), Err(CodecError::Kind(4))));
    assert!(matches!(JournalRow::decode(&[9]), Err(CodecError::Version { found: 9 })));
}

/// However long its records are, a row ends before its limit.
#[test]
fn a_full_row_of_the_journal_keeps_its_limit() {
    let most = u64::MAX;
    let usage = Usage {
        input_tokens: most,
        output_tokens: most,
        cache_read_tokens: most,
        cache_write_tokens: most,
        total_tokens: most,
        last_prompt_tokens: most,
        estimated_cost_usd: f64::MAX,
    };
    let mut row = JournalRow::new();
    while !row.is_full() {
        row.push(&JournalRecord::Set(entry(), largest(usage))).unwrap();
    }
    assert!(row.value().len() <= MAX_JOURNAL_ROW && row.value().len() > MAX_JOURNAL_ROW / 2);
}

#[test]
fn golden_extras() {
    let at = |generation, bytes| ExtrasRef { generation, bytes };
    let index = ExtrasIndex {
        bytes: 5000,
        base: Some(at(9, 70)),
        changed: BTreeMap::from([
            ("gone".into(), None),
            ("large".into(), Some(Field::Stored(at(5 << 24, 4000)))),
            ("model".into(), Some(Field::Text("\"x\"".into()))),
        ]),
        form: Some(Field::Text("openclaw".into())),
    };
    let cold = Cold { extras: Some(index.into()), ..small_cold() };
    let bytes = cold.encode().unwrap().unwrap();
    assert_eq!(
        hex(&bytes),
        "010169fd80c30a41035406000100000000000000000000000000000001fb88130109460304676f6e6500056c61\
                  7267650101fc00000005fba00f056d6f64656c0100032278220100086f70656e636c6177"
    );
    assert_eq!(decode_cold(&bytes).unwrap(), (cold, false));

    let base = Base {
        details: Some(Details::default()),
        fields: BTreeMap::from([
            ("large".into(), Field::Stored(at(5 << 24, 4000))),
            ("metadata".into(), Field::Text("{\"a\":1}".into())),
        ]),
    };
    let bytes = Base::encode(base.details.as_ref(), &base.fields).unwrap();
    assert_eq!(
        hex(&bytes),
        "010100000000000000000000000000000002056c6172676501fc00000005fba00f086d6574616461746100077b2261223a317d"
    );
    assert_eq!(Base::decode(&bytes).unwrap(), base);
}

fn index(bytes: u32, base: Option<ExtrasRef>) -> Option<Arc<ExtrasIndex>> {
    Some(Arc::new(ExtrasIndex { bytes, base, ..ExtrasIndex::default() }))
}

/// A fingerprint whose bytes are easy to find in golden ones.
fn entry() -> Fingerprint {
    Fingerprint::from_bytes(*b"0123456789abcdef")
}

const ENTRY: &str = "30313233343536373839616263646566";

#[test]
fn golden_fingerprint() {
    let seed = Seed::new(b"sixteen bytes ok");
    assert_eq!(hex(seed.fingerprint(&key(KEY)).as_bytes()), "a7cd03bb130063448fadf8cfd69c77b0");
    assert_ne!(seed.fingerprint(&key(KEY)), Seed::new(&[0; 16]).fingerprint(&key(KEY)), "the seed counts");
    assert_eq!(format!("{seed:?}"), "Seed", "the seed is not told");
    assert_eq!(format!("{} {:?}", entry(), entry()), "entry 30313233… entry 30313233…");
    let hashes: HashSet<u64> = (0..100).map(|n| seed.fingerprint(&key(&format!("k{n}"))).table_hash()).collect();
    assert_eq!(hashes.len(), 100);
}

#[test]
fn golden_index_keys() {
    let row = ActivityRow { time: NOW, entry: entry() };
    assert_eq!(hex(&row.encode()), format!("00065403410ac380{ENTRY}"));
    assert_eq!(ActivityRow::decode(&row.encode()).unwrap(), row);
    let page = AgePage::encode(&[row]);
    assert_eq!(hex(&page), format!("0100065403410ac380{ENTRY}"));
    assert_eq!(AgePage::decode(&AgePage::FIRST, &page).unwrap(), [row]);
    assert_eq!(AgePage::decode(&row.encode(), &page).unwrap(), [row]);

    let row = IdRow { id: id("20260612_000653_p67x61eb"), entry: entry() };
    let bytes = IdRow::encode(&row.id, row.entry);
    assert_eq!(hex(&bytes), format!("32303236303631325f3030303635335f703637783631656200{ENTRY}"));
    assert_eq!(IdRow::decode(&bytes).unwrap(), row);
    assert_eq!(hex(&id_prefix(&row.id)), "32303236303631325f3030303635335f703637783631656200");

    let blob = vec![7; 258 * CHUNK_BYTES + 5];
    let rows: Vec<_> = ExtrasRow::encode_all(entry(), 5 << 24, &blob).collect();
    let (last, value) = &rows[258];
    let golden = format!("{ENTRY}000000000500000000000102");
    assert_eq!((hex(last), hex(value).as_str()), (golden, "010707070707"));
    assert_eq!(ExtrasRow::decode(last).unwrap(), ExtrasRow { entry: entry(), generation: 5 << 24, chunk: 258 });
    assert!(rows.is_sorted());
    // Half a value, or sled's leaves of sixteen grow too large.
    assert!(rows.iter().all(|(row, value)| {
        value.len() <= MAX_VALUE_BYTES / 2
            && row.starts_with(&ExtrasRow::prefix(entry(), 5 << 24))
            && row.starts_with(entry().as_bytes())
    }));
}

#[test]
fn golden_activity() {
    let (key, hot) = (key("agent:x"), Hot::fresh(NOW));
    let bytes = Activity::encode(&key, &hot).unwrap();
    assert_eq!(hex(&bytes), "01076167656e743a78fd80c30a41035406000000000000000000000000");
    assert_eq!(Activity::decode_hot(&bytes).unwrap(), hot);
    assert_eq!(Activity::decode(&bytes).unwrap(), Activity { key, hot });
}

#[test]
fn a_page_that_is_not_one_is_refused() {
    let row = |micros| ActivityRow { time: Timestamp::from_micros(micros), entry: entry() };
    let page = AgePage::encode(&[row(5), row(7)]);
    let decode = |key: ActivityRow, value: &[u8]| AgePage::decode(&key.encode(), value);
    assert_eq!(decode(row(4), &page).unwrap(), [row(5), row(7)]);
    assert!(matches!(decode(row(6), &page), Err(CodecError::Order)), "a row before its key");
    assert!(matches!(decode(row(4), &AgePage::encode(&[row(7), row(5)])), Err(CodecError::Order)));
    assert!(matches!(decode(row(4), &AgePage::encode(&[row(5), row(5)])), Err(CodecError::Order)));
    assert!(matches!(decode(row(4), &page[..48]), Err(CodecError::Trailing(23))));
    assert!(matches!(decode(row(4), &[]), Err(CodecError::Empty)));
    assert!(matches!(decode(row(4), &[2]), Err(CodecError::Version { found: 2 })));
    assert!(matches!(AgePage::decode(b"abc", &page), Err(CodecError::Short)));
    let full = AgePage::encode(&vec![row(9); AgePage::MAX_ROWS]);
    assert_eq!(full.len() + row(9).encode().len(), AgePage::MAX_BYTES);
}

/// What is later than any time is no row.
#[test]
fn a_row_of_no_time_is_refused() {
    for bad in [u64::MAX, 1 << 63, Timestamp::MAX.as_micros() as u64 + 1] {
        let row = [&bad.to_be_bytes()[..], entry().as_bytes()].concat();
        assert!(matches!(ActivityRow::decode(&row), Err(CodecError::NoTime)), "{bad}");
    }
}

#[test]
fn golden_notes() {
    let text = "ä".repeat(CHUNK_BYTES) + "!";
    let rows = NoteRow::encode_all("_README", &text);
    let [(first, part), (second, rest), (_, last)] = &rows[..] else { panic!("{} rows", rows.len()) };
    assert_eq!(hex(first), "6e6f7465005f524541444d450000000000");
    assert_eq!(hex(second), "6e6f7465005f524541444d450000000001");
    assert_eq!((part[0], part.len(), last.len()), (VERSION, CHUNK_BYTES + 1, 1 + 1));
    assert_eq!([part, rest, last].map(|part| chunk(part).unwrap()).concat(), text.as_bytes());
    assert_eq!(NoteRow::decode(second).unwrap(), ("_README", 1));
    assert!(first.starts_with(&NoteRow::prefix("_README")) && first.starts_with(NoteRow::ALL));
    assert!(!first.starts_with(&NoteRow::prefix("_READ")));
    for bad in [&b"note\0x"[..], b"note\0x0000", b"zone\0x\0\0\0\0\0", b"note\0\xff\0\0\0\0\0"] {
        assert!(NoteRow::decode(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn golden_clock_note() {
    let at = |boot_id| Reading {
        wall: Timestamp::from_micros(1_781_222_813_123_456),
        boot: BootTime { boot_id, elapsed: Duration::from_micros(250) },
    };
    let note = ClockNote { doubted: None, held: Some(Held { at: at(Some(7)), expired: 3 }) };
    let cases = [
        (ClockNote::default(), "010000"),
        (note, "010001fd80c30a41035406000107fa03"),
        (ClockNote { doubted: Some(at(None)), held: None }, "0101fd80c30a410354060000fa00"),
    ];
    for (note, golden) in cases {
        let bytes = note.encode().unwrap();
        assert_eq!(ClockNote::decode(&bytes).unwrap(), note);
        assert_eq!(hex(&bytes), golden);
    }
    assert!(ClockNote::decode(&[1, 2]).is_err());
}

#[test]
fn golden_meta() {
    assert_eq!(hex(&encode_meta(&1_u32).unwrap()), "0101");
    assert_eq!(hex(&encode_meta(&(1_u64 << 40)).unwrap()), "01fd0000000000010000");
    assert_eq!(hex(&encode_meta(&true).unwrap()), "0101");
    assert_eq!(hex(&encode_meta(&"Europe/Berlin").unwrap()), "010d4575726f70652f4265726c696e");
    assert_eq!(decode_meta::<u64>(&encode_meta(&(1_u64 << 40)).unwrap()).unwrap(), 1 << 40);
    assert!(decode_meta::<bool>(&[1, 2]).is_err());
}

// What is refused.

type Decoder = fn(&[u8]) -> Result<(), CodecError>;

/// All decoders, by name, with a good value each; the error is what they say of bytes.
fn decoders() -> Vec<(&'static str, Vec<u8>, Decoder)> {
    let hot = Hot { flags: 1, usage: used(), ..Hot::fresh(NOW) }.encode().unwrap();
    let cold = Cold { details: full_details(), ..small_cold() }.encode().unwrap().unwrap();
    let fields = BTreeMap::from([("metadata".to_owned(), Field::Text("{}".into()))]);
    let base = Base::encode(Some(&full_details()), &fields).unwrap();
    vec![
        ("hot", hot, |bytes| Hot::decode(bytes).map(drop)),
        ("activity", Activity::encode(&key("agent:x"), &Hot::fresh(NOW)).unwrap(), |bytes| {
            Activity::decode(bytes).map(drop)
        }),
        ("cold", cold, |bytes| decode_cold(bytes).map(drop)),
        ("base", base, |bytes| Base::decode(bytes).map(drop)),
        ("intent", Intent { count: 7, steps: vec![Step::Create(entry())] }.encode().unwrap(), |bytes| {
            Intent::decode(bytes).map(drop)
        }),
        ("clock", ClockNote::default().encode().unwrap(), |bytes| ClockNote::decode(bytes).map(drop)),
        ("meta", encode_meta(&77_u64).unwrap(), |bytes| decode_meta::<u64>(bytes).map(drop)),
    ]
}

#[test]
fn trailing_bytes_are_refused() {
    for (name, mut bytes, decode) in decoders() {
        decode(&bytes).unwrap();
        bytes.extend([0, 0]);
        assert!(matches!(decode(&bytes), Err(CodecError::Trailing(2))), "{name}");
    }
    let row = ExtrasRow::prefix(entry(), 1);
    assert!(matches!(ExtrasRow::decode(&[&row[..], &[0; 5]].concat()), Err(CodecError::Trailing(1))));
}

#[test]
fn other_versions_are_refused() {
    for (name, mut bytes, decode) in decoders() {
        for version in [0, 2, 255] {
            bytes[0] = version;
            assert!(matches!(decode(&bytes), Err(CodecError::Version { found }) if found == version), "{name}");
        }
        assert!(matches!(decode(&[]), Err(CodecError::Empty)), "{name}");
    }
    assert!(matches!(chunk(&[2, 1]), Err(CodecError::Version { found: 2 })));
    assert!(matches!(chunk(&[]), Err(CodecError::Empty)));
}

#[test]
fn cut_records_are_refused() {
    for (name, bytes, decode) in decoders() {
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{name} of {end} bytes");
        }
    }
}

/// A damaged length must not make the decoder allocate what it says.
#[test]
fn huge_lengths_are_refused() {
    let huge = [vec![1, 0, 0xfd], vec![0xff; 8]].concat();
    assert!(Base::decode(&huge).is_err());
    let huge = [vec![1, 0xfd], vec![0xff; 8]].concat();
    assert!(decode_cold(&huge).is_err());
    assert!(decode_meta::<String>(&huge).is_err());
}

#[test]
fn names_in_records_are_checked() {
    for bad in ["", "a/b", "..", "C:", "a\u{7}"] {
        let bytes = [&[1, bad.len() as u8], bad.as_bytes(), &[0, 0, 0]].concat();
        assert!(matches!(decode_cold(&bytes), Err(CodecError::Name(_))), "{bad:?}");
        assert!(IdRow::decode(&[bad.as_bytes(), b"\0", entry().as_bytes()].concat()).is_err(), "{bad:?}");
    }
    for bad in ["", "/a", "_a", "..", "C:"] {
        let hot = records::HotV1::of(&Hot::fresh(NOW));
        assert!(Activity::decode(&encode(&(bad, hot), 64).unwrap()).is_err(), "{bad:?}");
    }
}

/// What the decoder may allocate is bounded, but never below what the store takes.
#[test]
fn the_largest_extras_are_read() {
    let one = BTreeMap::from([("metadata".to_owned(), format!("\"{}\"", "1".repeat(MAX_EXTRAS_BYTES - 10)))]);
    // Names as short as they can be, and as many.
    let names = (0_u32..).filter_map(char::from_u32).map(String::from);
    let mut bytes = 0;
    let names = names.take_while(|name| {
        bytes += name.len() + 1;
        bytes <= MAX_EXTRAS_BYTES
    });
    let many: BTreeMap<_, _> = names.map(|name| (name, "1".to_owned())).collect();
    for fields in [one, many] {
        let all: Vec<_> = fields.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let all = extras(&all, None);
        let (cold, parts) = arranged(Cold { details: full_details(), ..small_cold() }, NewExtras::All(&all));
        let index = cold.extras.as_ref().unwrap();
        assert_eq!(assembled(index, &parts), (None, all));
        assert!(cold.encode().unwrap().is_some());
    }
}

/// What is arranged, of an entry that had nothing in parts.
fn arranged(mut cold: Cold, extras: NewExtras<'_>) -> (Cold, Parts) {
    let mut next = 5 << 24;
    let none = |_| Err::<Base, ()>(());
    let parts = arrange(&mut cold, extras, none, || {
        next += 1;
        next
    });
    (cold, parts.unwrap())
}

fn assembled(index: &ExtrasIndex, parts: &Parts) -> (Option<Details>, Extras) {
    assemble(index, |generation| parts.get(&generation).map(|part| &**part)).unwrap()
}

/// Details that do not fit go to the extras, so no value is ever larger than the limit.
#[test]
fn large_details_are_spilled() {
    let with = |bytes: usize| Cold {
        details: Details { display_name: Some("x".repeat(bytes)), ..Details::default() },
        ..small_cold()
    };
    let room = MAX_VALUE_BYTES - with(1000).encode().unwrap().unwrap().len() + 1000;
    assert_eq!(with(room).encode().unwrap().map(|bytes| bytes.len()), Some(MAX_VALUE_BYTES));
    assert_eq!(with(room + 1).encode().unwrap(), None);
    assert_eq!(with(3 << 20).encode().unwrap(), None);
    assert!(with(3 << 20).encode_spilled().unwrap().len() < 20);
}

// Properties.

fn settings() -> ProptestConfig {
    let cases = std::env::var("CLOAKROOM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        8 => (0..=Timestamp::MAX.as_micros()).prop_map(Timestamp::from_micros),
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
    ]
}

fn any_entry() -> impl Strategy<Value = Fingerprint> {
    any::<[u8; 16]>().prop_map(Fingerprint::from_bytes)
}

/// Short or long.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,9}",
        ("[1-9]", 1..1200_usize).prop_map(|(digit, times)| format!("\"{}\"", digit.repeat(times)))
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z0-9äß:#]{1,40}"
        .prop_map(|text| format!("n{text}").replace("..", "-"))
        .prop_filter("drive", |text| text.as_bytes().get(1) != Some(&b':'))
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let some = (any::<[u64; 6]>(), -1e9..1e9).prop_map(|(n, cost)| Usage {
        input_tokens: n[0],
        output_tokens: n[1],
        cache_read_tokens: n[2],
        cache_write_tokens: n[3],
        total_tokens: n[4],
        last_prompt_tokens: n[5],
        estimated_cost_usd: cost,
    });
    prop_oneof![Just(Usage::ZERO), some]
}

prop_compose! {
    fn any_source()(
        words in (".{0,9}", ".{0,9}"),
        names in proptest::array::uniform14(of(".{0,30}")),
    ) -> SessionSource {
        let [chat_id, chat_name, user_id, user_name, thread_id, chat_topic, user_id_alt, chat_id_alt, scope_id,
            guild_id, parent_chat_id, message_id, profile, prospective_thread_id] = names;
        SessionSource {
            platform: words.0, chat_type: words.1, chat_id, chat_name, user_id, user_name, thread_id, chat_topic,
            user_id_alt, chat_id_alt, scope_id, guild_id, parent_chat_id, message_id, profile, prospective_thread_id,
        }
    }
}

prop_compose! {
fn any_details()(
        texts in proptest::array::uniform7(of(".{0,300}")),
        origin in of(any_source()),
        flags in any::<[bool; 4]>(),
        times in (of(any_time()), of(any_time())),
        previous in of(any_name()),
    ) -> Details {
        let [display_name, platform, chat_type, cost_status, resume_reason, active_turn_token, auto_reset_reason] =
            texts;
        Details {
            display_name, platform, chat_type, origin, cost_status, resume_reason, active_turn_token,
            auto_reset_reason,
            expiry_finalized: flags[0],
            is_fresh_reset: flags[1],
            was_auto_reset: flags[2],
            reset_had_activity: flags[3],
            last_resume_marked_at: times.0,
            active_turn_started_at: times.1,
            prev_session_id: previous.map(|name| id(&name)),
        }
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn any_bytes_are_no_journal_or_a_journal(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(records) = JournalRow::decode(&bytes) {
            let mut row = JournalRow::new();
            for record in &records {
                row.push(record).unwrap();
            }
            prop_assert_eq!(JournalRow::decode(row.value()).unwrap().len(), records.len());
        }
        let _ = JournalRow::number(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), version in any::<bool>()) {
        let mut bytes = bytes;
        if version && let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        for (_, _, decode) in decoders() {
            let _ = decode(&bytes);
        }
        let _ = decode_meta::<bool>(&bytes);
        let _ = decode_meta::<String>(&bytes);
        let _ = ActivityRow::decode(&bytes);
        let _ = AgePage::decode(&AgePage::FIRST, &bytes);
        let _ = IdRow::decode(&bytes);
        let _ = ExtrasRow::decode(&bytes);
        let _ = Turn::decode(&bytes);
        let _ = chunk(&bytes);
        let _ = Activity::decode(&bytes);
        let _ = whole_fingerprint(&bytes);
    }

    /// Nearer to a record than arbitrary bytes: a good one with some bytes changed.
    #[test]
    fn damaged_records_never_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        for (_, mut bytes, decode) in decoders() {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn hot_round_trip(
        updated_at in any_time(),
        flags in any::<u8>(),
        revision in any::<u64>(),
        last_interaction in of(any_time()),
        usage in any_usage(),
    ) {
        let hot = Hot { updated_at, flags, revision: Revision::from_number(revision), last_interaction, usage };
        prop_assert_eq!(Hot::decode(&hot.encode().unwrap()).unwrap(), hot);
    }

    /// Every cost comes back bit by bit, NaN and -0.0 too.
    #[test]
    fn cost_round_trip(bits in prop_oneof![any::<u64>(), Just((-0.0_f64).to_bits()), Just(f64::NAN.to_bits())]) {
        let usage = Usage { estimated_cost_usd: f64::from_bits(bits), ..Usage::ZERO };
        let hot = Hot { usage, ..Hot::fresh(NOW) };
        prop_assert_eq!(Hot::decode(&hot.encode().unwrap()).unwrap().usage.estimated_cost_usd.to_bits(), bits);
    }

    #[test]
    fn cold_round_trip(
        name in any_name(),
        created_at in any_time(),
        details in any_details(),
        at in of((any::<u64>(), any::<u32>())),
    ) {
        let extras = at.and_then(|(generation, bytes)| index(bytes, Some(ExtrasRef { generation, bytes })));
        let cold = Cold { session_id: id(&name), created_at, details, extras };
        match cold.encode().unwrap() {
            Some(bytes) => {
                prop_assert!(bytes.len() <= MAX_VALUE_BYTES);
                prop_assert_eq!(decode_cold(&bytes).unwrap(), (cold.clone(), false));
            }
            None => {
                let (found, spilled) = decode_cold(&cold.encode_spilled().unwrap()).unwrap();
                prop_assert!(spilled);
                prop_assert_eq!(Cold { details: cold.details.clone(), ..found }, cold);
            }
        }
    }

    /// However extras are changed, they are what they were set to, the record has its limit, what is short and alone
    /// needs no part, and a change makes no part but for itself and for a base.
    #[test]
    fn extras_are_what_they_were_set_to(
        details in any_details(),
        padding in prop_oneof![Just(0_usize), 0..5000_usize],
        first in of((vec(("[a-e]{0,2}", any_text()), 0..8), of(any_text()))),
        changes in vec(prop_oneof![
            vec(("[a-e]{0,2}", of(any_text())), 1..3).prop_map(Some),
            Just(None),
        ], 0..12),
    ) {
        let display_name = Some("x".repeat(padding));
        let mut cold = Cold { details: Details { display_name, ..details }, ..small_cold() };
        let mut expected = Extras::default();
        let (mut disk, mut next) = (Parts::new(), 5 << 24);
        let whole = first.map(|(fields, form)| {
            fields.into_iter().for_each(|(name, text)| expected.insert_checked(name, text));
            expected.form = form;
            expected.clone()
        });
        let steps = [None].into_iter().chain(changes.into_iter().map(Some));
        for step in steps {
            let step = step.map(|changes| changes.unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>());
            let new = match (&step, &whole) {
                (Some(changes), _) if changes.is_empty() => NewExtras::Kept,
                (Some(changes), _) => NewExtras::Changed(changes),
                (None, Some(whole)) => NewExtras::All(whole),
                (None, None) => NewExtras::Kept,
            };
            let long = match new {
                NewExtras::All(extras) => extras.iter().map(|(_, text)| text).chain(extras.form.as_deref())
                    .filter(|text| text.len() > 512).count(),
                NewExtras::Changed(changes) => changes.values().flatten().filter(|text| text.len() > 512).count(),
                NewExtras::Kept => 0,
            };
            let read = |at: ExtrasRef| Base::decode(&disk[&at.generation]);
            let parts = arrange(&mut cold, new, read, || { next += 1; next }).unwrap();
            for (name, text) in step.into_iter().flatten() {
                match text {
                    Some(text) => expected.insert_checked(name, text),
                    None => drop(expected.remove(&name)),
                }
            }
            let index = cold.extras.as_deref().cloned().unwrap_or_default();
            let new_base = index.base.is_some_and(|at| parts.contains_key(&at.generation));
            prop_assert_eq!(parts.len(), long + usize::from(new_base));
            disk.extend(parts);
            let base = index.base.map(|at| Base::decode(&disk[&at.generation]).unwrap()).unwrap_or_default();
            let live = index.live(&base);
            disk.retain(|generation, _| live.contains(generation));
            prop_assert_eq!(disk.len(), live.len());

            let record = cold.encode().unwrap();
            let (found, extras) = assembled(&index, &disk);
            prop_assert_eq!(&extras, &expected);
            prop_assert_eq!(index.bytes as usize, expected.bytes());
            match record {
                Some(record) => prop_assert!(record.len() <= MAX_VALUE_BYTES),
                None => {
                    prop_assert!(cold.encode_spilled().unwrap().len() <= MAX_VALUE_BYTES);
                    prop_assert_eq!(found, Some(cold.details.clone()));
                }
            }
            prop_assert_eq!(cold.extras.is_none(), expected.is_empty() && cold.encode().unwrap().is_some());
        }
    }

    #[test]
    fn chunks_round_trip(blob in vec(any::<u8>(), 0..3 * MAX_VALUE_BYTES), entry in any_entry(), generation: u64) {
        let rows: Vec<_> = ExtrasRow::encode_all(entry, generation, &blob).collect();
        let mut found: Vec<u8> = Vec::new();
        for (number, (row, value)) in (0..).zip(&rows) {
            let expected = ExtrasRow { entry, generation, chunk: number };
            prop_assert_eq!(ExtrasRow::decode(row).unwrap(), expected);
            found.extend(chunk(value).unwrap());
        }
        prop_assert_eq!(found, blob);
    }

    #[test]
    fn rows_are_ordered_like_time(a in any_time(), b in any_time(), one in any_entry(), two in any_entry()) {
        let rows = [(a, one), (b, two)].map(|(time, entry)| ActivityRow { time, entry });
        let bytes = rows.map(|row| row.encode());
        prop_assert_eq!(rows[0].cmp(&rows[1]), bytes[0].cmp(&bytes[1]));
        for (row, bytes) in rows.iter().zip(&bytes) {
            prop_assert_eq!(&ActivityRow::decode(bytes).unwrap(), row);
        }
    }

    #[test]
    fn id_rows_round_trip(name in any_name(), entry in any_entry()) {
        let row = IdRow { id: id(&name), entry };
        prop_assert_eq!(IdRow::decode(&IdRow::encode(&row.id, entry)).unwrap(), row);
    }
}
