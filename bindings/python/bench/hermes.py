"""What Hermes' session store costs, plain and on a store of Cloakroom's, in one run.

    python bench/hermes.py [--entries 1000 10000]

Needs `test --hermes` and an optimized build. All are the same class of the same package, in processes of their own, one after the
other; each figure is the median of the runs' medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

PROGRAM = """
import json, logging, os, statistics, sys, time
logging.disable(logging.CRITICAL)
from pathlib import Path
from gateway.config import GatewayConfig, Platform
from gateway.session import SessionEntry, SessionSource, SessionStore
from datetime import datetime
mode, count, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
directory = Path(os.environ["HERMES_HOME"]) / "sessions"
store = SessionStore(directory, GatewayConfig())
now = datetime.now()
store._ensure_loaded()
for number in range(count):
    key = f"agent:main:telegram:dm:c{number}"
    source = SessionSource(platform=Platform.TELEGRAM, chat_id=f"c{number}", chat_type="dm", user_id=f"u{number}", user_name="Somebody")
    store._entries[key] = SessionEntry(session_key=key, session_id=f"20260603_004119_{number:08x}", created_at=now, updated_at=now,
        origin=source, display_name="Somebody", platform=Platform.TELEGRAM, chat_type="dm")
store._save()
if mode != "plain":
    from cloakroom_store import hermes
    seam, _, durable = mode.partition(" ")
    getattr(hermes, seam)(store, durable=durable == "durable")
# In use, Hermes' own database has a row of each session already.
for number in range(rounds):
    store.update_session(f"agent:main:telegram:dm:c{number * 7 % count}")

def written():
    # `wchar` is what was handed to the kernel: one page is not counted twice, and what is not synced counts too.
    with open("/proc/self/io") as file:
        return int(next(line for line in file if line.startswith("wchar")).split()[1])

def median(work):
    took, bytes_ = [], []
    for number in range(rounds):
        before, began = written(), time.perf_counter()
        work(number)
        took.append((time.perf_counter() - began) * 1e3)
        bytes_.append((written() - before) / 1024)
    return statistics.median(took), statistics.median(bytes_)

def fresh(number):
    store.get_or_create_session(SessionSource(platform=Platform.TELEGRAM, chat_id=f"new{number}", chat_type="dm", user_id="u"))

found = SessionSource(platform=Platform.TELEGRAM, chat_id="found", chat_type="dm", user_id="u")
store.get_or_create_session(found)
figures = [
    median(lambda number: store.update_session(f"agent:main:telegram:dm:c{number * 7 % count}", last_prompt_tokens=number)),
    median(lambda number: store.suspend_session(f"agent:main:telegram:dm:c{number * 11 % count}")),
    median(lambda number: store.get_or_create_session(found)),
    median(fresh),
]
print(json.dumps(figures))
"""

MODES = [
    ("plain", "Hermes alone"),
    ("install durable", "`install`"),
    ("take_over durable", "`take_over`"),
    ("take_over quick", "`take_over`, `durable=False`"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--version", default="0.22.2.post1")
    given = parser.parse_args()
    print("| | entries | `update_session` | `suspend_session` | `get_or_create_session`, found | the same, new |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in given.entries:
        for mode, name in MODES:
            runs = [run(given.version, mode, count, given.rounds) for _ in range(given.runs)]
            cells = []
            for verb in zip(*runs, strict=True):
                took, written = (statistics.median(figures) for figures in zip(*verb, strict=True))
                cells.append(f"{took:,.2f} ms, {written:,.1f} KiB")
            print(f"| {name} | {count:,} | {' | '.join(cells)} |", flush=True)


def run(version: str, mode: str, count: int, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds and KiB of each verb."""
    with tempfile.TemporaryDirectory() as home:
        path = str(PACKAGE / "target" / "hermes" / version)
        environment = {**os.environ, "PYTHONPATH": path, "HERMES_HOME": home, "HOME": home}
        command = [sys.executable, "-c", PROGRAM, mode, str(count), str(rounds)]
        said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        figures: list[tuple[float, float]] = json.loads(said)
        return figures


if __name__ == "__main__":
    main()
