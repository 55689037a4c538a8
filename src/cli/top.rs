//! `top`: a store at work, on one screen.

#[cfg(feature = "valkey")]
use std::cell::OnceCell;
use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write as _, stdin, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use cloakroom::live::{Client, LiveOptions};
use cloakroom::{SessionEntry, Timestamp};
#[cfg(feature = "valkey")]
use cloakroom::{cluster::ClusterStats, query::Filter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Deserialize;
use serde_json::Value;

use super::Exit;
use super::output::{Out, clean, shorten, size, thousands, words};
use super::source::{Db, with_view};
#[cfg(feature = "valkey")]
use super::{
    ends::Ends,
    source::{Source, with_source},
};

/// How often it looks whether a gateway wants the store.
const LOOK: Duration = Duration::from_millis(50);
/// Lines above the sessions.
const HEAD: usize = 7;

/// Show a store at work: rates, how long commits take, the sessions that were active last. Ends with q.
///
/// Where standard input or output is no terminal, it prints one screen and ends.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Top {
    /// The time between two looks. Each asks all shards of a store on a cluster.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
}

#[derive(Deserialize)]
struct Page {
    sessions: Vec<SessionEntry>,
    now: Timestamp,
}

/// Counters at a look, to tell rates.
struct Look {
    at: f64,
    touches: f64,
    commits: f64,
}

impl Top {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        #[cfg(feature = "valkey")]
        if db.cluster.is_some() {
            return with_source(db, |source| {
                let Source::Cluster(store) = source else { anyhow::bail!("a store on a cluster is none of a view") };
                let ends = OnceCell::new();
                let is_over = || ends.get_or_init(|| Ends::listen(|| {}).ok()).as_ref().is_some_and(Ends::asked);
                self.show(out, &is_over, |_: Option<&()>, rows, columns| {
                    Ok((screen_of_cluster(source, &store.stats()?, &db.shown, rows, columns)?, ()))
                })
            });
        }
        with_view(db, LiveOptions::new().read_only(true), |client, is_over| {
            self.show(out, is_over, |before, rows, columns| screen(client, before, rows, columns))
        })
    }

    /// Shows one screen after the other. `screen` is given what it has kept of the one before, how many sessions there is room
    /// for, and how wide it is.
    fn show<T>(
        &self,
        out: &mut Out,
        is_over: &dyn Fn() -> bool,
        screen: impl Fn(Option<&T>, usize, usize) -> Result<(String, T)>,
    ) -> Result<Exit> {
        if !stdout().is_terminal() || !stdin().is_terminal() {
            let (screen, _) = screen(None, 20, 160)?;
            out.line(screen.trim_end())?;
            return Ok(Exit::Done);
        }
        // From here on a signal does not leave the terminal as it is.
        if is_over() {
            return Ok(Exit::Done);
        }
        let _raw = Raw::enter()?;
        let mut before = None;
        loop {
            let window = tcgetwinsize(stdout())?;
            let (rows, columns) = (usize::from(window.ws_row), usize::from(window.ws_col));
            let (screen, look) = screen(before.as_ref(), rows.saturating_sub(HEAD + 1).clamp(1, 100), columns)?;
            before = Some(look);
            let mut terminal = stdout().lock();
            // From the top, each line to its end, and nothing of the last screen below.
            write!(terminal, "\x1b[H{}\x1b[J", screen.replace('\n', "\x1b[K\r\n"))?;
            terminal.flush()?;
            drop(terminal);
            if has_ended(self.every, is_over)? {
                return Ok(Exit::Done);
            }
        }
    }
}

/// Waits so long for a key that ends, for a signal, or for a gateway that wants the store.
fn has_ended(every: Duration, is_over: &dyn Fn() -> bool) -> Result<bool> {
    let (stdin, began) = (stdin(), Instant::now());
    loop {
        if is_over() {
            return Ok(true);
        }
        let left = every.saturating_sub(began.elapsed()).min(LOOK);
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        // A window that changes its size interrupts the wait: the next screen fits it.
        match poll(&mut ready, Some(&left)) {
            Ok(0) if began.elapsed() >= every => return Ok(false),
            Ok(0) => continue,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            polled => polled?,
        };
        let mut key = [0];
        // `q`, the end of input, Ctrl-C and Ctrl-D. Another key asks for a new screen.
        return Ok(stdin.lock().read(&mut key)? == 0 || matches!(key, [b'q' | b'Q' | 3 | 4]));
    }
}

/// A terminal without echo and lines, until it is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        let entered = Self(before);
        // Another screen, and no cursor on it.
        write!(stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(entered)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = write!(stdout(), "\x1b[?25h\x1b[?1049l");
        let _ = stdout().flush();
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

fn screen(client: &Client, before: Option<&Look>, rows: usize, columns: usize) -> Result<(String, Look)> {
    let store: Value = client.get("/v1/store")?;
    let page: Page = client.get(&format!("/v1/sessions?limit={rows}"))?;
    let number = |path: &str| store.pointer(path).and_then(Value::as_f64);
    let count = |path: &str| thousands(store.pointer(path).and_then(Value::as_u64).unwrap_or_default());
    let millis = |path: &str| match number(path) {
        Some(seconds) => format!("{:.2} ms", seconds * 1e3),
        None => "-".to_owned(),
    };
    let now: Option<Timestamp> = store.get("now").cloned().and_then(|now| serde_json::from_value(now).ok());
    let look = Look {
        at: now.map_or(0.0, |now| now.as_micros() as f64 / 1e6),
        touches: number("/touches").unwrap_or_default(),
        commits: number("/commits").unwrap_or_default(),
    };
    // Before the second look, what the last quarter of an hour was like.
    let rate = |now: f64, then: Option<f64>, usual: &str| match (then, before) {
        (Some(then), Some(before)) if look.at > before.at => {
            format!("{:.1}", (now - then).max(0.0) / (look.at - before.at))
        }
        _ => number(usual).map_or("-".to_owned(), |rate| format!("{rate:.1}")),
    };
    let touches = rate(look.touches, before.map(|before| before.touches), "/last_quarter/touches_per_second");
    let commits = rate(look.commits, before.map(|before| before.commits), "/last_quarter/commits_per_second");
    let mut lines = vec![
        format!(
            "cloakroom {}  process {}  {}",
            store.get("version").and_then(Value::as_str).unwrap_or("?"),
            store.get("pid").and_then(Value::as_u64).unwrap_or_default(),
            clean(store.get("path").and_then(Value::as_str).unwrap_or_default()),
        ),
        format!(
            "entries {}  on disk {}  pending {}  journal {}  leases {}",
            count("/stats/entries"),
            size(store.pointer("/stats/bytes_on_disk").and_then(Value::as_u64).unwrap_or_default()),
            count("/stats/pending"),
            count("/journal_entries"),
            count("/leases"),
        ),
        format!("touches/s {touches}  commits/s {commits}  durable lag {}", millis("/durable_lag_seconds")),
        format!(
            "commits in the last quarter of an hour: p50 {}  p99 {}",
            millis("/last_quarter/commit_p50_seconds"),
            millis("/last_quarter/commit_p99_seconds"),
        ),
    ];
    lines.push(match store.pointer("/failure/message").and_then(Value::as_str) {
        Some(failure) => format!("READ-ONLY: {}", clean(failure)),
        None => match store.pointer("/watcher/status/last_report/removed").and_then(Value::as_u64) {
            Some(removed) => format!("the last pass of pruning removed {}", thousands(removed)),
            None => String::new(),
        },
    });
    lines.push(String::new());
    Ok((text(lines, &page.sessions, page.now, columns), look))
}

/// What there is to see of a store on a cluster. How much is written to it only its nodes know.
#[cfg(feature = "valkey")]
fn screen_of_cluster(
    source: &Source,
    stats: &ClusterStats,
    shown: &str,
    rows: usize,
    columns: usize,
) -> Result<String> {
    let mut sessions = Vec::new();
    let told = source.entries(&Filter::default(), rows, |entry| {
        sessions.push(entry);
        Ok(())
    })?;
    let lines = vec![
        format!("cloakroom {}  {}", env!("CARGO_PKG_VERSION"), clean(shown)),
        format!(
            "entries {}  active in the last minute {}  in {} of {} shards",
            thousands(stats.entries),
            thousands(stats.active_in_last_minute),
            thousands(stats.shards_in_use),
            thousands(stats.shards),
        ),
        format!("open turns {}  to be pruned {}", thousands(stats.open_turns), thousands(stats.condemned)),
        format!(
            "processes {}, this one too  of them, with a guard {}",
            thousands(stats.members),
            thousands(stats.guards),
        ),
        match told.left_out + told.unreadable.count {
            0 => String::new(),
            count => format!("{} of the latest entries cannot be decoded", thousands(count)),
        },
        String::new(),
    ];
    Ok(text(lines, &sessions, stats.now, columns))
}

/// A screen: the lines above, and then the sessions.
fn text(mut lines: Vec<String>, sessions: &[SessionEntry], now: Timestamp, columns: usize) -> String {
    lines.push(format!("{:>12}  {:<12} {:<8} {:<28} {:>12}  KEY", "IDLE", "PLATFORM", "TYPE", "NAME", "TOKENS"));
    for entry in sessions {
        let details = &entry.details;
        let or_none = |text: &Option<String>| clean(text.as_deref().unwrap_or("-")).into_owned();
        lines.push(format!(
            "{:>12}  {:<12} {:<8} {:<28} {:>12}  {}{}",
            words(now.since(entry.updated_at)),
            shorten(&or_none(&details.platform), 12),
            shorten(&or_none(&details.chat_type), 8),
            shorten(&or_none(&details.display_name), 28),
            thousands(entry.usage.total_tokens),
            clean(entry.key.as_str()),
            if entry.suspended { " (suspended)" } else { "" },
        ));
    }
    let mut screen = String::new();
    for line in lines {
        let _ = writeln!(screen, "{}", shorten(&line, columns));
    }
    screen
}
