"""Rule 8: the stubs say what the code does, and each docstring has an example that runs."""

import asyncio
import doctest
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloakroom_store
from cloakroom_store import SessionStore, _core, hermes

from .conftest import KEY
from .stand_in import HermesStore

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGE = Path(__file__).parents[1]
README = PACKAGE / "README.md"


def classes() -> dict[str, Any]:
    return {name: each for name, each in vars(_core).items() if inspect.isclass(each) and name in cloakroom_store.__all__}


def methods(made: Any) -> dict[str, Any]:
    """What is called, and needs an example."""
    return {name: getattr(made, name) for name in vars(made) if not name.startswith("_") and callable(getattr(made, name))}


def documented() -> Iterator[tuple[str, str]]:
    yield "cloakroom_store", cloakroom_store.__doc__ or ""
    for package in (cloakroom_store, hermes):
        for name in package.__all__:
            yield name, inspect.getdoc(getattr(package, name)) or ""
    for name, made in classes().items():
        for method, called in methods(made).items():
            yield f"{name}.{method}", inspect.getdoc(called) or ""


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_of_a_docstring_runs(name: str, path: Path) -> None:
    with SessionStore.open(path.with_name("open.db"), create=True) as store:
        store.resolve({"platform": "telegram", "chat_type": "dm", "chat_id": "1234"})
        names = {name: getattr(package, name) for package in (cloakroom_store, hermes) for name in package.__all__}
        names |= {"store": store, "key": KEY, "path": path, "asyncio": asyncio}
        names["session_store"] = HermesStore(path.with_name("sessions"), KEY)
        test = doctest.DocTestParser().get_doctest(DOCUMENTED[name], names, name, None, 0)
        assert test.examples, f"{name} has no example"
        said: list[str] = []
        assert doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed == 0, "".join(said)


def test_every_property_is_described() -> None:
    for name, made in classes().items():
        for member, each in vars(made).items():
            if not member.startswith("_") and not callable(getattr(made, member)):
                assert each.__doc__, f"{name}.{member}"


def run(*command: str | Path) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=PACKAGE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def need(module: str) -> None:
    pytest.importorskip(module, reason=f"{module} is not installed")


def test_the_stubs_say_what_the_code_does() -> None:
    need("mypy")
    run(sys.executable, "-m", "mypy.stubtest", "cloakroom_store")


def test_the_package_and_its_tests_are_typed() -> None:
    need("mypy")
    run(sys.executable, "-m", "mypy", "--cache-dir", "target/mypy", "python", "tests", "bench", "examples")


def test_all_that_is_exported_has_a_known_type() -> None:
    need("pyright")
    # It looks for installed packages, and not where an editable one has its files.
    installed = Path(cloakroom_store.__file__).parent
    if "site-packages" not in installed.parts:
        environment = {"PYTHONPATH": str(installed.parent)}
    else:
        environment = {}
    command = [sys.executable, "-m", "pyright", "--verifytypes", "cloakroom_store", "--ignoreexternal"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
    )
    assert ended.returncode == 0 and "Type completeness score: 100%" in ended.stdout, ended.stdout + ended.stderr


def test_the_typed_marker_is_installed() -> None:
    assert (Path(cloakroom_store.__file__).parent / "py.typed").exists()

