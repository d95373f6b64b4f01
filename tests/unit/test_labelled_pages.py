"""The ranges of keys that a worker of a shared fit reads."""

from __future__ import annotations

import inspect
from typing import Any

import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID
from complex_system.domain.pages import Page, encode_page
from complex_system.errors import StoreUnavailableError
from complex_system.messaging.clients import DatabaseClient
from complex_system.protocol.database import GET_COUNTS, GET_KEY_RANGES, GET_PROCESSED, ColumnsRequest, RecordCounts
from complex_system.service_layer.database.service import DatabaseService
from complex_system.service_layer.training.pages import LabelledPages
from complex_system.settings import Settings

KEYS = [f"k{number:02}" for number in range(40)]
ROWS = 3


class Database:
    """Answers requests for processed records as the database service does, in small pages, and remembers them.

    One of an earlier release does not know ``until``.
    """

    def __init__(self, away: int = 0, *, earlier: bool = False) -> None:
        self.asked: list[ColumnsRequest] = []
        self._away, self._earlier = away, earlier

    async def ask(self, request: Any, value: Any, seconds: float | None = None, made: float | None = None) -> Any:
        assert request is GET_PROCESSED
        self.asked.append(value)
        if len(self.asked) == self._away:
            raise StoreUnavailableError("away")
        until = None if self._earlier else value.until
        found = [key for key in KEYS if (value.after or "") < key and (until is None or key <= until)][:ROWS]
        return encode_page(Page(pa.table({ID: pa.array(found, pa.string())}), found[-1] if len(found) == ROWS else None))


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("away", [0, 1, 3])
async def test_a_worker_asks_for_its_ranges_only_and_gets_each_record_once(away: int, earlier: bool) -> None:
    database = Database(away, earlier=earlier)
    ranges = [(None, "k10"), ("k10", "k22"), ("k22", "k38"), ("k38", None)]
    pages = LabelledPages(Settings.construct(), "trainer", "v1", [ID], None, ranges)
    for low, high in ranges:
        read = [page async for page in pages._range(DatabaseClient(database), low, high)]
        found = [key for page in read for key in page.column(ID).to_pylist()]
        assert found == [key for key in KEYS if (low or "") < key and (high is None or key <= high)]
        assert {asked.until for asked in database.asked} == {high}
        assert len(database.asked) <= len(found) // ROWS + 1 + (away > 0)  # a range ends with its last key
        database.asked.clear()


class Replicas:
    """Answers requests for ranges in turn: the second replica is of an earlier release and knows neither ``places`` nor ``after``."""

    def __init__(self) -> None:
        self._asked = 0

    async def ask(self, request: Any, value: Any, seconds: float | None = None, made: float | None = None) -> Any:
        if request is GET_COUNTS:
            return RecordCounts(raw=40, processed=40, labelled=40, rejected=0)
        assert request is GET_KEY_RANGES
        self._asked += 1
        return KEYS[9:30:10] if self._asked == 2 else [KEYS[9]]


async def test_the_ranges_stay_in_order_where_a_replica_of_an_earlier_release_answers_too() -> None:
    assert await DatabaseClient(Replicas()).key_ranges(4) == [(None, KEYS[9]), (KEYS[9], None)]


class Places(DatabaseService):
    """A database service that has counted 40 records."""

    def make_store(self) -> Any:
        raise NotImplementedError

    async def _counts(self) -> RecordCounts:
        return RecordCounts(raw=40, processed=40, labelled=40, rejected=0)

    async def _key_behind(self, after: str | None, places: int) -> str | None:
        place = KEYS.index(after) + places if after else places - 1
        return KEYS[place] if place < len(KEYS) else None


@pytest.mark.parametrize(
    ("asked", "ends"),
    [({"count": 3}, ["k09", "k19", "k29"]), ({"count": 1000}, KEYS), ({"count": 2, "places": 15}, ["k14", "k29"])],
)
async def test_a_request_that_leaves_the_places_out_gets_ranges_of_the_same_size(asked: Any, ends: list[str]) -> None:
    answer = inspect.unwrap(DatabaseService.get_key_ranges)
    assert await answer(Places.__new__(Places), GET_KEY_RANGES.decode_request(asked)) == ends
