"""Both database services over the real broker: the published client, our own subjects, bad input, a database that goes away."""

from __future__ import annotations

import asyncio
import csv
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import kio.ml_lifecycle_broker_facade as kio
import pyarrow as pa
import pytest
from kio import ml_lifecycle_subjects_name

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.documents import Document
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import MAX_PAGE_ROWS, Page, decode_page, encode_page, processed_schema
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, InvalidRequestError, StoreUnavailableError, TooLargeError
from complex_system.local.servers import Server, free_port
from complex_system.messaging import subjects
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.operators import list_conflicts
from complex_system.messaging.replicas import Share
from complex_system.protocol import database as protocol
from complex_system.protocol import documents
from complex_system.protocol.base import Empty, Request
from complex_system.protocol.database import (
    ColumnsRequest,
    KeyRangesRequest,
    RecordCounts,
    RejectedRequest,
    Rejection,
    UnprocessedRequest,
)
from complex_system.protocol.operations import health_request
from complex_system.service_layer.database import service as database_service
from complex_system.service_layer.database.service import DatabaseService
from complex_system.settings import Settings
from complex_system.testing.proxy import proxied
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from support import TesterService, eventually, running

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, type[DatabaseService]] = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
LABELS = {"mongo": "MongoDB", "maria": "MariaDB"}
COUNTS = RecordCounts(raw=0, processed=0, labelled=0, rejected=0)
DOCUMENT = {"kind": "k", "key": "a", "at": 1.0, "body": {}}
NO_MAPPINGS: list[Any] = [[], "text", 3, b"x"]


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(
    database: str, request: pytest.FixtureRequest, nats_server: Server, make_settings: Callable[..., Settings]
) -> Settings:
    server = request.getfixturevalue(f"{database}_server")
    name = f"s{uuid4().hex[:12]}"
    return make_settings(nats_server, server, mongo_name=name, maria_name=name)


@pytest.fixture
async def service(database: str, settings: Settings) -> AsyncIterator[DatabaseService]:
    async with running(SERVICES[database], settings) as service:
        yield service


@pytest.fixture
def records(laboratory: Laboratory) -> list[Record]:
    return list(laboratory.records(40))


def processed(dataset: Dataset, records: list[Record]) -> list[Record]:
    features = {name: i / 7 for i, name in enumerate(dataset.feature_names)}
    return [{ID: r[ID], dataset.target: r[dataset.target], **features} for r in records]


def columns(dataset: Dataset, rows: list[Record], notes: dict[str, str] | None = None) -> bytes:
    return encode_page(Page(pa.Table.from_pylist(rows, schema=processed_schema(dataset)), None, notes or {}))


async def test_the_published_client_reads_what_it_wrote(
    tester: TesterService, service: DatabaseService, database: str, dataset: Dataset, records: list[Record]
) -> None:
    assert await kio.request_get_all_raw_data_points(tester) == []
    assert await kio.request_get_labeled_dataset(tester) == []
    saved = await kio.request_save_many_raw_data_points(tester, records)
    assert saved == {"acknowledged": True, "db": LABELS[database], "inserted": 40, "existing": 0, "conflicts": 0,
                     "filled": 0, "replaced": 0, "differing": []}  # fmt: skip
    assert await kio.request_get_all_raw_data_points(tester) == records

    rows = processed(dataset, records)
    written = await kio.request_upsert_many_processed_data_points(tester, rows)
    assert written == {"acknowledged": True, "db": LABELS[database], "upserted": 40}
    assert await kio.request_get_all_processed_data_points(tester) == rows
    assert list((await kio.request_get_all_processed_data_points(tester))[0]) == list(dataset.processed_names)
    assert await kio.request_get_processed_data_points_count(tester) == 40
    assert await tester.ask(subjects.COUNT_PROCESSED_POINTS, {}) == 40
    labelled = [row for row in rows if row[dataset.target] is not None]
    assert 0 < len(labelled) < 40
    assert await kio.request_get_labeled_dataset(tester) == labelled

    without_key = [{name: value for name, value in row.items() if name != ID} for row in rows]
    assert await kio.request_get_processed_data_points_page(tester) == without_key[:10]
    assert await kio.request_get_processed_data_points_page(tester, page=2, page_size=15) == without_key[30:]
    assert await kio.request_get_processed_data_points_page(tester, page=3, page_size=15) == []
    assert await kio.request_get_processed_data_points_page(tester, page=0, page_size=0) == []
    assert await kio.request_get_processed_data_points_page(tester, page=2**62, page_size=4) == []
    assert await tester.ask(subjects.GET_PROCESSED_PAGE, {}) == without_key[:10]


async def test_a_walk_over_numbered_pages_goes_on_behind_the_last_key_and_meets_every_record_once(
    tester: TesterService,
    service: DatabaseService,
    dataset: Dataset,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = processed(dataset, records)
    before, there = rows[:10], rows[10:]
    await kio.request_upsert_many_processed_data_points(tester, there)
    without_key = [{name: value for name, value in row.items() if name != ID} for row in there]
    walked: list[int] = []
    processed_key = service.store.processed_key

    def counted(after: str | None, places: int) -> Awaitable[str | None]:
        walked.append(places)
        return processed_key(after, places)

    monkeypatch.setattr(service.store, "processed_key", counted)
    found = await kio.request_get_processed_data_points_page(tester, page=0, page_size=7)
    await kio.request_upsert_many_processed_data_points(tester, before)
    for number in range(1, 5):
        found += await kio.request_get_processed_data_points_page(tester, page=number, page_size=7)
    assert found == without_key
    assert walked == []
    # Another replica has answered the pages between.
    every = [{name: value for name, value in row.items() if name != ID} for row in rows]
    for number in (0, 2, 5):
        page = await kio.request_get_processed_data_points_page(tester, page=number, page_size=5)
        assert page == every[5 * number : 5 * number + 5]
    assert walked == [5, 10]
    monkeypatch.setattr(database_service, "_PAGES_REMEMBERED", 0.0)
    assert await kio.request_get_processed_data_points_page(tester, page=1, page_size=10) == without_key[:10]


async def test_all_records_are_counted_again_an_hour_after_the_start_and_then_once_a_day(service: DatabaseService) -> None:
    """Replicas of an earlier release may write after the first count, while one after the other is updated."""
    await eventually(lambda: service._recounts == 1, 20)
    service._recounts = 0
    assert [await service._recount() for _ in range(3)] == [service.first_recount, None, None]
    assert (service.first_recount, service.recount_interval) == (3600.0, 86_400.0)


async def test_ranges_of_keys_have_about_as_many_records_each_however_many_a_query_or_a_request_passes(
    tester: TesterService,
    service: DatabaseService,
    dataset: Dataset,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await kio.request_upsert_many_processed_data_points(tester, processed(dataset, records))
    keys = [record[ID] for record in records]
    client = DatabaseClient(tester)
    for places, seconds in ((500_000, 10.0), (10, 0.0), (3, 0.0)):
        monkeypatch.setattr(database_service, "_PLACES_AT_ONCE", places)
        monkeypatch.setattr(database_service, "_RANGES_SECONDS", seconds)
        ends = [None, keys[9], keys[19], keys[29], None]
        assert await client.key_ranges(4) == list(pairwise(ends))
    assert await client.key_ranges(1) == [(None, None)]
    assert await client.key_ranges(41) == list(pairwise([None, *keys, None]))
    asked = KeyRangesRequest(count=1000, places=15, after=keys[4])
    monkeypatch.setattr(database_service, "_RANGES_SECONDS", 10.0)
    assert await tester.ask(protocol.GET_KEY_RANGES, asked) == [keys[19], keys[34]]
    assert await tester.ask(protocol.GET_KEY_RANGES, KeyRangesRequest(count=3)) == [keys[9], keys[19], keys[29]]


async def test_records_without_a_key_get_one(tester: TesterService, service: DatabaseService, records: list[Record]) -> None:
    for record in records[:3]:
        del record[ID], record["laborant"]
    await kio.request_save_many_raw_data_points(tester, records[:4])
    raw = await kio.request_get_all_raw_data_points(tester)
    assert len({record[ID] for record in raw}) == 4
    assert all(record["laborant"] is None for record in raw if record[ID] != records[3][ID])


async def test_our_client_walks_pages_and_notes_versions(
    tester: TesterService, service: DatabaseService, dataset: Dataset, records: list[Record]
) -> None:
    client = DatabaseClient(tester)
    await client.save_raw(records)
    page = await client.unprocessed("v1", 30)
    assert page.table.to_pylist() == records[:30]
    assert page.next == records[29][ID]
    rows = processed(dataset, records)
    table = pa.Table.from_pylist(rows[:30], schema=processed_schema(dataset))
    assert (await client.upsert_processed(Page(table, notes={"version": "v1"}))).upserted == 30
    assert (await client.reject("v1", [Rejection(id=records[35][ID], reason="unknown category")])).rejected == 1
    assert (await client.unprocessed("v1", 30)).table.to_pylist() == records[30:35] + records[36:]
    assert await tester.ask(protocol.GET_REJECTED, RejectedRequest()) == [
        Rejection(id=records[35][ID], reason="unknown category", version="v1")
    ]
    known = sum(row[dataset.target] is not None for row in rows[:30])
    assert await client.counts() == RecordCounts(raw=40, processed=30, labelled=known, rejected=1)

    pages = [page async for page in client.processed_pages(limit=7)]
    assert [page.table.num_rows for page in pages] == [7, 7, 7, 7, 2]
    assert pa.concat_tables([page.table for page in pages]).to_pylist() == rows[:30]
    names = [dataset.feature_names[3], dataset.target]
    chosen = [page.table async for page in client.processed_pages(names, labelled=True, version="v1", limit=4)]
    assert pa.concat_tables(chosen).column_names == names
    assert pa.concat_tables(chosen).column(1).to_pylist() == [
        row[dataset.target] for row in rows[:30] if row[dataset.target] is not None
    ]
    assert [page.table.num_rows async for page in client.processed_pages(version="v2")] == [0]
    raw = [page.table async for page in client.processed_pages([ID], limit=4, raw=["datum", dataset.target])]
    assert pa.concat_tables(raw).column_names == [ID, raw_name("datum"), raw_name(dataset.target), ARRIVED]
    assert pa.concat_tables(raw).column(raw_name("datum")).to_pylist() == [record["datum"] for record in records[:30]]
    now = await client.now()
    for after, expected in ((-1e9, 30), (now - 3600, 30), (now + 3600, 0), (1e300, 0)):
        pages = [page.table async for page in client.processed_pages([dataset.target], limit=7, arrived_after=after)]
        assert pages[0].column_names == [dataset.target, ARRIVED]
        assert sum(page.num_rows for page in pages) == expected


async def test_polars_frames_may_be_upserted(tester: TesterService, service: DatabaseService, dataset: Dataset) -> None:
    pl = pytest.importorskip("polars")
    rows = processed(dataset, [{ID: "k", dataset.target: None}])
    frame = pl.DataFrame(rows).select(sorted(rows[0]))  # in another order, the target of no type
    reply = await tester.ask(protocol.UPSERT_PROCESSED, encode_page(Page(frame.to_arrow())))
    assert reply.upserted == 1
    assert await kio.request_get_all_processed_data_points(tester) == rows
    # Without a note the version is the deployment's own.
    page = decode_page(await tester.ask(protocol.GET_PROCESSED, ColumnsRequest(version=dataset.version)))
    assert page.table.to_pylist() == rows


def bad_requests(dataset: Dataset) -> list[tuple[Any, Any, type[Exception], str]]:
    """Subject, value, the error that its sender gets, and a part of its sentence."""
    good = processed(dataset, [{ID: "k", dataset.target: 1.0}])[0]
    feature = dataset.feature_names[0]
    schema = processed_schema(dataset)
    narrow = pa.table({name: pa.array([0.5], pa.float32()) if name != ID else ["k"] for name in dataset.processed_names})
    raw = {"material_id": "00000000"}
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (subjects.SAVE_RAW, {}, InvalidRequestError, "list of records"),
        (subjects.SAVE_RAW, [raw, {}], InvalidRecordError, "Record 1.*material_id.*Nothing"),
        (subjects.SAVE_RAW, [raw, {**raw, "x": 1}], InvalidRecordError, "'x'.*Nothing"),
        (subjects.SAVE_RAW, [raw, {**raw, ID: ""}], InvalidRecordError, "64 characters"),
        (subjects.UPSERT_PROCESSED_RECORDS, "x", InvalidRequestError, "list of records"),
        (subjects.UPSERT_PROCESSED_RECORDS, [good, {**good, feature: None}], InvalidRecordError, feature),
        (subjects.UPSERT_PROCESSED_RECORDS, [{**good, feature: float("nan")}], InvalidRecordError, "finite"),
        (protocol.UPSERT_PROCESSED, [good], InvalidRequestError, "Arrow"),
        (protocol.UPSERT_PROCESSED, b"garbage", InvalidRequestError, "Arrow"),
        (protocol.UPSERT_PROCESSED, columns(dataset, [{**good, feature: None}]), InvalidRecordError, feature),
        (protocol.UPSERT_PROCESSED, columns(dataset, [good, {**good, ID: "x" * 65}]), InvalidRecordError, "64"),
        (protocol.UPSERT_PROCESSED, columns(dataset, [{**good, feature: float("inf")}]), InvalidRecordError,
         "Record 0 .id k., field.*finite.*Nothing"),
        (protocol.UPSERT_PROCESSED, columns(dataset, [good], {"version": "v" * 65}), InvalidRequestError,
         "version"),
        (protocol.UPSERT_PROCESSED, encode_page(Page(schema.empty_table().drop_columns([feature]))),
         InvalidRequestError, "exactly these columns"),
        (protocol.UPSERT_PROCESSED, encode_page(Page(narrow)), InvalidRequestError, "double, not float"),
        (protocol.GET_KEY_RANGES, {}, InvalidRequestError, "count"),
        (protocol.GET_KEY_RANGES, {"count": 0}, InvalidRequestError, "count"),
        (protocol.GET_KEY_RANGES, {"count": 1001}, InvalidRequestError, "count"),
        (protocol.GET_KEY_RANGES, {"count": 1, "places": 0}, InvalidRequestError, "places"),
        (protocol.GET_UNPROCESSED, {}, InvalidRequestError, "version"),
        (protocol.GET_UNPROCESSED, {"version": ""}, InvalidRequestError, "version"),
        (protocol.GET_UNPROCESSED, {"version": "v", "limit": 0}, InvalidRequestError, "limit"),
        (protocol.GET_UNPROCESSED, {"version": "v", "share": [2, 2]}, InvalidRequestError, "share"),
        (protocol.GET_UNPROCESSED, {"version": "v", "share": "1/2"}, InvalidRequestError, "share"),
        (protocol.GET_UNPROCESSED, {"version": "v", "share": [False, True]}, InvalidRequestError, "share"),
        (protocol.GET_PROCESSED, {"columns": ["nothing"]}, InvalidRequestError, "Not 'nothing'"),
        (protocol.GET_PROCESSED, {"columns": []}, InvalidRequestError, feature),
        (protocol.GET_PROCESSED, {"columns": [feature] * 2}, InvalidRequestError, "twice"),
        (protocol.GET_PROCESSED, {"columns": [["a"]]}, InvalidRequestError, "columns"),
        (protocol.GET_PROCESSED, {"labelled": "yes"}, InvalidRequestError, "labelled"),
        (protocol.GET_PROCESSED, {"after": 3}, InvalidRequestError, "after"),
        (protocol.GET_PROCESSED, {"raw": ["nothing"]}, InvalidRequestError, "'raw'.*datum.*Not 'nothing'"),
        (protocol.GET_PROCESSED, {"raw": ["datum"] * 2}, InvalidRequestError, "'raw'.*twice"),
        (protocol.GET_PROCESSED, {"arrived_after": "yesterday"}, InvalidRequestError, "arrived_after"),
        (protocol.GET_PROCESSED, {"arrived_after": float("nan")}, InvalidRequestError, "'arrived_after' must be a time"),
        (protocol.REJECT_RAW, {"version": "v"}, InvalidRequestError, "rejections"),
        (protocol.REJECT_RAW, {"version": "v", "rejections": [{ID: "k"}]}, InvalidRequestError, "reason"),
        (protocol.REJECT_RAW, {"version": "v", "rejections": ["k"]}, InvalidRequestError, r"rejections\[0\]"),
        (protocol.REJECT_RAW, {"version": "v", "rejections": [{ID: 3, "reason": "r"}]}, InvalidRequestError, "_id"),
        (protocol.GET_REJECTED, {"limit": "all"}, InvalidRequestError, "limit"),
        (protocol.GET_CONFLICTS, {"limit": 0}, InvalidRequestError, "limit"),
        (protocol.GET_CONFLICTS, {"after": "B-0007"}, InvalidRequestError, "after"),
        (protocol.GET_CONFLICTS, {"after": ["B-0007", "no hash"]}, InvalidRequestError, "after"),
        (subjects.GET_PROCESSED_PAGE, {"page_size": MAX_PAGE_ROWS + 1}, InvalidRequestError, str(MAX_PAGE_ROWS)),
        (documents.SAVE_DOCUMENTS, {}, InvalidRequestError, "array"),
        (documents.SAVE_DOCUMENTS, [{"kind": "k", "key": "a", "at": 1.0}], InvalidRequestError, r"'\[0\]'.*`body`"),
        (documents.SAVE_DOCUMENTS, [{**DOCUMENT, "kind": "Two words"}], InvalidRequestError, r"'\[0\].kind'"),
        (documents.SAVE_DOCUMENTS, [DOCUMENT, {**DOCUMENT, "key": "x" * 201}], InvalidRequestError, r"'\[1\].key'.*200"),
        (documents.SAVE_DOCUMENTS, [{**DOCUMENT, "at": float("nan")}], InvalidRequestError, "'at'"),
        (documents.SAVE_DOCUMENTS, [{**DOCUMENT, "body": [1]}], InvalidRequestError, "body"),
        (documents.GET_DOCUMENTS, {"kind": "k"}, InvalidRequestError, "'from'"),
        (documents.GET_DOCUMENTS, {"kind": "k", "from": 0, "to": 1, "after": 3}, InvalidRequestError, "'after'"),
        (documents.GET_DOCUMENTS, {"kind": "k", "keys": [""]}, InvalidRequestError, "key"),
        (documents.DELETE_DOCUMENTS, {"kind": "k"}, InvalidRequestError, "either 'keys' or 'before'"),
        (protocol.GET_TARGETS, {}, InvalidRequestError, "`keys`"),
        (protocol.GET_RAW_BY_KEYS, {"keys": "k"}, InvalidRequestError, "'keys'"),
        (protocol.GET_LAST_KEY, {}, InvalidRequestError, "`before`"),
        (protocol.GET_LAST_KEY, {"before": "yesterday"}, InvalidRequestError, "'before'"),
    ]  # fmt: skip
    for field in ("page", "page_size"):
        for value in (-1, True, 1.0, "1", None):
            cases.append((subjects.GET_PROCESSED_PAGE, {field: value}, InvalidRequestError, f"'{field}'"))
    published = (
        subjects.GET_ALL_RAW, subjects.GET_ALL_PROCESSED, subjects.GET_LABELLED,
        subjects.COUNT_PROCESSED, subjects.COUNT_PROCESSED_POINTS, subjects.GET_PROCESSED_PAGE,
    )  # fmt: skip
    for subject in published:
        cases += [(subject, value, InvalidRequestError, "takes a mapping") for value in (None, *NO_MAPPINGS)]
    ours = (
        protocol.GET_COUNTS, protocol.GET_UNPROCESSED, protocol.GET_PROCESSED, protocol.REJECT_RAW, protocol.GET_REJECTED,
        protocol.GET_CONFLICTS,
        documents.GET_DOCUMENTS, documents.DELETE_DOCUMENTS, protocol.GET_TARGETS, protocol.GET_RAW_BY_KEYS,
        protocol.GET_INGEST_COUNTS, protocol.GET_TIME, protocol.GET_LAST_KEY,
    )  # fmt: skip
    for subject in ours:
        cases += [(subject, value, InvalidRequestError, "takes a mapping") for value in NO_MAPPINGS]
    return cases


async def test_bad_input_is_an_error_for_its_sender_and_writes_nothing(
    tester: TesterService, service: DatabaseService, dataset: Dataset
) -> None:
    for subject, value, error, words in bad_requests(dataset):
        with pytest.raises(error, match=words):
            await tester.ask(subject, value)
        assert await tester.ask(protocol.GET_COUNTS, Empty()) == COUNTS, (subject.name, value)


async def test_every_database_subject_has_its_bad_requests(dataset: Dataset) -> None:
    published = {subject.name for name, subject in vars(ml_lifecycle_subjects_name).items() if name.startswith("DB_")}
    declared = (*vars(protocol).values(), *vars(documents).values())
    ours = {subject.name for subject in declared if isinstance(subject, Request)}
    assert {subject.name for subject, *_ in bad_requests(dataset)} == published | ours


async def test_conflicts_are_shown_by_a_command_with_both_values(
    tester: TesterService, service: DatabaseService, nats_server: Server, database: str, records: list[Record]
) -> None:
    client, r3 = DatabaseClient(tester), "rohwert_3_labormessung"
    first = [{**record, "laborant": "TK", r3: 0.25} for record in records]
    await client.save_raw(first)
    told: list[str] = []
    assert await list_conflicts(tester.settings, told.append) == 0
    assert told == ["0 conflict(s)."]
    saved = await client.save_raw([{**record, "laborant": "AN", r3: 1.5} for record in first[:30]])
    assert saved.conflicts == 30
    told.clear()
    assert await list_conflicts(tester.settings, told.append, limit=2) == 2
    assert told[-1] == "2 of 30 conflicts; --limit shows more."
    head, *values = told[0].splitlines()
    assert head.startswith(first[0][ID])
    assert head.endswith("from 'TesterService' against 'TesterService'")
    assert values == ["    laborant: 'TK' is kept, 'AN' lost", f"    {r3}: 0.25 is kept, 1.5 lost"]
    # In requests of a few, as where a reply would be too large.
    assert [each.key async for each in client.conflicts(7)] == sorted(record[ID] for record in first[:30])[:7]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("fiot")), "extras", "conflicts", database, "--csv",
        cwd=ROOT, env={**os.environ, **nats_server.environment()}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    rows = list(csv.DictReader(out.decode().splitlines()))
    assert process.returncode == 0
    assert len(rows) == 60
    assert {row["key"] for row in rows} == {record[ID] for record in first[:30]}
    assert {(row["column"], row["kept"], row["lost"]) for row in rows} == {("laborant", "TK", "AN"), (r3, "0.25", "1.5")}


async def test_conflicts_of_long_values_come_in_smaller_replies(
    tester: TesterService, service: DatabaseService, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = DatabaseClient(tester)
    await client.save_raw([{**record, "laborant": "TK"} for record in records])
    await client.save_raw([{**record, "laborant": "AN"} for record in records])
    monkeypatch.setattr(ServiceConnection, "max_payload", 3000)
    found = [each.key async for each in client.conflicts()]
    assert found == sorted(record[ID] for record in records)


async def test_documents_and_records_by_key_come_whole_through_a_small_broker(
    tester: TesterService, service: DatabaseService, dataset: Dataset, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    await kio.request_save_many_raw_data_points(tester, records)
    await kio.request_upsert_many_processed_data_points(tester, processed(dataset, records))
    client = DocumentClient(tester)
    documents = [Document("minute", f"k{i:03}", float(i // 3), {"n": i, "text": "x" * 50}) for i in range(700)]
    await client.save(documents)
    monkeypatch.setattr(ServiceConnection, "max_payload", 5000)
    assert await client.between("minute", 0.0, 1e9) == documents
    assert await client.between("minute", 10.0, 1e9, newest_first=True, most=40) == documents[:-41:-1]
    table = await client.raw_by_keys([record[ID] for record in records] + ["missing"])
    assert table.to_pylist() == sorted(records, key=lambda record: str(record[ID]))
    assert (await client.raw_by_keys(["missing"])).num_rows == 0
    monkeypatch.undo()
    assert await client.by_keys("minute", [d.key for d in documents[::7]]) == documents[::7]
    assert await client.delete_keys("minute", ["k000", "k001"]) == 2
    assert await client.delete_before("minute", 200.0) == 598
    known = {record[ID]: record[dataset.target] for record in records if record[dataset.target] is not None}
    assert await client.targets([record[ID] for record in records]) == known


async def test_unknown_fields_are_warned_of_and_ignored(
    tester: TesterService, service: DatabaseService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await tester.ask(subjects.GET_PROCESSED_PAGE, {"page": 0, "sort": "x"}) == []
    assert "'get-processed-data-page': unknown field(s) ignored: sort" in caplog.text


async def test_shares_of_the_unprocessed_are_disjoint_and_complete(
    tester: TesterService, service: DatabaseService, records: list[Record]
) -> None:
    client = DatabaseClient(tester)
    await client.save_raw(records)
    seen: list[str] = []
    for index in range(3):
        after, pages = None, 0
        while True:
            page = await client.unprocessed("v", 4, after, Share(index, 3))
            assert page.table.num_rows <= 4
            seen += page.table.column(ID).to_pylist()
            pages += 1
            if (after := page.next) is None:
                break
        assert pages > 1
    assert sorted(seen) == sorted(record[ID] for record in records)


async def test_a_large_limit_is_cut(tester: TesterService, service: DatabaseService, records: list[Record]) -> None:
    await kio.request_save_many_raw_data_points(tester, records)
    page = decode_page(await tester.ask(protocol.GET_UNPROCESSED, UnprocessedRequest(version="v", limit=10**9)))
    assert page.table.num_rows == 40


async def test_what_does_not_fit_into_one_reply_says_how_to_page(
    tester: TesterService, service: DatabaseService, dataset: Dataset, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    await kio.request_save_many_raw_data_points(tester, records)
    rows = processed(dataset, [{**record, dataset.target: 1.0} for record in records])
    await kio.request_upsert_many_processed_data_points(tester, rows)
    # The second limit leaves room for so many small records; only their encoding shows that these do not fit.
    for subject, limits, words in (
        (subjects.GET_ALL_RAW, (3000, 8000), "get-unprocessed-page"),
        (subjects.GET_ALL_PROCESSED, (3000, 19_000), "get-processed-data-page.*get-processed-columns"),
        (subjects.GET_LABELLED, (3000, 19_000), "get-processed-columns"),
    ):
        for limit in limits:
            monkeypatch.setattr(ServiceConnection, "max_payload", limit)
            with pytest.raises(TooLargeError, match=f"limit is {limit} bytes.*{words}"):
                await tester.ask(subject, {})
    monkeypatch.setattr(ServiceConnection, "max_payload", 8000)
    with pytest.raises(TooLargeError, match="page_size"):
        await tester.ask(subjects.GET_PROCESSED_PAGE, {"page_size": 40})
    # Columnar pages are cut instead, and the walk still finds everything.
    client = DatabaseClient(tester)
    pages = [page async for page in client.processed_pages([dataset.target, dataset.feature_names[0]])]
    assert len(pages) == 1
    pages = [page async for page in client.processed_pages()]
    assert len(pages) > 1
    assert pa.concat_tables([page.table for page in pages]).to_pylist() == rows
    monkeypatch.setattr(ServiceConnection, "max_payload", 2000)
    keyless = [page async for page in client.processed_pages(list(dataset.feature_names[:4]))]
    assert len(keyless) > 1
    assert sum(page.table.num_rows for page in keyless) == 40
    monkeypatch.setattr(ServiceConnection, "max_payload", 3000)
    walked, after = [], None
    while True:
        page = await client.unprocessed("none", 5000, after)
        walked += page.table.to_pylist()
        after = page.next
        if after is None:
            break
    assert walked == records


async def test_replays_from_two_senders_at_once_are_saved_once(
    tester: TesterService, service: DatabaseService, records: list[Record]
) -> None:
    client = DatabaseClient(tester)
    replies = await asyncio.gather(*(client.save_raw(batch) for batch in (records, records[::-1], records[10:], records)))
    assert sum(reply.inserted for reply in replies) == 40
    assert (await client.counts()).raw == 40


async def test_a_lost_database_is_said_and_comes_back(
    tester: TesterService,
    database: str,
    settings: Settings,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DatabaseService, "watch_interval", 0.05)
    health = health_request(f"database_{database}")
    field = f"{database}_port"

    async def state(expected: str) -> bool:
        return bool((await tester.ask(health, Empty())).state == expected)

    async with proxied(getattr(settings, field)) as proxy:
        through = settings.copy(update={field: proxy.port})
        async with running(SERVICES[database], through):
            client = DatabaseClient(tester)
            await client.save_raw(records[:20])
            await proxy.cut()
            with pytest.raises(StoreUnavailableError, match=f"{LABELS[database]} at 127.0.0.1:{proxy.port}"):
                await client.save_raw(records)
            assert await state("failing")
            await proxy.join()
            await eventually(lambda: state("ready"))
            assert (await client.save_raw(records)).inserted == 20


async def test_a_database_that_is_not_up_yet_is_waited_for(tester: TesterService, database: str, settings: Settings) -> None:
    field, port = f"{database}_port", free_port()
    health = health_request(f"database_{database}")

    async def start() -> None:
        async with running(SERVICES[database], settings.copy(update={field: port})):
            assert (await tester.ask(health, Empty())).state == "ready"
            assert (await DatabaseClient(tester).counts()).raw == 0

    async def waits() -> Any:
        try:
            reply = await tester.ask(health, Empty())
        except Exception:
            return False
        return reply.state == "waiting" and str(port) in reply.detail

    started = asyncio.create_task(start())
    await eventually(waits)
    async with proxied(getattr(settings, field), port):
        await started
