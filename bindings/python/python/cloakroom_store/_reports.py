"""What verbs over many entries report. Plain, immutable, and printed without keys."""

import json
import pickle
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from ._errors import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRecord:
    """A record that cannot be decoded.

    >>> UnreadableRecord(tree="entries", key="mine:1", reason="it is cut off")
    UnreadableRecord(tree='entries', reason='it is cut off')
    """

    tree: str
    key: str = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """The records that were passed over: how many, and the first of them.

    >>> store.stats().unreadable
    Unreadable(count=0, first=())
    """

    count: int = 0
    first: tuple[UnreadableRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """An entry that was due and is protected.

    >>> from datetime import UTC, datetime, timedelta
    >>> _ = store.put(Entry("mine:1", "run-1", created_at=datetime.now(UTC) - timedelta(days=100), suspended=True))
    >>> [kept.reason for kept in store.prune(90).protected]
    ['suspended']
    """

    key: str = field(repr=False)
    reason: str
    """"suspended", "pinned", "held", "active", "guard_failed" or "unreadable"."""
    idle_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What a pass did, or in a dry run would have done. The counts of what was kept are of entries that were due.

    >>> import tempfile
    >>> from cloakroom_store import SessionStore
    >>> directory = tempfile.TemporaryDirectory()
    >>> with SessionStore.open(directory.name + "/db", create=True) as store:
    ...     store.prune(90, dry_run=True).removed
    0
    >>> directory.cleanup()
    """

    dry_run: bool
    cutoff: datetime | None
    """What was not used since then was due for its age."""
    removed: int
    removed_over_entries: int
    removed_over_bytes: int
    removed_active: int
    kept_suspended: int
    kept_pinned: int
    kept_held: int
    kept_active: int
    guard_failed: int
    """Kept because the guard raised an exception, or gave no answer."""
    kept_unreadable: int
    touched_meanwhile: int
    stale_rows_cleared: int
    oldest_protected_seconds: int | None
    protected: tuple[Protected, ...]
    """The oldest of the protected entries, at most ten."""
    unreadable: Unreadable
    entries_over_cap: int
    live_bytes: int | None
    bytes_over_cap: int
    stopped: bool
    clock_doubted: bool
    guard_errors: tuple[Exception, ...] = field(default=(), repr=False, compare=False)
    """The first exceptions of the guard, at most ten. They may hold keys."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["guard_errors"] = tuple(_portable(error) for error in self.guard_errors)
        return _remake, (values,)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherStatus:
    """What a watcher has done so far.

    >>> watcher = store.watch(90)
    >>> watcher.status().failures
    0
    """

    passes: int
    failures: int
    held: int
    """Passes that were held because they would have removed more than half of the entries."""
    last_run: datetime | None
    last_report: PruneReport | None
    last_failure: str | None
    next_run: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRemoval:
    """What `remove_where` did.

    >>> store.remove_where(1, platform="telegram")
    BulkRemoval(expected=None, found=None, removed=1, changed=0, unreadable=Unreadable(count=0, first=()))
    """

    expected: int | None = None
    """Set if nothing was removed, because the filter accepts another number of entries."""
    found: int | None = None
    removed: int = 0
    changed: int = 0
    """Entries that the filter accepted when they were counted, and no more when their turn came."""
    unreadable: Unreadable = Unreadable()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetReport:
    """What `forget` did.

    >>> store.forget(key).removed
    1
    """

    removed: int
    unreadable: Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameReport:
    """What `rename` did.

    >>> store.rename("agent:main:telegram:", "agent:work:telegram:").moved
    1
    """

    moved: int
    collisions: int
    """New keys that other entries have: if there are any, nothing was moved."""
    colliding: tuple[str, ...] = field(repr=False)
    unreadable: Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecovery:
    """What became of turns that a crash interrupted.

    >>> store.recover_interrupted_turns().resumable
    ()
    """

    resumable: tuple[str, ...] = field(repr=False)
    already_pending: tuple[str, ...] = field(repr=False)
    stale: int
    suspended: int
    orphaned: int
    unreadable: Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurn:
    """A turn that has begun and not ended.

    >>> turn = store.begin_turn(key)
    >>> [(found.token == turn.token, found.interrupted) for found in store.turns()]
    [(True, False)]
    """

    session_key: str = field(repr=False)
    token: str
    started_at: datetime
    interrupted: bool
    """It began before the store was opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLease:
    """A lease that has not ended.

    >>> with store.hold(key):
    ...     [(lease.session_key == key, lease.name) for lease in store.leases()]
    [(True, None)]
    """

    session_key: str = field(repr=False)
    name: str | None
    """None for one of this process."""
    since: datetime
    end: datetime | None
    age_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """How far a database is behind what had been synced.

    >>> print(store.open_report().shortfall)
    None
    """

    expected_commit: int
    found_commit: int
    expected_entries: int
    found_entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport:
    """What a compaction did. The bytes are those of all files of the store.

    >>> print(store.open_report().compacted)
    None
    """

    entries: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReport:
    """What opening found and did.

    >>> store.open_report().clean
    True
    """

    created: bool
    clean: bool
    repairs: tuple[str, ...]
    shortfall: Shortfall | None
    times_ahead: int
    clock_doubted: bool
    compacted: CompactReport | None
    """What `compact_at_open` did. None if it was not asked for, or not worth it; if it failed, `repairs` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Figures of a store.

    >>> store.stats().entries
    1
    """

    entries: int
    bytes_on_disk: int
    pending: int
    last_commit: int
    oldest: datetime | None
    newest: datetime | None
    unreadable: Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something became of a session. Sent when the change is made, before it is durable.

    >>> events = store.events()
    >>> _ = store.remove(key)
    >>> next(events).event
    'removed'
    """

    session_key: str = field(repr=False)
    event: str
    """"created", "reset", "switched", "replaced", "suspended", "unsuspended", "pinned", "unpinned", "resume_pending",
    "resume_cleared", "renamed", "removed" or "pruned"; if asked for "updated" and "touched"."""
    reason: str | None = None
    """Why it was reset ("suspended", "idle", "daily", None if somebody asked for it), pruned ("age", "entries", "bytes"), or is to be
    resumed."""
    at: datetime
    old_session_id: str | None
    """The session that was live before, where another has taken its place, or none."""
    new_session_id: str | None
    """The session that is live now, where it was not before."""
    revision: str | None
    """The entry's revision now; None if it is gone."""
    renamed_from: str | None = field(default=None, repr=False)
    """The key it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A bad entry of a file.

    >>> file = path.with_name("sessions.json")
    >>> _ = file.write_text('{"mine:1": {"session_id": "1", "updated_at": "2026-06-12T00:07:04"}, "mine:2": 7}')
    >>> [problem.line for problem in store.import_from(file, zone="UTC").problems]
    [1]
    """

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Where a file ceases to make sense.

    >>> file = path.with_name("sessions.json")
    >>> _ = file.write_text('{"mine:1": {"session_id": "1", "updated_at": "2026-06-12T00:07:04"}, "mine:2": {"sess')
    >>> store.import_from(file, zone="UTC").damage.line
    1
    """

    line: int
    column: int
    byte: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did. Every entry of the file is counted in `read`, and in one of `imported`, `updated`, `kept`, `duplicates` and
    `quarantined`.

    >>> _ = store.export(path)
    >>> store.import_from(path).complete
    True
    """

    gateway: str | None
    """Whose file it was; None if it had no entry to tell by."""
    zone: str
    """Where naive times were taken to be at home."""
    dry_run: bool
    bytes: int
    read: int
    imported: int
    """Entries that the store did not have."""
    updated: int
    """Entries that took the place of one in the store."""
    kept: int
    """Entries left out because the store's stays."""
    unchanged: int
    changed_here: int
    not_in_file: int
    duplicates: int
    quarantined: int
    """Bad entries."""
    notes: int
    notes_left_out: int
    kept_zone: str | None
    clamped: int
    skipped_hours: int
    repeated_hours: int
    without_time: int
    unreadable_times: int
    odd_values: int
    repeated_fields: int
    problems: tuple[Problem, ...]
    """The first bad entries, without their keys."""
    damage: Damage | None
    """Set if the file is damaged or cut off: what comes after this place was not read."""

    @property
    def complete(self) -> bool:
        """Whether all of the file was read: nothing was bad, and nothing damaged."""
        return self.quarantined == 0 and self.damage is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export wrote.

    >>> store.export(path).entries
    1
    """

    entries: int
    notes: int
    nulls: int
    """Fields that are null in "jsonl", because JSON cannot say what they hold."""
    zone: str
    """Where naive times are at home."""
    unreadable: Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """What a backup holds.

    >>> store.backup(path).entries
    1
    """

    entries: int
    turns: int
    leases: int
    notes: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check found.

    >>> store.verify().sound
    True
    """

    entries: int
    violations: tuple[str, ...]
    """What is wrong, with redacted keys."""
    stale_rows: int
    orphaned_chunks: int
    orphaned_turns: int
    orphaned_leases: int
    times_ahead: int
    count_checked: bool

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


_TIMES = {"at", "cutoff", "last_run", "next_run", "started_at", "since", "end", "oldest", "newest"}


def _portable(error: Exception) -> Exception:
    """The exception, or what it says, if no other process could read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return Cause(f"{type(error).__qualname__}: {error}")
    return error


def _remake(values: dict[str, Any]) -> PruneReport:
    return PruneReport(**values)


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TIMES:
        return datetime.fromisoformat(value)
    match name:
        case "protected":
            return tuple(_made(Protected, each) for each in value)
        case "unreadable" if isinstance(value, dict):
            return Unreadable(count=value["count"], first=tuple(_made(UnreadableRecord, each) for each in value["first"]))
        case "problems":
            return tuple(_made(Problem, each) for each in value)
        case "damage":
            return _made(Damage, value)
        case "shortfall":
            return _made(Shortfall, value)
        case "compacted":
            return _made(CompactReport, value)
        case "last_report":
            return _made(PruneReport, value)
    return tuple(value) if isinstance(value, list) else value


def _made(made: Any, values: dict[str, Any]) -> Any:
    known = {each.name for each in fields(made)}
    return made(**{name: _value(name, value) for name, value in values.items() if name in known})


def make(name: str, text: str, errors: list[Exception] | None = None) -> Any:
    """A report of the store. Called by the native part."""
    values = json.loads(text)
    if name == "BulkRemoval":
        values = next(iter(values.values()))
    if name == "Event":
        values["renamed_from"] = values.pop("from", None)
    if name == "ImportReport":
        values["gateway"] = values.pop("format")
    if errors:
        values["guard_errors"] = errors
    return _made(globals()[name], values)
