"""The live mapping of Hermes' entries, with a class in place of Hermes' own."""

import copy
import dataclasses
import gc
import json
import pickle
import threading
import weakref
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloakroom_store import SessionStore
from cloakroom_store.hermes._entries import Entries

KEY = "agent:main:telegram:dm:1"


@dataclasses.dataclass
class Made:
    """What the mapping asks of an entry."""

    session_key: str
    session_id: str
    created_at: datetime
    updated_at: datetime
    suspended: bool = False
    total_tokens: int = 0
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    active_turn_token: str | None = None
    active_turn_started_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        times = ("created_at", "updated_at", "active_turn_started_at")
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.isoformat() if name in times and value else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Made":
        if fields["session_id"] == "unreadable":
            raise ValueError("unreadable")
        times = ("created_at", "updated_at", "active_turn_started_at")
        names = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {
            name: datetime.fromisoformat(value) if name in times and value else value
            for name, value in fields.items()
            if name in names
        }
        return cls(**values)


def made(key: str = KEY, **fields: Any) -> Made:
    moment = datetime(2026, 6, 3, 12)
    whole: dict[str, Any] = {"session_key": key, "session_id": f"id-{key}", "created_at": moment, "updated_at": moment}
    return Made(**{**whole, **fields})


@pytest.fixture
def entries(store: SessionStore) -> Iterator[Entries]:
    entries = Entries(store, Made)
    for number in range(5):
        entries[f"mine:{number}"] = made(f"mine:{number}")
    entries[KEY] = made()
    assert entries.settle() is not None
    yield entries
    entries.settle()
    # Whatever was done, another that begins with the store shows the same.
    other = Entries(store, Made)
    assert {key: entry.to_dict() for key, entry in entries.items() if entries.keeps(key)} == {
        key: entry.to_dict() for key, entry in other.items() if entries.keeps(key)
    }


def revisions(store: SessionStore) -> dict[str, str]:
    return {entry.key: entry.revision for entry in store.entries()}


def test_an_entry_is_one_object_while_anybody_holds_it(entries: Entries) -> None:
    entry = entries[KEY]
    assert entries[KEY] is entry and entries.get(KEY) is entry and dict(entries)[KEY] is entry
    assert isinstance(entry, Made) and type(entry).__name__ == "Made"
    held = weakref.ref(entry)
    del entry
    gc.collect()
    assert held() is None and entries[KEY].session_id == f"id-{KEY}"


def test_what_is_put_in_is_the_object_that_comes_out(entries: Entries) -> None:
    entry = made("mine:9")
    entries["mine:9"] = entry
    assert entries["mine:9"] is entry and "mine:9" not in entries.store
    entries.settle()
    entry.suspended = True
    assert entries["mine:9"] is entry and entries["mine:9"].suspended


def test_a_save_writes_what_was_changed_and_nothing_else(entries: Entries, store: SessionStore) -> None:
    before = revisions(store)
    assert entries.settle() is None
    held = list(entries.values())
    assert [entry.to_dict() for entry in held] and entries.settle() is None
    entries["mine:2"].total_tokens = 7
    entries["mine:3"].metadata["inside"] = [1]
    # Asked for, and not changed.
    assert entries["mine:4"].metadata == {}
    assert store.get("mine:2").total_tokens == 0  # type: ignore[union-attr]
    assert entries.settle() is not None
    assert {key for key, revision in revisions(store).items() if before[key] != revision} == {"mine:2", "mine:3"}
    assert json.loads(store.get_json("mine:3") or "")["metadata"] == {"inside": [1]}
    # And the other way: what was changed and changed back is not written.
    before = revisions(store)
    entries["mine:2"].total_tokens = 8
    entries["mine:2"].total_tokens = 7
    assert entries.settle() is None and revisions(store) == before


def test_a_change_is_kept_until_the_save_though_nobody_holds_the_object(entries: Entries) -> None:
    entries[KEY].suspended = True
    gc.collect()
    assert entries[KEY].suspended
    entries.settle()
    gc.collect()
    assert entries[KEY].suspended


def test_activity_alone_is_a_touch(entries: Entries, store: SessionStore) -> None:
    before = store.get(KEY)
    assert before is not None
    entries[KEY].updated_at = datetime.now()
    assert entries.settle() is None
    after = store.get(KEY)
    assert after is not None and after.revision == before.revision and after.updated_at > before.updated_at
    assert entries[KEY].updated_at == after.updated_at.astimezone().replace(tzinfo=None)
    # Another time than now is written as it is.
    long_ago = datetime.now() - timedelta(days=100)
    entries[KEY].updated_at = long_ago
    assert entries.settle() is not None
    assert Entries(store, Made)[KEY].updated_at == long_ago


def test_what_others_change_is_seen_and_both_changes_count(entries: Entries, store: SessionStore) -> None:
    entry = entries[KEY]
    store.suspend(KEY)
    assert entries[KEY].suspended and entry.suspended
    entry.total_tokens = 5
    store.unsuspend(KEY)
    store.touch(KEY)
    entries.settle()
    found = store.get(KEY)
    assert found is not None and (found.suspended, found.total_tokens) == (False, 5)
    assert (entry.suspended, entry.total_tokens) == (False, 5) and entries[KEY] is entry


def test_what_others_remove_is_gone_and_not_put_back(entries: Entries, store: SessionStore) -> None:
    entry = entries[KEY]
    store.remove(KEY)
    assert KEY not in entries and entries.get(KEY) is None and len(entries) == 5
    other = entries["mine:1"]
    other.suspended = True
    store.remove("mine:1")
    entries.settle()
    assert "mine:1" not in store and "mine:1" not in entries
    for gone in (entry, other):
        gone.total_tokens = 9
    assert entries.settle() is None and store.count() == 4


def test_an_object_whose_place_another_took_changes_nothing(entries: Entries, store: SessionStore) -> None:
    old = entries[KEY]
    entries[KEY] = made(session_id="run-2")
    old.suspended = True
    entries.settle()
    found = store.get(KEY)
    assert found is not None and (found.session_id, found.suspended) == ("run-2", False)
    popped = entries.pop(KEY)
    popped.suspended = True
    assert KEY in store and KEY not in entries
    entries.settle()
    assert KEY not in store


def test_an_object_can_move_to_another_key(entries: Entries, store: SessionStore) -> None:
    entry = entries.pop(KEY)
    entry.session_key = "mine:new"
    entries["mine:new"] = entry
    entries.settle()
    assert set(store.keys()) == {"mine:new", *(f"mine:{number}" for number in range(5))} and entries["mine:new"] is entry
    # And be at two, which then are two.
    entries["mine:other"] = entry
    assert entries["mine:new"] is not entries["mine:other"] is entry
    entry.total_tokens = 3
    entries.settle()
    assert [entries[key].total_tokens for key in ("mine:new", "mine:other")] == [0, 3]


def test_it_is_a_mapping_of_what_waits_and_of_what_is_there(entries: Entries) -> None:
    del entries["mine:0"]
    entries["mine:9"] = made("mine:9")
    keys = {KEY, "mine:9", *(f"mine:{number}" for number in range(1, 5))}
    assert set(entries) == set(entries.keys()) == keys == {key for key, _ in entries.items()} and len(entries) == 6
    assert {entry.session_key for entry in entries.values()} == keys
    assert entries.setdefault("mine:9", made()).session_key == "mine:9" and entries.get("mine:0") is None
    unlike: Any = 7
    assert unlike not in entries and "mine:0" not in entries and "mine:9" in entries
    for gone in ("mine:0", "no"):
        with pytest.raises(KeyError):
            del entries[gone]
        with pytest.raises(KeyError):
            entries[gone]
    assert entries.keys_of("id-mine:9") == ["mine:9"] and entries.keys_of("id-mine:0") == [] == entries.keys_of("a/b")
    entries["mine:8"] = made("mine:8", session_id="id-mine:1")
    assert entries.keys_of("id-mine:1") == ["mine:1", "mine:8"]
    entries.clear()
    assert len(entries) == 0 == len(list(entries.items()))


def test_what_the_store_cannot_take_is_in_memory_only(entries: Entries, store: SessionStore) -> None:
    entries[KEY].metadata["bad"] = object()
    entries[".."] = made("..")
    entries["mine:5"] = made("mine:5")
    stranger = object()
    entries["mine:4"] = stranger
    entries.settle()
    # It hinders no other, and what was there before it went bad stays.
    assert "mine:5" in store and KEY in store and ".." not in set(store.keys())
    assert entries[".."].session_key == ".." and entries["mine:4"] is stranger and "bad" in entries[KEY].metadata
    assert set(entries) >= {"..", "mine:4", KEY} and not any(entries.keeps(key) for key in ("..", "mine:4", KEY))
    assert Entries(store, Made)[KEY].metadata == {}
    entries[KEY] = made(total_tokens=4)
    del entries[".."]
    del entries["mine:4"]
    entries.settle()
    assert ".." not in entries and "mine:4" not in store and Entries(store, Made)[KEY].total_tokens == 4


def test_an_entry_that_cannot_be_read_is_passed_over(entries: Entries, store: SessionStore) -> None:
    store.put_json("mine:1", json.dumps(made("mine:1", session_id="unreadable").to_dict()))
    assert "mine:1" not in dict(entries.items()) and entries.get("mine:1") is None and len(dict(entries.items())) == 5
    store.remove("mine:1")


def test_copies_are_of_hermes_own_class_and_no_mapping_knows_them(entries: Entries) -> None:
    entry = entries[KEY]
    plain = made()
    assert entry == plain and plain == entry and entry != made(total_tokens=1) and entry != 7
    for other in (copy.copy(entry), copy.deepcopy(entry), pickle.loads(pickle.dumps(entry))):
        assert type(other) is Made and other == entry
        other.suspended = True
    replaced = dataclasses.replace(entry, suspended=True)
    replaced.total_tokens = 4
    assert dataclasses.asdict(entry) == dataclasses.asdict(plain)
    assert entries.settle() is None and not entries[KEY].suspended
    with pytest.raises(TypeError):
        hash(entry)


def test_turns_are_beside_the_entries_and_follow_them(entries: Entries, store: SessionStore) -> None:
    entry = entries[KEY]
    turn = store.begin_turn(KEY)
    assert turn is not None
    entries.turned(KEY)
    assert entry.active_turn_token == turn.token and entry.active_turn_started_at.tzinfo is not None
    entry.suspended = True
    entries.settle()
    assert "active_turn_token" not in json.loads(store.get_json(KEY) or "") and store.turn(KEY) is not None
    # Under another id the session's turn is kept with the entry: the store would not know it any more.
    entry.session_id = "run-2"
    entries.settle()
    assert store.turn(KEY) is None and entry.active_turn_token == turn.token
    assert json.loads(store.get_json(KEY) or "")["active_turn_token"] == turn.token
    entry.active_turn_token = entry.active_turn_started_at = None
    entries.settle()
    # And one that is cleared in place is ended.
    again = store.begin_turn(KEY)
    entries.turned(KEY)
    assert again is not None and entry.active_turn_token == again.token
    entry.active_turn_token = entry.active_turn_started_at = None
    assert entries.settle() is not None and store.turn(KEY) is None


def test_many_threads_lose_no_change(entries: Entries, store: SessionStore, path: Path) -> None:
    begin, failed = threading.Barrier(6), list[BaseException]()

    def work(number: int) -> None:
        try:
            begin.wait()
            for _ in range(100):
                entries[f"mine:{number}"].total_tokens += 1
                entries.settle()
        except BaseException as error:
            failed.append(error)

    def others() -> None:
        begin.wait()
        for _ in range(100):
            for number in range(5):
                store.record_usage(f"mine:{number}", output_tokens=1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)] + [threading.Thread(target=others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    for number in range(5):
        found = store.get(f"mine:{number}")
        assert found is not None and (found.total_tokens, found.output_tokens) == (100, 100)


def test_fields_are_written_before_the_entry_shows_them(entries: Entries, store: SessionStore) -> None:
    entry = entries[KEY]
    store.set_extra(KEY, "of another version", 1)
    turn = store.begin_turn(KEY)
    assert turn is not None
    entries.turned(KEY)
    then = dataclasses.replace(entry, metadata={"pin": 1})
    assert entries.put(KEY, then.to_dict()) is not None and entries.put(KEY, then.to_dict()) is None
    assert entry.metadata == {"pin": 1} and entries[KEY] is entry and store.extra(KEY, "of another version") == 1
    assert entry.active_turn_token == turn.token and "active_turn_token" not in json.loads(store.get_json(KEY) or "")
    # A turn that is kept with the entry stays, too.
    entry.session_id = "run-2"
    entries.put(KEY, dataclasses.replace(entry, metadata={"pin": 2}).to_dict())
    assert (entry.session_id, entry.metadata, entry.active_turn_token) == ("run-2", {"pin": 2}, turn.token)
    assert entries.put("none", then.to_dict()) is None and "none" not in store
