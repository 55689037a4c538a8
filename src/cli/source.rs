//! Where a command looks: at a store that it opens, or at the live view of one that a gateway has open.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::{self, Write, stderr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
#[cfg(feature = "valkey")]
use cloakroom::cluster::ClusterStore;
use cloakroom::live::{AskError, Client, Live, LiveOptions};
use cloakroom::query::{Filter, Summary};
use cloakroom::report::{Listing, Unreadable};
use cloakroom::{Error, SessionEntry, SessionId, SessionKey, SessionStore, Sessions, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::ClusterOptions;
use super::ends::Ends;
use super::failure::Failure;
use super::key::KeyArg;
use super::{Exit, named, options};

/// Entries that are asked for together.
const PAGE: usize = 1000;

/// Which store, and whether the view of a running one is asked.
#[derive(Debug)]
pub(super) struct Db {
    pub(super) path: PathBuf,
    pub(super) ask: Ask,
    /// It is there in place of the path.
    pub(super) cluster: Option<ClusterOptions>,
    /// What a person calls it.
    pub(super) shown: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// If somebody has the store open.
    IfTaken,
    /// Never.
    Never,
    /// In any case.
    Only,
}

impl Deref for Db {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// What a command works on.
pub(super) enum Source {
    Store(SessionStore),
    Live(Client),
    #[cfg(feature = "valkey")]
    Cluster(ClusterStore),
}

/// What a command asks: a store that it has open itself, on whichever engine, or a view.
pub(super) enum Side<'a> {
    Own(&'a dyn Sessions),
    Live(&'a Client),
}

/// An entry that a command was given.
pub(super) struct Found {
    pub(super) key: SessionKey,
    /// What stands for it in the view's URLs.
    handle: String,
}

impl Found {
    /// Where the view has it.
    pub(super) fn path(&self, verb: &str) -> String {
        match verb {
            "" => format!("/v1/sessions/{}", self.handle),
            verb => format!("/v1/sessions/{}/{verb}", self.handle),
        }
    }
}

/// What a list could not show.
pub(super) struct Told {
    /// There are more than it was to show.
    pub(super) more: bool,
    /// Left out, and named already.
    pub(super) left_out: u64,
    pub(super) unreadable: Unreadable,
}

/// Opens the store, or finds the view of it, hands that to `work`, and closes it. The error of the last commit counts.
pub(super) fn with_source<T>(db: &Db, work: impl FnOnce(&Source) -> Result<T>) -> Result<T> {
    #[cfg(feature = "valkey")]
    if let Some(options) = &db.cluster {
        let source = Source::Cluster(open_cluster(db, options)?);
        let done = work(&source);
        let Source::Cluster(store) = source else { return done };
        let closed = store.close();
        let done = done?;
        closed?;
        return Ok(done);
    }
    if db.ask == Ask::Only {
        return work(&Source::Live(served_view(db)?));
    }
    match SessionStore::open(options(db)) {
        Ok(store) => {
            let source = Source::Store(store.clone());
            let done = work(&source);
            let closed = store.close();
            // What the work says comes first: where both failed, closing only repeats it.
            let done = done?;
            closed?;
            Ok(done)
        }
        Err(locked @ Error::Locked { .. }) if db.ask == Ask::IfTaken => work(&Source::Live(view_of(db, locked)?)),
        Err(error) => Err(named(error)),
    }
}

/// Opens the store on a cluster.
#[cfg(feature = "valkey")]
pub(super) fn open_cluster(db: &Db, options: &ClusterOptions) -> Result<ClusterStore> {
    ClusterStore::open(options.clone()).map_err(|error| match error {
        Error::NotFound { .. } => Failure::NotOnCluster { shown: db.shown.clone() }.into(),
        error => error.into(),
    })
}

/// The view that must be there.
fn served_view(db: &Path) -> Result<Client> {
    if db.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(Failure::NoStore(db.to_path_buf()).into());
    }
    Ok(Client::of_store(db)?)
}

/// The same where no view can be asked: the store is opened here.
pub(super) fn with_own<T>(db: &Db, work: impl FnOnce(&dyn Sessions) -> Result<T>) -> Result<T> {
    if db.cluster.is_some() {
        return with_source(db, |source| match source.side() {
            Side::Own(store) => work(store),
            Side::Live(_) => anyhow::bail!("a view of a store on a cluster cannot be"),
        });
    }
    super::with_store(db, |store| work(store))
}

/// The view of a store that is taken. A line on standard error names the process that is asked.
pub(super) fn view_of(db: &Path, locked: Error) -> Result<Client> {
    let client = match Client::of_store(db) {
        Ok(client) => client,
        Err(AskError::NotServed { .. }) => return Err(Failure::NotServed(locked).into()),
        Err(error) => return Err(error.into()),
    };
    let holder = match &locked {
        Error::Locked { holder: Some(holder), .. } => holder.as_str(),
        _ => "the process",
    };
    // Where standard error is gone, nobody would read it.
    let _ = writeln!(stderr(), "asked {holder}, which has the store open");
    Ok(client)
}

/// Finds the view of a store, or serves one for as long as `work` takes, and yields to a gateway then.
///
/// `work` is given a function that says whether it is to end: a gateway wants the store, or a signal asked for it. A view that
/// is served here ends then, and with it what `work` reads from it. The view of another process goes on. A command that never
/// calls the function there leaves signals alone, so they end the program.
pub(super) fn with_view(
    db: &Db,
    view: LiveOptions,
    work: impl FnOnce(&Client, &dyn Fn() -> bool) -> Result<Exit>,
) -> Result<Exit> {
    let ends = OnceCell::new();
    // Where nobody can listen for signals they end the program.
    let is_over = || ends.get_or_init(|| Ends::listen(|| {}).ok()).as_ref().is_some_and(Ends::asked);
    if db.ask == Ask::Only {
        return work(&served_view(db)?, &is_over);
    }
    match SessionStore::open(options(db)) {
        Ok(store) => serving(&store, view, work),
        Err(locked @ Error::Locked { .. }) if db.ask == Ask::IfTaken => work(&view_of(db, locked)?, &is_over),
        Err(error) => Err(named(error)),
    }
}

fn serving(
    store: &SessionStore,
    view: LiveOptions,
    work: impl FnOnce(&Client, &dyn Fn() -> bool) -> Result<Exit>,
) -> Result<Exit> {
    // Before there is a view for anybody to see.
    let socket = Arc::new(OnceLock::<PathBuf>::new());
    let of_view = Arc::clone(&socket);
    let ends = Ends::listen(move || {
        // As a gateway asks for the store.
        if let Some(client) = of_view.get().and_then(|socket| Client::at(socket).ok()) {
            let _ = client.post::<Value>("/v1/handover", &json!({}));
        }
    })?;
    let live = Live::serve(store, view.hands_over(true))?;
    let _ = socket.set(live.socket().to_path_buf());
    let is_over = || live.has_ended() || ends.asked();
    let done = match ends.asked() {
        true => Ok(Exit::Done),
        false => Client::at(live.socket()).map_err(Into::into).and_then(|client| work(&client, &is_over)),
    };
    let is_cut_off = is_over();
    if is_cut_off && !ends.asked() {
        let _ = writeln!(stderr(), "a gateway has opened the store");
    }
    live.close();
    let closed = store.close();
    let done = match done {
        // A request that the end has cut off is no failure.
        Err(error) if is_cut_off && error.downcast_ref::<AskError>().is_some() => Exit::Done,
        done => done?,
    };
    closed?;
    Ok(done)
}

/// Lines of a text that comes in pieces. A piece may end within a line, and within a character.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Hands on the lines that a piece completes.
    pub(super) fn add(&mut self, piece: &[u8], mut each: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            self.0.extend_from_slice(line);
            let line = std::mem::take(&mut self.0);
            each(&String::from_utf8_lossy(&line))?;
            rest = behind.get(1..).unwrap_or_default();
        }
        self.0.extend_from_slice(rest);
        Ok(())
    }
}

/// The parameters of a URL.
fn query<'a>(parameters: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&escaped(&value));
    }
    text
}

/// A text as a part of a URL.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[derive(Deserialize)]
struct Page {
    sessions: Vec<SessionEntry>,
    next: Option<String>,
    unreadable: Unreadable,
}

#[derive(Deserialize)]
struct One {
    session: SessionEntry,
    extras: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ById {
    sessions: Vec<SessionEntry>,
    unreadable: Unreadable,
}

/// The fields of an answer.
fn field<T: DeserializeOwned>(answer: &mut Value, name: &str) -> Result<T> {
    let value = answer.get_mut(name).map(Value::take).unwrap_or_default();
    Ok(serde_json::from_value(value).map_err(|source| AskError::Answer { source })?)
}

impl Source {
    pub(super) fn side(&self) -> Side<'_> {
        match self {
            Self::Store(store) => Side::Own(store),
            Self::Live(client) => Side::Live(client),
            #[cfg(feature = "valkey")]
            Self::Cluster(store) => Side::Own(store),
        }
    }

    /// The entry of a key. A key may hold what looks like an escape, so the text as it is comes first.
    pub(super) fn find(&self, arg: &KeyArg) -> Result<Found> {
        match self.side() {
            Side::Own(store) => Ok(Found { key: arg.find(store)?, handle: String::new() }),
            Side::Live(client) => {
                for key in arg.candidates() {
                    match client.post::<Value>("/v1/handle", &json!({"key": key})) {
                        Ok(mut answer) => {
                            return Ok(Found { key: key.clone(), handle: field(&mut answer, "handle")? });
                        }
                        Err(AskError::Refused { kind, .. }) if kind == "no_entry" => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(Failure::NoEntry(arg.given().clone()).into())
            }
        }
    }

    /// Shows up to `limit` entries that a filter accepts, newest first.
    pub(super) fn entries(
        &self,
        filter: &Filter,
        limit: usize,
        mut show: impl FnMut(SessionEntry) -> Result<()>,
    ) -> Result<Told> {
        let mut told = Told { more: false, left_out: 0, unreadable: Unreadable::default() };
        match self {
            Self::Store(store) => {
                let mut entries = store.iter(filter.clone())?;
                each_of(store, &mut entries, limit, &mut told, show)?;
                told.unreadable = entries.unreadable().clone();
            }
            #[cfg(feature = "valkey")]
            Self::Cluster(store) => {
                let mut entries = store.iter(filter.clone());
                each_of(store, &mut entries, limit, &mut told, show)?;
                told.unreadable = entries.unreadable().clone();
            }
            Self::Live(client) => {
                let (mut shown, mut cursor) = (0, None);
                loop {
                    // One more than is shown tells whether there is more.
                    let page = client.get::<Page>(&format!(
                        "/v1/sessions{}",
                        query([
                            ("platform", filter.platform.clone()),
                            ("chat_type", filter.chat_type.clone()),
                            ("user", filter.user_id.clone()),
                            ("prefix", filter.key_prefix.clone()),
                            ("active_since", filter.active_since.as_ref().map(Timestamp::to_string)),
                            ("idle_since", filter.idle_since.as_ref().map(Timestamp::to_string)),
                            ("suspended", filter.suspended.map(|set| set.to_string())),
                            ("pinned", filter.pinned.map(|set| set.to_string())),
                            ("limit", Some((limit - shown).saturating_add(1).min(PAGE).to_string())),
                            ("cursor", cursor),
                        ])
                    ))?;
                    told.unreadable.count += page.unreadable.count;
                    told.unreadable.first.extend(page.unreadable.first);
                    for entry in page.sessions {
                        if shown >= limit {
                            told.more = true;
                            return Ok(told);
                        }
                        shown += 1;
                        show(entry)?;
                    }
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(told)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> Result<u64> {
        match self.side() {
            Side::Own(store) => Ok(store.len()?),
            Side::Live(client) => field(&mut client.get::<Value>("/v1/sessions?limit=1")?, "total"),
        }
    }

    /// An entry and its extras.
    pub(super) fn whole(&self, found: &Found) -> Result<(SessionEntry, BTreeMap<String, String>)> {
        match self.side() {
            Side::Own(store) => {
                let missing = || Failure::NoEntry(found.key.clone());
                let (entry, extras) = store.get_with_extras(&found.key)?.ok_or_else(missing)?;
                Ok((entry, extras.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()))
            }
            Side::Live(client) => {
                let one: One = client.get(&found.path(""))?;
                Ok((one.session, one.extras))
            }
        }
    }

    /// The entries whose live session has this id.
    pub(super) fn by_id(&self, id: &SessionId) -> Result<(Vec<SessionEntry>, Unreadable)> {
        match self.side() {
            Side::Own(store) => {
                let found = store.find_by_session_id(id)?;
                Ok((found.items, found.unreadable))
            }
            Side::Live(client) => {
                let found: ById = client.get(&format!("/v1/ids/{}", escaped(id.as_str())))?;
                Ok((found.sessions, found.unreadable))
            }
        }
    }

    /// What the view answers under a name, with what could not be read.
    pub(super) fn listed<T: DeserializeOwned>(client: &Client, name: &str) -> Result<(Vec<T>, Unreadable)> {
        let mut answer: Value = client.get(&format!("/v1/{name}"))?;
        Ok((field(&mut answer, name)?, field(&mut answer, "unreadable")?))
    }

    /// The same of a store.
    pub(super) fn parts<T>(listing: Listing<T>) -> (Vec<T>, Unreadable) {
        (listing.items, listing.unreadable)
    }

    /// Changes an entry, and answers what the view says of it.
    pub(super) fn change(client: &Client, found: &Found, verb: &str, how: &Value) -> Result<Value> {
        let answer = match verb {
            "remove" => client.delete(&found.path("")),
            verb => client.post(&found.path(verb), how),
        };
        answer.map_err(|error| match error {
            AskError::Refused { kind, .. } if kind == "no_entry" => Failure::NoEntry(found.key.clone()).into(),
            error => error.into(),
        })
    }
}

/// Shows the entries that a list names, up to a limit.
fn each_of(
    store: &dyn Sessions,
    entries: &mut dyn Iterator<Item = cloakroom::Result<Summary>>,
    limit: usize,
    told: &mut Told,
    mut show: impl FnMut(SessionEntry) -> Result<()>,
) -> Result<()> {
    let mut shown = 0;
    for summary in entries {
        if shown >= limit {
            told.more = true;
            break;
        }
        match store.get(&summary?.key) {
            Ok(Some(entry)) => {
                shown += 1;
                show(entry)?;
            }
            Ok(None) => {}
            Err(error @ Error::DamagedRecord { .. }) => {
                tracing::warn!(%error, "left out");
                told.left_out += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_come_in_pieces_that_split_a_character() {
        let text = "id: 1\ndata: Grüße 🎈\n\ndata: x";
        for size in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                let keep = |line: &str| {
                    seen.push(line.to_owned());
                    Ok(())
                };
                lines.add(piece, keep).unwrap();
            }
            assert_eq!(seen, ["id: 1", "data: Grüße 🎈", ""], "in pieces of {size}");
        }
    }
}
