"""Rule 7: exceptions, and what pickles."""

import copy
import errno
import os
import pickle
import re
from pathlib import Path

import pytest

import cloakroom_store
from cloakroom_store import (
    Cause,
    Entry,
    Error,
    InvalidName,
    Locked,
    NotFound,
    PermissionDenied,
    PruneReport,
    Removed,
    SessionStore,
)
from cloakroom_store import _errors as errors

from .conftest import KEY, Run


def test_every_error_of_the_crate_has_a_class() -> None:
    source = Path(__file__).parents[3] / "src" / "error.rs"
    if not source.exists():
        pytest.skip("the crate's source is not here: this is a source distribution")
    kinds = re.findall(r'(#\[cfg\(feature = "valkey"\)\]\s+)?Self::\w+.*=> "(\w+)",$', source.read_text(), re.MULTILINE)
    # This package is built without the cluster.
    met = {kind for is_of_the_cluster, kind in kinds if not is_of_the_cluster}
    assert len(met) > 40 and met == set(errors.CLASSES)
    # What a caller can do something about is not the base class.
    assert Error not in errors.CLASSES.values()


def test_every_class_is_exported_and_documented() -> None:
    classes = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
    for each in classes:
        assert getattr(cloakroom_store, each.__name__) is each and each.__doc__
        assert issubclass(each, Error) or each is Cause


def test_a_path_with_nothing_at_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        SessionStore.open(tmp_path / "none")
    assert (missing.value.kind, missing.value.errno) == ("not_found", errno.ENOENT)
    assert missing.value.path == str(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_directory_that_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionDenied) as caught:
        SessionStore.open(tmp_path / "db", create=True)
    tmp_path.chmod(0o700)
    assert caught.value.errno == errno.EACCES and isinstance(caught.value.__cause__, PermissionError)


def test_a_key_is_in_no_message(store: SessionStore) -> None:
    for wrong in ("", "x" * 5000, "..", "a\0b"):
        with pytest.raises(InvalidName) as caught:
            store.get(wrong)
        assert isinstance(caught.value, ValueError) and caught.value.__cause__ is not None
        assert not wrong or wrong == ".." or wrong not in f"{caught.value} {caught.value.__cause__}"


def test_a_store_that_failed_says_why(run: Run) -> None:
    """The file system is full: a limit on the size of files is what a process can give itself."""
    run(
        """
        import errno, resource
        store = SessionStore.open(path, create=True)
        store.resolve_as(KEY).receipt.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))

        async def main():
            outcomes = await asyncio.gather(*(awaited(n) for n in range(5)), return_exceptions=True)
            assert all(isinstance(each, ReadOnly) for each in outcomes), outcomes
            assert len({id(each) for each in outcomes}) == 5

        async def awaited(number):
            await store.resolve_as(f"mine:{number}").receipt

        asyncio.run(main())
        try:
            store.touch(KEY)
        except ReadOnly as error:
            below = error.__cause__
            assert isinstance(below, DiskFull) and isinstance(below.__cause__, OSError), repr(below)
            assert error.errno == below.errno == below.__cause__.errno == errno.EFBIG
            print(type(below).__name__)
        try:
            store.close()
        except ReadOnly:
            print("close says so too")
        """,
        expect="DiskFull\nclose says so too\n",
    )


def test_exceptions_pickle(path: Path, store: SessionStore) -> None:
    with pytest.raises(Locked) as caught:
        SessionStore.open(path)
    back = pickle.loads(pickle.dumps(caught.value))
    assert (type(back), str(back)) == (Locked, str(caught.value))
    assert (back.kind, back.path, back.holder, back.this_process) == ("locked", str(path), caught.value.holder, True)
    plain = pickle.loads(pickle.dumps(Removed("gone")))
    assert (type(plain), str(plain), plain.errno) == (Removed, "gone", None)


def test_entries_pickle_with_all_their_fields(store: SessionStore) -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    whole = Entry(
        KEY,
        "run-1",
        created_at=now,
        last_interaction=now,
        suspended=True,
        resume_pending=True,
        pinned=True,
        input_tokens=2**64 - 1,
        output_tokens=1,
        cache_read_tokens=2,
        cache_write_tokens=3,
        total_tokens=4,
        last_prompt_tokens=5,
        estimated_cost_usd=0.1 + 0.2,
        display_name="Ada \ud7ff 😀",
        platform="telegram",
        chat_type="dm",
        origin={"platform": "telegram", "chat_type": "dm", "chat_id": "1"},
        cost_status="estimated",
        expiry_finalized=True,
        resume_reason="restart",
        last_resume_marked_at=now,
        active_turn_token="t",
        active_turn_started_at=now,
        is_fresh_reset=True,
        was_auto_reset=True,
        auto_reset_reason="idle",
        reset_had_activity=True,
        prev_session_id="run-0",
    )
    stored = store.put(whole, {"a": 1}).entry
    assert stored is not None and stored.extras_bytes > 0
    for entry in (whole, stored):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(entry, protocol)) == entry
        back = copy.deepcopy(entry)
        names = [name for name in dir(entry) if not name.startswith("_") and not callable(getattr(entry, name))]
        assert len(names) > 30
        for name in names:
            assert getattr(back, name) == getattr(entry, name), name
    assert stored.replace() == stored


class Unportable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def test_reports_pickle_with_exceptions_of_any_kind(store: SessionStore) -> None:
    from datetime import UTC, datetime, timedelta

    store.put(Entry(KEY, "run-1", created_at=datetime.now(UTC) - timedelta(days=100)))
    store.put(Entry("mine:2", "run-1", created_at=datetime.now(UTC) - timedelta(days=99)))
    raised = iter([Unportable("one", "two"), ValueError("three")])

    def guard(key: str) -> bool:
        raise next(raised)

    report = store.prune(90, guard=guard)
    back: PruneReport = pickle.loads(pickle.dumps(report))
    assert back == report and [str(error) for error in back.guard_errors] == ["Unportable: one", "three"]
    assert isinstance(back.guard_errors[1], ValueError) and isinstance(report.guard_errors[0], Unportable)
    for other in (store.open_report(), store.stats(), store.forget("none"), store.recover_interrupted_turns()):
        assert pickle.loads(pickle.dumps(other)) == other


def test_stores_receipts_leases_and_watchers_refuse_with_a_sentence(store: SessionStore) -> None:
    store.resolve_as(KEY)
    for thing, sentence in [
        (store, "belongs to the process"),
        (store.touch(KEY), "belongs to the process"),
        (store.hold(KEY), "hold_until"),
        (store.watch(0), "belongs to the process"),
    ]:
        for refuses in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=sentence):
                refuses(thing)
