"""When the round scheduler counts what is new since an alert."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ReplyTimeoutError
from complex_system.evaluation.triggers import AlertCause, GrowthTrigger
from complex_system.protocol.database import RecordCounts
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


async def test_it_says_how_many_labelled_records_the_first_round_lacks() -> None:
    """A file of 51 films trains with `fiot run --data`, which lowers the bound, and would wait silently with a deployment's own."""
    counts = RecordCounts(raw=51, processed=51, labelled=51, rejected=0)

    class Counting:
        async def counts(self) -> RecordCounts:
            return counts

    rounds = RoundScheduler(Settings(), Counting(), None, None, Dataset.load(), None, None)  # type: ignore[arg-type]
    rounds.growth = GrowthTrigger(200, 0.25)
    assert await rounds.next(60.0) is None
    assert (
        rounds.waits == "the first training round needs 200 labelled records (COMPLEX_SYSTEM_MIN_LABELLED), and there are 51"
    )
    rounds.growth = GrowthTrigger(200, 0.25, last_labelled=300)
    assert await rounds.next(60.0) is None
    assert not rounds.waits, "there was one"
