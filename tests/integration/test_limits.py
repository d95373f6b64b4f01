"""docs/limits.md, limit by limit: what is still taken, and what one above it is told.

REST's limits are tried in ``test_exhaustion.py``, ``test_serving_models.py``, ``test_serving_rest.py`` and ``test_rest_server.py``,
the ingest's in ``test_ingest.py``, pages' in ``test_pages.py``, heartbeats' in ``test_monitor.py``, models' in ``test_predictor.py``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing

from complex_system.domain import records as record_limits
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import MAX_KEY
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import CELLS_PER_BYTE, MAX_PAGE_ROWS, PAGE_ROWS
from complex_system.domain.records import MAX_FAULTS, MAX_TEXT, Record
from complex_system.errors import (
    BusyError,
    InvalidRecordError,
    InvalidRequestError,
    ReplyTimeoutError,
    TooLargeError,
)
from complex_system.http import connections, limits
from complex_system.local.servers import NATS_MAX_PAYLOAD, Server
from complex_system.messaging import connection, subjects, subscriptions
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.ingest import streams as ingest_streams
from complex_system.messaging.service import SystemService
from complex_system.messaging.things import to_thing
from complex_system.monitoring import services
from complex_system.monitoring.page import gateway
from complex_system.protocol.base import Request
from complex_system.service_layer.database import requests as database_requests
from complex_system.service_layer.database.service import DatabaseService
from complex_system.serving.models import foreign, runtimes
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from support import TesterService, eventually, running

SERVICES: dict[str, type[DatabaseService]] = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
ECHO, GATED = Request("test-limits-echo", Any, Any), Request("test-limits-gated", Any, Any)
PAGE = Path(__file__).parents[2] / "docs" / "limits.md"


class LimitsService(SystemService):
    """Answers how long a request was, or when it is let."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = asyncio.Event()
        self.at_work = 0

    @answers(ECHO)
    async def echo(self, value: Any) -> Any:
        return len(value) if isinstance(value, bytes) else "x" * value

    @answers(GATED)
    async def gated(self, value: Any) -> Any:
        self.at_work += 1
        await self.gate.wait()
        self.at_work -= 1
        return value


@pytest.fixture
async def limited(nats_server: Server, make_settings: Callable[..., Settings]) -> AsyncIterator[LimitsService]:
    async with running(LimitsService, make_settings(nats_server, handler_tasks=16)) as service:
        yield service


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(
    database: str, request: pytest.FixtureRequest, default_nats_server: Server, make_settings: Callable[..., Settings]
) -> Settings:
    """A broker that takes one megabyte, as it comes."""
    name = f"l{uuid4().hex[:12]}"
    return make_settings(
        default_nats_server, request.getfixturevalue(f"{database}_server"), mongo_name=name, maria_name=name, ingest=False
    )


@pytest.fixture
async def asker(settings: Settings, database: str) -> AsyncIterator[TesterService]:
    async with running(SERVICES[database], settings), running(TesterService, settings) as tester:
        yield tester


def sample(count: int) -> list[Record]:
    return list(Laboratory(seed=9).records(count))


def around(value: Any) -> int:
    """Bytes of a Thing with that value from a test."""
    return len(serialize_to_bin(Thing, to_thing(value, "TesterService")))


async def test_a_request_may_be_as_large_as_the_broker_takes(tester: TesterService, limited: LimitsService) -> None:
    most = tester.broker.max_payload
    assert most == NATS_MAX_PAYLOAD
    fits = most - (around(bytes(most)) - most)
    assert around(bytes(fits)) == most
    assert await tester.ask(ECHO, bytes(fits)) == fits
    with pytest.raises(TooLargeError, match=rf"of {most + 1} bytes exceeds .*{most}; send it in smaller batches"):
        await tester.ask(ECHO, bytes(fits + 1))


async def test_a_reply_may_be_as_large_as_the_broker_takes(tester: TesterService, limited: LimitsService) -> None:
    most = tester.broker.max_payload
    fits = most - (len(serialize_to_bin(Thing, to_thing("x" * most, "LimitsService"))) - most)
    assert len(await tester.ask(ECHO, fits)) == fits
    with pytest.raises(
        TooLargeError, match=rf"has {most + 1} bytes, .*{most}; send or request fewer records at a time, page by page"
    ):
        await tester.ask(ECHO, fits + 1)


async def test_a_text_and_a_key_have_a_longest(asker: TesterService) -> None:
    database = DatabaseClient(asker)
    longest = [{**sample(1)[0], ID: "k" * MAX_KEY, "laborant": "ü" * MAX_TEXT}]
    assert (await database.save_raw(longest)).inserted == 1
    assert await asker.ask(subjects.GET_ALL_RAW, {}) == longest
    assert (await database.unprocessed("v", 10)).table.to_pylist() == longest
    with pytest.raises(
        InvalidRecordError, match=f"'laborant': must have at most {MAX_TEXT} characters, not {MAX_TEXT + 1}; keep"
    ):
        await database.save_raw([{**longest[0], "laborant": "ü" * (MAX_TEXT + 1)}])
    with pytest.raises(InvalidRecordError, match=f"must have 1 to {MAX_KEY} characters"):
        await database.save_raw([{**longest[0], ID: "k" * (MAX_KEY + 1)}])


async def test_all_records_are_answered_as_long_as_they_fit_and_then_the_error_says_how_to_page(
    asker: TesterService,
) -> None:
    database = DatabaseClient(asker)
    large = [{**record, "laborant": "x" * MAX_TEXT} for record in sample(16)]
    await database.save_raw(large[:8])
    await database.save_raw(large[8:15])
    assert await asker.ask(subjects.GET_ALL_RAW, {}) == large[:15]
    await database.save_raw(large[15:])
    with pytest.raises(TooLargeError, match="16 records do not fit .*'get-unprocessed-page'; with a version .* 'none'"):
        await asker.ask(subjects.GET_ALL_RAW, {})
    found: list[Record] = []
    after: str | None = None
    while True:  # as the error says
        page = await database.unprocessed("none", 100, after)
        found += page.table.to_pylist()
        after = page.next
        if after is None:
            break
    assert found == large


async def test_a_page_has_a_most_of_rows(asker: TesterService, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subjects.GET_PROCESSED_PAGE
    assert await asker.ask(subject, {"page_size": MAX_PAGE_ROWS}) == []
    with pytest.raises(InvalidRequestError, match=f"at most {MAX_PAGE_ROWS}, not {MAX_PAGE_ROWS + 1}; ask for more pages"):
        await asker.ask(subject, {"page_size": MAX_PAGE_ROWS + 1})
    # A page by key is cut instead: its cursor says that there is more.
    monkeypatch.setattr(database_requests, "MAX_PAGE_ROWS", 10)
    database = DatabaseClient(asker)
    records = sample(25)
    await database.save_raw(records)
    for limit in (10, 11, MAX_PAGE_ROWS):
        found: list[list[Record]] = []
        after: str | None = None
        while after is not None or not found:
            page = await database.unprocessed("none", limit, after)
            found.append(page.table.to_pylist())
            after = page.next
        assert [len(rows) for rows in found] == [10, 10, 5]
        assert [row for rows in found for row in rows] == records


async def test_so_many_faults_are_named(asker: TesterService) -> None:
    bad = [{**record, "rohwert_1_labormessung": "x"} for record in sample(MAX_FAULTS + 1)]
    for count in (MAX_FAULTS, MAX_FAULTS + 1):
        with pytest.raises(InvalidRecordError) as refused:
            await DatabaseClient(asker).save_raw(bad[:count])
        assert len(refused.value.faults) == MAX_FAULTS


async def test_processed_records_that_do_not_fit_are_asked_for_in_smaller_numbers(
    settings: Settings, dataset: Dataset
) -> None:
    async with running(DataProcessingService, settings), running(TesterService, settings) as tester:
        # A raw record without optional columns is much smaller than its processed record.
        small = [{"material_id": "00000000"}] * 5000
        with pytest.raises(TooLargeError, match="send or request fewer records"):
            await tester.ask(subjects.PROCESS_RAW, small)
        assert len(await tester.ask(subjects.PROCESS_RAW, small[:1000])) == 1000


async def test_handlers_at_work_are_bounded_and_the_next_request_waits(
    tester: TesterService, limited: LimitsService
) -> None:
    asked = [asyncio.create_task(tester.ask(GATED, number)) for number in range(17)]
    await eventually(lambda: limited.at_work == 16)
    # Another subject has places of its own.
    assert await tester.ask(ECHO, b"123") == 3
    assert limited.at_work == 16
    limited.gate.set()
    assert await asyncio.gather(*asked) == list(range(17))


async def test_requests_above_those_that_may_wait_are_refused_at_once(tester: TesterService, limited: LimitsService) -> None:
    most = connection.WAITING_MESSAGES
    asked = [asyncio.create_task(tester.ask(GATED, number, 60)) for number in range(16 + most + 50)]
    await eventually(lambda: sum(task.done() for task in asked) >= 50, 60)
    limited.gate.set()
    replies = await asyncio.gather(*asked, return_exceptions=True)
    refused = [reply for reply in replies if isinstance(reply, BaseException)]
    # A few more where many came in one read, before the handlers took theirs.
    assert 50 <= len(refused) <= 50 + 16
    assert all(isinstance(error, BusyError) and "and this one again later" in error.message for error in refused)


async def test_bytes_above_those_that_may_wait_are_refused_at_once(
    tester: TesterService, nats_server: Server, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WAITING_BYTES", 0)  # so the least counts, two requests of the largest size
    large = bytes(NATS_MAX_PAYLOAD * 7 // 8)
    async with running(LimitsService, make_settings(nats_server, handler_tasks=1)) as service:
        asked = [asyncio.create_task(tester.ask(GATED, large, 60))]
        await eventually(lambda: service.at_work == 1)
        asked += [asyncio.create_task(tester.ask(GATED, large, 60)) for _ in range(3)]
        await eventually(lambda: any(task.done() for task in asked), 60)
        service.gate.set()
        replies = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(reply == large for reply in replies) == 3
    [refused] = [reply for reply in replies if isinstance(reply, BaseException)]
    assert isinstance(refused, BusyError)


async def test_a_reply_that_does_not_come_is_a_time_out(tester: TesterService, limited: LimitsService) -> None:
    with pytest.raises(ReplyTimeoutError, match=r"within 0\.2 s"):
        await tester.ask(GATED, 1, 0.2)
    limited.gate.set()


def test_the_page_has_the_figures_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    numbers = {int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*\d|\d", text)}
    settings = Settings()
    wanted = {
        "max_payload": NATS_MAX_PAYLOAD,
        "key": MAX_KEY,
        "text": MAX_TEXT,
        "faults": record_limits.MAX_FAULTS,
        "page": PAGE_ROWS,
        "largest page": MAX_PAGE_ROWS,
        "waiting": connection.WAITING_MESSAGES,
        "handlers": settings.handler_tasks,
        "time-out": int(settings.request_timeout),
        "drain": int(subscriptions.DRAIN_SECONDS),
        "ack wait": int(ingest_streams.ACK_WAIT),
        "ingest bytes": settings.ingest_bytes,
        "ingest messages": settings.ingest_messages,
        "ingest batch": settings.ingest_batch,
        "ingest messages of a source": settings.ingest_source_messages,
        "ingest messages of all": ingest_streams.MAX_WAITING,
        "dead letters of a source": settings.ingest_dead_share,
        "dead letters of all": ingest_streams.MAX_DEAD,
        "bytes of dead letters": settings.ingest_dead_bytes,
        "body": settings.serving_body_bytes,
        "records": settings.serving_records,
        "budget": limits.BUDGET,
        "unbudgeted": limits.UNBUDGETED,
        "wait": int(limits.WAIT_SECONDS),
        "head": connections.HEAD_BYTES,
        "head's time": int(connections.HEAD_SECONDS),
        "body's time": int(connections.BODY_SECONDS),
        "connections": connections.MAX_CONNECTIONS,
        "all connections": connections.MAX_CONNECTIONS + connections.SPARE_CONNECTIONS,
        "page's body": gateway.MAX_BODY,
        "model's time": int(runtimes.RUN_SECONDS),
        "foreign model's loading": int(foreign.LOAD_SECONDS),
        "foreign model's time": int(foreign.PREDICT_SECONDS),
        "values a byte": CELLS_PER_BYTE,
        "replicas": services.MAX_REPLICAS,
        "name": services.MAX_NAME,
        "detail": services.MAX_DETAIL,
    }
    assert {name: number for name, number in wanted.items() if number not in numbers} == {}
