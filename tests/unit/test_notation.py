"""Numbers in texts: signs follow from all values of a column, and what has two readings is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from complex_system.describe.command import summary
from complex_system.describe.description import describe, refused
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import raw_check
from complex_system.errors import ComplexSystemError, InvalidRecordError
from complex_system.local.own_data import choose_data
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.requests.csv import csv_columns
from complex_system.serving.requests.reader import BatchReader
from complex_system.sources.notation import evidence_in, notations
from complex_system.sources.replay import ReplayFile
from complex_system.sources.rows import Row
from spreadsheets import write_excel


def read(columns: dict[str, list[str | None]], usual: str = ".") -> dict[str, list[float | None]]:
    """The numbers of columns of one file."""
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    found = notations(evidence_in([frame.head(1), frame.tail(-1)]), usual)
    return {name: found[name].numbers(frame[name]).to_list() for name in columns}


@pytest.mark.parametrize(
    ("texts", "usual", "expected"),
    [
        (["0.604", "0,250", "0.013"], ".", [0.604, None, 0.013]),  # never 250
        (["0,250", "0,604"], ".", [0.25, 0.604]),
        (["1,5", "12,25", "1.250"], ".", [1.5, 12.25, None]),  # one value does not agree, so it is not guessed
        (["1,5", "1.250,5", "1.250"], ".", [1.5, 1250.5, 1250.0]),
        (["1.5", "1,250.5", "1,250", "7"], ".", [1.5, 1250.5, 1250.0, 7.0]),
        (["1.5", "1,250"], ".", [1.5, None]),
        (["1,250", "2,500"], ".", [None, None]),
        (["1,250", "2,500"], ",", [1.25, 2.5]),  # a file with semicolons
        (["1.250", "2.500"], ",", [None, None]),
        (["1.250", "2.500"], ".", [1.25, 2.5]),
        (["1,250,000", "7"], ".", [1_250_000.0, 7.0]),
        (["1.250.000,5", "7"], ".", [1_250_000.5, 7.0]),
        (["1 234,5", "1 234", "7'000,5"], ".", [1234.5, 1234.0, 7000.5]),
        (["-1e-3", "+.5", "5."], ".", [-0.001, 0.5, 5.0]),
        (["1,5e3", ",5"], ".", [1500.0, 0.5]),
        (["12,5 %", "7%"], ".", [12.5, 7.0]),
        (["12.5 %", "0.125"], ".", [None, 0.125]),
        (["01,234", "1,5"], ".", [1.234, 1.5]),
        ([None, "", "x"], ".", [None, None, None]),
    ],
)
def test_a_column_is_read_as_all_of_its_values_say(
    texts: list[str | None], usual: str, expected: list[float | None]
) -> None:
    assert read({"a": texts}, usual)["a"] == expected


def test_other_columns_decide_where_the_column_itself_does_not() -> None:
    assert read({"a": ["1,250", "800"], "b": ["0.5", "1.5"]})["a"] == [1250.0, 800.0]
    assert read({"a": ["1,250", "8000"], "b": ["0.5", "1.5"]})["a"] == [None, 8000.0]  # not every value is grouped
    assert read({"a": ["1.250", "800"], "b": ["0,5", "1,5"]})["a"] == [1250.0, 800.0]
    assert read({"a": ["1,250", "2,500"], "b": ["0,5", "1,5"]})["a"] == [1.25, 2.5]
    assert read({"a": ["1,250", "2.500"], "b": ["0,5", "1,5"]})["a"] == [1.25, None]
    assert read({"a": ["1,250", "1.250"], "b": ["0,5", "1"], "c": ["0.5", "1"]})["a"] == [None, None]


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("grouped", [False, True])
def test_no_number_is_ever_another_one(decimal: str, grouped: bool) -> None:
    """Every text that either sign and grouping can make is read as its number or not at all, whatever stands beside it."""
    other = "," if decimal == "." else "."
    truth = [sign * size * 1.2345 for size in (1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 1e4, 1e6) for sign in (1, -1)]
    for digits in (0, 1, 2, 3):
        texts = [f"{value:,.{digits}f}" if grouped else f"{value:.{digits}f}" for value in truth]
        texts = [text.translate({ord(","): other, ord("."): decimal}) for text in texts]
        for text, number in zip(texts, read({"a": [*texts, f"0{decimal}5"]})["a"], strict=False):
            wanted = float(text.replace(other, "").replace(decimal, "."))
            assert number is None or math.isclose(number, wanted), text


DECLARED = """
name: lab
target: y
columns:
  - {name: x, type: number, range: [0, 2000]}
  - {name: conc, type: number, range: [0, 2000], optional: true, fill: 1}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: scale, column: x}
  - {step: scale, column: conc}
"""


def rows_of(path: Path, declared: str = DECLARED) -> list[Row]:
    return [row for rows in ReplayFile(path, Dataset.parse(declared, "lab.yaml")).batches(7) for row in rows]


def test_a_value_that_contradicts_its_column_beyond_the_first_megabyte_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cells = [f"{number / 7:.2f}" for number in range(40_000)]
    cells[39_000], cells[39_500] = '"0,250"', '"1,250"'
    path.write_text("x,conc,y\n" + "".join(f"{number % 100}.5,{cell},1.5\n" for number, cell in enumerate(cells)))
    assert path.stat().st_size > 512 * 1024
    rows = rows_of(path)
    faulty = [row for row in rows if row.fault]
    assert [row.number for row in faulty] == [39_001, 39_501]
    assert "'0,250' has another decimal sign" in faulty[0].fault
    assert faulty[0].fault.endswith("write 0.250")
    assert "'1,250' can be 1250 or 1.250" in faulty[1].fault
    assert [row.record["conc"] for row in rows[:3]] == [0.0, 0.14, 0.29]


def test_decimal_commas_that_begin_late_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{number % 9};{number % 90};{number % 70}\n" for number in range(60_000)] + ["1,5;0,250;7,25\n"]
    path.write_text("x;conc;y\n" + "".join(lines))
    assert rows_of(path)[-1].record == {**rows_of(path)[-1].record, "x": 1.5, "conc": 0.25, "y": 7.25}


def test_a_text_cell_of_a_spreadsheet_is_not_a_thousand_times_its_number(tmp_path: Path) -> None:
    rows = [{"x": number / 8, "conc": number / 1000 + 0.1, "y": number / 4} for number in range(30)]
    rows[3]["conc"], rows[4]["conc"] = "0,250", "1,250"  # type: ignore[assignment]
    path = write_excel(tmp_path / "a.xlsx", rows)
    # 0,250 has one reading, and so has 1,250 beside it; cells that are numbers have no sign that could contradict them.
    read = [row.record["conc"] for row in rows_of(path)]
    expected = [row["conc"] for row in rows[:3]] + [0.25, 1.25] + [row["conc"] for row in rows[5:]]
    assert read == pytest.approx(expected, rel=1e-14)
    column = next(column for column in describe(path, "y").columns if column.name == "conc")
    assert (column.type, column.missing, column.high, column.hints) == ("number", 0, 1.25, [])
    rows[3]["conc"] = 0.5
    read = rows_of(write_excel(tmp_path / "b.xlsx", rows))
    assert [row.number for row in read if row.fault] == [5]
    assert "'1,250' can be 1250 or 1.250" in read[4].fault


CENSORED = DECLARED.replace("range: [0, 2000], optional", "range: [0, 2000], censored: left, optional")


def test_values_below_the_detection_limit_are_half_of_it_or_the_declared_part(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x;conc;y\n1;0,5;2\n1;<0,01;2\n1; < 0,02 ;2\n1;<LOD;2\n1;> 5;2\n")
    rows = rows_of(path, CENSORED)
    assert [row.record.get("conc") for row in rows] == [0.5, 0.005, 0.01, None, None]
    assert [row.number for row in rows if row.fault] == [4, 5]
    rows = rows_of(path, CENSORED.replace("left", "left, limit_share: 1"))
    assert [row.record.get("conc") for row in rows[:3]] == [0.5, 0.01, 0.02]
    assert [row.number for row in rows_of(path) if row.fault] == [2, 3, 4, 5]  # not declared, so not guessed


def test_a_column_with_values_below_the_limit_is_proposed_as_censored_and_they_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "conc;x;y\n" + "".join(f"{'<0,01' if n % 6 == 0 else f'0,{n + 10}'};{n},5;{n % 7},5\n" for n in range(60))
    )
    found = describe(path, "y")
    assert "conc" in found.proposal.used
    declared = found.dataset().by_name["conc"]
    assert (declared.type, declared.censored) == ("number", "left")
    assert "10 of 60 values are below the detection limit" in " ".join(found.text().replace("#", "").split())


LIMITS = [
    ("<0.01", 0.005), ("<0,01", 0.005), (" < 0.02 ", 0.01), ("<0,01 mg/l", 0.005), ("≤4", 2.0), ("<= 4", 2.0), (">100", 100.0),
    ("> 100,5mg/l", 100.5), (">=2420", 2420.0), ("<1e-3", 0.0005), ("<1.234,5", 617.25), ("<-20", -20.0),
]  # fmt: skip
REFUSED = ["<1,234", "<LOD", "<", "0,01", "<0.01 g/l", "<1.2.3", "<0,01 %"]
BOTH = Dataset.parse(
    DECLARED.replace("range: [0, 2000], optional", "range: [-30, 3000], censored: both, unit: mg/l, optional"), "lab.yaml"
)


@pytest.mark.parametrize(("text", "number"), LIMITS)
@pytest.mark.parametrize("way", ["message", "JSON lines", "JSON", "CSV", "workbook", "REST", "REST CSV"])
def test_a_value_beyond_a_limit_means_the_same_everywhere(tmp_path: Path, text: str, number: float, way: str) -> None:
    records = [{"x": 1.5, "conc": 0.5 + row / 8} for row in range(9)] + [{"x": 1.5, "conc": text}]
    pipeline = Pipeline(BOTH)
    if way == "message":
        read = raw_check(BOTH)(records)[-1]["conc"]
    elif way == "REST":
        read = BatchReader(pipeline, max_records=100).body(json.dumps({"records": records}).encode()).head(10)[-1]["conc"]
    elif way == "REST CSV":
        body = "x,conc\n" + "".join(f'1.5,"{record["conc"]}"\n' for record in records)
        read = csv_columns(body.encode(), BOTH.columns)["conc"][-1]
    else:
        path = written(tmp_path, records, way)
        rows = [row for rows in ReplayFile(path, BOTH).batches(7) for row in rows]
        assert rows[-1].fault == ""
        read = rows[-1].record["conc"]
    assert read == number


def written(folder: Path, records: list[dict[str, Any]], way: str) -> Path:
    if way == "workbook":
        return write_excel(folder / "a.xlsx", records)
    if way == "CSV":
        path = folder / "a.csv"
        path.write_text("x,conc\n" + "".join(f'1.5,"{record["conc"]}"\n' for record in records), encoding="utf-8")
        return path
    path = folder / ("a.json" if way == "JSON" else "a.jsonl")
    path.write_text(json.dumps(records) if way == "JSON" else "\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("text", REFUSED)
def test_a_limit_with_two_readings_or_another_unit_is_refused_everywhere(tmp_path: Path, text: str) -> None:
    records = [{"x": 1.5, "conc": 0.5 + row / 8} for row in range(9)] + [{"x": 1.5, "conc": text}]
    with pytest.raises(InvalidRecordError) as caught:
        raw_check(BOTH)(records)
    assert [(fault["record"], fault["field"]) for fault in caught.value.faults] == [(9, "conc")]
    with pytest.raises(InvalidRecordError):
        BatchReader(Pipeline(BOTH), max_records=100).records(records)
    for way in ("JSON lines", "CSV", "workbook"):
        rows = [row for rows in ReplayFile(written(tmp_path, records, way), BOTH).batches(7) for row in rows]
        # Cells that are numbers do not contradict a text that has only one reading.
        expected = [] if (way, text) == ("workbook", "0,01") else [10]
        assert [row.number for row in rows if row.fault] == expected, way


@pytest.mark.parametrize(
    ("censored", "value", "words"),
    [
        ("", "<0,01", "not the text '<0,01', which is below a limit: declare 'censored: left' for the column"),
        ("left", ">5", "which is above a limit: declare 'censored: both' for the column"),
        ("left", "<1,234", "which is below a limit that can be 1234 or 1.234; write it without the sign, or with other than"),
        ("left", "<5 mg/l", "which is below a limit in 'mg/l', and the column declares no unit; leave the unit out, or declare it"),
    ],
)  # fmt: skip
def test_the_message_says_what_to_do_with_a_limit(censored: str, value: str, words: str) -> None:
    declared = (
        DECLARED.replace("[0, 2000], optional", f"[0, 2000], censored: {censored}, optional") if censored else DECLARED
    )
    with pytest.raises(InvalidRecordError) as caught:
        raw_check(Dataset.parse(declared))([{"x": 1.5, "conc": value}])
    assert words in caught.value.message


def test_values_beyond_limits_are_counted_and_named_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"x": 1.5, "conc": ["<0,01", ">100", 5.5, 6.5][row % 4]}) for row in range(40)))
    assert ReplayFile(path, BOTH).limits == (
        "10 values of 'conc' are below a detection limit: half of it stands in for each",
        "10 values of 'conc' are above a limit: the limit stands in for each",
    )
    third = BOTH.copy(update={"columns": tuple(c.copy(update={"limit_share": 0.3}) for c in BOTH.columns)})
    assert "0.3 of it stands in" in ReplayFile(path, third).limits[0]


def test_values_above_a_limit_are_described_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    values = ["<1", ">2420"] + [str(row * 37 % 2400 + 2) for row in range(58)]
    path.write_text("x;keime;y\n" + "".join(f"{n},5;{value};{n % 7},5\n" for n, value in enumerate(values)))
    found = describe(path, "y")
    declared = found.dataset().by_name["keime"]
    assert (declared.type, declared.censored) == ("number", "both")
    assert found.notes == ()
    notes = choose_data(str(path), "y", tmp_path / "runs", {}).notes
    assert "NOTE: 1 value of 'keime' is below a detection limit: half of it stands in for each" in notes
    assert refused(found) == (0, "")
    hints = next(column for column in found.columns if column.name == "keime").hints
    assert hints == [
        "1 of 60 values are below the detection limit (as <0.01); half the limit is used for each",
        "1 of 60 values are above a limit (as >100); the limit itself is used for each",
    ]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary(found))
    assert "keime: 1 of 60 values are below the detection limit" in captured.get()


def test_what_has_no_limit_gets_no_advice_that_biases(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "x;blei;y\n" + "".join(f"{n},5;{'n.n.' if n % 9 == 4 else f'0,{n + 10}'};{n % 7},5\n" for n in range(60))
    )
    [note] = next(column for column in describe(path, "y").columns if column.name == "blei").notes
    assert note.endswith("row 5 has 'n.n.'; write the limit, as <0.01: without these values the mean would be too high")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_value_that_contradicts_the_others_costs_its_record_and_not_the_column(tmp_path: Path, suffix: str) -> None:
    cells: list[Any] = [row * 37 % 900 + 0.25 for row in range(60)]
    cells[7], cells[9] = "1.234,5", "1,250"
    records = [{"x": row % 9 + 0.5, "conc": cell, "y": row % 7 + 0.5} for row, cell in enumerate(cells)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        path.write_text("x,conc,y\n" + "".join(f'{r["x"]},"{r["conc"]}",{r["y"]}\n' for r in records))
    else:
        path.write_text("\n".join(map(json.dumps, records)))
    found = describe(path, "y")
    column = next(column for column in found.columns if column.name == "conc")
    assert (column.type, column.missing, "conc" in found.proposal.used) == ("number", 0, True)
    assert refused(found) == (
        2,
        "row 8, field 'conc': '1.234,5' has another decimal sign than the column's other values, which have decimal points; write "
        "1234.5 (2 rows)",
    )
    faults = [row.fault for rows in ReplayFile(path, found.dataset()).batches(7) for row in rows if row.fault]
    assert "'1,250' can be 1250 or 1.250" in faults[1]
    # Of a target, too: its record is refused, not the file.
    assert describe(path, "conc").target == "conc"


def test_a_column_written_in_two_ways_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,conc,y\n" + "".join(f'{n}.5,"{n}{"," if n % 5 == 0 else "."}25",{n % 7}.5\n' for n in range(60)))
    column = next(column for column in describe(path, "y").columns if column.name == "conc")
    assert column.type == "text"
    assert column.notes[0].startswith("12 of its 60 values are not read as numbers: row 1, '0,25' has another decimal sign")


def test_only_numbers_can_be_censored() -> None:
    with pytest.raises(ComplexSystemError, match="column 'conc': of type integer cannot be censored; only number can"):
        Dataset.parse(CENSORED.replace("conc, type: number", "conc, type: integer"), "lab.yaml")
