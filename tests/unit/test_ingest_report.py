"""The report of the ingest, while messages move on."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.consumer import Ingest
from complex_system.messaging.ingest.streams import StreamCounts
from complex_system.messaging.nats_client import ServiceClient
from complex_system.settings import Settings


@pytest.mark.parametrize("moves", list(product(range(3), repeat=2)))
async def test_a_message_that_moves_on_meanwhile_is_counted_where_it_is_by_then(moves: tuple[int, int]) -> None:
    """From MQTT's stream to that of the records to the database, so many steps before each of the broker's two answers."""

    async def nothing(*_: Any) -> None:
        return

    connection = ServiceConnection(ServiceClient(), "database", 1)
    ingest = Ingest(connection, Settings(mqtt_port=1883), check=list, save=nothing, probe=nothing, traced=nothing)
    assert ingest._mqtt is not None
    place, left = 0, list(moves)

    def is_at(asked: int) -> int:
        nonlocal place
        place += left.pop(0)
        ingest.writer.saved = int(place >= 2)
        return int(place == asked)

    async def in_mqtt() -> int:
        return is_at(0)

    async def in_stream() -> StreamCounts:
        return StreamCounts(is_at(1), 0, 0, ())

    ingest._mqtt.waiting, ingest.streams.counts = in_mqtt, in_stream  # type: ignore[method-assign]
    counts = await ingest.report("a")
    assert (counts.waiting or 0) + counts.saved >= 1
