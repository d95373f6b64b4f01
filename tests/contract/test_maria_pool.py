"""The connections to MariaDB: a query that is ended is an error, never fewer rows."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from complex_system.errors import BackupError, StoreUnavailableError
from complex_system.local.servers import Server
from complex_system.settings import Settings
from complex_system.storage.maria import copy
from complex_system.storage.maria.copy import MariaCopy
from complex_system.storage.maria.pool import MariaConnections, Row, select, select_in_parts

SLOW = "SELECT seq, SLEEP(0.001) FROM seq_1_to_20000"


@pytest.fixture
def settings(maria_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(maria_server, maria_name=f"t{uuid.uuid4().hex[:12]}", maria_connections=2)


@pytest.fixture
async def connections(settings: Settings) -> AsyncIterator[MariaConnections]:
    made = MariaConnections(settings)
    made.open()
    made.create_database()
    yield made
    await made.change(f"DROP DATABASE {settings.maria_name}")
    made.close()


async def test_a_query_that_is_killed_is_an_error(connections: MariaConnections) -> None:
    reading = asyncio.create_task(connections.select(SLOW))
    running = "SELECT id FROM information_schema.processlist WHERE info LIKE ? AND id <> CONNECTION_ID()"
    while not (found := await connections.select(running, (f"{SLOW}%",))):
        assert not reading.done()
    await connections.change(f"KILL QUERY {found[0][0]}")
    with pytest.raises(StoreUnavailableError, match="interrupted"):
        await reading
    assert await connections.select("SELECT 1") == [(1,)]


async def test_a_query_that_takes_longer_than_the_server_lets_it_is_an_error(connections: MariaConnections) -> None:
    limited = f"SET STATEMENT max_statement_time = 0.1 FOR {SLOW}"
    for read in (
        lambda connection: select(connection, limited, ()),
        lambda connection: list(select_in_parts(connection, limited)),
    ):
        with pytest.raises(StoreUnavailableError, match="max_statement_time"):
            await connections.run(read)


async def test_a_copy_whose_reading_is_ended_is_an_error(
    connections: MariaConnections, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connections.change("CREATE TABLE KIOptiPackRejected (_id INT PRIMARY KEY) SELECT seq AS _id FROM seq_1_to_50")

    def without_the_last(connection: Any, statement: str, **options: Any) -> Iterator[list[Row]]:
        for part in select_in_parts(connection, statement, rows=20):
            if len(part) == 20:
                yield part

    monkeypatch.setattr(copy, "select_in_parts", without_the_last)
    copied = MariaCopy(settings)
    await copied.open()
    with pytest.raises(BackupError, match="last 10 rows"):
        await copied.read(lambda name, table: None)
    await copied.close()
