"""The README's programs, the example and the bench run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import HANGS

PACKAGE = Path(__file__).parents[1]


def run(directory: Path, *command: str | Path) -> str:
    ended = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=HANGS, check=False, cwd=directory
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_readmes_program_is_ten_lines_and_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert len(program.splitlines()) <= 11
    assert run(tmp_path, "-c", program).startswith("created ")
    assert run(tmp_path, "-c", program).startswith("existing ")


def test_links_of_the_readme_work_on_the_index() -> None:
    """It is the page of the package there, where a relative link is dead."""
    links = re.findall(r"\]\(([^)]*)\)", (PACKAGE / "README.md").read_text())
    assert links and all(link.startswith("https://") for link in links), links


def test_the_gateway_runs(tmp_path: Path) -> None:
    said = run(tmp_path, PACKAGE / "examples" / "gateway.py")
    assert "0 sessions to be resumed" in said and "5 sessions, " in said and said.count("created") == 5


@pytest.mark.skipif(not (PACKAGE / "bench").exists(), reason="this is a source distribution")
def test_the_bench_runs(tmp_path: Path) -> None:
    said = run(tmp_path, PACKAGE / "bench" / "main.py", "--entries", "50", "--rounds", "1", "--seconds", "0.01")
    assert "Cloakroom" in said and "sqlite3" in said
