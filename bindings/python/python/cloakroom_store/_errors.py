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
    """What a layer below the store said."""


class InvalidName(Error, ValueError):
    """A text is no session key, session id, revision, or name of a lease."""


class InvalidValue(Error, ValueError):
    """A setting or a number cannot work."""


class InvalidEntry(Error, ValueError):
    """A text that was to become an entry, or a file that was to hold some, does not."""


class TooLarge(Error, ValueError):
    """An entry, or what it has of a thing, would be more than the store keeps."""


class NotFound(Error):
    """There is no store at the path. `create=True` makes one."""


class NotAStore(Error):
    """There is something at the path, but no store."""


class Exists(Error):
    """There is something already where a file or a store was to be made."""


class Locked(Error):
    """Another process has the store open, or another handle of this one."""

    holder: str | None = None
    """The process that has it, and its machine or container."""
    this_process: bool = False
    """It is this process: share the store by `open_shared`."""


class OptionsDiffer(Error, ValueError):
    """`open_shared` found the store open with another setting."""


class WrongFormat(Error):
    """A store or a backup was written by a version that this one does not read."""


class Exposed(Error):
    """Others than this user own the directory, or can write to it."""


class PermissionDenied(Error):
    """The operating system denies access."""


class Unwritable(Error):
    """The store cannot be written, and opening one writes: open a copy."""


class DiskFull(Error):
    """The disk, or the quota on it, is full."""


class StorageError(Error):
    """Reading or writing failed for another reason."""


class Damaged(Error):
    """The store, a record or a backup is damaged: restore, repair, or import again."""


class ReadOnly(Error):
    """A write or a sync failed, and the store has been read-only since. Open it again to write."""


class Closed(Error):
    """The store was closed."""


class Removed(Error):
    """The files of the open store were removed."""


class Forked(Error):
    """The process was forked after the store was opened: open stores after the fork."""


class Served(Error):
    """The store has a live view already."""


class Unsupported(Error):
    """What keeps this store cannot do that."""


class TimeZoneUnknown(Error, ValueError):
    """A time zone that is not known, or the machine's own cannot be told."""


class ClockBehind(Error):
    """Too many entries were active in the future, so the clock is wrong."""


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
