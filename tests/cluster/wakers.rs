//! Wakers of receipts are the caller's code. Whatever they do, no verb waits for one.

use std::future::{Future as _, IntoFuture as _};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::ClusterStore;
use cloakroom::{Receipt, Sessions as _};

use crate::common::{key, source};
use crate::conformance::one;

/// A thread that has not answered after this never will.
const HUNG: Duration = Duration::from_secs(20);

/// Does this when it is called.
struct Does<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Does<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// A task that waits for a receipt, and does this when it is woken.
#[track_caller]
fn wait_for(receipt: Receipt, does: impl Fn() + Send + Sync + 'static) {
    let mut receipt = Box::pin(receipt.into_future());
    let waker = Waker::from(Arc::new(Does(does)));
    assert!(receipt.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
}

fn with_one() -> ClusterStore {
    let store = one().open();
    store.resolve(&source(1)).unwrap();
    store
}

fn touched(store: &ClusterStore) -> Receipt {
    store.touch(&key(1)).unwrap().unwrap()
}

/// An executor may run the task in the call that wakes it, and the task goes on with the store.
#[test]
fn a_waker_may_use_the_store() {
    let store = with_one();
    let (tell, told) = mpsc::channel();
    let own = store.clone();
    wait_for(touched(&store), move || {
        touched(&own).wait().unwrap();
        own.remove(&key(1)).unwrap().unwrap().wait().unwrap();
        let _ = tell.send(own.contains(&key(1)).unwrap());
    });
    assert_eq!(told.recv_timeout(HUNG), Ok(false), "it hangs");
}

#[test]
fn a_waker_that_panics_or_blocks_holds_up_nobody() {
    let store = with_one();
    let (call, called) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let calls = |name: &'static str| {
        let call = call.clone();
        move || call.send(name).unwrap()
    };
    let panics = calls("panics");
    wait_for(touched(&store), move || {
        panics();
        panic!("a waker");
    });
    assert_eq!(called.recv_timeout(HUNG), Ok("panics"));
    let blocks = calls("blocks");
    wait_for(touched(&store), move || {
        blocks();
        let _ = released.lock().unwrap().recv();
    });
    assert_eq!(called.recv_timeout(HUNG), Ok("blocks"));
    // Verbs go on, and so do other wakers.
    let (own, verb) = (store.clone(), calls("a verb"));
    thread::spawn(move || {
        touched(&own).wait().unwrap();
        verb();
    });
    assert_eq!(called.recv_timeout(HUNG), Ok("a verb"), "it waits for the waker");
    wait_for(touched(&store), calls("another"));
    assert_eq!(called.recv_timeout(HUNG), Ok("another"));
    drop(release);
}
