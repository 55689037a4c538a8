use super::*;
use crate::config::Options;
use crate::error::Error;
use crate::source::SessionSource;
use crate::store::SessionStore;
use crate::time::ManualClock;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Opens a store of `behind` entries that were used long ago and `ahead` that lie ahead of the clock. Answers how many rows of
/// the index the opening read, and how many entries it says lie ahead, if it doubts the clock.
fn opened(behind: u64, ahead: u64) -> (u64, Option<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let options = Options::new(dir.path().join("db")).create(true).cache_bytes(16 << 20).clock(clock.clone());
    let store = SessionStore::open(options.clone()).unwrap();
    for n in 0..behind + ahead {
        if n == behind {
            clock.advance(400 * DAY);
        }
        let chat_id = Some(n.to_string());
        let (platform, chat_type) = ("telegram".into(), "dm".into());
        store.resolve(&SessionSource { platform, chat_type, chat_id, ..SessionSource::default() }).unwrap();
    }
    store.close().unwrap();
    drop(store);
    clock.set_wall(START.saturating_add(DAY));
    let store = SessionStore::open(options).unwrap();
    let report = store.open_report();
    (store.commits().engine().unwrap().rows_read(), report.clock_doubted.then_some(report.times_ahead))
}

#[test]
fn where_nearly_all_lie_ahead_an_opening_reads_few_of_them() {
    let few = FEW as u64;
    let (all, half) = (4 * few, Some(2 * few));
    assert_eq!(opened(0, all), (few, half));
    // What lies behind is counted, from the old end.
    assert_eq!(opened(10, all - 10), (few + 10, half));
}

#[test]
fn where_as_many_lie_behind_as_ahead_they_are_counted_exactly() {
    let few = FEW as u64;
    assert_eq!(opened(2 * few, 2 * few).1, Some(2 * few));
    assert_eq!(opened(2 * few + 1, 2 * few - 1).1, None);
}

/// A fork may come while another thread looks at the clock: its lock stays taken in the child, which is refused before it.
#[test]
fn a_forked_child_does_not_wait_for_what_is_known_of_the_clock() {
    // In a process of its own: a child of this one would have copies of the files of other tests, and their locks.
    const ALONE: &str = "CLOAKROOM_FORKS_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "clock_check::tests::a_forked_child_does_not_wait_for_what_is_known_of_the_clock";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let done = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path().join("db")).create(true).cache_bytes(16 << 20);
    let store = SessionStore::open(options).unwrap();
    let taken = store.clock_check().state.lock();
    let fork::Fork::Parent(child) = fork::fork().unwrap() else {
        let answers = [store.leases().map(drop), store.look_at_clock().map(drop), store.check_clock().map(drop)];
        let are_refused = answers.iter().all(|answer| matches!(answer, Err(Error::Forked { .. })));
        std::process::exit(i32::from(!are_refused));
    };
    drop(taken);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let status = loop {
        match fork::waitpid_nohang(child).unwrap() {
            Some(status) => break status,
            None if std::time::Instant::now() > deadline => {
                let child = rustix::process::Pid::from_raw(child).unwrap();
                rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
                panic!("the child hangs");
            }
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(status, 0);
}
