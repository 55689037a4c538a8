"""The view of a store that is open, and those who yield one."""

import http.client
import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloakroom_store import Closed, Entry, Locked, Served, SessionStore

from .conftest import EXITS, HANGS, KEY, Run, command_line


class Connection(http.client.HTTPConnection):
    """HTTP over a socket that is a file."""

    def __init__(self, place: Path) -> None:
        super().__init__("live", timeout=HANGS)
        self.place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(HANGS)
        self.sock.connect(str(self.place))


def ask(place: Path, method: str, url: str, body: Any = None) -> tuple[int, Any]:
    connection = Connection(place)
    try:
        connection.request(method, url, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def handle(place: Path, key: str = KEY) -> str:
    status, said = ask(place, "POST", "/v1/handle", {"key": key})
    assert status == 200, said
    return str(said["handle"])


def aged(store: SessionStore, *names: str) -> None:
    for name in names:
        store.put(Entry(f"mine:{name}", "run", created_at=datetime.now(UTC) - timedelta(days=100)))


def test_others_look_at_a_store_and_change_it(store: SessionStore) -> None:
    store.resolve_as(KEY)
    with store.serve_live() as live:
        assert not live.closed and live.socket.is_socket() and live.socket.stat().st_mode & 0o777 == 0o600
        assert ask(live.socket, "GET", "/v1/store")[1]["pid"] == os.getpid()
        (seen,) = ask(live.socket, "GET", "/v1/sessions")[1]["sessions"]
        assert seen["session_key"] == KEY
        status, _ = ask(live.socket, "POST", f"/v1/sessions/{handle(live.socket)}/suspend", {})
        found = store.get(KEY)
        assert status == 200 and found is not None and found.suspended
        with pytest.raises(Served) as served:
            store.serve_live()
        assert served.value.path == str(store.path)
    assert live.closed and not live.socket.exists() and "closed" in repr(live)
    live.close()
    with store.serve_live(read_only=True) as live:
        status, _ = ask(live.socket, "POST", f"/v1/sessions/{handle(live.socket)}/unsuspend", {})
        found = store.get(KEY)
        assert status == 403 and found is not None and found.suspended
        with pytest.raises(TypeError, match="belongs to the process"):
            pickle.dumps(live)


def pruned(place: Path) -> tuple[int, Any]:
    """A preview, which anybody may have, and then its plan."""
    status, said = ask(place, "POST", "/v1/prune", {"dry_run": True, "policy": {"max_age_days": 90}})
    assert status == 200, said
    return ask(place, "POST", "/v1/prune", {"plan": said["plan"]})


def test_it_prunes_only_if_it_may_and_leases_protect(store: SessionStore) -> None:
    aged(store, "1", "2")
    held = store.hold("mine:2")
    assert held is not None
    with store.serve_live() as live:
        # A guard of the caller's own could not be asked: nothing is pruned that it would keep.
        assert pruned(live.socket)[0] == 403 and store.count() == 2
    with store.serve_live(prune=True) as live:
        status, said = pruned(live.socket)
        assert status == 200 and said["report"]["removed"] == 1, said
        assert list(store.keys()) == ["mine:2"]
    watcher = store.watch(90)
    with store.serve_live(watcher=watcher) as live:
        aged(store, "3")
        status, said = pruned(live.socket)
        assert status == 200 and list(store.keys()) == ["mine:2"], said
        assert ask(live.socket, "GET", "/v1/watcher")[0] == 200
    watcher.stop()
    with pytest.raises(ValueError, match="stopped"):
        store.serve_live(watcher=watcher)


def test_it_goes_on_when_nobody_holds_it_and_ends_with_the_store(path: Path) -> None:
    with SessionStore.open(path, create=True) as store:
        place = store.serve_live().socket
        assert ask(place, "GET", "/v1/stats")[0] == 200
        live = store
    assert not place.exists()
    with pytest.raises(Closed):
        live.serve_live()
    # The same path serves it again.
    with SessionStore.open(path) as store:
        assert ask(store.serve_live().socket, "GET", "/v1/stats")[0] == 200


def test_a_watcher_goes_on_when_nobody_holds_it(store: SessionStore) -> None:
    store.watch(90, interval=1.0)
    aged(store, "1")
    deadline = time.monotonic() + HANGS / 4
    while store.count() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not store.count()


@pytest.mark.parametrize("way", ["returns", "exits", "closes"])
def test_it_is_not_there_in_a_forked_child(run: Run, way: str) -> None:
    end = {"returns": "pass", "exits": "sys.exit(0)", "closes": "live.close(); del live, store; sys.exit(0)"}[way]
    run(
        f"""
        import http.client, socket
        store = SessionStore.open(path, create=True)
        store.resolve_as(KEY)
        live = store.serve_live()

        def status():
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(30)
            made.connect(str(live.socket))
            made.sendall(b"GET /v1/stats HTTP/1.1\\r\\nHost: live\\r\\nConnection: close\\r\\n\\r\\n")
            return made.recv(12)

        assert status() == b"HTTP/1.1 200"
        child = os.fork()
        if child == 0:
            assert live.closed
            try:
                store.serve_live()
            except Forked:
                pass
            else:
                os._exit(9)
            {end}
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not live.closed and live.socket.exists() and status() == b"HTTP/1.1 200"
        """
    )


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "del store, live", "store.close()"])
def test_the_interpreter_exits_with_a_view_that_is_looked_at(run: Run, path: Path, end: str) -> None:
    for _ in range(EXITS):
        run(
            f"""
            import socket
            store = SessionStore.open(path, create=True, commit_interval=0.001)
            store.resolve_as(KEY)
            live = store.serve_live(watcher=store.watch(90))
            place = str(live.socket)

            def asks(url, again):
                try:
                    while True:
                        made = socket.socket(socket.AF_UNIX)
                        made.connect(place)
                        made.sendall(f"GET {{url}} HTTP/1.1\\r\\nHost: live\\r\\n\\r\\n".encode())
                        while made.recv(4096):
                            if again:
                                break
                except OSError:
                    pass

            # One that listens, one that connects and says nothing, and two that ask all the time.
            for url, again in [("/v1/events", False), ("/v1/sessions", True), ("/v1/verify", True)]:
                threading.Thread(target=asks, args=(url, again), daemon=True).start()
            silent = socket.socket(socket.AF_UNIX)
            silent.connect(place)
            for _ in range(20):
                store.touch(KEY)
            time.sleep(0.05)
            {end}
            """
        )
        assert not (path / "live.sock").exists()


def test_the_command_line_asks_the_program_that_has_the_store_open(store: SessionStore) -> None:
    built = command_line()
    store.resolve({"platform": "telegram", "chat_type": "dm", "chat_id": "1234", "user_name": "Ada"})

    def said(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(built), *arguments, "--db", str(store.path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS, stdin=subprocess.DEVNULL)

    refused = said("list")
    assert refused.returncode != 0 and "in use" in refused.stderr, refused
    with store.serve_live():
        for verb in ("top", "list", "stats"):
            seen = said(verb)
            assert seen.returncode == 0 and seen.stdout, seen
        assert said("suspend", KEY).returncode == 0
    found = store.get(KEY)
    assert found is not None and found.suspended


#: A program that looks at a store for a while, and closes it when another wants it.
YIELDS = """
    import socket, sys
    from pathlib import Path
    from cloakroom_store import SessionStore
    path = Path(sys.argv[1])
    store = SessionStore.open(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path / "live.sock"))
    listener.listen()
    print("there", flush=True)
    asked, _ = listener.accept()
    request = asked.recv(4096)
    assert request.startswith(b"POST /v1/handover "), request
    ANSWER
"""


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A path that fits into the address of a socket."""
    path = tmp_path_factory.mktemp("s") / "s.db"
    SessionStore.open(path, create=True).close()
    yield path


def yielded(opened: Callable[[], SessionStore]) -> SessionStore:
    """Opens a store that another program yields, however slow the machine is: in one try an opening waits for a second."""
    deadline = time.monotonic() + HANGS
    while True:
        try:
            return opened()
        except Locked:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("yields", [True, False])
def test_a_gateway_that_starts_has_whoever_looks_at_its_store_yield_it(short: Path, yields: bool) -> None:
    answer = 'store.close(); asked.sendall(b"HTTP/1.1 202 Accepted\\r\\n\\r\\n")'
    if not yields:
        answer = 'asked.sendall(b"HTTP/1.1 403 Forbidden\\r\\n\\r\\n"); sys.stdin.read()'
    program = textwrap.dedent(YIELDS).replace("ANSWER", answer)
    command = [sys.executable, "-c", program, str(short)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"there\n"
            if yields:
                with yielded(lambda: SessionStore.open(short)) as store:
                    store.resolve_as(KEY)
            else:
                with pytest.raises(Locked):
                    SessionStore.open(short)
            _, error = holder.communicate(b"", timeout=HANGS)
        finally:
            holder.kill()
    assert holder.returncode == 0, error


def test_the_page_of_the_command_line_yields_to_a_gateway(path: Path) -> None:
    built = command_line()
    SessionStore.open(path, create=True).close()
    with subprocess.Popen([str(built), "web", "--db", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as page:
        try:
            deadline = time.monotonic() + HANGS
            while not any((path / name).exists() for name in ("live.sock", "live.sock.path")):
                assert page.poll() is None and time.monotonic() < deadline, page.communicate()
                time.sleep(0.01)
            with yielded(lambda: SessionStore.open_shared(path)) as store:
                store.resolve_as(KEY)
        finally:
            page.terminate()
            page.communicate()
