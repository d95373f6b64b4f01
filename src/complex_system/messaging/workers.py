"""A bounded number of tasks that carry out the messages of one subscription side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

log = logging.getLogger(__name__)

_IN_A_ROW = 32
"""Messages that a task carries out before it lets the event loop have its turn, where nothing in them waits."""


class Workers:
    """Tasks that take the next message when they are done with the last.

    They read nats-py's queue of the subscription themselves. A task a message, and a callback that makes it, cost a small request as
    much as all the rest of its way through the service.
    """

    def __init__(
        self, subscription: Subscription, work: Callable[[Msg], Awaitable[None]], most: int, busy: set[asyncio.Task[None]]
    ) -> None:
        """Starts with one task; another one is made whenever none is free.

        Args:
            subscription: One without a callback.
            work: Carries out a message.
            most: Messages that are carried out at the same time.
            busy: Here a task is while it is at work.
        """
        self._subscription = subscription
        self._work = work
        self._most = most
        self._busy = busy
        self._free = 0
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._add()

    async def end(self) -> None:
        """Ends the tasks, those at work when they are done with it."""
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
        queue = subscription._pending_queue
        in_a_row = 0
        while not self._ended:
            self._free += 1
            try:
                message = await queue.get()
            finally:
                self._free -= 1
            # As nats-py does for a callback; what is taken counts as waiting no longer.
            subscription._pending_size -= len(message.data)
            queue.task_done()
            busy.add(task)
            if not self._free and len(self._tasks) < self._most:
                self._add()
            try:
                await self._work(message)
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                log.warning("The work on a message on '%s' was cancelled", message.subject)
            except Exception:
                log.exception("A message on '%s' could not be answered", message.subject)
            finally:
                busy.discard(task)
            in_a_row += 1
            if in_a_row == _IN_A_ROW:
                in_a_row = 0
                await asyncio.sleep(0)
