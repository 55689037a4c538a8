"""What the tests share."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloakroom_store import SessionStore

#: How often the tests of exits run each program. The nightly run sets more.
EXITS = int(os.environ.get("CLOAKROOM_EXITS", "5"))
#: No test waits for this: a program that takes longer hangs.
HANGS = 60.0

PACKAGE = Path(__file__).parents[1]

KEY = "agent:main:telegram:dm:1234"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[SessionStore]:
    with SessionStore.open(path, create=True) as store:
        yield store


def command_line() -> Path:
    """The program `cloakroom`, where it is built."""
    built = Path(os.environ.get("CARGO_TARGET_DIR", PACKAGE.parents[1] / "target")) / "debug" / "cloakroom"
    if not built.exists():
        pytest.skip("the command line is not built: `cargo build`")
    return built


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(path: Path) -> Run:
    """Runs a program with a store open: `store`, `path` and `KEY` are there."""

    def run(program: str, *, code: int = 0, expect: str = "") -> subprocess.CompletedProcess[str]:
        prelude = f"""
            import asyncio, os, signal, sys, threading, time
            from cloakroom_store import *
            # It may have been started with SIGINT ignored, as what runs in the background of a script is.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            path, KEY = {str(path)!r}, {KEY!r}
        """
        text = textwrap.dedent(prelude) + textwrap.dedent(program)
        ended = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", text],
            capture_output=True,
            text=True,
            timeout=HANGS,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (code, expect), ended.stderr
        assert not any(word in ended.stderr for word in ("Fatal", "panicked", "Exception ignored")), ended.stderr
        return ended

    return run
