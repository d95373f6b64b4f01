"""The numbers of records that MariaDB keeps are those of its tables, whatever is written at the same time, and never counted anew."""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import processed_schema
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.settings import Settings
from complex_system.storage.maria import schema
from complex_system.storage.maria.pool import change, select
from complex_system.storage.maria.store import MariaDataStore
from envelopes import connected

TABLES = """SELECT (SELECT COUNT(*) FROM KIOptiPackRaw), (SELECT COUNT(*) FROM KIOptiPackProcessed),
(SELECT COUNT(aufbereiteter_wert) FROM KIOptiPackProcessed), (SELECT COUNT(*) FROM KIOptiPackRejected),
(SELECT COUNT(*) FROM KIOptiPackConflicts), (SELECT COUNT(*) FROM KIOptiPackConflicts WHERE corrected)"""


@pytest.fixture
def settings(maria_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(maria_server, maria_name=f"t{uuid.uuid4().hex[:12]}", maria_connections=4, on_conflict="replace")


@pytest.fixture
async def stores(settings: Settings, dataset: Dataset) -> AsyncIterator[list[MariaDataStore]]:
    """Two replicas."""
    stores = [MariaDataStore(dataset, settings) for _ in range(2)]
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()
    asked(settings, f"DROP DATABASE {settings.maria_name}")


def asked(settings: Settings, statement: str) -> list[tuple[int, ...]]:
    with closing(connected(settings)) as connection:
        cursor = connection.cursor()
        cursor.execute(statement)
        connection.commit()
        return list(cursor.fetchall()) if cursor.description else []


def in_tables(settings: Settings) -> RecordCounts:
    [(raw, processed, labelled, rejected, conflicts, corrected)] = asked(settings, TABLES)
    return RecordCounts(
        raw=raw, processed=processed, labelled=labelled, rejected=rejected, conflicts=conflicts, corrected=corrected
    )


def results(dataset: Dataset, records: list[Record], draw: random.Random) -> pa.Table:
    zero = dict.fromkeys(dataset.feature_names, 0.0)
    rows = [{ID: each[ID], dataset.target: draw.choice([None, 1.0, 2.0]), **zero} for each in records]
    return pa.Table.from_pylist(rows, schema=processed_schema(dataset))


@pytest.mark.parametrize("seed", range(3))
async def test_the_numbers_are_those_of_the_tables_whatever_replicas_write_at_the_same_time(
    stores: list[MariaDataStore], settings: Settings, dataset: Dataset, seed: int
) -> None:
    draw = random.Random(seed)
    records = list(Laboratory(seed).records(60))

    async def write(store: MariaDataStore) -> None:
        chosen = draw.sample(records, draw.randint(1, 30))
        action = draw.randrange(6)
        if action <= 1:
            sent = [{**each, "rohwert_1_labormessung": draw.choice([1.0, 2.0])} for each in chosen]
            await store.save_raw(sent, draw.choice(["a", "b"]), [draw.random() for _ in sent])
        elif action <= 3:
            await store.upsert_processed(results(dataset, chosen, draw), draw.choice([dataset.version, "older"]))
        elif action == 4:
            await store.reject([Rejection(id=each[ID], reason="no", revision=None) for each in chosen], dataset.version)
        else:
            await store.delete_raw(0.0, 5)
        await store.probe()
        await store.trial([{**each, "rohwert_1_labormessung": 3.0} for each in chosen])

    for _ in range(12):
        await asyncio.gather(*(write(store) for store in stores * 3))
        expected = in_tables(settings)
        assert [await store.counts() for store in stores] == [expected] * 2
    assert expected.conflicts > 0
    assert expected.labelled > 0


async def test_what_other_programs_write_is_counted_later_and_once(
    stores: list[MariaDataStore], settings: Settings, laboratory: Laboratory
) -> None:
    records = list(laboratory.records(20))
    await stores[0].save_raw(records)
    asked(settings, "DELETE FROM KIOptiPackRaw ORDER BY _id LIMIT 3")
    assert (await stores[1].counts()).raw == 20
    await asyncio.gather(*(store.recount() for store in stores), stores[1].save_raw(list(laboratory.records(7))))
    assert (await stores[0].counts()).raw == 24
    assert in_tables(settings).raw == 24


async def test_numbers_are_corrected_where_others_have_changed_them_since_they_were_read(
    stores: list[MariaDataStore], settings: Settings, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MariaDB has ``innodb_snapshot_isolation`` on from 11.6 on: a snapshot then changes no row that has changed since."""
    await stores[0].save_raw(list(laboratory.records(20)))
    asked(settings, "DELETE FROM KIOptiPackRaw ORDER BY _id LIMIT 3")

    def select_while_others_write(connection: Any, statement: str, parameters: Sequence[Any]) -> list[Any]:
        change(connection, "SET SESSION innodb_snapshot_isolation = ON")
        rows = select(connection, statement, parameters)
        if statement == stores[0]._sql.count_all:
            for slot in range(16):
                new = f"INSERT INTO KIOptiPackCounts (slot, conflicts) VALUES ({slot}, 1)"  # noqa: S608
                asked(settings, f"{new} ON DUPLICATE KEY UPDATE conflicts = conflicts + 1")
        return rows

    monkeypatch.setattr(schema, "select", select_while_others_write)
    await stores[0].recount()
    counts = await stores[1].counts()
    assert (counts.raw, counts.conflicts) == (17, 16)


async def test_a_store_of_an_earlier_release_is_counted_when_it_is_opened(
    stores: list[MariaDataStore], settings: Settings, dataset: Dataset, laboratory: Laboratory
) -> None:
    await stores[0].save_raw(list(laboratory.records(20)))
    asked(settings, "DROP TABLE KIOptiPackCounts")
    await stores[1].close()
    await stores[1].open()
    assert await stores[0].counts() == await stores[1].counts() == RecordCounts(raw=20, processed=0, labelled=0, rejected=0)


async def test_two_that_count_at_the_same_time_on_nodes_with_locks_of_their_own_correct_once(
    stores: list[MariaDataStore], settings: Settings, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the nodes of a Galera cluster, each has the lock."""
    await stores[0].save_raw(list(laboratory.records(20)))
    asked(settings, "DELETE FROM KIOptiPackRaw ORDER BY _id LIMIT 3")
    both = threading.Barrier(2, timeout=60)

    def select_with_the_lock(connection: Any, statement: str, parameters: Sequence[Any]) -> list[Any]:
        if "GET_LOCK" in statement:
            return [(1,)]
        rows = select(connection, statement, parameters)
        if statement == stores[0]._sql.count_all:
            both.wait()
        return rows

    monkeypatch.setattr(schema, "select", select_with_the_lock)
    await asyncio.gather(*(store.recount() for store in stores))
    assert (await stores[0].counts()).raw == 17


async def test_nodes_of_a_galera_cluster_change_rows_of_their_own(stores: list[MariaDataStore], settings: Settings) -> None:
    for node in (1, 2, 3):
        with closing(connected(settings)) as connection:
            change(connection, f"SET SESSION auto_increment_increment = 3, auto_increment_offset = {node}")
            change(connection, stores[0]._sql.add_counts, [node, 0, 0, 0, 0, 0])
            connection.commit()
    rows = asked(settings, "SELECT raw, (slot - 1) MOD 3 + 1 FROM KIOptiPackCounts WHERE raw > 0")
    assert sorted(rows) == [(1, 1), (2, 2), (3, 3)]


async def test_a_number_that_this_release_keeps_first_is_counted_at_the_start(
    stores: list[MariaDataStore], settings: Settings, laboratory: Laboratory
) -> None:
    await stores[0].save_raw(list(laboratory.records(20)))
    asked(settings, "ALTER TABLE KIOptiPackCounts DROP COLUMN raw, DROP COLUMN recounts")
    await stores[1].close()
    await stores[1].open()
    assert (await stores[0].counts()).raw == (await stores[1].counts()).raw == 20


async def test_requests_are_answered_while_all_records_are_counted(
    settings: Settings, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MariaDataStore(dataset, settings.copy(update={"maria_connections": 1}))
    await store.open()
    answered = threading.Event()

    def select_after_an_answer(connection: Any, statement: str, parameters: Sequence[Any]) -> list[Any]:
        assert answered.wait(60)
        return select(connection, statement, parameters)

    monkeypatch.setattr(schema, "select", select_after_an_answer)
    counting = asyncio.create_task(store.recount())
    await asyncio.sleep(0)
    await asyncio.wait_for(store.ping(), 30)
    answered.set()
    await counting
    await store.close()
    asked(settings, f"DROP DATABASE {settings.maria_name}")


async def test_no_table_of_records_is_read_for_the_numbers(stores: list[MariaDataStore], settings: Settings) -> None:
    plan = asked(settings, f"EXPLAIN {stores[0]._sql.counts}")
    assert [row[2] for row in plan] == ["KIOptiPackCounts"]
