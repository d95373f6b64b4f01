"""A database that is not there, goes away, or refuses a record; and writes that leave nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, StoreUnavailableError
from complex_system.storage.base import DataStore
from complex_system.storage.quarantine import RawWriter
from complex_system.testing.proxy import free_port, proxied
from complex_system.testing.stores.base import R1, StoreHooks, counted


class FailureCases(StoreHooks):
    """Cases of what fails. Those of a server need :meth:`port`, those of rules :meth:`refuse`."""

    def server_port(self, database: Any) -> int:
        """Return the server's port; skip the test of a store without a server."""
        port = self.port(database)
        if port is None:
            pytest.skip("this store has no server: its hook 'port' returns None")
        return port

    async def require_rule(self, database: Any, column: str, value: str) -> None:
        """Have the database refuse a value; skip the test of a store without such rules."""
        if not await self.refuse(database, column, value):
            pytest.skip("this database has no rules of its own: its hook 'refuse' returns False")

    async def test_two_replicas_may_open_a_new_database_at_once(self, dataset: Dataset, database: Any) -> None:
        """Replicas that start at the same time on a new database all open it."""
        stores = [self.make(dataset, database) for _ in range(3)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
            assert (await stores[2].counts()).raw == 0
        finally:
            await asyncio.gather(*(store.close() for store in stores))

    async def test_a_store_that_is_not_open_says_so(self, dataset: Dataset, database: Any) -> None:
        """Before it is opened and after it is closed, once or twice, a store raises ``StoreUnavailableError``."""
        store = self.make(dataset, database)
        with pytest.raises(StoreUnavailableError):
            await store.counts()
        await store.open()
        await store.close()
        await store.close()
        for attempt in (store.counts, store.ping, store.probe, lambda: store.save_raw([store.example("a")])):
            with pytest.raises(StoreUnavailableError):
                await attempt()
        await store.open()
        assert (await store.counts()).raw == 0
        await store.close()

    async def test_a_database_that_is_not_there_is_named(self, dataset: Dataset, database: Any) -> None:
        """A server that does not answer is named with label and address in ``StoreUnavailableError``."""
        self.server_port(database)
        port = free_port()
        store = self.make(dataset, self.at_port(database, port))
        with pytest.raises(StoreUnavailableError, match=rf"{store.label} at 127.0.0.1:{port}"):
            await store.open()
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailableError, match="not connected"):
            await store.counts()

    async def test_a_store_comes_back_with_its_database(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """While the server is away every request raises ``StoreUnavailableError``; when it is back, the same store works."""
        async with proxied(self.server_port(database)) as proxy:
            through = self.make(dataset, self.behind(database, proxy.port))
            await through.open()
            await asyncio.gather(*(through.save_raw(records[i : i + 5]) for i in range(0, 20, 5)))
            await proxy.cut()
            for attempt in (lambda: through.save_raw(records), through.counts, through.ping):
                with pytest.raises(StoreUnavailableError, match=through.label):
                    await attempt()
            await proxy.join()
            await through.ping()
            assert counted(await through.save_raw(records)) == {"inserted": 10, "existing": 20, "conflicts": 0}
            # The server restarted between two requests: the dead connections are nobody's concern.
            await proxy.cut()
            await proxy.join()
            assert (await through.counts()).raw == 30
            await through.close()
        assert await store.raw_records(100) == records

    async def test_a_probe_writes_and_leaves_nothing(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """A probe leaves nothing that anybody meets, also where the database refuses the example as a record."""
        nothing = await self.content(dataset, database)
        await asyncio.gather(store.probe(), store.probe())
        assert await self.content(dataset, database) == nothing
        await store.save_raw(records)
        kept = await self.content(dataset, database)
        await store.probe()
        assert await self.content(dataset, database) == kept
        await self.refuse(database, "laborant", "x")  # as in the example
        await store.probe()

    async def test_what_is_tried_out_leaves_nothing_and_changes_nothing(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """A trial of new records, and of other values for known ones, leaves everything as it was."""
        await store.save_raw(records[:10])
        kept = await self.content(dataset, database)
        await store.trial([{**record, R1: 29.0} for record in records])
        assert await self.content(dataset, database) == kept
        counts = await store.counts()
        assert (counts.raw, counts.conflicts) == (10, 0)

    async def test_records_that_the_database_refuses_are_named_and_nothing_of_the_batch_is_written(
        self, store: DataStore, dataset: Dataset, database: Any, records: list[Record]
    ) -> None:
        """A record that the database refuses raises ``InvalidRecordError``, and nothing of its batch is written."""
        await self.require_rule(database, "laborant", "POISON")
        await store.save_raw(records[:5])
        before = await self.content(dataset, database)
        poisoned = [{**r, "laborant": "POISON"} if place in (7, 20) else r for place, r in enumerate(records)]
        with pytest.raises(InvalidRecordError, match=f"{store.label} at .* refuses a record"):
            await store.save_raw(poisoned)
        assert await self.content(dataset, database) == before
        named = rf"Record 7 \(id {records[7][ID]}\): cannot be stored: .* 1 more"
        with pytest.raises(InvalidRecordError, match=named) as caught:
            await RawWriter(store).save(poisoned)
        assert [fault["record"] for fault in caught.value.faults] == [7, 20]
        assert await self.content(dataset, database) == before
        good = [record for record in poisoned if record["laborant"] != "POISON"]
        assert counted(await RawWriter(store).save(good)) == {"inserted": 23, "existing": 5, "conflicts": 0}
