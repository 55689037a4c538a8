"""Hermes' own session store, from the package index, with its routing table on Cloakroom.

`test --hermes` installs what is needed; without, these are skipped. No line of Hermes is here: it is driven from outside.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from cloakroom_store import SessionStore
from cloakroom_store.hermes import Routing

from .conftest import KEY

PACKAGE = Path(__file__).parents[1]
VERSIONS = ["0.19.0", "0.22.2.post1"]
#: How many calls the differential test makes. The nightly run sets 5000.
CALLS = int(os.environ.get("CLOAKROOM_HERMES_CALLS", "300"))

PRELUDE = """
import hashlib, json, os, random, sys, threading, uuid
from datetime import datetime, timedelta
from pathlib import Path
import gateway.session as module
from gateway.config import GatewayConfig, Platform
from gateway.session import SessionSource, SessionStore
from cloakroom_store import hermes
import logging
logging.disable(logging.CRITICAL)

directory = Path(os.environ["HERMES_HOME"]) / "sessions"

def opened(installed=True, **options):
    store = SessionStore(directory, GatewayConfig(), options.pop("guard", None))
    if installed:
        store.cloakroom = hermes.install(store, **options)
    return store

def closed(store):
    if getattr(store, "cloakroom", None) is not None:
        store.cloakroom.close()
    if hasattr(store, "close_all_db_handles"):
        store.close_all_db_handles()
    else:
        store._db.close()

def source(number):
    kind, platform = ("dm", Platform.TELEGRAM) if number % 3 else ("group", Platform.DISCORD)
    return SessionSource(platform=platform, chat_id=f"c{number}", chat_type=kind, user_id=f"u{number}", user_name="Ada é")

def entries(store):
    store._ensure_loaded()
    return {key: entry.to_dict() for key, entry in store._entries.items()}

def on_disk(store):
    return {key: json.loads(store.cloakroom.get_json(key)) for key in store.cloakroom.keys()}
"""

RANDOM = """
installed = sys.argv[1] == "installed"
chance = random.Random(7)
uuid.uuid4 = lambda ids=random.Random(8): uuid.UUID(int=ids.getrandbits(128))
clock = [datetime(2026, 9, 1, 12, 0, 0)]

def now():
    clock[0] += timedelta(milliseconds=123)
    return clock[0]

module._now = now
# An entry that is found again in the database begins when its row was made.
import time
time.time = lambda: clock[0].timestamp()
for name in ("gateway.session_lifecycle",):
    if name in sys.modules:
        sys.modules[name]._now = now

store = opened(installed)
tokens = []

def key():
    return chance.choice(sorted(store._entries) or ["none"])

def marked(store):
    k = key()
    tokens.append((k, store.mark_turn_active(k)))

def cleared(store):
    if tokens:
        store.clear_turn_active(*tokens.pop())

CALLS = [
    lambda s: s.get_or_create_session(source(chance.randrange(20))).session_id,
    lambda s: s.get_or_create_session(source(chance.randrange(20)), force_new=True).session_id,
    lambda s: s.update_session(key(), last_prompt_tokens=chance.randrange(10**6)),
    lambda s: s.update_session(key()),
    lambda s: s.suspend_session(key()),
    lambda s: s.mark_resume_pending(key(), chance.choice(["restart_timeout", "shutdown"])),
    lambda s: s.clear_resume_pending(key()),
    lambda s: s.set_model_override(key(), chance.choice([None, {"model": "large", "provider": "x"}])),
    lambda s: s.get_model_override(key()),
    lambda s: s.reset_session(key()).session_id,
    lambda s: s.switch_session(key(), f"20260101_000000_{chance.randrange(5):08x}").session_id,
    lambda s: s.prune_old_entries(chance.choice([0, 1, 30])),
    lambda s: len(s.list_sessions()),
    lambda s: s.has_any_sessions(),
    lambda s: s.peek_session_id(key()),
]
if hasattr(SessionStore, "set_session_yolo"):
    CALLS += [
        lambda s: s.set_session_yolo(key(), chance.random() < 0.5),
        lambda s: s.set_session_metadata(key(), "note", {"n": chance.randrange(9), "text": "é \\U0001f600"}),
        lambda s: s.get_session_metadata(key(), "note"),
        lambda s: s.remove_by_session_id(s.peek_session_id(key())),
        marked, cleared,
        lambda s: s.recover_interrupted_turns(0),
        lambda s: s.discard_active_turn_markers(),
    ]

for number in range(int(sys.argv[2])):
    clock[0] += timedelta(days=chance.choice([0] * 12 + [3]))
    call = chance.randrange(len(CALLS))
    try:
        result = CALLS[call](store)
    except AttributeError as error:
        result = "None"
    if chance.random() < 0.02:
        # What is loaded is compared below. Hermes mends routes to sessions that have ended, so it may be other than before.
        closed(store)
        store = opened(installed)
    now_there = entries(store)
    if installed:
        there = on_disk(store)
        assert there == now_there, (number, call, [k for k in there.keys() | now_there.keys() if there.get(k) != now_there.get(k)])
    for entry in now_there.values():
        # By the machine's clock, which no two runs share.
        entry.pop("active_turn_started_at", None)
    text = json.dumps([call, str(result), now_there], sort_keys=True)
    print(number, call, len(now_there), hashlib.sha256(text.encode()).hexdigest())
closed(store)
"""


@pytest.fixture(params=VERSIONS)
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Runs a program against one version of Hermes, in a home of its own."""
    pytest.importorskip("ruamel.yaml", reason="what Hermes needs is not installed: `test --hermes`")
    installed = PACKAGE / "target" / "hermes" / request.param
    if not installed.exists():
        pytest.skip(f"Hermes {request.param} is not installed: `test --hermes`")

    def run(program: str, *arguments: str, home: str = "home", code: int = 0) -> str:
        directory = tmp_path / home
        directory.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(installed),
            "HERMES_HOME": str(directory),
            "HOME": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "TZ": "Europe/Berlin",
        }
        ended = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program), *arguments],
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
            env=environment,
        )
        assert ended.returncode == code, ended.stderr[-4000:]
        return ended.stdout

    return run


def test_a_random_sequence_ends_as_without_the_adapter(gateway: Any) -> None:
    """Every call answers the same, leaves the same entries, and what is on disk is what is in memory."""
    with_it = gateway(RANDOM, "installed", str(CALLS), home="with")
    without = gateway(RANDOM, "plain", str(CALLS), home="without")
    assert len(with_it.splitlines()) == CALLS
    for ours, theirs in zip(with_it.splitlines(), without.splitlines(), strict=True):
        assert ours == theirs


def test_it_moves_in_and_out_again(gateway: Any) -> None:
    gateway(
        """
        store = opened(installed=False)
        for number in range(30):
            store.get_or_create_session(source(number))
        before = entries(store)
        closed(store)

        store = opened()
        assert entries(store) == before == on_disk(store)
        assert not (directory / "sessions.json").exists() and (directory / "sessions.json.before-cloakroom").exists()
        store.suspend_session(sorted(before)[0])
        store.get_or_create_session(source(99))
        assert not (directory / "sessions.json").exists()
        changed = entries(store)
        try:
            hermes.install(store)
        except ValueError:
            pass
        else:
            raise AssertionError("installed twice")
        hermes.uninstall(store)
        assert type(store) is SessionStore and entries(store) == changed
        closed(store)

        store = opened(installed=False)
        assert entries(store) == changed
        store.get_or_create_session(source(100))
        newest = entries(store)
        closed(store)

        # In once more: what was changed meanwhile counts.
        store = opened()
        assert entries(store) == newest == on_disk(store)
        closed(store)
        """
    )


def test_the_mirror_goes_on_if_it_is_asked_for(gateway: Any) -> None:
    gateway(
        """
        store = opened(mirror=True, durable=False)
        store.get_or_create_session(source(1))
        mirror = json.loads((directory / "sessions.json").read_text())
        assert {key: mirror[key] for key in entries(store)} == entries(store)
        closed(store)
        """
    )


def test_a_gateway_that_is_killed_finds_its_sessions_and_turns_again(gateway: Any) -> None:
    """The process is killed the moment the calls have returned: each is durable by then."""
    said = gateway(
        """
        store = opened()
        for number in range(5):
            key = store.get_or_create_session(source(number)).session_key
        store.update_session(key, last_prompt_tokens=812)
        if hasattr(store, "mark_turn_active"):
            store.mark_turn_active(key)
        else:
            store.mark_resume_pending(key)
        print(json.dumps(entries(store)), flush=True)
        os.kill(os.getpid(), 9)
        """,
        code=-signal.SIGKILL,
    )
    found = gateway(
        """
        store = opened()
        print(json.dumps(entries(store)))
        if hasattr(store, "recover_interrupted_turns"):
            assert store.recover_interrupted_turns() == 1
        assert sum(entry["resume_pending"] for entry in entries(store).values()) == 1
        closed(store)
        """
    )
    assert json.loads(found) == json.loads(said) and len(json.loads(said)) == 5


def test_a_guard_that_knows_session_ids_protects_nothing_and_one_that_knows_keys_does(gateway: Any) -> None:
    """The fault that began this project, in the gateway's own terms: what its prune removes is gone from the store too."""
    gateway(
        """
        for known in ("id", "key"):
            running = set()
            store = opened(guard=lambda key: key in running)
            found = store.get_or_create_session(source(1))
            entry = store._entries[found.session_key]
            entry.updated_at = datetime.now() - timedelta(days=100)
            running.add(found.session_id if known == "id" else found.session_key)
            assert store.prune_old_entries(90) == (1 if known == "id" else 0)
            assert (found.session_key in store.cloakroom) == (known == "key")
            closed(store)
        """
    )


def entry(number: int, **fields: Any) -> str:
    moment = "2026-06-03T12:00:00"
    return json.dumps({"session_id": f"run-{number}", "created_at": moment, "updated_at": moment, **fields})


def test_a_replacement_writes_what_differs_and_removes_what_is_gone(store: SessionStore) -> None:
    routing = Routing(store)
    entries = {f"mine:{number}": entry(number) for number in range(10)}
    routing.replace_gateway_routing_entries(entries, scope="x")
    revisions = {each.key: each.revision for each in store.entries()}
    entries.pop("mine:3")
    entries["mine:4"] = entry(4, suspended=True)
    routing.replace_gateway_routing_entries(entries, scope="x")
    after = {each.key: each.revision for each in store.entries()}
    assert {key for key in revisions if after.get(key) != revisions[key]} == {"mine:3", "mine:4"}
    # Another that knows nothing of what was written finds that nothing differs.
    other = Routing(store)
    assert set(other.load_gateway_routing_entries(scope="x")) == set(entries)
    other.replace_gateway_routing_entries(entries, scope="x")
    assert {each.key: each.revision for each in store.entries()} == after
    # What somebody else removed meanwhile is put back.
    store.remove("mine:5")
    routing.replace_gateway_routing_entries(entries, scope="x")
    assert store.count() == 9
    with pytest.raises(ValueError, match="another directory"):
        routing.load_gateway_routing_entries(scope="y")


def test_an_entry_that_the_store_cannot_take_hinders_no_other(store: SessionStore) -> None:
    routing = Routing(store)
    with pytest.raises(ValueError):
        routing.replace_gateway_routing_entries({"mine:1": "{", "": entry(0), "mine:2": entry(2), "..": entry(3)})
    assert list(store.keys()) == ["mine:2"]
    routing.save_gateway_routing_entry("", entry(1))
    routing.save_gateway_routing_entry(KEY, entry(1))
    assert store.get(KEY) is not None
