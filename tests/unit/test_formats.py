"""What programs write: JSON in its many shapes, Parquet's types, odd names. Whatever is proposed accepts the file it was made from."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from complex_system.describe import description
from complex_system.describe.checking import check_file
from complex_system.describe.description import Description, describe, refused
from complex_system.describe.inspection import InspectedColumn
from complex_system.domain.dataset import Dataset
from complex_system.errors import DescribeError, SourceFileError
from complex_system.sources import json_objects
from complex_system.sources.replay import ReplayFile
from complex_system.sources.rows import Row

ROWS = 40


def rows(**columns: Any) -> list[dict[str, Any]]:
    """Return records with a target ``y`` and a feature ``x``, and a column for each function of the row's number."""
    return [
        {"x": n * 7 % 11 + 0.5, **{name: make(n) for name, make in columns.items()}, "y": n * 3 % 17 + 0.25}
        for n in range(ROWS)
    ]


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def accepted(path: Path) -> Description:
    found = describe(path, "y")
    assert refused(found) == (0, "")
    return found


def column(found: Description, name: str) -> InspectedColumn:
    return next(each for each in found.columns if each.name == name)


def values(path: Path, found: Description, name: str) -> list[Any]:
    return [row.record[name] for batch in ReplayFile(path, found.dataset()).batches(7) for row in batch]


def test_numbers_and_flags_as_texts_are_read_as_they_are_described(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        rows(
            temp=lambda n: f"{20 + n / 4:.2f}",
            on=lambda n: "on" if n % 3 else "off",
            machine=lambda n: n if n % 2 else str(n),
        ),
    )
    found = accepted(path)
    assert (column(found, "temp").type, column(found, "on").type) == ("number", "boolean")
    assert values(path, found, "temp") == [20 + n / 4 for n in range(ROWS)]
    assert values(path, found, "on") == [bool(n % 3) for n in range(ROWS)]
    assert values(path, found, "machine") == list(range(ROWS))


def test_decimal_commas_in_json(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows(temp=lambda n: f"{20 + n / 4:.2f}".replace(".", ",")))
    assert values(path, accepted(path), "temp") == [20 + n / 4 for n in range(ROWS)]


def test_nested_objects_are_columns_with_dots_and_mongodbs_types_are_values(tmp_path: Path) -> None:
    records = rows(
        _id=lambda n: {"$oid": f"{n:024x}"},
        at=lambda n: {"$date": {"$numberLong": str(1_700_000_000_000 + n * 3_600_000)}},
        oven=lambda n: {"zone": {"temp": n % 5 + 0.5}, "name": "AB"[n % 2]},
        count=lambda n: {"$numberLong": str(n % 9)},
    )
    path = lines(tmp_path / "a.json", records)
    found = accepted(path)
    assert values(path, found, "oven.zone.temp") == [n % 5 + 0.5 for n in range(ROWS)]
    assert column(found, "oven.name").categories == ("A", "B")
    assert column(found, "at").type == "datetime"
    assert values(path, found, "at")[0] == "2023-11-14T22:13:20.000Z"
    assert values(path, found, "count") == [n % 9 for n in range(ROWS)]
    assert values(path, found, "_id")[1] == f"{1:024x}"


def test_an_array_is_read_as_lines_are(tmp_path: Path) -> None:
    records = rows(name=lambda n: "AB"[n % 2])
    array = tmp_path / "a.json"
    array.write_text(json.dumps(records, indent=2), encoding="utf-8-sig")
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(array.read_bytes()))
    for path in (array, packed):
        found = accepted(path)
        assert values(path, found, "y") == [each["y"] for each in records]
    array.write_text("[{]")
    with pytest.raises(SourceFileError, match=r"a\.json cannot be read as json"):
        describe(array, "y")


def test_lists_that_no_type_holds_are_texts_and_not_used(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        rows(wave=lambda n: [n] * 1001, mixed=lambda n: [n, "a"], objects=lambda n: [{"a": n}], gaps=lambda n: [1, None, n]),
    )
    found = accepted(path)
    assert {column(found, name).type for name in ("wave", "mixed", "objects", "gaps")} == {"text"}
    assert {"wave", "mixed", "objects", "gaps"} <= set(found.proposal.dropped)
    assert json.loads(values(path, found, "gaps")[3]) == [1, None, 3]


def test_parquets_types(tmp_path: Path) -> None:
    records = rows(zone=lambda n: {"temp": n % 5 + 0.5, "inner": {"name": "AB"[n % 2]}}, serial=lambda n: 2**53 + 1 + n % 20)
    frame = pl.DataFrame(records).with_columns(
        pl.Series("dictionary", [f"{n % 6}.5" for n in range(ROWS)], dtype=pl.Categorical),
        pl.Series("enum", ["ja" if n % 3 else "nein" for n in range(ROWS)], dtype=pl.Enum(["ja", "nein"])),
        pl.Series("nothing", [None] * ROWS, dtype=pl.Null),
        pl.Series("names", [["a", "b"][: n % 3] for n in range(ROWS)], dtype=pl.List(pl.Categorical)),
        pl.Series("structures", [[{"a": n}] for n in range(ROWS)]),
    )
    frame.write_parquet(path := tmp_path / "a.parquet")
    found = accepted(path)
    assert values(path, found, "zone.temp") == [n % 5 + 0.5 for n in range(ROWS)]
    assert column(found, "zone.inner.name").categories == ("A", "B")
    assert values(path, found, "dictionary") == [n % 6 + 0.5 for n in range(ROWS)]
    assert values(path, found, "enum") == [bool(n % 3) for n in range(ROWS)]
    assert values(path, found, "serial") == [str(2**53 + 1 + n % 20) for n in range(ROWS)]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_whole_numbers_beyond_2_to_the_53_keep_their_last_digit(suffix: str, tmp_path: Path) -> None:
    records = rows(serial=lambda n: 2**53 + 1 + n * 7 % 5, huge=lambda n: int("9" * 401) + n)
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join(",".join(map(str, each)) for each in [list(records[0]), *(r.values() for r in records)]))
    else:
        lines(path, records)
    found = accepted(path)
    assert column(found, "serial").type != "number"
    assert values(path, found, "serial") == [str(each["serial"]) for each in records]
    assert values(path, found, "huge") == [str(each["huge"]) for each in records]


@pytest.mark.parametrize("name", ["on", "null", "yes", "no", "true", "y", "1e5", "~", "Größe", "🌡"])
def test_yamls_own_words_as_names(name: str, tmp_path: Path) -> None:
    path = lines(
        tmp_path / f"{name}.jsonl", [{("y_" if name == "y" else name): n % 7 + 0.5, "y": n % 5} for n in range(ROWS)]
    )
    accepted(path)


def test_names_that_others_reserve(tmp_path: Path) -> None:
    names = ["__row__", "order", "select", "Temp", "temp", "TEMP", "a.b", "$x", "🌡", "per%cent", "f0", "row'", "null"]
    header = ",".join([*names, "y"])
    body = [",".join(str((n * (place + 2)) % 13 + 0.5) for place in range(len(names) + 1)) for n in range(ROWS)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([header, *body]), encoding="utf-8")
    found = accepted(path)
    for place, name in enumerate(names):
        assert values(path, found, name) == [(n * (place + 2)) % 13 + 0.5 for n in range(ROWS)]


def test_nan_in_a_line_is_a_missing_value(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows(temp=lambda n: float("nan") if n == 3 else n + 0.5))
    found = accepted(path)
    assert column(found, "temp").missing == 1
    assert values(path, found, "temp")[2:5] == [2.5, None, 4.5]


def test_a_proposal_that_would_refuse_its_file_is_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of inspection, made on purpose: a column is proposed that its own values do not fit."""
    path = lines(tmp_path / "a.jsonl", rows(code=lambda n: "AB"[n % 2], zone=lambda n: n % 5 + 0.5))
    inspect = description.inspect_column

    def wrong(*given: Any) -> InspectedColumn:
        found = inspect(*given)
        return replace(found, categories=("A",)) if found.name == "code" else found

    monkeypatch.setattr(description, "inspect_column", wrong)
    found = accepted(path)
    code = column(found, "code")
    assert code.type == "text"
    assert "code" in found.proposal.dropped
    assert code.notes[0].startswith("field 'code': ")
    assert "zone" in found.proposal.used


def test_texts_that_no_column_holds_are_refused_with_their_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows(note=lambda n: "a" * 70_000 if n == 7 else str(n) + "b"))
    with pytest.raises(DescribeError, match="row 8, field 'note'"):
        describe(path, "y")


def read(path: Path, dataset: Dataset) -> list[Row]:
    return [row for batch in ReplayFile(path, dataset).batches(7) for row in batch]


def test_a_field_of_an_object_that_is_not_declared_is_ignored_and_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows(oven=lambda n: {"temp": n % 5 + 0.5}))
    dataset = accepted(path).dataset()
    later = rows(
        oven=lambda n: {"temp": n % 5 + 0.5, "by": {"name": "TK"}}, wave=lambda n: [n, n + 1], device=lambda n: {"id": n}
    )
    for suffix in ("jsonl", "json", "parquet"):
        changed = tmp_path / f"later.{suffix}"
        if suffix == "parquet":
            pl.DataFrame(later).write_parquet(changed)
        else:
            lines(changed, later)
        file = ReplayFile(changed, dataset)
        assert file.notes == (
            "the fields of objects and lists 'oven.by.name', 'wave', 'device.id' are not declared, and are ignored",
        )
        assert [row.record["oven.temp"] for row in read(changed, dataset)] == [n % 5 + 0.5 for n in range(ROWS)]


def test_a_field_of_an_object_under_another_name_is_not_ignored(tmp_path: Path) -> None:
    dataset = accepted(lines(tmp_path / "a.jsonl", rows(oven=lambda n: {"temp": n % 5 + 0.5 if n else None}))).dataset()
    path = lines(tmp_path / "b.jsonl", rows(oven=lambda n: {"Temp": n % 5 + 0.5}))
    with pytest.raises(SourceFileError, match=r"Is 'oven\.Temp' the declared 'oven\.temp'\?"):
        ReplayFile(path, dataset)


def test_an_object_in_a_declared_column_costs_its_row(tmp_path: Path) -> None:
    dataset = accepted(lines(tmp_path / "a.jsonl", rows(zone=lambda n: "AB"[n % 2] if n else None))).dataset()
    # All the others are missing, so no other row says that the field is not an object.
    path = lines(tmp_path / "b.jsonl", rows(zone=lambda n: {"name": "A"} if n == 3 else {} if n == 4 else None))
    found = check_file(path, dataset)
    assert found.refused == 1
    assert found.why == """row 4, field 'zone': '{"name":"A"}' is not one of A, B"""
    nested = tmp_path / "b.parquet"
    pl.DataFrame(rows(zone=lambda n: {"name": "A"})).write_parquet(nested)
    with pytest.raises(SourceFileError, match="the column 'zone' of type Struct"):
        read(nested, dataset)


def test_an_object_that_is_missing_in_some_rows_is_no_column_of_its_own(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", rows(oven=lambda n: [{"temp": n % 5 + 0.5}, None, {}][n % 3]))
    found = accepted(path)
    assert [each.name for each in found.columns] == ["x", "oven.temp", "y"]
    assert column(found, "oven.temp").missing == ROWS - 14


def test_mixed_types_of_mongodb_are_values(tmp_path: Path) -> None:
    """`mongoexport` writes plain numbers beside NaN and large integers as objects."""
    special = [{"$numberDouble": "NaN"}, {"$numberLong": "7"}, {"$numberInt": "3"}, {"$numberDecimal": "2.5"}]
    path = lines(tmp_path / "a.jsonl", rows(temp=lambda n: special[n] if n < 4 else n + 0.5))
    found = accepted(path)
    assert column(found, "temp").type == "number"
    assert values(path, found, "temp") == [None, 7, 3, 2.5, *(n + 0.5 for n in range(4, ROWS))]


@pytest.mark.parametrize("content", ["1e9", '{"a": 1}', '"x"', "null", '{"$numberLong": "x"}', "NaN"])
def test_a_date_of_mongodb_that_is_none_costs_its_row(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    others = "".join(f'{{"x": {n * 7 % 11}.5, "y": {n * n % 13}}}\n' for n in range(20))
    path.write_text(f'{{"x": 3, "y": 1, "at": {{"$date": {content}}}}}\n{others}')
    assert ReplayFile(path, describe(path, "y").dataset()).rows == 21


TWICE = [
    '{"x": 1, "y": 2, "x": 3}', '{"x" : 1, "y" : 2, "x":3}', '{"x": 1, "at": "10:00:00", "y": 2, "x": 3}',
    '{"oven": {"x": 1, "x": 3}, "x": 2, "y": 5}', '{"note": "a\\": 1", "x": 2, "y": 5, "x": 3}',
    '{"list": [{"x": 1, "x": 1}], "x": 2, "y": 5}',
    '{"x": NaN, "y": 2, "x": 3}', '{"\\u0078": 1, "y": 2, "x": 3}',
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize("line", TWICE)
def test_a_field_that_is_there_twice_costs_its_row(line: str, suffix: str, tmp_path: Path) -> None:
    good = [f'{{"x": {n * 7 % 11}.5, "y": {n * n % 13}, "at": "10:00:0{n % 7}", "note": "\\\\"}}' for n in range(20)]
    path = tmp_path / f"a.{suffix}"
    texts = [*good[:4], line, *good[4:]]
    path.write_text("\n".join(texts) if suffix == "jsonl" else f"[{','.join(texts)}]")
    dataset = Dataset.parse(
        "name: a\ntarget: y\ncolumns:\n  - {name: x, type: number, range: [0, 20]}\n  - {name: at, type: text, optional: true}\n"
        "  - {name: note, type: text, optional: true}\n  - {name: y, type: number, optional: true}\npipeline:\n"
        "  - {step: drop, columns: [at, note]}\n  - {step: scale, column: x}\n"
    )
    faults = {row.number: row.fault for row in read(path, dataset) if row.fault}
    assert faults == {5: "has the field 'x' more than once; which of the values is right?"}


def test_an_array_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_objects, "_BLOCK", 50)
    records = rows(name=lambda n: "ä\U0001f321]},{"[: n % 6], large=lambda n: 10**20 + n, zone=lambda n: {"a": [n, "}"]})
    for indent, encoding in ((None, "utf-8"), (3, "utf-16"), (0, "utf-8-sig")):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=indent == 3), encoding=encoding)
        found = accepted(path)
        assert values(path, found, "y") == [each["y"] for each in records]
        assert [name or "" for name in values(path, found, "name")] == [each["name"] for each in records]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"x": 1}', r"behind element 1, a ',' or a ']' is expected"),
        ('[{"x": 1} {"x": 2}]', r"behind element 1, a ',' or a ']' is expected"),
        ('[{"x": 1},]', "behind element 1, Expecting value"),
        ('[{"x": 1}]\n[{"x": 2}]', r"behind element 1, something follows the ']' of the array"),
        ('[{"x": 1}, {"x": "' + "a" * 3000, "behind element 1, no element ends within 1,000 characters"),
        # Since Python 3.12 its JSON reader goes deeper than 1,000.
        ("[" * 100_000, "behind element 0, (maximum recursion depth|no element ends within 1,000 characters)"),
    ],
)
def test_an_array_that_is_not_whole_is_refused_with_its_place(
    content: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_objects, "_BLOCK", 100)
    monkeypatch.setattr(json_objects, "MAX_ELEMENT", 1000)
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(SourceFileError, match=problem.replace("[", r"\[").replace("]", r"\]")):
        describe(path, "y")


def test_memory_of_an_array_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    element = json.dumps({"x": 1.5, "note": "a" * 2000, "y": 2})
    path.write_text(f"[{','.join([element] * 10_000)}]")  # 20 MB
    with path.open() as file:
        tracemalloc.start()
        assert sum(1 for _ in json_objects.JsonArray(file)) == 10_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000


def test_elements_and_lines_that_are_not_text_cost_their_row(tmp_path: Path) -> None:
    good = [f'{{"x": {n * 7 % 11}.5, "y": {n * n % 13}}}'.encode() for n in range(20)]
    bad = [b'{"x": "\xff", "y": 1}', b'{"x": "\\ud800", "y": 1}', b'{"x": 1' + b"0" * 5000 + b', "y": 1}']
    for suffix, content in (("jsonl", b"\n".join([*good, *bad])), ("json", b"[" + b",".join([*good, *bad]) + b"]")):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content)
        found = check_file(
            path, describe(lines(tmp_path / "good.jsonl", [json.loads(each) for each in good]), "y").dataset()
        )
        assert (found.records, found.refused) == (23, 3)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_fractions_of_a_second_are_kept_or_named(unit: str, tmp_path: Path) -> None:
    step = {"ms": 250_000, "us": 17, "ns": 17}[unit]
    times = [datetime(2025, 3, 1) + timedelta(microseconds=n * n * step) for n in range(ROWS)]
    series = pl.Series("at", times, pl.Datetime("us")).cast(pl.Datetime(unit))  # type: ignore[arg-type]
    if unit == "ns":
        series = (series.to_physical() + 5).cast(pl.Datetime("ns"))
    path = tmp_path / "a.parquet"
    pl.DataFrame(rows()).with_columns(series).write_parquet(path)
    found = accepted(path)
    assert column(found, "at").format == "%Y-%m-%d %H:%M:%S.%f"
    written = values(path, found, "at")
    assert written == [f"{time:%Y-%m-%d %H:%M:%S.%f}" + ("005" if unit == "ns" else "") for time in times]
    assert ReplayFile(path, found.dataset()).notes == ()
    coarser = Dataset.parse(found.text().replace('"%Y-%m-%d %H:%M:%S.%f"', '"%Y-%m-%d %H:%M:%S"'))
    assert ReplayFile(path, coarser).notes == (
        "the times of 'at' are written as its format %Y-%m-%d %H:%M:%S says, and the file has more of them, such as fractions of a "
        "second (%f)",
    )


def test_days_of_a_file_fit_a_format_with_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    days = [date(2025, 3, 1) + timedelta(days=n) for n in range(ROWS)]
    pl.DataFrame(rows()).with_columns(pl.Series("at", days)).write_parquet(path)
    dataset = Dataset.parse(accepted(path).text().replace('"%Y-%m-%d"', '"%Y-%m-%d %H:%M:%S.%f"'))
    assert read(path, dataset)[1].record["at"] == "2025-03-02 00:00:00.000000"


def test_days_and_months_that_can_change_places_are_said(tmp_path: Path) -> None:
    for days, is_said in ((12, True), (13, False)):
        path = lines(tmp_path / "a.jsonl", rows(at=lambda n, days=days: f"{n % days + 1:02}/{n % 5 + 1:02}/2025"))
        hints = column(accepted(path), "at").hints
        assert bool(hints) == is_said
        assert all("write %m/%d/%Y for the month" in hint for hint in hints)
