"""Hermes' entries as a live mapping over a store.

Hermes' own is a dict of objects that its code and the gateway's change in place, and that a save writes out. Here an entry is
read from the store when somebody asks for it, and is the same object for all as long as anybody holds it. What is changed in
place is noted as it happens, and the next save writes that and nothing else.
"""

import dataclasses
import json
import logging
import threading
from collections.abc import ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from .._core import Change, Entry, Receipt, SessionStore
from .._errors import InvalidName

_log = logging.getLogger(__name__)

#: Where an entry that is in the mapping has its `_State`. It is no field, so Hermes' class does not see it.
_STATE = "_cloakroom"
#: Fields of an entry that can be changed without being set. A caller that has read one may do that.
_INNER = ("metadata", "model_override", "prompt_pin")
#: The store keeps open turns beside the entries.
_TURN = ("active_turn_token", "active_turn_started_at")
#: A time of activity this close to now is now: the store's clock sets it.
_NOW = timedelta(seconds=1)
#: How often an entry that others change meanwhile is written before that is an error.
_ATTEMPTS = 100

class _State:
    """What the mapping knows of an entry that was handed out."""

    __slots__ = ("base", "key", "owner", "revision", "token", "updated_at")

    def __init__(self, owner: "Entries", key: str) -> None:
        self.owner = owner
        self.key = key
        #: What the store had when it was read; and its fields, once it is to be changed. None: the store has not had it.
        self.revision: str | None = None
        self.updated_at: datetime | None = None
        self.base: dict[str, Any] | None = None
        #: The turn that the store has open.
        self.token: str | None = None


def _local(moment: datetime) -> datetime:
    """As Hermes has times: naive, where the machine is."""
    return moment.astimezone().replace(tzinfo=None)


def _tracked(made: type) -> type:
    """Hermes' class of entries, noting what is changed."""
    fields = [field.name for field in dataclasses.fields(made)]

    def set_field(self: Any, name: str, value: Any) -> None:
        state = self.__dict__.get(_STATE)
        if state is not None:
            state.owner.note(self, state)
        self.__dict__[name] = value

    def inner(name: str) -> property:
        def get(self: Any) -> Any:
            state = self.__dict__.get(_STATE)
            if state is not None:
                state.owner.note(self, state)
            return self.__dict__[name]

        return property(get)

    def plain(self: Any) -> Any:
        """As Hermes makes them: what reads a field of this is no change."""
        return _remade(made, {name: value for name, value in self.__dict__.items() if name != _STATE})

    def equals(self: Any, other: Any) -> Any:
        if not isinstance(other, made):
            return NotImplemented
        return all(self.__dict__[name] == other.__dict__[name] for name in fields)

    names: dict[str, Any] = {
        "__setattr__": set_field,
        "__eq__": equals,
        "__hash__": None,
        "__module__": made.__module__,
        "__qualname__": made.__qualname__,
        # A copy, here or in another process, is an entry of Hermes' own that no mapping knows.
        "__reduce_ex__": lambda self, protocol: (_remade, (made, plain(self).__dict__)),
        "to_dict": lambda self: plain(self).to_dict(),
        **{name: inner(name) for name in _INNER if name in fields},
    }
    return type(made.__name__, (made,), names)


def _remade(made: type, fields: dict[str, Any]) -> Any:
    entry: Any = object.__new__(made)
    entry.__dict__.update(fields)
    return entry


class _Items(ItemsView[str, Any]):
    _mapping: "Entries"

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping.pairs()


class _Values(ValuesView[Any]):
    _mapping: "Entries"

    def __iter__(self) -> Iterator[Any]:
        return (entry for _, entry in self._mapping.pairs())


class Entries(MutableMapping[str, Any]):
    """The entries of a store, by key, as objects of Hermes' class.

    What is put, deleted or changed is seen at once, and written by `settle`. What others change in the store is seen, unless
    the same field waits to be written; what they remove is gone.
    """

    def __init__(self, store: SessionStore, made: type) -> None:
        self.store = store
        self.made: Any = made
        self._tracked = _tracked(made)
        self._lock = threading.RLock()
        self._known: WeakValueDictionary[str, Any] = WeakValueDictionary()
        #: What waits to be written. None: it is to be removed.
        self._changed: dict[str, Any] = {}
        #: What the store cannot take is in memory only: a key that is too long, or what is no entry.
        self._refused: dict[str, Any] = {}

    # --- as a mapping

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            if key in self._refused:
                return self._refused[key]
            if key in self._changed:
                entry = self._changed[key]
            elif (entry := self._known.get(key)) is None:
                return self._read(key)
            elif not self._brought_up(key, entry):
                entry = None
            if entry is None:
                raise KeyError(key)
            return entry

    def __setitem__(self, key: str, entry: Any) -> None:
        with self._lock:
            self._let_go(key)
            self._refused.pop(key, None)
            if not isinstance(entry, self.made):
                self._refuse(key, entry)
                return
            if _STATE in entry.__dict__:
                # It moves here from another key; that has one of its own then.
                old = entry.__dict__[_STATE].key
                copy = _remade(self.made, {name: value for name, value in entry.__dict__.items() if name != _STATE})
                if old != key and self.get(old) is entry:
                    self[old] = copy
                entry.__dict__.pop(_STATE, None)
            self._attach(key, entry)
            self._changed[key] = entry

    def __delitem__(self, key: str) -> None:
        with self._lock:
            if key not in self:
                raise KeyError(key)
            self._let_go(key)
            self._refused.pop(key, None)
            self._changed[key] = None

    def __contains__(self, key: object) -> bool:
        with self._lock:
            if not isinstance(key, str):
                return False
            if key in self._refused:
                return True
            if key in self._changed:
                return self._changed[key] is not None
            return self._seen(key) is not None

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            there = [key for key in self.store.keys() if self._changed.get(key, key) is not None]
            more = [key for key, entry in self._changed.items() if entry is not None]
            return iter(dict.fromkeys([*there, *more, *self._refused]))

    def __len__(self) -> int:
        with self._lock:
            if not self._changed and not self._refused:
                return self.store.count()
            return sum(1 for _ in self)

    def clear(self) -> None:
        """Removes all."""
        for key in list(self):
            self.pop(key, None)

    def items(self) -> ItemsView[str, Any]:
        """The entries with their keys."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """The entries."""
        return _Values(self)

    def pairs(self) -> Iterator[tuple[str, Any]]:
        """Those of now that are still there when it comes to them, and that Hermes can read."""
        for key in self:
            entry = self.get(key)
            if entry is not None:
                yield key, entry

    # --- for the verbs

    def keys_of(self, session_id: str) -> list[str]:
        """The keys that lead to a session, in order."""
        with self._lock:
            try:
                found = {each.key for each in self.store.find_by_session_id(session_id)} - self._changed.keys()
            except InvalidName:
                found = set()
            waiting = (*self._changed.items(), *self._refused.items())
            found.update(key for key, entry in waiting if getattr(entry, "session_id", None) == session_id)
            return sorted(found)

    def keeps(self, key: str) -> bool:
        """Whether the store has it, once what waits is written."""
        return key not in self._refused and key in self

    def note(self, entry: Any, state: _State) -> None:
        """Called before an entry is changed."""
        with self._lock:
            if state.key not in self._changed and self._known.get(state.key) is entry:
                self._changed[state.key] = entry
                state.base = self._fields(entry)

    def bring_up(self, key: str) -> None:
        """Has the object of a key that a verb has changed show it, if anybody holds one."""
        with self._lock:
            entry = self._known.get(key)
            if entry is not None and key not in self._changed:
                self._brought_up(key, entry)

    def bring_all_up(self) -> None:
        """The same for all."""
        for key in list(self._known):
            self.turned(key)

    def turned(self, key: str) -> None:
        """The same, where a verb has begun or ended a turn."""
        with self._lock:
            self.bring_up(key)
            entry = self._known.get(key)
            if entry is not None:
                self._show_turn(key, entry, entry.__dict__[_STATE])

    def settle(self) -> Receipt | None:
        """Writes what waits, each entry in one step. Answers a receipt if it was more than activity."""
        if not self._changed:
            return None
        with self._lock:
            last = None
            for key in list(self._changed):
                last = self._write(key) or last
            return last

    def put(self, key: str, fields: dict[str, Any]) -> Receipt | None:
        """Writes what fields of an entry are to be, before it shows them."""
        with self._lock:
            settled = self.settle()
            entry = self.get(key)
            if entry is None or not self.keeps(key):
                return settled
            state: _State = entry.__dict__[_STATE]
            now, then = self._fields(entry), self._stored(state, fields)
            names = {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
            receipt = self._merge(key, entry, state, names, then) if names else None
            state.revision = None
            self.bring_up(key)
            return receipt or settled

    # --- inside

    def _seen(self, key: str) -> Entry | None:
        try:
            return self.store.get(key)
        except InvalidName:
            return None

    def _read(self, key: str) -> Any:
        """A new object for what the store has."""
        found = self._seen(key)
        entry = None if found is None else self._parsed(key)
        if found is None or entry is None:
            raise KeyError(key)
        state = self._attach(key, entry)
        # As of before the text: if it changed in between, the next look sees another revision.
        state.revision, state.updated_at = found.revision, found.updated_at
        self._show_turn(key, entry, state)
        return entry

    def _parsed(self, key: str) -> Any:
        text = self.store.get_json(key)
        if text is None:
            return None
        try:
            return self.made.from_dict(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            # As Hermes passes over a row that it cannot read.
            _log.warning("an entry of the store is none that Hermes can read: %s", type(error).__name__)
            return None

    def _attach(self, key: str, entry: Any) -> _State:
        state = _State(self, key)
        if type(entry) is self.made:
            entry.__class__ = self._tracked
        entry.__dict__[_STATE] = state
        self._known[key] = entry
        return state

    def _let_go(self, key: str) -> None:
        """Whoever holds the object that was in a place has it for himself."""
        entry = self._known.pop(key, None)
        if entry is not None:
            entry.__dict__.pop(_STATE, None)

    def _brought_up(self, key: str, entry: Any) -> bool:
        """Has an object show what the store has, or lets it go if that is nothing any more."""
        state: _State = entry.__dict__[_STATE]
        found = self._seen(key)
        if found is None:
            self._let_go(key)
            return False
        if found.revision != state.revision:
            fresh = self._parsed(key)
            if fresh is None:
                self._let_go(key)
                return False
            entry.__dict__.update(fresh.__dict__)
            self._show_turn(key, entry, state)
        elif found.updated_at != state.updated_at:
            entry.__dict__["updated_at"] = _local(found.updated_at)
        state.revision, state.updated_at = found.revision, found.updated_at
        return True

    def _show_turn(self, key: str, entry: Any, state: _State) -> None:
        if _TURN[0] not in entry.__dict__:
            return
        turn = self.store.turn(key)
        if turn is not None:
            state.token = turn.token
            entry.__dict__.update(zip(_TURN, (turn.token, turn.started_at), strict=True))
        elif state.token is not None:
            if entry.__dict__[_TURN[0]] == state.token:
                entry.__dict__.update(dict.fromkeys(_TURN))
            state.token = None

    def _fields(self, entry: Any) -> dict[str, Any]:
        """What is to be in the store: all but the turn that it keeps itself. A copy of its own."""
        return self._stored(entry.__dict__[_STATE], entry.to_dict())

    def _stored(self, state: _State, fields: dict[str, Any]) -> dict[str, Any]:
        # What another key's entry was made from names that.
        copy: dict[str, Any] = json.loads(json.dumps({**fields, "session_key": state.key}))
        if copy.get(_TURN[0]) == state.token:
            for name in _TURN:
                copy.pop(name, None)
        return copy

    def _refuse(self, key: str, entry: Any) -> None:
        """What the store has of it stays there, as of when it last was something that it could take."""
        self._changed.pop(key, None)
        self._refused[key] = entry

    def _write(self, key: str) -> Receipt | None:
        """Writes one entry that waits."""
        entry = self._changed[key]
        if entry is None:
            receipt = self.store.remove(key) if self._seen(key) is not None else None
            del self._changed[key]
            return receipt
        try:
            receipt = self._written(key, entry, entry.__dict__[_STATE])
        except (TypeError, ValueError) as error:
            _log.warning("an entry stays in memory only, since the store cannot take it: %s", error)
            self._known.pop(key, None)
            entry.__dict__.pop(_STATE, None)
            self._refuse(key, entry)
            return None
        self._changed.pop(key, None)
        return receipt

    def _written(self, key: str, entry: Any, state: _State) -> Receipt | None:
        token = entry.__dict__.get(_TURN[0])
        turn = self.store.turn(key) if _TURN[0] in entry.__dict__ else None
        there = self.store.get(key)
        if turn is None or turn.token != token or there is None or there.session_id != entry.session_id:
            # The store knows an open turn by its session. One that goes on under another id is kept with the entry.
            state.token = None
        else:
            turn, state.token = None, token
        receipt = self._put(key, entry, state)
        if turn is not None:
            receipt = self.store.end_turn(key, turn.token).receipt or receipt
        return receipt

    def _put(self, key: str, entry: Any, state: _State) -> Receipt | None:
        fields = self._fields(entry)
        if state.base is None:
            return self._have_put(state, self.store.put_json(key, json.dumps(fields)))
        names = {name for name in fields.keys() | state.base.keys() if fields.get(name) != state.base.get(name)}
        if not names:
            return None
        if names == {"updated_at"} and self._is_now(entry.updated_at):
            # Nothing but activity, and now: that has a verb, which costs a tenth.
            self.store.touch(key)
            self._brought_up(key, entry)
            return None
        return self._merge(key, entry, state, names, fields)

    def _merge(self, key: str, entry: Any, state: _State, names: set[str], fields: dict[str, Any]) -> Receipt | None:
        """Writes some fields into what the store has."""
        for _ in range(_ATTEMPTS):
            found = self.store.get(key)
            if found is None:
                # Somebody has removed it, so there is nothing to change.
                self._let_go(key)
                return None
            is_theirs = (found.revision, found.updated_at) != (state.revision, state.updated_at)
            # What others have changed since it was read, and what Hermes' class does not know, stays.
            there = json.loads(self.store.get_json(key) or "{}")
            new = {name: fields[name] for name in names if name in fields}
            kept = {name: value for name, value in there.items() if name not in names}
            put = self.store.put_json(key, json.dumps({**kept, **new}), expect=found.revision)
            if put.outcome == "unexpected":
                continue
            receipt = self._have_put(state, put)
            if is_theirs:
                state.revision = None
                self._brought_up(key, entry)
            return receipt
        raise RuntimeError("an entry is changed all the time, and cannot be written")

    def _have_put(self, state: _State, put: Change) -> Receipt | None:
        state.base = None
        if put.entry is not None:
            state.revision, state.updated_at = put.entry.revision, put.entry.updated_at
        return put.receipt

    @staticmethod
    def _is_now(moment: datetime) -> bool:
        return moment.tzinfo is None and abs(moment - datetime.now()) < _NOW


def newest_first(entries: Iterable[Any]) -> list[Any]:
    """As Hermes lists them."""
    return sorted(entries, key=lambda entry: entry.updated_at, reverse=True)
