"""Data processing against a real broker and a real database service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import yaml
from kio.ml_lifecycle_broker_facade import request_get_processed_data_points_from_raw_data
from pymongo import AsyncMongoClient

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, InvalidRequestError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient, ProcessingClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.database import RecordCounts
from complex_system.service_layer.database.service import DatabaseService
from complex_system.settings import Settings
from complex_system.storage.base import PROCESSED
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from envelopes import change, envelopes
from support import TesterService, eventually, running


@pytest.fixture
def settings(nats_server: Server, mongo_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        nats_server, mongo_server, mongo_name=f"test_{uuid4().hex[:12]}", processing_interval=0.05, processing_batch=150
    )


async def processed_rows(database: DatabaseClient) -> list[Record]:
    return [row async for page in database.processed_pages() for row in page.table.to_pylist()]


async def processed_count(database: DatabaseClient, count: int) -> bool:
    return (await database.counts()).processed == count


async def test_what_is_saved_becomes_processed_page_by_page(
    tester: TesterService, settings: Settings, dataset: Dataset, laboratory: Laboratory
) -> None:
    database = DatabaseClient(tester)
    records = list(laboratory.records(1000))
    async with running(DatabaseMongoService, settings), running(DataProcessingService, settings):
        for start in range(0, 1000, 500):
            await database.save_raw(records[start : start + 500])
        await eventually(lambda: processed_count(database, 1000))
        assert await processed_rows(database) == Pipeline(dataset).process(records).to_dicts()
        known = sum(record[dataset.target] is not None for record in records)

        async def counted() -> bool:  # where counting the labelled takes long, an answer may be a little old
            return await database.counts() == RecordCounts(raw=1000, processed=1000, labelled=known, rejected=0)

        await eventually(counted)
        # What comes later is found by the next sweep.
        await database.save_raw([laboratory.record()])
        await eventually(lambda: processed_count(database, 1001))


async def test_what_cannot_be_processed_is_kept_aside_with_the_reason(
    tester: TesterService, settings: Settings, laboratory: Laboratory
) -> None:
    database = DatabaseClient(tester)
    good = list(laboratory.records(400))
    unknown = {**laboratory.record(), "material_id": "99"}
    outside = {**laboratory.complete_record(), "rohwert_1_labormessung": 31.0, "laborant": "XY"}
    async with running(DatabaseMongoService, settings), running(DataProcessingService, settings):
        await database.save_raw([*good, unknown, outside])
        await eventually(lambda: processed_count(database, 400))

        async def rejections() -> Any:
            rows = await database.rejected()
            return {row.id: row.reason for row in rows} if len(rows) == 2 else None

        assert await eventually(rejections) == {
            unknown["_id"]: "material_id: '99' is not one of 00000000, 11111111, 22222222, 33333333",
            outside[
                "_id"
            ]: "laborant: 'XY' is not one of AN, HANS, SO, TK; rohwert_1_labormessung: 31.0 is outside of [0, 30]",
        }
        counts = await database.counts()
        assert (counts.raw, counts.processed, counts.rejected) == (402, 400, 2)


async def test_a_record_at_which_the_pipeline_fails_is_rejected_and_holds_up_no_other(
    tester: TesterService,
    settings: Settings,
    laboratory: Laboratory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = list(laboratory.records(400))
    bad = {records[place][ID] for place in (3, 170, 171)}
    split = Pipeline.split

    def fail_at_some(self: Pipeline, raw: pa.Table) -> Any:
        if bad & set(raw.column(ID).to_pylist()):
            raise ZeroDivisionError
        return split(self, raw)

    monkeypatch.setattr(Pipeline, "split", fail_at_some)
    database = DatabaseClient(tester)
    async with running(DatabaseMongoService, settings), running(DataProcessingService, settings) as service:
        await database.save_raw(records)
        await eventually(lambda: processed_count(database, 397))

        async def rejected() -> Any:
            return len(found := await database.rejected()) == 3 and found

        found = await eventually(rejected)
        assert {each.id for each in found} == bad
        assert "fails at this record (ZeroDivisionError)" in found[0].reason
        await eventually(lambda: service.health().state == "ready")
        # Where nothing can be processed, no record is the reason: all of them wait.
        more = list(laboratory.records(20))
        bad |= {record[ID] for record in more}
        await database.save_raw(more)
        await eventually(lambda: "process_new_records failed" in caplog.text)
        assert (await database.counts()).rejected == 3
        monkeypatch.setattr(Pipeline, "split", split)
        await eventually(lambda: processed_count(database, 417))


async def test_a_processed_record_that_the_database_refuses_is_rejected(
    tester: TesterService, settings: Settings, laboratory: Laboratory
) -> None:
    records = list(laboratory.records(300))
    database = DatabaseClient(tester)
    async with running(DatabaseMongoService, settings):
        async with AsyncMongoClient(settings.mongo_host, settings.mongo_port) as client:
            rule = {"_id": {"$ne": records[40][ID]}}
            await client[settings.mongo_name].command("collMod", PROCESSED, validator=rule)
        async with running(DataProcessingService, settings):
            await database.save_raw(records)
            await eventually(lambda: processed_count(database, 299))

            async def rejected() -> Any:
                return await database.rejected()

            [found] = await eventually(rejected)
            assert found.id == records[40][ID]
            assert "does not take the processed record: MongoDB at" in found.reason


async def test_another_declaration_has_everything_processed_again(
    tester: TesterService, settings: Settings, dataset: Dataset, laboratory: Laboratory
) -> None:
    database = DatabaseClient(tester)
    content = yaml.safe_load(dataset.json())
    content["pipeline"][3]["to"] = [0, 2]
    changed = Dataset.parse(yaml.safe_dump(content))
    assert changed.version != dataset.version
    records = list(laboratory.records(300))
    for declared in (dataset, changed):
        expected = Pipeline(declared).process(records).to_dicts()

        async def as_declared(expected: list[Record] = expected) -> bool:
            return await processed_rows(database) == expected

        async with running(DatabaseMongoService, settings, declared), running(DataProcessingService, settings, declared):
            await database.save_raw(records)
            await eventually(as_declared)


async def test_it_waits_for_a_database_that_is_away_and_goes_on_when_it_is_back(
    tester: TesterService, settings: Settings, laboratory: Laboratory
) -> None:
    database = DatabaseClient(tester)
    async with running(DataProcessingService, settings) as service:
        for expected in (100, 200):
            await eventually(lambda: service.health().state == "waiting")
            assert "get-unprocessed-page" in service.health().detail
            # It can be asked all the same.
            assert len(await ProcessingClient(tester).process([laboratory.record()])) == 1
            async with running(DatabaseMongoService, settings):
                await database.save_raw(list(laboratory.records(100)))
                await eventually(lambda expected=expected: processed_count(database, expected))
                await eventually(lambda: service.health().state == "ready")


@pytest.mark.long
async def test_pages_that_grow_beyond_the_brokers_limit_are_written_in_parts(
    default_nats_server: Server, settings: Settings
) -> None:
    categories = [f"c{i:03d}" for i in range(300)]
    wide = Dataset.parse(
        yaml.safe_dump(
            {
                "name": "wide",
                "target": "y",
                "columns": [
                    {"name": "kind", "type": "category", "categories": categories},
                    {"name": "y", "type": "number", "optional": True},
                ],
                "pipeline": [{"step": "one_hot", "column": "kind"}],
            }
        )
    )
    count = 1000
    settings = settings.copy(update={"processing_batch": count, "nats_port": default_nats_server.port})
    async with (
        running(TesterService, settings) as tester,
        running(DatabaseMongoService, settings, wide),
        running(DataProcessingService, settings, wide) as service,
    ):
        assert count * len(categories) * 8 > 2 * service.broker.max_payload
        database = DatabaseClient(tester)
        await database.save_raw([{"_id": f"{i:05d}", "kind": categories[i % 300], "y": float(i)} for i in range(count)])
        await eventually(lambda: processed_count(database, count))
        seen = 0
        async for page in database.processed_pages(limit=200):
            for row in page.table.to_pylist():
                assert row[f"kind_{categories[seen % 300]}"] == 1.0
                assert sum(row[f"kind_{name}"] for name in categories) == 1.0
                seen += 1
        assert seen == count


async def test_a_request_is_answered_by_the_same_pipeline(
    tester: TesterService, settings: Settings, dataset: Dataset, laboratory: Laboratory
) -> None:
    records = list(laboratory.records(50))
    del records[3]["_id"], records[4]["laborant"]
    async with running(DataProcessingService, settings):
        processed = await request_get_processed_data_points_from_raw_data(tester, records)
        assert processed == Pipeline(dataset).process(records).to_dicts()
        assert all(tuple(row) == dataset.processed_names for row in processed)
        assert processed[3]["_id"] is None
        assert await ProcessingClient(tester).process([]) == []


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"material_id": "99"}, "material_id", "'99' is not one of 00000000, 11111111, 22222222, 33333333"),
        ({"rohwert_2_labormessung": 30.5}, "rohwert_2_labormessung", "30.5 is outside of [0, 30]"),
        ({"rohwert_2_labormessung": "30"}, "rohwert_2_labormessung", "must be a number or nothing, not the text '30'"),
        ({"colour": "red"}, "colour", "is not a declared field"),
    ],
)
async def test_a_bad_record_is_an_error_that_names_it_and_the_next_request_is_answered(
    tester: TesterService, settings: Settings, laboratory: Laboratory, change: dict[str, Any], field: str, problem: str
) -> None:
    processing = ProcessingClient(tester)
    good, bad = laboratory.record(), {**laboratory.record(), **change}
    async with running(DataProcessingService, settings):
        with pytest.raises(InvalidRecordError) as caught:
            await processing.process([good, bad])
        assert caught.value.faults == [{"record": 1, "id": bad["_id"], "field": field, "problem": problem}]
        assert len(await processing.process([good])) == 1


@pytest.mark.parametrize("value", [None, {}, "text", 7, b"bytes"])
async def test_what_is_no_list_of_records_is_an_error(tester: TesterService, settings: Settings, value: Any) -> None:
    async with running(DataProcessingService, settings):
        with pytest.raises(InvalidRequestError, match="A list of records is expected"):
            await ProcessingClient(tester).process(value)


@pytest.mark.long
async def test_batches_shrink_while_the_database_is_slow_and_grow_again(
    tester: TesterService, settings: Settings, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = DatabaseClient(tester)
    settings = settings.copy(update={"request_timeout": 8.0, "processing_batch": 400})
    sizes: list[int] = []
    slow = True

    class SlowDatabaseMongoService(DatabaseMongoService):
        async def _stored(self, work: Any) -> Any:
            result = await super()._stored(work)
            if isinstance(result, dict) and "upserted" in result:
                sizes.append(result["upserted"])
                await asyncio.sleep(result["upserted"] / 45 if slow else 0)  # 400 records run into the time-out
            return result

    async with running(SlowDatabaseMongoService, settings):
        await database.save_raw(list(laboratory.records(1000)))
        async with running(DataProcessingService, settings):
            await eventually(lambda: processed_count(database, 1000), 60)
            assert sizes[0] == 400
            assert min(sizes) <= 200
            slow = False

            async def is_full() -> bool:
                done = len(sizes)
                await database.save_raw(list(laboratory.records(400)))
                await eventually(lambda: sum(sizes[done:]) >= 400, 60)
                return 400 in sizes[done:]  # not where a look came in the middle of the write

            await eventually(is_full, 60)


@pytest.mark.parametrize(("name", "service"), [("mongo", DatabaseMongoService), ("maria", DatabaseMariaService)])
async def test_records_that_change_while_they_are_processed_are_processed_as_they_are_now(
    tester: TesterService,
    nats_server: Server,
    make_settings: Callable[..., Settings],
    request: pytest.FixtureRequest,
    dataset: Dataset,
    laboratory: Laboratory,
    name: str,
    service: type[DatabaseService],
) -> None:
    own = f"test_{uuid4().hex[:12]}"
    settings = make_settings(
        nats_server, request.getfixturevalue(f"{name}_server"), mongo_name=own, maria_name=own, processing_interval=0.05
    )
    database = DatabaseClient(tester)
    records = [laboratory.complete_record() for _ in range(30)]
    column, rejected = "rohwert_3_labormessung", {**laboratory.complete_record(), "rohwert_3_labormessung": 99.0}
    async with running(service, settings) as running_service:
        unprocessed = running_service.store.unprocessed

        async def change_behind_the_page(*arguments: Any) -> Page:
            page = await unprocessed(*arguments)
            if page.table.num_rows == 31:
                for record in (*records[:3], rejected):
                    await asyncio.to_thread(change, name, settings, record[ID], column, 0.25)
            return page

        running_service.store.unprocessed = change_behind_the_page  # type: ignore[method-assign]
        await database.save_raw([*records, rejected])
        async with running(DataProcessingService, settings):
            await eventually(lambda: processed_count(database, 31))
    now = [{**record, column: 0.25} for record in records[:3]] + records[3:] + [{**rejected, column: 0.25}]
    async with running(service, settings):
        assert await processed_rows(database) == Pipeline(dataset).process(now).to_dicts()
        assert await database.rejected() == []
        assert (await database.unprocessed(dataset.version, 10)).table.num_rows == 0
    assert [each.revision for each in envelopes(name, settings)] == [2] * 3 + [1] * 27 + [2]
