"""A request of 200 bytes and its reply: ours and nats-py's. ``python -m benchmarks.request_reply``."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from nats.errors import NoRespondersError

from benchmarks.echo import ECHO, PLAIN
from benchmarks.plant import Plant, quick
from benchmarks.run import main
from benchmarks.tables import Table, compared, rounds_of
from complex_system.errors import NobodyListensError
from complex_system.local.processes import Child

VALUE = "x" * 200
NOTE = (
    "A text of {size} bytes and back, client, broker and responder a process each. Ours: `ask` to an `@answers` handler with all "
    "that is around it (Things, checks, errors as replies, a bounded number of tasks). nats-py: `request` to a callback that "
    "responds."
)
Ask = Callable[[], Awaitable[None]]


def measure(*, quick: bool) -> list[Table]:
    """One at a time, and 32 in flight."""
    count, rounds = (1000, 5) if quick else (4000, 7)
    note = NOTE.format(size=len(VALUE))
    with Plant() as plant:
        for kind in ("ours", "plain"):
            child = Child(
                kind, [sys.executable, "-m", "benchmarks.echo", kind], plant.folder / f"{kind}.log", plant.environment
            )
            child.start()
            plant.also(child.stop)
        client = plant.client.broker._client
        payload = VALUE.encode()

        async def ours() -> None:
            assert await plant.client.ask(ECHO, VALUE) == VALUE

        async def plain() -> None:
            assert (await client.request(PLAIN, payload, timeout=10)).data == payload

        async def answered(ask: Ask, absent: type[Exception]) -> None:
            deadline = time.monotonic() + 60
            while True:
                try:
                    return await ask()
                except absent:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.1)

        plant.run(answered(ours, NobodyListensError))
        plant.run(answered(plain, NoRespondersError))

        async def asked(ask: Ask, in_flight: int) -> float:
            left = iter(range(count))

            async def work() -> None:
                for _ in left:
                    await ask()

            began = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(in_flight)))
            return time.perf_counter() - began

        def seconds(in_flight: int) -> dict[str, list[float]]:
            ways = {
                "ours": lambda: plant.run(asked(ours, in_flight)),
                "nats-py alone": lambda: plant.run(asked(plain, in_flight)),
            }
            return rounds_of(ways, rounds)

        one, many = seconds(1), seconds(32)
    return [
        compared(
            "Request and reply, one at a time", note, one,
            count=count, unit="ms a request", per="each", aims={"nats-py alone": "<= 1.3 x"},
        ),
        compared(
            "Request and reply, 32 in flight", note, many,
            count=count, unit="requests/s", aims={"nats-py alone": ">= 0.6 x"},
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main(["request_reply"], quick=quick())
