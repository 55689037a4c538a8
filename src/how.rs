//! How a session is to be found, started, or led to.

use std::fmt;

use crate::entry::{Details, KeepExtras, Touch};
use crate::key::SessionId;
use crate::source::SessionSource;
use crate::time::Timestamp;

/// Makes the id of a session that begins at a time.
type MakeId<'a> = &'a (dyn Fn(Timestamp) -> SessionId + Sync + 'a);

/// How [`resolve_as`](crate::SessionStore::resolve_as) finds a session or starts one.
///
/// ```
/// use cloakroom::change::{Resolve, Touch};
/// use cloakroom::SessionId;
/// // A gateway with ids of its own, which only looks after its sessions here.
/// let id = |_| SessionId::new("20260612_000653_3f9a01c2").unwrap();
/// let how = Resolve::new().id_with(&id).touch(Touch::No);
/// ```
#[derive(Clone, Default)]
pub struct Resolve<'a> {
    pub(crate) source: Option<&'a SessionSource>,
    make_id: Option<MakeId<'a>>,
    pub(crate) fresh: bool,
    pub(crate) touch: Touch,
    pub(crate) keep: KeepExtras,
}

impl fmt::Debug for Resolve<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fresh, touch, keep, .. } = self;
        f.debug_struct("Resolve")
            .field("fresh", fresh)
            .field("touch", touch)
            .field("keep", keep)
            .finish_non_exhaustive()
    }
}

impl<'a> Resolve<'a> {
    /// Touches the session, or starts one with an id of the store's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the message comes from: the details of a session that starts. Without it a new entry has none, and one that
    /// is replaced passes on its own.
    #[must_use]
    pub fn source(mut self, source: &'a SessionSource) -> Self {
        self.source = Some(source);
        self
    }

    /// Makes the id of a session that starts. It is called with no lock held, and its id may come to no use, if another
    /// thread is first.
    #[must_use]
    pub fn id_with(mut self, make_id: &'a (dyn Fn(Timestamp) -> SessionId + Sync + 'a)) -> Self {
        self.make_id = Some(make_id);
        self
    }

    /// Starts a fresh session even where there is one, as [`reset`](crate::SessionStore::reset) does.
    #[must_use]
    pub fn fresh(mut self, fresh: bool) -> Self {
        self.fresh = fresh;
        self
    }

    /// Whether this counts as activity, which it does where nothing is said. A session that starts begins now in any
    /// case.
    #[must_use]
    pub fn touch(mut self, touch: Touch) -> Self {
        self.touch = touch;
        self
    }

    /// The extras that a session in the place of another keeps of it: none where nothing is said.
    #[must_use]
    pub fn keep(mut self, keep: KeepExtras) -> Self {
        self.keep = keep;
        self
    }

    /// An id of the gateway's making. Call it with no entry locked.
    pub(crate) fn make_id(&self, now: Timestamp) -> Option<SessionId> {
        self.make_id.map(|make_id| make_id(now))
    }

    /// Whether the gateway makes the ids.
    pub(crate) fn makes_ids(&self) -> bool {
        self.make_id.is_some()
    }

    /// The details of a session that starts in the place of `old`.
    pub(crate) fn details(&self, old: Option<&Details>) -> Details {
        match (self.source, old) {
            (Some(source), _) => Details::from_source(source.clone()),
            (None, Some(old)) => passed_on(old),
            (None, None) => Details::default(),
        }
    }
}

/// How [`repoint`](crate::SessionStore::repoint) leads a key to another session.
#[derive(Debug, Clone, Default)]
pub struct Repoint {
    pub(crate) expected: Option<SessionId>,
    pub(crate) keep_usage: bool,
    pub(crate) keep: KeepExtras,
    pub(crate) touch: Touch,
}

impl Repoint {
    /// Touches the entry, whatever session it has, and begins the other with zero counters and no extras.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does nothing unless this is the session that the key leads to.
    #[must_use]
    pub fn expected(mut self, id: SessionId) -> Self {
        self.expected = Some(id);
        self
    }

    /// The session goes on under another id: counters, details, flags and the time at which it began stay.
    #[must_use]
    pub fn keep_usage(mut self, keep: bool) -> Self {
        self.keep_usage = keep;
        self
    }

    /// The extras that stay: none where nothing is said.
    #[must_use]
    pub fn keep(mut self, keep: KeepExtras) -> Self {
        self.keep = keep;
        self
    }

    /// Whether this counts as activity, which it does where nothing is said.
    #[must_use]
    pub fn touch(mut self, touch: Touch) -> Self {
        self.touch = touch;
        self
    }
}

/// What stays of the details whatever the session.
pub(crate) fn passed_on(old: &Details) -> Details {
    Details {
        display_name: old.display_name.clone(),
        platform: old.platform.clone(),
        chat_type: old.chat_type.clone(),
        origin: old.origin.clone(),
        ..Details::default()
    }
}
