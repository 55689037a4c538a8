"""What the adapter needs of Hermes' session store, in small: for the examples, where Hermes is not installed.

`test_hermes.py` drives the real one.
"""

import json
import threading
import types
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass
class SessionEntry:
    session_key: str
    session_id: str
    created_at: datetime
    updated_at: datetime
    suspended: bool = False

    def to_dict(self) -> dict[str, Any]:
        times = {"created_at": self.created_at.isoformat(), "updated_at": self.updated_at.isoformat()}
        return {**asdict(self), **times}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "SessionEntry":
        created_at, updated_at = (datetime.fromisoformat(fields[name]) for name in ("created_at", "updated_at"))
        return cls(fields["session_key"], fields["session_id"], created_at, updated_at, bool(fields.get("suspended")))


class Table:
    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def load_gateway_routing_entries(self, *, scope: str = "") -> dict[str, str]:
        return dict(self.rows)

    def replace_gateway_routing_entries(self, entries: dict[str, str], *, scope: str = "") -> None:
        self.rows = dict(entries)


class HermesStore:
    def __init__(self, sessions_dir: Path, key: str) -> None:
        self.sessions_dir = sessions_dir
        self.config = types.SimpleNamespace(write_sessions_json=False)
        self._lock = threading.Lock()
        self._loaded = False
        self._write_sessions_json = False
        self._entries: dict[str, SessionEntry] = {}
        self._db: Any = Table()
        now = datetime.now()
        self._db.rows[key] = json.dumps(SessionEntry(key, "run-1", now, now).to_dict())

    def _routing_scope(self) -> str:
        return str(self.sessions_dir)

    def _ensure_loaded(self) -> None:
        if not self._loaded and self._db is not None:
            rows = self._db.load_gateway_routing_entries(scope=self._routing_scope())
            self._entries = {key: SessionEntry.from_dict(json.loads(text)) for key, text in rows.items()}
            self._loaded = True

    def _prune_stale_sessions_locked(self) -> None:
        pass

    def _save(self) -> None:
        texts = {key: json.dumps(entry.to_dict()) for key, entry in self._entries.items()}
        self._db.replace_gateway_routing_entries(texts, scope=self._routing_scope())

    def suspend_session(self, session_key: str) -> bool:
        self._entries[session_key].suspended = True
        self._save()
        return True
