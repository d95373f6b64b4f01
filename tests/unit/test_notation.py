"""Numbers in texts: signs follow from all values of a column, and what has two readings is refused."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from complex_system.describe.description import describe
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.sources.notation import evidence_in, notations
from complex_system.sources.replay import ReplayFile, Row
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
    read = rows_of(path)
    assert [row.number for row in read if row.fault] == [4, 5]
    assert max(row.record["conc"] for row in read if not row.fault) < 1
    column = next(column for column in describe(path, "y").columns if column.name == "conc")
    assert (column.type, column.missing, column.high) == ("number", 0, 0.129)
    assert column.hints == [
        "2 of 30 values are refused with their records: row 4, '0,250' has another decimal sign than the column's other values, which "
        "have decimal points; write 0.250"
    ]


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


def test_only_numbers_can_be_censored() -> None:
    with pytest.raises(ComplexSystemError, match="column 'conc': of type integer cannot be censored; only number can"):
        Dataset.parse(CENSORED.replace("conc, type: number", "conc, type: integer"), "lab.yaml")
