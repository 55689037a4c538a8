//! [`SessionStore`]: the verbs. Each gives the interpreter back while it works.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cloakroom::change::{Edit, Repoint, Resolve};
use cloakroom::events::EventOptions;
use cloakroom::live::LiveOptions;
use cloakroom::prune::NoActivity;
use cloakroom::query::Filter;
use cloakroom::source::KeyPolicy;
use cloakroom::turns::{RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnToken};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Error, Extras, Options, Timestamp, Usage, serde_json};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

use crate::answer::{Answers, Change, Resolved, Turn};
use crate::convert::{
    duration, expect, gateway, json_text, keep, key, python, report, session_id, source, timestamp, touch,
};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::error::OrRaise;
use crate::events::Events;
use crate::json::{self, loads};
use crate::lease::Lease;
use crate::listing::{Entries, Keys};
use crate::live::Live;
use crate::open::{Busy, Opening};
use crate::policy::ResetPolicy;
use crate::prune::{Guard, Limits};
use crate::receipt::Receipt;
use crate::transfer::{self, Import};
use crate::watcher::Watcher;

/// An open store. May be used from many threads; belongs to the process that opened it.
///
/// In the examples of its verbs `store` is open, and `key` the key of an entry in it.
///
/// >>> with SessionStore.open(path, create=True) as store:
/// ...     store.count()
/// 0
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct SessionStore {
    opening: Arc<Opening>,
}

impl Drop for SessionStore {
    fn drop(&mut self) {
        let opening = Arc::clone(&self.opening);
        // Where this is the last handle, dropping it commits what is pending. Closed first, so that the interpreter runs on
        // meanwhile; what goes wrong was logged.
        let close = move || {
            let _ = opening.close();
        };
        let _ = Python::try_attach(|py| py.detach(close));
    }
}

impl SessionStore {
    fn open_with(
        py: Python<'_>,
        path: PathBuf,
        options: Option<&Bound<'_, PyDict>>,
        is_shared: bool,
    ) -> PyResult<Self> {
        let options = self::options(path, options)?;
        let open = if is_shared { cloakroom::SessionStore::open_shared } else { cloakroom::SessionStore::open };
        let store = py.detach(|| open(options)).or_raise(py)?;
        Ok(Self { opening: Opening::new(store, is_shared) })
    }

    fn store(&self, py: Python<'_>) -> PyResult<cloakroom::SessionStore> {
        self.opening.store().or_raise(py)
    }

    /// Runs a verb without the interpreter. The handle goes there too: it may be the last one.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&cloakroom::SessionStore) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let _busy = Busy::new();
        let store = self.store(py)?;
        py.detach(move || verb(&store)).or_raise(py)
    }

    fn answers<'py>(&self, py: Python<'py>) -> Answers<'py> {
        Answers { py, opening: self.opening.number }
    }

    /// Runs a verb that answers with a receipt, or with none where there is no entry.
    fn receipt(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&cloakroom::SessionStore) -> Result<Option<cloakroom::Receipt>, Error> + Send,
    ) -> PyResult<Option<Receipt>> {
        let receipt = self.run(py, verb)?;
        Ok(receipt.map(|inner| Receipt { inner, opening: self.opening.number }))
    }
}

#[pymethods]
impl SessionStore {
    /// Opens the store in a directory, for this handle alone. `create=True` makes one where there is none.
    ///
    /// Also: `commit_interval` (seconds that a change may wait for its commit, 0.1), `max_pending`, `cache_bytes`, `cached_entries`,
    /// `journal_bytes`, `trust_group`; `compact_at_open=10.0`, which first gives back the space of a database that takes more than
    /// ten times what its entries hold; and how `resolve` makes keys: `namespace`, `sessions_per_user`, `thread_sessions_per_user`.
    /// Raises NotFound, NotAStore, Locked, Damaged, Exposed and others. Reads the store's log: beside an event loop open it in a
    /// thread.
    ///
    /// >>> SessionStore.open(path)
    /// Traceback (most recent call last):
    /// cloakroom_store._errors.NotFound: ...
    /// >>> SessionStore.open(path, create=True).close()
    #[staticmethod]
    #[pyo3(signature = (path, **options))]
    fn open(py: Python<'_>, path: PathBuf, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Self::open_with(py, path, options, false)
    }

    /// Opens a store as `open` does, or answers the one that this process has opened with this verb. Each handle is closed for
    /// itself; the store closes with the last one. Raises OptionsDiffer if it is open with other options.
    ///
    /// >>> first = SessionStore.open_shared(path, create=True)
    /// >>> second = SessionStore.open_shared(path)
    /// >>> first.close()
    /// >>> second.count()
    /// 0
    /// >>> second.close()
    #[staticmethod]
    #[pyo3(signature = (path, **options))]
    fn open_shared(py: Python<'_>, path: PathBuf, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Self::open_with(py, path, options, true)
    }

    /// Commits what is pending and closes the store; that of `open_shared` for this handle. May be called again. Raises ReadOnly
    /// if a write or a sync failed: what is not durable by then may be lost.
    ///
    /// >>> store.close()
    /// >>> store.closed
    /// True
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.opening.close()).or_raise(py)
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.opening.store().is_err()
    }

    /// The directory of the store.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("pathlib")?.getattr("Path")?.call1((self.opening.path.as_os_str(),))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __aenter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        python(slf.py(), "_waiting", "ready")?.call1((slf,))
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(slf: Bound<'py, Self>, _exception: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        python(slf.py(), "_waiting", "close")?.call1((slf,))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a SessionStore belongs to the process that opened it: open it there"))
    }

    fn __repr__(&self) -> String {
        let state = if self.closed() { ", closed" } else { "" };
        format!("<SessionStore {:?}{state}>", self.opening.path)
    }

    /// What opening found and did.
    ///
    /// >>> store.open_report().created
    /// True
    fn open_report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        report(py, "OpenReport", self.store(py)?.open_report())
    }

    /// Figures of the store. Looks at each of its files.
    ///
    /// >>> store.stats().entries
    /// 1
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        report(py, "Stats", &self.run(py, |store| store.stats())?)
    }

    /// Checks the whole store and answers what is wrong with it. Reads everything.
    ///
    /// >>> store.verify().sound
    /// True
    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let found = self.run(py, |store| store.verify())?;
        let violations: Vec<_> = found.violations.iter().map(ToString::to_string).collect();
        report(
            py,
            "Verification",
            &serde_json::json!({
                "entries": found.entries,
                "violations": violations,
                "stale_rows": found.stale_rows,
                "orphaned_chunks": found.orphaned_chunks,
                "orphaned_turns": found.orphaned_turns,
                "orphaned_leases": found.orphaned_leases,
                "times_ahead": found.times_ahead,
                "count_checked": found.count_checked,
            }),
        )
    }

    // --- in and out

    /// Makes a store at `path` from a gateway's `sessions.json`, and leaves it closed. The store is there when it is whole, and not
    /// before. A bad entry goes to the file `quarantine` and the rest goes on.
    ///
    /// Also: `gateway` ("hermes" or "openclaw"; its first entry tells), `zone` where naive times are at home (the machine's own),
    /// `trust_times`, `dry_run`, `file_time`, and `trust_group`. Raises Exists, InvalidEntry if the file is none, ClockBehind.
    ///
    /// >>> file = path.with_name("sessions.json")
    /// >>> _ = file.write_text('{"mine:1": {"session_id": "1", "updated_at": "2026-06-12T00:07:04"}}')
    /// >>> SessionStore.create_from(path, file, zone="Europe/Berlin").imported
    /// 1
    #[staticmethod]
    #[pyo3(signature = (path, file, *, trust_group=false, **options))]
    fn create_from<'py>(
        py: Python<'py>,
        path: PathBuf,
        file: PathBuf,
        trust_group: bool,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let import = Import::new(py, &file, options)?;
        let options = Options::new(path).trust_group(trust_group);
        report(py, "ImportReport", &py.detach(move || import.create(options)).or_raise(py)?)
    }

    /// Imports a gateway's `sessions.json` into this store. Options are those of `create_from`, and `on_conflict`: "newer" lets the
    /// entry stay that was active last, "keep" the store's, "replace" the file's.
    ///
    /// >>> file = path.with_name("sessions.json")
    /// >>> store.export(file).entries
    /// 1
    /// >>> store.import_from(file).unchanged
    /// 1
    #[pyo3(signature = (file, **options))]
    fn import_from<'py>(
        &self,
        py: Python<'py>,
        file: PathBuf,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let import = Import::new(py, &file, options)?;
        report(py, "ImportReport", &self.run(py, move |store| import.merge(store))?)
    }

    /// Writes all entries into a file: as "hermes", "openclaw", or "jsonl". It is there whole or not at all, and only its owner may
    /// read it. Raises Exists if there is one, without `force`.
    ///
    /// >>> store.export(path.with_name("sessions.json"), "hermes").entries
    /// 1
    #[pyo3(signature = (file, format="hermes", *, zone=None, force=false))]
    fn export<'py>(
        &self,
        py: Python<'py>,
        file: PathBuf,
        format: &str,
        zone: Option<&str>,
        force: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let export = transfer::export(py, format, zone, force)?;
        report(py, "ExportReport", &self.run(py, move |store| export(store, &file))?)
    }

    /// Writes a backup of one moment into a file, while others go on changing the store. Raises Exists as `export` does.
    ///
    /// >>> store.backup(path.with_name("backup")).entries
    /// 1
    #[pyo3(signature = (file, *, force=false))]
    fn backup<'py>(&self, py: Python<'py>, file: PathBuf, force: bool) -> PyResult<Bound<'py, PyAny>> {
        report(py, "BackupReport", &self.run(py, move |store| transfer::backup(store, &file, force))?)
    }

    /// Makes a store at `path` from a backup, and leaves it closed. Raises Exists, NotAStore if the file is no backup, Damaged.
    ///
    /// >>> _ = store.backup(path.with_name("backup"))
    /// >>> SessionStore.restore(path.with_name("backup"), path).entries
    /// 1
    #[staticmethod]
    #[pyo3(signature = (file, path, *, trust_group=false))]
    fn restore<'py>(py: Python<'py>, file: PathBuf, path: PathBuf, trust_group: bool) -> PyResult<Bound<'py, PyAny>> {
        let options = Options::new(path).trust_group(trust_group);
        report(py, "BackupReport", &transfer::restore(py, &file, options)?)
    }

    /// Listens to what becomes of sessions from now on. The channel holds `capacity` events and drops newer ones while it is full.
    /// `updates` and `touches` add those of other changes, and of activity alone.
    ///
    /// >>> events = store.events(touches=True)
    /// >>> _ = store.touch(key)
    /// >>> next(events).event
    /// 'touched'
    #[pyo3(signature = (capacity=1024, *, updates=false, touches=false))]
    fn events(&self, py: Python<'_>, capacity: usize, updates: bool, touches: bool) -> PyResult<Events> {
        let options = EventOptions::new(capacity).updates(updates).touches(touches);
        self.run(py, move |store| Ok(Events::new(store, options)))
    }

    /// Waits until everything changed so far survives a power cut.
    ///
    /// >>> store.flush()
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |store| store.flush())
    }

    // --- look-ups

    /// The entry of a key, without its extras; None if there is none.
    ///
    /// >>> entry = store.get(key)
    /// >>> entry.platform, entry.suspended
    /// ('telegram', False)
    fn get(&self, py: Python<'_>, key: &str) -> PyResult<Option<Entry>> {
        let key = self::key(py, key)?;
        Ok(self.run(py, move |store| store.get(&key))?.map(Entry::from))
    }

    /// The entry of a key and its extras as a dict, as of one moment; None if there is none.
    ///
    /// >>> _ = store.set_extra(key, "model", "large")
    /// >>> entry, extras = store.get_with_extras(key)
    /// >>> extras
    /// {'model': 'large'}
    fn get_with_extras<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<(Entry, Bound<'py, PyDict>)>> {
        let key = self::key(py, key)?;
        let Some((entry, extras)) = self.run(py, move |store| store.get_with_extras(&key))? else { return Ok(None) };
        let fields = PyDict::new(py);
        for (name, text) in extras.iter() {
            fields.set_item(name, loads(py, text)?)?;
        }
        Ok(Some((Entry::from(entry), fields)))
    }

    /// The entry of a key with its extras, as the JSON of "hermes" or "openclaw"; None if there is none.
    ///
    /// >>> import json
    /// >>> json.loads(store.get_json(key))["platform"]
    /// 'telegram'
    #[pyo3(signature = (key, *, gateway="hermes"))]
    fn get_json(&self, py: Python<'_>, key: &str, gateway: &str) -> PyResult<Option<String>> {
        let (key, gateway) = (self::key(py, key)?, self::gateway(gateway)?);
        self.run(py, move |store| store.get_json(&key, gateway))
    }

    /// Whether a key has an entry.
    ///
    /// >>> key in store
    /// True
    fn __contains__(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        let key = self::key(py, key)?;
        self.run(py, move |store| store.contains(&key))
    }

    /// The entries whose live session is this, in key order.
    ///
    /// >>> store.find_by_session_id(store.get(key).session_id)
    /// [<Entry ...>]
    fn find_by_session_id(&self, py: Python<'_>, session_id: &str) -> PyResult<Vec<Entry>> {
        let id = self::session_id(py, session_id)?;
        let found = self.run(py, move |store| store.find_by_session_id(&id))?;
        Ok(found.items.into_iter().map(Entry::from).collect())
    }

    /// The keys that begin with a prefix, in key order. Costs what matches. It is no snapshot: keys that are made or removed
    /// meanwhile may be shown or not.
    ///
    /// >>> list(store.keys("agent:main:"))
    /// ['agent:main:telegram:dm:1234']
    #[pyo3(signature = (prefix=""))]
    fn keys(&self, py: Python<'_>, prefix: &str) -> PyResult<Keys> {
        let inner = self.run(py, |store| store.keys(prefix))?;
        Ok(Keys { inner: Mutex::new(inner) })
    }

    /// How many entries there are whose key begins with a prefix. Without one it costs nothing.
    ///
    /// >>> store.count(), store.count("agent:other:")
    /// (1, 0)
    #[pyo3(signature = (prefix=""))]
    fn count(&self, py: Python<'_>, prefix: &str) -> PyResult<u64> {
        self.run(py, |store| if prefix.is_empty() { Ok(store.len()) } else { store.count_prefix(prefix) })
    }

    /// The entries that a filter accepts, newest first: `platform`, `chat_type`, `user_id`, `prefix` of the key, `active_since`,
    /// `idle_since`, `suspended`, `pinned`.
    ///
    /// >>> next(store.entries(platform="telegram"))
    /// <Entry ...>
    #[pyo3(signature = (**filter))]
    fn entries(&self, py: Python<'_>, filter: Option<&Bound<'_, PyDict>>) -> PyResult<Entries> {
        let filter = self::filter(filter)?;
        let inner = self.run(py, move |store| store.iter(filter))?.entries();
        Ok(Entries { inner: Mutex::new(inner) })
    }

    // --- changes

    /// Notes that the user was active: `updated_at` becomes now, and never goes back. None if there is no entry.
    ///
    /// >>> store.touch(key).wait()
    /// True
    /// >>> store.touch("no:such:key") is None
    /// True
    fn touch(&self, py: Python<'_>, key: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.touch(&key))
    }

    /// Puts a whole entry in place, with its extras; those that were there go. `expect` is "any", "absent", or a revision.
    ///
    /// The outcome is "created", "replaced", or "unexpected": then `entry` is what is there, and stays. Raises TooLarge if the extras
    /// are.
    ///
    /// >>> entry = Entry("mine:1", "run-1", platform="cron")
    /// >>> store.put(entry, {"model": "large"}, expect="absent").outcome
    /// 'created'
    /// >>> store.put(entry, expect="absent").outcome
    /// 'unexpected'
    #[pyo3(signature = (entry, extras=None, *, expect="any"))]
    fn put(&self, py: Python<'_>, entry: &Entry, extras: Option<&Bound<'_, PyAny>>, expect: &str) -> PyResult<Change> {
        let expect = self::expect(py, expect)?;
        let mut fields = Extras::default();
        if let Some(extras) = extras.filter(|extras| !extras.is_none()) {
            let Ok(extras) = extras.cast::<PyMapping>() else {
                return Err(PyTypeError::new_err("extras are a mapping of names to values"));
            };
            for (name, text) in json::fields(extras)? {
                json::taken(fields.insert_text(name, &text))?;
            }
        }
        let put = self.run(py, |store| store.put(&entry.inner, &fields, expect))?;
        self.answers(py).put(put)
    }

    /// Puts an entry in place that a gateway wrote as JSON. All times are kept. `expect` and the outcome are those of `put`.
    /// Raises InvalidEntry if the text is no entry, or names another key.
    ///
    /// >>> text = store.get_json(key)
    /// >>> store.put_json(key, text).outcome
    /// 'replaced'
    #[pyo3(signature = (key, text, *, gateway="hermes", expect="any"))]
    fn put_json(&self, py: Python<'_>, key: &str, text: &str, gateway: &str, expect: &str) -> PyResult<Change> {
        let (key, gateway, expect) = (self::key(py, key)?, self::gateway(gateway)?, self::expect(py, expect)?);
        let put = self.run(py, move |store| store.put_json(&key, text, gateway, expect))?;
        self.answers(py).put(put)
    }

    /// Changes anything of an entry in one step, its extras included; or makes one where there is none, unless `create=False`.
    ///
    /// `change` is called with a `Draft`, on this thread and with nothing locked. It answers None to write it, "keep" to leave
    /// everything as it is, or "remove". It may be called again, if the entry was changed meanwhile; so it should decide by the
    /// draft alone. What it raises comes out of here, and changes nothing. The outcome is "created", "changed", "kept" or "removed".
    /// Raises TooLarge if the extras become so.
    ///
    /// >>> def message(draft):
    /// ...     draft.last_prompt_tokens = 812
    /// ...     draft.set_extra("turns", draft.extra("turns", 0) + 1)
    /// >>> changed = store.modify(key, message)
    /// >>> changed.outcome, changed.entry.last_prompt_tokens, store.extra(key, "turns")
    /// ('changed', 812, 1)
    #[pyo3(signature = (key, change, *, touch=true, create=true))]
    fn modify(
        &self,
        py: Python<'_>,
        key: &str,
        change: &Bound<'_, PyAny>,
        touch: bool,
        create: bool,
    ) -> PyResult<Change> {
        let (key, touch) = (self::key(py, key)?, self::touch(touch));
        let _busy = Busy::new();
        let store = self.store(py)?;
        let change = change.clone().unbind();
        let mut raised = None;
        let modified = py.detach(|| {
            store.modify(&key, touch, |draft| {
                if draft.is_new() && !create {
                    return Edit::Keep;
                }
                Python::attach(|py| edit(py, &store, draft, &change)).unwrap_or_else(|error| {
                    raised = Some(error);
                    Edit::Keep
                })
            })
        });
        raised.map_or(Ok(()), Err)?;
        let modified = modified.or_raise(py)?;
        self.answers(py).modified(modified)
    }

    /// The session for a message: touched if there is one, replaced by a fresh one if it is suspended, made if there is none.
    ///
    /// The source is a mapping: `platform`, `chat_type`, `chat_id`, `user_id`, `thread_id` and others, by their names in the gateway.
    ///
    /// `reset` says when a session is over: then a fresh one takes its place, unless a lease holds the entry or `guard`, asked with
    /// the session key on this thread, says that work is in progress. If the guard raises an exception, the session stays, and the
    /// answer has the exception in `guard_error`.
    ///
    /// >>> found = store.resolve({"platform": "telegram", "chat_type": "dm", "chat_id": "1234"})
    /// >>> found.outcome, found.entry.key
    /// ('existing', 'agent:main:telegram:dm:1234')
    #[pyo3(signature = (source, *, reset=None, guard=None))]
    fn resolve(
        &self,
        py: Python<'_>,
        source: &Bound<'_, PyAny>,
        reset: Option<&Bound<'_, ResetPolicy>>,
        guard: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Resolved> {
        let source = self::source(source)?;
        let guard = guard.map(|guard| Guard::new(guard.unbind()));
        let Some(policies) = reset.map(|reset| &reset.get().all) else {
            let resolved = self.run(py, move |store| store.resolve(&source))?;
            return self.answers(py).resolved(resolved, None);
        };
        let resolved = self.run(py, |store| match &guard {
            None => store.resolve_with(&source, policies, NoActivity),
            Some(guard) => {
                store.resolve_with(&source, policies, |key: &_| cloakroom::prune::ActivityGuard::check(guard, key))
            }
        });
        let errors = guard.map_or(Ok(Vec::new()), Guard::into_errors)?;
        self.answers(py).resolved(resolved?, errors.into_iter().next())
    }

    /// As `resolve`, at a key of the gateway's own, and with an id of its own for a session that begins.
    ///
    /// `fresh` begins one in any case; `touch=False` does not count as activity; `keep` names the extras that a session in the place
    /// of another keeps, or is "all".
    ///
    /// >>> store.resolve_as("mine:1", session_id="run-1").entry.session_id
    /// 'run-1'
    #[pyo3(signature = (key, *, source=None, session_id=None, fresh=false, touch=true, keep=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn resolve_as(
        &self,
        py: Python<'_>,
        key: &str,
        source: Option<&Bound<'_, PyAny>>,
        session_id: Option<&str>,
        fresh: bool,
        touch: bool,
        keep: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Resolved> {
        let (key, touch, keep) = (self::key(py, key)?, self::touch(touch), self::keep(keep)?);
        let source = source.map(self::source).transpose()?;
        let id = session_id.map(|id| self::session_id(py, id)).transpose()?;
        let resolved = self.run(py, move |store| {
            let mut how = Resolve::new().fresh(fresh).touch(touch).keep(keep);
            if let Some(source) = &source {
                how = how.source(source);
            }
            match id {
                Some(id) => store.resolve_as(&key, &how.id_with(&|_| id.clone())),
                None => store.resolve_as(&key, &how),
            }
        })?;
        self.answers(py).resolved(resolved, None)
    }

    /// Leads a key to another session. With `expected`, only if that is the session it leads to.
    ///
    /// `keep_usage` keeps counters, details and flags, for a conversation that goes on under another id. The outcome is "switched",
    /// "same", "unexpected" or "missing".
    ///
    /// >>> store.repoint(key, "run-2", expected="run-1").outcome
    /// 'unexpected'
    /// >>> store.repoint(key, "run-2").entry.session_id
    /// 'run-2'
    #[pyo3(signature = (key, session_id, *, expected=None, keep_usage=false, keep=None, touch=true))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn repoint(
        &self,
        py: Python<'_>,
        key: &str,
        session_id: &str,
        expected: Option<&str>,
        keep_usage: bool,
        keep: Option<&Bound<'_, PyAny>>,
        touch: bool,
    ) -> PyResult<Change> {
        let (key, id) = (self::key(py, key)?, self::session_id(py, session_id)?);
        let mut how = Repoint::new().keep_usage(keep_usage).keep(self::keep(keep)?).touch(self::touch(touch));
        if let Some(expected) = expected {
            how = how.expected(self::session_id(py, expected)?);
        }
        let repointed = self.run(py, move |store| store.repoint(&key, id, &how))?;
        self.answers(py).repointed(repointed)
    }

    /// Starts a fresh session, as the user asked; `keep` names the extras that stay. None if there is no entry.
    ///
    /// >>> store.reset(key).entry.is_fresh_reset
    /// True
    #[pyo3(signature = (key, *, keep=None))]
    fn reset(&self, py: Python<'_>, key: &str, keep: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Change>> {
        let (key, keep) = (self::key(py, key)?, self::keep(keep)?);
        let written = self.run(py, move |store| store.reset_keeping(&key, &keep))?;
        self.answers(py).reset(written)
    }

    /// Removes an entry. None if there is none.
    ///
    /// >>> store.remove(key).wait()
    /// True
    fn remove(&self, py: Python<'_>, key: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.remove(&key))
    }

    /// Removes an entry if it is still as it was seen. The outcome is "removed", "changed" or "missing".
    ///
    /// >>> seen = store.get(key)
    /// >>> _ = store.pin(key)
    /// >>> store.remove_if(seen).outcome
    /// 'changed'
    fn remove_if(&self, py: Python<'_>, entry: &Entry) -> PyResult<Change> {
        let removal = self.run(py, |store| store.remove_if(&entry.inner.key, &entry.inner))?;
        self.answers(py).removal(removal)
    }

    /// Suspends a session: it is never pruned, and the next message starts a fresh one. None if there is no entry.
    ///
    /// >>> _ = store.suspend(key)
    /// >>> store.get(key).suspended
    /// True
    fn suspend(&self, py: Python<'_>, key: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.suspend(&key))
    }

    /// Takes a suspension back. None if there is no entry.
    ///
    /// >>> _ = store.unsuspend(key)
    /// >>> store.get(key).suspended
    /// False
    fn unsuspend(&self, py: Python<'_>, key: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.unsuspend(&key))
    }

    /// Pins an entry: it is never pruned, and no policy replaces it. None if there is no entry.
    ///
    /// >>> _ = store.pin(key)
    /// >>> store.get(key).pinned
    /// True
    fn pin(&self, py: Python<'_>, key: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.pin(&key))
    }

    /// Takes that back. None if there is no entry.
    ///
    /// >>> _ = store.unpin(key)
    /// >>> store.get(key).pinned
    /// False
    fn unpin(&self, py: Python<'_>, key: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.unpin(&key))
    }

    /// Adds the use of one turn to the counters, by their names; `last_prompt_tokens` is replaced. None if there is no entry.
    ///
    /// >>> _ = store.record_usage(key, input_tokens=812, total_tokens=900)
    /// >>> store.get(key).total_tokens
    /// 900
    #[pyo3(signature = (key, **usage))]
    fn record_usage(&self, py: Python<'_>, key: &str, usage: Option<&Bound<'_, PyDict>>) -> PyResult<Option<Receipt>> {
        let (key, usage) = (self::key(py, key)?, self::usage(usage)?);
        self.receipt(py, move |store| store.record_usage(&key, &usage))
    }

    /// One of an entry's extras; `default` where there is none. Costs the size of that one.
    ///
    /// >>> store.extra(key, "model", "small")
    /// 'small'
    #[pyo3(signature = (key, name, default=None))]
    fn extra<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        name: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let key = self::key(py, key)?;
        let text = self.run(py, move |store| store.extra(&key, name))?;
        text.map_or(Ok(default), |text| loads(py, &text).map(Some))
    }

    /// Sets one of an entry's extras to a value that JSON can hold. None if there is no entry. A whole number keeps all its digits,
    /// up to 4,096. An infinite number raises ValueError.
    ///
    /// >>> _ = store.set_extra(key, "model", {"name": "large"})
    /// >>> store.extra(key, "model")
    /// {'name': 'large'}
    fn set_extra(&self, py: Python<'_>, key: &str, name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<Receipt>> {
        let (key, text) = (self::key(py, key)?, json::text(value)?);
        self.receipt(py, move |store| store.set_extra_text(&key, name, &text))
    }

    /// Removes one of an entry's extras. None if there is no entry, or no such extra.
    ///
    /// >>> store.remove_extra(key, "model") is None
    /// True
    fn remove_extra(&self, py: Python<'_>, key: &str, name: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.remove_extra(&key, name))
    }

    // --- turns

    /// Notes that work on a message begins, and touches the entry. None if there is none. After a crash the turn is found again,
    /// by `recover_interrupted_turns`.
    ///
    /// >>> turn = store.begin_turn(key)
    /// >>> store.end_turn(key, turn.token).outcome
    /// 'ended'
    fn begin_turn(&self, py: Python<'_>, key: &str) -> PyResult<Option<Turn>> {
        let key = self::key(py, key)?;
        let Some(begun) = self.run(py, move |store| store.begin_turn(&key))? else { return Ok(None) };
        let receipt = self.answers(py).receipt(begun.receipt)?;
        Ok(Some(Turn { token: begun.token.to_string(), receipt }))
    }

    /// Notes that the work of a turn is done. The outcome is "ended", "not_current" or "missing".
    ///
    /// >>> store.end_turn(key, "0000000000000000").outcome
    /// 'not_current'
    fn end_turn(&self, py: Python<'_>, key: &str, token: &str) -> PyResult<Change> {
        let key = self::key(py, key)?;
        let token: TurnToken =
            token.parse().map_err(|_| PyValueError::new_err("a token is what begin_turn answered, as it is"))?;
        match self.run(py, move |store| store.end_turn(&key, token))? {
            TurnEnd::Ended(receipt) => self.answers(py).change("ended", None, Some(receipt)),
            TurnEnd::NotCurrent => self.answers(py).change("not_current", None, None),
            _ => self.answers(py).change("missing", None, None),
        }
    }

    /// The turn of a key that has begun and not ended; None if there is none.
    ///
    /// >>> turn = store.begin_turn(key)
    /// >>> store.turn(key).token == turn.token
    /// True
    fn turn<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let key = self::key(py, key)?;
        let turn = self.run(py, move |store| store.turn(&key))?;
        turn.map(|turn| report(py, "OpenTurn", &turn)).transpose()
    }

    /// The turns that have begun and not ended, the oldest first.
    ///
    /// >>> store.turns()
    /// []
    fn turns<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let turns = self.run(py, |store| store.turns())?;
        turns.items.iter().map(|turn| report(py, "OpenTurn", turn)).collect()
    }

    /// Deals with the turns that a crash interrupted, once, after opening. Where one began at most `max_age` seconds ago (None: at
    /// any time), a resume is marked as pending, with the reason.
    ///
    /// >>> store.recover_interrupted_turns(3600.0).stale
    /// 0
    #[pyo3(signature = (max_age=3600.0, *, reason="interrupted_turn"))]
    fn recover_interrupted_turns<'py>(
        &self,
        py: Python<'py>,
        max_age: Option<f64>,
        reason: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let max_age = max_age.map(|age| duration(age, "max_age")).transpose()?.flatten();
        let options = RecoverOptions::new(max_age).reason(reason);
        report(py, "TurnRecovery", &self.run(py, move |store| store.recover_interrupted_turns(options))?)
    }

    /// Clears the markers of all open turns, for a gateway that knows it was stopped cleanly. Answers how many there were.
    ///
    /// >>> store.discard_turns()
    /// 0
    fn discard_turns(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.run(py, |store| store.discard_turns())?.discarded)
    }

    /// Has the next message continue the session. The outcome is "marked", "suspended" or "missing".
    ///
    /// >>> store.mark_resume_pending(key, "restart").outcome
    /// 'marked'
    fn mark_resume_pending(&self, py: Python<'_>, key: &str, reason: &str) -> PyResult<Change> {
        let key = self::key(py, key)?;
        match self.run(py, move |store| store.mark_resume_pending(&key, reason))? {
            ResumeMark::Marked(receipt) => self.answers(py).change("marked", None, Some(receipt)),
            ResumeMark::Suspended => self.answers(py).change("suspended", None, None),
            _ => self.answers(py).change("missing", None, None),
        }
    }

    /// Takes that back. The outcome is "cleared", "not_pending" or "missing".
    ///
    /// >>> store.clear_resume_pending(key).outcome
    /// 'not_pending'
    fn clear_resume_pending(&self, py: Python<'_>, key: &str) -> PyResult<Change> {
        let key = self::key(py, key)?;
        match self.run(py, move |store| store.clear_resume_pending(&key))? {
            ResumeClear::Cleared(receipt) => self.answers(py).change("cleared", None, Some(receipt)),
            ResumeClear::NotPending => self.answers(py).change("not_pending", None, None),
            _ => self.answers(py).change("missing", None, None),
        }
    }

    // --- many entries

    /// Removes what has been idle for more than `max_age_days`, then the oldest beyond `max_entries` or `max_disk_bytes`, but nothing
    /// that is protected. Zero is no limit. Above `max_disk_bytes` it removes down to `low_water_bytes`, by default four fifths of
    /// them. After `max_active_days` a guard or a lease protects no more. Durable when it returns.
    ///
    /// `guard` is asked with the session key, on this thread, whether work is in progress. If it raises an exception, or answers
    /// anything but True or False, the entry stays, and the report has the exception in `guard_errors`. Beside an event loop prune in
    /// a thread; the guard is asked there then.
    ///
    /// >>> running = {"agent:main:telegram:dm:1234"}
    /// >>> store.prune(90, guard=lambda key: key in running).removed
    /// 0
    #[pyo3(signature = (
        max_age_days=90, *, max_entries=0, max_disk_bytes=0, low_water_bytes=None, max_active_days=0.0, guard=None,
        dry_run=false
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn prune<'py>(
        &self,
        py: Python<'py>,
        max_age_days: i64,
        max_entries: u64,
        max_disk_bytes: u64,
        low_water_bytes: Option<u64>,
        max_active_days: f64,
        guard: Option<Bound<'py, PyAny>>,
        dry_run: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _busy = Busy::new();
        let policy = Limits { max_age_days, max_entries, max_disk_bytes, low_water_bytes, max_active_days }.policy()?;
        let guard = guard.map(|guard| Guard::new(guard.unbind()));
        let pruned = self.run(py, |store| match (&guard, dry_run) {
            (None, false) => store.prune(&policy, NoActivity),
            (None, true) => store.prune_dry_run(&policy, NoActivity),
            (Some(guard), false) => store.prune(&policy, |key: &_| cloakroom::prune::ActivityGuard::check(guard, key)),
            (Some(guard), true) => {
                store.prune_dry_run(&policy, |key: &_| cloakroom::prune::ActivityGuard::check(guard, key))
            }
        });
        let errors = guard.map_or(Ok(Vec::new()), Guard::into_errors)?;
        let errors: Vec<_> = errors.into_iter().map(|error| error.into_value(py)).collect();
        let text = json_text(&pruned?)?;
        python(py, "_reports", "make")?.call1(("PruneReport", text, errors))
    }

    /// Prunes at once, and then every `interval` seconds, on a thread of its own; the limits are those of `prune`. It asks nobody: what
    /// works takes leases by `hold`. Ends with the store. Raises InvalidValue if the interval is less than a second.
    ///
    /// >>> with store.watch(90) as watcher:
    /// ...     watcher.prune_now()
    #[pyo3(signature = (
        max_age_days=90, *, max_entries=0, max_disk_bytes=0, low_water_bytes=None, max_active_days=0.0, interval=3600.0
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn watch(
        &self,
        py: Python<'_>,
        max_age_days: i64,
        max_entries: u64,
        max_disk_bytes: u64,
        low_water_bytes: Option<u64>,
        max_active_days: f64,
        interval: f64,
    ) -> PyResult<Watcher> {
        let policy = Limits { max_age_days, max_entries, max_disk_bytes, low_water_bytes, max_active_days }.policy()?;
        let Some(interval) = duration(interval, "interval")? else {
            return Err(PyValueError::new_err("interval is longer than a clock counts"));
        };
        let config = WatcherConfig { policy, interval };
        let watcher = self.run(py, move |store| cloakroom::Watcher::spawn(store, config, NoActivity))?;
        Ok(Watcher { inner: self.opening.keep(watcher) })
    }

    /// Lets this user's other programs look at the store while it is open, such as `cloakroom top` and `cloakroom list`: a view of
    /// it, HTTP on a Unix socket in its directory. Ends with the store.
    ///
    /// It may change entries, if it is not `read_only`. It prunes if it is given a `watcher`, or with `prune=True`: that asks nobody,
    /// so what works takes leases by `hold`. Raises Served if there is a view of the store already.
    ///
    /// >>> live = store.serve_live(read_only=True)
    /// >>> live.socket.is_socket()
    /// True
    #[pyo3(signature = (*, read_only=false, watcher=None, prune=false))]
    fn serve_live(
        &self,
        py: Python<'_>,
        read_only: bool,
        watcher: Option<PyRef<'_, Watcher>>,
        prune: bool,
    ) -> PyResult<Live> {
        let mut options = LiveOptions::new().read_only(read_only);
        if prune {
            options = options.guard(NoActivity);
        }
        if let Some(watcher) = watcher {
            options = watcher.seen_by(options)?;
        }
        let live = self.run(py, move |store| cloakroom::live::Live::serve(store, options))?;
        let socket = live.socket().to_owned();
        Ok(Live { inner: self.opening.keep(live), socket })
    }

    /// Removes the entries that a filter accepts (that of `entries`), if they are as many as `expected`; None expects any number.
    /// Nothing protects an entry from it.
    ///
    /// >>> store.remove_where(2, platform="telegram").found
    /// 1
    /// >>> store.remove_where(1, platform="telegram").removed
    /// 1
    #[pyo3(signature = (expected, **filter))]
    fn remove_where<'py>(
        &self,
        py: Python<'py>,
        expected: Option<u64>,
        filter: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let filter = self::filter(filter)?;
        let removal = self.run(py, move |store| store.remove_where(&filter, expected))?;
        report(py, "BulkRemoval", &removal)
    }

    /// Removes the entry whose key is `prefix` and all below it, whatever protects them: for a user who asks to be erased. Bytes stay
    /// in the files until an opening with `compact_at_open`, or the program `cloakroom compact`, has rewritten them.
    ///
    /// >>> store.forget("agent:main:telegram:dm:1234").removed
    /// 1
    fn forget<'py>(&self, py: Python<'py>, prefix: &str) -> PyResult<Bound<'py, PyAny>> {
        report(py, "ForgetReport", &self.run(py, |store| store.forget(prefix))?)
    }

    /// Gives each entry whose key begins with `old` the key that begins with `new` instead; or none of them, if other entries have
    /// some of these keys.
    ///
    /// >>> store.rename("agent:main:", "agent:other:").moved
    /// 1
    fn rename<'py>(&self, py: Python<'py>, old: &str, new: &str) -> PyResult<Bound<'py, PyAny>> {
        report(py, "RenameReport", &self.run(py, |store| store.rename(old, new))?)
    }

    // --- leases

    /// Holds an entry: it is not pruned until the lease is released or the process ends. None if there is no entry.
    ///
    /// >>> with store.hold(key):
    /// ...     store.prune(90).removed
    /// 0
    fn hold(&self, py: Python<'_>, key: &str) -> PyResult<Option<Lease>> {
        let key = self::key(py, key)?;
        Ok(self.run(py, move |store| store.hold(&key))?.map(Lease::new))
    }

    /// Holds an entry until a time, whatever becomes of the process. None if there is no entry.
    ///
    /// >>> from datetime import UTC, datetime, timedelta
    /// >>> _ = store.hold_until(key, "job", datetime.now(UTC) + timedelta(hours=1))
    /// >>> [lease.name for lease in store.leases()]
    /// ['job']
    fn hold_until(&self, py: Python<'_>, key: &str, name: &str, end: &Bound<'_, PyAny>) -> PyResult<Option<Receipt>> {
        let (key, end): (_, Timestamp) = (self::key(py, key)?, timestamp(end)?);
        self.receipt(py, move |store| store.hold_until(&key, name, end))
    }

    /// Ends the lease of that name. None if there is none.
    ///
    /// >>> store.release(key, "job") is None
    /// True
    fn release(&self, py: Python<'_>, key: &str, name: &str) -> PyResult<Option<Receipt>> {
        let key = self::key(py, key)?;
        self.receipt(py, move |store| store.release(&key, name))
    }

    /// The leases that have not ended, the oldest first.
    ///
    /// >>> store.leases()
    /// []
    fn leases<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let leases = self.run(py, |store| store.leases())?;
        leases.items.iter().map(|lease| report(py, "OpenLease", lease)).collect()
    }
}

/// Runs the callable of a change on a draft.
fn edit(
    py: Python<'_>,
    store: &cloakroom::SessionStore,
    draft: &mut cloakroom::change::Draft<'_>,
    change: &Py<PyAny>,
) -> PyResult<Edit> {
    let made = Draft {
        entry: draft.entry.clone(),
        is_new: draft.is_new(),
        extras: Default::default(),
        store: Some(store.clone()),
    };
    let made = Bound::new(py, made)?;
    let answer = change.bind(py).call1((&made,));
    let (extras, handle) = {
        let mut made = made.borrow_mut();
        draft.entry = made.entry.clone();
        (std::mem::take(&mut made.extras), made.store.take())
    };
    drop(handle);
    for (name, value) in extras {
        match value {
            Some(text) => json::taken(draft.set_extra_text(name, &text))?,
            None => draft.remove_extra(name),
        }
    }
    let answer = answer?;
    if answer.is_none() {
        return Ok(Edit::Write);
    }
    match answer.extract::<&str>() {
        Ok("keep") => Ok(Edit::Keep),
        Ok("remove") => Ok(Edit::Remove),
        _ => Err(PyTypeError::new_err("the change answers None to write the draft, \"keep\", or \"remove\"")),
    }
}

fn unknown(verb: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{verb} has no keyword argument {name:?}"))
}

fn options(path: PathBuf, given: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
    let mut options = Options::new(path);
    let mut policy = KeyPolicy::default();
    for (name, value) in given.into_iter().flatten() {
        match name.extract()? {
            "create" => options = options.create(value.extract()?),
            "trust_group" => options = options.trust_group(value.extract()?),
            "commit_interval" => {
                // What is longer than a clock counts is refused as too long, too.
                let interval = duration(value.extract()?, "commit_interval")?.unwrap_or(std::time::Duration::MAX);
                options = options.commit_interval(interval);
            }
            "max_pending" => options = options.max_pending(value.extract()?),
            "cache_bytes" => options = options.cache_bytes(value.extract()?),
            "cached_entries" => options = options.cached_entries(value.extract()?),
            "journal_bytes" => options = options.journal_bytes(value.extract()?),
            "compact_at_open" => options = options.compact_at_open(value.extract()?),
            "namespace" => policy.namespace = value.extract()?,
            "sessions_per_user" => policy.sessions_per_user = value.extract()?,
            "thread_sessions_per_user" => policy.thread_sessions_per_user = value.extract()?,
            name => return Err(unknown("open", name)),
        }
    }
    Ok(options.key_policy(policy))
}

fn filter(given: Option<&Bound<'_, PyDict>>) -> PyResult<Filter> {
    let mut filter = Filter::default();
    let time = |value: &Bound<'_, PyAny>| (!value.is_none()).then(|| timestamp(value)).transpose();
    for (name, value) in given.into_iter().flatten() {
        match name.extract()? {
            "platform" => filter.platform = value.extract()?,
            "chat_type" => filter.chat_type = value.extract()?,
            "user_id" => filter.user_id = value.extract()?,
            "prefix" => filter.key_prefix = value.extract()?,
            "active_since" => filter.active_since = time(&value)?,
            "idle_since" => filter.idle_since = time(&value)?,
            "suspended" => filter.suspended = value.extract()?,
            "pinned" => filter.pinned = value.extract()?,
            name => return Err(unknown("a filter", name)),
        }
    }
    Ok(filter)
}

fn usage(given: Option<&Bound<'_, PyDict>>) -> PyResult<Usage> {
    let mut usage = Usage::ZERO;
    for (name, value) in given.into_iter().flatten() {
        match name.extract()? {
            "input_tokens" => usage.input_tokens = value.extract()?,
            "output_tokens" => usage.output_tokens = value.extract()?,
            "cache_read_tokens" => usage.cache_read_tokens = value.extract()?,
            "cache_write_tokens" => usage.cache_write_tokens = value.extract()?,
            "total_tokens" => usage.total_tokens = value.extract()?,
            "last_prompt_tokens" => usage.last_prompt_tokens = value.extract()?,
            "estimated_cost_usd" => usage.estimated_cost_usd = value.extract()?,
            name => return Err(unknown("record_usage", name)),
        }
    }
    Ok(usage)
}
