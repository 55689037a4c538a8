//! Events of what this process does. Those of other processes come to nobody: each change would have to write into a stream of its
//! shard, and each process to read the streams of all.

use super::entry::Look;
use super::figures::Figures;
use super::store::ClusterStore;
use super::write::Placed;
use crate::events::{Bell, CHANGES, EventKind, EventOptions, Events, TOUCHES, Told, UPDATES};
use crate::key::{SessionId, SessionKey};
use crate::rules;

impl ClusterStore {
    /// Listens to what this process does to sessions from now on. What other processes do is not told: look at the revision of an
    /// entry, or at its session id, before you go by what you keep of it.
    ///
    /// Otherwise it is as [`SessionStore::events`](crate::SessionStore::events). An event comes when a node has answered that
    /// the change is made, before that is durable: a failover may undo it. A change that is
    /// [`Uncertain`](crate::Error::Uncertain) has none. [`Touched`](EventKind::Touched) has a revision only where a verb has read
    /// the entry, and [`touch`](crate::Sessions::touch) reads none.
    #[must_use]
    pub fn own_events(&self, options: impl Into<EventOptions>) -> Events {
        self.inner.listeners.listen(options.into(), None)
    }

    /// As [`own_events`](Self::own_events), with a bell, as [`SessionStore::events_with_bell`](crate::SessionStore::events_with_bell)
    /// has it.
    #[must_use]
    pub fn own_events_with_bell(
        &self,
        options: impl Into<EventOptions>,
        bell: impl Fn() + Send + Sync + 'static,
    ) -> Events {
        self.inner.listeners.listen(options.into(), Some(Bell(Box::new(bell))))
    }

    /// Sends what became of an entry to the listeners that want its class, if there are any.
    fn tell(&self, key: &SessionKey, class: u8, told: impl FnOnce() -> Told) {
        if self.inner.listeners.want(class) {
            let dropped = self.inner.listeners.tell(key, told(), self.now());
            Figures::add_all(&self.inner.figures.events_dropped, dropped);
        }
    }

    /// An entry was written over the one that was seen. Its verb may have a name for that.
    pub(super) fn tell_written(&self, key: &SessionKey, kind: Option<EventKind>, seen: Option<&Look>, placed: &Placed) {
        self.tell(key, CHANGES | UPDATES | TOUCHES, || {
            let (revision, session) = (placed.hot.revision, &placed.cold.session_id);
            let Some(seen) = seen else { return Told::of(EventKind::Created, revision).session(None, session) };
            let Some(kind) = kind else {
                return Told::of_change(&seen.entry(key), &rules::entry(key, &placed.hot, placed.cold.clone()));
            };
            match kind {
                EventKind::Reset { .. } | EventKind::Replaced => {
                    Told::of(kind, revision).session(Some(&seen.cold.session_id), session)
                }
                kind => Told::of(kind, revision),
            }
        });
    }

    /// A message, or a turn, came for an entry. It was read, or not.
    pub(super) fn tell_touched(&self, key: &SessionKey, seen: Option<&Look>) {
        let revision = seen.map(|seen| seen.hot.revision);
        self.tell(key, TOUCHES, || Told { kind: EventKind::Touched, old: None, new: None, revision });
    }

    /// An entry is gone, with its session, if anybody knows it.
    pub(super) fn tell_gone(&self, key: &SessionKey, kind: EventKind, session: Option<&SessionId>) {
        self.tell(key, CHANGES, || Told { kind, old: session.cloned(), new: None, revision: None });
    }
}
