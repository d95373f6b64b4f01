"""Own data on the whole path: a file, its declaration, the source, the database, the processing, a small model, a prediction."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pyarrow as pa
import pytest

from complex_system.describe.command import describe_to
from complex_system.describe.description import describe, refused
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.local.own_data import choose_data, films
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.requests.csv import csv_text
from complex_system.settings import Settings
from complex_system.sources.replay import ReplayFile
from complex_system.training.data import SampleCollector
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.onnx import export_onnx
from complex_system.training.split import Part
from complex_system_services.data_processing.data_processing_service import DataProcessingService
from complex_system_services.database_maria.database_maria_service import DatabaseMariaService
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.dummy_data_generation.dummy_data_generation_service import DummyDataGenerationService
from models import MemorySource, onnx_metadata, rest_server
from samples import collected
from spreadsheets import write_cells
from support import TesterService, eventually, running

DATABASES = {"mongo": DatabaseMongoService, "maria": DatabaseMariaService}
NAMES = [
    "select",
    "Größe",
    "größe",
    "a.b",
    "Temp. [°C]",
    "temp. [°C]",
    "100 %",
    "`tick`",
    "NULL",
    "x;y",
    "_pipeline",
    "ı",
    "I",
    "$id",
]


def random_file(path: Path, seed: int) -> Path:
    """A table of random columns with random names; the target depends on the numbers among them."""
    draw = random.Random(seed)
    names = draw.sample(NAMES, 7)
    makers: list[Callable[[int], Any]] = [
        lambda _: draw.uniform(-50, 50), lambda _: draw.choice(["NA", draw.uniform(0, 5)]), lambda _: draw.randint(-3, 40),
        lambda _: draw.choice(["A", "b c", "007", "Ü", "-"]), lambda _: draw.choice(["ja", "nein"]),
        lambda i: (date(2024, 1, 1) + timedelta(days=i)).strftime("%d.%m.%Y"), lambda i: f"Rest {i} 😀 'x'",
    ]  # fmt: skip
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow([*names, "Ziel"])
        for i in range(150):
            row = [make(i) for make in makers]
            target = row[0] * 2 - row[2] + draw.gauss(0, 1)
            cells = [f"{value:.5f}".replace(".", ",") if isinstance(value, float) else value for value in row]
            writer.writerow([*cells, "" if i % 10 == 0 else f"{target:.5f}".replace(".", ",")])
    return path


@pytest.fixture
def own_settings(
    nats_server: Server, mongo_server: Server, maria_server: Server, make_settings: Callable[..., Settings], tmp_path: Path
) -> Settings:
    name = f"test_{uuid4().hex[:12]}"
    return make_settings(
        nats_server,
        mongo_server,
        maria_server,
        mongo_name=name,
        maria_name=name,
        processing_interval=0.05,
        config_dir=str(tmp_path),
    )


async def through(
    database: str, tester: TesterService, settings: Settings, dataset: Dataset, file: Path, rows: int
) -> tuple[list[Record], list[Record]]:
    """Raw and processed records after the file went through source, database and processing."""
    client = DatabaseClient(tester)
    settings = settings.copy(update={"source_file": file.name})
    async with (
        running(DATABASES[database], settings, dataset),
        running(DataProcessingService, settings, dataset),
        running(DummyDataGenerationService, settings, dataset),
    ):

        async def done() -> bool:
            # A record is marked after its processed record is written.
            left = await client.unprocessed(dataset.version, 10, None)
            return (await client.counts()).processed == rows and not left.table.num_rows

        await eventually(done, 60)
        page = await client.unprocessed("none", 1000, None)
        processed = [row async for page in client.processed_pages() for row in page.table.to_pylist()]
    return page.table.to_pylist(), processed


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_random_file_is_the_same_on_both_databases_and_a_model_learns_of_it(
    tester: TesterService, own_settings: Settings, tmp_path: Path, seed: int
) -> None:
    file = random_file(tmp_path / "plant.csv", seed)
    dataset = describe(file, "Ziel").dataset()
    expected = [row.record for batch in ReplayFile(file, dataset).batches(1000) for row in batch]
    assert len(expected) == 150
    found = {name: await through(name, tester, own_settings, dataset, file, 150) for name in DATABASES}
    for raw, processed in found.values():
        assert raw == expected
        assert processed == Pipeline(dataset).process(expected).to_dicts()
    collector = collected(dataset, [record for record in expected if record["Ziel"] is not None])
    model = LightGBMTrainer().fit(collector.training_data(), lambda progress: None)
    holdout = collector.samples(Part.HOLDOUT)
    error = np.sqrt(np.mean((model.predict(holdout.x) - holdout.y) ** 2))
    assert error < 0.6 * holdout.y.std()


RESERVED = (
    "yes", "no", "on", "off", "null", "true", "~", "1e5", "__row__", "order", "SELECT", "table", "Temp", "temp", "TEMP", "Größe",
    "größe", "a.b", "$x", "🌡", "per%cent", "row'", "col`umn", "_id_", "f0",
)  # fmt: skip
"""YAML's own words, the readers' own names, SQL's keywords, emoji, names that differ in case only."""


def reserved_file(path: Path) -> Path:
    """A table of such names, with numbers that no float holds; the target is called ``y``, which YAML 1.1 takes for true."""
    draw = random.Random(23)
    with path.open("w", encoding="utf-8") as file:
        for i in range(150):
            record: dict[str, Any] = {name: round(draw.uniform(0, 9), 3) for name in RESERVED}
            record |= {"serial": 2**53 + 1 + i % 7, "huge": 10**400 + i, "No": draw.choice(["yes", "no", "on", "😀"])}
            target = record["yes"] * 3 - record["temp"] + draw.gauss(0, 0.1)
            file.write(json.dumps({**record, "y": target if i % 10 else None}) + "\n")
    return path


@pytest.mark.parametrize("database", DATABASES)
async def test_names_that_others_reserve_go_the_whole_way(
    tester: TesterService, own_settings: Settings, tmp_path: Path, database: str
) -> None:
    file = reserved_file(tmp_path / "on.jsonl")
    out = io.StringIO()
    describe_to(file, "y", tmp_path / "dataset.yaml", force=False, out=out, err=out)
    chosen = choose_data(str(file), "", tmp_path / "runs", {})
    assert "135 labelled records, target 'y'" in chosen.notes[-1]
    assert not any("not valid" in note for note in chosen.notes)
    dataset = Dataset.load(str(tmp_path))
    assert dataset.name == "on"
    assert set(RESERVED) < set(dataset.feature_names)
    expected = [row.record for batch in ReplayFile(file, dataset).batches(1000) for row in batch]
    assert expected[3]["serial"] == str(2**53 + 4)
    raw, processed = await through(database, tester, own_settings, dataset, file, 150)
    assert raw == expected
    pipeline = Pipeline(dataset)
    assert processed == pipeline.process(expected).to_dicts()
    collector = SampleCollector(dataset, list(Part))
    collector.add(pa.Table.from_pylist([record for record in processed if record["y"] is not None]))
    data = collector.training_data()
    onnx = export_onnx(LightGBMTrainer().fit(data, lambda progress: None), data.validation.x)
    source = MemorySource()
    source.publish(dataset, 0.0, onnx)
    predictor = Predictor(pipeline, "on", "1", onnx, onnx_metadata(dataset, onnx, "on"))
    async with rest_server(dataset, source) as (_, client):
        answer = await client.post("/predict", json={"records": raw})
        assert answer.status_code == httpx.codes.OK, answer.text
        assert answer.json()["predictions"] == predictor.predict(raw)
        lines = csv_text({name: [record[name] for record in raw] for name in raw[0]})
        same = await client.post("/invocations", content=lines.encode(), headers={"Content-Type": "text/csv"})
        assert same.json()["predictions"] == predictor.predict(raw)


@pytest.mark.parametrize("database", DATABASES)
async def test_the_films_keep_their_lists_and_shares(tester: TesterService, own_settings: Settings, database: str) -> None:
    dataset = Dataset.shipped("films", target="Kaltverfo")
    client = DatabaseClient(tester)
    async with running(DATABASES[database], own_settings, dataset), running(DataProcessingService, own_settings, dataset):
        records = films(dataset)
        await client.save_raw(records)

        async def done() -> bool:
            left = await client.unprocessed(dataset.version, 10, None)
            return (await client.counts()).processed == 51 and not left.table.num_rows

        await eventually(done, 60)
        page = await client.unprocessed("none", 100, None)
        assert page.table.to_pylist() == records
        processed = [row async for page in client.processed_pages() for row in page.table.to_pylist()]
        assert processed == Pipeline(dataset).process(records).to_dicts()


def day_of_trials(path: Path, seed: int, fifth: str = "") -> Path:
    """60 measurements that a column numbers from 1, as every day's export does; ``fifth`` corrects the fifth one's strength."""
    draw = random.Random(seed)
    lines = [[n, *(round(draw.uniform(*ends), 2) for ends in ((20, 70), (0, 1), (1, 9)))] for n in range(1, 61)]
    texts = [[str(value).replace(".", ",") for value in line] for line in lines]
    texts[4][3] = fifth or texts[4][3]
    path.write_text("lfd. Nr.;Temp;Druck;Festigkeit\n" + "".join(";".join(line) + "\n" for line in texts), encoding="utf-8")
    return path


@pytest.mark.parametrize("database", DATABASES)
async def test_a_row_number_is_no_key_and_as_one_it_costs_no_record_without_a_word(
    tester: TesterService, own_settings: Settings, tmp_path: Path, database: str
) -> None:
    monday, tuesday = (day_of_trials(tmp_path / name, seed) for seed, name in enumerate(("montag.csv", "dienstag.csv")))
    found = describe(monday, "Festigkeit")
    assert (found.key, found.proposal.dropped.keys()) == ("", {"lfd. Nr."})
    keys = [
        {row.record[ID] for batch in ReplayFile(day, found.dataset()).batches(100) for row in batch}
        for day in (monday, tuesday)
    ]
    assert (len(keys[0]), keys[0] & keys[1]) == (60, set())

    # A person declares it as the key all the same.
    numbered = Dataset.parse(found.text().replace("# id: lfd. Nr.", "id: lfd. Nr."))
    client = DatabaseClient(tester)

    async def saved(file: Path, on_conflict: str = "keep") -> str:
        settings = own_settings.copy(update={"source_file": file.name, "on_conflict": on_conflict})
        async with (
            running(DATABASES[database], settings, numbered),
            running(DummyDataGenerationService, settings, numbered) as source,
        ):
            await eventually(lambda: source.health().state == "ready", 60)
            counted.append((await client.counts()).conflicts)
            strengths.append((await client.raw_by_keys(["5"])).to_pylist()[0]["Festigkeit"])
            return source.health().detail

    counted, strengths = list[int](), list[float]()
    assert await saved(monday) == "60 of 60 records saved"
    assert await saved(tuesday) == "60 of 60 records saved: 60 differ and are not taken: 1, 2, 3, ..."
    corrected = day_of_trials(tmp_path / "montag_korrigiert.csv", 0, fifth="99,99")
    assert await saved(corrected) == "60 of 60 records saved: 59 known, 1 differs and is not taken: 5"
    assert await saved(corrected, "replace") == "60 of 60 records saved: 59 known, 1 differs and replaces what was there: 5"
    assert counted[:3] == [0, 60, 61]
    assert strengths == [strengths[0]] * 3 + [99.99]
    assert 1 <= strengths[0] <= 9


def hardening_protocol(path: Path, *, later: bool = False) -> Path:
    """A laboratory's workbook: title, merged head, units, text cells with commas, -9999, <0,01, a mean below and a name.

    The last ten of 120 batches lack the hardness; ``later`` they have it, the sixth is corrected, and there are three more.
    """
    draw = random.Random(7)
    lines: list[list[Any]] = [
        ["Prüfprotokoll Härterei"], [], ["Charge", "Ofen", None, "Labor", None, None, "Ergebnis"],
        [None, "Nr", "Temp", "Feuchte", "Blei", "Temp", "Härte"], [None, None, "°C", "%", "mg/l", "°C", "HV"],
    ]  # fmt: skip
    for i in range(123 if later else 120):
        oven, temp, wet, lead = (
            draw.choice([1, 2, 3]),
            round(draw.gauss(905, 14), 1),
            draw.uniform(2, 8),
            draw.uniform(0, 0.1),
        )
        hardness = round(temp - 6 * wet + 8 * oven + draw.gauss(0, 2) + (12.5 if later and i == 5 else 0), 1)
        lines.append(
            [f"H-{3 * i:05d}", oven, temp if i % 3 else f"{temp}".replace(".", ","), f"{wet:.2f}".replace(".", ","),
             "<0,01" if lead < 0.01 else round(lead, 3), -9999 if i % 40 == 9 else round(draw.uniform(20, 24), 1),
             None if 110 <= i < 120 and not later else hardness]
        )  # fmt: skip
    return write_cells(path, [*lines, ["Mittelwert", None, None, None, None, None, 881.4], ["Prüfer: Müller"]])


@pytest.mark.parametrize("database", DATABASES)
async def test_a_workbook_goes_the_whole_way_and_its_later_values_arrive(
    tester: TesterService, own_settings: Settings, tmp_path: Path, database: str
) -> None:
    path = hardening_protocol(tmp_path / "haerte.xlsx")
    found = describe(path)
    assert (found.target, found.records, refused(found)) == ("Ergebnis Härte", 120, (0, ""))
    # What a person changes: the key, the number of the oven, and the line for the sentinel that is there behind a '#'.
    lines = found.text().replace("# id: Charge", "id: Charge").splitlines()
    line = next(i for i, each in enumerate(lines) if each.startswith("  - {name: Labor Temp"))
    lines[line] = next(each for each in lines if each.startswith("  # - {name: Labor Temp")).replace("# ", "", 1)
    line = next(i for i, each in enumerate(lines) if each.startswith("  - {name: Ofen Nr"))
    lines[line] = "  - {name: Ofen Nr, type: category, categories: [1, 2, 3]}"
    dataset = Dataset.parse("\n".join(lines).replace("{step: scale, column: Ofen Nr}", "{step: one_hot, column: Ofen Nr}"))

    client = DatabaseClient(tester)
    settings = own_settings.copy(update={"source_file": path.name})
    async with running(DATABASES[database], settings, dataset), running(DataProcessingService, settings, dataset):

        async def saved(said: str, labelled: int) -> None:
            async def processed() -> bool:
                return (await client.counts()).labelled == labelled

            async with running(DummyDataGenerationService, settings, dataset) as source:
                await eventually(lambda: source.health().state == "ready", 60)
                assert source.health().detail == said
            await eventually(processed, 60)

        await saved("120 of 120 records saved", 110)
        page = [row async for page in client.processed_pages() for row in page.table.to_pylist()]
        hardening_protocol(path, later=True)
        await saved("123 of 123 records saved: 3 new, 109 known, 10 filled, 1 differs and is not taken: H-00015", 123)
        raw = (await client.unprocessed("none", 1000, None)).table.to_pylist()
    row = {record.pop(ID): record for record in raw}["H-00027"]
    assert (row["Ofen Nr"], row["Labor Temp"]) == ("1", None)
    assert {840 <= record["Ofen Temp"] <= 970 and 2 <= record["Labor Feuchte"] <= 8 for record in raw} == {True}
    assert min(record["Labor Blei"] for record in raw) == 0.005

    collector = SampleCollector(dataset, list(Part))
    collector.add(pa.Table.from_pylist([record for record in page if record[dataset.target] is not None]))
    data = collector.training_data()
    onnx = export_onnx(LightGBMTrainer().fit(data, lambda progress: None), data.validation.x)
    source = MemorySource()
    source.publish(dataset, 0.0, onnx)
    async with rest_server(dataset, source) as (_, web):
        answer = await web.post("/predict", json={"records": [{**row, "Charge": "H-00027"}]})
        assert answer.status_code == httpx.codes.OK, answer.text
        wrong = await web.post("/predict", json={"records": [{**row, "Ofen Nr": 3}]})
        assert wrong.json()["error"]["faults"][0]["problem"] == 'must be a text, not the number 3; write "3"'
