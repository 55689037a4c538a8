"""In and out: from Hermes' own table onto a store, and back."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._core import SessionStore
from .._errors import Error
from ._entries import Entries
from ._routing import Database, Routing
from ._sessions import Sessions, sessions

_log = logging.getLogger(__name__)

#: Where the mirror goes that nobody keeps up to date any more: Hermes would read old sessions back from it.
_ASIDE = "sessions.json.before-cloakroom"




class NotMoved(Error):
    """The index was moved neither in nor out, and all is as it was. The message says what to do.

    >>> from cloakroom_store import hermes
    >>> session_store._db = None
    >>> take_over(session_store)
    Traceback (most recent call last):
    cloakroom_store.hermes._moving.NotMoved: Hermes cannot open its state.db: ...
    """

    kind = "not_moved"


def _installed(original: type, routing: Routing) -> type:
    """The class of one session store, with the property by which it finds its routing table."""

    def routing_db(self: Any) -> Any:
        return Database(routing, original._routing_db.fget(self))  # type: ignore[attr-defined]

    made = type(original.__name__, (original,), {"_routing_db": property(routing_db), "_cloakroom": routing})
    made.__module__, made.__qualname__ = original.__module__, original.__qualname__
    return made


def install(
    session_store: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    durable: bool = True,
    mirror: bool = False,
    live: bool = False,
) -> SessionStore:
    """Puts the routing table of Hermes' `SessionStore` on Cloakroom, and answers the store, which closes when the process exits.

    `path` is where the store lies: `cloakroom.db` in the directory of the sessions, if it is not given. A new one begins with
    what Hermes' own table holds, and raises NotMoved where Hermes has not read that. With `mirror` Hermes goes on writing
    `sessions.json`, which takes longer than all the rest; without, the file is set aside as `sessions.json.before-cloakroom`. With
    `live` the store serves a view that changes nothing, since Hermes' dict would not see it: `cloakroom top` looks at it.

    >>> store = install(session_store)
    >>> session_store.suspend_session(key)
    True
    >>> store.get(key).suspended
    True
    """
    where = _where(session_store, path)
    with _opened(session_store, where) as store:
        routing = Routing(store, durable=durable)
        # What it has now is what Hermes loads. If the store cannot be read, nothing is installed.
        routing.load_gateway_routing_entries(scope=session_store._routing_scope())
        if live:
            store.serve_live(read_only=True)
        if hasattr(type(session_store), "_routing_db"):
            session_store.__class__ = _installed(type(session_store), routing)
        else:
            # Before 0.22 it is the one database there is.
            session_store._db = Database(routing, session_store._db)
    session_store._cloakroom = routing
    if not mirror:
        # Entries that only the mirror has come in now; then it is out of date.
        session_store._ensure_loaded()
        session_store._write_sessions_json = False
        session_store._save()
        _set_aside(session_store)
    return store


def take_over(
    session_store: Any, *, path: str | os.PathLike[str] | None = None, durable: bool = True, live: bool = False
) -> SessionStore:
    """Puts the whole index of Hermes' `SessionStore` on Cloakroom, and answers the store, which closes when the process exits.

    The class becomes one with Cloakroom's verbs, and its dict of entries a mapping that reads what is asked for. `path` and a new
    store are as for `install`. With `durable` each call returns when what it changed survives a power cut; activity alone, which
    is `updated_at` and the length of the latest prompt, is durable within a tenth of a second. With `live` the store serves a view,
    which can change entries and does not prune: Hermes' registry of processes cannot be asked there.

    >>> store = take_over(session_store)
    >>> store.suspend(key) is not None
    True
    >>> session_store._entries[key].suspended
    True
    """
    where = _where(session_store, path)
    with _opened(session_store, where) as store:
        original = type(session_store)
        module = __import__(original.__module__, fromlist=["SessionEntry"])
        if live:
            store.serve_live()
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


def uninstall(session_store: Any) -> Path:
    """The way back: writes the whole index into Hermes' own table, closes the store, and answers where it is from then on.

    Nothing is removed: the store gets another name, `cloakroom.db.uninstalled`. If Hermes' table does not hold the whole index
    afterwards, this raises NotMoved, and the store is in use as before. Not while the gateway serves.

    >>> store = take_over(session_store)
    >>> uninstall(session_store).name
    'cloakroom.db.uninstalled'
    >>> store.closed
    True
    """
    if isinstance(session_store, Sessions):
        store: SessionStore = session_store._cloakroom
        entries: Any = session_store._entries
        with session_store._lock:
            entries.settle()
            # Copies, which no mapping notes the changes of.
            there: Any = {key: entries.made.from_dict(entry.to_dict()) for key, entry in entries.items()}
            _put_back(session_store, _database(session_store), there)
            session_store.__class__ = type(session_store).__mro__[2]
            setattr(session_store, "_entries", there)
    else:
        routing: Routing | None = getattr(session_store, "_cloakroom", None)
        if routing is None:
            raise ValueError("it is not installed")
        store = routing.store
        session_store._ensure_loaded()
        with session_store._lock:
            _put_back(session_store, getattr(_database(session_store), "_database", None), session_store._entries)
            if hasattr(type(session_store), "_routing_db"):
                session_store.__class__ = type(session_store).__mro__[1]
            else:
                session_store._db = session_store._db._database
    session_store._cloakroom = None
    session_store._write_sessions_json = bool(getattr(session_store.config, "write_sessions_json", True))
    # The table has it. This writes the mirror, where there is to be one.
    session_store._save()
    where = store.path
    store.close()
    return where.rename(_free(where))


def _free(path: Path) -> Path:
    """A name for a store that is out of use."""
    for number in range(1, 1 << 16):
        free = path.with_name(f"{path.name}.uninstalled" if number == 1 else f"{path.name}.uninstalled-{number}")
        if not free.exists():
            return free
    raise FileExistsError(f"{path}.uninstalled and all like it")


def _where(session_store: Any, path: str | os.PathLike[str] | None) -> Path:
    if getattr(session_store, "_cloakroom", None) is not None:
        raise ValueError("it is installed already")
    directory = Path(session_store.sessions_dir)
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "cloakroom.db" if path is None else Path(path)


def _database(session_store: Any) -> Any:
    """The one that has the routing table, or None if it cannot be opened."""
    return session_store._routing_db if hasattr(type(session_store), "_routing_db") else session_store._db


def _rows(session_store: Any, database: Any) -> dict[str, str]:
    """What Hermes' own table has."""
    if database is None:
        raise NotMoved("Hermes cannot open its state.db: mend that, and start the gateway again")
    try:
        rows: dict[str, str] = database.load_gateway_routing_entries(scope=session_store._routing_scope())
    except Exception as error:
        raise NotMoved("Hermes' state.db cannot be read now: try again when nobody else keeps it busy") from error
    return rows


def _put_back(session_store: Any, database: Any, entries: dict[str, Any]) -> None:
    """Has Hermes' own table hold the index. Hermes only logs what fails there, and at its next start the old rows would count."""
    texts = {key: json.dumps(entry.to_dict()) for key, entry in entries.items() if key}
    if database is not None:
        try:
            database.replace_gateway_routing_entries(texts, scope=session_store._routing_scope())
        except Exception as error:
            raise NotMoved("Hermes' state.db cannot be written now: the store stays in use, try again later") from error
    found = _rows(session_store, database)
    if found.keys() != texts.keys() or any(json.loads(found[key]) != json.loads(text) for key, text in texts.items()):
        raise NotMoved("Hermes' state.db does not hold what was written: the store stays in use")


def _loaded(session_store: Any) -> None:
    """Has Hermes load its table, and looks whether it did: where that fails it logs it, and begins with an old mirror or nothing."""
    session_store._ensure_loaded()
    began_without = "Hermes began without its state.db, which it could not read: start the gateway again"
    if hasattr(session_store, "_routing_db_loaded"):
        if not session_store._routing_db_loaded:
            raise NotMoved(began_without)
        return
    # Before 0.22 it does not say so. What it passes over is not missed.
    module = __import__(type(session_store).__module__, fromlist=["SessionEntry"])
    for key, text in _rows(session_store, _database(session_store)).items():
        try:
            fields = module.SessionEntry.from_dict(json.loads(text)).to_dict()
        except (ValueError, KeyError, TypeError):
            continue
        entry = session_store._entries.get(key)
        if entry is None or entry.to_dict() != fields:
            raise NotMoved(began_without)


@contextmanager
def _opened(session_store: Any, path: Path) -> Iterator[SessionStore]:
    """The store. Where there is none, one with what Hermes has: whole, or not there if the process is killed meanwhile. It is
    closed if what comes next fails.
    """
    if not path.exists():
        _loaded(session_store)
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
        store = SessionStore.open_shared(path)
    else:
        store = SessionStore.open_shared(path)
        # Its own table is out of date.
        session_store._entries.clear()
        session_store._loaded = False
    try:
        yield store
    except BaseException:
        store.close()
        raise


def _set_aside(session_store: Any) -> None:
    file = Path(session_store.sessions_dir) / "sessions.json"
    if file.exists():
        file.replace(file.with_name(_ASIDE))
