"""Blocking calls in threads that hold no process, and processes that end themselves."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from complex_system.background import Worker, importing, run, run_concurrently


async def test_the_first_failure_cancels_the_others_and_is_raised() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_concurrently(wait(), fail())
    assert ended.is_set()


async def test_timeouts_work_in_a_task_after_a_failure() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_concurrently(fail())
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()


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
    subprocess.run([sys.executable, "-c", HANGING], check=True, timeout=120)


HANGS = {
    # A call that lets other threads run, and one that holds the interpreter: a pattern that goes back and forth without an end.
    "sleeping": "import time; time.sleep(60)",
    "computing": "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
}
WATCHED = """
import asyncio, sys
from complex_system.background import watch_event_loop

async def main():
    watch_event_loop(float(sys.argv[2]))
    await asyncio.sleep(float(sys.argv[1]))
    print("alive", flush=True)
    {hang}

asyncio.run(main())
"""


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_process_whose_event_loop_hangs_ends_itself_and_says_where(hang: str) -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED.format(hang=hang), "3", "2"], text=True, capture_output=True,
                          check=False, timeout=120)  # fmt: skip
    assert done.stdout == "alive\n"  # it lived for longer than the watchdog's time
    assert done.returncode == 1
    assert "Timeout (0:00:02)!" in done.stderr
    assert "in main" in done.stderr


def test_a_process_that_works_and_ends_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED.format(hang="pass"), "0", "25"], text=True, capture_output=True,
                          check=False, timeout=120)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_an_import_runs_without_the_garbage_collector() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
