"""Each verb, as a gateway uses it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from cloakroom_store import Draft, Entry, InvalidEntry, InvalidName, InvalidValue, ResetPolicy, SessionStore, TooLarge

from .conftest import KEY

SOURCE = {"platform": "telegram", "chat_type": "dm", "chat_id": "1234", "user_name": "Ada"}


def test_a_message_begins_a_session_and_the_next_continues_it(store: SessionStore) -> None:
    first = store.resolve(SOURCE)
    assert (first.outcome, first.entry.key, first.entry.origin) == ("created", KEY, SOURCE)
    again = store.resolve(SOURCE)
    assert (again.outcome, again.entry.session_id) == ("existing", first.entry.session_id)
    assert store.suspend(KEY) is not None
    third = store.resolve(SOURCE)
    assert (third.outcome, third.reason, third.previous_session_id) == ("replaced", "suspended", first.entry.session_id)
    assert not third.had_activity
    assert third.receipt.wait() and third.receipt.durable


def test_a_source_is_a_mapping_of_texts(store: SessionStore) -> None:
    with pytest.raises(TypeError, match="a source is a mapping"):
        store.resolve({"platform": 1})
    with pytest.raises(TypeError, match="a source is a mapping"):
        store.resolve([])  # type: ignore[arg-type]


def test_a_key_of_the_gateways_own(store: SessionStore) -> None:
    found = store.resolve_as("mine:1", source=SOURCE, session_id="run-1")
    assert (found.entry.session_id, found.entry.platform) == ("run-1", "telegram")
    before = store.get("mine:1")
    assert before is not None
    assert store.resolve_as("mine:1", session_id="run-2", touch=False).entry == before
    store.set_extra("mine:1", "model", "large")
    store.set_extra("mine:1", "yolo", True)
    fresh = store.resolve_as("mine:1", session_id="run-2", fresh=True, keep=["model"])
    assert (fresh.reason, fresh.entry.session_id) == ("requested", "run-2")
    assert (store.extra("mine:1", "model"), store.extra("mine:1", "yolo")) == ("large", None)
    for wrong in ["model", 5]:
        with pytest.raises((ValueError, TypeError)):
            store.resolve_as("mine:1", keep=wrong)  # type: ignore[arg-type]


def test_an_entry_is_plain_immutable_and_prints_without_names(store: SessionStore) -> None:
    entry = store.resolve(SOURCE).entry
    for text in (repr(entry), str(entry), f"{entry}"):
        assert "1234" not in text and "Ada" not in text and entry.session_id in text
    with pytest.raises(AttributeError):
        entry.suspended = True  # type: ignore[misc]
    assert entry.updated_at.tzinfo is UTC or entry.updated_at.utcoffset() == timedelta(0)
    assert entry == store.get(KEY) and hash(entry) == hash(store.get(KEY))
    other = entry.replace(suspended=True, display_name="Bob")
    assert (other.suspended, other.display_name, entry.suspended) == (True, "Bob", False)
    assert entry != other and entry != "else"
    assert entry.to_dict()["session_key"] == KEY


def test_an_entry_is_made_with_times_that_say_where_they_are_at_home(store: SessionStore) -> None:
    moment = datetime(2026, 6, 3, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    entry = Entry(KEY, "run-1", created_at=moment, input_tokens=3, origin=SOURCE, prev_session_id=None)
    assert entry.created_at == entry.updated_at == moment and entry.created_at.utcoffset() == timedelta(0)
    with pytest.raises(ValueError, match="naive"):
        Entry(KEY, "run-1", created_at=datetime(2026, 6, 3))
    with pytest.raises(TypeError):
        Entry(KEY, "run-1", created_at="2026")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no field"):
        Entry(KEY, "run-1", model="large")  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="the store's to set"):
        entry.replace(revision="0" * 16)  # type: ignore[call-arg]


def test_put_keeps_what_it_is_given_and_may_expect_something(store: SessionStore) -> None:
    moment = datetime(2026, 6, 3, tzinfo=UTC)
    entry = Entry(KEY, "run-1", created_at=moment, total_tokens=7)
    extras: dict[str, Any] = {"model": {"name": "large", "heat": 0.5}, "tags": ["a", None, True], "n": 2**63}
    made = store.put(entry, extras, expect="absent")
    assert made.outcome == "created" and made.entry is not None and made.receipt is not None
    assert store.get_with_extras(KEY) == (made.entry, extras)
    assert made.entry.updated_at == moment
    assert store.put(entry, expect="absent").outcome == "unexpected"
    assert store.put(entry, expect=made.entry.revision).outcome == "replaced"
    late = store.put(entry, expect=made.entry.revision)
    assert late.outcome == "unexpected" and late.receipt is None and late.entry == store.get(KEY)
    with pytest.raises(InvalidName):
        store.put(entry, expect="anything")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (10**4096, OverflowError),
        ({1: 2}, TypeError),
        ({"a": {3}}, TypeError),
        (b"bytes", TypeError),
    ],
)
def test_what_json_has_no_place_for_is_refused(store: SessionStore, value: object, error: type[Exception]) -> None:
    store.resolve(SOURCE)
    with pytest.raises(error):
        store.set_extra(KEY, "x", value)
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(RecursionError):
        store.set_extra(KEY, "x", deep)
    assert store.extra(KEY, "x", "nothing") == "nothing"


def test_a_whole_number_keeps_all_its_digits(store: SessionStore) -> None:
    values = [2**63, -(2**64), 10**4095, {"a": [12345678901234567890123, True, 0.5]}]
    entry = store.resolve(SOURCE).entry
    for value in values:
        store.set_extra(KEY, "x", value)
        assert store.extra(KEY, "x") == value
        assert store.modify(KEY, lambda draft: draft.set_extra("y", value)).outcome == "changed"
        store.put(entry, {"z": value, "x": store.extra(KEY, "y")})
        found = store.get_with_extras(KEY)
        assert found is not None and found[1] == {"z": value, "x": value}
        store.put_json(KEY, store.get_json(KEY) or "")
    # As deep as it can be exported and come in again.
    deep: Any = 1
    for _ in range(63):
        deep = [deep]
    store.set_extra(KEY, "deep", deep)
    assert store.put_json(KEY, store.get_json(KEY) or "").outcome == "replaced"
    with pytest.raises(RecursionError):
        store.set_extra(KEY, "deep", [deep])


def test_json_goes_in_and_comes_out_equal(store: SessionStore) -> None:
    moment = "2026-06-03T00:41:19.752658"
    entry = {
        "session_key": KEY,
        "session_id": "20260603_004119_3f9a01c2",
        "created_at": moment,
        "updated_at": moment,
        "display_name": "Ada",
        "platform": "telegram",
        "chat_type": "dm",
        "model_override": {"model": "large"},
        "large": 123456789012345678901234567890,
    }
    assert store.put_json(KEY, json.dumps(entry)).outcome == "created"
    text = store.get_json(KEY)
    assert text is not None
    back = json.loads(text)
    assert {name: back[name] for name in entry} == entry
    assert store.put_json(KEY, text, expect="absent").outcome == "unexpected"
    assert store.get_json("agent:main:none") is None
    with pytest.raises(InvalidEntry) as caught:
        store.put_json(KEY, '{"session_id": "Ada')
    assert "Ada" not in str(caught.value) and caught.value.__cause__ is not None
    with pytest.raises(ValueError, match="hermes"):
        store.get_json(KEY, gateway="other")  # type: ignore[arg-type]


def test_modify_changes_fields_and_extras_in_one_step(store: SessionStore) -> None:
    def message(draft: Draft) -> None:
        draft.last_prompt_tokens = 812
        draft.set_extra("metadata", {"n": draft.extra("metadata", {"n": 0})["n"] + 1})

    made = store.modify(KEY, message)
    assert made.outcome == "created" and made.entry is not None and made.entry.last_prompt_tokens == 812
    before = made.entry.updated_at
    changed = store.modify(KEY, message, touch=False)
    assert changed.outcome == "changed" and changed.entry is not None and changed.entry.updated_at == before
    assert store.extra(KEY, "metadata") == {"n": 2}
    assert store.modify(KEY, lambda draft: "keep").outcome == "kept"
    assert store.modify(KEY, lambda draft: draft.remove_extra("metadata")).outcome == "changed"
    assert store.extra(KEY, "metadata") is None
    assert store.modify("none:1", message, create=False).outcome == "kept"
    assert "none:1" not in store and KEY in store
    assert store.modify(KEY, lambda draft: "remove").outcome == "removed"
    assert store.count() == 0


def test_what_a_change_raises_comes_out_and_nothing_is_changed(store: SessionStore) -> None:
    before = store.resolve(SOURCE).entry

    def fails(draft: Draft) -> None:
        draft.suspended = True
        draft.set_extra("a", 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.modify(KEY, fails)
    with pytest.raises(TypeError, match="the change answers None"):
        store.modify(KEY, lambda draft: True)  # type: ignore[arg-type,return-value]
    with pytest.raises(OverflowError):
        store.modify(KEY, lambda draft: setattr(draft, "input_tokens", -1))
    assert store.get(KEY) == before and store.extra(KEY, "a") is None


def test_a_draft_that_is_kept_holds_no_store(path: Path) -> None:
    kept: list[Draft] = []
    with SessionStore.open(path, create=True) as store:
        store.modify(KEY, kept.append)
    with SessionStore.open(path):
        assert kept[0].key == KEY and "1234" not in repr(kept[0]) and kept[0].extra("a") is None


def test_repoint_expects_a_session(store: SessionStore) -> None:
    entry = store.resolve(SOURCE).entry
    store.record_usage(KEY, total_tokens=5, estimated_cost_usd=0.25)
    store.set_extra(KEY, "model", "large")
    assert store.repoint(KEY, "run-2", expected="run-0").outcome == "unexpected"
    moved = store.repoint(KEY, "run-2", expected=entry.session_id, keep_usage=True, keep="all", touch=False)
    assert moved.outcome == "switched" and moved.entry is not None
    assert (moved.entry.total_tokens, moved.entry.estimated_cost_usd) == (5, 0.25)
    assert moved.entry.prev_session_id == entry.session_id and store.extra(KEY, "model") == "large"
    assert store.repoint(KEY, "run-2").outcome == "same"
    assert store.repoint("none:1", "run-2").outcome == "missing"
    assert [found.key for found in store.find_by_session_id("run-2")] == [KEY]


def test_reset_keeps_the_extras_that_are_named(store: SessionStore) -> None:
    store.resolve(SOURCE)
    store.set_extra(KEY, "model", "large")
    done = store.reset(KEY, keep=("model",))
    assert done is not None and done.entry is not None and done.entry.is_fresh_reset
    assert store.extra(KEY, "model") == "large" and store.reset("none:1") is None
    assert store.remove_extra(KEY, "model") is not None and store.remove_extra(KEY, "model") is None


def test_remove_and_remove_if(store: SessionStore) -> None:
    seen = store.resolve(SOURCE).entry
    store.pin(KEY)
    assert store.remove_if(seen).outcome == "changed"
    assert store.unpin(KEY) is not None
    now = store.get(KEY)
    assert now is not None and store.remove_if(now).outcome == "removed"
    assert store.remove_if(now).outcome == "missing"
    assert store.remove(KEY) is None and store.touch(KEY) is None and store.get(KEY) is None


def test_verbs_over_prefixes(store: SessionStore) -> None:
    keys = [f"agent:{profile}:cron:{number}" for profile in "ab" for number in range(300)]
    for key in keys:
        store.resolve_as(key)
    assert list(store.keys()) == sorted(keys) and list(store.keys("agent:a:")) == sorted(keys[:300])
    assert (store.count(), store.count("agent:b:"), store.count("none")) == (600, 300, 0)
    assert store.rename("agent:a:", "agent:c:").moved == 300
    assert store.rename("agent:b:", "agent:c:").collisions == 300
    differs = store.remove_where(7, prefix="agent:b:")
    assert (differs.expected, differs.found, differs.removed) == (7, 300, 0)
    assert store.remove_where(300, prefix="agent:b:").removed == 300
    assert store.forget("agent:c:cron:1").removed == 1
    assert store.count() == 299
    newest = next(store.entries(prefix="agent:c:"))
    assert newest.key.startswith("agent:c:")
    assert len(list(store.entries(active_since=newest.updated_at - timedelta(days=1)))) == 299
    assert list(store.entries(suspended=True)) == []
    with pytest.raises(InvalidValue):
        store.forget("")
    with pytest.raises(TypeError, match="no keyword argument"):
        store.entries(model="large")  # type: ignore[call-arg]


def test_turns_that_a_crash_interrupted_are_found(path: Path, store: SessionStore) -> None:
    store.resolve(SOURCE)
    turn = store.begin_turn(KEY)
    assert turn is not None and turn.receipt.wait()
    open_turn = store.turn(KEY)
    assert open_turn is not None and open_turn.token == turn.token and not open_turn.interrupted
    assert [each.token for each in store.turns()] == [turn.token]
    assert store.end_turn(KEY, "0" * 16).outcome == "not_current"
    assert store.end_turn(KEY, turn.token).outcome == "ended"
    with pytest.raises(ValueError, match="token"):
        store.end_turn(KEY, "x")
    assert store.mark_resume_pending(KEY, "restart").outcome == "marked"
    assert store.clear_resume_pending(KEY).outcome == "cleared"
    assert store.clear_resume_pending(KEY).outcome == "not_pending"
    assert store.begin_turn("none:1") is None
    store.begin_turn(KEY)
    assert store.discard_turns() == 1
    assert store.recover_interrupted_turns(None).resumable == ()


def test_figures(store: SessionStore) -> None:
    store.resolve(SOURCE)
    store.flush()
    stats = store.stats()
    assert stats.entries == 1 and stats.newest is not None and stats.newest.tzinfo is not None
    assert store.open_report().created and store.open_report().shortfall is None


def test_options_are_checked(path: Path) -> None:
    for wrong in (-1.0, float("nan"), 1e300):
        with pytest.raises(ValueError):
            SessionStore.open(path, create=True, commit_interval=wrong)
    with pytest.raises(TypeError, match="no keyword argument"):
        SessionStore.open(path, creat=True)  # type: ignore[call-arg]
    with SessionStore.open(path, create=True, commit_interval=0.0, namespace="agent:x", cached_entries=5) as store:
        assert store.resolve(SOURCE).entry.key.startswith("agent:x:telegram")
        assert store.path == path and "sessions.db" in repr(store)


def test_an_opening_gives_space_back(path: Path) -> None:
    with SessionStore.open(path, create=True, compact_at_open=10.0) as store:
        assert store.open_report().compacted is None
        keys = [store.resolve(SOURCE | {"chat_id": str(n)}).entry.key for n in range(1000)]
        for key in keys:
            store.set_extra(key, "text", "x" * 20_000)
        store.flush()
        for key in keys[1:]:
            store.remove(key)
    with SessionStore.open(path, compact_at_open=10.0) as store:
        done = store.open_report().compacted
        assert done is not None and done.entries == 1 and done.bytes_after < done.bytes_before
        assert store.count() == 1
    with pytest.raises(ValueError, match="compact_at_open"):
        SessionStore.open(path, compact_at_open=1.5)


def test_limits_are_typed_errors(store: SessionStore) -> None:
    store.resolve(SOURCE)
    with pytest.raises(TooLarge) as caught:
        store.set_extra(KEY, "a", "x" * (2 << 20))
    assert "1234" not in str(caught.value) and caught.value.kind == "too_large"
    with pytest.raises(InvalidName):
        store.touch("")
    with pytest.raises(InvalidValue):
        store.record_usage(KEY, estimated_cost_usd=float("inf"))
    mapping: Mapping[str, Any] = {"a": 1}
    assert store.put(Entry(KEY, "run-1"), mapping).outcome == "replaced"


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def aged(store: SessionStore, days: float) -> Entry:
    def ages(draft: Draft) -> None:
        draft.created_at = draft.updated_at = days_ago(days)
        draft.total_tokens = 7

    changed = store.modify(store.resolve(SOURCE).entry.key, ages, touch=False).entry
    assert changed is not None
    return changed


def test_a_policy_ends_a_session_and_says_why(store: SessionStore) -> None:
    old = aged(store, 2)
    assert store.resolve(SOURCE, reset=ResetPolicy(idle_minutes=5 * 1440)).outcome == "existing"
    old = aged(store, 2)
    found = store.resolve(SOURCE, reset=ResetPolicy(idle_minutes=60))
    assert (found.outcome, found.reason, found.previous_session_id) == ("replaced", "idle", old.session_id)
    assert found.had_activity and found.guard_error is None and found.entry.was_auto_reset
    aged(store, 2)
    assert store.resolve(SOURCE, reset=ResetPolicy(daily_hour=4, zone="Europe/Berlin")).reason == "daily"
    # The platform's own counts first, then the chat type's.
    aged(store, 2)
    never, soon = ResetPolicy(), ResetPolicy(idle_minutes=1)
    policy = ResetPolicy(idle_minutes=1, platforms={"telegram": never}, chat_types={"dm": soon})
    assert store.resolve(SOURCE, reset=policy).outcome == "existing" and "telegram" in repr(policy)
    aged(store, 2)
    assert store.resolve(SOURCE, reset=ResetPolicy(chat_types={"dm": soon})).reason == "idle"
    for wrong in ({"daily_hour": 24}, {"daily_hour": 4, "zone": "Mars"}, {"zone": "UTC"}):
        with pytest.raises(ValueError):
            ResetPolicy(**wrong)


def test_the_guard_of_a_policy_is_asked_by_key_and_its_exception_keeps(store: SessionStore) -> None:
    policy = ResetPolicy(idle_minutes=60)
    old = aged(store, 2)
    asked: list[str] = []

    def runs(key: str) -> bool:
        asked.append(key)
        return True

    assert store.resolve(SOURCE, reset=policy, guard=runs).entry.session_id == old.session_id
    assert asked == [old.key]
    aged(store, 2)

    def fails(key: str) -> bool:
        raise KeyError(key)

    found = store.resolve(SOURCE, reset=policy, guard=fails)
    assert found.outcome == "existing" and isinstance(found.guard_error, KeyError)
    aged(store, 2)
    with pytest.raises(KeyboardInterrupt):
        store.resolve(SOURCE, reset=policy, guard=lambda key: (_ for _ in ()).throw(KeyboardInterrupt()))
    aged(store, 2)
    with store.hold(old.key):  # type: ignore[union-attr]
        assert store.resolve(SOURCE, reset=policy).outcome == "existing"
    aged(store, 2)
    assert store.resolve(SOURCE, reset=policy, guard=lambda key: False).outcome == "replaced"
