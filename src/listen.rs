//! Events of a store: who listens, and what each verb tells.

use crate::events::{Bell, EventOptions, Events, Told};
use crate::key::SessionKey;
use crate::store::SessionStore;

impl SessionStore {
    /// Listens to what becomes of sessions from now on, through a channel that holds as many events as the options say,
    /// or the number in their place.
    ///
    /// Drop it to stop listening. Several may listen; each has a channel of its own.
    ///
    /// ```
    /// use cloakroom::change::Resolve;
    /// use cloakroom::events::{EventKind, EventOptions};
    /// use cloakroom::{Options, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let store = SessionStore::open(Options::new(path).create(true))?;
    /// let events = store.events(EventOptions::new(1000).updates(true));
    /// store.resolve_as(&"agent:main:cron:nightly".parse()?, &Resolve::new())?;
    /// assert_eq!(events.try_recv()?.kind, EventKind::Created);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn events(&self, options: impl Into<EventOptions>) -> Events {
        self.listeners().listen(options.into(), None)
    }

    /// As [`events`](SessionStore::events), with a bell for who cannot wait in a thread: an event loop, whose pipe it may
    /// write to.
    ///
    /// `bell` is called after each event that the channel has taken, on the thread that made the change, and dropped when no more
    /// will come: when the store is closed, or soon after the listener was dropped. It must be quick, and must not call the store.
    #[must_use]
    pub fn events_with_bell(
        &self,
        options: impl Into<EventOptions>,
        bell: impl Fn() + Send + Sync + 'static,
    ) -> Events {
        self.listeners().listen(options.into(), Some(Bell(Box::new(bell))))
    }

    /// Sends what became of an entry to the listeners that want its class, if there are any. Call it with no entry
    /// locked: it asks the clock.
    pub(crate) fn tell(&self, key: &SessionKey, class: u8, told: impl FnOnce() -> Told) {
        if !self.listeners().want(class) {
            return;
        }
        let dropped = self.listeners().tell(key, told(), self.now());
        self.commits().meter().events_dropped(dropped);
    }
}
