//! Group commit for stores that have none: whoever comes first commits for all who wait.

use std::sync::{Condvar, Mutex, MutexGuard};

#[derive(Default)]
struct State {
    waiting: Vec<(usize, i64)>,
    /// The group that takes what comes now.
    open: u64,
    /// The newest group that is durable.
    done: u64,
    busy: bool,
}

#[derive(Default)]
pub struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

impl Group {
    /// Returns when `touch` is durable. `commit` makes a whole group durable.
    pub fn run(&self, touch: (usize, i64), commit: impl Fn(&[(usize, i64)])) {
        let mut state = self.state.lock().unwrap();
        state.waiting.push(touch);
        let mine = state.open + 1;
        while state.done < mine {
            if state.busy {
                state = self.changed.wait(state).unwrap();
                continue;
            }
            state.busy = true;
            state.open += 1;
            let group = std::mem::take(&mut state.waiting);
            let number = state.open;
            drop(state);
            commit(&group);
            state = self.state.lock().unwrap();
            state.busy = false;
            state.done = number;
            self.changed.notify_all();
        }
    }
}

/// A lock that is handed on in turn: a stream of touches asks for it again at once, and would never let a prune in.
#[derive(Default)]
pub struct Queue {
    next: Mutex<()>,
    held: Mutex<()>,
}

impl Queue {
    pub fn enter(&self) -> MutexGuard<'_, ()> {
        let _next = self.next.lock().unwrap();
        self.held.lock().unwrap()
    }
}
