"""A deployment is copied while it works, and restored into an empty one: streams, database, MLflow, W&B's folder, declaration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from nats.errors import Error as NatsError

from complex_system.backup.deployment import back_up, restore
from complex_system.backup.manifest import MANIFEST
from complex_system.backup.parquet import TablesWriter
from complex_system.backup.places import PARTS, Place
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import BackupError
from complex_system.local.servers import MlflowServer, NatsServer, Server
from complex_system.messaging.ingest.streams import DEAD_STREAM, STREAM
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.service_layer.database.service import DatabaseService
from complex_system.settings import Settings
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.registry import ModelRegistry
from complex_system.tracking.wandb import artifact_folder
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from envelopes import envelopes
from models import linear_onnx, register_onnx
from support import TesterService, eventually, running, server_fixture

SERVICES: dict[str, type[DatabaseService]] = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
SUBJECT = INGEST_RAW.name

broker = server_fixture(NatsServer, "module")
other_broker = server_fixture(NatsServer, "module")


@pytest.fixture(params=["mongo", "maria"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def places(
    database: str,
    request: pytest.FixtureRequest,
    broker: NatsServer,
    other_broker: NatsServer,
    mlflow_server: MlflowServer,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> tuple[Place, Place]:
    """A deployment, and an empty one."""
    server: Server = request.getfixturevalue(f"{database}_server")
    found = []
    for number, nats in enumerate((broker, other_broker)):
        name = f"b{uuid4().hex[:12]}"
        settings = make_settings(nats, server, mlflow_server, mongo_name=name, maria_name=name, model_prefix=name)
        folder = tmp_path / f"deployment{number}"
        (folder / "config").mkdir(parents=True)
        mlflow = mlflow_server.directory if number == 0 else folder / "mlflow"
        found.append(
            Place(
                f"deployment {number}", PARTS, settings, f"database_{database}", mlflow, folder / "wandb", folder / "config"
            )
        )
    return found[0], found[1]


@pytest.fixture(autouse=True)
async def _empty_streams(places: tuple[Place, Place]) -> AsyncIterator[None]:
    yield
    for place in places:
        async with running(TesterService, place.settings) as tester:
            context = tester.broker.client.jetstream()
            for stream in await context.streams_info():
                await context.delete_stream(str(stream.config.name))


@pytest.fixture
def said() -> list[str]:
    return []


def sample(count: int) -> list[Record]:
    return list(Laboratory(11).records(count))


def keyless(count: int) -> list[Record]:
    return [{name: value for name, value in record.items() if name != ID} for record in sample(count)]


async def publish(place: Place, *payloads: Any, subject: str = SUBJECT, message_id: str = "") -> None:
    async with running(TesterService, place.settings) as tester:
        headers = {"Nats-Msg-Id": message_id} if message_id else None
        for payload in payloads:
            await tester.broker.client.jetstream().publish(subject, json.dumps(payload).encode(), headers=headers)


async def messages(place: Place, stream: str) -> list[tuple[Any, ...]]:
    """Everything that a stream holds: numbers, subjects, headers, payloads, times."""
    async with running(TesterService, place.settings) as tester:
        context = tester.broker.client.jetstream()
        state = (await context.stream_info(stream)).state
        found = []
        for number in range(state.first_seq, state.last_seq + 1):
            message = await context.get_msg(stream, number)
            found.append((message.seq, message.subject, message.headers, message.data, message.time))
        return found


@asynccontextmanager
async def database_service(database: str, place: Place) -> AsyncIterator[TesterService]:
    async with running(SERVICES[database], place.settings), running(TesterService, place.settings) as tester:

        async def reads() -> bool:
            with contextlib.suppress(NatsError):
                return bool(await tester.broker.client.jetstream().consumer_info(STREAM, "database"))
            return False

        await eventually(reads)
        yield tester


async def everything_saved(tester: TesterService) -> None:
    async def nothing_waits() -> bool:
        # Not by the consumer's count, which follows a moment after the stream has acknowledged a message to its sender.
        return (await tester.broker.client.jetstream().stream_info(STREAM)).state.messages == 0

    await eventually(nothing_waits, 60)


@pytest.fixture
async def working(database: str, places: tuple[Place, Place]) -> Place:
    """A deployment with records, a dead letter, messages that wait, a champion and an artifact."""
    place = places[0]
    async with database_service(database, place) as tester:
        await publish(place, sample(30), *keyless(3), subject=f"{SUBJECT}.press-4")
        await publish(place, {"odd": 1}, subject=f"{SUBJECT}.press-5", message_id="17")
        await everything_saved(tester)
    # The service is away: these wait. Their keys will be made of number and time in the stream, or of id and content.
    await publish(place, *keyless(4), subject=f"{SUBJECT}.press-6")
    await publish(place, keyless(2), subject=f"{SUBJECT}.press-7", message_id="1")
    await publish(place, sample(33)[30:], subject=f"{SUBJECT}.press-8", message_id="2")
    dataset, prefix = Dataset.load(), place.settings.model_prefix
    register_onnx(place.settings.mlflow_tracking_uri, dataset, linear_onnx(dataset), prefix=prefix)
    assert place.wandb is not None
    ArtifactStore(artifact_folder(str(place.wandb))).write({"model.onnx": b"x" * 999}, {"of": "test"})
    (place.wandb / "artifacts" / "obj").mkdir()
    (place.wandb / "artifacts" / "obj" / "cached").write_bytes(b"x")
    (place.config_dir / "alerts.yaml").write_text("rules: []\n")
    return place


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_what_is_restored_is_what_was_there(
    working: Place, places: tuple[Place, Place], database: str, tmp_path: Path, said: list[str]
) -> None:
    other, folder = places[1], tmp_path / "backups" / "monday"
    manifest = await back_up(working, "lab", folder, said.append)
    assert [path.name for path in folder.parent.iterdir()] == ["monday"]
    assert folder.stat().st_mode & 0o077 == 0
    assert manifest.messages == {STREAM: 6, DEAD_STREAM: 1}
    assert manifest.rows["raw"] == 33
    assert manifest.parts == PARTS
    assert other.wandb is not None
    other.wandb.mkdir()
    user = 777 if os.geteuid() == 0 else os.geteuid()  # as a volume of Docker, which belongs to the user of the services
    os.chown(other.wandb, user, -1)
    assert (await restore(other, folder, said.append)).files == manifest.files
    assert {path.stat().st_uid for path in other.wandb.rglob("*")} == {user}

    for stream in (STREAM, DEAD_STREAM):
        assert await messages(other, stream) == await messages(working, stream)
        assert await messages(other, stream)
    assert envelopes(database, other.settings) == envelopes(database, working.settings)
    store = ArtifactStore(artifact_folder(str(other.wandb)))
    assert store.read(store.newest() or "")[0] == {"model.onnx": b"x" * 999}
    assert not (other.wandb / "artifacts" / "obj").exists()
    assert tree(other.config_dir) == {"alerts.yaml": b"rules: []\n"}
    assert other.mlflow is not None
    assert working.mlflow is not None
    assert tree(other.mlflow / "artifacts") == tree(working.mlflow / "artifacts")
    prefix = working.settings.model_prefix
    champion = ModelRegistry(working.settings.mlflow_tracking_uri, prefix).champion()
    assert champion is not None
    with contextlib.closing(sqlite3.connect(other.mlflow / "mlflow.db")) as store:
        aliases = store.execute("SELECT name, alias, version FROM registered_model_aliases").fetchall()
    assert (champion.model, "champion", int(champion.version)) in aliases

    # Both go on: what waited gets the same keys in both, also those that are made of number and time in the stream.
    for place in (working, other):
        async with database_service(database, place) as tester:
            await everything_saved(tester)
    found = [
        [(each.key, each.hash, each.source) for each in envelopes(database, place.settings)] for place in (working, other)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 33 + 4 + 2 + 3


async def test_records_that_arrive_meanwhile_are_in_the_copy_or_in_its_streams(
    places: tuple[Place, Place], database: str, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was acknowledged when the backup began is there after the restoration, while others arrive all the time."""
    place, other = places
    monkeypatch.setattr(f"complex_system.storage.{database}.copy.COPY_ROWS", 50)
    records = list(Laboratory(5).records(3000))
    acknowledged: list[str] = []
    stopping = asyncio.Event()

    async def go_on(tester: TesterService) -> None:
        context = tester.broker.client.jetstream()
        for record in records:
            if stopping.is_set():
                return
            await context.publish(f"{SUBJECT}.press-4", json.dumps(record).encode())
            acknowledged.append(record[ID])

    async with database_service(database, place) as tester:
        publishing = asyncio.create_task(go_on(tester))
        await eventually(lambda: len(acknowledged) >= 300)
        before = list(acknowledged)
        without = ("mlflow", "wandb", "declaration")
        await back_up(place, "lab", tmp_path / "copy", said.append, without)
        during = len(acknowledged) - len(before)
        stopping.set()
        await publishing
    assert during > 0
    await restore(other, tmp_path / "copy", said.append)
    async with database_service(database, other) as tester:
        await everything_saved(tester)
    restored = {each.key for each in envelopes(database, other.settings)}
    assert set(before) <= restored <= {record[ID] for record in records}


@pytest.fixture
async def small(database: str, places: tuple[Place, Place], tmp_path: Path, said: list[str]) -> Path:
    """A backup of a deployment with a few records, without MLflow."""
    place = places[0]
    async with database_service(database, place) as tester:
        await publish(place, *sample(5), {"odd": 1})
        await everything_saved(tester)
    (place.config_dir / "dataset.yaml").write_text(
        "name: lab\ntarget: y\ncolumns: [{name: y, type: number, optional: true}, {name: x, type: number, range: [0, 1]}]\n"
        "pipeline: [{step: keep, column: x}]\n"
    )
    folder = tmp_path / "small"
    await back_up(place, "lab", folder, said.append, ("mlflow",))
    assert (folder / "declaration" / "dataset.yaml").is_file()
    return folder


def _damage(folder: Path, how: str) -> str:
    table = next((folder / "database").glob("raw-*"))
    manifest = json.loads((folder / MANIFEST).read_bytes())
    if how == "changed":
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
        return f"database/{table.name} has changed"
    if how == "missing":
        table.unlink()
        return f"database/{table.name} is missing"
    if how == "unknown":
        (folder / "streams" / "more").write_bytes(b"")
        return "streams/more is not in the manifest"
    if how == "newer":
        (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2, "files": 7}))
        return "format 2"
    if how == "half":
        (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:100])
        return f"{MANIFEST} is damaged"
    (folder / MANIFEST).unlink()
    return "is not a backup"


async def test_a_damaged_backup_is_refused_before_anything_is_changed(
    small: Path, places: tuple[Place, Place], tmp_path: Path, said: list[str]
) -> None:
    for how in ("changed", "missing", "unknown", "newer", "half", "none"):
        folder = shutil.copytree(small, tmp_path / how)
        reason = _damage(folder, how)
        with pytest.raises(BackupError, match=reason):
            await restore(places[1], folder, said.append)
    await restore(places[1], small, said.append)  # nothing stands in the way


async def test_a_deployment_that_is_not_empty_is_refused_with_all_reasons(
    small: Path, places: tuple[Place, Place], database: str, said: list[str], tmp_path: Path
) -> None:
    other = places[1]
    assert other.wandb is not None
    assert other.mlflow is not None
    async with database_service(database, other) as tester:
        with pytest.raises(BackupError, match="its services run"):
            await restore(other, small, said.append)
        await publish(other, *sample(2), {"odd": 1})
        await everything_saved(tester)
    other.wandb.mkdir()
    (other.wandb / "run").write_bytes(b"x")
    (other.config_dir / "dataset.yaml").write_text("name: another\n")
    with pytest.raises(BackupError) as refused:
        await restore(other, small, said.append)
    for reason in (f"{DEAD_STREAM} has 1 messages", "has 2 raw", "wandb has files", "another dataset.yaml"):
        assert reason in refused.value.message
    assert {each.key for each in envelopes(database, other.settings)} == {record[ID] for record in sample(2)}
    assert (other.config_dir / "dataset.yaml").read_text() == "name: another\n"


async def test_a_restoration_that_fails_leaves_an_empty_deployment(
    small: Path, places: tuple[Place, Place], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = places[1]
    assert other.wandb is not None
    other.wandb.parent.joinpath("config", "alerts.yaml").write_text("rules: []\n")
    failing = Place(**{**vars(other), "config_dir": other.wandb.parent / "config" / "alerts.yaml" / "below a file"})
    with pytest.raises(BackupError, match="declaration cannot be restored"):
        await restore(failing, small, said.append)
    await restore(other, small, said.append)
    assert other.config_dir.joinpath("alerts.yaml").is_file()


async def test_a_backup_that_fails_or_is_stopped_leaves_nothing(
    working: Place, database: str, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups" / "tuesday"
    with pytest.raises(BackupError, match=r"no mlflow\.db in .*--without mlflow"):
        await back_up(Place(**{**vars(working), "mlflow": tmp_path / "nothing"}), "lab", folder, said.append)
    with pytest.raises(BackupError, match="--wandb-dir"):
        await back_up(Place(**{**vars(working), "wandb": None}), "lab", folder, said.append)
    assert list(folder.parent.iterdir()) == []
    folder.mkdir()
    (folder / "mine").write_bytes(b"")
    with pytest.raises(BackupError, match="not an empty folder"):
        await back_up(working, "lab", folder, said.append)
    (folder / "mine").unlink()

    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    add = TablesWriter.add

    def slowly(self: TablesWriter, name: str, table: Any) -> None:
        loop.call_soon_threadsafe(reached.set)
        add(self, name, table)
        self._stopped.wait(20)  # what a person stops meanwhile

    monkeypatch.setattr(TablesWriter, "add", slowly)
    stopped = asyncio.create_task(back_up(working, "lab", folder, said.append))
    await asyncio.wait_for(reached.wait(), 60)
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    assert [path.name for path in folder.parent.iterdir()] == ["tuesday"]
    assert list(folder.iterdir()) == []
