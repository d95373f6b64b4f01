"""The hooks of the suite of stores, and what all its cases share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import REVISION, Page
from complex_system.domain.records import Record
from complex_system.protocol.database import Saved
from complex_system.storage.base import DataStore
from complex_system.testing.data import ODD_NAMES
from complex_system.testing.waiting import eventually

NEVER = "none"
"""A version that no pipeline has: every raw record waits for it."""
TARGET, R1, R2, R3 = "aufbereiteter_wert", "rohwert_1_labormessung", "rohwert_2_labormessung", "rohwert_3_labormessung"
"""Columns of the lab's records."""
EXACT = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3, 2**53 + 1.0, -1e-300]
"""Numbers that come back to the last bit, except that a negative zero is a zero."""

Open = Callable[..., Awaitable[DataStore]]


class StoreHooks(ABC):
    """What a test file says of its store: ``database`` and :meth:`make`, and the other hooks where the store can do more."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def database(self) -> Any:
        """A new, empty database of the test's own, in whatever form :meth:`make` takes it; a fixture, which removes it at the end."""
        raise NotImplementedError(
            f"{type(self).__name__} needs the fixture 'database': a new, empty database for each test."
        )

    @abstractmethod
    def make(self, dataset: Dataset, database: Any, *, replaces: bool = False) -> DataStore:
        """Return a store of a database, not opened. Several of one database are replicas: each sees what the others write.

        Args:
            dataset: What the records are.
            database: What the fixture ``database`` gives.
            replaces: Whether newer values replace older ones (the setting ``on_conflict``).
        """

    def port(self, database: Any) -> int | None:
        """Return the port on this machine where the database's server listens; None, the default, for a store without a server."""
        del database
        return None

    def at_port(self, database: Any, port: int) -> Any:
        """Return the same database, to be reached at another port; needed where :meth:`port` returns one."""
        raise NotImplementedError(f"{type(self).__name__} has a port, so it needs the hook 'at_port', too.")

    def behind(self, database: Any, port: int) -> Any:
        """Return the same database behind a proxy; override it where a driver would go round, as one that finds replicas does."""
        return self.at_port(database, port)

    async def refuse(self, database: Any, column: str, value: str) -> bool:
        """Have the database itself refuse raw records with a value, by a rule such as its operator may make.

        Return False, as by default, where a database has no such rules.
        """
        del database, column, value
        return False

    async def content(self, dataset: Dataset, database: Any) -> Any:
        """Return all that is kept of raw records, to compare; by default, what a store reads that was opened for it."""
        async with self.opened(dataset, database) as store:
            return (await store.unprocessed(NEVER, None, 10_000)).table.to_pylist()

    @pytest.fixture
    def dataset(self) -> Dataset:
        """The lab's data set."""
        return Dataset.shipped("lab")

    @pytest.fixture
    def records(self) -> list[Record]:
        """Thirty records of the lab."""
        records = list(Laboratory(seed=7).records(30))
        for place in (0, 2):  # so that other values of these two are conflicts, not values that were missing
            records[place][R2] = 8.5
        return records

    @pytest.fixture
    def record(self) -> Record:
        """A record of the lab with a value in every column."""
        return {**Laboratory(seed=7).complete_record(), "_id": "B-0007", TARGET: 42.5, R1: 7.5, R2: 8.5, R3: 0.25}

    @pytest_asyncio.fixture
    async def open_store(self, dataset: Dataset, database: Any) -> AsyncIterator[Open]:
        """Opens one more replica; with ``replaces=True`` newer values replace older ones."""
        async with AsyncExitStack() as opened:

            async def open_(*, replaces: bool = False) -> DataStore:
                return await opened.enter_async_context(self.opened(dataset, database, replaces=replaces))

            yield open_

    @pytest_asyncio.fixture
    async def store(self, open_store: Open) -> DataStore:
        """An open store of the lab's records."""
        return await open_store()

    @pytest_asyncio.fixture
    async def odd(self, database: Any) -> AsyncIterator[DataStore]:
        """An open store of records whose columns have odd names."""
        async with self.opened(ODD_NAMES, database) as store:
            yield store

    @asynccontextmanager
    async def opened(self, dataset: Dataset, database: Any, *, replaces: bool = False) -> AsyncIterator[DataStore]:
        """Open a store until the block ends."""
        store = self.make(dataset, database, replaces=replaces)
        try:
            await store.open()
            yield store
        finally:
            await store.close()


def counted(saved: Saved) -> dict[str, int]:
    """Return how many records of a batch were new, known and others than those of their keys."""
    return {"inserted": saved.inserted, "existing": saved.existing, "conflicts": saved.conflicts}


def raw_of(page: Page) -> list[Record]:
    """Return the raw records of a page, without their revisions."""
    found: list[Record] = page.table.drop_columns([REVISION]).to_pylist()
    return found


async def moment(store: DataStore) -> float:
    """Return a time by the database's clock that is after all that was written, and before all that is written from now on."""
    began = await store.now()

    async def later_than(before: float) -> float | None:
        now = await store.now()
        return now if now > before else None

    between = float(await eventually(lambda: later_than(began)))
    await eventually(lambda: later_than(between))
    return between
