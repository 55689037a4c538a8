"""Receipts and events in event loops.

Each loop has one pipe (`Hub`). The store's waker writes a byte into it and never calls Python; the loop reads the pipe as
it reads any other, and settles what waits. One waker serves all that wait for one commit in one loop.
"""

import asyncio
import weakref
from collections.abc import Generator
from typing import TYPE_CHECKING

from ._core import Hub, Receipt

if TYPE_CHECKING:
    from ._core import Events, SessionStore
    from ._reports import Event

_Future = asyncio.Future[None]


class _Waiting:
    """What waits in one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.hub = Hub()
        self.numbers: dict[tuple[int, int], int] = {}
        self.waiting: dict[int, tuple[Receipt, list[_Future]]] = {}
        self.last = 0
        loop.add_reader(self.hub.fileno(), self.settle)

    def add(self, receipt: Receipt, future: _Future) -> None:
        """Has the future settled when the receipt's commit is durable."""
        commit = (receipt._opening, receipt.commit)
        number = self.numbers.get(commit)
        if number is not None:
            self.waiting[number][1].append(future)
            return
        self.last = number = self.last + 1
        if self.hub.watch(receipt, number):
            future.set_result(None)
            return
        self.numbers[commit] = number
        self.waiting[number] = (receipt, [future])

    def settle(self) -> None:
        for number in self.hub.take():
            receipt, futures = self.waiting.pop(number)
            del self.numbers[receipt._opening, receipt.commit]
            for future in futures:
                if future.done():
                    continue
                # Each gets an exception of its own: a shared one would collect the tracebacks of all.
                try:
                    receipt.durable
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(None)


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = weakref.WeakKeyDictionary()


def _of_loop(loop: asyncio.AbstractEventLoop) -> _Waiting:
    waiting = _loops.get(loop)
    if waiting is None:
        # Futures that nobody settles keep a closed loop alive.
        for other in [other for other in _loops if other.is_closed()]:
            del _loops[other]
        waiting = _loops[loop] = _Waiting(loop)
    return waiting


def wait(receipt: Receipt) -> Generator[object, None, None]:
    """What `await receipt` does."""
    if receipt.durable:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "a receipt is awaited in asyncio; elsewhere wait in a thread: await anyio.to_thread.run_sync(receipt.wait)"
        ) from None
    future: _Future = loop.create_future()
    _of_loop(loop).add(receipt, future)
    yield from future.__await__()


# Events that a stream hands out one after the other before the loop's other tasks have their turn.
AT_A_TIME = 64


class Stream:
    """Events in a loop. Their pipe is watched only while somebody waits."""

    def __init__(self, events: "Events") -> None:
        self.events = events
        self.handed_out = 0

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> "Event":
        # Before an event is taken, so that a task that is cancelled here loses none.
        if self.handed_out >= AT_A_TIME:
            self.handed_out = 0
            await asyncio.sleep(0)
        while True:
            event, has_ended = self.events._next()
            if event is not None:
                self.handed_out += 1
                return event
            if has_ended:
                raise StopAsyncIteration
            await self.readable()

    async def readable(self) -> None:
        loop = asyncio.get_running_loop()
        future: _Future = loop.create_future()
        pipe = self.events._watch()

        def settle() -> None:
            if not future.done():
                future.set_result(None)

        try:
            loop.add_reader(pipe, settle)
            try:
                await future
            finally:
                loop.remove_reader(pipe)
        finally:
            self.events._unwatch()


async def ready(store: "SessionStore") -> "SessionStore":
    """What `async with store` begins with."""
    return store


async def close(store: "SessionStore") -> None:
    """What it ends with."""
    await asyncio.to_thread(store.close)
