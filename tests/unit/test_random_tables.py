"""Random tables in all formats: what `describe-data` proposes accepts every record of the file, and every value read is the truth.

A failure is rerun with ``RANDOM_TABLES=`` and the seed that it prints; any other number makes a table that was never tried.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from complex_system.describe.description import Description, describe, refused
from complex_system.describe.inspection import InspectedColumn
from complex_system.domain.datetimes import TimeFormat
from complex_system.domain.types import MAX_TEXT
from complex_system.sources.replay import ReplayFile
from complex_system.sources.values import truth
from random_data import NAMES, time_text
from reading import assert_same_by_columns
from spreadsheets import write_excel

TABLES = 40
"""About ten seconds; a thousand take four minutes."""
TEXT, SHEET, LINES, ARRAY, PARQUET = "text", "sheet", "lines", "array", "parquet"
SUFFIXES = {
    ".csv": TEXT, ".tsv": TEXT, ".txt": TEXT, ".xlsx": SHEET, ".jsonl": LINES, ".json": ARRAY, ".ndjson": LINES, ".parquet": PARQUET,
}  # fmt: skip
MISSING = ("", "NA", "-", "k.A.", "n.a.", "None", "#N/A", "NaN", " ")
FLAGS = (
    ("true", "false"),
    ("ja", "nein"),
    ("on", "off"),
    ("Yes", "No"),
    ("WAHR", "FALSCH"),
    ("ein", "aus"),
    ("t", "f"),
    ("1", "0"),
)
TIMES = (
    "%d.%m.%Y", "%Y-%m-%d", "%d.%m.%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%f",
    "%d.%m.%y", "%Y/%m/%d", "%d-%m-%Y", "%d.%m.%Y, %H:%M:%S",
)  # fmt: skip
WORDS = (
    "A",
    "a",
    "B",
    "b c",
    "007",
    "NO",
    "ä; ö",
    "x,y",
    "'",
    '"',
    'Ost "2"',
    "😀",
    "A_B",
    "$",
    "é",
    "e\u0301",
    "#1",
    "[x",
    "{}",
    "1.0 bar",
)
_PLAIN = ("value", "Wert", "zone", "Größe", "Temp. [°C]", "oven.temp")


@dataclass
class Column:
    """A column of a table.

    Attributes:
        name: In the header; with dots where it is in an object of JSON or Parquet.
        kind: Of its values.
        values: The truth; None for a missing value.
        written: What a program would write for each value: texts in tables of texts.
        dtype: In Parquet.
    """

    name: str
    kind: str
    values: list[Any]
    written: list[Any]
    dtype: Any = None


@dataclass
class Table:
    """Columns, and how they are written."""

    suffix: str
    columns: list[Column] = field(default_factory=list)

    @property
    def format(self) -> str:
        return SUFFIXES[self.suffix.removesuffix(".gz")]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [
            {column.name: value for column, value in zip(self.columns, row, strict=True)}
            for row in zip(*(column.written for column in self.columns), strict=True)
        ]


class Maker:
    """Makes the columns of one table."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        suffix = self.draw.choice(list(SUFFIXES)) + self.draw.choice(["", "", "", ".gz"])
        self.table = Table(suffix)
        self.format = self.table.format
        self.separator = "\t" if suffix.startswith(".tsv") else self.draw.choice(",;\t|")
        self.decimal = "," if self.separator == ";" else self.draw.choice(".,") if self.separator != "," else "."
        self.sign_in_cells = self.draw.choice(".,")
        """Decimal sign of the numbers that are texts in a file with types: one a file, for columns are read by each other's."""
        if self.format != TEXT:
            self.decimal = "."
        self.count = self.draw.choice([3, 5, 12, 30, 60, 150])
        self.kinds: dict[str, Callable[[], tuple[list[Any], list[Any], Any]]] = {
            "number": self.number, "whole": self.whole, "numbers as texts": self.number_texts, "large": self.large, "code": self.code,
            "category": self.category, "remark": self.remark, "flag": self.flag, "time": self.time, "entries": self.entries,
            "numbers in lists": self.number_lists, "empty": self.empty,
        }  # fmt: skip

    def make(self) -> Table:
        names = self.draw.sample([name for name in NAMES if name != "_id"], 8)
        if self.draw.random() < 0.5:
            names = [*self.draw.sample(_PLAIN, 5), *names]
        names = [name for name in names if name not in ("y", "x of y")]
        values = [1.5 * n + 0.25 for n in range(self.count)]
        self.draw.shuffle(values)
        columns = [Column("x of y", "number", values, [self.number_text(value) for value in values], pl.Float64)]
        for name in names[: self.draw.randint(0, 6)]:
            kind = self.draw.choice(list(self.kinds))
            columns.append(self.column(name, kind, self.kinds[kind], missing=self.draw.choice([0.0, 0.0, 0.1, 0.5])))
        values = [round(self.draw.uniform(-50, 2500), self.draw.choice([0, 1, 3])) + n / 8 for n in range(self.count)]
        columns.append(Column("y", "number", values, [self.number_text(value) for value in values], pl.Float64))
        if self.format in (LINES, ARRAY, PARQUET) and self.draw.random() < 0.6:
            for part in ("oven.zone.temp", "oven.name", "oven.shares"):
                kind = {"temp": "number", "name": "category", "shares": "numbers in lists"}[part.rpartition(".")[2]]
                columns.append(self.column(part, kind, self.kinds[kind], missing=self.draw.choice([0.0, 0.2])))
        self.draw.shuffle(columns)
        self.table.columns = list({column.name: column for column in columns}.values())
        if self.count > 4 and self.draw.random() < 0.3:
            self.repeat_rows()
        return self.table

    def column(
        self, name: str, kind: str, make: Callable[[], tuple[list[Any], list[Any], Any]], *, missing: float
    ) -> Column:
        values, written, dtype = make()
        marker = self.draw.choice(MISSING) if self.format in (TEXT, SHEET) or isinstance(written[0], str) else None
        if self.format == SHEET and self.draw.random() < 0.5:
            marker = None
        if self.format in (LINES, ARRAY) and isinstance(written[0], float) and self.draw.random() < 0.5:
            marker = float("nan")
        if self.format == PARQUET:
            marker = float("nan") if isinstance(written[0], float) and self.draw.random() < 0.5 else None
        for place in range(len(values)):
            if self.draw.random() < missing:
                values[place], written[place] = None, marker
        return Column(name, kind, values, written, dtype)

    def repeat_rows(self) -> None:
        pairs = [(self.draw.randrange(self.count), self.draw.randrange(self.count)) for _ in range(3)]
        for column in self.table.columns:
            for first, again in pairs:
                column.values[again], column.written[again] = column.values[first], column.written[first]

    def numbers(self, make: Callable[[], float]) -> list[Any]:
        return [make() for _ in range(self.count)]

    def number_text(self, value: float) -> Any:
        return str(value).replace(".", self.decimal) if self.format == TEXT else value

    def number(self) -> tuple[list[Any], list[Any], Any]:
        digits, scale = self.draw.randint(0, 8), 10.0 ** self.draw.randint(-4, 7)
        values = self.numbers(lambda: round(self.draw.uniform(-1, 1) * scale, digits) + 0.0)
        dtype = (
            self.draw.choice([pl.Float64, pl.Float64, pl.Float32, pl.Decimal(38, 10)]) if self.format == PARQUET else None
        )
        if dtype in (pl.Float32, pl.Decimal(38, 10)):  # what the file says of them
            values = [
                None if each is None else float(each) for each in pl.Series(values, dtype=dtype, strict=False).to_list()
            ]
        return values, [self.number_text(value) for value in values], dtype

    def whole(self) -> tuple[list[Any], list[Any], Any]:
        largest = self.draw.choice([1, 9, 127, 9999, 10**6, 2**53])
        values = self.numbers(lambda: self.draw.randint(0, largest))
        small = [pl.Int8, pl.UInt16, pl.Int32] if largest < 128 else []
        return (
            values,
            [str(value) if self.format == TEXT else value for value in values],
            self.draw.choice([pl.Int64, pl.UInt64, *small]),
        )

    def number_texts(self) -> tuple[list[Any], list[Any], Any]:
        """Numbers in quotation marks, or some of them."""
        values, written, _ = self.number()
        if self.format != TEXT:
            decimal, share = self.sign_in_cells, 1.0 if self.format == PARQUET else self.draw.choice([1.0, 0.5])
            written = [f"{value:.3f}".replace(".", decimal) if self.draw.random() < share else value for value in values]
            values = [float(each.replace(",", ".")) if isinstance(each, str) else each for each in written]
            if decimal == "," and share < 1:  # a number without a fraction says nothing
                return self.number()
        return values, written, self.draw.choice([pl.String, pl.Categorical])

    def large(self) -> tuple[list[Any], list[Any], Any]:
        least = (
            self.draw.choice([2**53 + 1, 2**62]) if self.format == PARQUET else self.draw.choice([2**53 + 1, 2**64, 10**400])
        )
        if self.format == SHEET:  # a spreadsheet has floats only; such numbers are texts there
            return self.code()
        values = self.numbers(lambda: least + self.draw.randint(0, 10**6))
        return values, [str(value) if self.format == TEXT else value for value in values], pl.Int64

    def code(self) -> tuple[list[Any], list[Any], Any]:
        values = self.numbers(lambda: f"{self.draw.randint(0, 40):05}")  # type: ignore[arg-type, return-value]
        return values, list(values), pl.String

    def category(self) -> tuple[list[Any], list[Any], Any]:
        words = self.draw.sample(WORDS, self.draw.randint(1, 5))
        values = self.numbers(lambda: self.draw.choice(words))  # type: ignore[arg-type, return-value]
        return values, list(values), self.draw.choice([pl.String, pl.Categorical, pl.Enum(words)])

    def remark(self) -> tuple[list[Any], list[Any], Any]:
        ends = ("", "; x", ', "y"', "\nnext", "\t", " ", "'", "\\", "\u2028", "\u00a0")
        values = [f"{self.draw.choice(WORDS)} {n}{self.draw.choice(ends)}" for n in range(self.count)]
        return list(values), values, pl.String

    def flag(self) -> tuple[list[Any], list[Any], Any]:
        values = self.numbers(lambda: self.draw.random() < 0.5)
        words = self.draw.choice(FLAGS)
        if self.format != TEXT and self.draw.random() < 0.5:
            return values, list(values), pl.Boolean
        return values, [words[not value] for value in values], pl.String

    def time(self) -> tuple[list[Any], list[Any], Any]:
        begin = datetime(2024, 2, 28, 23, 30)
        steps = self.draw.choice(
            [timedelta(days=1), timedelta(hours=7), timedelta(milliseconds=250), timedelta(microseconds=17)]
        )
        values = [begin + steps * self.draw.randrange(400) for _ in range(self.count)]
        values[0] = begin
        if self.format == PARQUET and self.draw.random() < 0.7:
            dtype = self.draw.choice([pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Date])
            series = pl.Series(values).cast(dtype).cast(pl.Datetime("us"))
            return series.to_list(), series.to_list(), dtype
        if self.format == SHEET and self.draw.random() < 0.5:
            days = [value.date() for value in values]
            return [datetime(day.year, day.month, day.day) for day in days], list(days), None
        declared = self.draw.choice(TIMES)
        written = [time_text(declared, value, padded=True) for value in values]
        return [datetime.strptime(text, declared) for text in written], written, pl.String

    def entries(self) -> tuple[list[Any], list[Any], Any]:
        values = [self.draw.sample(["A", "B", "c d"], self.draw.randint(0, 3)) for _ in range(self.count)]
        return (
            list(values),
            [json.dumps(value) if self.format in (TEXT, SHEET) else value for value in values],
            pl.List(pl.String),
        )

    def number_lists(self) -> tuple[list[Any], list[Any], Any]:
        longest = self.draw.choice([1, 4, 1200, 20_000] if self.format in (LINES, ARRAY, PARQUET) else [1, 4])
        numbers = [round(self.draw.random(), 4) for _ in range(longest)]
        values = [numbers[: self.draw.randint(1, longest)] for _ in range(self.count)]
        return (
            list(values),
            [json.dumps(value) if self.format in (TEXT, SHEET) else value for value in values],
            pl.List(pl.Float64),
        )

    def empty(self) -> tuple[list[Any], list[Any], Any]:
        return [None] * self.count, ["" if self.format in (TEXT, SHEET) else None] * self.count, pl.Null


def write(folder: Path, maker: Maker) -> Path:
    table = maker.table
    path = folder / f"table{table.suffix.removesuffix('.gz')}"
    rows, draw = table.rows, maker.draw
    if table.format == TEXT:
        buffer = io.StringIO(newline="")
        quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        writer = csv.writer(buffer, delimiter=maker.separator, quoting=quoting, lineterminator=draw.choice(["\n", "\r\n"]))
        writer.writerow(rows[0])
        writer.writerows([list(row.values()) for row in rows])
        path.write_bytes(buffer.getvalue().encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"])))
    elif table.format == SHEET:
        write_excel(path, rows)
    elif table.format == PARQUET:
        series = {
            column.name: pl.Series(column.name, column.written, column.dtype, strict=False) for column in table.columns
        }
        oven = {name: series.pop(name) for name in list(series) if name.startswith("oven.") and name != "oven.temp"}
        frame = pl.DataFrame(list(series.values()))
        if oven:
            zone = pl.struct(oven["oven.zone.temp"].alias("temp")).alias("zone")
            parts = [zone, *(oven[name].alias(name.removeprefix("oven.")) for name in ("oven.name", "oven.shares"))]
            frame = frame.with_columns(pl.struct(parts).alias("oven"))
        frame.write_parquet(path)
    else:
        objects = [nested(row, draw) for row in rows]
        text = "".join(json.dumps(each, ensure_ascii=draw.random() < 0.5) + "\n" for each in objects)
        if table.format == ARRAY and draw.random() < 0.8:
            text = json.dumps(objects, indent=draw.choice([None, 1]))
        path.write_text(text, encoding=draw.choice(["utf-8", "utf-8-sig", "utf-16"]))
    if table.suffix.endswith(".gz"):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), 1))
        return packed
    return path


def nested(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A row as a program writes it: the parts of an object in it, missing fields null or not there."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        if value is None and draw.random() < 0.5:
            continue
        inside = made
        *outer, last = name.split(".") if name.startswith("oven.") and name != "oven.temp" else [name]
        for each in outer:
            inside = inside.setdefault(each, {})
        inside[last] = value
    return made


def is_truth(value: Any, written: Any, read: Any, column: InspectedColumn) -> bool:
    if value is None:
        return read is None
    if column.type in ("number", "integer"):
        return isinstance(read, float | int) and not isinstance(read, bool) and read == float(value)
    if column.type == "boolean":
        return read is (truth(value) if isinstance(value, str) and value not in ("1", "0") else bool(int(value)))
    if column.type == "datetime":
        parts = TimeFormat(column.format).parts(read)
        moment = [parts[name] for name in ("year", "month", "day", "hour", "minute", "second")] if parts else []
        is_said = any("with the month first" in hint for hint in column.hints)
        return parts is not None and (is_said or datetime(*moment, parts.get("fraction", 0) // 1000) == value)  # type: ignore[arg-type, misc]
    if column.type.startswith("list"):
        return bool(read == value)
    return is_text_of(value, written, read)


def is_text_of(value: Any, written: Any, read: Any) -> bool:
    """Whether a text says the truth: as it is written in the file, or as JSON where the file has types."""
    if read == written or not isinstance(read, str):
        return bool(read == written)
    if isinstance(value, bool):
        return truth(read) is value
    if isinstance(value, int):
        return read.isdecimal() and int(read) == value
    if isinstance(value, float):
        return float(read.replace(",", ".")) == value
    if isinstance(value, datetime):
        return datetime.fromisoformat(read) == value
    return isinstance(value, list) and bool(json.loads(read) == value)


def check(seed: int, folder: Path) -> Description:
    maker = Maker(seed)
    table = maker.make()
    path = write(folder, maker)
    found = describe(path, "y")
    assert refused(found) == (0, "")
    file = ReplayFile(path, found.dataset())
    rows = [row for batch in file.batches(17) for row in batch]
    assert_same_by_columns(file, rows)
    assert len(rows) == len(table.rows)
    assert [row.fault for row in rows] == [""] * len(rows)
    described = {column.name: column for column in found.columns}
    for column in table.columns:
        if column.name not in described:
            is_long = any(value is not None and len(str(value)) > MAX_TEXT for value in column.values)
            assert is_long or not any(value is not None for value in column.values)  # no line has the field
            assert not is_long or column.name in " ".join(found.notes)
            continue
        for row, value, written in zip(rows, column.values, column.written, strict=True):
            is_key = column.name == found.key
            read = row.record["_id" if is_key else column.name]
            assert is_text_of(value, written, read) if is_key else is_truth(value, written, read, described[column.name]), (
                column.name,
                column.kind,
                row.number,
                written,
                read,
            )
    return found


def run(seeds: range, folder: Path) -> None:
    failed = {}
    for seed in seeds:
        try:
            check(seed, folder)
        except Exception as error:
            maker = Maker(seed)
            maker.make()
            failed[seed] = f"{maker.table.suffix} {[(each.name, each.kind) for each in maker.table.columns]}: {error!r}"[
                :900
            ]
    if failed:
        shown = "\n".join(f"seed {seed}: {why}" for seed, why in list(failed.items())[:8])
        pytest.fail(f"{len(failed)} of {len(seeds)} tables:\n{shown}")


def test_what_is_proposed_accepts_its_file_and_every_value_is_the_truth(tmp_path: Path) -> None:
    if chosen := os.environ.get("RANDOM_TABLES"):
        check(int(chosen), tmp_path)
        return
    run(range(TABLES), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_other_tables(tmp_path: Path) -> None:
    run(range(TABLES, TABLES + 1000), tmp_path)
