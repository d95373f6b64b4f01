"""Batches of a JetStream consumer, bounded by messages and by bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import Header, StatusCode

_EXPIRES = 3.0
_PATIENCE = 2.0
"""Seconds to wait for the broker beyond the time of the request."""
_ENDS = {StatusCode.NO_MESSAGES.value, StatusCode.REQUEST_TIMEOUT.value}
_GONE = ("Consumer Deleted", "Stream Deleted", "Leadership Change", "Server Shutdown")


def batches_of(stream: str, consumer: str) -> str:
    """Return the subject on which a consumer takes requests for batches."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


class Pull:
    """An inbox for batches, requested one after the other and bounded by messages and by bytes.

    The fetch of nats-py has no bound in bytes: hundreds of messages of the largest size would not fit into memory.
    """

    def __init__(
        self,
        client: Client,
        messages: int,
        max_bytes: int,
        subject: str,
        *,
        expires: float = _EXPIRES,
        acknowledged: bool = True,
    ) -> None:
        """Prepare the inbox without contacting the broker.

        Args:
            client: The connection.
            messages: Maximum messages of a batch.
            max_bytes: Maximum bytes of a batch; must exceed the largest message, which would never arrive otherwise.
            subject: Where the consumer takes requests for batches (:func:`batches_of`).
            expires: Seconds to wait for the first message where none is there.
            acknowledged: Whether the consumer's messages are acknowledged, so that those that arrive too late go back.
        """
        self._client = client
        self._messages = messages
        self._max_bytes = max_bytes
        self._subject, self._expires, self._acknowledged = subject, expires, acknowledged
        self._inbox = client.new_inbox()
        self._asked = 0
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Subscribe the inbox."""
        self._subscription = await self._client.subscribe(
            f"{self._inbox}.*", cb=self._arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def close(self) -> None:
        """Unsubscribe the inbox, and return messages that arrived too late to the stream."""
        if self._subscription is None or self._client.is_closed:
            return
        with contextlib.suppress(NatsError):
            # Also without a connection: after a reconnect the inbox would fill again, unread.
            await self._subscription.unsubscribe()
            while self._acknowledged and not self._arrived.empty():
                late = self._arrived.get_nowait()
                if _status(late) is None:
                    await late.nak()

    async def next(self, stopping: asyncio.Event) -> list[Msg]:
        """Return the next batch: what is there, or what arrives within a few seconds; may be empty.

        Raises:
            NatsError: The consumer does not answer or is gone.
        """
        found = await self._collect({"batch": self._messages, "no_wait": True}, stopping)
        if not found and not stopping.is_set():
            found = await self._collect({"batch": 1, "expires": int(self._expires * 1e9)}, stopping)
            if found and self._messages > 1:
                with contextlib.suppress(NatsError):  # the next batch reports it; these messages are here
                    found += await self._collect({"batch": self._messages - 1, "no_wait": True}, stopping)
        return found

    async def _collect(self, wanted: dict[str, int | bool], stopping: asyncio.Event) -> list[Msg]:
        self._asked += 1
        reply = f"{self._inbox}.{self._asked}"
        asked = json.dumps({**wanted, "max_bytes": self._max_bytes}).encode()
        await self._client.publish(self._subject, asked, reply=reply)
        found: list[Msg] = []
        ended = asyncio.create_task(stopping.wait())
        try:
            while len(found) < wanted["batch"]:
                message = await self._message(_PATIENCE + (self._expires if "expires" in wanted else 0), ended)
                if message is None:
                    # A broker that is gone says nothing at all.
                    if not found and not ended.done():
                        raise NatsError("the broker does not deliver")
                    break
                status = _status(message)
                if status is None:
                    found.append(message)
                elif message.subject != reply:
                    continue  # belongs to an earlier batch
                elif found or status in _ENDS:
                    break
                elif status == StatusCode.SERVICE_UNAVAILABLE.value:
                    raise NoRespondersError
                elif any(word in _description(message) for word in _GONE):
                    raise NatsError(_description(message))
                else:
                    break
        finally:
            ended.cancel()
        return found

    async def _message(self, seconds: float, ended: asyncio.Task[bool]) -> Msg | None:
        """Return the next message; None if none arrives in time, or after the stop."""
        if not self._arrived.empty():
            return self._arrived.get_nowait()
        came = asyncio.create_task(self._arrived.get())
        try:
            await asyncio.wait({came, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return came.result() if came.done() else None
        finally:
            came.cancel()


def _status(message: Msg) -> str | None:
    """Return the status of a message of the broker itself; None for one of the stream."""
    if message.headers is None or message.reply:
        return None
    return message.headers.get(Header.STATUS.value)


def _description(message: Msg) -> str:
    return (message.headers or {}).get(Header.DESCRIPTION.value, "")
