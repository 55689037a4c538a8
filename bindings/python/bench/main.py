"""What a gateway does at each message, with Cloakroom and with what it would use instead, in one run.

    python bench/main.py [--entries 10000] [--rounds 5]

Install a release build first (`maturin develop --release`, or `pip install .`). `diskcache` and `redis` are measured where they
are installed, and redis where a server answers on this machine's port 6379. Each figure is the median of the rounds. Read the
ratios, not the figures.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import shelve
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloakroom_store import Draft, SessionStore

#: How many touches are made durable together.
TOGETHER = 10_000


def entry(key: str, number: int) -> dict[str, Any]:
    """An entry as the gateway writes it: about 1 KiB of JSON."""
    now = datetime.now().isoformat()
    return {
        "session_key": key,
        "session_id": f"20260603_004119_{number:08x}",
        "created_at": now,
        "updated_at": now,
        "display_name": f"User {number}",
        "platform": "telegram",
        "chat_type": "dm",
        "input_tokens": 1000 + number,
        "output_tokens": 100,
        "total_tokens": 1100 + number,
        "last_prompt_tokens": 812,
        "estimated_cost_usd": 0.25,
        "origin": {"platform": "telegram", "chat_type": "dm", "chat_id": str(number), "user_name": f"User {number}"},
        "model_override": {"model": "large", "provider": "somebody"},
        "metadata": {"notes": "x" * 400, "labels": ["a", "b", "c"]},
    }


class Contender:
    """A store with what is measured. A touch is visible at once; `durable` returns when all of them are on disk."""

    name: str
    note: str

    def load(self, entries: dict[str, dict[str, Any]]) -> None:
        raise NotImplementedError

    def touch(self, key: str) -> None:
        raise NotImplementedError

    def text(self, key: str) -> str:
        raise NotImplementedError

    def read(self, key: str) -> Any:
        raise NotImplementedError

    def modify(self, key: str) -> None:
        raise NotImplementedError

    def durable(self, keys: Iterable[str]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Cloakroom(Contender):
    name, note = "Cloakroom", "each awaited by a task of its own"

    def __init__(self, directory: Path) -> None:
        self.store = SessionStore.open(directory / "sessions.db", create=True)

    def load(self, entries: dict[str, dict[str, Any]]) -> None:
        for key, value in entries.items():
            self.store.put_json(key, json.dumps(value))
        self.store.flush()

    def touch(self, key: str) -> None:
        self.store.touch(key)

    def text(self, key: str) -> str:
        text = self.store.get_json(key)
        assert text is not None
        return text

    def read(self, key: str) -> Any:
        return self.store.get_with_extras(key)

    def modify(self, key: str) -> None:
        def change(draft: Draft) -> None:
            draft.last_prompt_tokens += 1
            draft.set_extra("model_override", {"model": "small"})

        self.store.modify(key, change)

    def durable(self, keys: Iterable[str]) -> None:
        async def one(key: str) -> None:
            receipt = self.store.touch(key)
            assert receipt is not None
            await receipt

        async def main() -> None:
            await asyncio.gather(*(one(key) for key in keys))

        asyncio.run(main())

    def close(self) -> None:
        self.store.close()


class Sqlite(Contender):
    name, note = "sqlite3 (WAL)", "in one transaction"

    UPSERT = (
        "INSERT INTO sessions VALUES (?, ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET updated_at = excluded.updated_at, entry = excluded.entry"
    )

    def __init__(self, directory: Path) -> None:
        self.database = sqlite3.connect(directory / "sessions.sqlite", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute("CREATE TABLE sessions (key TEXT PRIMARY KEY, updated_at REAL, entry TEXT) WITHOUT ROWID")
        self.texts: dict[str, str] = {}

    def load(self, entries: dict[str, dict[str, Any]]) -> None:
        # A touch writes a text that is there already: making it is the gateway's own cost.
        self.texts = {key: json.dumps(value) for key, value in entries.items()}
        self.durable(entries)

    def touch(self, key: str) -> None:
        self.database.execute(self.UPSERT, (key, time.time(), self.texts[key]))

    def text(self, key: str) -> str:
        row = self.database.execute("SELECT entry FROM sessions WHERE key = ?", (key,)).fetchone()
        return str(row[0])

    def read(self, key: str) -> Any:
        return json.loads(self.text(key))

    def modify(self, key: str) -> None:
        value = self.read(key)
        value["last_prompt_tokens"] += 1
        value["model_override"] = {"model": "small"}
        self.database.execute(self.UPSERT, (key, time.time(), json.dumps(value)))

    def durable(self, keys: Iterable[str]) -> None:
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.execute("BEGIN")
        for key in keys:
            self.touch(key)
        self.database.execute("COMMIT")
        self.database.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        self.database.close()


class Mapped(Contender):
    """Something like a dict of dicts."""

    map: Any

    def sync(self) -> None:
        raise NotImplementedError

    def load(self, entries: dict[str, dict[str, Any]]) -> None:
        for key, value in entries.items():
            self.map[key] = value

    def touch(self, key: str) -> None:
        value = self.map[key]
        value["updated_at"] = datetime.now(UTC).isoformat()
        self.map[key] = value

    def text(self, key: str) -> str:
        return json.dumps(self.map[key])

    def read(self, key: str) -> Any:
        return self.map[key]

    def modify(self, key: str) -> None:
        value = self.map[key]
        value["last_prompt_tokens"] += 1
        value["model_override"] = {"model": "small"}
        self.map[key] = value

    def durable(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.touch(key)
        self.sync()

    def close(self) -> None:
        self.map.close()


class Shelf(Mapped):
    name, note = "shelve", "one sync"

    def __init__(self, directory: Path) -> None:
        self.map = shelve.open(str(directory / "sessions.shelf"))

    def sync(self) -> None:
        self.map.sync()


class Diskcache(Mapped):
    name, note = "diskcache", "in one transaction"

    def __init__(self, directory: Path) -> None:
        import diskcache  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self.map = diskcache.Cache(str(directory / "cache"))

    def durable(self, keys: Iterable[str]) -> None:
        with self.map.transact():
            for key in keys:
                self.touch(key)


class JsonFile(Mapped):
    name, note = "a JSON file", "one rewrite"

    def __init__(self, directory: Path) -> None:
        self.path = directory / "sessions.json"
        self.map = {}

    def sync(self) -> None:
        new = self.path.with_suffix(".new")
        with new.open("w") as file:
            json.dump(self.map, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)

    def touch(self, key: str) -> None:
        super().touch(key)
        self.sync()

    def modify(self, key: str) -> None:
        super().modify(key)
        self.sync()

    def durable(self, keys: Iterable[str]) -> None:
        for key in keys:
            super().touch(key)
        self.sync()

    def close(self) -> None:
        pass


class Redis(Contender):
    name, note = "redis on loopback", "in one pipeline; durable as its server is set"

    def __init__(self, directory: Path) -> None:
        import redis  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self.client = redis.Redis(host="127.0.0.1", port=6379, db=9, decode_responses=True)
        self.client.ping()
        self.client.flushdb()

    def load(self, entries: dict[str, dict[str, Any]]) -> None:
        for key, value in entries.items():
            self.client.hset(key, mapping={"updated_at": 0, "entry": json.dumps(value)})

    def touch(self, key: str) -> None:
        self.client.hset(key, "updated_at", time.time())

    def text(self, key: str) -> str:
        return str(self.client.hget(key, "entry"))

    def read(self, key: str) -> Any:
        return json.loads(self.text(key))

    def modify(self, key: str) -> None:
        value = self.read(key)
        value["last_prompt_tokens"] += 1
        value["model_override"] = {"model": "small"}
        self.client.hset(key, mapping={"updated_at": time.time(), "entry": json.dumps(value)})

    def durable(self, keys: Iterable[str]) -> None:
        with self.client.pipeline() as pipeline:
            for key in keys:
                pipeline.hset(key, "updated_at", time.time())
            pipeline.execute()

    def close(self) -> None:
        self.client.flushdb()
        self.client.close()


def microseconds(work: Callable[[str], object], keys: list[str], rounds: int, seconds: float) -> float:
    """The median of the rounds; each goes on until the time is over, and through all keys at most."""
    figures = []
    for _ in range(rounds):
        began, done = time.perf_counter(), 0
        for key in keys:
            work(key)
            done += 1
            if done % 16 == 0 and time.perf_counter() - began > seconds or done < 16 and time.perf_counter() - began > seconds:
                break
        figures.append((time.perf_counter() - began) / done * 1e6)
    return statistics.median(figures)


def measure(made: Callable[[Path], Contender], entries: int, rounds: int, seconds: float) -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        store = made(Path(directory))
        keys = [f"agent:main:telegram:dm:{number}" for number in range(entries)]
        store.load({key: entry(key, number) for number, key in enumerate(keys)})
        # Not the order in which they were put.
        keys.sort(key=lambda key: hash(key))
        figures = [microseconds(work, keys, rounds, seconds) for work in (store.touch, store.text, store.read, store.modify)]
        together = (keys * (TOGETHER // entries + 1))[:TOGETHER]
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            store.durable(together)
            took.append((time.perf_counter() - began) * 1e3)
        store.close()
        return [*figures, statistics.median(took)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="the most that a round may take")
    given = parser.parse_args()
    contenders: list[Any] = [Cloakroom, Sqlite, Shelf, JsonFile]
    contenders += [Diskcache] if importlib.util.find_spec("diskcache") else []
    contenders += [Redis] if importlib.util.find_spec("redis") else []
    print(f"{given.entries} entries, {given.rounds} rounds, Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}\n")
    print(f"| | touch, µs | get as JSON, µs | get as objects, µs | modify two fields, µs | {TOGETHER:,} touches durable, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for made in contenders:
        try:
            figures = measure(made, given.entries, given.rounds, given.seconds)
        except Exception as error:
            if made is not Redis:
                raise
            print(f"| {made.name} | no server: {type(error).__name__} |")
            continue
        cells = " | ".join(f"{figure:,.1f}" for figure in figures)
        print(f"| {made.name} | {cells} ({made.note}) |", flush=True)


if __name__ == "__main__":
    main()
