//! The disk fills up, and the store is got out of it.
//!
//! Under the rig the files may take a fixed number of bytes. A child fills the store until that fails, with a typed
//! error; what was written stays readable. The next one must open without any more space, prune, and close. Then the
//! store goes on, and nothing that was awaited and not pruned is missing. `CLOAKROOM_FULL_DISK` sets how often (3).

use std::path::Path;
use std::time::Duration;

use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, PrunePolicy, SessionKey, SessionStore};
use serde_json::{Map, json};

use crate::battery::Battery;
use crate::common::{NEVER, NOW, assert_sound, chain, key, source};
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};
use crate::rig_selftest::ack;

const MAIN: &str = "full_disk::child_main";
const BALLAST: &str = "ballast";
const DAY: Duration = Duration::from_secs(86_400);
/// Entries with a number that is a multiple of this are suspended.
const SUSPENDED: usize = 7;

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = Path::new(&root);
    let path = root.join("sessions.db");
    let (part, number) = part.split_once(' ').unwrap();
    match part {
        "fill" => fill(root, &path, number.parse().unwrap()),
        "spend" => spend(&path, number.parse().unwrap()),
        "prune" => prune(root, &path, number.parse().unwrap()),
        _ => panic!("unknown part {part}"),
    }
    std::process::exit(0);
}

fn options(path: &Path, days: u32) -> Options {
    Options::new(path)
        .create(true)
        .cache_bytes(16 << 20)
        .commit_interval(NEVER)
        .clock(ManualClock::new(NOW.saturating_add(DAY * days)))
}

/// Creates entries until that fails.
fn fill(root: &Path, path: &Path, metadata_bytes: usize) {
    let store = SessionStore::open(options(path, 0)).unwrap();
    let mut told = 0;
    let failure = loop {
        let awaited = (|| {
            let found = store.resolve(&source(told))?;
            let metadata = Map::from_iter([("text".to_owned(), json!("x".repeat(metadata_bytes)))]);
            store.set_metadata(&found.entry.key, &metadata)?;
            if told.is_multiple_of(SUSPENDED) {
                store.suspend(&found.entry.key)?;
            }
            // Many to a commit, so that it fills quickly.
            if told % 20 == 19 { store.flush() } else { Ok(()) }
        })();
        if let Err(error) = awaited {
            break error;
        }
        told += 1;
        if told.is_multiple_of(20) {
            ack(root, &format!("told {told}"));
        }
        assert!(told < 200_000, "the disk does not fill up");
    };
    let Error::ReadOnly { failure: cause, .. } = &failure else { panic!("{failure:?}") };
    assert!(matches!(**cause, Error::DiskFull { .. }), "{}", chain(&failure));
    println!("END full at {told}: {}", chain(&failure));
}

/// Opens on a full disk, and prunes all but what is suspended.
fn prune(root: &Path, path: &Path, told: usize) {
    let store = SessionStore::open(options(path, 100)).unwrap_or_else(|error| panic!("open: {}", chain(&error)));
    let repairs = &store.open_report().repairs;
    assert!(repairs.iter().any(|repair| repair.contains("ballast")), "{repairs:?}");
    assert!(!path.join(BALLAST).exists());
    assert_sound(&store);
    for n in 0..told {
        assert!(store.get(&key(n)).unwrap().is_some(), "{n} was told, and is gone");
    }
    let report = store.prune(&PrunePolicy::max_age_days(30), |_: &SessionKey| false).unwrap();
    assert_sound(&store);
    ack(root, &format!("pruned {}", report.removed));
    store.resolve(&source(900_000)).unwrap().receipt.wait().unwrap();
    store.close().unwrap();
    println!("END {report:?}");
}

/// Opens, unless there is no space for that, and creates entries until there is none for them. What was there is there.
fn spend(path: &Path, told: usize) {
    let store = match SessionStore::open(options(path, 0)) {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
            println!("END refused: {}", chain(&error));
            return;
        }
    };
    let repairs = store.open_report().repairs.join(", ");
    assert_sound(&store);
    for n in 0..told {
        assert!(store.get(&key(n)).unwrap().is_some(), "{n} was told, and is gone");
    }
    let metadata = Map::from_iter([("text".to_owned(), json!("x".repeat(20_000)))]);
    let mut made = 0;
    let failure = loop {
        let found = store.resolve(&source(1_000_000 + made));
        if let Err(error) = found.and_then(|found| store.set_metadata(&found.entry.key, &metadata)) {
            break error;
        }
        made += 1;
    };
    assert!(
        matches!(&failure, Error::ReadOnly { failure, .. } if matches!(**failure, Error::DiskFull { .. })),
        "{failure:?}"
    );
    println!("END opened: {made} more, {repairs}");
}

fn run(rig: &Rig, part: &str, space: u64) -> String {
    let output = rig.child(MAIN, part).env("SHIM_SPACE", space.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{part} in {space}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().find_map(|line| line.split_once("END ")).unwrap().1.to_owned()
}

/// How many of the entries that `fill` created are durable.
fn told(rig: &Rig) -> usize {
    let acks = std::fs::read_to_string(rig.root().join("acks")).unwrap();
    acks.lines().rev().find_map(|line| line.strip_prefix("told ")?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_store_on_a_full_disk_is_opened_and_pruned() {
    Battery::new("full_disk", 3).run(|case, mut dice| {
        // From little more than the ballast on.
        let space = [10 << 20, 14 << 20, 24 << 20][(case % 3) as usize] + dice.roll(1 << 20) as u64;
        let rig = Rig::new();
        let metadata_bytes = [50, 900, 6000][dice.roll(3)];
        let end = run(&rig, &format!("fill {metadata_bytes}"), space);
        let told = told(&rig);
        println!("{space} bytes, {metadata_bytes} of metadata: {told} told, {end}");
        println!("{}", run(&rig, &format!("prune {told}"), space));

        // With space again, all is as before the disk was full.
        let path = rig.root().join("sessions.db");
        let store = SessionStore::open(options(&path, 100)).unwrap();
        assert!(store.open_report().clean);
        assert!(std::fs::metadata(path.join(BALLAST)).unwrap().len() >= 8 << 20, "the space is kept again");
        assert_sound(&store);
        for n in (0..told).step_by(SUSPENDED) {
            let (entry, extras) = store.get_with_extras(&key(n)).unwrap().unwrap();
            assert!(entry.suspended, "{n}");
            let metadata = extras.value(cloakroom::Extras::METADATA).unwrap();
            assert_eq!(metadata["text"].as_str().unwrap().len(), metadata_bytes, "{n}");
        }
        store.resolve(&source(900_001)).unwrap().receipt.wait().unwrap();
    });
}

#[test]
fn a_store_that_used_up_its_ballast_is_as_it_was_once_some_space_is_free() {
    Battery::new("full_disk_again", 1).run(|_, mut dice| {
        let mut space = (24 << 20) + dice.roll(1 << 20) as u64;
        let rig = Rig::new();
        run(&rig, "fill 900", space);
        let told = told(&rig);
        assert!(run(&rig, &format!("spend {told}"), space).starts_with("opened"), "with the ballast's");
        for _ in 0..2 {
            println!("{space} bytes: {}", run(&rig, &format!("spend {told}"), space));
            space += 4 << 20;
            let end = run(&rig, &format!("spend {told}"), space);
            println!("{space} bytes: {end}");
            assert!(end.starts_with("opened"), "{end}");
        }
    });
}

#[test]
fn a_store_without_its_ballast_makes_it_again() {
    let home = crate::common::Home::new();
    let ballast = home.path().join(BALLAST);
    for half in [None, Some(1 << 20)] {
        drop(home.open());
        let bytes = std::fs::metadata(&ballast).unwrap().len();
        assert!(bytes >= 8 << 20, "{bytes}");
        std::fs::remove_file(&ballast).unwrap();
        if let Some(half) = half {
            // A crash came while it was made.
            std::fs::write(home.path().join("ballast.new"), vec![0; half]).unwrap();
        }
        let store = home.open();
        assert_eq!(store.open_report().repairs, [] as [String; 0]);
        assert_eq!(std::fs::metadata(&ballast).unwrap().len(), bytes);
        assert!(!home.path().join("ballast.new").exists());
    }
}
