//! Lets changes in until the store is closed: others take the turns of a process that has left, and prune what it holds.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::fork;

/// Changes go through it.
#[derive(Debug, Default)]
pub(super) struct Door {
    is_closed: AtomicBool,
    /// Any change has come.
    is_used: AtomicBool,
    /// How many changes are under way.
    under_way: Mutex<usize>,
    left: Condvar,
}

/// A change that is under way until this is dropped.
pub(super) struct UnderWay<'a>(&'a Door);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // A forked process drops futures of its parent, a thread of which may have the lock for ever.
        if fork::is_child() {
            return;
        }
        let mut under_way = self.0.under_way.lock();
        *under_way -= 1;
        if *under_way == 0 && self.0.is_closed() {
            self.0.left.notify_all();
        }
    }
}

impl Door {
    /// Lets a change in. `None` once it is closed.
    pub(super) fn enter(&self) -> Option<UnderWay<'_>> {
        let mut under_way = self.under_way.lock();
        if self.is_closed() {
            return None;
        }
        *under_way += 1;
        drop(under_way);
        if !self.is_used() {
            self.is_used.store(true, Ordering::Release);
        }
        Some(UnderWay(self))
    }

    /// Whether any change has come.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Lets nothing in from now on.
    pub(super) fn shut(&self) {
        // Whoever counts is in, or finds it closed.
        let _counted = self.under_way.lock();
        self.is_closed.store(true, Ordering::Release);
    }

    /// Waits for what is under way.
    pub(super) fn wait(&self) {
        self.left.wait_while(&mut self.under_way.lock(), |under_way| *under_way > 0);
    }

    /// Whether a change is under way.
    pub(super) fn is_passed(&self) -> bool {
        *self.under_way.lock() > 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn closing_waits_for_what_is_under_way_and_lets_nothing_in() {
        let door = Door::default();
        let (one, other) = (door.enter(), door.enter());
        assert!(one.is_some() && other.is_some());
        let (tell, told) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                door.shut();
                door.wait();
                tell.send(()).unwrap();
            });
            while !door.is_closed() {
                thread::yield_now();
            }
            assert!(door.enter().is_none());
            drop(one);
            assert!(told.try_recv().is_err() && door.is_passed());
            drop(other);
            assert_eq!(told.recv(), Ok(()));
        });
        assert!(door.enter().is_none() && !door.is_passed());
        // It may be closed again.
        door.shut();
        door.wait();
    }
}
