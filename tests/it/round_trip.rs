//! Any object of entries, with random fields of random types, through an import and an export: nothing is lost that is
//! not in the report.

use std::collections::{BTreeMap, BTreeSet};

use cloakroom::Error;
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::gateway::Gateway;
use cloakroom::import::ImportOptions;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use crate::exact_json::Exact;
use crate::import::Fresh;

const HERMES: &[&str] = &[
    "session_key",
    "created_at",
    "updated_at",
    "display_name",
    "platform",
    "chat_type",
    "metadata",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "total_tokens",
    "last_prompt_tokens",
    "estimated_cost_usd",
    "cost_status",
    "expiry_finalized",
    "memory_flushed",
    "suspended",
    "resume_pending",
    "resume_reason",
    "last_resume_marked_at",
    "active_turn_token",
    "active_turn_started_at",
    "is_fresh_reset",
    "was_auto_reset",
    "auto_reset_reason",
    "reset_had_activity",
    "prev_session_id",
    "origin",
    "model_override",
];
const OPENCLAW: &[&str] = &[
    "updatedAt",
    "lastInteractionAt",
    "sessionStartedAt",
    "displayName",
    "channel",
    "lastChannel",
    "delivery",
    "deliveryContext",
    "chatType",
    "inputTokens",
    "outputTokens",
    "cacheRead",
    "cacheWrite",
    "totalTokens",
    "estimatedCostUsd",
    "suspended",
    "resumePending",
    "activeTurnStartedAt",
    "lastResumeMarkedAt",
    "prevSessionId",
    "origin",
    "cloakroomOrigin",
    "metadata",
    "skillsSnapshot",
    "startedAt",
];
/// Those that an import may move.
const TIMES: &[&str] = &[
    "created_at",
    "updated_at",
    "last_resume_marked_at",
    "active_turn_started_at",
    "updatedAt",
    "lastInteractionAt",
    "sessionStartedAt",
    "lastResumeMarkedAt",
    "activeTurnStartedAt",
];

pub(crate) fn quoted(text: String) -> String {
    Value::from(text).to_string()
}

/// Any JSON text, and what Python writes besides.
fn json() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?";
    let word =
        select(&["null", "true", "false", "0", "0.0", "-0.0", "\"\"", "{}", "[]", "NaN", "-Infinity", "Infinity"]);
    let leaf = prop_oneof![
        3 => word.prop_map(String::from),
        2 => number,
        1 => any::<u64>().prop_map(|n| n.to_string()),
        2 => ".{0,12}".prop_map(quoted),
        1 => select(&["\"\\ud83d\"", "\"x\\uDE00\\ud83d\\ud83d\\ude00\""]).prop_map(String::from),
        1 => select(&["\"\\u00e9\\/\"", "\"\\ud83d\\ude00\\u0000\"", "\"a\\\"b\\\\\""]).prop_map(String::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            vec((".{0,5}".prop_map(quoted), inner), 0..4).prop_map(|fields| format!(
                "{{{}}}",
                fields.iter().map(|(n, v)| format!("{n} : {v}")).collect::<Vec<_>>().join(",")
            )),
        ]
    })
}

/// What could stand in a typed field.
fn plausible() -> impl Strategy<Value = String> {
    let suffix =
        select(&["", "", "", ".5", ".123456", ".100000", ".123456789", "Z", "+00:00", "-03:30", ".000001+05:30"]);
    let iso = (1960..2040, 1..13, 1..29, 0..24, 0..60, select(&['T', ' ']), suffix).prop_map(
        |(year, month, day, hour, minute, separator, suffix)| {
            format!("\"{year}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:07{suffix}\"")
        },
    );
    let origin = vec(
        (
            select(&[
                "platform",
                "chat_id",
                "chat_type",
                "user_id",
                "guild_id",
                "profile",
                "prospective_thread_id",
                "new",
            ]),
            json(),
        ),
        0..6,
    )
    .prop_map(|fields| {
        format!("{{{}}}", fields.iter().map(|(n, v)| format!("\"{n}\": {v}")).collect::<Vec<_>>().join(","))
    });
    prop_oneof![
        4 => iso,
        2 => (-1_000_000_000_000_i64..3_000_000_000_000).prop_map(|ms| ms.to_string()),
        1 => (0..3_000_000_000_000_i64, 0..1000).prop_map(|(ms, fraction)| format!("{ms}.{fraction}")),
        2 => (0_u64..100_000).prop_map(|n| n.to_string()),
        1 => "[a-z0-9_/.]{0,10}".prop_map(quoted),
        1 => origin,
    ]
}

fn entry(gateway: Gateway) -> impl Strategy<Value = String> {
    let (names, id) = match gateway {
        Gateway::OpenClaw => (OPENCLAW, "sessionId"),
        _ => (HERMES, "session_id"),
    };
    let name = prop_oneof![6 => select(names).prop_map(String::from), 1 => ".{0,6}", 1 => select(HERMES).prop_map(String::from)];
    let value = prop_oneof![json(), plausible()];
    let id = prop_oneof![
        12 => Just(Some(format!("\"{id}\": \"s\""))),
        1 => json().prop_map(move |value| Some(format!("\"{id}\": {value}"))),
        1 => Just(None),
    ];
    let fields = vec((name.prop_map(quoted), value), 0..14);
    let good = (id, fields).prop_map(|(id, fields)| {
        let fields = fields.into_iter().map(|(name, value)| format!("{name}: {value}"));
        format!("{{{}}}", id.into_iter().chain(fields).collect::<Vec<_>>().join(", "))
    });
    let broken = select(&[
        "{\"session_id\": \"\\ud800\"}",
        "{\"session_id\": \"s\", \"\\udc00\": 1}",
        "{\"sessionId\": \"s\", }",
        "{\"a\": [1, 2}",
        "01",
        "{\"a\" 1}",
    ]);
    prop_oneof![12 => good, 1 => json(), 1 => broken.prop_map(String::from)]
}

/// Keys and raw values in the order of a file.
pub(crate) fn members(gateway: Gateway) -> impl Strategy<Value = Vec<(String, String)>> {
    let key = prop_oneof![
        6 => "[a-c]",
        3 => "agent:main:discord:group:[0-9]{1,3}",
        1 => ".{0,8}",
        1 => "_[a-c]",
    ];
    let note_or_entry = key.prop_flat_map(move |key| {
        let value = if key.starts_with('_') { json().boxed() } else { entry(gateway).boxed() };
        (Just(key), value)
    });
    vec(note_or_entry, 0..8)
}

/// An entry that makes any file one that is taken: it is good.
fn anchor(gateway: Gateway) -> (String, String) {
    let text = match gateway {
        Gateway::OpenClaw => r#"{"sessionId": "s", "updatedAt": 1774868423845}"#,
        _ => r#"{"session_id": "s", "updated_at": "2026-06-03T00:41:19"}"#,
    };
    ("anchor".into(), text.into())
}

fn lost_nothing(gateway: Gateway, members: &[(String, String)]) {
    let fresh = Fresh::new();
    let members = &[members, &[anchor(gateway)]].concat();
    // One member a line, so that a line of the quarantine says which.
    let lines: Vec<_> = members.iter().map(|(key, value)| format!("{}: {value}", quoted(key.clone()))).collect();
    let text = format!("{{\n{}\n}}", lines.join(",\n"));
    let mut quarantine = Vec::new();
    let report = match fresh.try_import(&text, ImportOptions::new().gateway(gateway).quarantine(&mut quarantine)) {
        Ok(report) => report,
        Err(Error::ClockBehind { .. }) => {
            let trusting = ImportOptions::new().gateway(gateway).trust_times(true);
            fresh.import_with(&text, trusting.quarantine(&mut quarantine))
        }
        Err(error) => panic!("{error}: {text}"),
    };
    assert_eq!(report.damage, None, "{text}");

    let mut bad = BTreeSet::new();
    for line in String::from_utf8(quarantine).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let at = usize::try_from(line["line"].as_u64().unwrap()).unwrap() - 2;
        assert_eq!(line["raw"], members[at].1.trim_end(), "the quarantine has it as it was");
        assert_eq!(line["key"], members[at].0);
        assert!(bad.insert(at));
    }
    assert_eq!(report.quarantined, bad.len() as u64);
    let mut expected: BTreeMap<&str, Vec<Exact>> = BTreeMap::new();
    for (_, (key, value)) in members.iter().enumerate().filter(|(at, _)| !bad.contains(at)) {
        expected.entry(key).or_default().push(Exact::parse(value));
    }
    let entries = expected.keys().filter(|key| !key.starts_with('_')).count() as u64;
    assert_eq!(report.imported, entries);

    let format = match gateway {
        Gateway::OpenClaw => ExportFormat::OpenClaw,
        _ => ExportFormat::Hermes,
    };
    let export = |fresh: &Fresh| {
        let mut out = Vec::new();
        let options = ExportOptions::new(format).zone("Europe/Berlin".parse().unwrap());
        fresh.store.export(&mut out, &options).unwrap();
        String::from_utf8(out).unwrap()
    };
    let out = export(&fresh);
    let exported = Exact::parse(&out);
    let keys: Vec<_> = exported.fields().keys().map(String::as_str).collect();
    assert_eq!(keys, expected.keys().copied().collect::<Vec<_>>());
    let mut moved = 0;
    for (key, candidates) in &expected {
        let got = &exported.fields()[*key];
        if key.starts_with('_') {
            assert_eq!(got, candidates.last().unwrap(), "{key}");
            continue;
        }
        // One of the entries of the file, but for times that were moved.
        let differences = candidates.iter().filter_map(|candidate| moved_times(got, candidate)).min();
        moved += differences.unwrap_or_else(|| panic!("{key}: {got:?}\nis none of\n{candidates:?}"));
    }
    assert!(moved <= report.clamped, "{moved} times were moved, and the report says {}", report.clamped);

    // What came out goes in again, and comes out the same.
    let other = Fresh::new();
    let again = other.import_with(&out, ImportOptions::new().gateway(gateway).trust_times(true));
    assert_eq!((again.imported, again.quarantined, again.clamped), (entries, 0, 0), "{out}");
    assert_eq!(export(&other), out);
    let verified = fresh.store.verify().unwrap();
    assert!(verified.violations.is_empty(), "{:?}", verified.violations);
}

/// How many times differ between two entries; `None` if anything else does.
fn moved_times(got: &Exact, original: &Exact) -> Option<u64> {
    let (got, original) = (got.fields(), original.fields());
    let names: BTreeSet<_> = got.keys().chain(original.keys()).collect();
    let differing: Vec<_> = names.into_iter().filter(|name| got.get(*name) != original.get(*name)).collect();
    differing
        .iter()
        .all(|name| TIMES.contains(&name.as_str()) && got.contains_key(*name))
        .then_some(differing.len() as u64)
}

/// `CLOAKROOM_CASES` asks for more.
pub(crate) fn settings(cases: u32) -> ProptestConfig {
    let cases = std::env::var("CLOAKROOM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 1000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(settings(64))]

    #[test]
    fn a_hermes_file_loses_nothing(members in members(Gateway::Hermes)) {
        lost_nothing(Gateway::Hermes, &members);
    }

    #[test]
    fn an_openclaw_file_loses_nothing(members in members(Gateway::OpenClaw)) {
        lost_nothing(Gateway::OpenClaw, &members);
    }
}

proptest! {
    #![proptest_config(settings(1000))]

    /// Bytes that are no file, or one that was damaged: an answer, and never a panic.
    #[test]
    fn any_bytes_are_answered(mut bytes in vec(select(b"{}[]\",:\\\n _ks01.eE-\xffNu{\"".as_slice()), 0..60), in_object in any::<bool>()) {
        if in_object {
            bytes.insert(0, b'{');
        }
        let store = store();
        let options = ImportOptions::new().dry_run(true);
        if let Ok(report) = store.import(bytes.as_slice(), options, |_| {}) {
            let outcomes = report.imported + report.updated + report.kept + report.duplicates + report.quarantined;
            prop_assert_eq!(report.read, outcomes);
            prop_assert_eq!(report.bytes <= bytes.len() as u64, true);
        }
    }
}

/// One store for all dry runs.
fn store() -> &'static cloakroom::SessionStore {
    static STORE: std::sync::OnceLock<Fresh> = std::sync::OnceLock::new();
    &STORE.get_or_init(Fresh::new).store
}
