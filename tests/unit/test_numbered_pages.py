"""Numbered pages far from the beginning: what is looked for, and for how long."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID
from complex_system.domain.pages import Page
from complex_system.errors import StoreUnavailableError
from complex_system.protocol.database import KeyRangesRequest, RecordCounts
from complex_system.service_layer.database import service as database_service
from complex_system.service_layer.database.service import DatabaseService

RECORDS = 100


class Store:
    """Has records whose keys are their places, and remembers over how many it has walked."""

    def __init__(self, counted: int) -> None:
        self.walked: list[int] = []
        self._counted = counted

    async def counts(self) -> RecordCounts:
        return RecordCounts(raw=0, processed=self._counted, labelled=0, rejected=0)

    async def processed_key(self, after: str | None, places: int) -> str | None:
        self.walked.append(places)
        place = int(after or -1) + places
        return f"{place:03}" if place < RECORDS else None

    async def processed_columns(self, columns: list[str], *, after: str | None, limit: int, **_: Any) -> Page:
        places = range(int(after or -1) + 1, RECORDS)[:limit]
        keys = [f"{place:03}" for place in places]
        table = pa.table({ID: keys, "y": list(places)})
        return Page(table, keys[-1] if len(keys) == limit else None)


def service_of(store: Any, monkeypatch: pytest.MonkeyPatch) -> DatabaseService:
    """Return a service without a broker; that its state is set is an error."""
    monkeypatch.setattr(database_service, "_PLACES_AT_ONCE", 10)
    service: Any = DatabaseService.__new__(type("MemoryService", (DatabaseService,), {"make_store": lambda _: store}))
    service.store, service.dataset, service._ends = store, SimpleNamespace(processed_names=(ID, "y")), {}
    found: DatabaseService = service
    return found


async def test_a_page_past_the_end_is_empty_as_soon_as_the_walk_arrives_there(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(RECORDS)
    service = service_of(store, monkeypatch)
    for number in (10**9, 11):
        assert await service._numbered_page(number, 10) == []
    assert store.walked == [10] * 22
    assert await service._numbered_page(8, 10) == [{"y": place} for place in range(80, 90)]


async def test_records_that_are_not_counted_yet_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(0)
    service = service_of(store, monkeypatch)
    for number in range(RECORDS // 5):
        assert await service._numbered_page(number, 5) == [{"y": place} for place in range(5 * number, 5 * number + 5)]
    service._ends = {}
    assert await service._numbered_page(2, 5) == [{"y": place} for place in range(10, 15)]
    for counted in (0, 50):
        service = service_of(Store(counted), monkeypatch)
        assert await service._numbered_page(9, 10) == [{"y": place} for place in range(90, 100)]


async def test_a_walk_that_takes_too_long_is_refused_and_the_service_stays_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(RECORDS)
    service = service_of(store, monkeypatch)

    async def set_state(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(service, "set_state", set_state)
    monkeypatch.setattr(database_service, "_WALK_SECONDS", 0.0)
    with pytest.raises(StoreUnavailableError, match="has walked over 10 of 90 records in 0 s") as caught:
        await service._numbered_page(9, 10)
    assert (caught.value.explained, caught.value.answered, store.walked) == (True, True, [10])
    assert await service._numbered_page(1, 10) == [{"y": place} for place in range(10, 20)]


async def test_ranges_that_were_found_are_returned_where_the_next_one_is_too_far_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = service_of(Store(RECORDS), monkeypatch)
    ranges = inspect.unwrap(DatabaseService.get_key_ranges)
    assert await ranges(service, KeyRangesRequest(count=3, places=30)) == ["029", "059", "089"]
    key_behind, found = service._key_behind, list[str | None]()

    async def slower(after: str | None, places: int) -> str | None:
        if found:
            monkeypatch.setattr(database_service, "_WALK_SECONDS", 0.0)
        found.append(await key_behind(after, places))
        return found[-1]

    monkeypatch.setattr(service, "_key_behind", slower)
    assert await ranges(service, KeyRangesRequest(count=3, places=30)) == ["029"]
    with pytest.raises(StoreUnavailableError, match="has walked over 10 of 30 records in 0 s"):
        await ranges(service, KeyRangesRequest(count=2, places=30, after="029"))
