"""Sixty generated files, dialects times formats: every value is the truth, or is refused with its row and column.

pandas, told the dialect, is the second opinion, so that the files themselves are known to be right.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from complex_system.describe.description import describe
from complex_system.errors import ComplexSystemError
from complex_system.sources.replay import ReplayFile
from reading import assert_same_by_columns
from spreadsheets import write_excel

ROWS = 60
COLUMNS = ("batch", "at", "pressure", "flow", "zone", "running", "y")
_UNIT = {"pressure": "bar", "flow": "l/h"}


@dataclass(frozen=True)
class Case:
    """How a file is written."""

    number: int
    suffix: str
    separator: str = ","
    decimal: str = "."
    grouping: str = ""
    quoting: int = csv.QUOTE_MINIMAL
    encoding: str = "utf-8"
    end: str = "\n"
    title: bool = False
    units: bool = False
    time: str = "%Y-%m-%d %H:%M:%S"
    flags: tuple[str, str] = ("true", "false")
    numbers_as_texts: bool = False

    @property
    def id(self) -> str:
        return f"{self.number:02}{self.suffix}"


def cases() -> list[Case]:
    draw = random.Random(13)
    made = []
    for number in range(40):
        separator = draw.choice(",;\t|")
        decimal = draw.choice(".," if separator != "," else ".")
        grouping = draw.choice(["", "", {".": ",", ",": "."}[decimal], " "])
        suffix = ".tsv" if separator == "\t" else ".csv"
        made.append(
            Case(
                number, suffix + draw.choice(["", "", ".gz"]), separator, decimal, grouping,
                draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
                draw.choice(["utf-8", "utf-8-sig", "cp1252", "utf-16"]), draw.choice(["\n", "\r\n"]),
                draw.random() < 0.2, draw.random() < 0.2,
                draw.choice(["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
                draw.choice([("true", "false"), ("ja", "nein"), ("on", "off")]),
            )
        )  # fmt: skip
    for number in range(40, 60):
        suffix = (".jsonl", ".json", ".parquet", ".xlsx", ".jsonl.gz")[number % 5]
        made.append(Case(number, suffix, decimal=".,"[number % 2], numbers_as_texts=number % 4 > 1, flags=("on", "off")))
    return made


def truth(case: Case) -> list[dict[str, Any]]:
    draw = random.Random(case.number)
    begin = datetime(2025, 1, 27, 8)
    return [
        {
            "batch": f"B-{n:04}", "at": begin + timedelta(hours=7 * n), "pressure": round(draw.uniform(0, 2), 3),
            "flow": round(draw.uniform(500, 90_000), 2), "zone": draw.choice(["Nord", "Süd; alt", 'Ost "2"']),
            "running": draw.random() < 0.5, "y": None if n % 9 == 4 else round(draw.uniform(-50, 2500), 3),
        }
        for n in range(ROWS)
    ]  # fmt: skip


def written(value: Any, case: Case) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return case.flags[0 if value else 1]
    if isinstance(value, datetime):
        return value.strftime(case.time)
    if isinstance(value, float):
        whole, _, rest = f"{value:_}".partition(".")
        return whole.replace("_", case.grouping) + case.decimal + rest
    return str(value)


def text_of(records: list[dict[str, Any]], case: Case) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=case.separator, quoting=case.quoting, lineterminator=case.end)
    if case.title:
        buffer.write(f"Messreihe {case.number}{case.end}")
    writer.writerow(COLUMNS)
    if case.units:
        writer.writerow([_UNIT.get(name, "") for name in COLUMNS])
    writer.writerows([[written(record[name], case) for name in COLUMNS] for record in records])
    return buffer.getvalue()


def typed(records: list[dict[str, Any]], case: Case) -> list[dict[str, Any]]:
    """Return records for formats with types: times as texts, numbers as texts where the case says so."""
    made = []
    for record in records:
        made.append({**record, "at": record["at"].strftime(case.time)})
        if case.numbers_as_texts:
            made[-1] |= {
                name: None if record[name] is None else written(record[name], case)
                for name in ("pressure", "flow", "running", "y")
            }
    return made


def write(folder: Path, records: list[dict[str, Any]], case: Case) -> Path:
    path = folder / f"corpus{case.suffix}"
    kind = case.suffix.removesuffix(".gz")
    if kind == ".parquet":
        pl.DataFrame(typed(records, case), infer_schema_length=None).write_parquet(path)
        return path
    if kind == ".xlsx":
        write_excel(path, typed(records, case))
        return path
    if kind == ".jsonl":
        content = "".join(json.dumps(each) + "\n" for each in typed(records, case)).encode()
    elif kind == ".json":
        content = json.dumps(typed(records, case), indent=1).encode()
    else:
        content = text_of(records, case).encode(case.encoding)
    path.write_bytes(gzip.compress(content) if case.suffix.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_every_value_is_the_truth_or_is_refused(case: Case, tmp_path: Path) -> None:
    records = truth(case)
    path = write(tmp_path, records, case)
    try:
        found = describe(path, "y")
    except ComplexSystemError as error:
        pytest.fail(f"refused as a whole: {error.message}")
    file = ReplayFile(path, found.dataset())
    rows = [row for batch in file.batches(1000) for row in batch]
    assert_same_by_columns(file, rows)
    assert len(rows) == ROWS
    formats = {column.name: column.format for column in found.columns}
    types = {column.name: column.type for column in found.columns}
    for record, row in zip(records, rows, strict=True):
        if row.fault:
            assert "field '" in row.fault
            continue
        for name in COLUMNS:
            read = row.record["_id" if name == found.key else name]
            want = record[name]
            if name == "at":
                assert datetime.strptime(read, formats[name]) == want
            elif types[name] == "text" and isinstance(want, float) and name != "y":
                pytest.fail(f"{name} is a text: {next(each.notes for each in found.columns if each.name == name)}")
            else:
                assert read == want, (name, row.number)
    assert sum(bool(row.fault) for row in rows) <= ROWS // 10


def read_by_pandas(path: Path, case: Case) -> pd.DataFrame:
    """The file as pandas reads it, where it is told everything that we find out."""
    kind = case.suffix.removesuffix(".gz")
    if kind == ".parquet":
        return pd.read_parquet(path)
    if kind in (".jsonl", ".json"):
        return pd.read_json(path, lines=kind == ".jsonl", dtype=False, convert_dates=False)
    skipped = [0] * case.title + [1 + case.title] * case.units
    thousands, encoding = case.grouping or None, case.encoding
    return pd.read_csv(
        path, sep=case.separator, decimal=case.decimal, thousands=thousands, encoding=encoding, skiprows=skipped
    )


@pytest.mark.parametrize("case", [case for case in cases() if case.suffix != ".xlsx"], ids=lambda case: case.id)
def test_pandas_reads_the_same_values(case: Case, tmp_path: Path) -> None:
    """Not for spreadsheets, which it reads with the library that we use, or with one that is not here."""
    records = truth(case)
    frame = read_by_pandas(write(tmp_path, records, case), case)
    for name in COLUMNS:
        wanted = [record[name] for record in records]
        found = frame[name].tolist()
        if name in ("pressure", "flow", "y"):
            if case.numbers_as_texts:
                found = [float("nan") if each is None else float(str(each).replace(case.decimal, ".")) for each in found]
            assert found == pytest.approx([float("nan") if each is None else each for each in wanted], nan_ok=True)
        elif name == "at":
            assert [datetime.strptime(each, case.time) for each in found] == [
                datetime.strptime(each.strftime(case.time), case.time) for each in wanted
            ]
        elif name == "running" and isinstance(found[0], str):
            assert [each.lower() == case.flags[0] for each in found] == wanted
        else:
            assert found == wanted
