"""Counts that take long, and those that do not come back in time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from complex_system.storage.mongo.secantus import OLD, PAUSE, TOO_LONG, CachedCount


class Clock:
    """A clock that goes as far as it is told, and a count that takes so long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.takes = 0.0
        self.fails = False
        self.counted = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    async def count(self) -> int:
        self.counted += 1
        self.now += self.takes
        if self.fails:
            raise TimeoutError
        return 100_000


async def test_a_count_that_times_out_leaves_the_answer_with_what_was_written_and_is_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    count = CachedCount(clock.count)
    assert await count.get() == 100_000
    clock.takes, clock.fails = 4 * TOO_LONG, True
    clock.now += 1000
    count.add(500, count.moments)
    assert await count.get() == 100_500
    count.add(500, count.moments)
    assert await count.get() == 101_000
    assert clock.counted == 2
    clock.takes, clock.fails = 0.0, False
    clock.now += PAUSE * 4 * TOO_LONG
    assert await count.get() == 100_000


@pytest.mark.parametrize("known", [True, False])
async def test_a_server_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    clock = Clock(monkeypatch)
    count: Any = CachedCount(clock.count)
    if known:
        await count.get()
    clock.fails, clock.takes = True, TOO_LONG / 2
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await count.get()


@pytest.mark.parametrize("among", [None, 1_000_000])
async def test_a_first_count_that_times_out_is_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch, among: int | None
) -> None:
    clock = Clock(monkeypatch)
    count = CachedCount(clock.count)
    clock.fails, clock.takes = True, TOO_LONG
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await count.get(among)
    assert clock.counted == 1
    clock.fails, clock.now = False, clock.now + PAUSE * TOO_LONG
    assert await count.get(among) == 100_000


async def test_what_a_count_may_have_already_is_counted_anew_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.takes = 1.0
    count = CachedCount(clock.count)
    before = count.moments
    await count.get()  # while a write is under way, which the server has done
    count.add(500, before)
    assert await count.get() == 100_500
    clock.now += OLD * 1.0
    assert await count.get() == 100_000
    count.add(500, count.moments)
    clock.now += OLD * 2.0
    assert await count.get() == 100_500
    assert clock.counted == 2
