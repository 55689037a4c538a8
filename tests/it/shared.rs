//! One store for all of a process that open the same directory.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use cloakroom::source::KeyPolicy;
use cloakroom::time::{Clock, ManualClock, Timer};
use cloakroom::{Error, Options, Result, SessionStore, Timestamp};

use crate::common::{Home, NOW, assert_sound, key, source};

fn is_ours<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::Locked { this_process: true, .. }))
}

/// Whether two handles are of one store: a change that no commit has taken shows in both.
fn are_one(one: &SessionStore, other: &SessionStore) -> bool {
    let n = usize::try_from(other.len()).unwrap() + 1000;
    one.resolve(&source(n)).unwrap();
    other.contains(&key(n)).unwrap()
}

#[test]
fn all_get_one_store_whatever_the_path_and_the_last_to_go_closes_it() {
    let home = Home::new();
    let options = home.options();
    let first = SessionStore::open_shared(options.clone()).unwrap();
    let parent = home.path().parent().unwrap().to_path_buf();
    std::os::unix::fs::symlink(home.path(), parent.join("link")).unwrap();
    std::os::unix::fs::symlink(&parent, parent.join("around")).unwrap();
    let paths = ["sessions.db", "sessions.db/", "./sessions.db/../sessions.db", "link", "around/around/link"];
    let others = paths.map(|path| {
        // Whether it may be made matters no more.
        let options = with_path(&options, &parent.join(path)).create(path == "link");
        SessionStore::open_shared(options).unwrap()
    });
    assert!(others.iter().all(|other| are_one(&first, other)));
    fs::rename(home.path(), parent.join("moved")).unwrap();
    let moved = SessionStore::open_shared(with_path(&options, &parent.join("moved"))).unwrap();
    assert!(are_one(&first, &moved));
    fs::rename(parent.join("moved"), home.path()).unwrap();
    drop((first, moved));
    let last = others[0].clone();
    drop(others);
    assert!(is_ours(SessionStore::open(home.options())));
    assert!(are_one(&last, &SessionStore::open_shared(options).unwrap()));
    drop(last);
    let store = home.open();
    assert!(store.open_report().clean);
    assert_sound(&store);
}

/// The same options, for another path: what is kept of the first is the clock.
fn with_path(options: &Options, path: &Path) -> Options {
    options.clone().path(path)
}

#[test]
fn options_agree_or_the_error_names_the_one_that_does_not() {
    let home = Home::new();
    let store = SessionStore::open_shared(home.options()).map(drop);
    store.unwrap();
    let options = home.options();
    let store = SessionStore::open_shared(options.clone()).unwrap();
    let second = Duration::from_secs(1);
    for (option, other) in [
        ("trust_group", options.clone().trust_group(true)),
        ("commit_interval", options.clone().commit_interval(second)),
        ("max_pending", options.clone().max_pending(2)),
        ("cache_bytes", options.clone().cache_bytes(32 << 20)),
        ("cached_entries", options.clone().cached_entries(1)),
        ("journal_bytes", options.clone().journal_bytes(1)),
        ("key_policy", options.clone().key_policy(KeyPolicy { sessions_per_user: false, ..KeyPolicy::default() })),
        // Another clock, though it is a handle to the same time.
        ("clock", options.clone().clock(home.clock.clone())),
    ] {
        match SessionStore::open_shared(other) {
            Err(error @ Error::OptionsDiffer { option: found, .. }) => {
                assert_eq!((found, error.kind()), (option, "options_differ"));
                assert!(error.to_string().contains(option), "{error}");
            }
            other => panic!("{option}: {other:?}"),
        }
    }
    assert!(are_one(&store, &SessionStore::open_shared(options.clone().create(false)).unwrap()));
    // A setting that cannot work is refused as ever.
    assert!(matches!(SessionStore::open_shared(options.max_pending(1)), Err(Error::Setting { .. })));
    // Options that name no clock agree.
    let home = Home::new();
    let options = || Options::new(home.path()).create(true).cache_bytes(16 << 20);
    let [one, other] = [options(), options()].map(|options| SessionStore::open_shared(options).unwrap());
    assert!(are_one(&one, &other));
}

#[test]
fn a_store_that_is_opened_plainly_is_not_shared_and_the_error_says_where_it_is_open() {
    let home = Home::new();
    let told = |answer: Result<SessionStore>| {
        let error = answer.unwrap_err();
        assert!(matches!(&error, Error::Locked { this_process: true, path, .. } if *path == home.path()), "{error:?}");
        assert!(error.to_string().contains("open_shared"), "{error}");
    };
    let plain = home.open();
    told(SessionStore::open_shared(home.options()));
    told(SessionStore::open(home.options()));
    drop(plain);
    let shared = SessionStore::open_shared(home.options()).unwrap();
    told(SessionStore::open(home.options()));
    assert!(is_ours(SessionStore::compact(home.options(), |_| {})));
    drop(shared);
    home.open();
}

#[test]
fn of_threads_that_race_for_it_one_opens_and_all_have_it() {
    for _ in 0..10 {
        let home = Home::new();
        let (options, start) = (home.options(), Barrier::new(6));
        let stores: Vec<_> = std::thread::scope(|scope| {
            let race = |_| {
                scope.spawn(|| {
                    start.wait();
                    SessionStore::open_shared(options.clone()).unwrap()
                })
            };
            let threads: Vec<_> = (0..6).map(race).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(stores.iter().all(|store| are_one(&stores[0], store)));
        assert_eq!(stores.iter().filter(|store| store.open_report().created).count(), 6);
    }
}

/// Those that come while the last handle goes wait for the last commit: none of them is refused.
#[test]
fn it_may_be_dropped_and_opened_by_many_at_once() {
    let home = Home::new();
    let options = home.options();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let options = &options;
            scope.spawn(move || {
                for n in 0..15 {
                    let store = SessionStore::open_shared(options.clone()).unwrap();
                    store.resolve(&source(thread * 100 + n)).unwrap();
                }
            });
        }
    });
    let store = home.open();
    assert_eq!(store.len(), 60);
    assert!(store.open_report().clean);
    assert_sound(&store);
}

#[test]
fn a_closed_store_is_not_handed_out() {
    let home = Home::new();
    let options = home.options();
    let (store, clone) =
        (SessionStore::open_shared(options.clone()).unwrap(), SessionStore::open_shared(options.clone()));
    store.resolve(&source(1)).unwrap();
    store.close().unwrap();
    let started = Instant::now();
    for _ in 0..2 {
        assert!(is_ours(SessionStore::open_shared(options.clone())), "its clones have the directory still");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "it waits for nobody");
    drop((store, clone));
    let again = SessionStore::open_shared(options).unwrap();
    assert!(again.contains(&key(1)).unwrap());
    again.touch(&key(1)).unwrap().unwrap().wait().unwrap();
}

#[test]
fn a_removed_store_is_not_handed_out() {
    let home = Home::new();
    let options = home.options();
    let old = SessionStore::open_shared(options.clone()).unwrap();
    old.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    fs::remove_dir_all(home.path()).unwrap();
    assert!(matches!(SessionStore::open_shared(options.clone().create(false)), Err(Error::NotFound { .. })));
    for _ in 0..2 {
        let new = SessionStore::open_shared(options.clone()).unwrap();
        assert!(new.open_report().created && new.is_empty());
        assert!(are_one(&new, &SessionStore::open_shared(options.clone()).unwrap()));
        assert!(!new.contains(&key(1)).unwrap() && old.contains(&key(1)).unwrap());
        new.resolve(&source(2)).unwrap().receipt.wait().unwrap();
        drop(new);
        fs::remove_dir_all(home.path()).unwrap();
    }
    // Another directory at the path, while the old one is in use elsewhere.
    let first = SessionStore::open_shared(options.clone()).unwrap();
    fs::rename(home.path(), home.path().with_extension("old")).unwrap();
    let second = SessionStore::open_shared(options).unwrap();
    assert!(!are_one(&first, &second));
}

#[test]
fn after_an_opening_that_fails_the_next_one_opens() {
    let home = Home::new();
    let missing = home.options().create(false);
    assert!(matches!(SessionStore::open_shared(missing.clone()), Err(Error::NotFound { .. })));
    assert!(!home.path().exists());
    fs::write(home.path(), "no directory").unwrap();
    assert!(matches!(SessionStore::open_shared(missing.clone()), Err(Error::NotAStore { .. })));
    fs::remove_file(home.path()).unwrap();
    fs::create_dir(home.path()).unwrap();
    assert!(matches!(SessionStore::open_shared(missing.clone()), Err(Error::NotAStore { .. })));
    fs::remove_dir(home.path()).unwrap();
    let clock = Calls::new(|| panic!("planned"));
    let panicked = catch_unwind(AssertUnwindSafe(|| SessionStore::open_shared(home.options().clock(clock))));
    assert!(panicked.is_err());
    // The thread that was started for it lets go of the files when it ends.
    let started = Instant::now();
    while is_ours(SessionStore::open_shared(missing.clone())) {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    SessionStore::open_shared(missing).unwrap();
}

/// A clock that calls once, on the thread that opens the store.
#[derive(Clone)]
struct Calls {
    inner: ManualClock,
    call: Arc<dyn Fn() + Send + Sync>,
    called: Arc<AtomicBool>,
    opener: std::thread::ThreadId,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}

impl Calls {
    fn new(call: impl Fn() + Send + Sync + 'static) -> Self {
        let opener = std::thread::current().id();
        Self { inner: ManualClock::new(NOW), call: Arc::new(call), called: Arc::default(), opener }
    }
}

impl Clock for Calls {
    fn now(&self) -> Timestamp {
        if std::thread::current().id() == self.opener && !self.called.swap(true, Ordering::SeqCst) {
            (self.call)();
        }
        self.inner.now()
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.inner.after(delay)
    }
}

/// While a store is being opened its clock is asked, and may open others. It cannot have the one that is not open yet.
#[test]
fn an_opening_holds_up_no_other() {
    let (home, other) = (Home::new(), Home::new());
    let (options, others) = (home.options(), other.options());
    let opened: Arc<OnceLock<SessionStore>> = Arc::default();
    let clock = {
        let (opened, options) = (Arc::clone(&opened), options.clone());
        Calls::new(move || {
            assert!(is_ours(SessionStore::open_shared(options.clone())), "it would wait for itself");
            // By this thread and by another.
            let store = SessionStore::open_shared(others.clone()).unwrap();
            let options = others.clone();
            std::thread::spawn(move || SessionStore::open_shared(options).unwrap()).join().unwrap();
            opened.set(store).unwrap();
        })
    };
    let store = SessionStore::open_shared(options.clock(clock.clone())).unwrap();
    assert!(clock.called.load(Ordering::SeqCst));
    assert!(!are_one(&store, opened.get().unwrap()));
}
