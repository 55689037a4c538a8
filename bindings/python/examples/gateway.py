"""A small chat gateway on asyncio: a platform that sends messages, sessions in a store, background jobs that hold theirs,
pruning in the background, and a clean end. It ends by itself after about a second.

    python examples/gateway.py
"""

import asyncio
import tempfile
from dataclasses import dataclass

from cloakroom_store import Draft, SessionStore


@dataclass
class Message:
    source: dict[str, str]
    text: str


async def platform(messages: asyncio.Queue[Message | None]) -> None:
    """Forty messages from five users, then it hangs up."""
    for number in range(40):
        source = {"platform": "discord", "chat_type": "group", "chat_id": "lobby", "user_id": f"user-{number % 5}"}
        await messages.put(Message(source, "please look into it" if number % 8 == 7 else f"message {number}"))
        await asyncio.sleep(0.015)
    await messages.put(None)


async def job(store: SessionStore, key: str) -> None:
    """Work that goes on after the answer, and must not lose its session: the lease protects that from pruning."""
    lease = store.hold(key)
    if lease is None:
        return
    with lease:
        await asyncio.sleep(0.1)


async def answer(store: SessionStore, jobs: asyncio.TaskGroup, message: Message) -> None:
    found = store.resolve(message.source)
    key = found.entry.key
    if found.outcome != "existing":
        print(f"{found.outcome}: session {found.entry.session_id}")
    # From here to the end of the turn, a crash is noticed at the next start.
    turn = store.begin_turn(key)
    if turn is None:
        return
    await asyncio.sleep(0.002)

    def counted(draft: Draft) -> None:
        draft.input_tokens += len(message.text)
        draft.set_extra("last_text_length", len(message.text))

    store.modify(key, counted, touch=False)
    if message.text.startswith("please"):
        jobs.create_task(job(store, key))
    store.end_turn(key, turn.token)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = await asyncio.to_thread(SessionStore.open, f"{directory}/sessions.db", create=True)
        async with store, asyncio.TaskGroup() as jobs:
            recovered = store.recover_interrupted_turns(3600.0)
            print(f"{len(recovered.resumable)} sessions to be resumed")
            store.watch(90)
            messages: asyncio.Queue[Message | None] = asyncio.Queue(16)
            jobs.create_task(platform(messages))
            while (message := await messages.get()) is not None:
                await answer(store, jobs, message)
            tokens = sum(entry.input_tokens for entry in store.entries(platform="discord"))
            print(f"{store.count()} sessions, {tokens} tokens")


asyncio.run(main())
