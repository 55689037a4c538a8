//! Several processes with one store: whose guard is asked, and whose turn it is. Each handle is a member of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cloakroom::change::{Edit, Expect, Repoint, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore, ClusterWatcher};
use cloakroom::prune::Verdict;
use cloakroom::time::ManualClock;
use cloakroom::turns::{RecoverOptions, TurnStart};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Error, Extras, PrunePolicy, SessionKey, Sessions, Timestamp, Usage};

use crate::common::{NOW, fast_dir, key, source};
use crate::conformance::one;
use crate::failover::calls;
use crate::nodes::{Cluster, wait_for};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

struct Shared {
    options: ClusterOptions,
    clock: ManualClock,
}

impl Shared {
    fn new() -> Self {
        let clock = ManualClock::new(NOW);
        // Reviews are asked for by the tests.
        let options = one().options().clock(clock.clone()).review_interval(HOUR).member_lease(Duration::from_secs(2));
        Self { options, clock }
    }

    fn open(&self, guard: impl Fn(&SessionKey) -> Verdict + Send + Sync + 'static) -> ClusterStore {
        ClusterStore::open(self.options.clone().guard(guard)).unwrap()
    }
}

fn idle(_: &SessionKey) -> Verdict {
    Verdict::Idle
}

fn pass(store: &ClusterStore) -> cloakroom::prune::PruneReport {
    store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap()
}

/// The founding bug at the scale of a cluster: the process that prunes does not know the jobs of the others.
#[test]
fn what_another_process_is_at_work_on_stays() {
    let shared = Shared::new();
    let (a, c) = (shared.open(idle), shared.open(idle));
    let b = shared.open(|asked| Verdict::from(*asked == key(1)));
    for n in 1..4 {
        a.resolve(&source(n)).unwrap();
    }
    shared.clock.advance(DAY * 2);
    a.touch(&key(3)).unwrap().unwrap();
    // Nobody has looked yet.
    let report = pass(&a);
    assert_eq!((report.removed, report.kept_unreviewed), (0, 2));
    b.review().unwrap();
    assert_eq!((pass(&a).removed, pass(&c).removed), (0, 0), "one of them has not");
    c.review().unwrap();
    let report = pass(&a);
    assert_eq!((report.removed, report.kept_held, report.kept_unreviewed), (1, 1, 0));
    assert!(a.contains(&key(1)).unwrap() && !a.contains(&key(2)).unwrap() && a.contains(&key(3)).unwrap());
    // What it found at work holds for some time, and is looked at again.
    for _ in 0..3 {
        shared.clock.advance(HOUR * 4);
        for store in [&a, &c] {
            assert_eq!(pass(store).removed, 0);
        }
        [&a, &b, &c].iter().for_each(|store| store.review().unwrap());
        for store in [&a, &c, &b] {
            assert_eq!(pass(store).removed, 0);
        }
    }
    // Its jobs end with it, once its lease has ended.
    drop(b);
    shared.clock.advance(HOUR * 4);
    wait_for("the lease has ended", || {
        c.review().unwrap();
        pass(&a).removed == 1
    });
    assert!(!a.contains(&key(1)).unwrap() && a.contains(&key(3)).unwrap());
}

/// Its lease ends many times over while it lives, and is renewed.
#[test]
fn a_member_stays_one_while_it_lives() {
    let shared = Shared::new();
    let options = shared.options.clone().member_lease(Duration::from_secs(1));
    let a = ClusterStore::open(options.clone()).unwrap();
    let _b = ClusterStore::open(options.guard(|_: &SessionKey| true)).unwrap();
    a.resolve(&source(1)).unwrap();
    shared.clock.advance(DAY * 2);
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let report = pass(&a);
        assert_eq!((report.removed, report.kept_unreviewed), (0, 1));
    }
}

#[test]
fn a_touch_ends_a_condemnation() {
    let shared = Shared::new();
    let (a, b) = (shared.open(idle), shared.open(idle));
    a.resolve(&source(1)).unwrap();
    shared.clock.advance(DAY * 2);
    assert_eq!(pass(&a).kept_unreviewed, 1);
    b.review().unwrap();
    a.touch(&key(1)).unwrap().unwrap();
    shared.clock.advance(DAY * 2);
    // It has expired again, and what was reviewed was another rest of it.
    assert_eq!((pass(&a).removed, pass(&a).kept_unreviewed), (0, 1));
    b.review().unwrap();
    assert_eq!(pass(&a).removed, 1);
}

#[test]
fn a_guard_that_fails_or_hangs_keeps() {
    let shared = Shared::new();
    let hangs = Arc::new(AtomicBool::new(true));
    let a = shared.open(idle);
    let fails = shared.open(|_| Verdict::Failed("no".into()));
    let hanging = shared.open({
        let hangs = Arc::clone(&hangs);
        move |_| {
            while hangs.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            Verdict::Idle
        }
    });
    a.resolve(&source(1)).unwrap();
    shared.clock.advance(DAY * 2);
    assert_eq!(pass(&a).kept_unreviewed, 1);
    let reviewing = thread::spawn({
        let hanging = hanging.clone();
        move || hanging.review()
    });
    fails.review().unwrap();
    // One does not know, so it holds, and the condemnation is taken back.
    let report = pass(&a);
    assert_eq!((report.removed, report.kept_held), (0, 1));
    shared.clock.advance(HOUR * 4);
    fails.close().unwrap();
    drop(fails);
    // The other one is at it still: its process lives, and that blocks.
    assert_eq!((pass(&a).removed, pass(&a).kept_unreviewed), (0, 1));
    hangs.store(false, Ordering::Relaxed);
    reviewing.join().unwrap().unwrap();
    hanging.review().unwrap();
    assert_eq!(pass(&a).removed, 1);
}

#[test]
fn passes_that_race_remove_each_entry_once() {
    let shared = Shared::new();
    let (a, b) = (shared.open(idle), shared.open(idle));
    for n in 0..200 {
        a.resolve(&source(n)).unwrap();
    }
    shared.clock.advance(DAY * 2);
    assert_eq!((pass(&a).removed, pass(&b).removed), (0, 0));
    [&a, &b].iter().for_each(|store| store.review().unwrap());
    let touched = 150..200;
    let (a, b) = (&a, &b);
    let removed: u64 = thread::scope(|scope| {
        let passes: Vec<_> = [a, b].map(|store| scope.spawn(move || pass(store).removed)).into();
        let touched = touched.clone();
        let touches = scope.spawn(move || touched.filter(|n| b.touch(&key(*n)).unwrap().is_some()).collect::<Vec<_>>());
        let removed = passes.into_iter().map(|pass| pass.join().unwrap()).sum();
        for n in touches.join().unwrap() {
            assert!(a.contains(&key(n)).unwrap(), "{n} was touched, and is gone");
        }
        removed
    });
    assert_eq!(removed, 200 - a.len().unwrap());
}

#[test]
fn a_turn_of_a_process_that_is_gone_is_recovered_once() {
    let shared = Shared::new();
    let (a, b, c) = (shared.open(idle), shared.open(idle), shared.open(idle));
    for n in 0..2 {
        a.resolve(&source(n)).unwrap();
    }
    let TurnStart::Begun(begun) = a.try_begin_turn(&key(1)).unwrap() else { panic!() };
    let TurnStart::Open(open) = b.try_begin_turn(&key(1)).unwrap() else { panic!("two work on one message") };
    assert_eq!((open.token, open.interrupted), (begun.token, false));
    assert!(b.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap().resumable.is_empty());
    drop(a);
    wait_for("its lease has ended", || b.turn(&key(1)).unwrap().is_some_and(|turn| turn.interrupted));
    let recover = |store: &ClusterStore| {
        let told = store.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap();
        told.resumable.len() + told.already_pending.len()
    };
    let recovered = thread::scope(|scope| {
        let other = scope.spawn(|| recover(&c) + recover(&c));
        recover(&b) + other.join().unwrap()
    });
    assert_eq!(recovered, 1);
    assert!(b.get(&key(1)).unwrap().unwrap().resume_pending && b.turns().unwrap().items.is_empty());
    // A token of before ends nothing.
    let TurnStart::Begun(next) = b.try_begin_turn(&key(1)).unwrap() else { panic!() };
    assert!(next.token > begun.token);
    assert!(matches!(c.end_turn(&key(1), begun.token).unwrap(), cloakroom::turns::TurnEnd::NotCurrent));
}

/// A failover took back that a turn was begun, and its number is given to another one: that is not ended by the first.
#[test]
fn a_number_that_is_given_twice_ends_one_turn() {
    let store = one().open();
    store.resolve(&source(1)).unwrap();
    let begun = store.begin_turn(&key(1)).unwrap().unwrap();
    store.end_turn(&key(1), begun.token).unwrap();
    let names = one().nodes[0].ask(&["KEYS", &format!("{}:*:m", store.name())]);
    let names: Vec<String> = redis::from_redis_value(names).unwrap();
    for name in names.iter().filter(|name| one().nodes[0].ask(&["HEXISTS", name, "token"]) == redis::Value::Int(1)) {
        one().nodes[0].ask(&["HINCRBY", name, "token", "-1"]);
    }
    let next = store.begin_turn(&key(1)).unwrap().unwrap();
    assert_ne!(next.token, begun.token);
    assert!(matches!(store.end_turn(&key(1), begun.token).unwrap(), cloakroom::turns::TurnEnd::NotCurrent));
    assert_eq!(store.turn(&key(1)).unwrap().unwrap().token, next.token);
}

/// Two processes recover at once: each turn is told of by one of them, and resumed once.
#[test]
fn recoveries_that_race_tell_of_each_turn_once() {
    const TURNS: usize = 200;
    let shared = Shared::new();
    let (a, b, c) = (shared.open(idle), shared.open(idle), shared.open(idle));
    for n in 0..TURNS {
        a.resolve(&source(n)).unwrap();
        a.begin_turn(&key(n)).unwrap().unwrap();
    }
    a.close().unwrap();
    let recover = |store: &ClusterStore| {
        let told = store.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap();
        assert_eq!((told.orphaned, told.suspended, told.stale), (0, 0, 0));
        [told.resumable, told.already_pending].concat()
    };
    let mut told = thread::scope(|scope| {
        let other = scope.spawn(|| recover(&c));
        [recover(&b), other.join().unwrap()].concat()
    });
    told.sort();
    let mut all: Vec<_> = (0..TURNS).map(key).collect();
    all.sort();
    assert_eq!(told, all);
    assert!(all.iter().all(|key| b.get(key).unwrap().unwrap().resume_pending) && b.turns().unwrap().items.is_empty());
}

/// What a member has looked at it does not read again, while others have not or a pass has not come.
#[test]
fn what_was_reviewed_is_not_read_again() {
    let cluster = Cluster::one();
    let clock = ManualClock::new(NOW);
    let options = cluster.options().clock(clock.clone()).review_interval(HOUR);
    let [a, b, _c] = [(); 3].map(|()| ClusterStore::open(options.clone().guard(idle)).unwrap());
    a.resolve(&source(1)).unwrap();
    clock.advance(DAY * 2);
    assert_eq!(pass(&a).kept_unreviewed, 1);
    let reads = || calls(&cluster.nodes[0], "hgetall");
    // The script that notes what was looked at reads it too.
    b.review().unwrap();
    let before = reads();
    b.review().unwrap();
    assert_eq!(reads(), before);
}

/// Of those that have lived and found nothing to say, nothing is left; and of those that had, nothing once they are gone.
#[test]
fn those_that_are_gone_leave_no_trace() {
    let shared = Shared::new();
    let a = shared.open(idle);
    a.resolve(&source(1)).unwrap();
    let reviewed = || {
        let names = one().nodes[0].ask(&["KEYS", &format!("{}:*:r", a.name())]);
        let names: Vec<String> = redis::from_redis_value(names).unwrap();
        let of = |name: &String| redis::from_redis_value::<usize>(one().nodes[0].ask(&["HLEN", name])).unwrap();
        names.iter().map(of).sum::<usize>()
    };
    let condemn = || {
        shared.clock.advance(DAY * 2);
        assert_eq!(pass(&a).kept_unreviewed, 1);
    };
    let first = shared.open(idle);
    condemn();
    a.touch(&key(1)).unwrap().unwrap();
    for _ in 0..50 {
        let b = shared.open(idle);
        b.review().unwrap();
        b.close().unwrap();
    }
    assert!(reviewed() <= 1, "{}", reviewed());
    assert_eq!(a.stats().unwrap().condemned, 0, "it was used since");
    // Each has something to say now.
    for _ in 0..5 {
        let b = shared.open(idle);
        condemn();
        b.review().unwrap();
        assert!(reviewed() >= 1);
        b.close().unwrap();
        a.touch(&key(1)).unwrap().unwrap();
    }
    wait_for("they are forgotten", || {
        condemn();
        a.touch(&key(1)).unwrap().unwrap();
        reviewed() <= 1
    });
    drop(first);
}

/// What was said of an entry long ago is asked for again: an old touch may have been lost since.
#[test]
fn a_review_of_days_ago_does_not_count() {
    let shared = Shared::new();
    let (a, b) = (shared.open(idle), shared.open(idle));
    a.resolve(&source(1)).unwrap();
    shared.clock.advance(DAY * 2);
    assert_eq!(pass(&a).kept_unreviewed, 1);
    b.review().unwrap();
    shared.clock.advance(DAY * 3);
    let report = pass(&a);
    assert_eq!((report.removed, report.kept_unreviewed), (0, 1));
    b.review().unwrap();
    shared.clock.advance(DAY);
    assert_eq!(pass(&a).removed, 1);
}

/// A member that hangs keeps all that is to be pruned, and whoever prunes tells which it is. One that has just come does not hang.
#[test]
fn a_member_that_hangs_is_named() {
    let shared = Shared::new();
    let options = shared.options.clone().member_lease(HOUR);
    let open = || ClusterStore::open(options.clone().guard(idle)).unwrap();
    let (a, b) = (open(), open());
    a.resolve(&source(1)).unwrap();
    // Of one subscriber alone tracing asks whether a place in the code is heard in the thread that comes there first, which may be another
    // test's, and keeps the answer. Of two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let dir = fast_dir();
    // What a pass logs, and how many entries it keeps.
    let after = |passed: Duration| {
        shared.clock.advance(passed);
        let path = dir.path().join("log");
        let log = Arc::new(std::fs::File::create(&path).unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(log).with_max_level(tracing::Level::DEBUG).finish();
        let report = tracing::subscriber::with_default(subscriber, || pass(&a));
        (report.kept_unreviewed, std::fs::read_to_string(path).unwrap())
    };
    let line = |log: &str, level: &str| log.lines().find(|line| line.contains(level)).map(str::to_owned);
    let (kept, log) = after(DAY * 2);
    assert!(kept == 1 && line(&log, "DEBUG").unwrap().contains(b.member()) && line(&log, "WARN").is_none(), "{log}");
    let (kept, log) = after(HOUR * 4);
    assert!(kept == 1 && line(&log, "WARN").is_none(), "it may have come just now: {log}");
    let c = open();
    let (kept, log) = after(HOUR);
    let warned = line(&log, "WARN").unwrap();
    assert!(kept == 1 && warned.contains(b.member()) && !warned.contains(c.member()), "{log}");
    assert!(line(&log, "DEBUG").unwrap().contains(c.member()), "{log}");
    assert!(b.metrics().unwrap().contains(&format!("member=\"{}\"", b.member())));
    b.review().unwrap();
    let (kept, log) = after(Duration::ZERO);
    assert!(kept == 1 && line(&log, "WARN").is_none(), "{log}");
    c.review().unwrap();
    assert_eq!(pass(&a).removed, 1);
}

/// A process that comes while a pass is at work is asked too.
#[test]
fn who_comes_during_a_pass_is_asked() {
    let shared = Shared::new();
    let a = shared.open(idle);
    for n in 0..200 {
        a.resolve(&source(n)).unwrap();
    }
    shared.clock.advance(DAY * 2);
    let came = std::sync::Mutex::new(None);
    // The guard of the pass is asked with nothing locked.
    let joins = |_: &SessionKey| {
        came.lock().unwrap().get_or_insert_with(|| shared.open(|_| Verdict::Active));
        false
    };
    let report = a.prune(&PrunePolicy::max_age_days(1), &joins).unwrap();
    assert!(report.kept_unreviewed > 100, "{report:?}");
}

/// What others have to look at first is not left for the next interval.
#[test]
fn a_watcher_comes_back_when_the_others_have_looked() {
    let options = one().options().member_lease(Duration::from_secs(2)).review_interval(Duration::from_millis(50));
    let (a, _b) =
        (ClusterStore::open(options.clone().guard(idle)).unwrap(), ClusterStore::open(options.guard(idle)).unwrap());
    for n in 0..3 {
        a.resolve(&source(n)).unwrap();
    }
    let mut expired = a.get(&key(0)).unwrap().unwrap();
    expired.updated_at = expired.updated_at.saturating_sub(DAY * 2);
    a.put(&expired, &cloakroom::Extras::default(), cloakroom::change::Expect::Any).unwrap();
    let watcher = a.watch(WatcherConfig { policy: PrunePolicy::max_age_days(1), interval: HOUR }).unwrap();
    wait_for("it is gone", || !a.contains(&key(0)).unwrap());
    assert_eq!(a.len().unwrap(), 2);
    drop(watcher);
}

#[test]
fn figures_of_the_whole() {
    let shared = Shared::new();
    let (a, b) = (shared.open(idle), ClusterStore::open(shared.options.clone()).unwrap());
    for n in 0..5 {
        a.resolve(&source(n)).unwrap();
        shared.clock.advance(HOUR);
    }
    b.begin_turn(&key(4)).unwrap().unwrap();
    let _c = shared.open(idle);
    shared.clock.advance(DAY);
    assert_eq!((pass(&a).kept_unreviewed, pass(&a).removed), (4, 0), "the turn touched");
    let stats = b.stats().unwrap();
    assert_eq!((stats.entries, stats.open_turns, stats.condemned), (5, 1, 4));
    assert_eq!((stats.members, stats.guards, stats.shards), (3, 2, 16));
    assert_eq!((stats.oldest, stats.newest), (Some(NOW), Some(NOW.saturating_add(HOUR * 5))));
    assert!((1..=5).contains(&stats.shards_in_use));
}

/// Two processes with watchers: they ask each other's guards by themselves, and remove what neither is at work on.
#[test]
fn watchers_of_two_processes_prune_together() {
    let shared = Shared::new();
    let options = shared.options.clone().review_interval(Duration::from_millis(50));
    let open = |active: usize| {
        let guard = move |asked: &SessionKey| Verdict::from(*asked == key(active));
        ClusterStore::open(options.clone().guard(guard)).unwrap()
    };
    let (a, b) = (open(1), open(2));
    for n in 0..9 {
        a.resolve(&source(n)).unwrap();
        if n == 3 {
            shared.clock.advance(DAY * 2);
        }
    }
    let config = WatcherConfig { policy: PrunePolicy::max_age_days(1), interval: HOUR };
    let watch = || [&a, &b].map(|store| store.watch(config.clone()).unwrap());
    let watchers = watch();
    wait_for("what nobody is at work on is gone", || {
        watchers.iter().for_each(ClusterWatcher::prune_now);
        !a.contains(&key(0)).unwrap() && !a.contains(&key(3)).unwrap()
    });
    assert!((1..=2).all(|n| a.contains(&key(n)).unwrap()) && a.len().unwrap() == 7);
    // What these were asked for last they may do still, and that would not wait.
    drop(watchers);
    let watchers = watch();
    // Most of it would go: that waits, for a pass an hour later.
    shared.clock.advance(DAY * 3);
    let passes = || watchers.iter().map(|watcher| watcher.status().passes).sum::<u64>();
    wait_for("they see it", || watchers.iter().all(|watcher| watcher.status().held > 0));
    assert_eq!(a.len().unwrap(), 7);
    let before = passes();
    wait_for("it is confirmed", || {
        shared.clock.advance(HOUR);
        thread::sleep(Duration::from_millis(20));
        a.len().unwrap() == 2
    });
    assert!(passes() > before);
    let status = watchers[0].status();
    assert!(status.failures == 0 && status.last_report.is_some(), "{status:?}");
    let short = a.watch(WatcherConfig { interval: Duration::from_millis(1), ..config.clone() });
    assert!(matches!(short, Err(cloakroom::Error::Setting { .. })), "{short:?}");
    drop(watchers);
}

/// What a process holds others keep, with no guard and no review, until the process is gone and its lease has ended.
#[test]
fn a_lease_of_a_process_that_is_gone_holds_nothing() {
    let shared = Shared::new();
    let a = ClusterStore::open(shared.options.clone()).unwrap();
    let b = ClusterStore::open(shared.options.clone()).unwrap();
    for n in 1..3 {
        a.resolve(&source(n)).unwrap();
    }
    let lease = b.hold(&key(1)).unwrap().unwrap();
    shared.clock.advance(DAY * 2);
    let report = pass(&a);
    assert_eq!((report.removed, report.kept_held), (1, 1));
    assert_eq!(a.leases().unwrap().items.len(), 1);
    // It is dropped with its store, so it cannot end itself.
    std::mem::forget(lease);
    drop(b);
    assert_eq!(pass(&a).removed, 0);
    wait_for("its process counts as gone", || pass(&a).removed == 1);
    assert!(a.leases().unwrap().items.is_empty());
}

/// Removes those members from the roll whose lease ends late, as a node would lack them that has not heard of them.
fn forget_members_of_long_leases(store: &ClusterStore) {
    let node = &one().nodes[0];
    let names: Vec<String> =
        redis::from_redis_value(node.ask(&["KEYS", &format!("{}:*:members", store.name())])).unwrap();
    let script = "local now = tonumber(redis.call('TIME')[1]) * 1000
        return redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 600000, '+inf')";
    assert_eq!(node.ask(&["EVAL", script, "1", &names[0]]), redis::Value::Int(1));
}

/// Who joined where a node has not heard of it is not on its roll at all. It has not left for all that.
#[test]
fn who_is_not_on_the_roll_is_not_gone() {
    let shared = Shared::new();
    let (a, gone) = (shared.open(idle), shared.open(idle));
    // It renews its lease seldom, so that it stays off the roll.
    let b = ClusterStore::open(shared.options.clone().member_lease(HOUR)).unwrap();
    for n in 1..4 {
        a.resolve(&source(n)).unwrap();
    }
    gone.begin_turn(&key(1)).unwrap().unwrap();
    let begun = b.begin_turn(&key(2)).unwrap().unwrap();
    let held = b.hold(&key(3)).unwrap().unwrap();
    drop(gone);
    // From then on a lease that has ended tells that its member is gone.
    wait_for("one is gone", || a.turn(&key(1)).unwrap().unwrap().interrupted);
    forget_members_of_long_leases(&a);
    let TurnStart::Open(open) = a.try_begin_turn(&key(2)).unwrap() else { panic!("two work on one message") };
    assert_eq!((open.token, open.interrupted), (begun.token, false));
    assert!(!a.turn(&key(2)).unwrap().unwrap().interrupted);
    let told = a.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap();
    assert_eq!(told.resumable, [key(1)]);
    assert_eq!(a.leases().unwrap().items.len(), 1);
    shared.clock.advance(HOUR * 23);
    assert_eq!(pass(&a).removed, 0);
    assert!(held.is_held());
    // A day later its name would be there if it lived, or had just left.
    shared.clock.advance(HOUR * 2);
    wait_for("it is gone", || a.turn(&key(2)).unwrap().unwrap().interrupted);
    wait_for("its lease has ended", || a.leases().unwrap().items.is_empty());
}

/// Others take the turns of a process whose lease has ended, and prune what it holds. So it begins nothing then.
#[test]
fn who_cannot_renew_its_lease_begins_nothing() {
    let node = &one().nodes[0];
    let options = one().options().member_lease(Duration::from_secs(2));
    let a = ClusterStore::open(options.clone()).unwrap();
    let user = format!("user-{}", a.name());
    node.ask(&["ACL", "SETUSER", &user, "on", ">password", "~*", "+@all"]);
    let b = ClusterStore::open(options.login(user.clone(), "password")).unwrap();
    for n in 1..3 {
        a.resolve(&source(n)).unwrap();
    }
    drop(b.hold(&key(1)).unwrap().unwrap());
    // What names of one letter hold, which leaves out the members.
    let [parts, entries] = ["?", "?:*"].map(|rest| format!("~{}:{{*}}:{rest}", a.name()));
    node.ask(&["ACL", "SETUSER", &user, "resetkeys", &parts, &entries]);
    let is_refused = |error: Error| assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    wait_for("it holds nothing", || b.hold(&key(1)).map_err(is_refused).is_err());
    is_refused(b.begin_turn(&key(2)).unwrap_err());
    is_refused(b.try_begin_turn(&key(2)).unwrap_err());
    assert!(a.turn(&key(2)).unwrap().is_none());
    // The rest goes on.
    b.touch(&key(1)).unwrap().unwrap();
    b.suspend(&key(1)).unwrap().unwrap();
    node.ask(&["ACL", "SETUSER", &user, "allkeys"]);
    drop(b.hold(&key(1)).unwrap().unwrap());
    b.begin_turn(&key(2)).unwrap().unwrap();
}

/// Who has closed is gone for the others: they take over its turns, and prune what it holds. So it begins nothing any more.
#[test]
fn a_closed_store_reads_and_refuses_changes() {
    let store = one().open();
    let clone = store.clone();
    store.resolve(&source(1)).unwrap();
    let begun = store.begin_turn(&key(1)).unwrap().unwrap();
    let lease = store.hold(&key(1)).unwrap().unwrap();
    let receipt = store.touch(&key(1)).unwrap().unwrap();
    let seen = store.get(&key(1)).unwrap().unwrap();
    assert!(lease.is_held());
    store.close().unwrap();
    store.close().unwrap();
    store.flush().unwrap();
    let never = |_: &SessionKey| false;
    let refused = [
        clone.resolve(&source(2)).map(drop),
        clone.touch(&key(1)).map(drop),
        clone.touch(&key(2)).map(drop),
        clone.put(&seen, &Extras::default(), Expect::Any).map(drop),
        clone.modify(&key(1), Touch::No, &mut |_| Edit::Keep).map(drop),
        clone.update(&key(1), &mut |_| {}).map(drop),
        clone.record_usage(&key(1), &Usage::ZERO).map(drop),
        clone.suspend(&key(1)).map(drop),
        clone.unsuspend(&key(1)).map(drop),
        clone.pin(&key(1)).map(drop),
        clone.unpin(&key(1)).map(drop),
        clone.reset(&key(1)).map(drop),
        clone.repoint(&key(1), "b".parse().unwrap(), &Repoint::new()).map(drop),
        clone.set_extra(&key(1), "a", &1.into()).map(drop),
        clone.remove_extra(&key(1), "a").map(drop),
        clone.begin_turn(&key(1)).map(drop),
        clone.try_begin_turn(&key(1)).map(drop),
        clone.end_turn(&key(1), begun.token).map(drop),
        clone.discard_turn(&key(1)).map(drop),
        clone.recover_interrupted_turns(&RecoverOptions::new(None)).map(drop),
        clone.mark_resume_pending(&key(1), "a").map(drop),
        clone.clear_resume_pending(&key(1)).map(drop),
        clone.hold(&key(1)).map(drop),
        clone.hold_until(&key(1), "job", Timestamp::MAX).map(drop),
        clone.release(&key(1), "job").map(drop),
        clone.prune(&PrunePolicy::max_age_days(1), &never).map(drop),
        clone.review(),
        clone.forget("agent").map(drop),
        clone.remove_if(&key(1), &seen).map(drop),
        clone.remove(&key(1)).map(drop),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        let error = result.expect_err("a change");
        assert!(matches!(&error, Error::Closed { path } if path.to_str() == Some(store.name())), "{n}: {error:?}");
    }
    assert!(!lease.is_held());
    drop(lease);
    receipt.wait().unwrap();
    assert_eq!(clone.get(&key(1)).unwrap(), Some(seen));
    assert_eq!((clone.len().unwrap(), clone.recent(9, None).unwrap().entries.len()), (1, 1));
    assert_eq!(clone.prune_dry_run(&PrunePolicy::max_age_days(1), &never).unwrap().removed, 0);
    // Others go on with what it had.
    let other = ClusterStore::open(one().options_of(&store).replicas(0)).unwrap();
    assert!(other.turn(&key(1)).unwrap().unwrap().interrupted);
    assert!(matches!(other.try_begin_turn(&key(1)).unwrap(), TurnStart::Begun(_)));
}
