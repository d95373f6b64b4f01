"""A deployment of the release before goes on under this one: records, messages, history, models, as that release wrote them."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from nats.errors import Error as NatsError

from complex_system.backup.deployment import restore
from complex_system.backup.manifest import Manifest, read_manifest
from complex_system.backup.places import PARTS, Place
from complex_system.domain.dataset import ID, Dataset
from complex_system.local.servers import NatsServer, Server
from complex_system.messaging.clients import DatabaseClient, DocumentClient
from complex_system.messaging.ingest.dead_letters import DeadLetters
from complex_system.messaging.ingest.publisher import IngestClient
from complex_system.messaging.ingest.streams import DEAD_STREAM, STREAM
from complex_system.monitoring.history import History
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.models.wandb import wandb_source
from complex_system.settings import Settings
from complex_system.storage.envelope import content_hash
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from envelopes import envelopes
from support import TesterService, eventually, running, server_fixture

FORMER = Path(__file__).parents[1] / "upgrade"
SERVICES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}

broker = server_fixture(NatsServer, "module")


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def place(
    database: str,
    request: pytest.FixtureRequest,
    broker: NatsServer,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> AsyncIterator[Place]:
    """A deployment as the former release left it, on servers of this one; no service runs."""
    name, server = f"u{uuid4().hex[:12]}", request.getfixturevalue(f"{database}_server")
    assert isinstance(server, Server)
    settings = make_settings(
        broker, server, mongo_name=name, maria_name=name, wandb_dir=str(tmp_path / "wandb"), processing_interval=0.1,
        # The dead letters are as old as the release.
        ingest_dead_age=0.0,
    )  # fmt: skip
    with tarfile.open(FORMER / f"{database}.tar.xz") as packed:
        packed.extractall(tmp_path / "former", filter="data")
    config = tmp_path / "config"
    config.mkdir()
    place = Place(
        "the upgraded deployment", PARTS, settings, f"database_{database}", tmp_path / "mlflow", tmp_path / "wandb", config
    )
    await restore(place, tmp_path / "former" / database, lambda _: None)
    yield place
    async with running(TesterService, settings) as tester:
        for stream in (STREAM, DEAD_STREAM):
            with suppress(NatsError):
                await tester.broker.client.jetstream().delete_stream(stream)


@pytest.fixture
def manifest(database: str, place: Place, tmp_path: Path) -> Manifest:
    return read_manifest(tmp_path / "former" / database)


@pytest.fixture
async def client(database: str, place: Place) -> AsyncIterator[TesterService]:
    """This release's services on it: the database's, and processing."""
    service = SERVICES[database]
    async with (
        running(service, place.settings),
        running(DataProcessingService, place.settings),
        running(TesterService, place.settings) as client,
    ):
        yield client


async def test_the_fixture_is_what_the_former_release_wrote(manifest: Manifest, database: str, place: Place) -> None:
    assert "a1c1754" in manifest.release
    assert manifest.messages == {STREAM: 3, DEAD_STREAM: 2}
    assert manifest.rows["raw"] == manifest.rows["processed"] > 400
    assert "_envelope" not in manifest.tables.get("raw", "")
    async with running(TesterService, place.settings) as tester:
        config = (await tester.broker.client.jetstream().stream_info(STREAM)).config
        assert config.duplicate_window == 120
        assert config.max_msgs_per_subject == -1


async def test_records_and_messages_go_on(
    client: TesterService, manifest: Manifest, database: str, place: Place, dataset: Dataset
) -> None:
    """Nothing is processed again, what waited in the stream arrives, and the dead letters are there to be looked at and replayed."""
    records, before = DatabaseClient(client), manifest.rows["raw"]

    async def all_there() -> bool:
        counts = await records.counts()
        return counts.raw == before + 4 and counts.processed + counts.rejected == before + 4

    await eventually(all_there, 60)

    async def all_marked() -> bool:
        # A record is marked after its processed record is written.
        return not (await records.unprocessed(dataset.version, 10, None)).table.num_rows

    await eventually(all_marked, 60)
    kept = envelopes(database, place.settings)
    arrived = {each.key: each.source for each in kept if each.source}
    # The former release did not keep the source. Of the four records that waited, two came on a subject that names one.
    assert sorted(arrived.values()) == ["press-6", "press-6"]
    assert arrived["waits"] == "press-6"
    assert {each.done for each in kept} == {dataset.version}
    assert {each.revision for each in kept} == {1}
    digest = content_hash(dataset)
    raw = await records.raw_by_keys([each.key for each in kept])
    assert [digest(record) for record in raw.to_pylist()] == [each.hash for each in kept]
    processed = [page.table async for page in records.processed_pages(version=dataset.version)]
    found = {row[ID]: row for table in processed for row in table.to_pylist()}
    expected = Pipeline(dataset).process(raw.to_pylist()).to_dicts()
    assert [found[row[ID]] for row in expected] == expected

    # A lab value that comes after the upgrade fills a record from before it.
    late = next(row for row in raw.to_pylist() if row[dataset.target] is None)
    saved = await records.save_raw([{**late, dataset.target: 12.5}])
    assert (saved.filled, saved.conflicts) == (1, 0)

    async def known() -> bool:
        return await records.targets([late[ID]]) == {late[ID]: 12.5}

    await eventually(known, 60)
    assert {each.key: each.revision for each in envelopes(database, place.settings)}[late[ID]] == 2

    letters = DeadLetters(client.broker.client, place.settings)
    first, second = [letter async for letter in letters.read(10)]
    assert (first.subject, first.code, first.message_id) == ("ingest-raw-datapoints.press-5", "invalid_record", "17")
    assert (second.code, second.payload) == ("invalid_request", b"not json")
    await letters.replay(second)

    async def refused_again() -> bool:
        now = [letter async for letter in letters.read(10)]
        return len(now) == 2 and now[1].payload == b"not json" and now[1].number > second.number

    await eventually(refused_again)
    ingest = IngestClient(client.broker, place.settings, "Tester", "press-4")
    assert await ingest.publish([{**raw.slice(0, 1).to_pylist()[0], ID: "new"}])

    async def saved() -> bool:
        return (await records.counts()).processed == before + 5

    await eventually(saved, 60)


async def test_the_history_and_the_artifact_store_go_on(
    client: TesterService, manifest: Manifest, place: Place, dataset: Dataset
) -> None:
    history = History()
    made = datetime.fromisoformat(manifest.made).timestamp()
    await history.load(DocumentClient(client), made)
    assert [(each.model, each.version) for each in history.champions] == [("lab-lightgbm", "1")]
    assert len(history.minutes(made - 7200, made)) >= 2
    [hour] = history.hours(made - 7200, made)
    pairs = list(history.samples(made - 7200, made))
    assert len(pairs) > 50
    assert {pair.served.model for pair in pairs} == {"lab-lightgbm"}
    assert hour.seconds == 3600

    source = wandb_source(place.settings)
    newest = source.newest()
    assert newest is not None
    loaded = source.load(newest)
    predictor = Predictor(Pipeline(dataset), newest.name, newest.version, loaded.onnx_model, loaded.metadata)
    assert predictor.info.pipeline_version == dataset.version
