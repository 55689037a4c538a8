"""In and out: from Hermes' own table onto a store, and back."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from .._core import SessionStore
from ._entries import Entries
from ._routing import Database, Routing
from ._sessions import Sessions, sessions

_log = logging.getLogger(__name__)

#: Where the mirror goes that nobody keeps up to date any more: Hermes would read old sessions back from it.
_ASIDE = "sessions.json.before-cloakroom"


def _installed(original: type, routing: Routing) -> type:
    """The class of one session store, with the property by which it finds its routing table."""

    def routing_db(self: Any) -> Any:
        return Database(routing, original._routing_db.fget(self))  # type: ignore[attr-defined]

    made = type(original.__name__, (original,), {"_routing_db": property(routing_db), "_cloakroom": routing})
    made.__module__, made.__qualname__ = original.__module__, original.__qualname__
    return made


def install(
    session_store: Any, *, path: str | os.PathLike[str] | None = None, durable: bool = True, mirror: bool = False
) -> SessionStore:
    """Puts the routing table of Hermes' `SessionStore` on Cloakroom, and answers the store, which closes when the process exits.

    `path` is where the store lies: `cloakroom.db` in the directory of the sessions, if it is not given. A new one begins with
    what Hermes' own table holds. With `mirror` Hermes goes on writing `sessions.json`, which takes longer than all the rest;
    without, the file is set aside as `sessions.json.before-cloakroom`.
    """
    where = _where(session_store, path)
    store = _opened(session_store, where)
    routing = Routing(store, durable=durable)
    if hasattr(type(session_store), "_routing_db"):
        session_store.__class__ = _installed(type(session_store), routing)
    else:
        # Before 0.22 it is the one database there is.
        session_store._cloakroom = routing
        session_store._db = Database(routing, session_store._db)
    if not mirror:
        # Entries that only the mirror has come in now; then it is out of date.
        session_store._ensure_loaded()
        session_store._write_sessions_json = False
        session_store._save()
        _set_aside(session_store)
    return store


def take_over(
    session_store: Any, *, path: str | os.PathLike[str] | None = None, durable: bool = True
) -> SessionStore:
    """Puts the whole index of Hermes' `SessionStore` on Cloakroom, and answers the store, which closes when the process exits.

    The class becomes one with Cloakroom's verbs, and its dict of entries a mapping that reads what is asked for. `path` and a new
    store are as for `install`. With `durable` each call returns when what it changed survives a power cut; activity alone, which
    is `updated_at` and the length of the latest prompt, is durable within a tenth of a second.
    """
    where = _where(session_store, path)
    store = _opened(session_store, where)
    original = type(session_store)
    module = __import__(original.__module__, fromlist=["SessionEntry"])
    session_store._entries = Entries(store, module.SessionEntry)
    session_store._cloakroom, session_store._is_durable = store, durable
    session_store._loaded = session_store._routing_db_loaded = True
    session_store._routing_fallback_baseline = None
    session_store._write_sessions_json = False
    session_store.__class__ = sessions(original)
    with session_store._lock:
        # As Hermes does when it has loaded: what a crash left leading to a session that is over.
        session_store._prune_stale_sessions_locked()
    _set_aside(session_store)
    return store


def uninstall(session_store: Any) -> None:
    """The way back: writes the whole index into Hermes' own table, and closes and removes the store."""
    if isinstance(session_store, Sessions):
        store: SessionStore = session_store._cloakroom
        entries: Any = session_store._entries
        with session_store._lock:
            entries.settle()
            # Copies, which no mapping notes the changes of.
            there: Any = {key: entries.made.from_dict(entry.to_dict()) for key, entry in entries.items()}
            session_store.__class__ = type(session_store).__mro__[2]
            setattr(session_store, "_entries", there)
    else:
        routing: Routing | None = getattr(session_store, "_cloakroom", None)
        if routing is None:
            raise ValueError("it is not installed")
        store = routing.store
        session_store._ensure_loaded()
        if hasattr(type(session_store), "_routing_db"):
            session_store.__class__ = type(session_store).__mro__[1]
        else:
            session_store._db = session_store._db._database
    session_store._cloakroom = None
    session_store._write_sessions_json = bool(getattr(session_store.config, "write_sessions_json", True))
    session_store._save()
    where = store.path
    store.close()
    shutil.rmtree(where)


def _where(session_store: Any, path: str | os.PathLike[str] | None) -> Path:
    if getattr(session_store, "_cloakroom", None) is not None:
        raise ValueError("it is installed already")
    directory = Path(session_store.sessions_dir)
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "cloakroom.db" if path is None else Path(path)


def _opened(session_store: Any, path: Path) -> SessionStore:
    """The store. Where there is none, one with what Hermes has: whole, or not there if the process is killed meanwhile."""
    if not path.exists():
        session_store._ensure_loaded()
        moving = path.with_name(f"{path.name}.moving-in")
        shutil.rmtree(moving, ignore_errors=True)
        with SessionStore.open(moving, create=True) as store:
            for key, entry in session_store._entries.items():
                try:
                    store.put_json(key, json.dumps(entry.to_dict()))
                except (TypeError, ValueError) as error:
                    # Hermes' own table keeps it.
                    _log.warning("an entry of Hermes' is left out, since the store cannot take it: %s", error)
        moving.rename(path)
    else:
        # Its own table is out of date.
        session_store._entries.clear()
        session_store._loaded = False
    return SessionStore.open_shared(path)


def _set_aside(session_store: Any) -> None:
    file = Path(session_store.sessions_dir) / "sessions.json"
    if file.exists():
        file.replace(file.with_name(_ASIDE))
