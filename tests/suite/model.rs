//! Random sequences of verbs, against a plain map. `CLOAKROOM_CASES` sets how many.

use std::collections::BTreeMap;
use std::time::Duration;

use cloakroom::change::{Edit, Expect, KeepExtras, Modified, Put, Removal, Repoint, Repointed, Resolution, Touch};
use cloakroom::{Extras, PrunePolicy, SessionEntry, SessionId, SessionKey, Usage};
use serde_json::json;

use super::{DAY, Dice, MINUTE, Rig, with};
use crate::common::{key, source};

const KEYS: usize = 5;
const STEPS: usize = 60;

/// What a store should hold: entries whose revision was seen last, and their extras.
type Map = BTreeMap<SessionKey, (SessionEntry, Extras)>;

pub fn the_store_is_a_map<R: Rig>(rig: &dyn Fn() -> R) {
    let cases = std::env::var("CLOAKROOM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40);
    for case in 0..cases {
        let (rig, mut dice, mut map) = (rig(), Dice(case), Map::new());
        for step in 0..STEPS {
            let said = run(&rig, &mut dice, &mut map);
            look(&rig, &map, &format!("case {case}, step {step}: {said}"));
        }
    }
}

/// One step.
fn run(rig: &dyn Rig, dice: &mut Dice, map: &mut Map) -> String {
    use cloakroom::time::Clock as _;
    let (store, k, roll) = (rig.sessions(), dice.roll(KEYS), dice.roll(19));
    let (key, now) = (key(k), rig.clock().now());
    let id = SessionId::new(format!("shared-{}", dice.roll(3))).unwrap();
    let said = format!("{roll} at {k}");
    if let Some((entry, _)) = map.get_mut(&key) {
        // Which revision a change gave is the store's affair.
        let found = store.get(&key).unwrap().unwrap();
        (entry.revision, entry.extras_bytes) = (found.revision, found.extras_bytes);
    }
    let old = map.get(&key).cloned();
    // What a verb on the entry makes of it.
    let mut changed = |found: bool, change: &mut dyn FnMut(&mut SessionEntry, &mut Extras)| {
        assert_eq!(found, old.is_some(), "{said}");
        if let Some((entry, extras)) = map.get_mut(&key) {
            change(entry, extras);
        }
    };
    match roll {
        0..4 => {
            let resolved = store.resolve(&source(k)).unwrap();
            match (&resolved.resolution, &old) {
                (Resolution::Created, None) => assert_eq!(resolved.entry.updated_at, now),
                (Resolution::Existing, Some((entry, _))) => {
                    let touched = with(entry.clone(), |entry| {
                        entry.updated_at = entry.updated_at.max(now);
                    });
                    assert_eq!(resolved.entry, touched, "{said}");
                    map.get_mut(&key).unwrap().0 = touched;
                    return said;
                }
                (Resolution::Replaced { previous, .. }, Some((entry, _))) => {
                    assert!(entry.suspended && *previous == entry.session_id, "{said}");
                    assert_eq!((resolved.entry.pinned, resolved.entry.usage), (entry.pinned, Usage::ZERO));
                }
                other => panic!("{said}: {other:?}"),
            }
            map.insert(key, (resolved.entry, Extras::default()));
        }
        4..6 => changed(store.touch(&key).unwrap().is_some(), &mut |entry, _| {
            entry.updated_at = entry.updated_at.max(now);
        }),
        6 => changed(store.suspend(&key).unwrap().is_some(), &mut |entry, _| entry.suspended = true),
        7 => changed(store.unsuspend(&key).unwrap().is_some(), &mut |entry, _| entry.suspended = false),
        8 => {
            let pinned = dice.roll(2) == 0;
            let done = if pinned { store.pin(&key) } else { store.unpin(&key) };
            changed(done.unwrap().is_some(), &mut |entry, _| entry.pinned = pinned);
        }
        9 => {
            let turn = Usage { input_tokens: 3, total_tokens: u64::MAX / 3, estimated_cost_usd: 0.25, ..Usage::ZERO };
            changed(store.record_usage(&key, &turn).unwrap().is_some(), &mut |entry, _| entry.usage.add(&turn));
        }
        10 => {
            let name = "n".repeat(dice.roll(6000));
            let done = store.update(&key, &mut |details| details.display_name = Some(name.clone()));
            changed(done.unwrap().is_some(), &mut |entry, _| entry.details.display_name = Some(name.clone()));
        }
        11..13 => {
            let (name, value) = (format!("extra-{}", dice.roll(3)), json!("e".repeat(dice.roll(3000))));
            let done = store.set_extra(&key, &name, &value);
            changed(done.unwrap().is_some(), &mut |_, extras| extras.insert(name.clone(), &value));
        }
        13 => {
            let name = format!("extra-{}", dice.roll(3));
            let removed = store.remove_extra(&key, &name).unwrap().is_some();
            let expected = map.get_mut(&key).is_some_and(|(_, extras)| extras.remove(&name));
            assert_eq!(removed, expected, "{said}");
        }
        14 => match (store.repoint(&key, id.clone(), &Repoint::new().keep(KeepExtras::All)).unwrap(), old) {
            (Repointed::Missing, None) => {}
            (Repointed::Same(_), Some((entry, _))) => assert_eq!(entry.session_id, id),
            (Repointed::Switched(written), Some((entry, extras))) => {
                assert_eq!((&written.entry.session_id, written.entry.usage), (&id, Usage::ZERO));
                assert_eq!(written.entry.updated_at, entry.updated_at.max(now));
                map.insert(key, (written.entry, extras));
            }
            other => panic!("{said}: {other:?}"),
        },
        15 => {
            let (is_seen, back) = (dice.roll(2) == 0, MINUTE * dice.roll(9) as u32);
            let mut new = SessionEntry::new(key.clone(), id, now.saturating_sub(back));
            new.usage.input_tokens = 7;
            let seen = old.as_ref().map_or(Expect::Absent, |(entry, _)| Expect::Revision(entry.revision));
            let wrong = if old.is_some() { Expect::Absent } else { Expect::Revision(cloakroom::Revision::NONE) };
            let mut extras = Extras::default();
            extras.insert("put", &json!(1));
            match store.put(&new, &extras, if is_seen { seen } else { wrong }).unwrap() {
                Put::Unexpected(found) => assert_eq!((found, is_seen), (old.map(|(entry, _)| entry), false), "{said}"),
                Put::Created(written) | Put::Replaced(written) => {
                    assert!(is_seen && written.entry.updated_at == new.updated_at, "{said}");
                    map.insert(key, (written.entry, extras));
                }
                other => panic!("{said}: {other:?}"),
            }
        }
        16 => {
            let edit = [Edit::Write, Edit::Keep, Edit::Remove][dice.roll(3)];
            let done = store.modify(&key, Touch::Yes, &mut |draft| {
                draft.entry.usage.output_tokens += 1;
                draft.set_extra("modified", &json!(true));
                edit
            });
            match (done.unwrap(), edit) {
                (Modified::Kept(found), Edit::Keep) => assert_eq!(found, old.map(|(entry, _)| entry)),
                (Modified::Kept(None), Edit::Remove) => assert!(old.is_none()),
                (Modified::Removed(_), Edit::Remove) => drop(map.remove(&key).unwrap()),
                (Modified::Created(written) | Modified::Changed(written), Edit::Write) => {
                    let (before, mut extras) = old.unwrap_or_else(|| {
                        (SessionEntry::new(key.clone(), written.entry.session_id.clone(), now), Extras::default())
                    });
                    assert_eq!(written.entry.usage.output_tokens, before.usage.output_tokens + 1);
                    assert_eq!(written.entry.updated_at, before.updated_at.max(now));
                    extras.insert("modified", &json!(true));
                    map.insert(key, (written.entry, extras));
                }
                other => panic!("{said}: {other:?}"),
            }
        }
        17 => match old {
            Some((entry, _)) => {
                let is_seen = dice.roll(2) == 0;
                let back = if is_seen { Duration::ZERO } else { MINUTE };
                let seen = with(entry, |entry| {
                    entry.updated_at = entry.updated_at.saturating_sub(back);
                });
                match store.remove_if(&key, &seen).unwrap() {
                    Removal::Removed(_) if is_seen => drop(map.remove(&key)),
                    Removal::Changed if !is_seen => {}
                    other => panic!("{said}: {other:?}"),
                }
            }
            None => assert!(store.remove(&key).unwrap().is_none()),
        },
        _ => {
            rig.clock().advance([MINUTE, DAY][dice.roll(2)]);
            let now = rig.clock().now();
            let report = store.prune(&PrunePolicy::max_age_days(2), &|_: &SessionKey| false).unwrap();
            let before = map.len();
            map.retain(|_, (entry, _)| entry.suspended || entry.pinned || now.since(entry.updated_at) <= DAY * 2);
            assert_eq!(report.removed, (before - map.len()) as u64, "{said}");
        }
    }
    said
}

/// All that there is, in all ways.
fn look(rig: &dyn Rig, map: &Map, said: &str) {
    let store = rig.sessions();
    assert_eq!(store.len().unwrap(), map.len() as u64, "{said}");
    for k in 0..KEYS {
        let found = store.get_with_extras(&key(k)).unwrap();
        // Which revision a change gave, and how many bytes the extras are, is not the model's.
        let known = |(entry, extras): &(SessionEntry, Extras)| {
            let (revision, extras_bytes) = found.as_ref().map_or_else(
                || (entry.revision, entry.extras_bytes),
                |(found, _)| (found.revision, found.extras_bytes),
            );
            (
                with(entry.clone(), |entry| {
                    entry.revision = revision;
                    entry.extras_bytes = extras_bytes;
                }),
                extras.clone(),
            )
        };
        assert_eq!(found, map.get(&key(k)).map(known), "{said}: {k}");
        assert_eq!(store.get(&key(k)).unwrap(), found.map(|(entry, _)| entry), "{said}: {k}");
    }
    let mut rows: Vec<_> = map.values().map(|(entry, _)| entry.updated_at).collect();
    rows.sort_by(|a, b| b.cmp(a));
    let listed: Vec<_> = store.recent(100, None).unwrap().entries.iter().map(|row| row.updated_at).collect();
    assert_eq!(listed, rows, "{said}");
}
