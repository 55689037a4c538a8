//! Any bytes as a config file: an error or settings, never a panic. Settings that were read are written and read again
//! as the same, and the policies made of them work at any time.

#![no_main]

use cloakroom::config::Config;
use cloakroom::reset::ResetPolicies;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{PrunePolicy, SessionSource, Timestamp};
use libfuzzer_sys::fuzz_target;

fn check(config: &Config) {
    let text = serde_json::to_string(config).expect("settings can be written");
    assert_eq!(serde_json::from_str::<Config>(&text).expect("and read again"), *config);
    let policy = PrunePolicy::from(config);
    let _ = WatcherConfig::from(config);
    assert!(!config.prune_interval().is_zero());
    let resets = ResetPolicies::try_from(config);
    for now in [Timestamp::MIN, Timestamp::from_micros(1_781_222_813_123_456), Timestamp::MAX] {
        assert!(policy.cutoff(now).is_none_or(|cutoff| cutoff <= now));
        let Ok(resets) = &resets else { continue };
        for (platform, chat_type) in [("discord", "group"), ("telegram", "dm"), ("", "")] {
            let source =
                SessionSource { platform: platform.into(), chat_type: chat_type.into(), ..SessionSource::default() };
            let policy = resets.for_source(&source);
            assert_eq!(policy.due(now, now), None, "an entry that is used now");
            let _ = policy.due(Timestamp::MIN, now);
        }
        assert!(resets.describe().count() > 0);
    }
}

fuzz_target!(|input: &[u8]| {
    if let Ok(config) = serde_json::from_slice::<Config>(input) {
        check(&config);
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(config) = toml::from_str::<Config>(text) {
        check(&config);
    }
});
