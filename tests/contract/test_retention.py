"""Raw records that are too old are deleted, and nothing else: by both stores, and by the services of both databases."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import mariadb
import pytest
from pymongo import MongoClient

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import REVISION, processed_schema
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.service import SystemService
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.settings import Settings
from complex_system.storage.base import RAW, DataStore
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo.connection import Collection, Document, Queries
from complex_system.storage.mongo.store import MongoDataStore
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from envelopes import age, change, connected, envelopes
from support import TesterService, eventually, running

VERSION = Dataset.load().version


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(
    database: str, request: pytest.FixtureRequest, nats_server: Server, make_settings: Callable[..., Settings]
) -> Iterator[Settings]:
    name = f"t{uuid.uuid4().hex[:12]}"
    server: Server = request.getfixturevalue(f"{database}_server")
    settings = make_settings(nats_server, server, mongo_name=name, maria_name=name, maria_connections=2, raw_days=1.0)
    yield settings
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            client.drop_database(name)
    else:
        account = {"user": settings.maria_user, "password": settings.maria_password}
        with closing(mariadb.connect(host=settings.maria_host, port=settings.maria_port, **account)) as connection:
            connection.cursor().execute(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def make(database: str) -> Callable[[Settings], DataStore]:
    return lambda settings: (MongoDataStore if database == "mongo" else MariaDataStore)(Dataset.load(), settings)


@pytest.fixture
async def store(make: Callable[[Settings], DataStore], settings: Settings) -> AsyncIterator[DataStore]:
    store = make(settings)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def records(laboratory: Laboratory) -> list[Record]:
    return list(laboratory.records(10))


async def saved_and_processed(store: DataStore, records: list[Record]) -> list[str]:
    """Saves ten records: seven are done, one is rejected, one is done with another version, and one waits."""
    await store.save_raw(records)
    table = Pipeline(store.dataset).process(records).to_arrow().cast(processed_schema(store.dataset))
    await store.upsert_processed(table.slice(0, 7), VERSION)
    await store.reject([Rejection(id=records[7][ID], reason="odd")], VERSION)
    await store.upsert_processed(table.slice(8, 1), "another")
    return [record[ID] for record in records]


def kept(database: str, settings: Settings) -> list[str]:
    return [each.key for each in envelopes(database, settings)]


async def test_old_records_that_are_done_are_deleted_the_oldest_first(
    store: DataStore, records: list[Record], database: str, settings: Settings
) -> None:
    keys = await saved_and_processed(store, records)
    # The first six are older the later their keys, the seventh is young; those that are not done are the oldest.
    days = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 0.9, 7.5, 99.0, 99.0]
    age(database, settings, dict(zip(keys, days, strict=True)))
    assert await store.delete_raw(1.0, 3) == 3
    assert kept(database, settings) == [keys[i] for i in (0, 1, 2, 3, 6, 8, 9)]
    assert await store.delete_raw(2.0, 100) == 3
    assert await store.delete_raw(2.0, 100) == 0
    assert await store.delete_raw(1.0, 100) == 1
    assert kept(database, settings) == [keys[i] for i in (6, 8, 9)]
    assert await store.counts() == RecordCounts(raw=3, processed=8, labelled=_labelled(records), rejected=1)
    page = await store.unprocessed(VERSION, None, 100)
    assert page.table.column(ID).to_pylist() == [keys[8], keys[9]]
    assert await store.delete_raw(0.0, 100) == 1  # the one that is done; as many as arrived before this moment
    assert await store.delete_raw(36_500.0, 100) == 0


def _labelled(records: list[Record]) -> int:
    target = Dataset.load().target
    return sum(records[place][target] is not None for place in (*range(7), 8))


async def test_a_deleted_record_that_comes_again_is_inserted_again_and_does_not_wait(
    store: DataStore, records: list[Record], database: str, settings: Settings
) -> None:
    keys = await saved_and_processed(store, records)
    age(database, settings, dict.fromkeys(keys, 2.0))
    assert await store.delete_raw(1.0, 100) == 8
    saved = await store.save_raw(records)
    assert (saved.inserted, saved.existing) == (8, 2)
    done = {each.key: each.done for each in envelopes(database, settings)}
    assert [done[key] for key in keys[:7]] == [VERSION] * 7
    assert await store.delete_raw(1.0, 100) == 0  # it arrived now


async def test_what_changes_while_it_is_deleted_stays(
    store: DataStore, records: list[Record], database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records whose content is corrected between the search and the delete, or at the same time, wait again and are kept."""
    keys = await saved_and_processed(store, records)
    age(database, settings, dict.fromkeys(keys, 2.0))
    delete = Queries.delete

    async def delete_later(
        self: Queries, collection: Collection, found: list[str], condition: Document | None = None
    ) -> int:
        change(database, settings, keys[1], "rohwert_2_labormessung", 7.0)
        return await delete(self, collection, found, condition)

    if database == "mongo":
        monkeypatch.setattr(Queries, "delete", delete_later)
        assert await store.delete_raw(1.0, 3) == 2
    else:
        with closing(connected(settings)) as connection:
            # The delete waits for this row's lock, and reads its mark when it has it.
            connection.cursor().execute(
                f"UPDATE {RAW} SET _pipeline = '', _envelope_revision = 2 WHERE _id = ?",  # noqa: S608
                (keys[1],),
            )
            deleting = asyncio.create_task(store.delete_raw(1.0, 8))
            done, _ = await asyncio.wait({deleting}, timeout=0.5)
            connection.commit()
        assert await deleting == 7
        assert not done
    assert keys[1] in kept(database, settings)
    page = await store.unprocessed(VERSION, None, 100)
    assert page.table.filter(page.table.column(REVISION).to_numpy() == 2).column(ID).to_pylist() == [keys[1]]


async def test_the_arrival_is_indexed_and_the_index_of_earlier_releases_is_removed(
    make: Callable[[Settings], DataStore], database: str, settings: Settings
) -> None:
    def indexes() -> dict[str, list[str]]:
        if database == "mongo":
            with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
                found = client[settings.mongo_name][RAW].index_information()
                return {name: [field for field, _ in index["key"]] for name, index in found.items()}
        with closing(connected(settings)) as connection:
            cursor = connection.cursor()
            cursor.execute(f"SHOW INDEX FROM {RAW}")
            rows = cursor.fetchall()
            return {name: [row[4] for row in rows if row[2] == name] for name in {row[2] for row in rows}}

    def index_as_before() -> None:
        if database == "mongo":
            with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
                client[settings.mongo_name][RAW].create_index(
                    [("_envelope.done", 1), ("_envelope.received", 1)], name="by_arrival"
                )
        else:
            with closing(connected(settings)) as connection:
                connection.cursor().execute(f"CREATE INDEX by_arrival ON {RAW} (_pipeline, _envelope_received)")

    expected = ["_envelope.received", "_id"] if database == "mongo" else ["_envelope_received"]
    for _ in range(2):
        opened = make(settings)
        await opened.open()
        await opened.close()
        assert indexes()["arrived"] == expected
        assert "by_arrival" not in indexes()
        index_as_before()
        assert "by_arrival" in indexes()


async def test_the_service_deletes_them_soon_after_its_start_and_two_replicas_do_no_harm(
    store: DataStore,
    laboratory: Laboratory,
    database: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("complex_system.service_layer.database.service._OLD_AT_ONCE", 40)
    monkeypatch.setattr("complex_system.service_layer.database.service._OLD_PAUSE", 0.01)
    records = list(laboratory.records(300))
    await store.save_raw(records)
    table = Pipeline(store.dataset).process(records).to_arrow().cast(processed_schema(store.dataset))
    await store.upsert_processed(table, VERSION)
    keys = [record[ID] for record in records]
    age(database, settings, dict.fromkeys(keys[:200], 2.0))
    service: type[SystemService] = DatabaseMongoService if database == "mongo" else DatabaseMariaService
    with caplog.at_level(logging.INFO):
        async with running(service, settings), running(service, settings), running(TesterService, settings) as tester:
            client = DatabaseClient(tester)

            async def deleted() -> bool:
                return (await client.counts()).raw == 100

            await eventually(deleted)
            assert (await client.counts()).processed == 300
            await eventually(lambda: sum(_deleted(caplog)) == 200)
    assert kept(database, settings) == keys[200:]


def _deleted(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.args[0] for record in caplog.records if record.msg.startswith("Deleted %d raw records")]  # type: ignore
