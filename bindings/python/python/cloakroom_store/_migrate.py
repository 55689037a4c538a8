"""Moving in from a gateway's file or SQLite database, with nothing but the standard library."""

import dataclasses
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ._core import SessionStore
from ._errors import Exists, InvalidEntry, StorageError
from ._reports import ImportReport

_MAGIC = b"SQLite format 3\0"
_BESIDE = ("-journal", "-wal")
_TRIES = 50
_PAUSE = 0.04


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What a migration did.

    >>> _ = store.export(path.with_name("sessions.json"))
    >>> done = migrate(path.with_name("sessions.json"), path)
    >>> done.complete, done.mirror_only
    (True, 0)
    """

    report: ImportReport
    """Of a database, lines are rows."""
    damaged_row: int | None = None
    """Set if a database is damaged: rows from this one on were not read."""
    mirror_differs: int = 0
    """Of a database: entries that the `sessions.json` beside it has otherwise. The database's count."""
    mirror_only: int = 0
    """Of a database: entries that only that file has. They are not imported."""

    @property
    def complete(self) -> bool:
        """Whether everything came in."""
        return self.report.complete and self.damaged_row is None


def migrate(file: str | os.PathLike[str], db: str | os.PathLike[str], *, scope: str | None = None, **options: Any) -> Migration:
    """Imports a gateway's `sessions.json`, Hermes' `state.db`, or the database of an agent of OpenClaw, into the store at `db`, which is
    made if it is not there. The source is only read. Options are those of `SessionStore.import_from`; `scope` takes one scope of a database of Hermes.

    >>> import sqlite3
    >>> file = path.with_name("state.db")
    >>> with sqlite3.connect(file) as database:
    ...     _ = database.execute("CREATE TABLE gateway_routing (scope, session_key, entry_json, updated_at)")
    ...     row = ("", key, store.get_json(key), 0.0)
    ...     _ = database.execute("INSERT INTO gateway_routing VALUES (?, ?, ?, ?)", row)
    >>> database.close()
    >>> migrate(file, path).report.imported
    1
    """
    source = Path(file)
    with source.open("rb") as opened:
        is_database = opened.read(len(_MAGIC)) == _MAGIC
    if not is_database:
        if scope is not None:
            raise ValueError("only a database has scopes")
        return Migration(report=_into(db, source, options))
    options.setdefault("file_time", _written(source))
    with tempfile.TemporaryDirectory(prefix="cloakroom-") as directory, _reading(source, Path(directory)) as connection:
        rows = _Rows(connection, source, scope)
        text = Path(directory, "sessions.json")
        with text.open("wb") as out:
            rows.write(out)
        if rows.damaged_row == 1:
            raise InvalidEntry("not a session file: the database is damaged before its first row")
        report = _into(db, text, options)
        return Migration(
            report=report,
            damaged_row=rows.damaged_row,
            mirror_differs=rows.mirror_differs,
            mirror_only=0 if rows.damaged_row else len(rows.mirror),
        )


def _into(db: str | os.PathLike[str], file: Path, options: dict[str, Any]) -> ImportReport:
    first = {name: value for name, value in options.items() if name != "on_conflict"}
    try:
        return SessionStore.create_from(db, file, **first)
    except Exists as error:
        if error.kind != "store_exists":
            raise
    with SessionStore.open(db) as store:
        return store.import_from(file, **options)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _written(path: Path) -> datetime:
    """When it, or its log of writes, was written last."""
    times = [each.stat().st_mtime for each in (path, _beside(path, "-wal")) if each.exists()]
    return datetime.fromtimestamp(max(times), UTC)


def _is_cut(path: Path) -> bool:
    """Whether the file has fewer pages than its head says, if what that says is up to date."""
    with path.open("rb") as opened:
        head = opened.read(100)
    if len(head) < 100 or head[24:28] != head[92:96]:
        return False
    size = int.from_bytes(head[16:18], "big")
    return path.stat().st_size < (65536 if size == 1 else size) * int.from_bytes(head[28:32], "big")


def _has(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@contextmanager
def _reading(path: Path, directory: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads a state of one moment, and writes nothing: a database with a log or a journal, or one that is
    locked, is copied first.
    """
    with path.open("rb") as opened:
        head = opened.read(100)
    connection = None
    if head[18:19] != b"\x02" and not any(_has(_beside(path, suffix)) for suffix in _BESIDE):
        try:
            connection = _begun(f"{path.absolute().as_uri()}?mode=ro")
        except sqlite3.OperationalError:
            connection = None
    if connection is None:
        copy = directory / "copy.db"
        _copy(path, copy)
        connection = _begun(copy.absolute().as_uri())
    with closing(connection):
        yield connection


def _begun(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=0.5, isolation_level=None)
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA trusted_schema = OFF")
        # Otherwise nothing at all is read of a file that was cut off.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise InvalidEntry(f"not a session file: the database cannot be read: {error}") from error
    return connection


def _copy(path: Path, copy: Path) -> None:
    for _ in range(_TRIES):
        before = _state(path)
        for suffix in ("", *_BESIDE):
            try:
                shutil.copyfile(_beside(path, suffix), _beside(copy, suffix))
            except FileNotFoundError:
                _beside(copy, suffix).unlink(missing_ok=True)
        if _state(path) == before:
            return
        time.sleep(_PAUSE)
    raise StorageError(f"could not copy {path}: it was written all the while: stop the gateway first")


def _state(path: Path) -> list[tuple[int, ...] | None]:
    """What changes when the database or its journal is written. The log may grow: SQLite reads its whole transactions."""
    states: list[tuple[int, ...] | None] = []
    for each in (path, _beside(path, "-journal")):
        try:
            found = each.stat()
        except FileNotFoundError:
            states.append(None)
            continue
        if abs(time.time() - found.st_mtime) < _PAUSE:
            time.sleep(_PAUSE)
        states.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return states


class _Rows:
    """The rows of a gateway's table, as the file that the gateway would have written."""

    def __init__(self, connection: sqlite3.Connection, path: Path, scope: str | None) -> None:
        self.damaged_row: int | None = None
        self.mirror_differs = 0
        self.mirror: dict[tuple[bytes, str], int] = {}
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if b"gateway_routing" in tables:
            table, mark = "gateway_routing", ""
        elif b"session_nodes" in tables:
            table, mark = "session_nodes", "entry_valid"
        else:
            raise InvalidEntry("not a session file: it is an SQLite database, but has no table of sessions")
        columns = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        scoped = "scope" if b"scope" in columns else "''"
        valid = "entry_valid <> -1" if mark.encode() in columns else "1"
        try:
            scopes = [_bytes(each) for (each,) in connection.execute(f"SELECT DISTINCT {scoped} FROM {table} NOT INDEXED")]
        except sqlite3.DatabaseError:
            scopes = []
        if scope is not None:
            if scope.encode() not in scopes:
                there = ", ".join(repr(each.decode(errors="replace")) for each in scopes)
                raise InvalidEntry(f"not a session file: the database has no entry of the scope {scope!r}, but of these: {there}")
            scopes = [scope.encode()]
        self.is_cut = _is_cut(path)
        self.connection = connection
        self.select = (
            f"SELECT {scoped}, session_key, entry_json FROM {table} NOT INDEXED WHERE (:scope IS NULL OR {scoped} = :scope) AND {valid}",
            {"scope": scope},
        )
        if table == "gateway_routing":
            for each in scopes:
                self.read_mirror(path, each)

    def read_mirror(self, path: Path, scope: bytes) -> None:
        for place in (Path(os.fsdecode(scope)), path.with_name("sessions")):
            file = place / "sessions.json"
            if not place.is_absolute() or not file.is_file():
                continue
            try:
                found = json.loads(file.read_bytes())
            except (ValueError, OSError, RecursionError):
                return
            if isinstance(found, dict):
                entries = ((key, value) for key, value in found.items() if not key.startswith("_"))
                self.mirror.update({(scope, key): hash(json.dumps(value, sort_keys=True)) for key, value in entries})
            return

    def write(self, out: IO[bytes]) -> None:
        """Each row on a line of its own. A value that is no JSON becomes a text, which the import sets aside."""
        out.write(b"{")
        number = 0
        try:
            for number, (scope, key, entry) in enumerate(self.connection.execute(*self.select), 1):
                name, text = _bytes(key), _bytes(entry)
                out.write(b"" if number == 1 else b",\n")
                out.write(_quoted(name) + b": " + self.value(_bytes(scope), name, text))
        except sqlite3.DatabaseError:
            self.damaged_row = number + 1
        if self.damaged_row is None and self.is_cut:
            self.damaged_row = number + 1
        out.write(b"}")

    def value(self, scope: bytes, key: bytes, text: bytes) -> bytes:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return json.dumps(text.decode(errors="replace")).encode()
        there = self.mirror.pop((scope, key.decode(errors="replace")), None)
        if there is not None and there != hash(json.dumps(found, sort_keys=True)):
            self.mirror_differs += 1
        # No string of JSON has an end of a line in it.
        return text.replace(b"\n", b" ").replace(b"\r", b" ")


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"null" if value is None else str(value).encode()


def _quoted(key: bytes) -> bytes:
    try:
        return json.dumps(key.decode()).encode()
    except UnicodeDecodeError:
        # The import says of it that it is no UTF-8.
        return b'"' + bytes(byte for byte in key if byte >= 0x20 and byte not in b'"\\') + b'"'
