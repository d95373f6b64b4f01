"""Both stores keep the contract of stores (``complex_system.testing.stores``), and what each does beyond it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import uuid
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import mariadb
import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import DeclarationError, InvalidRecordError, StoreUnavailableError
from complex_system.local.servers import Server
from complex_system.settings import Settings
from complex_system.storage import quarantine
from complex_system.storage.base import PROCESSED, RAW, DataStore
from complex_system.storage.conflicts import CONFLICTS
from complex_system.storage.envelope import Digest, content_hash
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo import connection as mongo_connection
from complex_system.storage.mongo import secantus
from complex_system.storage.mongo import store as mongo_store
from complex_system.storage.mongo.store import MongoDataStore
from complex_system.storage.quarantine import RawWriter
from complex_system.testing.data import keys_of, processed_table
from complex_system.testing.stores import DataStoreContract
from complex_system.testing.stores.base import R2 as CHANGED
from envelopes import envelopes
from given import DIRECT

# MariaDB's codes. A full disk, memory, locks, read-only, a time limit, the operating system's errors:
WAITS = (28, 1021, 1026, 1030, 1037, 1041, 1114, 1206, 1290, 1317, 1836, 1969)
# NULL, out of range, of another type, too long, too large for a statement, a constraint:
REFUSES = (1048, 1153, 1264, 1292, 1366, 1406, 4025)


def wide(categories: int, name: str = "a column with a long name, number ") -> Dataset:
    """A data set of a few columns and hundreds of features, as tables full of categories have them."""
    names = [f"{name}{i}" for i in range(5)]
    values = [f"category {i}" for i in range(categories)]
    return Dataset.parse(json.dumps({
        "name": "wide", "target": "y",
        "columns": [*({"name": name, "type": "category", "categories": values} for name in names),
                    {"name": "y", "type": "number", "optional": True}],
        "pipeline": [{"step": "one_hot", "column": name} for name in names],
    }))  # fmt: skip


class Traffic(CommandListener):
    """What is under way in each collection, and how many values the messages hold."""

    def __init__(self) -> None:
        self.under_way: dict[int, tuple[str, str]] = {}
        self.met: set[tuple[str, frozenset[str]]] = set()
        self.most: dict[str, int] = {"write": 0, "read": 0}

    def started(self, event: CommandStartedEvent) -> None:
        kind = {"insert": "write", "find": "read", "getMore": "read"}.get(event.command_name)
        if kind is None:
            return
        where = str(event.command["collection" if event.command_name == "getMore" else event.command_name])
        self.met |= {(where, frozenset({kind, other})) for at, other in self.under_way.values() if at == where}
        self.under_way[event.request_id] = (where, kind)
        self._count(kind, event.command.get("documents", []))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.under_way.pop(event.request_id, None)
        cursor = event.reply.get("cursor", {})
        self._count("read", cursor.get("firstBatch", cursor.get("nextBatch", [])))

    def failed(self, event: CommandFailedEvent) -> None:
        self.under_way.pop(event.request_id, None)

    def _count(self, kind: str, documents: list[Any]) -> None:
        self.most[kind] = max(self.most[kind], sum(map(len, documents)))


class ServerStoreCases(DataStoreContract):
    """The suite on a server of ours, and what both databases do beyond it."""

    backend: ClassVar[str]

    @abstractmethod
    async def drop(self, settings: Settings) -> None:
        """Removes the database."""

    @abstractmethod
    async def kept(self, settings: Settings, table: str) -> list[dict[str, Any]]:
        """All that the database holds under that name, read without the store, by key."""

    @abstractmethod
    def hash_with(self, store: DataStore, digest: Digest) -> None:
        """Has the store hash records with another function."""

    @pytest.fixture
    async def database(self, settings: Settings) -> AsyncIterator[Settings]:
        yield settings
        await self.drop(settings)

    def port(self, database: Settings) -> int:
        return int(getattr(database, f"{self.backend}_port"))

    def at_port(self, database: Settings, port: int) -> Settings:
        return database.copy(update={f"{self.backend}_port": port})

    async def content(self, dataset: Dataset, database: Settings) -> list[dict[str, Any]]:
        return await self.kept(database, RAW)

    async def test_each_value_is_kept_in_a_column_of_its_own(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        await store.save_raw(records)
        assert [{name: row[name] for name in records[0]} for row in await self.kept(settings, RAW)] == records

    async def test_conflicts_are_kept_with_their_values_and_logged(
        self, store: DataStore, settings: Settings, records: list[Record], caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.save_raw(records[:3], "press-4")
        other = {**records[0], CHANGED: 1.0}
        await store.save_raw([other, records[1]], "press-5")
        [kept] = await self.kept(settings, CONFLICTS)
        assert (kept["source"], kept["kept_source"], json.loads(kept["record"])) == ("press-5", "press-4", other)
        assert f"First: {records[0][ID]!r} from 'press-5'; the stored one is from 'press-4'" in caplog.text

    async def test_an_envelope_is_kept_beside_each_raw_record(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        before = datetime.now(UTC) - timedelta(seconds=5)
        await store.save_raw(records[:10], "lab 1")
        sources = [f"machine {i}" for i in range(9)] + ["x" * 300]
        await store.save_raw(records[10:20], sources)
        await store.save_raw([{**records[0], CHANGED: 1.0}], "somebody else")
        kept = envelopes(self.backend, settings)
        assert [(each.done, each.revision) for each in kept] == [("", 1)] * 20
        assert [each.source for each in kept] == ["lab 1"] * 10 + [source[:200] for source in sources]
        digest = content_hash(store.dataset)
        assert [each.hash for each in kept] == [digest(record) for record in records[:20]]
        assert all(before < each.received < datetime.now(UTC) + timedelta(seconds=5) for each in kept)
        await store.upsert_processed(processed_table(store.dataset, [record[ID] for record in records[:10]]), "v1")
        assert [each.done for each in envelopes(self.backend, settings)] == ["v1"] * 10 + [""] * 10

    async def test_a_record_at_which_our_own_code_fails_is_named_after_several_trials(
        self, store: DataStore, settings: Settings, records: list[Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0, 0.0))
        fails = FailingDigest(store.dataset, records[12][ID])
        self.hash_with(store, fails)
        with pytest.raises(
            InvalidRecordError, match=r"Record 12 .*: the database service fails at it \(ZeroDivisionError\)"
        ):
            await RawWriter(store).save(records)
        assert fails.failed >= 3
        assert await self.kept(settings, RAW) == []
        assert (await RawWriter(store).save(records[:12] + records[13:])).inserted == 29

    async def test_a_fault_of_ours_that_no_record_causes_refuses_none(
        self, store: DataStore, records: list[Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0, 0.0))
        fails = FailingDigest(store.dataset, None)
        self.hash_with(store, fails)
        with pytest.raises(StoreUnavailableError, match=f"wrote to {store.label} at .*ZeroDivisionError"):
            await RawWriter(store).save(records)
        # Nor one that spares the probe.
        fails.spared = "probe"
        for batch in (records, records[:1]):
            with pytest.raises(StoreUnavailableError):
                await RawWriter(store).save(batch)
        fails.spared = ""
        # And a moment that is over when the records are tried one by one.
        fails.key, fails.times = records[3][ID], 1
        with pytest.raises(StoreUnavailableError) as caught:
            await RawWriter(store).save(records)
        assert not caught.value.explained
        assert (await RawWriter(store).save(records)).inserted == 30


class FailingDigest:
    """A fault of ours: hashes the content of records, but for one at which it fails; None for all."""

    def __init__(self, dataset: Dataset, key: str | None) -> None:
        self.key, self.times, self.failed, self.spared = key, 1_000_000, 0, ""
        self._digest = content_hash(dataset)

    def __call__(self, record: Mapping[str, Any]) -> bytes:
        spared = self.spared and record[ID].startswith(self.spared)
        if self.key in (None, record[ID]) and self.times and not spared:
            self.times -= 1
            self.failed += 1
            raise ZeroDivisionError
        return self._digest(record)


class MongoCases(ServerStoreCases):
    backend = "mongo"
    stand_in: ClassVar[bool]
    """Whether the server is asked as ``secantusdb`` needs it, or as a MongoDB server."""

    @pytest.fixture(autouse=True)
    def _asked_as_this_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mongo_store, "is_secantus", lambda _: self.stand_in)

    @pytest.fixture
    def settings(self, mongo_server: Server, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(mongo_server, mongo_name=f"t{uuid.uuid4().hex[:12]}")

    def make(self, dataset: Dataset, database: Settings, *, replaces: bool = False) -> DataStore:
        return MongoDataStore(dataset, database.copy(update={"on_conflict": "replace" if replaces else "keep"}))

    async def kept(self, settings: Settings, table: str) -> list[dict[str, Any]]:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            return await client[settings.mongo_name][table].find().sort("_id").to_list()

    async def drop(self, settings: Settings) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client.drop_database(settings.mongo_name)

    def behind(self, database: Settings, port: int) -> Settings:
        return database.copy(update={"mongo_host": DIRECT, "mongo_port": port})

    async def refuse(self, database: Settings, column: str, value: str) -> bool:
        async with AsyncMongoClient(database.mongo_host, database.mongo_port) as client:
            await client[database.mongo_name].command("collMod", RAW, validator={column: {"$ne": value}})
        return True

    def hash_with(self, store: DataStore, digest: Digest) -> None:
        assert isinstance(store, MongoDataStore)
        store._collections.fields.digest = digest

    async def test_what_a_killed_service_has_tried_out_is_removed_at_the_next_start(
        self, settings: Settings, dataset: Dataset
    ) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            raw = client[settings.mongo_name][RAW]
            await raw.insert_many([{"_id": {mongo_connection.TRIED_OUT: "a"}}, {"_id": {"theirs": 1}}])
        store = self.make(dataset, settings)
        await store.open()
        try:
            assert [row["_id"] for row in await self.kept(settings, RAW)] == [{"theirs": 1}]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_a_record_that_another_unique_index_refuses_is_not_taken_for_one_that_is_there(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client[settings.mongo_name][RAW].create_index([("datum", 1)], unique=True)
        await RawWriter(store).save(records[:3])
        double = {**records[5], "datum": records[1]["datum"]}
        with pytest.raises(InvalidRecordError, match="Record 1 .*code 11000"):
            await RawWriter(store).save([records[0], double, records[4]])
        assert await store.raw_records(100) == records[:3]

    async def test_records_of_another_program_are_adopted(self, settings: Settings, dataset: Dataset) -> None:
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            await client[settings.mongo_name][RAW].insert_one({"_id": "theirs", "rohwert_1_labormessung": 2})
        store = self.make(dataset, settings)
        await store.open()
        try:
            assert keys_of(await store.unprocessed("v1", None, 5)) == ["theirs"]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_keys_that_are_no_texts_are_warned_of(
        self, settings: Settings, dataset: Dataset, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = self.make(dataset, settings)
        try:
            async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
                raw = client[settings.mongo_name][RAW]
                await raw.insert_one({"_id": "a text", "rohwert_1_labormessung": 2})
                await store.open()
                assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
                await raw.insert_many([{"rohwert_1_labormessung": i} for i in range(3)])  # the driver gives ObjectIds
                await raw.insert_one({"_id": 7})
            await store.close()
            await store.open()
            assert "has 4 raw record(s) whose '_id' is not text" in caplog.text
            assert (await store.counts()).raw == 5
            assert keys_of(await store.unprocessed("v1", None, 10)) == ["a text"]
        finally:
            await store.close()
            await self.drop(settings)

    async def test_versions_of_other_programs_are_found_wherever_they_sort(
        self,
        store: MongoDataStore,
        dataset: Dataset,
        settings: Settings,
        records: list[Record],
    ) -> None:
        other = MongoDataStore(dataset, settings)
        await other.open()
        try:
            await store.save_raw(records)
            keys = sorted(record[ID] for record in records)
            assert keys_of(await store.unprocessed("m", None, 100)) == keys
            for key, version in zip(keys, ("m", "c", "x", "a", "p"), strict=False):
                await other.upsert_processed(processed_table(dataset, [key]), version)
                assert keys_of(await store.unprocessed("m", None, 100)) == keys[1:]
        finally:
            await other.close()

    async def test_a_walk_meets_every_key_once_while_others_come_and_go(
        self,
        store: MongoDataStore,
        dataset: Dataset,
        laboratory: Laboratory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(secantus, "STEP", 3)
        keys = [f"k{i:03}" for i in range(100)]
        draw = random.Random(4)

        async def walk(limit: int, version: str = "v1", until: str | None = None) -> list[str]:
            found: list[str] = []
            after: str | None = None
            while True:
                page = await store.processed_columns(
                    [ID], labelled=True, version=version, after=after, limit=limit, until=until
                )
                found += keys_of(page)
                if page.next is None:
                    return found
                after = page.next

        labelled: set[str] = set()
        for part in range(10):
            fresh = [key for i, key in enumerate(keys) if i % 10 == part]
            known = set(draw.sample(fresh, 6))
            await store.upsert_processed(processed_table(dataset, sorted(known)), "v1")
            await store.upsert_processed(processed_table(dataset, sorted(set(fresh) - known), target=None), "v1")
            labelled |= known
            for limit in (1, 7, 30, 200):
                assert await walk(limit) == sorted(labelled)
                last = draw.choice(keys)
                assert await walk(limit, until=last) == sorted(key for key in labelled if key <= last)
        await store.upsert_processed(processed_table(dataset, keys[20:70]), "v2")  # their range becomes empty
        for _ in range(2):
            assert await walk(7, until=keys[45]) == sorted(labelled - set(keys[20:]))
            assert await walk(7) == sorted(labelled - set(keys[20:70]))
            assert await walk(7, "v2") == keys[20:70]
        await store.upsert_processed(processed_table(dataset, keys[30:40]), "v1")
        assert await walk(7) == sorted(labelled - set(keys[20:70]) | set(keys[30:40]))

        await store.save_raw([{**record, ID: key} for record, key in zip(laboratory.records(100), keys, strict=True)])
        left = [key for key in keys if key not in keys[20:30] + keys[40:70]]
        assert keys_of(await store.unprocessed("v2", None, 200)) == left
        while left:
            page = await store.unprocessed("v2", None, 17)
            assert keys_of(page) == left[:17]
            await store.upsert_processed(processed_table(dataset, left[:17]), "v2")
            left = left[17:]
        assert keys_of(await store.unprocessed("v2", None, 17)) == []


class TestMongoDataStore(MongoCases):
    stand_in = False


class TestMongoDataStoreOnSecantus(MongoCases):
    stand_in = True

    async def test_only_a_slow_count_of_many_is_given_again(
        self, store: MongoDataStore, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [f"k{i:05}" for i in range(1200)]

        async def labelled_after(more: list[str]) -> tuple[int, int]:
            await store.upsert_processed(processed_table(dataset, more), "v1")
            counts = await store.counts()
            return counts.labelled, counts.processed

        monkeypatch.setattr(secantus, "SLOW", 3600.0)
        assert await labelled_after(keys[:900]) == (900, 900)
        assert await labelled_after(keys[900:1100]) == (1100, 1100)
        monkeypatch.setattr(secantus, "SLOW", 0.0)
        monkeypatch.setattr(secantus, "OLD", 1e9)
        monkeypatch.setattr(secantus, "KEPT", 1e9)
        assert await labelled_after(keys[1100:1101]) == (1101, 1101)  # the last one was quick; this one is slow
        assert await labelled_after(keys[1101:1102]) == (1102, 1102)  # what is written here is known
        queries = store._collections.queries
        assert isinstance(queries, secantus.SecantusQueries)
        for count in queries._counts.values():
            count.forget()  # so old that it is counted anew
        monkeypatch.setattr(secantus, "OLD", 0)
        monkeypatch.setattr(secantus, "KEPT", 0)
        assert await labelled_after(keys[1102:1103]) == (1103, 1103)
        assert await labelled_after(keys[1103:]) == (1200, 1200)

    async def test_a_slow_count_is_not_repeated_while_records_are_new_and_soon_where_they_are_replaced(
        self, store: MongoDataStore, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [f"k{i:05}" for i in range(1200)]
        monkeypatch.setattr(secantus, "SLOW", 0.0)
        monkeypatch.setattr(secantus, "OLD", 0)  # what is in doubt is counted anew each time
        monkeypatch.setattr(secantus, "KEPT", 1e9)
        await store.upsert_processed(processed_table(dataset, keys[:1100]), "v1")
        assert (await store.counts()).labelled == 1100
        counted = 0
        for count in store._collections.queries._counts.values():  # type: ignore[attr-defined]

            async def again(known: Any = count._count) -> int:
                nonlocal counted
                counted += 1
                return int(await known())

            count._count = again
        for start in range(1100, 1150, 10):
            await store.upsert_processed(processed_table(dataset, keys[start : start + 5]), "v1")
            await store.upsert_processed(processed_table(dataset, keys[start + 5 : start + 10], target=None), "v1")
        counts = await store.counts()
        assert (counts.processed, counts.labelled) == (1150, 1125)
        monkeypatch.setattr(secantus, "FEW", 0)
        counted = 0
        assert await store.counts() == counts
        assert counted == 0
        await store.upsert_processed(processed_table(dataset, keys[:100], target=None), "v1")
        assert (await store.counts()).labelled == 1025
        assert counted == 1

    async def test_a_slow_count_of_few_is_never_given_again(
        self, store: MongoDataStore, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(secantus, "SLOW", 0.0)
        monkeypatch.setattr(secantus, "OLD", 1e9)
        for known in (1, 2):
            await store.upsert_processed(processed_table(dataset, [f"k{known}"]), "v1")
            assert (await store.counts()).labelled == known

    async def test_many_wide_records_are_written_and_read_in_small_parts_one_after_another(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server that stands in for MongoDB comes to a halt where a few megabytes are written and read side by side."""
        traffic = Traffic()
        monkeypatch.setattr(mongo_connection, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[traffic]))
        dataset = wide(60)
        store = MongoDataStore(dataset, settings)
        await store.open()
        keys = [f"k{i:04}" for i in range(600)]

        async def walk() -> list[str]:
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                page = await store.processed_columns(
                    [ID, *dataset.feature_names], labelled=True, version="v1", after=after, limit=250
                )
                found += keys_of(page)
                after = page.next
            return found

        try:
            parts = [store.upsert_processed(processed_table(dataset, keys[i : i + 150]), "v1") for i in range(0, 600, 150)]
            await asyncio.gather(*parts, walk(), walk())
            assert await walk() == keys
        finally:
            await store.close()
            await self.drop(settings)
        assert not [both for where, both in traffic.met if where == PROCESSED and "write" in both]
        assert 0 < traffic.most["write"] <= 40_000
        assert 0 < traffic.most["read"] <= 40_000


class TestMariaDataStore(ServerStoreCases):
    backend = "maria"

    @pytest.fixture
    def settings(self, maria_server: Server, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(maria_server, maria_name=f"t{uuid.uuid4().hex[:12]}", maria_connections=4)

    def make(self, dataset: Dataset, database: Settings, *, replaces: bool = False) -> DataStore:
        return MariaDataStore(dataset, database.copy(update={"on_conflict": "replace" if replaces else "keep"}))

    def _connect(self, settings: Settings) -> Any:
        return mariadb.connect(
            host=settings.maria_host, port=settings.maria_port, user=settings.maria_user, password=settings.maria_password
        )

    async def kept(self, settings: Settings, table: str) -> list[dict[str, Any]]:
        connection = self._connect(settings)
        cursor = connection.cursor(dictionary=True, binary=True)
        cursor.execute(f"SELECT * FROM `{settings.maria_name}`.{table} ORDER BY _id")  # noqa: S608
        rows: list[dict[str, Any]] = cursor.fetchall()
        connection.close()
        return rows

    async def drop(self, settings: Settings) -> None:
        connection = self._connect(settings)
        connection.cursor().execute(f"DROP DATABASE IF EXISTS `{settings.maria_name}`")
        connection.close()

    async def refuse(self, database: Settings, column: str, value: str) -> bool:
        connection = self._connect(database)
        connection.cursor().execute(
            f"ALTER TABLE `{database.maria_name}`.{RAW} ADD CONSTRAINT CHECK ({column} IS NULL OR {column} <> '{value}')"
        )
        connection.close()
        return True

    def hash_with(self, store: DataStore, digest: Digest) -> None:
        assert isinstance(store, MariaDataStore)
        store._digest = digest

    async def test_a_probe_meets_what_is_wrong_with_the_table_where_a_ping_does_not(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(f"ALTER TABLE `{settings.maria_name}`.{RAW} ADD COLUMN inspector INT NOT NULL")
        await store.ping()
        for attempt in (store.probe(), RawWriter(store).save(records)):
            with pytest.raises(StoreUnavailableError, match=r"inspector.*error 1364") as caught:
                await attempt
            assert caught.value.explained
        cursor.execute(f"ALTER TABLE `{settings.maria_name}`.{RAW} DROP COLUMN inspector")
        connection.close()
        assert (await RawWriter(store).save(records)).inserted == 30

    async def test_a_code_that_is_not_known_names_a_record_only_if_it_fails_alone_again_and_again(
        self, store: DataStore, settings: Settings, records: list[Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarantine, "PAUSES", (0.0, 0.0, 0.0))
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(f"USE `{settings.maria_name}`")
        cursor.execute(
            f"CREATE TRIGGER inspect BEFORE INSERT ON {RAW} FOR EACH ROW "
            f"IF NEW._id = '{records[9][ID]}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
        )
        with pytest.raises(InvalidRecordError, match=r"Record 9 .*not this one.*error 1644"):
            await RawWriter(store).save(records)
        assert await self.kept(settings, RAW) == []
        cursor.execute("DROP TRIGGER inspect")
        connection.close()
        assert (await RawWriter(store).save(records)).inserted == 30

    async def test_only_codes_that_say_so_refuse_a_record(
        self, store: DataStore, settings: Settings, records: list[Record]
    ) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(f"USE `{settings.maria_name}`")
        for code in (*WAITS, *REFUSES):
            cursor.execute(
                f"CREATE OR REPLACE TRIGGER inspect BEFORE INSERT ON {RAW} FOR EACH ROW IF NEW._id = '{records[9][ID]}' "
                f"THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'as the test wants it'; END IF"
            )
            error = InvalidRecordError if code in REFUSES else StoreUnavailableError
            with pytest.raises(error, match="as the test wants it") as caught:
                await RawWriter(store).save(records)
            assert getattr(caught.value, "explained", True), code
            assert await self.kept(settings, RAW) == []
        cursor.execute("DROP TRIGGER inspect")
        connection.close()
        assert (await RawWriter(store).save(records)).inserted == 30

    async def test_statements_fit_into_what_the_server_takes_and_a_record_that_does_not_is_named(
        self, store: DataStore, dataset: Dataset, settings: Settings, records: list[Record]
    ) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute("SELECT @@max_allowed_packet")
        [packet] = cursor.fetchone()
        cursor.execute("SET GLOBAL max_allowed_packet = 1048576")
        small = self.make(dataset, settings)
        try:
            await small.open()
            long = [{**record, "laborant": "x" * 65_536} for record in records]  # 130,000 bytes each in a statement
            assert (await RawWriter(small).save(long)).inserted == 30
            longest = {**records[2], ID: "longest", "laborant": "x" * 500_000}
            with pytest.raises(InvalidRecordError, match=r"Record 1 \(id longest\).*1048576 bytes.*max_allowed_packet"):
                await RawWriter(small).save([records[0], longest, records[1]])
        finally:
            cursor.execute(f"SET GLOBAL max_allowed_packet = {packet}")
            connection.close()
            await small.close()

    async def test_more_features_than_a_table_takes_are_refused_with_the_limit(self, settings: Settings) -> None:
        for name, categories, fits in (("c", 150, True), ("c", 205, False), ("a name of many characters " * 2, 120, False)):
            dataset = wide(categories, name)
            store = self.make(dataset, settings)
            try:
                if fits:
                    await store.open()
                    await store.upsert_processed(processed_table(dataset, ["a"]), "v1")
                    assert (await store.counts()).processed == 1
                else:
                    says = f"6 columns and {5 * categories} features: a table takes 1,017 columns, 8,126 bytes"
                    with pytest.raises(DeclarationError, match=says):
                        await store.open()
            finally:
                await store.close()
                await self.drop(settings)

    async def test_numbers_are_double_precision(self, store: DataStore, settings: Settings) -> None:
        connection = self._connect(settings)
        cursor = connection.cursor()
        cursor.execute(
            "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = ? AND table_name = ? "
            "AND column_name NOT LIKE '\\_%'",
            (settings.maria_name, PROCESSED),
        )
        assert cursor.fetchall() == [("double",)]
        connection.close()
