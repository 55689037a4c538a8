"""Seam B: Hermes' session store with Cloakroom's verbs.

Hermes decides what a message means: which key it has, when a session is over, what is found again in its own database. What that
changes is written by the mapping, each entry in one step. The verbs here are those where Cloakroom has one of its own.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from .._core import Receipt, SessionStore
from .._errors import InvalidName
from ._entries import Entries, newest_first

if TYPE_CHECKING:
    # Any class of Hermes': `taken_over` puts it beneath.
    _Hermes: Any = object
else:
    _Hermes = object


class Sessions(_Hermes):  # type: ignore[misc]
    """What a session store of Hermes becomes."""

    _entries: Entries
    _lock: Any
    _cloakroom: SessionStore
    _is_durable: bool

    def _waited(self, receipt: Receipt | None) -> None:
        """Called with no lock held, where Hermes lets that be."""
        if self._is_durable and receipt is not None:
            receipt.wait()

    # --- loading and saving

    def _ensure_loaded_locked(self) -> None:
        """Nothing is loaded: the mapping reads what is asked for."""

    def _save(self) -> None:
        self._waited(self._entries.settle())

    def _save_entries(self) -> None:
        self._waited(self._entries.settle())

    def _save_entry(self, session_key: str, *, entry_data: dict[str, Any] | None = None, lock_held: bool = False) -> None:
        if entry_data is None:
            receipt = self._entries.settle()
        elif session_key in self._entries:
            receipt = self._entries.put(session_key, entry_data)
        else:
            return
        self._waited(receipt)

    # --- activity, and what is kept with an entry

    def update_session(
        self, session_key: str, last_prompt_tokens: int | None = None, touch_activity: bool = True
    ) -> None:
        """One step: the activity, and how long the prompt was."""
        with self._lock:
            entries = self._entries
            entry = entries.get(session_key)
            if entry is None:
                return
            if not entries.keeps(session_key):
                entry.last_prompt_tokens = entry.last_prompt_tokens if last_prompt_tokens is None else last_prompt_tokens
            elif last_prompt_tokens is None:
                entries.settle()
                if touch_activity:
                    self._cloakroom.touch(session_key)
            else:
                entries.settle()

                def counted(draft: Any) -> None:
                    draft.last_prompt_tokens = last_prompt_tokens

                self._cloakroom.modify(session_key, counted, touch=touch_activity, create=False)
            entries.bring_up(session_key)
            about = {"display_name": entry.display_name}
            if hasattr(entry, "transport_profile"):
                about["transport_profile"] = entry.transport_profile
            session_id, origin = entry.session_id, entry.origin
        self._record_gateway_session_peer(session_id, session_key, origin, **about)

    def set_model_override(self, session_key: str, override: dict[str, Any] | None) -> None:
        """Written before the entry shows it, so that what failed can be tried again."""
        cleaned = sys.modules[self._entries.made.__module__].sanitize_model_override(override)
        with self._lock:
            entry = self._entries.get(session_key)
            if entry is None or entry.model_override == cleaned:
                return
            if not self._entries.keeps(session_key):
                entry.model_override = cleaned
                return
            receipt = self._entries.settle()
            if cleaned is None:
                receipt = self._cloakroom.remove_extra(session_key, "model_override") or receipt
            else:
                receipt = self._cloakroom.set_extra(session_key, "model_override", cleaned) or receipt
            self._entries.bring_up(session_key)
        self._waited(receipt)

    # --- suspension, turns, resumes

    def suspend_session(self, session_key: str) -> bool:
        """`suspend`."""
        with self._lock:
            self._entries.settle()
            if not self._entries.keeps(session_key):
                return self._in_memory(session_key, suspended=True)
            receipt = self._cloakroom.suspend(session_key)
            self._entries.bring_up(session_key)
        self._waited(receipt)
        return receipt is not None

    def mark_turn_active(self, session_key: str) -> str | None:
        """`begin_turn`."""
        with self._lock:
            self._entries.settle()
            entry = self._entries.get(session_key)
            if entry is None or not self._entries.keeps(session_key):
                return None
            if entry.active_turn_token is not None:
                self._forget_turn(entry)
            turn = self._cloakroom.begin_turn(session_key)
            if turn is None:
                return None
            self._entries.turned(session_key)
        self._waited(turn.receipt)
        return turn.token

    def clear_turn_active(self, session_key: str, token: str) -> bool:
        """`end_turn`."""
        with self._lock:
            self._entries.settle()
            entry = self._entries.get(session_key)
            if entry is None or entry.active_turn_token != token:
                return False
            receipt = self._forget_turn(entry)
        self._waited(receipt)
        return True

    def recover_interrupted_turns(self, max_age_seconds: int = 60 * 60) -> int:
        """`recover_interrupted_turns`, and those that are kept with an entry."""
        with self._lock:
            self._entries.settle()
            max_age = float(max_age_seconds) if max_age_seconds > 0 else None
            found = self._cloakroom.recover_interrupted_turns(max_age, reason="restart_interrupted")
            self._entries.bring_all_up()
            marked = len(found.resumable)
            for entry in self._with_turns_of_their_own():
                started = entry.active_turn_started_at
                entry.active_turn_token = entry.active_turn_started_at = None
                if entry.suspended or started is None or (max_age and time.time() - started.timestamp() > max_age):
                    continue
                if not entry.resume_pending:
                    entry.resume_pending, entry.resume_reason = True, "restart_interrupted"
                    entry.last_resume_marked_at = None
                    marked += 1
                if entry.last_resume_marked_at is None:
                    entry.last_resume_marked_at = datetime.now()
            receipt = self._entries.settle()
        self._waited(receipt)
        return marked

    def discard_active_turn_markers(self) -> int:
        """`discard_turns`."""
        with self._lock:
            self._entries.settle()
            count = self._cloakroom.discard_turns()
            self._entries.bring_all_up()
            for entry in self._with_turns_of_their_own():
                entry.active_turn_token = entry.active_turn_started_at = None
                count += 1
            receipt = self._entries.settle()
        self._waited(receipt)
        return count

    def mark_resume_pending(self, session_key: str, reason: str = "restart_timeout") -> bool:
        """`mark_resume_pending`."""
        with self._lock:
            self._entries.settle()
            if not self._entries.keeps(session_key):
                return self._in_memory(session_key, resume_pending=True, resume_reason=reason)
            marked = self._cloakroom.mark_resume_pending(session_key, reason)
            self._entries.bring_up(session_key)
        self._waited(marked.receipt)
        return marked.outcome == "marked"

    def clear_resume_pending(self, session_key: str) -> bool:
        """`clear_resume_pending`."""
        with self._lock:
            self._entries.settle()
            if not self._entries.keeps(session_key):
                return self._in_memory(session_key, resume_pending=False, resume_reason=None)
            cleared = self._cloakroom.clear_resume_pending(session_key)
            self._entries.bring_up(session_key)
        self._waited(cleared.receipt)
        return cleared.outcome == "cleared"

    def suspend_recently_active(self, max_age_seconds: int = 120) -> int:
        """What was active a moment before an unexpected end: a resume of each is marked."""
        with self._lock:
            self._entries.settle()
            since = datetime.now(UTC) - timedelta(seconds=max_age_seconds)
            count = 0
            for found in self._cloakroom.entries(active_since=since, suspended=False):
                if not found.resume_pending:
                    marked = self._cloakroom.mark_resume_pending(found.key, "restart_interrupted")
                    count += marked.outcome == "marked"
            self._entries.bring_all_up()
        if count and self._is_durable:
            self._cloakroom.flush()
        return count

    def _forget_turn(self, entry: Any) -> Receipt | None:
        """Ends the turn that an entry shows, which is the store's own or, under another session id, one kept with the entry."""
        entry.active_turn_token = entry.active_turn_started_at = None
        return self._entries.settle()

    def _in_memory(self, session_key: str, **fields: Any) -> bool:
        """For an entry that the store cannot take."""
        entry = self._entries.get(session_key)
        for name, value in fields.items() if entry is not None else ():
            setattr(entry, name, value)
        return entry is not None

    def _with_turns_of_their_own(self) -> list[Any]:
        found = (self._entries.get(each.key) for each in self._cloakroom.entries() if each.active_turn_token)
        return [entry for entry in found if entry is not None]

    # --- pruning

    def prune_old_entries(self, max_age_days: int | None) -> int:
        """`prune`, with Hermes' registry of processes as the guard: it is asked by the session key, for what has expired only,
        and with nothing locked. What it raises keeps the entry, and is logged.
        """
        if max_age_days is None or max_age_days <= 0:
            return 0
        with self._lock:
            self._entries.settle()

        def works(session_key: str) -> bool:
            answer: bool = self._has_active_processes_safe(session_key, context="prune")
            return answer

        report = self._cloakroom.prune(max_age_days, guard=works)
        if report.removed:
            self._entries.bring_all_up()
        return report.removed

    def remove_by_session_id(self, session_id: str) -> int:
        """All that leads to a session that was deleted."""
        if not session_id:
            return 0
        with self._lock:
            keys = self._entries.keys_of(session_id)
            for key in keys:
                self._entries.pop(key, None)
            self._unhinted(session_id)
            receipt = self._entries.settle()
        self._waited(receipt)
        return len(keys)

    def purge_profile_routing(self, profile: str) -> int:
        """`forget` of all below a profile."""
        name = (profile or "").strip()
        if not name:
            return 0
        with self._lock:
            self._entries.settle()
            removed = self._cloakroom.forget(f"agent:{name}").removed
            self._entries.bring_all_up()
        return removed

    def rekey_profile_routing(self, old_name: str, new_name: str) -> int:
        """`rename` of all below a profile: all of them or, where a new key is taken, none."""
        old, new = (old_name or "").strip(), (new_name or "").strip()
        if not old or not new or old == new:
            return 0
        with self._lock:
            self._entries.settle()
            renamed = self._cloakroom.rename(f"agent:{old}:", f"agent:{new}:")
            if renamed.collisions:
                raise ValueError(f"profile {old!r} cannot become {new!r}: {renamed.collisions} keys are taken")
            self._entries.bring_all_up()
            for key in self._cloakroom.keys(f"agent:{new}:"):
                entry = self._entries.get(key)
                if entry is not None and getattr(entry.origin, "profile", None) == old:
                    entry.origin = type(entry.origin).from_dict({**entry.origin.to_dict(), "profile": new})
            receipt = self._entries.settle()
        self._waited(receipt)
        return renamed.moved

    # --- look-ups

    def list_sessions(self, active_minutes: int | None = None) -> list[Any]:
        """The newest first."""
        if active_minutes is None:
            return newest_first(self._entries.values())
        with self._lock:
            self._entries.settle()
        since = datetime.now(UTC) - timedelta(minutes=active_minutes)
        found = (self._entries.get(each.key) for each in self._cloakroom.entries(active_since=since))
        return newest_first(entry for entry in found if entry is not None)

    def lookup_by_session_id(self, session_id: str) -> Any:
        """The first by key, where several lead to it."""
        keys = self._entries.keys_of(session_id) if session_id else []
        return self._entries.get(keys[0]) if keys else None

    def _owner_key_for_session_id(self, session_id: str | None) -> str | None:
        """Asked for each message."""
        keys = self._entries.keys_of(session_id) if session_id else []
        return keys[0] if keys else (getattr(self, "_session_owner_hints", None) or {}).get(session_id)

    def _publish_transcript_reroute(self, session_id: str, child_id: str) -> None:
        """All that leads to a session leads to the one that goes on in its place."""
        with self._lock:
            for key in self._entries.keys_of(session_id):
                entry = self._entries.get(key)
                if entry is not None:
                    entry.session_id = child_id
            receipt = self._entries.settle()
        self._waited(receipt)
        self._unhinted(child_id)

    def _unhinted(self, session_id: str) -> None:
        (getattr(self, "_session_owner_hints", None) or {}).pop(session_id, None)

    # --- Hermes' database

    def _record_gateway_session_peer(
        self, session_id: str, session_key: str, source: Any, display_name: str | None = None, **more: Any
    ) -> None:
        """Hermes notes with a session where it takes place, after each message: here if it is not noted already."""
        if not self._is_recorded(session_id, session_key, source, display_name, **more):
            super()._record_gateway_session_peer(session_id, session_key, source, display_name, **more)

    def _is_recorded(
        self,
        session_id: str,
        session_key: str,
        source: Any,
        display_name: str | None,
        transport_profile: str | None = None,
        **more: Any,
    ) -> bool:
        """Says no whenever that is not certain."""
        if any(more.values()) or not source:
            return False
        try:
            database = self._db_for_key(session_key) if hasattr(self, "_db_for_key") else self._db
            row = database.get_session(session_id)
            if transport_profile is None and "transport_profile" in row:
                transport_profile = sys.modules["gateway.session_identity"].transport_profile_of(source)
            expected = {
                "session_key": session_key,
                "source": source.platform.value,
                "user_id": source.user_id,
                "chat_id": source.chat_id,
                "chat_type": source.chat_type,
                "thread_id": source.thread_id,
            }
            if_set = {
                "display_name": display_name or source.chat_name,
                "origin_json": json.dumps(source.to_dict()),
                "transport_profile": transport_profile,
            }
            expected.update((name, value) for name, value in if_set.items() if value is not None)
            return all(row[name] == value for name, value in expected.items())
        except Exception:
            return False


def sessions(original: type) -> type:
    """A class of session stores of Hermes', with Cloakroom's verbs. It has no verb that Hermes' has not."""
    names = {name: value for name, value in vars(Sessions).items() if not name.startswith("__")}
    verbs = {name for name in names if not name.startswith("_")}
    made = type(original.__name__, (Sessions, original), {})
    for name in verbs:
        if not hasattr(original, name):
            setattr(made, name, _missing(original, name))
    made.__module__, made.__qualname__ = original.__module__, original.__qualname__
    return made


def _missing(original: type, name: str) -> property:
    def get(self: Any) -> Any:
        raise AttributeError(f"{original.__name__!r} object has no attribute {name!r}")

    return property(get)
