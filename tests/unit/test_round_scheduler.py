"""When the round scheduler counts what is new since an alert."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ReplyTimeoutError
from complex_system.evaluation.triggers import AlertCause
from complex_system.service_layer.rounds import scheduler
from complex_system.service_layer.rounds.scheduler import MAX_COUNTING_PAUSE, RoundScheduler
from complex_system.settings import Settings


class SlowCount:
    """Counts slowly: in every place of the clock that a look takes, a label comes."""

    def __init__(self) -> None:
        self.now, self.seconds, self.looks = 100.0, 2.0, 0
        self.error: ReplyTimeoutError | None = None

    async def newest(self, _count: int, _since: float) -> tuple[int, float | None]:
        self.now += self.seconds
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.looks, None


async def test_what_is_new_since_an_alert_is_not_counted_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that arrived since then is read, and where labels come hours later that may be a million records at every look."""
    data: Any = SlowCount()
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(monotonic=lambda: data.now))
    settings = Settings(retrain_newest=50)
    rounds = RoundScheduler(settings, None, data, None, Dataset.load(), None, None)  # type: ignore[arg-type]
    cause = AlertCause(("a",), 7.0, "About a.")
    for _ in range(600):
        assert not await rounds._enough_since(cause)
        assert rounds.waits.startswith("an alert asks for a training round: ")
        data.now += 1.0
    assert 25 < data.looks < 32, "a tenth of the time at most"
    looks = data.looks
    assert not await rounds._enough_since(AlertCause(("a", "b"), 9.0, "Also about b."))
    assert data.looks == looks + 1, "another time is another question"
    data.error, data.now = ReplyTimeoutError("The database does not answer within 30 s."), data.now + 30
    assert not await rounds._enough_since(cause), "the growth of the data may still ask for a round"
    assert "cannot be counted: The database does not answer within 30 s." in rounds.waits
    data.error, data.seconds, data.looks = None, 600.0, 49
    data.now += MAX_COUNTING_PAUSE
    assert await rounds._enough_since(cause)
    assert not rounds.waits
    await rounds._enough_since(None)
    assert not rounds.waits
