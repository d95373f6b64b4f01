"""Blocking calls in threads that hold no process: looking for a model may hang for minutes, and a service must end at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def started(call: Callable[[], T], name: str) -> Future[T]:
    """Runs a call in a daemon thread; an executor's threads would be waited for when the process ends.

    Args:
        call: What to do.
        name: Name of the thread.
    """
    answer: Future[T] = Future()

    def run() -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
            answer.set_exception(error)
        else:
            answer.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer
