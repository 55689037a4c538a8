"""The command line of the package: `python -m cloakroom_store migrate ~/.hermes/state.db --db sessions.db`."""

import argparse
import dataclasses
import json
import sys

from ._errors import Error
from ._migrate import Migration, migrate


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and answers the exit code: 0 done, 1 failed or something was left out, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m cloakroom_store")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("migrate", help="import a gateway's sessions.json or SQLite database")
    command.add_argument("file", help="sessions.json, Hermes' state.db, or the database of an agent of OpenClaw; only read")
    command.add_argument("--db", default="sessions.db", help="the directory of the store [default: %(default)s]")
    command.add_argument("--scope", help="of a database of Hermes, one directory of sessions [default: all]")
    command.add_argument("--format", dest="gateway", choices=("hermes", "openclaw"), help="whose file it is [default: told by it]")
    command.add_argument("--timezone", dest="zone", help="where naive times are at home [default: the machine's own zone]")
    command.add_argument("--on-conflict", choices=("newer", "keep", "replace"), default="newer", help="which entry stays")
    command.add_argument("--trust-times", action="store_true", help="import times in the future as they are")
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")
    command.add_argument("--quarantine", help="a new file for bad entries [default: FILE.quarantine.jsonl]")
    command.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    if options["quarantine"] is None and not options["dry_run"]:
        options["quarantine"] = options["file"] + ".quarantine.jsonl"
    try:
        done = migrate(**options)
    except (Error, OSError, ValueError) as error:
        print(f"error: could not import {options['file']}: {error}", file=sys.stderr)
        return 1
    show(done, as_json)
    if not done.complete:
        rest = "can be imported" if options["dry_run"] else "is in the store"
        print(f"error: {options['file']} is not whole; everything else {rest}", file=sys.stderr)
        return 1
    return 0


def show(done: Migration, as_json: bool) -> None:
    """Prints what was done; without `as_json` only what is not zero."""
    values = dataclasses.asdict(done)
    values = {**values.pop("report"), **values}
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if value or name in ("read", "imported"):
            print(f"{name.replace('_', ' '):20} {value}")


if __name__ == "__main__":
    sys.exit(main())
