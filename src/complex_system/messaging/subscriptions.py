"""Subscriptions whose messages are handled concurrently by a bounded number of tasks, and that end without losing any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastiot.core.broker_connection import NatsBrokerSubscription
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from complex_system.messaging.nats_client import next_message

log = logging.getLogger(__name__)

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
