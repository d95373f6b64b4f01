"""Answers with what it is asked: ``python -m benchmarks.echo ours|plain``, one service of ours, one subscription of nats-py."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import nats
from nats.aio.msg import Msg

from complex_system.messaging.handlers import answers
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Request
from complex_system.settings import Settings

ECHO = Request("benchmark-echo", Any, Any)
PLAIN = "benchmark-plain-echo"


class EchoService(SystemService):
    """A service with one handler."""

    @answers(ECHO)
    async def echo(self, value: Any) -> Any:
        """The value."""
        return value


async def plain() -> None:
    """The least that answers."""
    settings = Settings()
    client = await nats.connect(f"nats://{settings.nats_host}:{settings.nats_port}")

    async def answer(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe(PLAIN, cb=answer)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description=__doc__)
    parser.add_argument("kind", choices=["ours", "plain"])
    if parser.parse_args().kind == "ours":
        EchoService.main()
    else:
        asyncio.run(plain())
