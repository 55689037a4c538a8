"""Hermes Agent's session index on Cloakroom.

One line, after the gateway has made its session store and before it serves:

    cloakroom_store.hermes.install(session_store)

Hermes keeps its index in a dict, and writes it through three functions of its database: load all, save one, replace all. These
are put on Cloakroom; nothing else of the gateway changes. So a message writes one small record, and a structural change writes
what differs, in place of the whole table and the whole of `sessions.json`.
"""

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._core import SessionStore
from ._errors import InvalidEntry, InvalidName, TooLarge

__all__ = ["Routing", "install", "uninstall"]

_log = logging.getLogger(__name__)

#: Where the mirror goes that nobody keeps up to date any more: Hermes would read old sessions back from it.
_ASIDE = "sessions.json.before-cloakroom"


class Routing:
    """The three functions of Hermes' routing table, on a store.

    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> with SessionStore.open(directory.name + "/db", create=True) as store:
    ...     routing = Routing(store)
    ...     entry = {"session_key": "a:b", "session_id": "1", "created_at": "2026-06-03T12:00:00", "updated_at": "2026-06-03T12:00:00"}
    ...     routing.save_gateway_routing_entry("a:b", json.dumps(entry))
    ...     list(routing.load_gateway_routing_entries())
    ['a:b']
    >>> directory.cleanup()
    """

    def __init__(self, store: SessionStore, *, durable: bool = True) -> None:
        """With `durable` each call returns when what it wrote survives a power cut, as a commit of SQLite does."""
        self.store = store
        self.durable = durable
        self._lock = threading.Lock()
        self._scope: str | None = None
        #: What was written last, so that a replacement writes only what differs.
        self._texts: dict[str, str] = {}

    def load_gateway_routing_entries(self, *, scope: str = "") -> dict[str, str]:
        """All entries as JSON, by key."""
        with self._lock:
            self._check(scope)
            found = ((key, self.store.get_json(key)) for key in self.store.keys())
            return {key: text for key, text in found if text is not None}

    def save_gateway_routing_entry(self, session_key: str, entry_json: str, *, scope: str = "") -> None:
        """Writes one entry."""
        if not session_key or not entry_json:
            return
        with self._lock:
            self._check(scope)
            receipt = self.store.put_json(session_key, entry_json).receipt
            self._texts[session_key] = entry_json
        if self.durable and receipt is not None:
            receipt.wait()

    def replace_gateway_routing_entries(self, entries: Mapping[str, str], *, scope: str = "") -> None:
        """Writes what differs, and removes what is not among the entries.

        Each entry changes in one step, and not all of them together. One that the store cannot take is left out, and the
        error raised when all others are written.
        """
        failed: Exception | None = None
        with self._lock:
            self._check(scope)
            there = set(self.store.keys())
            for key, text in entries.items():
                if not key or not text or (key in there and self._is_written(key, text)):
                    continue
                try:
                    self.store.put_json(key, text)
                    self._texts[key] = text
                except (InvalidEntry, InvalidName, TooLarge) as error:
                    failed = failed or error
            for key in there - entries.keys():
                self.store.remove(key)
                self._texts.pop(key, None)
        if self.durable:
            self.store.flush()
        if failed is not None:
            raise failed

    def _is_written(self, key: str, text: str) -> bool:
        last = self._texts.get(key)
        if last is None:
            # Nothing was written since the store was opened: is it what is there?
            found = self.store.get_json(key)
            if found is None or json.loads(found) != json.loads(text):
                return False
            self._texts[key] = text
            return True
        return last == text

    def _check(self, scope: str) -> None:
        """A store holds one index, that of one directory."""
        if self._scope is None:
            self._scope = scope
        if self._scope != scope:
            raise ValueError("the store holds the sessions of another directory: open one for each")


class _Database:
    """Hermes' database, with its routing table elsewhere."""

    def __init__(self, routing: Routing, database: Any) -> None:
        self._routing = routing
        self._database = database
        self.load_gateway_routing_entries = routing.load_gateway_routing_entries
        self.save_gateway_routing_entry = routing.save_gateway_routing_entry
        self.replace_gateway_routing_entries = routing.replace_gateway_routing_entries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def _installed(original: type, routing: Routing) -> type:
    """The class of one session store, with the property by which it finds its routing table."""

    def routing_db(self: Any) -> Any:
        return _Database(routing, original._routing_db.fget(self))  # type: ignore[attr-defined]

    made = type(original.__name__, (original,), {"_routing_db": property(routing_db), "_cloakroom": routing})
    made.__module__, made.__qualname__ = original.__module__, original.__qualname__
    return made


def install(
    session_store: Any, *, path: str | os.PathLike[str] | None = None, durable: bool = True, mirror: bool = False
) -> SessionStore:
    """Puts the index of Hermes' `SessionStore` on Cloakroom, and answers the store, which closes when the process exits.

    `path` is where the store lies: `cloakroom.db` in the directory of the sessions, if it is not given. A new one begins with
    what Hermes' own table holds. With `mirror` Hermes goes on writing `sessions.json`, which takes longer than all the rest;
    without, the file is set aside as `sessions.json.before-cloakroom`.
    """
    if getattr(session_store, "_cloakroom", None) is not None:
        raise ValueError("it is installed already")
    directory = Path(session_store.sessions_dir)
    directory.mkdir(parents=True, exist_ok=True)
    store = SessionStore.open_shared(directory / "cloakroom.db" if path is None else path, create=True)
    routing = Routing(store, durable=durable)
    if store.count() == 0:
        _move_in(session_store, routing)
    if hasattr(type(session_store), "_routing_db"):
        session_store.__class__ = _installed(type(session_store), routing)
    else:
        # Before 0.22 it is the one database there is.
        session_store._cloakroom = routing
        session_store._db = _Database(routing, session_store._db)
    if not mirror:
        # Entries that only the mirror has come in now; then it is out of date.
        session_store._ensure_loaded()
        session_store._write_sessions_json = False
        session_store._save()
        file = directory / "sessions.json"
        if file.exists():
            file.replace(directory / _ASIDE)
    return store


def uninstall(session_store: Any) -> None:
    """The way back: writes the whole index into Hermes' own table, and empties and closes the store."""
    routing: Routing | None = getattr(session_store, "_cloakroom", None)
    if routing is None:
        raise ValueError("it is not installed")
    session_store._ensure_loaded()
    if hasattr(type(session_store), "_routing_db"):
        session_store.__class__ = type(session_store).__mro__[1]
    else:
        session_store._db = session_store._db._database
        session_store._cloakroom = None
    session_store._write_sessions_json = bool(getattr(session_store.config, "write_sessions_json", True))
    session_store._save()
    routing.store.remove_where(None)
    routing.store.close()


def _move_in(session_store: Any, routing: Routing) -> None:
    """What Hermes' own table holds, into a new store."""
    database = session_store._routing_db if hasattr(type(session_store), "_routing_db") else session_store._db
    load = getattr(database, "load_gateway_routing_entries", None)
    if load is None:
        return
    scope = session_store._routing_scope()
    entries = load(scope=scope)
    try:
        routing.replace_gateway_routing_entries(entries, scope=scope)
    except (InvalidEntry, InvalidName, TooLarge) as error:
        # Hermes passes over what it cannot read, too. Its table keeps it.
        _log.warning("entries of Hermes' table are left out: %d of %d came in (%s)", routing.store.count(), len(entries), error)
