"""Blocking calls in threads that hold no process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from complex_system.background import Worker, run


async def test_a_call_gives_its_result_or_its_error() -> None:
    name = await run(lambda: threading.current_thread().name, "mine")
    assert name == "mine"
    with pytest.raises(ZeroDivisionError):
        await run(lambda: 1 // 0, "mine")


async def test_a_worker_runs_one_call_after_the_other_and_skips_what_nobody_waits_for() -> None:
    worker = Worker("w")
    go_on, done = threading.Event(), list[int]()
    first = asyncio.create_task(worker.run(go_on.wait))
    second, third = (asyncio.create_task(worker.run(lambda i=i: done.append(i))) for i in (2, 3))  # type: ignore[misc]
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    go_on.set()
    await third
    assert first.done()
    assert done == [3]
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.close(5.0)


HANGING = """
import asyncio, threading
from complex_system.background import Worker, run

async def main():
    hanging = [run(threading.Event().wait, "hangs"), Worker("w").run(threading.Event().wait)]
    await asyncio.wait([asyncio.create_task(each) for each in hanging], timeout=0.1)

asyncio.run(main())
"""


def test_a_call_that_hangs_holds_no_process() -> None:
    subprocess.run([sys.executable, "-c", HANGING], check=True, timeout=30)
