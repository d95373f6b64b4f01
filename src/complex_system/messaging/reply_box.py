"""Requests whose replies come to one inbox: nats-py's own way without its ``asyncio.wait_for``, which costs as much as the rest."""

from __future__ import annotations

import asyncio
from itertools import count

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

_NO_RESPONDERS = "503"


class ReplyBox:
    """One subscription that takes the replies to all requests of a connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = ""
        self._opening = asyncio.Lock()
        self._numbers = count()
        self._waiting: dict[str, asyncio.Future[Msg | Exception]] = {}

    async def ask(self, subject: str, payload: bytes, seconds: float) -> Msg:
        """Sends a request and waits for its reply.

        Raises:
            nats.errors.NoRespondersError: Nobody subscribes to the subject.
            nats.errors.TimeoutError: No reply in time.
            Exception: What :meth:`fail` was given, or what ``publish`` of nats-py raises.
        """
        if not self._prefix:
            await self._open()
        loop = asyncio.get_running_loop()
        number = str(next(self._numbers))
        reply: asyncio.Future[Msg | Exception] = loop.create_future()
        self._waiting[number] = reply
        late = loop.call_later(seconds, _settle, reply, NatsTimeoutError())
        try:
            await self._client.publish(subject, payload, self._prefix + number)
            found = await reply
        finally:
            late.cancel()
            self._waiting.pop(number, None)
        if isinstance(found, Exception):
            raise found
        if found.headers and found.headers.get("Status") == _NO_RESPONDERS:
            raise NoRespondersError
        return found

    def fail(self, error: Exception) -> None:
        """Ends all waiting with an error."""
        for reply in list(self._waiting.values()):
            _settle(reply, error)

    async def _open(self) -> None:
        async with self._opening:
            if not self._prefix:
                prefix = f"{self._client.new_inbox()}."
                await self._client.subscribe(f"{prefix}*", cb=self._came)
                self._prefix = prefix

    async def _came(self, message: Msg) -> None:
        reply = self._waiting.get(message.subject[len(self._prefix) :])
        if reply is not None:
            _settle(reply, message)


def _settle(reply: asyncio.Future[Msg | Exception], found: Msg | Exception) -> None:
    if not reply.done():
        reply.set_result(found)
