"""What verbs raise: a class for whatever a caller can do something about."""

import errno as _errno
import os
from typing import Any


class Error(Exception):
    """Base of all errors of the store.

    Messages name the path or the redacted key they speak of, and hold no chat id, user id or name. What lies below is the
    exception's `__cause__`.

    >>> from cloakroom_store import Error, NotFound, SessionStore
    >>> try:
    ...     SessionStore.open("/nowhere/sessions.db")
    ... except NotFound as error:
    ...     isinstance(error, Error), error.kind
    (True, 'not_found')
    """

    kind: str = "error"
    """Which of the store's errors it is, in snake case."""
    path: str | None = None
    """The file or the directory it speaks of."""
    errno: int | None = None
    """The number that the operating system gave."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: self.__dict__[name] for name in ("kind", "path", "errno", *_EXTRA) if name in self.__dict__}
        return _remake, (type(self), str(self), state)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


_EXTRA = ("holder", "this_process")


class Cause(Exception):
    """What a layer below the store said.

    >>> try:
    ...     store.get("")
    ... except InvalidName as error:
    ...     type(error.__cause__).__name__
    'Cause'
    """


class InvalidName(Error, ValueError):
    """A text is no session key, session id, revision, or name of a lease.

    >>> store.get("")
    Traceback (most recent call last):
    cloakroom_store._errors.InvalidName: ...
    """


class InvalidValue(Error, ValueError):
    """A setting or a number cannot work.

    >>> store.watch(90, interval=0.02)
    Traceback (most recent call last):
    cloakroom_store._errors.InvalidValue: ...
    """


class InvalidEntry(Error, ValueError):
    """A text that was to become an entry, or a file that was to hold some, does not.

    >>> store.put_json(key, "{")
    Traceback (most recent call last):
    cloakroom_store._errors.InvalidEntry: ...
    """


class TooLarge(Error, ValueError):
    """An entry, or what it has of a thing, would be more than the store keeps.

    >>> store.set_extra(key, "note", "x" * 2**25)
    Traceback (most recent call last):
    cloakroom_store._errors.TooLarge: ...
    """


class NotFound(Error):
    """There is no store at the path. `create=True` makes one.

    >>> SessionStore.open(path)
    Traceback (most recent call last):
    cloakroom_store._errors.NotFound: ...
    """


class NotAStore(Error):
    """There is something at the path, but no store.

    >>> path.mkdir()
    >>> _ = (path / "letter").write_text("Dear Ada")
    >>> SessionStore.open(path)
    Traceback (most recent call last):
    cloakroom_store._errors.NotAStore: ...
    """


class Exists(Error):
    """There is something already where a file or a store was to be made.

    >>> _ = store.export(path)
    >>> store.export(path)
    Traceback (most recent call last):
    cloakroom_store._errors.Exists: ...
    """


class Locked(Error):
    """Another process has the store open, or another handle of this one.

    >>> try:
    ...     SessionStore.open(store.path)
    ... except Locked as error:
    ...     error.this_process
    True
    """

    holder: str | None = None
    """The process that has it, and its machine or container."""
    this_process: bool = False
    """It is this process: share the store by `open_shared`."""


class OptionsDiffer(Error, ValueError):
    """`open_shared` found the store open with another setting.

    >>> with SessionStore.open_shared(path, create=True):
    ...     SessionStore.open_shared(path, commit_interval=5.0)
    Traceback (most recent call last):
    cloakroom_store._errors.OptionsDiffer: ...
    """


class WrongFormat(Error):
    """A store or a backup was written by a version that this one does not read.

    >>> try:
    ...     store.backup(path).entries
    ... except WrongFormat as error:
    ...     print("another version wrote it:", error)
    1
    """


class Exposed(Error):
    """Others than this user own the directory, or can write to it.

    >>> SessionStore.open(path, create=True).close()
    >>> path.chmod(0o777)
    >>> SessionStore.open(path)
    Traceback (most recent call last):
    cloakroom_store._errors.Exposed: ...
    """


class PermissionDenied(Error):
    """The operating system denies access.

    >>> try:
    ...     SessionStore.open(path, create=True).close()
    ... except PermissionDenied as error:
    ...     print("let this user write to", error.path)
    """


class Unwritable(Error):
    """The store cannot be written, and opening one writes: open a copy.

    >>> try:
    ...     SessionStore.open(path, create=True).close()
    ... except Unwritable as error:
    ...     print("open a copy of", error.path)
    """


class DiskFull(Error):
    """The disk, or the quota on it, is full.

    >>> try:
    ...     store.backup(path).entries
    ... except DiskFull as error:
    ...     print("make room for", error.path)
    1
    """


class StorageError(Error):
    """Reading or writing failed for another reason.

    >>> try:
    ...     store.backup(path).entries
    ... except StorageError as error:
    ...     print("it may work again:", error.errno, error.__cause__)
    1
    """


class Damaged(Error):
    """The store, a record or a backup is damaged: restore a backup, import again, or run the program `cloakroom verify --repair`.

    >>> _ = store.backup(path)
    >>> _ = path.write_bytes(path.read_bytes()[:-9])
    >>> SessionStore.restore(path, path.with_name("again"))
    Traceback (most recent call last):
    cloakroom_store._errors.Damaged: ...
    """


class ReadOnly(Error):
    """A write or a sync failed, and the store has been read-only since. Open it again to write.

    >>> try:
    ...     store.close()
    ... except ReadOnly as error:
    ...     print("the last changes may be lost:", error.__cause__)
    """


class Closed(Error):
    """The store was closed.

    >>> store.close()
    >>> store.count()
    Traceback (most recent call last):
    cloakroom_store._errors.Closed: ...
    """


class Removed(Error):
    """The files of the open store were removed.

    >>> try:
    ...     store.touch(key).wait()
    ... except Removed as error:
    ...     print("put it back, or open another:", error.path)
    True
    """


class Forked(Error):
    """The process was forked after the store was opened: open stores after the fork.

    >>> try:
    ...     store.count()
    ... except Forked as error:
    ...     print("open it here, after the fork:", error.path)
    1
    """


class Served(Error):
    """The store has a live view already.

    >>> live = store.serve_live()
    >>> store.serve_live()
    Traceback (most recent call last):
    cloakroom_store._errors.Served: ...
    """


class Unsupported(Error):
    """What keeps this store cannot do that.

    >>> try:
    ...     store.count()
    ... except Unsupported as error:
    ...     print("this kind of a store cannot do that:", error)
    1
    """


class TimeZoneUnknown(Error, ValueError):
    """A time zone that is not known, or the machine's own cannot be told.

    >>> store.export(path, zone="Mars/Olympus")
    Traceback (most recent call last):
    cloakroom_store._errors.TimeZoneUnknown: ...
    """


class ClockBehind(Error):
    """Too many entries of a file that is imported were active in the future, so the clock is wrong.

    >>> file = path.with_name("sessions.json")
    >>> _ = file.write_text('{"mine:1": {"session_id": "1", "updated_at": "2999-01-01T00:00:00"}}')
    >>> SessionStore.create_from(path, file)
    Traceback (most recent call last):
    cloakroom_store._errors.ClockBehind: ...
    """


#: The class for each of the store's errors. `tests/test_errors.py` holds it against the crate's.
CLASSES: dict[str, type[Error]] = {
    "invalid_key": InvalidName,
    "invalid_id": InvalidName,
    "invalid_lease": InvalidName,
    "invalid_name": InvalidName,
    "overlapping_prefixes": InvalidValue,
    "invalid_cost": InvalidValue,
    "setting": InvalidValue,
    "invalid_entry": InvalidEntry,
    "not_a_session_file": InvalidEntry,
    "too_large": TooLarge,
    "too_many_leases": TooLarge,
    "snapshot_too_large": TooLarge,
    "not_found": NotFound,
    "not_a_store": NotAStore,
    "not_a_backup": NotAStore,
    "exists": Exists,
    "store_exists": Exists,
    "locked": Locked,
    "options_differ": OptionsDiffer,
    "newer_format": WrongFormat,
    "older_format": WrongFormat,
    "newer_backup": WrongFormat,
    "older_backup": WrongFormat,
    "exposed": Exposed,
    "permission_denied": PermissionDenied,
    "unwritable": Unwritable,
    "disk_full": DiskFull,
    "io": StorageError,
    "engine": StorageError,
    "random": StorageError,
    "panicked": StorageError,
    "elsewhere": StorageError,
    "damaged": Damaged,
    "damaged_record": Damaged,
    "damaged_backup": Damaged,
    "unsound": Damaged,
    "read_only": ReadOnly,
    "closed": Closed,
    "removed": Removed,
    "forked": Forked,
    "time_zone": TimeZoneUnknown,
    "local_time_zone": TimeZoneUnknown,
    "clock_behind": ClockBehind,
    "served": Served,
    "unsupported": Unsupported,
}

#: What the operating system would say, where it was not asked.
_ERRNO = {"not_found": _errno.ENOENT, "exists": _errno.EEXIST, "store_exists": _errno.EEXIST}


def _remake(made: type[Error], message: str, state: dict[str, Any]) -> Error:
    error = made(message)
    error.__dict__.update(state)
    return error


def make(kind: str, message: str, about: dict[str, Any]) -> Error:
    """The exception for an error of the store. Called by the native part."""
    error = CLASSES.get(kind, Error)(message)
    error.kind = kind
    about["errno"] = about["errno"] or _ERRNO.get(kind)
    error.__dict__.update(about)
    return error


def strerror(number: int) -> str:
    """The text of an error number. Called by the native part."""
    return os.strerror(number)
