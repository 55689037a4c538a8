//! The settings a person writes, and what is made of their slips.

use std::time::Duration;

use cloakroom::PrunePolicy;
use cloakroom::config::Config;

/// The age that a JSON value gives.
fn days(json: &str) -> i64 {
    let text = format!(r#"{{"session_store_max_age_days": {json}}}"#);
    serde_json::from_str::<Config>(&text).unwrap().session_store_max_age_days
}

#[test]
fn a_missing_setting_is_the_default() {
    let config: Config = serde_json::from_str("{}").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.session_store_max_age_days, 90);
    assert_eq!(config.prune_interval(), Duration::from_secs(3600));
}

#[test]
fn what_is_no_number_is_the_default() {
    for json in
        ["null", "true", "false", "[]", "[30]", "{}", r#"{"days": 30}"#, r#""soon""#, r#""""#, r#""nan""#, r#""inf""#]
    {
        assert_eq!(days(json), 90, "{json}");
    }
}

#[test]
fn not_a_number_is_the_default() {
    let value = serde::de::value::F64Deserializer::<serde::de::value::Error>::new(f64::NAN);
    let entries = serde::de::value::MapDeserializer::new([("session_store_max_age_days", value)].into_iter());
    let config = <Config as serde::Deserialize>::deserialize(entries).unwrap();
    assert_eq!(config.session_store_max_age_days, 90);
}

#[test]
fn numbers_are_read_however_they_are_written() {
    for (json, expected) in [
        ("30", 30),
        (r#""30""#, 30),
        (r#"" 30 ""#, 30),
        ("30.9", 30),
        (r#""30.9""#, 30),
        ("0", 0),
        ("-1", 0),
        (r#""-1""#, 0),
        ("-0.5", 0),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(days(json), expected, "{json}");
    }
}

#[test]
fn a_number_beyond_the_calendar_means_never() {
    let now = cloakroom::Timestamp::MAX;
    for json in ["1e300", "18446744073709551615", "99999999999999999999", r#""1e999""#, "9223372036854775807"] {
        let policy = PrunePolicy::max_age_days(days(json));
        assert_eq!(policy.cutoff(now), Some(cloakroom::Timestamp::MIN), "{json}: nothing is older than that");
    }
}

#[test]
fn it_round_trips() {
    for days in [0, 1, 90, i64::MAX] {
        let config =
            Config { session_store_max_age_days: days, session_store_prune_interval_minutes: 5, ..Config::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }
}

#[test]
fn the_interval_is_at_least_a_minute() {
    for json in ["0", "-5", "0.2"] {
        let text = format!(r#"{{"session_store_prune_interval_minutes": {json}}}"#);
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap().prune_interval(), Duration::from_secs(60), "{json}");
    }
}

#[test]
fn each_setting_finds_its_way_into_the_policy() {
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(PrunePolicy::default(), PrunePolicy::max_age_days(90));
    let config = Config {
        session_store_max_age_days: 30,
        session_store_max_active_days: 60,
        session_store_max_entries: 7,
        session_store_max_disk_bytes: 1000,
        session_store_low_water_bytes: 500,
        ..Config::default()
    };
    let policy = PrunePolicy::from(&config);
    assert_eq!((policy.max_age, policy.max_active_age), (Some(30 * day), Some(60 * day)));
    assert_eq!(policy, PrunePolicy::max_age_days(30).max_active_age(60 * day).max_entries(7).max_disk_bytes(1000, 500));
    // The mark is four fifths of the cap unless it is set, and never above it.
    for (low, expected) in [(0, 800), (-3, 800), (1000, 1000), (2000, 1000)] {
        let config = Config { session_store_low_water_bytes: low, ..config.clone() };
        assert_eq!(PrunePolicy::from(&config).low_water_bytes, Some(expected), "{low}");
    }
    let negative = Config {
        session_store_max_age_days: -1,
        session_store_max_active_days: -1,
        session_store_max_entries: -1,
        session_store_max_disk_bytes: -1,
        ..config
    };
    let policy = PrunePolicy::from(&negative);
    assert!(policy.is_disabled() && policy.max_active_age.is_none(), "{policy:?}");
}
