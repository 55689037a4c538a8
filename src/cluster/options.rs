//! How a store on a cluster is opened.

use std::fmt;
#[cfg(feature = "valkey-tls")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::tls::Tls;
use crate::error::{Error, Result};
use crate::prune::ActivityGuard;
use crate::source::KeyPolicy;
use crate::time::Clock;

/// How to open a [`ClusterStore`](super::ClusterStore).
///
/// ```no_run
/// use cloakroom::cluster::{ClusterOptions, ClusterStore};
/// use cloakroom::SessionKey;
///
/// let running = |key: &SessionKey| false; // what this process is at work on
/// let store = ClusterStore::open(
///     ClusterOptions::new("gateway", ["10.0.0.1:6379", "10.0.0.2:6379"]).create(true).guard(running),
/// )?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
pub struct ClusterOptions {
    pub(super) name: String,
    pub(super) seeds: Vec<String>,
    pub(super) create: bool,
    pub(super) shards: Option<u32>,
    pub(super) replicas: u64,
    pub(super) relaxed: bool,
    pub(super) stated: bool,
    pub(super) patience: Duration,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) tls: Option<Tls>,
    pub(super) key_policy: KeyPolicy,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) guard: Option<Arc<dyn ActivityGuard>>,
    pub(super) lease: Duration,
    pub(super) review_interval: Duration,
}

impl fmt::Debug for ClusterOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterOptions")
            .field("name", &self.name)
            .field("seeds", &self.seeds)
            .field("create", &self.create)
            .field("shards", &self.shards)
            .field("replicas", &self.replicas)
            .field("relaxed", &self.relaxed)
            .field("user", &self.user)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl ClusterOptions {
    /// How many shards a store gets, where nothing is said.
    pub const DEFAULT_SHARDS: u32 = 4096;

    /// The defaults, for the store of this name on the cluster that has these nodes, `host:port`. A few of them will do.
    pub fn new(name: impl Into<String>, seeds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name: name.into(),
            seeds: seeds.into_iter().map(Into::into).collect(),
            create: false,
            shards: None,
            replicas: 1,
            relaxed: false,
            stated: false,
            patience: Duration::from_secs(15),
            user: None,
            password: None,
            tls: None,
            key_policy: KeyPolicy::default(),
            clock: None,
            guard: None,
            lease: Duration::from_secs(60),
            review_interval: Duration::from_secs(60),
        }
    }

    /// Makes the store if there is none: with a wrong name that is a new one, which is empty.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How many shards the store gets when it is made: a power of two up to 16,384 (default 4,096). One that is there has
    /// to have as many.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = Some(shards);
        self
    }

    /// How many replicas have to have synced a change at least, for its receipt to say that it is durable (default 1). Of
    /// a primary that has more, all that are connected have to: another one could take its place. With 0 a change may be
    /// on its primary's disk alone, and a receipt survives a power cut but not the loss of that disk.
    #[must_use]
    pub fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// Takes nodes that do not sync each write (`appendfsync everysec` or `no`, `appendonly no`). Then no change is ever
    /// known to be durable: [`is_durable`](crate::Receipt::is_durable) is false, [`wait`](crate::Receipt::wait) fails, and
    /// [`replicated`](crate::Receipt::replicated) tells what the replicas have in memory. A failover loses what they
    /// have not; a power cut of all nodes loses the last second, or everything.
    #[must_use]
    pub fn relaxed(mut self) -> Self {
        self.relaxed = true;
        self
    }

    /// States that each node has the settings that are asked for, where this user may not ask (`CONFIG GET`). Then only the
    /// version and the policy for a full memory are checked, and these only where the user may call `INFO`, which tells them. A
    /// wrong statement makes receipts worthless.
    #[must_use]
    pub fn settings_are_stated(mut self) -> Self {
        self.stated = true;
        self
    }

    /// How long a verb tries while nodes do not answer or a failover is under way (default 15 s, five minutes at most).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The user of the access control list, and the password. Without them it is the default user. Without
    /// [`tls`](Self::tls) they go over the network as they are.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self.password = Some(password.into());
        self
    }

    /// Encrypts all connections. Certificates of nodes are checked against the authorities that this system trusts.
    ///
    /// A node's certificate has to have the name or the address by which the other nodes know it, since they send clients
    /// on by that.
    #[cfg(feature = "valkey-tls")]
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls.get_or_insert_default();
        self
    }

    /// Encrypts all connections, and trusts the authorities in this file (PEM) in place of those of the system. It is read
    /// again for each new connection.
    #[cfg(feature = "valkey-tls")]
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.get_or_insert_default().ca = Some(path.into());
        self
    }

    /// Encrypts all connections, and shows nodes that ask for it the certificate in this file, with its key (both PEM).
    /// They are read again for each new connection, so that renewed ones are taken.
    #[cfg(feature = "valkey-tls")]
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.get_or_insert_default().client = Some((certificate.into(), key.into()));
        self
    }

    /// How keys are derived from sources.
    #[must_use]
    pub fn key_policy(mut self, key_policy: KeyPolicy) -> Self {
        self.key_policy = key_policy;
        self
    }

    /// Another clock than that of the servers.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// What this process is at work on. Whichever process prunes, this guard is asked, by key, before an entry goes. A
    /// process without one takes no part: its work protects nothing but by what it touches and holds.
    ///
    /// It is asked on the thread that prunes or resolves here, and on the thread `cloakroom-guard` for what others prune.
    #[must_use]
    pub fn guard(mut self, guard: impl ActivityGuard + 'static) -> Self {
        self.guard = Some(Arc::new(guard));
        self
    }

    /// How long a process counts as alive after its last renewal (default 60 s). After an outage of the node that keeps the leases
    /// it is twice that. It has to be far shorter than any age of pruning, and the same in all processes.
    /// From a tenth of a second to a day.
    #[must_use]
    pub fn member_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How often this process looks for entries that another one wants to prune (default 60 s). From a hundredth of a second to
    /// a day.
    #[must_use]
    pub fn review_interval(mut self, interval: Duration) -> Self {
        self.review_interval = interval;
        self
    }

    /// Refuses times with which nothing works.
    pub(super) fn check(&self) -> Result<()> {
        let day = Duration::from_secs(86_400);
        let times = [
            (
                "patience",
                self.patience,
                Duration::ZERO..=Duration::from_secs(300),
                "it may be five minutes at most: what came of a change is noted for ten, so that it is not made twice",
            ),
            (
                "member_lease",
                self.lease,
                Duration::from_millis(100)..=day,
                "it has to be from a tenth of a second to a day, and far shorter than any age of pruning",
            ),
            (
                "review_interval",
                self.review_interval,
                Duration::from_millis(10)..=day,
                "it has to be from a hundredth of a second to a day: what is condemned counts for two days",
            ),
        ];
        match times.into_iter().find(|(_, time, allowed, _)| !allowed.contains(time)) {
            None => Ok(()),
            Some((setting, time, _, expected)) => Err(Error::Setting { setting, value: format!("{time:?}"), expected }),
        }
    }
}
