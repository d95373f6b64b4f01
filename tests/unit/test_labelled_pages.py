"""The ranges of keys that a worker of a shared fit reads."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID
from complex_system.domain.pages import Page, encode_page
from complex_system.errors import StoreUnavailableError
from complex_system.messaging.clients import DatabaseClient
from complex_system.protocol.database import GET_PROCESSED, ColumnsRequest
from complex_system.service_layer.training.pages import LabelledPages
from complex_system.settings import Settings

KEYS = [f"k{number:02}" for number in range(40)]
ROWS = 3


class Database:
    """Answers requests for processed records as the database service does, in small pages, and remembers them."""

    def __init__(self, away: int = 0) -> None:
        self.asked: list[ColumnsRequest] = []
        self._away = away

    async def ask(self, request: Any, value: Any, seconds: float | None = None, made: float | None = None) -> Any:
        assert request is GET_PROCESSED
        self.asked.append(value)
        if len(self.asked) == self._away:
            raise StoreUnavailableError("away")
        found = [key for key in KEYS if (value.after or "") < key and (value.until is None or key <= value.until)][:ROWS]
        return encode_page(Page(pa.table({ID: pa.array(found, pa.string())}), found[-1] if len(found) == ROWS else None))


@pytest.mark.parametrize("away", [0, 1, 3])
async def test_a_worker_asks_for_its_ranges_only_and_gets_each_record_once(away: int) -> None:
    database = Database(away)
    ranges = [(None, "k10"), ("k10", "k22"), ("k22", None)]
    pages = LabelledPages(Settings.construct(), "trainer", "v1", [ID], None, ranges)
    for low, high in ranges:
        read = [page async for page in pages._range(DatabaseClient(database), low, high)]
        found = [key for page in read for key in page.column(ID).to_pylist()]
        assert found == [key for key in KEYS if (low or "") < key and (high is None or key <= high)]
        assert {asked.until for asked in database.asked} == {high}
        database.asked.clear()
