"""What is new is told by time and never by keys: on both databases, for keys of every look."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import row_key, uuid7
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, processed_schema
from complex_system.domain.records import Record
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.service import SystemService
from complex_system.monitoring.reference import Reference
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.database import GET_LAST_KEY, ArrivedBefore
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.settings import Settings
from complex_system.tracking.model_files import SAMPLE_FILE, SAMPLE_RECORDS, decode_sample
from complex_system.training.split import Part, groups_of, parts_of
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from envelopes import age
from support import TesterService, eventually, running

DIGEST = hashlib.sha256(b"a file").digest()
KEYS: dict[str, Callable[[int], str]] = {
    "a file's digest": lambda row: row_key(DIGEST, row),
    "random": lambda _: str(uuid4()),
    "text": lambda row: f"B-{row:06}",
    "number": str,
    "a source's clock that is ahead": lambda row: uuid7(4_000_000_000_000 + row, row),
}
HOUR = 3600.0


@pytest.fixture(params=["mongo", "maria"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(
    kind: str, request: pytest.FixtureRequest, nats_server: Server, make_settings: Callable[..., Settings]
) -> Settings:
    name = f"t{uuid.uuid4().hex[:12]}"
    server: Server = request.getfixturevalue(f"{kind}_server")
    return make_settings(nats_server, server, mongo_name=name, maria_name=name)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.load()


@pytest.fixture
async def client(kind: str, settings: Settings, dataset: Dataset, tester: TesterService) -> AsyncIterator[DatabaseClient]:
    service: type[SystemService] = DatabaseMongoService if kind == "mongo" else DatabaseMariaService
    async with running(service, settings, dataset):
        yield DatabaseClient(tester)


async def arrive(client: DatabaseClient, dataset: Dataset, records: list[Record]) -> pa.Table:
    """Saves raw records and their processed ones; returns the latter."""
    for start in range(0, len(records), 500):  # on a busy machine the stand-in takes long for many at once
        await client.save_raw(records[start : start + 500])
    table = Pipeline(dataset).process(records).to_arrow().cast(processed_schema(dataset))
    for start in range(0, table.num_rows, 500):
        await client.upsert_processed(Page(table.slice(start, 500), None, {"version": dataset.version}))
    return table


def measured(seed: int, count: int, first: int = 0) -> list[Record]:
    """Labelled lab records with keys of every look."""
    laboratory, looks = Laboratory(seed), list(KEYS.values())
    return [{**laboratory.measured_record(), ID: looks[row % len(looks)](first + row)} for row in range(count)]


async def later(client: DatabaseClient) -> float:
    """A moment after which nothing has arrived yet: the databases' clocks tell milliseconds."""
    began = await client.now()

    async def passed() -> float | None:
        now = await client.now()
        return now if now > began + 0.002 else None

    return float(await eventually(passed))


async def test_no_old_record_is_new_whatever_its_key(client: DatabaseClient, dataset: Dataset) -> None:
    data = LabelledData(dataset, client)
    await arrive(client, dataset, measured(1, 3000))
    now = await later(client)
    assert await data.newest(1000, now) == (0, None)
    await arrive(client, dataset, measured(2, 40, first=5000))
    assert await data.newest(60, now) == (40, None)
    between = await later(client)
    await arrive(client, dataset, measured(3, 25, first=7000))
    found, since = await data.newest(20, now)
    assert (found, since is not None and now < since < between) == (65, True)
    assert await data.newest(20, between) == (25, between)
    found, since = await data.newest(30, now)
    assert (found, since) == (65, now), "those that arrived together are taken together"


async def test_models_are_compared_on_the_newest_records_whatever_their_keys(
    client: DatabaseClient, dataset: Dataset, kind: str, settings: Settings
) -> None:
    records = measured(4, 400)
    table = await arrive(client, dataset, records)
    days = {record[ID]: 1.0 + place for place, record in enumerate(records)}
    age(kind, settings, dict(list(days.items())[:300]))  # a hundred arrived now
    held_out = parts_of(groups_of(dataset, table)) == Part.HOLDOUT
    target = dict(zip(table.column(ID).to_pylist(), table.column(dataset.target).to_pylist(), strict=True))
    keys = [key for key, held in zip(table.column(ID).to_pylist(), held_out, strict=True) if held]
    newest = sorted(keys, key=lambda key: days[key] if days[key] <= 300 else 0.0)
    data = LabelledData(dataset, client)
    found = await data.to_compare(30)
    assert len(found.holdout) == 30
    assert sorted(found.holdout.y.tolist()) == pytest.approx(sorted(target[key] for key in newest[:30]), rel=1e-6)
    everything = await data.to_compare(1000)
    assert len(everything.holdout) == len(keys)
    since = await client.now() - 150.5 * 24 * HOUR
    recent = await data.to_compare(0, since)
    assert sorted(recent.holdout.y.tolist()) == pytest.approx(
        sorted(target[key] for key in keys if days[key] < 150.5 or days[key] > 300), rel=1e-6
    )


PRESS = """
name: press
target: y
time: {column: made, zone: Asia/Kolkata}
columns:
  - {name: made, type: datetime, format: "%d.%m.%Y %H:%M:%S", optional: true}
  - {name: x, type: number, range: [0, 1]}
  - {name: y, type: number}
pipeline:
  - {step: keep, column: x}
"""


ZONE = timezone(timedelta(hours=5.5))
"""That of the declaration, which has no summer time: no hour is missing in it or comes twice, whenever this runs."""


class TestWithADeclaredTime:
    @pytest.fixture
    def dataset(self) -> Dataset:
        return Dataset.parse(PRESS)

    async def test_a_record_is_as_old_as_it_says_however_late_it_arrives(
        self, client: DatabaseClient, dataset: Dataset
    ) -> None:
        begin, data = await later(client), LabelledData(dataset, client)

        def made(place: int, ago: float | None) -> dict[str, Any]:
            written = None if ago is None else datetime.fromtimestamp(begin - ago, ZONE).strftime("%d.%m.%Y %H:%M:%S")
            return {ID: str(uuid4()), "made": written, "x": place / 1000, "y": float(place)}

        old = [made(place, 200 * 24 * HOUR + place) for place in range(50)]
        new = [made(50 + place, -60.0 - place) for place in range(60)]
        unknown = [made(110 + place, None) for place in range(20)]  # as old as their arrival
        await arrive(client, dataset, [*old, *new, *unknown])
        assert await data.newest(81, begin) == (80, None)
        found, since = await data.newest(10, begin)
        assert found == 80
        assert since == pytest.approx(begin + 60 + 49, abs=1)
        compared = await data.to_compare(0, begin, few=1000)
        assert compared.few is not None
        assert sorted(compared.few.samples.y.tolist()) == [float(place) for place in range(50, 130)]

    async def test_the_linear_model_is_fitted_on_an_even_sample_of_all_in_their_order(
        self, client: DatabaseClient, dataset: Dataset
    ) -> None:
        """The first ones by key would be the oldest, as keys are made by time, and their order would not be known."""
        begin, data = await later(client), LabelledData(dataset, client)
        records = []
        for place in range(1500):
            made = (datetime.fromtimestamp(begin, ZONE) - timedelta(days=90, hours=place)).strftime("%d.%m.%Y %H:%M:%S")
            records.append({ID: uuid7(1000 * place, place), "made": made, "x": place / 1500, "y": float(place)})
        await arrive(client, dataset, records)
        compared = await data.to_compare(2000, train=500)
        assert compared.training is not None
        assert compared.labelled == 1500
        parts = compared.training.train, compared.training.validation
        assert 350 < sum(map(len, parts)) < 500
        for part in parts:
            assert 600 < part.y.mean() < 900
            assert part.in_order()[:, 0].tolist() == sorted(part.x[:, 0], reverse=True), "the larger the key, the older"
        encoded, files = await data.description(compared.training, compared.keys, compared.labelled)
        reference = Reference.decoded(encoded)
        assert 0 < decode_sample(files[SAMPLE_FILE]).num_rows <= SAMPLE_RECORDS
        assert reference.density == pytest.approx(len(parts[0]) / 1500)
        assert compared.training.calibration is not None, (
            "set apart of the training part, whose records describe what is known"
        )
        assert reference.raw["x"].samples == len(parts[0]) + len(compared.training.calibration)
        # What calibrates is what the trainers set apart, however small the sample is.
        whole, small = await data.to_compare(2000, train=5000), await data.to_compare(2000, train=60)
        assert whole.training is not None
        assert whole.training.calibration is not None
        assert small.training is not None
        assert small.training.calibration is not None
        for each in (compared, small):
            assert sorted(each.training.calibration.y) == sorted(whole.training.calibration.y)
        assert len(small.training.train) < 60
        recent = await data.to_compare(2000, begin - 100 * 24 * HOUR, train=500)
        assert recent.training is not None
        assert len(recent.training.train) > 0.9 * 0.7 * recent.labelled, "the share is that of what is newer"


async def test_an_earlier_releases_consumer_still_gets_its_last_key(client: DatabaseClient, dataset: Dataset) -> None:
    records = measured(5, 5)
    await arrive(client, dataset, records)
    now = await later(client)
    assert await client._ask(GET_LAST_KEY, ArrivedBefore(before=now)) == max(record[ID] for record in records)
