"""The source of a folder that grows, with the real broker and database service."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.subjects import GET_ALL_RAW
from complex_system.settings import Settings
from complex_system.sources.folder_source import FolderSource
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from support import BROKER_PASSWORD, TesterService, eventually, running

DECLARED = json.dumps({
    "name": "folder", "target": "y",
    "columns": [
        {"name": "x", "type": "number", "range": [0, 1_000_000]},
        {"name": "y", "type": "number", "range": [0, 1_000_000], "optional": True},
    ],
    "pipeline": [{"step": "scale", "column": "x"}],
})  # fmt: skip


def text(numbers: Iterable[int], *, keys: bool = False, labels: Iterable[int] = ()) -> str:
    """A CSV with the given values of ``x``."""
    made, labelled = io.StringIO(), set(labels)
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow((["_id"] if keys else []) + ["x", "y"])
    for number in numbers:
        rows.writerow(([f"k{number:06}"] if keys else []) + [number, number / 2 if number in labelled else None])
    return made.getvalue()


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.parse(DECLARED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "incoming"
    made.mkdir()
    return made


@pytest.fixture
def settings(nats_server: Server, mongo_server: Server, make_settings: Callable[..., Settings], folder: Path) -> Settings:
    return make_settings(
        nats_server, mongo_server, mongo_name=f"test_{uuid4().hex[:12]}", config_dir=str(folder.parent), source_folder="incoming",
        batch_size=10, source_interval=0.05,
    )  # fmt: skip


@pytest.fixture
async def database(settings: Settings, dataset: Dataset) -> AsyncIterator[None]:
    async with running(DatabaseMongoService, settings, dataset):
        yield


async def numbers(tester: TesterService) -> list[float]:
    """The values of ``x`` of all raw records."""
    return sorted(record["x"] for record in await tester.ask(GET_ALL_RAW, {}))


async def test_each_file_is_read_once_also_after_a_restart(
    tester: TesterService,
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    database: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "a.csv").write_text(text(range(25)))
    (folder / "b.jsonl").write_text('{"x": 25, "y": 1.5}\n')
    (folder / "c.csv.gz").write_bytes(gzip.compress(text([26]).encode()))
    for name in ("d.csv.part", ".e.csv", "~$f.xlsx", "notes.md"):
        (folder / name).write_text(text([99]))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail == "27 of 27 records saved")
        (folder / "d.csv.part").write_text(text([27, 28]))
        (folder / "d.csv.part").rename(folder / "d.csv")
        (folder / "copy.csv").write_text(text([28]))  # a part measured alike is a part of its own
        await eventually(lambda: source.health().detail == "30 of 30 records saved")
    assert await numbers(tester) == [*range(28), 28, 28]
    (folder / "g.csv").write_text(text([30]))
    os.utime(folder / "a.csv")  # copied anew: the same content at another time
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail.startswith("26 of 26 records saved"))
    assert len(await numbers(tester)) == 31
    assert (await DatabaseClient(tester).counts()).conflicts == 0


async def test_a_file_that_is_being_written_is_waited_for(
    tester: TesterService,
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    database: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row comes between any two looks, however long these take."""
    (folder / "a.csv").write_text(text([0]))
    look, written, complete = FolderSource._files, list[int](), False

    def write_and_look(source: FolderSource) -> Any:
        if not complete:
            with (folder / "slow.csv").open("a") as file:
                file.write(f"{len(written)},\n" if written else text([0]))
            written.append(len(written))
        return look(source)

    monkeypatch.setattr(FolderSource, "_files", write_and_look)
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: len(written) >= 20)
        assert await numbers(tester) == [0]
        complete = True
        await eventually(lambda: source.health().detail == "{0} of {0} records saved".format(1 + len(written)))
    assert await numbers(tester) == [0, *written]


async def test_rows_that_are_appended_are_read_and_others_that_change_are_told(
    tester: TesterService, settings: Settings, dataset: Dataset, folder: Path, database: None
) -> None:
    (folder / "day.csv").write_text(text(range(5)))
    (folder / "last.csv").write_text(text([100]))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail == "6 of 6 records saved")
        (folder / "day.csv").write_text(text(range(8)))
        (folder / "last.csv").write_text(text([101]))
        said = "14 of 14 records saved; last.csv: has changed and is not read again, because its rows have no keys"
        await eventually(lambda: source.health().detail == said)
        assert await numbers(tester) == [*range(8), 100]
    (folder / "day.csv").write_text(text(range(9)))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail.startswith("9 of 9 records saved; last.csv: has changed"))
    assert await numbers(tester) == [*range(9), 100]
    assert (await DatabaseClient(tester).counts()).conflicts == 0


async def test_a_file_with_keys_that_changes_fills_its_records(
    tester: TesterService, settings: Settings, dataset: Dataset, folder: Path, database: None
) -> None:
    (folder / "day.csv").write_text(text(range(5), keys=True))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail == "5 of 5 records saved")
        (folder / "day.csv").write_text(text([5, *range(5)], keys=True, labels=[1, 2]))
        await eventually(lambda: source.health().detail == "11 of 11 records saved: 6 new, 3 known, 2 filled")
    assert {each["_id"]: each["y"] for each in await tester.ask(GET_ALL_RAW, {}) if each["y"]} == {
        "k000001": 0.5,
        "k000002": 1,
    }


async def test_a_file_that_cannot_be_read_is_told_and_stops_no_other_one(
    tester: TesterService, settings: Settings, dataset: Dataset, folder: Path, database: None
) -> None:
    (folder / "a.csv").write_text("colour\nred\n")
    (folder / "b.parquet").write_bytes(b"PAR1 is not one")
    (folder / "c.csv").write_text(text([1, 2]))
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().detail.startswith("2 of 2 records saved; a.csv: "))
        await eventually(lambda: source.health().state == "ready")
        assert "unknown column(s) 'colour'" in source.health().detail
        assert "; b.parquet: The file " in source.health().detail
        (folder / "a.csv").write_text(text([3]))
        await eventually(lambda: source.health().detail.startswith("3 of 3 records saved; b.parquet: "))


async def test_it_waits_for_a_folder_and_reads_those_that_match(
    tester: TesterService, settings: Settings, dataset: Dataset, folder: Path, database: None
) -> None:
    settings = settings.copy(update={"source_files": "**/part_*.csv"})
    folder.rmdir()
    async with running(DummyDataGenerationService, settings, dataset) as source:
        await eventually(lambda: source.health().state == "waiting")
        assert source.health().detail == f"the folder {folder} cannot be read: No such file or directory"
        (folder / "press-4").mkdir(parents=True)
        (folder / "press-4" / "part_1.csv").write_text(text([1]))
        (folder / "press-4" / "summary.csv").write_text(text([2]))
        await eventually(lambda: (source.health().state, source.health().detail) == ("ready", "1 of 1 records saved"))


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_kills_in_the_middle_lose_nothing_and_double_nothing(
    tester: TesterService, settings: Settings, dataset: Dataset, folder: Path, database: None
) -> None:
    """200 files come and grow while the source is killed again and again; none of their rows has a key."""
    (folder.parent / "dataset.yaml").write_text(DECLARED)
    environment = {
        **os.environ,
        "FASTIOT_CONFIG_DIR": str(folder.parent), "FASTIOT_NATS_USER": "dummy_data_generation",
        "FASTIOT_NATS_PASSWORD": BROKER_PASSWORD,
        **{f"COMPLEX_SYSTEM_{name.upper()}": str(getattr(settings, name))
           for name in ("source_folder", "source_interval", "batch_size")},
    }  # fmt: skip
    command = [sys.executable, "-m", "complex_system_services.dummy_data_generation.run"]
    rng, client, made = random.Random(7), DatabaseClient(tester), 0
    contents: dict[str, list[int]] = {}
    for _ in range(10):
        source = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            before = (await client.counts()).raw
            for _ in range(20):
                rows = rng.randrange(1, 60)
                name = rng.choice(list(contents)) if contents and rng.random() < 0.3 else f"f{made}.csv"
                contents.setdefault(name, []).extend(range(made, made + rows))
                made += rows
                (folder / "new.part").write_text(text(contents[name]))
                (folder / "new.part").rename(folder / name)
            wanted = min(before + rng.randrange(1, 400), made)

            async def grew(wanted: int = wanted) -> bool:
                return (await client.counts()).raw >= wanted

            await eventually(grew, 180)
            source.send_signal(signal.SIGKILL)
        finally:
            source.kill()
            source.wait()
    async with running(DummyDataGenerationService, settings, dataset):

        async def complete() -> bool:
            return (await client.counts()).raw >= made

        await eventually(complete, 60)
    assert await numbers(tester) == list(range(made))
    assert (await client.counts()).conflicts == 0
