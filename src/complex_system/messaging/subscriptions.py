"""Subscriptions whose messages are handled concurrently by a bounded number of tasks, and that end without losing any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastiot.core.broker_connection import NatsBrokerSubscription
from fastiot.core.data_models import ReplySubject, Subject
from fastiot.msg import Thing
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from complex_system import tracing
from complex_system.errors import InvalidRequestError, ReplyTimeoutError, TooLargeError
from complex_system.logs import REQUEST, Identified
from complex_system.messaging.nats_client import next_message
from complex_system.messaging.subjects import PREDICT, PREDICT_WANDB, PROCESS_RAW, SAVE_RAW
from complex_system.messaging.things import error_value, serialize_from_bin, serialize_to_bin, to_thing
from complex_system.protocol import serving

log = logging.getLogger(__name__)

Handler = Callable[[Thing], Awaitable[Thing | None]]

_BEGINNINGS = (
    SAVE_RAW, PROCESS_RAW, PREDICT, serving.PREDICT_COLUMNS, serving.EXPLAIN,
    PREDICT_WANDB, serving.PREDICT_COLUMNS_WANDB, serving.EXPLAIN_WANDB,
)  # fmt: skip
TRACED = frozenset(request.name for request in _BEGINNINGS)
"""Requests that begin a trace where their sender has none; each poll of a service would be a trace otherwise."""
DRAIN_SECONDS = 10.0
"""Seconds in which a service that stops answers the requests it has received."""
_IN_A_ROW = 32
"""Messages that a task handles before it yields to the event loop, if no handler awaits anything."""


class Workers:
    """Tasks that take the next message when they have handled the last one.

    A task per message would cost a small request as much as the rest of its way through the service.
    """

    def __init__(
        self, subscription: Subscription, work: Callable[[Msg], Awaitable[None]], limit: int, busy: set[asyncio.Task[None]]
    ) -> None:
        """Start with one task; another one is added whenever none is free.

        Args:
            subscription: One without a callback.
            work: Handles a message.
            limit: Messages handled at the same time.
            busy: Holds the tasks that handle a message at the moment.
        """
        self._subscription = subscription
        self._work = work
        self._limit = limit
        self._busy = busy
        self._free = 0
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._add()

    async def end(self) -> None:
        """End the tasks; busy ones end after their present message."""
        self._ended = True
        free = self._tasks - self._busy - {asyncio.current_task()}
        for task in free:
            task.cancel()
        await asyncio.gather(*free, return_exceptions=True)

    def _add(self) -> None:
        task = asyncio.create_task(self._run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        task: Any = asyncio.current_task()
        subscription, busy = self._subscription, self._busy
        in_a_row = 0
        while not self._ended:
            self._free += 1
            try:
                message = await next_message(subscription)
            finally:
                self._free -= 1
            busy.add(task)
            if not self._free and len(self._tasks) < self._limit:
                self._add()
            try:
                await self._work(message)
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                log.warning("Handling a message on '%s' was cancelled", message.subject)
            except Exception:
                log.exception("A message on '%s' could not be answered", message.subject)
            finally:
                busy.discard(task)
            in_a_row += 1
            if in_a_row == _IN_A_ROW:
                in_a_row = 0
                await asyncio.sleep(0)


class DrainingSubscription(NatsBrokerSubscription):
    """A subscription that ends after the messages that have arrived; nats-py's own ``unsubscribe`` discards them."""

    def __init__(self, client: Client, subscription: Subscription, workers: Workers) -> None:
        super().__init__()
        self._client = client
        self._workers = workers
        self._set_subscription(subscription)

    @property
    def subject(self) -> str:
        """Name of its subject."""
        return str(self._subscription.subject)

    async def unsubscribe(self) -> None:
        """Unsubscribe after the messages that have arrived are handled."""
        if not self._client.is_connected:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._subscription.drain()
        except (NatsError, TimeoutError) as error:
            log.warning("Messages on '%s' may stay unanswered: %s", self._subscription.subject, error or "no time left")
        await self._workers.end()


def answering(client: Client, subject: ReplySubject, cb: Handler, name: str) -> Callable[[Msg], Awaitable[None]]:
    """Return what answers requests with a handler, whatever happens in it.

    Args:
        client: Sends the replies.
        subject: Of the requests.
        cb: The handler.
        name: snake_case name of the service, which signs errors.
    """

    async def reply_to(message: Msg) -> bytes:
        try:
            return serialize_to_bin(Thing, await cb(_decode(subject, message)))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            log.warning("Handling a request on '%s' was cancelled", subject.name)
            given_up = ReplyTimeoutError(
                f"The service stopped handling a request on '{subject.name}', probably because it ends; it is not known "
                "whether the request was carried out. Send it again."
            )
            return serialize_to_bin(Thing, to_thing(error_value(given_up), name))
        except Exception as error:  # noqa: BLE001 - the caller gets every error as a reply
            tracing.failed(error)
            return serialize_to_bin(Thing, to_thing(error_value(error), name))

    async def answer(message: Msg) -> None:
        REQUEST.set(Identified(message.headers))
        with tracing.received(subject.name, message.headers, tracing.NATS, begins=subject.name in TRACED):
            payload = await reply_to(message)
        if not message.reply:
            return
        if len(payload) > client.max_payload:
            refusal = TooLargeError(
                f"The reply on '{subject.name}' has {len(payload)} bytes, more than the broker's limit of "
                f"{client.max_payload}; send or request fewer records at a time, page by page."
            )
            payload = serialize_to_bin(Thing, to_thing(error_value(refusal), name))
        await client.publish(message.reply, payload)

    return answer


def hearing(subject: Subject, cb: Callable[..., Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
    """Return what passes events to a handler; what cannot be decoded or handled is logged and has no other effect."""

    async def consume(message: Msg) -> None:
        try:
            await cb(_decode(subject, message))
        except InvalidRequestError as error:
            log.warning("Dropped an event on '%s': %s", message.subject, error.message)
        except Exception:
            log.exception("An event on '%s' could not be handled", message.subject)

    return consume


def _decode(subject: Subject, message: Msg) -> Thing:
    try:
        thing: Thing = serialize_from_bin(subject.msg_cls, message.data)
    except Exception as error:
        raise InvalidRequestError(f"'{subject.name}' takes a FastIoT Thing as msgpack: {error}") from error
    return thing
