"""Seam A: the three functions of Hermes' routing table, on a store."""

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from .._core import Receipt, SessionStore
from .._errors import InvalidEntry, InvalidName, TooLarge

_log = logging.getLogger(__name__)


class Routing:
    """The three functions of Hermes' routing table, on a store.

    An entry that the store cannot take, such as one with a key of more than 1,024 bytes, is in memory only, and a warning says so
    once. An error here would have Hermes write all its entries into a file, again at each change.

    In the example `store` is open, and has one entry.

    >>> routing = Routing(store)
    >>> (key, text), = routing.load_gateway_routing_entries().items()
    >>> routing.save_gateway_routing_entry(key, text)
    >>> routing.replace_gateway_routing_entries({})
    >>> store.count()
    0
    """

    def __init__(self, store: SessionStore, *, durable: bool = True) -> None:
        """With `durable` each call returns when what it wrote survives a power cut, as a commit of SQLite does."""
        self.store = store
        self.durable = durable
        self._lock = threading.Lock()
        self._scope: str | None = None
        #: What was written last, so that a replacement writes only what differs.
        self._texts: dict[str, str] = {}
        #: What the store cannot take.
        self._refused: dict[str, str] = {}

    def load_gateway_routing_entries(self, *, scope: str = "") -> dict[str, str]:
        """All entries as JSON, by key."""
        with self._lock:
            self._check(scope)
            found = ((key, self.store.get_json(key)) for key in self.store.keys())
            return {key: text for key, text in found if text is not None} | self._refused

    def save_gateway_routing_entry(self, session_key: str, entry_json: str, *, scope: str = "") -> None:
        """Writes one entry."""
        if not session_key or not entry_json:
            return
        with self._lock:
            self._check(scope)
            receipt = self._put(session_key, entry_json)
        if self.durable and receipt is not None:
            receipt.wait()

    def replace_gateway_routing_entries(self, entries: Mapping[str, str], *, scope: str = "") -> None:
        """Writes what differs, and removes what is not among the entries. Each entry changes in one step, and not all of them
        together.
        """
        with self._lock:
            self._check(scope)
            there = set(self.store.keys())
            for key, text in entries.items():
                if not key or not text or self._refused.get(key) == text:
                    continue
                if key in there and self._is_written(key, text):
                    self._refused.pop(key, None)
                else:
                    self._put(key, text)
            for key in there - entries.keys():
                self.store.remove(key)
                self._texts.pop(key, None)
            for key in self._refused.keys() - entries.keys():
                del self._refused[key]
        if self.durable:
            self.store.flush()

    def _put(self, key: str, text: str) -> Receipt | None:
        try:
            receipt = self.store.put_json(key, text).receipt
        except (InvalidEntry, InvalidName, TooLarge) as error:
            if key not in self._refused:
                _log.warning("an entry stays in memory only, since the store cannot take it: %s", error)
            self._refused[key] = text
            self._texts.pop(key, None)
            return None
        self._refused.pop(key, None)
        self._texts[key] = text
        return receipt

    def _is_written(self, key: str, text: str) -> bool:
        last = self._texts.get(key)
        if last is None:
            # Nothing was written since the store was opened: is it what is there?
            found = self.store.get_json(key)
            if found is None or json.loads(found) != json.loads(text):
                return False
            self._texts[key] = text
            return True
        return last == text

    def _check(self, scope: str) -> None:
        """A store holds one index, that of one directory."""
        if self._scope is None:
            self._scope = scope
        if self._scope != scope:
            raise ValueError("the store holds the sessions of another directory: open one for each")


class Database:
    """Hermes' database, with its routing table elsewhere."""

    def __init__(self, routing: Routing, database: Any) -> None:
        self._routing = routing
        self._database = database
        self.load_gateway_routing_entries = routing.load_gateway_routing_entries
        self.save_gateway_routing_entry = routing.save_gateway_routing_entry
        self.replace_gateway_routing_entries = routing.replace_gateway_routing_entries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)
