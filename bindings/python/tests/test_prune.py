"""Rule 3: the guard, and what else protects."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloakroom_store import Closed, Entry, SessionStore

from .conftest import KEY

OLD = datetime.now(UTC) - timedelta(days=100)


@pytest.fixture
def keys(store: SessionStore) -> list[str]:
    keys = [f"mine:{number}" for number in range(20)]
    for key in keys:
        store.put(Entry(key, "run-1", created_at=OLD))
    return keys


def test_only_what_is_idle_goes(store: SessionStore, keys: list[str]) -> None:
    store.touch(keys[0])
    store.put(Entry(keys[1], "run-1", created_at=OLD, updated_at=datetime.now(UTC)))
    store.suspend(keys[2])
    store.pin(keys[3])
    assert store.prune(0).removed == store.prune(-5).removed == store.prune(200).removed == 0
    report = store.prune(90, dry_run=True)
    assert (report.removed, report.dry_run, store.count()) == (16, True, 20)
    report = store.prune(90)
    assert (report.removed, report.kept_suspended, report.kept_pinned) == (16, 1, 1)
    assert report.cutoff is not None and report.cutoff.tzinfo is not None
    assert set(store.keys()) == set(keys[:4])


def test_the_guard_is_asked_by_key_on_the_callers_thread(store: SessionStore, keys: list[str]) -> None:
    asked: list[tuple[str, int]] = []

    def guard(key: str) -> bool:
        asked.append((key, threading.get_ident()))
        store.touch(KEY)  # the store may be used
        return key == keys[5]

    report = store.prune(90, guard=guard)
    assert (report.removed, report.kept_active) == (19, 1)
    assert sorted(key for key, _ in asked) == sorted(keys) and {thread for _, thread in asked} == {threading.get_ident()}
    assert list(store.keys()) == [keys[5]]


def test_a_guard_that_knows_ids_protects_nothing(store: SessionStore, keys: list[str]) -> None:
    assert store.prune(90, guard=lambda key: key == "run-1").removed == 20


def test_an_exception_keeps_the_entry_and_is_in_the_report(store: SessionStore, keys: list[str]) -> None:
    def guard(key: str) -> bool:
        if key in keys[:12]:
            raise RuntimeError(key)
        return False

    report = store.prune(90, guard=guard)
    assert (report.removed, report.guard_failed) == (8, 12)
    assert len(report.guard_errors) == 10 and all(isinstance(error, RuntimeError) for error in report.guard_errors)
    assert report.guard_errors[0].__traceback__ is not None
    assert not any(key in repr(report) for key in keys)
    assert {each.key for each in report.protected} <= set(keys[:12])
    assert {each.reason for each in report.protected} == {"guard_failed"}


async def _asynchronous(key: str) -> bool:
    return False


@pytest.mark.parametrize("answer", [None, 0, "", "yes", object()])
def test_what_is_no_answer_keeps_the_entry(store: SessionStore, keys: list[str], answer: Any) -> None:
    report = store.prune(90, guard=lambda key: answer)
    assert (report.removed, report.guard_failed) == (0, 20)
    report = store.prune(90, guard=_asynchronous)  # type: ignore[arg-type]
    assert (report.removed, report.guard_failed) == (0, 20) and "coroutine" in str(report.guard_errors[0])


def test_ctrl_c_in_the_guard_ends_the_prune_and_keeps_the_rest(store: SessionStore, keys: list[str]) -> None:
    asked = []

    def guard(key: str) -> bool:
        asked.append(key)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        store.prune(90, guard=guard)
    assert (len(asked), store.count()) == (5, 16)


def test_other_threads_run_while_the_guard_is_asked(store: SessionStore, keys: list[str]) -> None:
    other = threading.Event()

    def guard(key: str) -> bool:
        threading.Thread(target=other.set).start()
        return not other.wait(10)

    assert store.prune(90, guard=guard).removed == 20


def test_a_store_that_the_guard_closes_is_closed(store: SessionStore, keys: list[str]) -> None:
    def guard(key: str) -> bool:
        store.close()
        return False

    with pytest.raises(Closed):
        store.prune(90, guard=guard)
    assert store.closed


def test_a_lease_protects_until_it_is_released(store: SessionStore, keys: list[str]) -> None:
    lease = store.hold(keys[0])
    assert lease is not None and lease.held and store.hold("none:1") is None
    with lease:
        assert store.prune(90).kept_held == 1
        assert [each.session_key for each in store.leases()] == [keys[0]]
    assert not lease.held
    lease.release()
    assert store.prune(90).removed == 1
    assert store.resolve_as(KEY).outcome == "created"
    end = datetime.now(UTC) + timedelta(hours=1)
    assert store.hold_until(KEY, "job", end) is not None and store.hold_until("none:1", "job", end) is None
    (named,) = store.leases()
    assert named.name == "job" and named.end is not None and abs(named.end - end) < timedelta(milliseconds=1)
    assert store.release(KEY, "job") is not None and store.release(KEY, "job") is None
    with pytest.raises(ValueError, match="naive"):
        store.hold_until(KEY, "job", datetime(2030, 1, 1))


def test_a_lease_that_is_dropped_ends(store: SessionStore, keys: list[str]) -> None:
    lease = store.hold(keys[0])
    assert lease is not None
    del lease
    assert store.leases() == []


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_the_watcher_prunes_and_leases_protect(store: SessionStore, keys: list[str]) -> None:
    for number in range(30):
        store.resolve_as(f"young:{number}")  # or it would be held: more than half
    lease = store.hold(keys[0])
    with store.watch(90, interval=3600.0) as watcher:
        until(lambda: (status := watcher.status()) is not None and status.passes >= 1)
        status = watcher.status()
        assert status is not None and status.last_report is not None
        assert (status.last_report.removed, status.last_report.kept_held) == (19, 1)
        assert lease is not None
        lease.release()
        watcher.prune_now()
        until(lambda: keys[0] not in store)
    assert watcher.status() is None
    watcher.stop()
    watcher.prune_now()
    for wrong in (-1.0, 0.0, float("inf")):
        with pytest.raises(ValueError):
            store.watch(90, interval=wrong)


def test_a_store_closes_with_its_watchers(store: SessionStore) -> None:
    watcher = store.watch(90)
    path = store.path
    store.close()
    assert watcher.status() is None
    SessionStore.open(path).close()


def test_prune_in_a_thread_beside_a_loop(store: SessionStore, keys: list[str]) -> None:
    async def main() -> int:
        report = await asyncio.to_thread(store.prune, 90)
        return report.removed

    assert asyncio.run(main()) == 20
