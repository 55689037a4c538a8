//! [`ActivityGuard`]: which conversations have work in progress.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::panic_message;
use crate::key::SessionKey;

/// Knows which conversations have work in progress.
///
/// It is asked with the session **key**. That a guard was asked with a session *id*, which it never knew, is the bug
/// that began this project: live work was orphaned. Here the types forbid it.
///
/// ```compile_fail,E0308
/// use cloakroom::prune::{ActivityGuard, Verdict};
/// use cloakroom::SessionId;
/// fn ask(guard: &dyn ActivityGuard, id: &SessionId) -> Verdict {
///     guard.check(id) // expected `&SessionKey`, found `&SessionId`
/// }
/// ```
///
/// Closures that answer `bool` or a `Result<bool, _>` are guards:
///
/// ```no_run
/// # use std::collections::HashSet;
/// # use cloakroom::{PrunePolicy, SessionKey, SessionStore};
/// # fn f(store: &SessionStore, running: &HashSet<SessionKey>) -> cloakroom::Result<()> {
/// let report = store.prune(&PrunePolicy::max_age_days(90), |key: &SessionKey| running.contains(key))?;
/// # Ok(()) }
/// ```
pub trait ActivityGuard: Send + Sync {
    /// Whether the conversation has work in progress. No lock is held meanwhile: the store may be used from here.
    fn check(&self, key: &SessionKey) -> Verdict;

    /// Whether it stands for no guard at all, as [`NoActivity`] does. Whoever prunes by hand is told so.
    fn knows_nothing(&self) -> bool {
        false
    }
}

/// What a guard answers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Work is in progress: the entry stays.
    Active,
    /// There is none.
    Idle,
    /// The guard does not know. The entry stays.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl From<bool> for Verdict {
    fn from(active: bool) -> Self {
        if active { Self::Active } else { Self::Idle }
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<Result<bool, E>> for Verdict {
    fn from(answer: Result<bool, E>) -> Self {
        answer.map_or_else(|error| Self::Failed(error.into()), Self::from)
    }
}

impl<F, R> ActivityGuard for F
where
    F: Fn(&SessionKey) -> R + Send + Sync,
    R: Into<Verdict>,
{
    fn check(&self, key: &SessionKey) -> Verdict {
        self(key).into()
    }
}

/// The guard of a gateway without background work: nothing is ever active.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoActivity;

impl ActivityGuard for NoActivity {
    fn check(&self, _: &SessionKey) -> Verdict {
        Verdict::Idle
    }

    fn knows_nothing(&self) -> bool {
        true
    }
}

/// What comes of asking a guard. Its own words are not in it: it was given the key, and they may hold that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Active,
    Idle,
    /// It was logged.
    Failed,
}

/// Asks the guard. A panic in it is a failure.
pub(crate) fn ask(guard: &dyn ActivityGuard, key: &SessionKey) -> Answer {
    let verdict = catch_unwind(AssertUnwindSafe(|| guard.check(key)))
        .unwrap_or_else(|panic| Verdict::Failed(panic_message(&*panic).into()));
    match verdict {
        Verdict::Active => Answer::Active,
        Verdict::Idle => Answer::Idle,
        Verdict::Failed(error) => {
            tracing::debug!(%key, "the activity guard failed; the entry is kept");
            tracing::trace!(%error, "what the guard said");
            Answer::Failed
        }
    }
}
