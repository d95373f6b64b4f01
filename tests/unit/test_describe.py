"""From a file to a declaration: nasty files as plants have them, and random tables."""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from complex_system.describe.command import describe_to, summary
from complex_system.describe.description import Description, describe, refused, scalar
from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.recognition import unit_of, with_margin
from complex_system.domain import json_schema as schema
from complex_system.domain.dataset import Dataset
from complex_system.errors import DescribeError, InvalidRecordError, SourceFileError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.sources.replay import ReplayFile
from spreadsheets import write_excel

HEADER = ["Proben-Nr.", "Datum", "Temp. [°C]", "temp. [°C]", "Druck (bar)", "select", "Größe in µm", "Anlage", "Kommentar", "An",
          "fest", "leer", "verrät", "Qualität [%]"]  # fmt: skip
CATEGORIES = ["Nord", "Süd", "NO"]


def plant(count: int = 60) -> list[dict[str, Any]]:
    """Records of a plant: everything that a name and a value can be."""
    draw = random.Random(1)
    rows = []
    for i in range(count):
        quality = draw.uniform(50, 100)
        rows.append(
            {
                "Proben-Nr.": f"P{i:04}", "Datum": date(2025, 12, 1) + timedelta(days=i % 31), "Temp. [°C]": draw.uniform(20, 200),
                "temp. [°C]": draw.uniform(-2, 3), "Druck (bar)": draw.choice([None, 1.5, 2.25]), "select": draw.randint(0, 5),
                "Größe in µm": draw.uniform(1000, 9000), "Anlage": CATEGORIES[i % 3], "Kommentar": f'Bemerkung; "{i}"',
                "An": draw.random() < 0.5, "fest": 7, "leer": None, "verrät": 2 * quality + 1, "Qualität [%]": quality,
            }
        )  # fmt: skip
    return rows


def german(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, bool):
        return "ja" if value else "nein"
    if isinstance(value, float):
        whole, _, rest = f"{value:,.6f}".partition(".")
        return f"{whole.replace(',', '.')},{rest}"
    if isinstance(value, date):
        return value.strftime("%d.%m.%Y")
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ';"\n\t') else text


def english(value: Any, missing: str) -> str:
    text = german(value, missing)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    return f"{value:.6f}" if isinstance(value, float) else text


def write_text(
    path: Path, rows: list[dict[str, Any]], *, separator: str, encoding: str, form: Any, missing: str, end: str = "\r\n"
) -> Path:
    lines = [separator.join(form(name, "") for name in rows[0])]
    lines += [separator.join(form(value, missing) for value in row.values()) for row in rows]
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    return path


WRITERS = {
    "german.csv": lambda path, rows: write_text(path, rows, separator=";", encoding="latin-1", form=german, missing="NA"),
    "bom.csv": lambda path, rows: write_text(path, rows, separator=";", encoding="utf-8-sig", form=german, missing="-"),
    "utf-16.csv": lambda path, rows: write_text(path, rows, separator="\t", encoding="utf-16", form=german, missing=""),
    "english.csv": lambda path, rows: write_text(
        path, rows, separator=",", encoding="utf-8", form=english, missing="", end="\n"
    ),
    "tabs.tsv": lambda path, rows: write_text(path, rows, separator="\t", encoding="utf-8", form=english, missing="n/a"),
    "lines.jsonl": write_lines,
    "table.parquet": write_parquet,
    "sheet.xlsx": write_excel,
}


@pytest.fixture(params=WRITERS)
def plant_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(WRITERS[request.param](tmp_path / request.param, plant()))


def test_a_plants_file_is_described_alike_whatever_wrote_it(plant_file: Path) -> None:
    found = describe(plant_file, "Qualität [%]")
    dataset = found.dataset()
    types = {column.name: column.type for column in dataset.columns}
    assert found.key == dataset.id == "Proben-Nr."
    assert list(types) == HEADER[1:]
    assert types == {
        "Datum": "datetime", "Temp. [°C]": "number", "temp. [°C]": "number", "Druck (bar)": "number", "select": "number",
        "Größe in µm": "number", "Anlage": "category", "Kommentar": "text", "An": "boolean", "fest": "number", "leer": "text",
        "verrät": "number", "Qualität [%]": "number",
    }  # fmt: skip
    units = {column.name: column.unit for column in dataset.columns if column.unit}
    assert units == {"Temp. [°C]": "°C", "temp. [°C]": "°C", "Druck (bar)": "bar", "Größe in µm": "µm", "Qualität [%]": "%"}
    assert dataset.column("Anlage").categories == ("NO", "Nord", "Süd")
    pressure = dataset.column("Druck (bar)")
    assert (pressure.optional, pressure.fill in (1.5, 1.875, 2.25), pressure.range) == (True, True, (1.42, 2.33))
    assert dataset.column("select").range == (0.0, 6.0)
    assert set(found.proposal.dropped) == {"Datum", "Kommentar", "fest", "leer", "verrät"}
    assert refused(found) == (0, "")


def test_records_come_out_of_every_file_with_the_same_values(plant_file: Path) -> None:
    found = describe(plant_file, "Qualität [%]")
    dataset = found.dataset()
    records = [row.record for batch in ReplayFile(plant_file, dataset).batches(100) for row in batch]
    expected = plant()
    assert [record["_id"] for record in records] == [row["Proben-Nr."] for row in expected]
    for name in ("An", "Anlage", "select", "Druck (bar)", "leer"):
        assert [record[name] for record in records] == [row[name] for row in expected]
    for name in ("Temp. [°C]", "Größe in µm"):
        assert [record[name] for record in records] == pytest.approx([row[name] for row in expected], abs=1e-6)
    form = dataset.column("Datum").format
    assert [datetime.strptime(record["Datum"], form).date() for record in records] == [row["Datum"] for row in expected]


def test_the_written_declaration_says_what_it_is_made_of_and_fits_the_schema(tmp_path: Path) -> None:
    text = describe(WRITERS["german.csv"](tmp_path / "Werk Süd (2025).csv", plant()), "Qualität [%]").text()
    assert text.splitlines()[0] == schema.EDITOR_LINE
    assert "name: werk_sued_2025\n" in text
    assert "10% of the values' width beyond what the file holds" in text.replace("\n#", "")
    assert "# verrät: follows the target almost exactly: it may leak it" in text
    assert "# fest: constant: the same value in all records" in text
    assert "# leer: always missing" in text
    assert "missing in 60 of 60 records" in text.replace("\n  #", "")
    assert "  # - {step: date_parts, column: Datum, parts: [month, weekday]}\n" in text
    assert re.search(r"name: verrät, type: number, .*optional: true", text), "what is not used is not asked of requests"
    declared = json.loads(schema.shipped().read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(declared).validate(yaml.safe_load(text))


def test_a_measurement_outside_of_the_written_range_is_taken_and_without_outside_refused_with_the_limits(
    tmp_path: Path,
) -> None:
    path = WRITERS["german.csv"](tmp_path / "a.csv", plant())
    found = describe(path, "Qualität [%]")
    dataset = found.dataset()
    record = next(ReplayFile(path, dataset).batches(1))[0].record
    hot = {**record, "temp. [°C]": 99.0}
    (counted,) = Pipeline(dataset).outside([hot])
    assert (counted.column.name, counted.count) == ("temp. [°C]", 1)
    assert Pipeline(dataset).process([hot]).height == 1
    strict = Pipeline(Dataset.parse(found.text().replace(", outside: warn", "")))
    with pytest.raises(InvalidRecordError, match=r"'temp. \[°C\]': 99.0 is outside of \[-2.5, 3.5\]"):
        strict.process([hot])
    with pytest.raises(InvalidRecordError, match=r"'Qualität \[%\]': 9999.0 is outside of "):
        Pipeline(dataset).process([{**record, "Qualität [%]": 9999.0}])
    with pytest.raises(InvalidRecordError, match="'Anlage': 'West' is not one of NO, Nord, Süd"):
        Pipeline(dataset).process([{**record, "Anlage": "West"}])


def small(tmp_path: Path, text: str, name: str = "a.csv", encoding: str = "utf-8") -> Path:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return tmp_path / name


def types_of(found: Description) -> dict[str, str]:
    return {column.name: column.type for column in found.columns}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1,5", "2,5", "-3,25"], "number"),
        (["1.234,5", "12,25", "1.000.000,75"], "number"),
        (["1.5e3", "-2E-1", "+.5"], "number"),
        (["1", "-2", "30"], "number"),
        (["1.0", "2.0", "3.0"], "number"),
        (["007", "012", "007"], "category"),
        (["31.12.2025", "1.2.2025", "29.02.2024"], "datetime"),
        (["31.12.2025 23:59", "01.02.2025 00:00"], "datetime"),
        (["2025-12-31T23:59:59Z", "2025-01-01T00:00:00Z"], "datetime"),
        (["12/31/2025", "01/02/2025"], "datetime"),
        (["31.02.2025", "31.04.2025", "31.02.2025"], "category"),
        (["ja", "nein", "JA"], "boolean"),
        (["wahr", "falsch"], "boolean"),
        (["x", "ja", "x"], "category"),
        (["inf", "1", "2"], "text"),
        (["1e300", "1", "2"], "text"),
        (['"[""a"", ""b""]"', '"[""a""]"'], "list of categories"),
        (['"[0.5; 0.5]"', "x", "x"], "category"),
    ],
)
def test_what_a_column_holds_is_seen_through_markers_of_missing_values(tmp_path: Path, values: list[str], kind: str) -> None:
    rows = [*values, "", "NA", " - ", "n/a", "#NV", *values]
    lines = [f"{value};{number * number % 11};{number * number % 7},5\n" for number, value in enumerate(rows, 1)]
    found = describe(small(tmp_path, "a;b;y\n" + "".join(lines)))
    assert types_of(found) == {"a": kind, "b": "number", "y": "number"}
    assert found.columns[0].missing == 5
    assert refused(found) == (0, "")


def test_a_wrong_separator_or_a_comma_of_thousands_does_not_mislead(tmp_path: Path) -> None:
    found = describe(small(tmp_path, 'name|"a, b"|y\nx|"1,234"|1.5\ny|"2,500,000"|2.5\nx|10|3.5\ny|11|4.5\n'))
    assert types_of(found) == {"name": "category", "a, b": "number", "y": "number"}
    assert found.columns[1].high == 2_500_000


def test_a_header_without_a_name_and_blanks_between_values_are_read(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i * 7 % 5},{i * i % 17}\n" for i in range(20))
    found = describe(small(tmp_path, f",a,y\n{rows}"), "y")
    assert list(types_of(found)) == ["column 1", "a", "y"]
    assert found.proposal.dropped == {
        "column 1": "counts the records from 0 to 19: a row number, which the next file uses again"
    }
    assert refused(found) == (0, "")
    blanks = describe(small(tmp_path, f",a,y\n{rows}".replace(",a,y", "i,a,y").replace(",", " "), "b.csv"), "y")
    assert list(types_of(blanks)) == ["i", "a", "y"]
    assert refused(blanks) == (0, "")
    with pytest.raises(SourceFileError, match="has a column without a name"):
        describe(small(tmp_path, '{"": 1, "y": 2}\n{"": 2, "y": 3}\n', "c.jsonl"))


def test_the_target_is_never_chosen_silently(tmp_path: Path) -> None:
    path = small(tmp_path, "a,b,c\n" + "".join(f"{i % 7},{i * i % 11},u{i % 3}\n" for i in range(30)))
    found = describe(path)
    assert (found.target, found.target_was_named) == ("b", False)
    assert "# CHECK: no target was named, so the last column of numbers is used.\ntarget: b\n" in found.text()
    with pytest.raises(DescribeError, match="has no column 'd'; it has 'a', 'b', 'c'"):
        describe(path, "d")
    with pytest.raises(DescribeError, match="'c' holds values of the type category; columns of numbers are 'a', 'b'"):
        describe(path, "c")


def test_a_target_with_remarks_among_its_numbers_is_told_with_the_first(tmp_path: Path) -> None:
    lines = [f"{i},{'n.i.O.' if i in (4, 9) else i * i % 13}" for i in range(30)]
    path = small(tmp_path, "\n".join(["Temp,Güte", *lines]))
    with pytest.raises(
        DescribeError, match=r"28 of its 30 values are numbers, and row 5 has 'n\.i\.O\.'; correct it or leave"
    ):
        describe(path, "Güte")
    with pytest.raises(DescribeError, match="has no column 'Guete'; it has 'Temp', 'Güte'. Do you mean 'Güte'?"):
        describe(path, "Guete")


def test_a_title_above_the_header_is_left_out_and_told(tmp_path: Path) -> None:
    for title, sign in (("Messprotokoll\n\n", ";"), ("Messprotokoll, Anlage 3\n", ",")):
        lines = "".join(f"{number};{number * 3 % 7};{number % 5}.5\n" for number in range(30))
        found = describe(small(tmp_path, title + ("a;b;y\n" + lines).replace(";", sign)), "y")
        assert (found.records, [column.name for column in found.columns]) == (30, ["a", "b", "y"])
        assert found.notes == (f"line 1 stands above the header and is left out: '{title.strip().replace(',', '')}'",)


def test_headings_of_a_spreadsheet_may_have_two_lines_and_no_name_twice(tmp_path: Path) -> None:
    rows = [{"Temp.\n[°C]": i % 7 + 0.5, 'Länge 2"': i % 5, "x_1": i % 3, "x": i % 2, "y": i * i % 11} for i in range(40)]
    found = describe(write_excel(tmp_path / "a.xlsx", rows), "y")
    assert list(types_of(found)) == ["Temp.\n[°C]", 'Länge 2"', "x_1", "x", "y"]
    assert refused(found) == (0, "")

    class Header(dict[str, Any]):
        def __iter__(self) -> Any:
            return iter(["x", "x", "y"])

    with pytest.raises(SourceFileError, match="has the column 'x' more than once; give each a name of its own"):
        describe(write_excel(tmp_path / "b.xlsx", [Header(a=1, b=2, y=3), {"a": 2, "b": 3, "y": 4}]), "y")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty; its first line has to name the columns, each further line is a record"),
        ("a,y,a\n1,2,3\n", "has the column 'a' more than once; give each a name of its own"),
        ("a,b\n", "has no records"),
        ("a,b\nx,y\n", "no column of different numbers that could be the target"),
        ("y\n1\n2\n3\n", "no column from which the target 'y' could be predicted"),
        ("a,y\n1,1\n1,2\n1,3\n", "no column from which the target 'y' could be predicted"),
    ],
)
def test_a_file_with_nothing_to_learn_from_is_refused_in_a_sentence(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises((DescribeError, SourceFileError), match=says):
        describe(small(tmp_path, content))


def test_what_is_no_table_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="ends with '.pdf'; known are .csv, .tsv"):
        describe(small(tmp_path, "x", "a.pdf"))
    with pytest.raises(SourceFileError, match="cannot be read"):
        describe(tmp_path / "none.csv")


def test_too_many_categories_and_row_numbers_are_seen(tmp_path: Path) -> None:
    lines = [f"{i},L{i // 2},{'ab'[i % 2]},{i * 37 % 101}" for i in range(1, 61)]
    found = describe(small(tmp_path, "\n".join(["Zeile,lot,mode,y", *lines])), "y")
    assert found.key == ""
    assert found.proposal.dropped == {
        "Zeile": "counts the records from 1 to 60: a row number, which the next file uses again",
        "lot": "31 different texts in 60 records: too many for categories",
    }


def test_features_of_different_columns_never_share_a_name(tmp_path: Path) -> None:
    lines = [f"{'bc'[i % 2]},{i * 7 % 5},{'z_y'[i % 3]},{i * i % 17}" for i in range(40)]
    found = describe(small(tmp_path, "\n".join(["a,a_b,t,t_z", *lines])), "t_z")
    assert found.dataset().feature_names == ("a 2_b", "a 2_c", "a_b", "t 2__", "t 2_y", "t 2_z") or refused(found)[0] == 0
    assert refused(found) == (0, "")


@pytest.mark.parametrize(
    ("name", "unit"),
    [("Temp. [°C]", "°C"), ("Druck(bar)", "bar"), ("Dicke in µm", "µm"), ("v (m/s)", "m/s"), ("Wert (2)", ""), ("Länge", ""),
     ("Rate [1/min] ", "1/min"), ("[mm]", ""), ("Menge (wie von Hand gemessen)", "")],
)  # fmt: skip
def test_units_are_taken_out_of_names(name: str, unit: str) -> None:
    assert unit_of(name) == unit


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
@example(1.0, 1.0000000000000002)
@example(0.0, 1e-30)
def test_a_margin_never_cuts_and_never_crosses_zero(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-30:
        return
    begin, end = with_margin(low, high)
    assert begin <= low < high <= end
    assert (begin >= 0) == (low >= 0)
    assert end - begin <= 1.5 * (high - low) + 1e-9 * abs(high)


@given(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
@example("1e5")
@example("null")
@example("2025-01-01")
@example("\x85 \u2028\ufeff😀")
@example("a: b #c")
def test_a_written_value_is_read_again_as_it_was(value: Any) -> None:
    if isinstance(value, str) and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        return
    assert yaml.safe_load(f"[{scalar(value)}]") == [value]
    assert yaml.safe_load(scalar(value)) == value


NAMES = st.sampled_from(
    [
        "select",
        "Größe",
        "größe",
        "a.b",
        "a b",
        "Temp. [°C]",
        "temp. [°C]",
        "100 %",
        "ID",
        "`",
        "null",
        "x,y",
        "NO",
        "_pipeline",
        "a_b",
        "a",
    ]
)
CELLS = {
    "numbers": st.sampled_from(["", "NA", "-"]) | st.floats(-1e9, 1e9).map(lambda value: f"{value:.4f}"),
    "integers": st.integers(-5, 10**6).map(str) | st.just(""),
    "categories": st.sampled_from(["b", "c", "NO", "null", "ja", "1", "ä; ö", '"', "", " x "]),
    "texts": st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8),
    "dates": st.dates(date(1, 1, 1)).map(lambda day: day.strftime("%d.%m.") + f"{day.year:04}") | st.just("n/a"),
    "flags": st.sampled_from(["ja", "Nein", ""]),
    "lists": st.lists(st.sampled_from("abc"), max_size=3).map(json.dumps),
}  # fmt: skip


@st.composite
def tables(draw: Any) -> tuple[list[str], list[list[str]], str]:
    names = draw(st.lists(NAMES, unique=True, min_size=1, max_size=5))
    kinds = [draw(st.sampled_from(sorted(CELLS))) for _ in names]
    count = draw(st.integers(3, 25))
    rows = [[draw(CELLS[kind]) for kind in kinds] for _ in range(count)]
    return names, rows, draw(st.sampled_from([",", ";", "\t"]))


@settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tables())
def test_a_random_table_is_described_and_then_processed_without_a_fault(
    tmp_path: Path, table: tuple[list[str], list[list[str]], str]
) -> None:
    names, rows, separator = table
    path = tmp_path / "random.csv"
    lines = [[*names, "quality"], *[[*row, str(i * i % 13)] for i, row in enumerate(rows)]]
    text = "\n".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines)
    path.write_text(text, encoding="utf-8")
    try:
        found = describe(path, "quality")
    except DescribeError as error:
        found, why = None, error.message
    if found is None:
        assert "from which the target" in why
        return
    dataset = Dataset.parse(found.text())
    assert refused(found) == (0, "")
    records = [row.record for batch in ReplayFile(path, dataset).batches(1000) for row in batch]
    assert Pipeline(dataset).features(records).shape == (len(rows), len(dataset.feature_names))
    summary(found)


def test_columns_that_were_made_of_the_target_are_left_out(tmp_path: Path) -> None:
    numbers = random.Random(3)
    rows = []
    for _ in range(120):
        x = numbers.uniform(0, 10)
        y = round(20 + 3 * x + numbers.gauss(0, 4), 3)
        grade = "A" if y < 28 else "B" if y < 40 else "C"
        rows.append(
            [round(x, 3), "ja" if y < 30 else "nein", grade, round(math.log(y), 6), round(y), numbers.choice("PQ"), y]
        )
    path = tmp_path / "a.csv"
    header = ["x", "scrap", "grade", "logarithm", "rounded", "machine", "y"]
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")
    found = describe(path, "y")
    assert found.proposal.used == {"x", "machine"}
    assert set(found.leaking) == {"scrap", "grade", "logarithm", "rounded"}
    assert "# grade: divides the target's values without overlap: it may leak it" in found.text()


def test_who_cannot_learn_is_told_why_of_each_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("machine,y\n" + "".join(f"m1,{number}.5\n" for number in range(20)))
    with pytest.raises(
        DescribeError, match=r"'y' could be predicted \('machine': constant: the same value in all records\)"
    ):
        describe(path, "y")


def test_texts_that_are_nearly_numbers_are_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [
        f"{20 + number},5;{number}.25;{'n.i.O.' if number == 7 else 300 + number * 1.5};00{number};{number}.75"
        for number in range(60)
    ]
    path.write_text("a;b;c;d;y\n" + "\n".join(rows) + "\n")
    found = {column.name: column for column in describe(path, "y").columns}
    assert [found[name].type for name in "abcdy"] == ["number", "number", "text", "text", "number"]
    assert (found["a"].low, found["a"].high) == (20.5, 79.5)  # each column has a decimal sign of its own
    assert found["c"].notes == ["59 of its 60 values are numbers, and row 8 has 'n.i.O.'; correct it or leave it empty"]
    assert found["d"].notes == ["different in every record: a key or a remark"]


def test_units_behind_numbers_years_of_two_digits_and_durations(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{number},5 g;{number * 3 % 11},25;{1 + number % 28:02}.02.24;{number % 7},5" for number in range(40)]
    path.write_text("a;b;day;y\n" + "\n".join(rows) + "\n")
    found = {column.name: column for column in describe(path, "y").columns}
    assert found["a"].notes == [
        "numbers with 'g' after each; move the unit to the column's name, in brackets, and keep the numbers only"
    ]
    assert (found["day"].type, found["day"].format) == ("datetime", "%d.%m.%y")
    pl.DataFrame({"took": [timedelta(seconds=i) for i in range(5)], "y": [0.5, 1, 2, 3, 4]}).write_parquet(
        tmp_path / "b.parquet"
    )
    took = describe(tmp_path / "b.parquet", "y").columns[0]
    assert (took.low, took.high) == (0, 4)  # seconds


def test_a_column_that_is_named_as_a_key_and_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,x,y\n" + "".join(f"k{number % 90},{number % 7},{number}.5\n" for number in range(120)))
    found = describe(path, "y")
    assert found.key == ""
    assert (
        "named like a key, but repeated: of records with the same key only the first is kept" in found.proposal.dropped["id"]
    )


def test_the_command_writes_once_and_shows_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path, output = WRITERS["german.csv"](tmp_path / "plant.csv", plant()), tmp_path / "config_dir" / "dataset.yaml"

    def run(target: str, to: Path | None) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        describe_to(path, target, to, force=False, out=out, err=err)
        return out.getvalue(), err.getvalue()

    shown, nothing = run("Qualität [%]", output)
    assert "plant.csv: 60 records, 14 columns" in shown
    assert "follows the target almost exactly" in shown
    assert nothing == ""
    dataset = Dataset.load(output.parent)
    assert (dataset.name, dataset.target) == ("plant", "Qualität [%]")
    assert (output.parent / schema.FILE).is_file()
    with pytest.raises(DescribeError, match="exists already; --force replaces it"):
        run("Qualität [%]", output)
    text, shown = run("Qualität [%]", None)
    assert Dataset.parse(text).version == dataset.version
    assert "60 records" in shown
    with pytest.raises(DescribeError, match="has no column 'x'"):
        run("x", None)


def test_the_command_is_one_of_fiots(tmp_path: Path) -> None:
    path = WRITERS["german.csv"](tmp_path / "plant.csv", plant())
    command = [Path(sys.executable).parent / "fiot", "extras", "describe-data", path, "--target", "Qualität [%]"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert Dataset.parse(done.stdout).target == "Qualität [%]"
    bad = subprocess.run(
        [*command[:3], tmp_path / "none.csv"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert bad.returncode == 1
    assert "none.csv cannot be read: No such file or directory." in bad.stderr


def test_the_real_films_are_described_with_their_lists(tmp_path: Path) -> None:
    from kio.dataset import example_dataset

    found = describe(write_lines(tmp_path / "films.jsonl", example_dataset), "Ausformung")
    assert {"step": "shares", "column": "ListeKomponenten", "shares": "Massenanteile"} in [
        step for step, _ in found.proposal.steps
    ]
    assert {"Geometrie", "Masse", "CAD"} <= set(found.proposal.dropped)
    assert refused(found) == (0, "")


def test_a_found_column_without_width_has_no_range() -> None:
    assert InspectedColumn("a", "number", low=1.0, high=1.0).range is None
