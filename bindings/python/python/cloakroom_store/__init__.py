"""An embedded session store for chat gateways.

>>> import tempfile
>>> from cloakroom_store import SessionStore
>>> directory = tempfile.TemporaryDirectory()
>>> with SessionStore.open(directory.name + "/sessions.db", create=True) as store:
...     found = store.resolve({"platform": "telegram", "chat_type": "dm", "chat_id": "1234"})
...     found.receipt.wait()  # or: await found.receipt
...     found.outcome, store.count()
True
('created', 1)
>>> directory.cleanup()

All verbs may be called from any thread, and give the interpreter back while they work. What may take long, such as `open`,
`prune` and the lists, belongs in a thread where there is an event loop: `await asyncio.to_thread(store.prune, 90)`.
"""

import atexit

from ._core import (
    Change,
    Draft,
    Entry,
    Events,
    Lease,
    Live,
    Receipt,
    ResetPolicy,
    Resolved,
    SessionStore,
    Turn,
    Watcher,
    close_all,
)
from ._errors import (
    Cause,
    ClockBehind,
    Closed,
    Damaged,
    DiskFull,
    Error,
    Exists,
    Exposed,
    Forked,
    InvalidEntry,
    InvalidName,
    InvalidValue,
    Locked,
    NotAStore,
    NotFound,
    OptionsDiffer,
    PermissionDenied,
    ReadOnly,
    Removed,
    Served,
    StorageError,
    TimeZoneUnknown,
    TooLarge,
    Unsupported,
    Unwritable,
    WrongFormat,
)
from ._migrate import Migration, migrate
from ._reports import (
    BackupReport,
    BulkRemoval,
    CompactReport,
    Damage,
    Event,
    ExportReport,
    ForgetReport,
    ImportReport,
    OpenLease,
    OpenReport,
    OpenTurn,
    Problem,
    Protected,
    PruneReport,
    RenameReport,
    Shortfall,
    Stats,
    TurnRecovery,
    Unreadable,
    UnreadableRecord,
    Verification,
    WatcherStatus,
)

__all__ = [
    "BackupReport",
    "BulkRemoval",
    "Cause",
    "Change",
    "ClockBehind",
    "Closed",
    "CompactReport",
    "Damage",
    "Damaged",
    "DiskFull",
    "Draft",
    "Entry",
    "Error",
    "Event",
    "Events",
    "Exists",
    "ExportReport",
    "Exposed",
    "ForgetReport",
    "Forked",
    "ImportReport",
    "InvalidEntry",
    "InvalidName",
    "InvalidValue",
    "Lease",
    "Live",
    "Locked",
    "Migration",
    "NotAStore",
    "NotFound",
    "OpenLease",
    "OpenReport",
    "OpenTurn",
    "OptionsDiffer",
    "PermissionDenied",
    "Problem",
    "Protected",
    "PruneReport",
    "ReadOnly",
    "Receipt",
    "Removed",
    "RenameReport",
    "ResetPolicy",
    "Resolved",
    "Served",
    "SessionStore",
    "Shortfall",
    "Stats",
    "StorageError",
    "TimeZoneUnknown",
    "TooLarge",
    "Turn",
    "TurnRecovery",
    "Unreadable",
    "UnreadableRecord",
    "Unsupported",
    "Unwritable",
    "Verification",
    "Watcher",
    "WatcherStatus",
    "WrongFormat",
    "migrate",
]

# While threads still run and the interpreter is whole: what is pending is committed here.
atexit.register(close_all)
