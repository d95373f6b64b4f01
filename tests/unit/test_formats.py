"""What programs write: JSON in its many shapes, Parquet's types, odd names. Whatever is proposed accepts the file it was made from."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from complex_system.describe import description
from complex_system.describe.description import Description, describe, refused
from complex_system.describe.inspection import InspectedColumn
from complex_system.errors import DescribeError, SourceFileError
from complex_system.sources.replay import ReplayFile

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

    def wrong(series: pl.Series, *more: Any) -> InspectedColumn:
        found = inspect(series, *more)
        return replace(found, categories=("A",)) if series.name == "code" else found

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
