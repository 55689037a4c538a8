"""Rules 4 to 6: forks, pools, one store a path, and every way to close one."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloakroom_store import Closed, Entry, Forked, Locked, NotFound, OptionsDiffer, SessionStore

from .conftest import HANGS, KEY, Run

WAYS = {
    "returns": "pass",
    "exits": "sys.exit(3)",
    "exits at once": "os._exit(3)",
    "drops": "del store, receipt, lease, watcher; sys.exit(3)",
    "closes": "try: store.close()\n    except Forked: sys.exit(3)",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_forked_child_gets_typed_errors_and_the_parent_loses_nothing(run: Run, way: str) -> None:
    code = 0 if way == "returns" else 3
    program = """
store = SessionStore.open(path, create=True, commit_interval=3600.0)
store.resolve_as(KEY)
receipt = store.touch(KEY)
lease = store.hold(KEY)
watcher = store.watch(0)
child = os.fork()
if child == 0:
    for verb in [
        lambda: store.touch(KEY), lambda: store.get(KEY), lambda: receipt.wait(), lambda: receipt.durable,
        lambda: store.modify(KEY, lambda draft: None), lambda: store.prune(90), lambda: list(store.keys()),
        lambda: asyncio.run(awaited()), lambda: SessionStore.open(path),
    ]:
        async def awaited():
            await receipt
        try:
            verb()
        except Forked as error:
            assert "1234" not in str(error) and error.path is not None
        else:
            os._exit(9)
    assert not lease.held
    lease.release(); watcher.stop()
    WAY
    os._exit(CODE)
deadline = time.monotonic() + 30
while True:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        break
    if time.monotonic() > deadline:
        os.kill(child, signal.SIGKILL)
        sys.exit("the child hangs")
    time.sleep(0.01)
assert os.waitstatus_to_exitcode(status) == CODE, status
assert lease.held and receipt.wait() and store.touch(KEY).wait()
store.resolve_as("mine:2")
""".replace("WAY", WAYS[way]).replace("CODE", str(code))
    run(program)
    run("print(*SessionStore.open(path).keys())", expect=f"{KEY} mine:2\n")


def test_a_loop_of_the_parents_is_left_alone_by_a_child(run: Run) -> None:
    run(
        """
        store = SessionStore.open(path, create=True)
        store.resolve_as(KEY)

        async def main():
            for _ in range(5):
                await store.touch(KEY)
                receipt = store.touch(KEY)
                waits = asyncio.ensure_future(awaited(receipt))
                await asyncio.sleep(0)
                child = os.fork()
                if child == 0:
                    os._exit(0)
                await asyncio.wait_for(waits, 30)
                os.waitpid(child, 0)

        async def awaited(receipt):
            await receipt

        asyncio.run(main())
        """
    )


def test_a_prefork_server_opens_in_its_workers(run: Run) -> None:
    """As gunicorn does: the parent opens nothing, each worker a store of its own, and they leave by `sys.exit`."""
    run(
        """
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                store = SessionStore.open(path + str(number), create=True)
                store.resolve_as(KEY)
                sys.exit(0)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
        for number in range(3):
            with SessionStore.open(path + str(number)) as store:
                assert store.count() == 1 and store.open_report().clean
        """
    )


def in_a_child(path: str, entry: Entry) -> tuple[str, Entry]:
    """What a worker of a pool does: it has no store, and gets plain data."""
    try:
        SessionStore.open(path)
    except (Locked, Forked) as error:
        return type(error).__name__, entry.replace(suspended=True)
    return "opened", entry


@pytest.mark.parametrize(("method", "error"), [("spawn", "Locked"), ("fork", "Forked")])
def test_a_pool_of_processes_gets_entries_and_no_store(run: Run, method: str, error: str) -> None:
    here = str(Path(__file__).parent.parent)
    run(
        f"""
        sys.path.insert(0, {here!r})
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from tests.test_processes import in_a_child
        if __name__ == "__main__":
            store = SessionStore.open(path, create=True)
            entry = store.resolve_as(KEY).entry
            with ProcessPoolExecutor(2, multiprocessing.get_context({method!r})) as pool:
                for name, back in pool.map(in_a_child, [path] * 4, [entry] * 4):
                    assert (name, back.suspended, back.key) == ({error!r}, True, KEY), name
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                pool.starmap(in_a_child, [(path, entry)] * 4)
            assert store.touch(KEY).wait()
        """
    )


def test_one_store_a_path_and_process(path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        SessionStore.open(path)
    assert missing.value.path == str(path)
    with SessionStore.open_shared(path, create=True) as first:
        with SessionStore.open_shared(path) as second:
            second.resolve_as(KEY)
            assert KEY in first
        # The other handle goes on.
        with pytest.raises(Closed):
            second.touch(KEY)
        assert first.touch(KEY) is not None
        with pytest.raises(OptionsDiffer):
            SessionStore.open_shared(path, commit_interval=5.0)
        with pytest.raises(Locked) as locked:
            SessionStore.open(path)
        assert locked.value.this_process and locked.value.holder
    with SessionStore.open(path) as again:
        assert KEY in again


def test_another_process_is_told_who_has_it(path: Path, store: SessionStore) -> None:
    program = (
        "import sys, cloakroom_store as c\n"
        "try: c.SessionStore.open(sys.argv[1])\n"
        "except c.Locked as error: print(error.this_process, error.holder)"
    )
    out = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=HANGS, check=True)
    assert out.stdout.startswith("False ") and len(out.stdout.split()) > 1


def test_every_way_to_close(path: Path) -> None:
    async def asynchronous() -> None:
        async with SessionStore.open(path, create=True) as store:
            store.resolve_as(KEY)
        assert store.closed

    asyncio.run(asynchronous())
    with pytest.raises(ZeroDivisionError), SessionStore.open(path) as store:
        _ = 1 / 0
    assert store.closed and "closed" in repr(store)
    store.close()
    store.close()
    with pytest.raises(Closed) as closed:
        store.get(KEY)
    assert closed.value.path == str(path)
    dropped = SessionStore.open(path)
    dropped.touch(KEY)
    del dropped
    with SessionStore.open(path) as store:
        assert store.open_report().clean


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise SystemExit"])
def test_what_is_open_is_closed_at_exit(run: Run, path: Path, end: str) -> None:
    run(
        f"""
        store = SessionStore.open(path, create=True, commit_interval=3600.0)
        shared = SessionStore.open_shared(path + "2", create=True, commit_interval=3600.0)
        for each in (store, shared):
            each.resolve_as(KEY)
            each.watch(90)
        # No end of a module drops them: something in C holds them.
        import ctypes
        for each in (store, shared):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
        {end}
        """
    )
    for each in (path, Path(f"{path}2")):
        with SessionStore.open(each) as store:
            assert KEY in store and store.open_report().clean


def test_threads_that_use_a_store_which_is_being_closed(path: Path) -> None:
    store = SessionStore.open(path, create=True)
    store.resolve_as(KEY)
    seen: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                store.touch(KEY)
                store.get(KEY)
                list(store.keys())
        except Closed:
            pass
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join(HANGS)
    assert not seen and not any(thread.is_alive() for thread in threads)
    SessionStore.open(path).close()

