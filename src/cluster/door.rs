//! Lets changes in until the store is closed: others take the turns of a process that has left, and prune what it holds.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

/// Changes go through it.
#[derive(Debug, Default)]
pub(super) struct Door {
    is_closed: AtomicBool,
    /// Any change has come.
    is_used: AtomicBool,
    /// Changes that are under way share it.
    under_way: RwLock<()>,
}

impl Door {
    /// Lets a change in, which is under way until the answer is dropped. `None` once it is closed.
    pub(super) fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        // While `close` waits, those who come in now are refused at once; they do not queue behind it.
        let under_way = self.under_way.read_recursive();
        if self.is_closed() {
            return None;
        }
        if !self.is_used() {
            self.is_used.store(true, Ordering::Release);
        }
        Some(under_way)
    }

    /// Whether any change has come.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Lets nothing in from now on, and waits for what is under way.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        drop(self.under_way.write());
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
                door.close();
                tell.send(()).unwrap();
            });
            while !door.is_closed() {
                thread::yield_now();
            }
            assert!(door.enter().is_none());
            drop(one);
            assert!(told.try_recv().is_err());
            drop(other);
            assert_eq!(told.recv(), Ok(()));
        });
        assert!(door.enter().is_none());
        // It may be closed again.
        door.close();
    }
}
