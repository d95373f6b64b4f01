"""Values outside of their range on the way from a file to a processed record, on both databases: processed, counted and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kio.ml_lifecycle_broker_facade import request_get_processed_data_points_from_raw_data

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.handlers import hears
from complex_system.messaging.service import SystemService
from complex_system.protocol.database import RANGE_EXCEEDED, RangeExceeded, RecordCounts
from complex_system.settings import Settings
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from support import TesterService, eventually, running

LENIENT = Dataset.parse("""
name: lenient
id: key
target: y
columns:
  - {name: a, type: number, range: [0, 10], outside: warn}
  - {name: b, type: integer, range: [0, 10], outside: clip}
  - {name: c, type: number, range: [0, 10]}
  - {name: y, type: number, range: [0, 100], outside: warn, optional: true}
pipeline:
  - {step: scale, column: a}
  - {step: scale, column: b}
  - {step: scale, column: c}
""")
DATABASES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}


class Listener(SystemService):
    """Hears what lies outside."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts: list[dict[str, int]] = []
        self.records = 0

    @hears(RANGE_EXCEEDED)
    async def on_range_exceeded(self, event: RangeExceeded) -> None:
        self.counts += [event.counts] if event.counts else []
        self.records += event.records


@pytest.mark.parametrize("database", list(DATABASES))
async def test_values_outside_are_processed_counted_and_told(
    database: str,
    request: pytest.FixtureRequest,
    nats_server: Server,
    tester: TesterService,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    name = f"t{uuid4().hex[:8]}"
    (tmp_path / "lab.csv").write_text(
        "key,a,b,c,y\nk1,5,5,5,50\nk2,20,-3,5,150\nk3,-10,99,5,\nk4,5,5,11,50\nk5,1e300,5,5,50\n"
    )
    settings = make_settings(
        nats_server, request.getfixturevalue(f"{database}_server"), mongo_name=name, maria_name=name,
        processing_interval=0.05, config_dir=str(tmp_path), source_file="lab.csv",
    )  # fmt: skip
    client = DatabaseClient(tester)
    async with (
        running(DATABASES[database], settings, LENIENT),
        running(Listener, settings) as listener,
        running(DataProcessingService, settings, LENIENT) as processing,
        running(DummyDataGenerationService, settings, LENIENT) as source,
    ):

        async def done() -> bool:
            return await client.counts() == RecordCounts(raw=5, processed=3, labelled=2, rejected=2)

        await eventually(done)
        rows = [row async for page in client.processed_pages() for row in page.table.to_pylist()]
        assert [(row["_id"], row["a"], row["b"], row["c"], row["y"]) for row in rows] == [
            ("k1", 0.5, 0.5, 0.5, 50.0), ("k2", 2.0, 0.0, 0.5, 150.0), ("k3", -1.0, 1.0, 0.5, None)
        ]  # fmt: skip
        assert {each.id: each.reason for each in await client.rejected()} == {
            "k4": "c: 11.0 is outside of [0, 10]",
            "k5": "a: 1e+300 is outside of [0, 10] by more than 1e+09 times its width",
        }
        await eventually(lambda: processing.health().detail.startswith("values outside of their range"))
        assert processing.health().detail == "values outside of their range, processed all the same: a 2, b 2, y 1"
        await eventually(lambda: listener.records == 3)  # the event may come after the state
        assert listener.counts == [{"a": 2, "b": 2, "y": 1}]
        told = "5 of 5 records saved; values outside of their range: a 3, b 2, y 1"
        await eventually(lambda: source.health().detail == told)
        processed = await request_get_processed_data_points_from_raw_data(tester, [{"a": 20.0, "b": -3, "c": 5.0}])
        assert [(row["a"], row["b"], row["c"]) for row in processed] == [(2.0, 0.0, 0.5)]
