//! Touches that were sent and have no answer yet.

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::collected::Touch;
use super::lane::Waiting;
use crate::fork;

/// Touches of a shard that were sent together.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) shard: u32,
    pub(super) touches: Vec<Touch>,
    /// The node, and its answer. Nothing where no node had the shard.
    pub(super) sent: Option<(String, Waiting)>,
}

/// What the thread that sends touches has to know.
#[derive(Debug)]
pub(super) struct Soon {
    tell: Sender<()>,
    told: Receiver<()>,
    pub(super) flights: Mutex<Vec<Flight>>,
}

impl Default for Soon {
    fn default() -> Self {
        let (tell, told) = bounded(1);
        Self { tell, told, flights: Mutex::default() }
    }
}

impl Soon {
    /// There is something to be sent. A thread that was told already, and has not heard, hears of this too.
    pub(super) fn tell(&self) {
        let _ = self.tell.try_send(());
    }

    /// Hears of it.
    pub(super) fn told(&self) -> Receiver<()> {
        self.told.clone()
    }
}

impl Drop for Soon {
    fn drop(&mut self) {
        // A forked process has not the thread, which may have the channel's lock.
        fork::keep_in_child(|| (self.tell.clone(), self.told.clone()));
    }
}
