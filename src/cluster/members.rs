//! The processes that share a store: who is alive, and what each of them is at work on.
//!
//! Each process is a member while its lease lasts, and renews it from a thread of its own. What
//! a pass of any process wants gone it condemns first; the thread of each member that has a guard reads what is condemned,
//! asks its guard by key, and writes down what is at work and how far it has looked. A pass removes what all live members
//! have looked at. So one that hangs keeps everything, and one that is gone is not waited for once its lease has ended.

use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::caller::wait;
use super::figures::Figures;
use super::layout::Part;
use super::map::Kind;
use super::scripts::Named;
use super::store::{ClusterStore, Inner};
use super::value::{at, int, list, pairs, text};
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::prune::{ActivityGuard, Answer, ask};

/// How often the map of the cluster is looked at though nothing is wrong, and settings with it.
const LOOK: Duration = Duration::from_secs(5);
/// The longest sleep of the thread.
const NAP: Duration = Duration::from_secs(1);

impl ClusterStore {
    /// Joins the members, and stays one from a thread of its own until the store is dropped or closed.
    pub(super) fn start_keeper(&self) -> Result<()> {
        let joined = wait(self.renew())?;
        // A failover must not forget that there is somebody to ask. Without replicas nothing can be awaited; the next renewal
        // makes up for it.
        if let Err(error) = wait(self.keep_all(&[joined])) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a failover may forget this member for some seconds"
            );
        }
        let (stop, stopped) = bounded::<()>(0);
        *self.inner.keeper.stop.lock() = Some(stop);
        let (inner, lease) = (std::sync::Arc::downgrade(&self.inner), self.inner.options.lease);
        let nap = NAP.min(lease / 6).max(Duration::from_millis(10));
        if self.inner.options.guard.is_some() {
            // A guard that hangs must not end the lease: this process lives, and its jobs with it.
            let (inner, stopped, interval) = (inner.clone(), stopped.clone(), self.inner.options.review_interval);
            let review = move || {
                let mut reviewed = Instant::now();
                while stopped.recv_timeout(nap.min(interval)) == Err(RecvTimeoutError::Timeout) {
                    if reviewed.elapsed() < interval {
                        continue;
                    }
                    let Some(store) = upgrade(&inner) else { return };
                    if let Err(error) = store.review() {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot review what is to be pruned");
                    }
                    reviewed = Instant::now();
                }
            };
            self.start_thread("cloakroom-guard", review)?;
        }
        self.start_thread("cloakroom-again", Self::resending(inner.clone(), stopped.clone()))?;
        let told = self.inner.soon.told();
        self.start_thread("cloakroom-soon", Self::sending_soon(inner.clone(), stopped.clone(), told))?;
        // Nodes that are slow to tell of themselves must not end the lease either.
        let look = {
            let (inner, suspects) = (inner.clone(), self.inner.nodes.suspects());
            // A store that was closed is read on, so this thread ends with the last handle.
            move || {
                loop {
                    let suspect = suspects.recv_timeout(LOOK);
                    let Some(store) = upgrade(&inner) else { return };
                    match suspect {
                        Ok(suspect) => store.inner.nodes.look_at(Some(&suspect)),
                        Err(RecvTimeoutError::Timeout) if store.inner.door.is_closed() => {}
                        Err(RecvTimeoutError::Timeout) => store.inner.nodes.look_at(None),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            }
        };
        self.start_thread("cloakroom-look", look)?;
        let run = move || {
            let mut renewed = Instant::now();
            while stopped.recv_timeout(nap) == Err(RecvTimeoutError::Timeout) {
                let Some(store) = upgrade(&inner) else { return };
                if renewed.elapsed() < lease / 6 {
                    continue;
                }
                match wait(store.renew()) {
                    Ok(_) => renewed = Instant::now(),
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot renew the lease of this process"
                    ),
                }
            }
        };
        self.start_thread("cloakroom-lease", run)
    }

    fn start_thread(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(run);
        thread.map(drop).map_err(|e| Error::io("start the member's thread of", self.name(), e))
    }

    /// Renews the lease where half of it has passed since the last renewal: for others this process may be gone soon, and what it
    /// would begin with it.
    pub(super) async fn stay(&self) -> Result<()> {
        let renewed = *self.inner.keeper.renewed.lock();
        if renewed.is_some_and(|renewed| renewed.elapsed() < self.inner.options.lease / 2) {
            return Ok(());
        }
        self.renew().await.map(drop)
    }

    /// Leaves the members: turns of this process are interrupted from now on.
    pub(super) async fn leave(&self) -> Result<()> {
        drop(self.inner.keeper.stop.lock().take());
        // Nobody looks for answers any more, and whoever sets an exact time may wait for one.
        self.ground_flights();
        self.strike().await
    }

    /// Looks at what any process wants to prune, and says what this one is at work on. It is done by itself, and may be
    /// called where that is too slow.
    ///
    /// The guard is asked with the session key, and with nothing locked.
    ///
    /// # Errors
    /// Those of every change, see [the module](crate::cluster). What the guard says is not an error.
    pub fn review(&self) -> Result<()> {
        let Some(guard) = &self.writable()?.inner.options.guard else { return Ok(()) };
        Figures::add(&self.inner.figures.reviews);
        let ask = |shard| {
            vec![
                redis::cmd("HMGET").arg(self.part(shard, Part::Mark)).arg(&["condemned", "mark"]).to_owned(),
                redis::cmd("HGET").arg(self.part(shard, Part::Reviewed)).arg(&self.inner.member).to_owned(),
            ]
        };
        for (shard, done) in wait(self.scatter(0..self.layout().shards(), &ask))? {
            let counted = int(at(list(at(&done.values, 0)), 0)).unwrap_or(0);
            let reviewed = int(at(&done.values, 1)).unwrap_or(0);
            if counted <= reviewed {
                continue;
            }
            // One shard after the other: there may be millions.
            let all = redis::cmd("HGETALL").arg(self.part(shard, Part::Condemned)).to_owned();
            let done = wait(self.call(shard, Kind::Read, &|_| vec![all.clone()]))?;
            let mut condemned = pairs(at(&done.values, 0));
            // What came since it was counted is looked at the next time.
            let is_new = |number: i64| number > reviewed && number <= counted;
            condemned.retain(|(_, condemnation)| number_of(condemnation).is_none_or(is_new));
            // A member that has nothing to say of a shard writes nothing there: each that ever lived would leave a trace.
            if !condemned.is_empty() {
                self.review_shard(shard, &**guard, &condemned, reviewed, counted)?;
            }
        }
        Ok(())
    }

    fn review_shard(
        &self,
        shard: u32,
        guard: &dyn ActivityGuard,
        condemned: &[(&redis::Value, &redis::Value)],
        reviewed: i64,
        counted: i64,
    ) -> Result<()> {
        let until = self.now().saturating_add(self.inner.options.review_interval * 3).as_micros();
        let number = |number: i64| number.to_string().into_bytes();
        let mut args = vec![self.inner.member.clone().into_bytes(), number(reviewed), number(counted), number(until)];
        for (key, condemnation) in condemned {
            let (key, condemnation) = (text(key).unwrap_or_default(), text(condemnation).unwrap_or_default());
            let key = SessionKey::new(key).map_err(Error::InvalidKey)?;
            let is_at_work = ask(guard, &key) != Answer::Idle;
            args.extend([key.as_str().as_bytes().to_vec(), condemnation.into_bytes()]);
            args.push(if is_at_work { b"1".to_vec() } else { b"0".to_vec() });
        }
        let keys = [Part::Mark, Part::Condemned, Part::Holds, Part::Reviewed, Part::Updated];
        let keys = keys.map(|part| self.part(shard, part));
        // What was taken back by a failover meanwhile is looked at the next time.
        wait(self.script(shard, Named::Review, &keys, &args)).map(drop)
    }
}

/// The number of a condemnation.
fn number_of(condemnation: &redis::Value) -> Option<i64> {
    text(condemnation)?.split_once(':')?.0.parse().ok()
}

fn upgrade(inner: &Weak<Inner>) -> Option<ClusterStore> {
    inner.upgrade().map(ClusterStore::of)
}
