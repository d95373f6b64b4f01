"""Concurrent work: coroutines that end together, blocking calls in threads that do not keep the process alive, and a watchdog.

A request to a server that hangs must not keep a service from ending.
The threads of ``asyncio.to_thread`` are waited for when the process ends; these are daemons. Whatever may hang (MLflow, Weights &
Biases, the import of a framework) runs here; what computes for a moment runs in ``asyncio.to_thread``.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def run_concurrently(*work: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until all are done. The first failure cancels the others and is raised.

    Use it instead of ``asyncio.TaskGroup``. A group that fails leaves its task with a pending request to cancel (before Python 3.13),
    and then every ``asyncio.timeout`` in that task raises ``CancelledError`` (before Python 3.11.3, gh-102780).
    """
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def watch_event_loop(seconds: float) -> None:
    """End this process if the running event loop makes no turn for that long, with the stacks of all threads on standard error.

    What starts services again (Docker, ``fiot run``) sees a process that ended, but not one that hangs. The timer runs outside of the
    interpreter, so it also ends a process in which nothing in Python can run. It keeps running after the loop has ended: a process
    that does not come to its end ends, too. Not while debugging or tracing, when a loop may stand still for long.

    Args:
        seconds: Longest time between two turns; 0 for no watchdog.
    """
    if not seconds or sys.gettrace() is not None:
        return
    loop = asyncio.get_running_loop()

    def beat() -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)
        loop.call_later(min(seconds / 4, 5.0), beat)

    beat()


@contextmanager
def importing() -> Iterator[None]:
    """Import a framework within this block, without the garbage collector.

    Nearly all that an import makes stays, and the collector goes through it again and again: a sixth of an import's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def started(call: Callable[[], T], name: str) -> Future[T]:
    """Runs a call in a thread of its own.

    Args:
        call: What to do.
        name: Name of the thread.
    """
    answer: Future[T] = Future()
    threading.Thread(target=_carry_out, args=(call, answer), name=name, daemon=True).start()
    return answer


async def run(call: Callable[[], T], name: str) -> T:
    """Runs a call in a thread of its own and waits for it. Cancelling the caller does not stop the call."""
    return await asyncio.wrap_future(started(call, name))


class Worker:
    """Runs calls one after another in one thread."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """Runs a call after what waits there already. Cancelling the caller does not stop a call that has begun."""
        answer: Future[T] = Future()
        self._queue.put((call, answer))
        return await asyncio.wrap_future(answer)

    async def close(self, seconds: float) -> bool:
        """Let the thread end after its present call; return whether it did within ``seconds``."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            _carry_out(*item)
            del item  # else the last result stays until the next call


def _carry_out(call: Callable[[], Any], answer: Future[Any]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
        answer.set_exception(error)
    else:
        answer.set_result(result)
