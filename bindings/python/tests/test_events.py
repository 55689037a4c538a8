"""Events, as an iterator and in event loops."""

import asyncio
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloakroom_store import Closed, Event, Events, SessionStore

from .conftest import EXITS, HANGS, KEY, Run


def test_events_say_what_became_of_whom(store: SessionStore) -> None:
    events = store.events(updates=True, touches=True)
    created = store.resolve_as(KEY, session_id="run-1")
    store.touch(KEY)
    store.set_extra(KEY, "a", 1)
    store.mark_resume_pending(KEY, "restart")
    store.repoint(KEY, "run-2")
    store.rename("agent:main:telegram:", "agent:other:telegram:")
    store.remove("agent:other:telegram:dm:1234")
    found = [next(events) for _ in range(7)]
    kinds = ["created", "touched", "updated", "resume_pending", "switched", "renamed", "removed"]
    assert [event.event for event in found] == kinds
    first, renamed = found[0], found[5]
    assert (first.session_key, first.new_session_id, first.revision) == (KEY, "run-1", created.entry.revision)
    assert found[3].reason == "restart" and found[4].old_session_id == "run-1" and found[6].revision is None
    assert renamed.renamed_from == KEY and renamed.session_key == "agent:other:telegram:dm:1234"
    assert first.at.tzinfo is not None and "1234" not in repr(renamed)
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(TypeError, match="belong to the process"):
        pickle.dumps(events)


def test_who_does_not_ask_for_updates_hears_of_none_and_a_full_channel_drops(store: SessionStore) -> None:
    events = store.events(2)
    for number in range(5):
        store.touch(store.resolve_as(f"mine:{number}").entry.key)
    assert events.dropped == 3
    store.close()
    assert [event.session_key for event in events] == ["mine:0", "mine:1"]
    with pytest.raises(Closed):
        store.events()


def test_an_iterator_waits_and_can_be_interrupted(run: Run) -> None:
    run(
        """
        store = SessionStore.open(path, create=True)
        events = store.events()
        threading.Timer(0.2, store.resolve_as, [KEY]).start()
        assert next(events).event == "created"
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        try:
            next(events)
        except KeyboardInterrupt:
            print("interrupted")
        """,
        expect="interrupted\n",
    )


async def collected(events: Events, count: int) -> list[Event]:
    found: list[Event] = []
    async for event in events:
        found.append(event)
        if len(found) == count:
            break
    return found


def changes(store: SessionStore, count: int) -> None:
    threading.Thread(target=lambda: [store.resolve_as(f"mine:{number}") for number in range(count)]).start()


def test_a_loop_gets_all_events_in_their_order_while_others_run(store: SessionStore) -> None:
    async def main() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        heart = asyncio.create_task(beat())
        listeners = store.events(), store.events()
        changes(store, 500)
        async with asyncio.timeout(HANGS):
            both = await asyncio.gather(*(collected(events, 500) for events in listeners))
        heart.cancel()
        for found in both:
            assert [event.session_key for event in found] == [f"mine:{number}" for number in range(500)]
        assert beats > 1

    asyncio.run(main())


def test_a_loop_learns_of_the_end_and_each_wait_is_one_tasks(path: Path) -> None:
    async def main() -> None:
        store = SessionStore.open(path, create=True)
        events = store.events()
        stream = events.__aiter__()
        waits = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await events.__aiter__().__anext__()
        with pytest.raises(RuntimeError, match="async for"):
            next(events)
        # A wait that is given up loses nothing.
        waits.cancel()
        await asyncio.wait([waits])
        store.resolve_as(KEY)
        assert (await stream.__anext__()).session_key == KEY
        await asyncio.to_thread(store.close)
        assert [event async for event in events] == []

    asyncio.run(main())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_wait_in_a_loop_has_no_thread_and_asks_nobody(store: SessionStore) -> None:
    def threads() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    async def main() -> None:
        before = threads()
        events = store.events()
        stream = events.__aiter__()
        waits = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        asked = 0

        class Counted:
            _watch, _unwatch = events._watch, events._unwatch

            def _next(self) -> tuple[Event | None, bool]:
                nonlocal asked
                asked += 1
                return events._next()

        stream.events = Counted()  # type: ignore[attr-defined]
        for _ in range(10):
            await asyncio.sleep(0)
        # It is asked when it rings, and then only: once for what came before it was listened to here.
        assert asked <= 1 and threads() <= before
        already = asked
        changes(store, 1)
        assert (await waits).session_key == "mine:0" and asked == already + 1

    asyncio.run(main())


def test_many_events_leave_the_loop_to_other_tasks(store: SessionStore) -> None:
    async def main() -> None:
        events = store.events()
        for number in range(1000):
            store.resolve_as(f"mine:{number}")
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        stream = aiter(events)
        for _ in range(1000):
            await anext(stream)
        task.cancel()
        assert turns >= 10

    asyncio.run(main())


@pytest.mark.parametrize("ends", ["sys.exit(0)", "raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_process_that_waits_for_events_ends(run: Run, ends: str) -> None:
    code = -signal.SIGTERM if "SIGTERM" in ends else -signal.SIGINT if "Keyboard" in ends else 0
    for _ in range(EXITS):
        run(
            f"""
            store = SessionStore.open(path, create=True)
            async def listens():
                async for event in store.events(touches=True):
                    pass
            async def main():
                task = asyncio.create_task(listens())
                threading.Thread(target=lambda: [store.touch(KEY) for _ in range(10**6)], daemon=True).start()
                await asyncio.sleep(0.02)
                {ends}
            def waits():
                for event in store.events():
                    pass
            threading.Thread(target=waits, daemon=True).start()
            store.resolve_as(KEY)
            asyncio.run(main())
            """,
            code=code,
        )


def test_a_forked_child_hears_nothing_and_does_not_hang(run: Run) -> None:
    run(
        """
        store = SessionStore.open(path, create=True)
        events = store.events()
        async def main():
            async for event in events:
                return event
        store.resolve_as(KEY)
        asyncio.run(main())
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            assert list(store.events()) == []
            assert asyncio.run(main()) is None
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.suspend(KEY)
        assert asyncio.run(main()).event == "suspended"
        """
    )


def test_the_log_goes_to_standard_error_if_it_is_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"""
from datetime import UTC, datetime
from cloakroom_store import Entry, SessionStore
with SessionStore.open({str(path)!r}, create=True) as store:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    store.put(Entry("mine:secret", "1", created_at=long_ago, updated_at=long_ago))
    assert store.prune(90, guard=lambda key: None).guard_failed == 1
"""

    def said() -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr

    monkeypatch.delenv("CLOAKROOM_LOG", raising=False)
    assert said() == ""
    monkeypatch.setenv("CLOAKROOM_LOG", "debug")
    text = said()
    assert "DEBUG" in text and "cloakroom" in text and "secret" not in text
    monkeypatch.setenv("CLOAKROOM_LOG", "cloakroom=off")
    assert said() == ""
    monkeypatch.setenv("CLOAKROOM_LOG", "cloakroom=loud")
    assert said().startswith("CLOAKROOM_LOG is ")
