"""``fiot extras predict``: a file of rows, in any format, gets a CSV of predictions from a serving service."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import polars as pl
import pytest

from certificates import write_certificates
from complex_system.domain.dataset import Dataset
from complex_system.errors import StartError
from complex_system.local.credentials import write_private
from complex_system.local.folder import only_run
from complex_system.predict.client import Service, running_service, service_of
from complex_system.serving.engine import Limits
from complex_system.testing.proxy import Proxy
from models import ManyModels, rest_server
from runs import FIOT, ROOT
from spreadsheets import write_excel
from support import eventually

PLANT = Dataset.parse(
    """
name: plant
target: quality
id: Charge
columns:
  - {name: Temp, type: number, range: [0, 1000], censored: left, limit_share: 1}
  - {name: Ofen, type: category, categories: [A, B]}
  - {name: flow, type: number, range: [0, 500], optional: true, fill: 200}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: Temp}
  - {step: one_hot, column: Ofen}
  - {step: scale, column: flow}
"""
)
KEY = "plant-7"


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    source = ManyModels(PLANT)
    source.publish("plant-lightgbm", 2.0, champion=True)
    async with rest_server(PLANT, source, Limits(records=700), api_key=KEY) as (_, client):
        yield client


async def fiot(*arguments: str | Path, key: str = KEY, cwd: Path = ROOT, **environment: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        FIOT, "extras", "predict", *map(str, arguments), cwd=cwd,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COMPLEX_SYSTEM_API_KEY": key, "COLUMNS": "200", **environment},
    )  # fmt: skip
    out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode(), err.decode()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


GERMAN = "Charge;Temp;Ofen;flow;quality;Bediener\nB-0001;861,5;A;50;;TK\nB-0002;9999,0;B;NA;1,5;AN\nB-0003;12,25;C;;;\n"
FOUND = [
    {"Charge": "B-0001", "prediction": 2.0 + 0.8615 + 1 + 0.1, "faults": ""},
    {"Charge": "B-0002", "prediction": None, "faults": "field 'Temp': 9999.0 is outside of [0, 1000]"},
    {"Charge": "B-0003", "prediction": None, "faults": "field 'Ofen': 'C' is not one of A, B"},
]


async def test_a_german_table_is_answered_row_by_row(client: httpx.AsyncClient, tmp_path: Path) -> None:
    file, made = tmp_path / "morgen.csv", tmp_path / "made.csv"
    file.write_text(GERMAN.replace(";861,5;", ";< 861,5;") + "\nPrüfer: Müller\n", encoding="utf-8-sig")
    code, out, err = await fiot(file, "--url", client.base_url, "-o", made)
    assert (code, out) == (2, ""), err
    assert "NOTE: line 6 stands below the table and is left out: 'Prüfer: Müller'." in err
    assert "NOTE: 1 value of 'Temp' is below a detection limit: all of it stands in for each." in err
    rows = rows_of(made.read_text())
    assert list(rows[0]) == ["Charge", "prediction", "model", "faults"]
    for row, expected in zip(rows, FOUND, strict=True):
        assert (row["Charge"], row["faults"]) == (expected["Charge"], expected["faults"])
        if expected["prediction"] is None:
            assert (row["prediction"], row["model"]) == ("", "")
        else:
            assert float(row["prediction"]) == pytest.approx(expected["prediction"])
            assert row["model"] == "plant-lightgbm v1"
    assert "Ignored, because the model does not take it: 'Bediener'." in err
    assert f"1 of 3 rows predicted (1 by plant-lightgbm v1); {made} has them. 2 with faults; row 2: field 'Temp'" in err

    code, _, err = await fiot(file, "--url", client.base_url, "-o", made)
    assert (code, "exists already; --force replaces it." in err) == (1, True)


async def test_every_format_gives_the_same_on_standard_output(client: httpx.AsyncClient, tmp_path: Path) -> None:
    rows = [{"Temp": 861.5, "Ofen": "A", "flow": 50.0}, {"Temp": 10.0, "Ofen": "B", "flow": 100.0}]
    frame = pl.DataFrame(rows)
    frame.write_parquet(tmp_path / "rows.parquet")
    frame.write_ndjson(tmp_path / "rows.jsonl")
    frame.write_csv(tmp_path / "rows.tsv", separator="\t")
    write_excel(tmp_path / "rows.xlsx", rows)
    suffixes = ("parquet", "jsonl", "tsv", "xlsx")
    made = await asyncio.gather(*(fiot(tmp_path / f"rows.{suffix}", "--url", client.base_url) for suffix in suffixes))
    for code, out, _ in made:
        assert code == 0
        assert [row["row"] for row in rows_of(out)] == ["1", "2"]
        assert [float(row["prediction"]) for row in rows_of(out)] == pytest.approx([3.9615, 3.21])


async def test_a_row_that_cannot_be_read_is_named(client: httpx.AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"Charge": 7, "Temp": 500, "Ofen": "A"}\nnonsense\n{"Charge": "B-9", "Temp": 1e999, "Ofen": "B"}\n')
    code, out, err = await fiot(file, "--url", client.base_url)
    assert code == 2, err
    good, *bad = rows_of(out)
    assert (good["Charge"], float(good["prediction"])) == ("7", pytest.approx(3.9))
    assert all(row["faults"] and not row["prediction"] for row in bad)
    assert bad[0]["Charge"] == ""
    assert bad[0]["faults"].startswith("row 2: ")


async def test_a_long_file_goes_in_parts_that_the_service_takes(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """The server takes 700 records; each fault of the first 900 rows costs its own row only."""
    file = tmp_path / "long.csv"
    lines = [f"{number},{number % 1000},{'C' if number % 9 == 0 and number < 900 else 'A'}" for number in range(1, 2501)]
    file.write_text("\n".join(["Charge,Temp,Ofen", *lines]) + "\n")
    code, out, err = await fiot(file, "--url", client.base_url)
    assert code == 2, err
    rows = rows_of(out)
    assert [row["Charge"] for row in rows] == [str(number) for number in range(1, 2501)]
    for number, row in enumerate(rows, 1):
        if number % 9 == 0 and number < 900:
            assert row["faults"] == "field 'Ofen': 'C' is not one of A, B"
        else:
            assert float(row["prediction"]) == pytest.approx(2 + number % 1000 / 1000 + 1 + 0.4)
    assert "The file has no column 'flow'; its declared fill is used in every row." in err
    assert (
        "2,401 of 2,500 rows predicted (2,401 by plant-lightgbm v1); standard output has them. 99 with faults; row 9:" in err
    )


@pytest.mark.parametrize(
    ("text", "options", "key", "words"),
    [
        ("Temp,Ofen\n1,A\n", (), "", "asks for its API key: name its --deployment, or set COMPLEX_SYSTEM_API_KEY"),
        ("Temp,Ofen\n1,A\n", (), "wrong", "asks for its API key"),
        ("Temp,Offen\n1,A\n", (), KEY, "has the column 'Offen' and lacks 'Ofen': is it that one? Rename or remove it."),
        ("Temp\n1\n", (), KEY, "lacks the column(s) 'Ofen', which the model needs; it has 'Temp'."),
        ("", (), KEY, "is empty"),
        ("Temp,Ofen\n1,A\n", ("--url", "http://127.0.0.1:9"), KEY, "No serving service answers at http://127.0.0.1:9: "),
        ("Temp,Ofen\n1,A\n", ("--url", "plant-7:8001"), KEY, "--url takes an address such as http://127.0.0.1:8001"),
        ("Temp,Ofen\n1,A\n", ("--deployment", "mars"), KEY, "There is no deployment 'mars'"),
    ],
)
async def test_what_cannot_begin_says_why(
    client: httpx.AsyncClient, tmp_path: Path, text: str, options: tuple[str, ...], key: str, words: str
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    code, out, err = await fiot(file, *(("--url", client.base_url) if "--url" not in options else ()), *options, key=key)
    assert (code, out) == (1, "")
    assert words in err


async def test_https_is_asked_with_the_plants_own_authority(client: httpx.AsyncClient, tmp_path: Path) -> None:
    folder = write_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    proxy = Proxy(client.base_url.port or 0, tls=context)
    await proxy.join()
    file = tmp_path / "rows.csv"
    file.write_text("Temp,Ofen\n1,A\n")
    url = f"https://127.0.0.1:{proxy.port}"
    try:
        code, out, err = await fiot(file, "--url", url, "--ca", folder / "ca.pem")
        assert (code, len(rows_of(out))) == (0, 1), err
        code, _, err = await fiot(file, "--url", url, "--ca", folder / "other.pem")
        assert code == 1
        assert "--ca names the certificate of the authority that signed its own" in err
    finally:
        await proxy.cut()


async def test_ctrl_c_keeps_what_is_done(client: httpx.AsyncClient, tmp_path: Path) -> None:
    file, made = tmp_path / "rows.csv", tmp_path / "made.csv"
    file.write_text("Temp,Ofen\n" + "1,A\n" * 200_000)
    proxy = Proxy(client.base_url.port or 0)
    await proxy.join()
    process = await asyncio.create_subprocess_exec(
        FIOT, "extras", "predict", file, "--url", f"http://127.0.0.1:{proxy.port}", "-o", made, cwd=ROOT,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "COMPLEX_SYSTEM_API_KEY": KEY},
    )  # fmt: skip
    try:
        await eventually(lambda: made.exists() and made.stat().st_size > 10_000, 30)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await proxy.cut()
    assert process.returncode == 130, err
    rows = rows_of(made.read_text())
    assert 0 < len(rows) < 200_000
    assert all(row["prediction"] for row in rows)
    assert f"Stopped: {len(rows):,} of 200,000 rows were predicted; {made} has them." in err.decode()


def test_the_service_of_the_run_on_this_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", lambda _: 0)  # only_run sets it for the whole process
    runs = {name: tmp_path / name for name in ("mongo", "maria", "never")}
    assert running_service(runs) is None
    with only_run(runs["mongo"]):
        with pytest.raises(StartError, match="'mongo' is starting"):
            running_service(runs)
        services = {"ml_serving": {"url": "http://127.0.0.1:2"}, "data_processing": {"state": "ready"}}
        (runs["mongo"] / "status.json").write_text(json.dumps({"state": "running", "services": services}))
        assert running_service(runs) == Service("http://127.0.0.1:2")
        write_private(runs["mongo"] / "api_key", "plant-7\n")
        assert running_service(runs) == Service("http://127.0.0.1:2", "plant-7")
        assert running_service(runs, "of the shell") == Service("http://127.0.0.1:2", "of the shell")
        with only_run(runs["maria"]), pytest.raises(StartError, match="mongo, maria run at the moment; name one"):
            running_service(runs)
    assert running_service(runs) is None
    assert service_of({"COMPLEX_SYSTEM_API_KEY": "k", "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "9"}) == Service(
        "http://127.0.0.1:9", "k"
    )


async def test_the_help_says_what_comes_out() -> None:
    code, out, _ = await fiot("--help")
    text = " ".join(out.replace("│", " ").split())
    assert code == 0
    for words in (
        "key, prediction, model, faults",
        "fiot extras predict tomorrow.xlsx -o predictions.csv",
        "COMPLEX_SYSTEM_API_KEY",
    ):
        assert words in text
