"""In and out: files, backups, and the gateways' databases."""

import json
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloakroom_store import Exists, InvalidEntry, NotAStore, SessionStore, TimeZoneUnknown, migrate

from .conftest import KEY

FIXTURES = Path(__file__).parents[3] / "tests" / "fixtures" / "databases"
TABLE = """CREATE TABLE gateway_routing (scope TEXT NOT NULL DEFAULT '', session_key TEXT NOT NULL, entry_json TEXT NOT NULL,
    updated_at REAL NOT NULL, PRIMARY KEY (scope, session_key))"""


def entry(number: int | str, **fields: Any) -> dict[str, Any]:
    return {"session_id": f"run-{number}", "created_at": "2026-06-03T10:00:00", "updated_at": "2026-06-03T12:00:00", **fields}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "sessions.json"
    entries: dict[str, Any] = {f"mine:{number}": entry(number) for number in range(3)}
    file.write_text(json.dumps({**entries, "mine:bad": {"session_id": "a/b"}}))
    return file


def test_a_file_comes_in_and_goes_out(path: Path, file: Path) -> None:
    quarantine = path.with_name("bad.jsonl")
    report = SessionStore.create_from(path, file, zone="Europe/Berlin", quarantine=quarantine)
    assert (report.read, report.imported, report.quarantined, report.complete) == (4, 3, 1, False)
    assert report.gateway == "hermes" and report.zone == "Europe/Berlin" and report.problems[0].line == 1
    assert json.loads(quarantine.read_text())["key"] == "mine:bad" and quarantine.stat().st_mode & 0o777 == 0o600
    assert pickle.loads(pickle.dumps(report)) == report
    with pytest.raises(Exists):
        SessionStore.create_from(path, file)
    out = path.with_name("out.json")
    with SessionStore.open(path) as store:
        again = store.import_from(file, zone="Europe/Berlin", on_conflict="newer", dry_run=True)
        assert again.dry_run and again.unchanged == 3
        exported = store.export(out)
        assert (exported.entries, exported.zone) == (3, "Europe/Berlin")
        with pytest.raises(Exists):
            store.export(out, "openclaw")
        store.export(out, "jsonl", force=True)
        assert len(out.read_text().splitlines()) == 3
        with pytest.raises(TimeZoneUnknown):
            store.export(out, zone="Mars", force=True)
        with pytest.raises(ValueError):
            store.export(out, "csv")  # type: ignore[arg-type]
        with pytest.raises(FileNotFoundError):
            store.import_from(path / "nothing")
        with pytest.raises(OSError):
            store.import_from(path)
        with pytest.raises(TypeError, match="no keyword argument"):
            store.import_from(file, colour=1)  # type: ignore[call-arg]
        assert store.verify().sound


def test_a_file_of_another_kind_is_refused(path: Path) -> None:
    other = path.with_name("other.json")
    other.write_text("[]")
    with pytest.raises(InvalidEntry):
        SessionStore.create_from(path, other)
    assert not path.exists()


def test_a_backup_is_restored(store: SessionStore, path: Path) -> None:
    store.resolve_as(KEY)
    file = path.with_name("backup")
    report = store.backup(file)
    assert report.entries == 1 and report.bytes == file.stat().st_size
    with pytest.raises(Exists):
        store.backup(file)
    restored = path.with_name("restored")
    assert SessionStore.restore(file, restored).entries == 1
    with SessionStore.open(restored) as other:
        assert other.get(KEY) == store.get(KEY)
    with pytest.raises(Exists):
        SessionStore.restore(file, restored)
    file.write_bytes(b"no backup")
    with pytest.raises(NotAStore):
        SessionStore.restore(file, path.with_name("other"))


class Database:
    """A database as a gateway leaves it, and the store that it goes to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "gateway"
        self.directory.mkdir()
        self.file = self.directory / "state.db"
        self.db = directory / "moved"

    def run(self, sql: str) -> None:
        connection = sqlite3.connect(self.file)
        connection.executescript(sql)
        connection.close()

    def many(self, count: int) -> None:
        self.run(TABLE)
        connection = sqlite3.connect(self.file)
        rows = [("/s", f"mine:{number}", json.dumps(entry(number)), 1.0) for number in range(count)]
        with connection:
            connection.executemany("INSERT INTO gateway_routing VALUES (?, ?, ?, ?)", rows)
        connection.close()

    def state(self) -> dict[str, tuple[bytes, int]]:
        return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in self.directory.iterdir() if each.is_file()}

    def entries(self, gateway: Any = "hermes") -> dict[str, Any]:
        with SessionStore.open(self.db) as store:
            return {key: json.loads(store.get_json(key, gateway=gateway) or "") for key in store.keys()}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


@pytest.mark.skipif(not FIXTURES.exists(), reason="this is a source distribution")
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", ["hermes-0.19.0", "hermes-0.22.2", "openclaw-2026.9.6"])
def test_what_a_gateway_wrote_comes_in(database: Database, name: str, mode: str) -> None:
    gateway, table = ("hermes", "gateway_routing") if name.startswith("hermes") else ("openclaw", "session_nodes")
    database.run(f"PRAGMA journal_mode = {mode}; {(FIXTURES / f'{name}.sql').read_text()}")
    connection = sqlite3.connect(database.file)
    rows = {key: json.loads(text) for key, text in connection.execute(f"SELECT session_key, entry_json FROM {table}")}
    connection.close()
    before = database.state()
    done = migrate(database.file, database.db, zone="Europe/Berlin")
    assert database.state() == before, "nothing is written, and nothing left"
    assert done.complete and done.report.imported == len(rows) >= 4 and done.mirror_differs == 0
    assert database.entries(gateway) == rows
    assert migrate(database.file, database.db, zone="Europe/Berlin", on_conflict="keep").report.unchanged == len(rows)


def test_a_log_of_writes_and_a_lock_are_honoured(database: Database) -> None:
    database.many(2)
    writer = sqlite3.connect(database.file, isolation_level=None, timeout=0)
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("UPDATE gateway_routing SET session_key = 'later' WHERE session_key = 'mine:1'")
    assert migrate(database.file, database.db).report.imported == 2
    writer.execute("ROLLBACK")
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO gateway_routing VALUES ('/t', 'mine:2', ?, 1.0)", (json.dumps(entry(2)),))
    assert migrate(database.file, database.db).report.imported == 1
    assert set(database.entries()) == {"mine:0", "mine:1", "mine:2"}
    writer.execute("INSERT INTO gateway_routing VALUES ('/t', 'mine:3', ?, 1.0)", (json.dumps(entry(3)),))
    assert migrate(database.file, database.db, scope="/t").report.read == 2
    with pytest.raises(InvalidEntry, match="'/s', '/t'"):
        migrate(database.file, database.db, scope="/u")
    writer.close()


def test_what_is_bad_is_set_aside_by_its_row(database: Database) -> None:
    database.many(1)
    bad: list[Any] = ['{"session_id": "two"', "} , {", b"{\xff", 12, "[" * 5000]
    connection = sqlite3.connect(database.file)
    with connection:
        for number, text in enumerate(bad, 1):
            connection.execute("INSERT INTO gateway_routing VALUES ('/s', ?, ?, 1.0)", (f"mine:{number}", text))
        connection.execute("INSERT INTO gateway_routing VALUES ('/s', ?, '{}', 1.0)", (b'\xff"',))
        connection.execute("INSERT INTO gateway_routing VALUES ('/s', 'mine:9', ?, 1.0)", (json.dumps(entry(9), indent=2),))
    connection.close()
    quarantine = database.directory.with_name("bad.jsonl")
    done = migrate(database.file, database.db, quarantine=quarantine)
    assert (done.report.imported, done.report.quarantined, done.complete) == (2, 6, False)
    assert [problem.line for problem in done.report.problems] == [2, 3, 4, 5, 6, 7]
    assert len(quarantine.read_text().splitlines()) == 6
    assert set(database.entries()) == {"mine:0", "mine:9"}


def test_a_damaged_database_gives_what_is_before_the_damage(database: Database) -> None:
    database.many(400)
    whole = database.file.read_bytes()
    outcomes = set()
    for cut in (1, 2, 5, 9, 12):
        database.file.write_bytes(whole[: len(whole) * cut // 13])
        try:
            done = migrate(database.file, database.db.with_name(f"moved{cut}"))
        except InvalidEntry:
            outcomes.add("refused")
        else:
            assert done.damaged_row == done.report.read + 1 and not done.complete and 0 < done.report.imported < 400
            outcomes.add("partial")
    assert outcomes == {"refused", "partial"}
    database.file.write_bytes(b"SQLite format 3\0" + b"\xa5" * 5000)
    with pytest.raises(InvalidEntry):
        migrate(database.file, database.db)


def test_where_the_mirror_says_otherwise_the_table_counts(database: Database) -> None:
    database.many(3)
    mirror = database.directory / "sessions" / "sessions.json"
    mirror.parent.mkdir()
    mirror.write_text(json.dumps({"_README": "x", "mine:0": entry(0), "mine:1": entry("other"), "mine:gone": entry(1)}))
    done = migrate(database.file, database.db)
    assert (done.mirror_differs, done.mirror_only, done.report.imported) == (1, 1, 3)
    assert database.entries()["mine:1"]["session_id"] == "run-1"


def test_one_that_is_written_meanwhile_is_of_one_moment(database: Database) -> None:
    database.many(60)
    database.run("PRAGMA journal_mode = WAL")
    ends = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(database.file, isolation_level=None, timeout=60)) as writer:
            writer.execute("PRAGMA wal_autocheckpoint = 50")
            for generation in range(10**6):
                if ends.wait(0.005):
                    return
                writer.execute("UPDATE gateway_routing SET entry_json = ?", (json.dumps(entry(generation, n=1)),))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(4):
            database.db = database.db.with_name(f"moved{number}")
            migrate(database.file, database.db)
            found = database.entries().values()
            assert len(found) == 60 and len({each["session_id"] for each in found if "n" in each}) <= 1
            assert len({"n" in each for each in found}) == 1
    finally:
        ends.set()
        thread.join()


def test_the_command_line(database: Database) -> None:
    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TZ": "Europe/Berlin"}
        return subprocess.run(
            [sys.executable, "-m", "cloakroom_store", *arguments], capture_output=True, text=True, check=False, env=environment
        )

    database.many(3)
    ended = command("migrate", database.file, "--db", database.db, "--json")
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    report = json.loads(ended.stdout)
    assert (report["imported"], report["zone"], report["damaged_row"]) == (3, "Europe/Berlin", None)
    database.run("UPDATE gateway_routing SET entry_json = '{' WHERE session_key = 'mine:1'")
    ended = command("migrate", database.file, "--db", database.db)
    assert ended.returncode == 1 and "unchanged            2" in ended.stdout, ended.stdout
    assert (database.directory / "state.db.quarantine.jsonl").exists() and "everything else is in the store" in ended.stderr
    ended = command("migrate", database.file, "--db", database.db, "--dry-run")
    assert ended.returncode == 1 and "everything else can be imported" in ended.stderr, ended.stderr
    ended = command("migrate", database.directory / "missing", "--db", database.db)
    assert ended.returncode == 1 and ended.stderr.startswith("error: could not import")
    assert command().returncode == 2
    file = database.directory / "sessions.json"
    file.write_text(json.dumps({"mine:7": entry(7)}))
    assert command("migrate", file, "--db", database.db).returncode == 0
    assert command("migrate", file, "--db", database.db, "--scope", "/s").returncode == 1
    assert "mine:7" in database.entries()
