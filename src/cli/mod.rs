//! What the program understands. The commands themselves are in the modules below, one file for each group.
//!
//! Data goes to standard output, and nothing else does. Errors and the log go to standard error.

mod aside;
mod change;
mod cluster;
mod compact;
mod config;
mod ends;
pub(crate) mod failure;
mod key;
mod lifecycle;
mod list;
mod output;
mod prefix;
mod progress;
mod remove;
mod show;
mod source;
mod tail;
mod top;
mod transfer;
mod verify;
mod web;
mod whole;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use cloakroom::time::{Clock, ManualClock, SystemClock};
use cloakroom::{Error, Options, SessionStore, Timestamp};

use aside::{with_copy, with_load};
use failure::Failure;
pub(crate) use output::Out;
use source::{Ask, Db};

/// In the environment of a container, so that every command in it finds the same.
const TRUST_GROUP: &str = "CLOAKROOM_TRUST_GROUP";
/// In a debug build this variable gives the time.
const NOW: &str = "CLOAKROOM_TEST_NOW";

/// Keeps, lists and prunes the sessions of a chat gateway.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong use, 3 `verify` found something wrong.
Errors go to standard error, and so does the log, which CLOAKROOM_LOG sets (warn, info, debug).
With --json, times are in UTC with six digits, and beside each stands NAME_epoch, seconds since 1970. A command
that fails before it has printed anything prints {\"error\": {\"kind\": …, \"message\": …}}.
With CLOAKROOM_TRUST_GROUP=1 the store's directory may be writable by a group that this user is in, as in a volume of
Kubernetes. What is printed waits until the store is closed, beyond 1 MiB in TMPDIR.
A store is open in one program at a time. Where a gateway has it, commands ask its live view, and say so on
standard error; `compact`, `restore`, `migrate`, `rename`, `forget`, `verify --repair`, `turns --recover` and
`export --format hermes-table` need the gateway stopped. Only `migrate` and `restore` create a store.")]
pub(crate) struct Cli {
    /// The directory of the store.
    #[arg(long, global = true, value_name = "DIR", default_value = "./sessions.db")]
    db: PathBuf,
    /// A config file (TOML) for `prune` and `config check`: what to prune, and when sessions end.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Never ask the gateway that has the store open.
    #[arg(long, global = true)]
    offline: bool,
    /// Ask the gateway that has the store open, and fail if there is none.
    #[arg(long, global = true, conflicts_with = "offline")]
    live: bool,
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Migrate(transfer::Migrate),
    List(list::List),
    Show(show::Show),
    Find(list::Find),
    Prune(change::Prune),
    Suspend(change::Suspend),
    Unsuspend(change::Unsuspend),
    Pin(change::Pin),
    Unpin(change::Unpin),
    Reset(change::Reset),
    Remove(remove::Remove),
    Rename(prefix::Rename),
    Forget(prefix::Forget),
    ResumePending(lifecycle::ResumePending),
    Turns(lifecycle::Turns),
    Leases(lifecycle::Leases),
    Stats(whole::Stats),
    Verify(verify::Verify),
    Export(transfer::Export),
    Backup(transfer::Backup),
    Restore(transfer::Restore),
    Compact(compact::Compact),
    Top(top::Top),
    Tail(tail::Tail),
    Web(web::Web),
    Config(config::ConfigCommand),
}

impl Command {
    /// Why a command has no meaning for a store on a cluster.
    fn on_a_cluster(&self) -> Option<&'static str> {
        Some(match self {
            Self::Compact(_) => "a store on a cluster has no files to compact: its nodes rewrite their own",
            Self::Rename(_) => "no step gives an entry on a cluster another key: the two may be on two nodes",
            Self::Verify(verify) if verify.has_quarantine() => {
                "what a repair takes away on a cluster leads nowhere, and is not kept: leave --quarantine out"
            }
            Self::Tail(_) => {
                "on a cluster events reach the process alone that makes the change: `top` shows what was used last"
            }
            Self::Web(_) => "the page shows a store that one process has: use `top`, `list` and `show` on a cluster",
            Self::Config(_) => "`config check` looks at a file and at no store: leave --url out",
            _ => return None,
        })
    }

    /// Whether it opens the store in any case, and asks no view of it.
    fn needs_the_store(&self) -> bool {
        match self {
            Self::Migrate(_) | Self::Restore(_) | Self::Compact(_) | Self::Rename(_) | Self::Forget(_) => true,
            Self::Verify(verify) => verify.repairs(),
            Self::Turns(turns) => turns.recovers(),
            Self::Export(export) => export.makes_a_database(),
            _ => false,
        }
    }
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Misused = 2,
    Unsound = 3,
}

/// The flag of every command that prints.
#[derive(Debug, Args)]
struct Format {
    /// Print JSON, for scripts: see the long --help.
    #[arg(long)]
    json: bool,
}

impl Cli {
    /// Refuses what the parser alone cannot: it does not know of global flags within a command.
    pub(crate) fn checked(self) -> Result<Self, clap::Error> {
        match &self.command {
            Command::Prune(prune) if self.config.is_none() && prune.says_nothing() => Err(Self::command().error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "say what to prune with --max-age-days <N>, --max-entries <N> or --config <FILE>",
            )),
            Command::Migrate(migrate) if migrate.contradicts_itself() => Err(Self::command().error(
                clap::error::ErrorKind::ArgumentConflict,
                "the quarantine goes to standard output: leave --json out, or name a file",
            )),
            Command::Verify(verify) if verify.contradicts_itself() => Err(Self::command().error(
                clap::error::ErrorKind::InvalidValue,
                "what is removed must be on disk before: name a file with --quarantine",
            )),
            Command::Backup(backup) if backup.contradicts_itself() => Err(Self::command().error(
                clap::error::ErrorKind::ArgumentConflict,
                "the backup itself goes to standard output: leave --json out, or name a file",
            )),
            command if self.cluster.url.is_some() && command.on_a_cluster().is_some() => Err(Self::command()
                .error(clap::error::ErrorKind::ArgumentConflict, command.on_a_cluster().unwrap_or_default())),
            command if self.live && command.needs_the_store() => Err(Self::command().error(
                clap::error::ErrorKind::ArgumentConflict,
                "this needs the store to itself and asks no gateway: leave --live out, and stop the gateway first",
            )),
            Command::Prune(_) | Command::Config(_) => Ok(self),
            _ if self.config.is_some() => Err(Self::command().error(
                clap::error::ErrorKind::ArgumentConflict,
                "only `prune` and `config check` read --config; leave it out here",
            )),
            _ => Ok(self),
        }
    }

    /// Whether it is the page.
    pub(crate) fn shows_a_page(&self) -> bool {
        matches!(self.command, Command::Web(_))
    }

    /// Runs the command. What it prints is written out by the caller.
    pub(crate) fn run(self, out: &mut Out) -> Result<Exit> {
        let ask = match (self.offline, self.live) {
            (true, _) => Ask::Never,
            (_, true) => Ask::Only,
            _ => Ask::IfTaken,
        };
        let shown = self.cluster.url.clone().unwrap_or_else(|| self.db.display().to_string());
        let db = &Db { path: self.db, ask, cluster: self.cluster.options()?, shown };
        match self.command {
            Command::Migrate(command) => with_load(db, |db| command.run(db, out)),
            Command::List(command) => command.run(db, out),
            Command::Show(command) => command.run(db, out),
            Command::Find(command) => command.run(db, out),
            Command::Prune(command) => command.run(db, self.config.as_deref(), out),
            Command::Suspend(command) => command.run(db, out),
            Command::Unsuspend(command) => command.run(db, out),
            Command::Pin(command) => command.run(db, out),
            Command::Unpin(command) => command.run(db, out),
            Command::Reset(command) => command.run(db, out),
            Command::Remove(command) => command.run(db, out),
            Command::Rename(command) => command.run(db, out),
            Command::Forget(command) => command.run(db, out),
            Command::ResumePending(command) => command.run(db, out),
            Command::Turns(command) => command.run(db, out),
            Command::Leases(command) => command.run(db, out),
            Command::Config(command) => command.run(self.config.as_deref(), out),
            Command::Stats(command) => command.run(db, out),
            Command::Verify(command) => command.run(db, out),
            Command::Export(command) => with_copy(db, |db| command.run(db, out)),
            Command::Backup(command) => command.run(db, out),
            Command::Restore(command) => command.run(db, out),
            Command::Compact(command) => command.run(db, out),
            Command::Top(command) => command.run(db, out),
            Command::Tail(command) => command.run(db, out),
            Command::Web(command) => command.run(db, out),
        }
    }
}

/// Opens the store that is there, hands it to `work`, and closes it. The error of the last commit counts.
fn with_store<T>(db: &Path, work: impl FnOnce(&SessionStore) -> Result<T>) -> Result<T> {
    with_opened(options(db), work)
}

/// Where the store is, and whether the surroundings let it trust a group.
fn options(db: &Path) -> Options {
    let trusts = std::env::var_os(TRUST_GROUP).is_some_and(|set| set == "1");
    // What looks at the store, such as the page, goes on: it is asked.
    let options = Options::new(db).trust_group(trusts).take_over(false);
    match fixed_time() {
        Some(now) => options.clock(ManualClock::new(now)),
        None => options,
    }
}

/// A time that stands still, for the tests of a debug build.
fn fixed_time() -> Option<Timestamp> {
    let text = std::env::var(NOW).ok().filter(|_| cfg!(debug_assertions))?;
    serde_json::from_value(text.into()).ok()
}

fn now() -> Timestamp {
    fixed_time().unwrap_or_else(|| SystemClock::new().now())
}

fn with_opened<T>(options: Options, work: impl FnOnce(&SessionStore) -> Result<T>) -> Result<T> {
    let store = SessionStore::open(options).map_err(named)?;
    let done = work(&store);
    let closed = store.close();
    // What the work says comes first: where both failed, closing only repeats it.
    let done = done?;
    closed?;
    Ok(done)
}

/// Says of a missing store what the command line can do about it.
fn named(error: Error) -> anyhow::Error {
    match error {
        Error::NotFound { path } => Failure::NoStore(path).into(),
        error => anyhow::Error::new(error),
    }
}
