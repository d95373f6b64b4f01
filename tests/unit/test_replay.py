"""Files as a source of records: three formats, declared types, missing values, keys that stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pytest
import yaml

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import row_key
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import SourceFileError
from complex_system.sources.replay import ReplayFile
from complex_system.sources.rows import Row
from complex_system.training.split import Part, parts_of
from reading import assert_same_by_columns

Write = Callable[[Path, list[dict[str, Any]]], Path]


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows, infer_schema_length=None).write_csv(path := folder / "records.csv")
    return path


def write_lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path := folder / "records.parquet")
    return path


FORMATS = pytest.mark.parametrize("write", [write_csv, write_lines, write_parquet])


def read(path: Path, dataset: Dataset, size: int = 7) -> list[Row]:
    file = ReplayFile(path, dataset)
    rows = [row for batch in file.batches(size) for row in batch]
    assert_same_by_columns(file, rows)
    return rows


def without_keys(records: list[Record]) -> list[Record]:
    return [{name: value for name, value in record.items() if name != "_id"} for record in records]


@pytest.fixture
def records(laboratory: Laboratory) -> list[Record]:
    return list(laboratory.records(50))


@FORMATS
def test_records_come_back_to_the_last_bit_with_the_keys_of_the_file(
    write: Write, tmp_path: Path, dataset: Dataset, records: list[Record]
) -> None:
    path = write(tmp_path, records)
    assert ReplayFile(path, dataset).rows == 50
    rows = read(path, dataset)
    assert [row.record for row in rows] == records
    assert [row.number for row in rows] == list(range(1, 51))
    assert any(record["material_id"] == "00000000" for record in records)
    assert any(record["laborant"] is None for record in records)


@FORMATS
def test_a_file_without_keys_gives_the_same_ones_each_time_in_its_order(
    write: Write, tmp_path: Path, dataset: Dataset, records: list[Record]
) -> None:
    path = write(tmp_path, without_keys(records))
    rows = read(path, dataset)
    keys = [row.record["_id"] for row in rows]
    assert without_keys([row.record for row in rows]) == without_keys(records)
    assert keys == sorted(set(keys))
    assert [row.record["_id"] for row in read(path, dataset, size=1)] == keys
    other = tmp_path / "other"
    other.mkdir()
    assert not set(keys) & {row.record["_id"] for row in read(write(other, without_keys(records)[:49]), dataset)}


def test_keys_are_uuids_and_split_as_others_do() -> None:
    keys = [row_key(b"\xab" * 32, row) for row in range(1, 5001)]
    assert {UUID(key).version for key in keys} == {8}
    parts = parts_of(keys)
    for part, share in ((Part.TRAIN, 0.7), (Part.VALIDATION, 0.15), (Part.HOLDOUT, 0.15)):
        assert sum(p == part for p in parts) / 5000 == pytest.approx(share, abs=0.02)


@FORMATS
@pytest.mark.parametrize(("size", "batches"), [(7, [7] * 7 + [1]), (50, [50]), (20_000, [50])])
def test_batches_are_bounded(
    write: Write, size: int, batches: list[int], tmp_path: Path, dataset: Dataset, records: list[Record]
) -> None:
    file = ReplayFile(write(tmp_path, records), dataset)
    assert [len(batch) for batch in file.batches(size)] == batches


@FORMATS
def test_optional_columns_may_be_missing_and_the_order_is_free(write: Write, tmp_path: Path, dataset: Dataset) -> None:
    (row,) = read(write(tmp_path, [{"rohwert_2_labormessung": 2, "material_id": "00000000"}]), dataset)
    assert row.record == {
        **dict.fromkeys(dataset.raw_names), "_id": row.record["_id"], "material_id": "00000000", "rohwert_2_labormessung": 2.0,
    }  # fmt: skip
    assert isinstance(row.record["rohwert_2_labormessung"], float)


@FORMATS
def test_empty_texts_are_missing(write: Write, tmp_path: Path, dataset: Dataset) -> None:
    row, refused = read(
        write(
            tmp_path, [{"_id": "", "material_id": "1", "laborant": ""}, {"_id": "b", "material_id": "", "laborant": "TK"}]
        ),
        dataset,
    )
    assert row.record["laborant"] is None
    assert UUID(row.record["_id"])
    assert refused.fault.startswith("field 'material_id': ")


@FORMATS
def test_wrong_columns_are_named_with_the_declared_ones(write: Write, tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(SourceFileError) as error:
        ReplayFile(write(tmp_path, [{"material": "00000000", "datum": None, "colour": "red"}]), dataset)
    assert "unknown column(s) 'material', 'colour'" in error.value.message
    assert "lacks the column(s) 'material_id'" in error.value.message
    assert "declares 'material_id', 'datum', 'laborant'" in error.value.message


def test_an_unknown_column_far_down_in_json_lines_is_found(tmp_path: Path, dataset: Dataset) -> None:
    rows = [{"material_id": "00000000"}] * 3000 + [{"material_id": "00000000", "colour": "red"}]
    with pytest.raises(SourceFileError, match="'colour'"):
        ReplayFile(write_lines(tmp_path, rows), dataset)


def test_csv_values_that_are_no_numbers_cost_their_row(tmp_path: Path, dataset: Dataset) -> None:
    values = [" 3.5 ", "1e1", "-0", '"3,5"', "abc", "", "NaN", "inf", "0x10", "1_000"]
    path = tmp_path / "records.csv"
    path.write_text("material_id,rohwert_1_labormessung\n" + "".join(f"00000000,{value}\n" for value in values))
    rows = read(path, dataset)
    assert [row.record.get("rohwert_1_labormessung") for row in rows if not row.fault] == [3.5, 10.0, 0.0, None, None]
    assert [row.number for row in rows if row.fault] == [4, 5, 8, 9, 10]
    assert rows[3].fault.startswith("field 'rohwert_1_labormessung': '3,5' has another decimal sign than")
    assert rows[4].fault == "field 'rohwert_1_labormessung': must be a number or nothing, not the text 'abc'"
    assert "finite" in rows[7].fault


def test_csv_as_programs_write_it(tmp_path: Path, dataset: Dataset) -> None:
    path = tmp_path / "records.CSV"
    path.write_bytes(
        b'\xef\xbb\xbfmaterial_id,datum,laborant\r\n"00000000","01.02.2025, 10:00:00",TK\r\n'
        b'\r\n11111111,"two\nlines, ""quoted""",\xc3\x84\r\n\r\n'
    )
    file = ReplayFile(path, dataset)
    rows = read(path, dataset)
    assert file.rows == 2
    assert [row.record["datum"] for row in rows] == ["01.02.2025, 10:00:00", 'two\nlines, "quoted"']
    assert rows[1].record["laborant"] == "Ä"


def test_lines_that_are_no_record_cost_only_themselves(tmp_path: Path, dataset: Dataset) -> None:
    path = tmp_path / "records.ndjson"
    lines = [
        '{"material_id": "00000000", "rohwert_1_labormessung": 3, "laborant": "TK"}', "", '{"material_id": true}', "[1]",
        '{"material_id": "00000000", "rohwert_1_labormessung": ' + "9" * 400 + "}", "[" * 100_000,
        '{"material_id": "00000000", "laborant": {"name": "TK"}}', '{"_id": 7, "material_id": "00000000"}',
        '{"material_id": "00000000", "rohw',
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    assert ReplayFile(path, dataset).rows == 8
    rows = read(path, dataset)
    assert [row.number for row in rows] == [1, 3, 4, 5, 6, 7, 8, 9]
    assert [bool(row.fault) for row in rows] == [False, False, True, True, True, False, False, True]
    assert (rows[1].record["material_id"], rows[6].record["_id"]) == ("true", "7")  # as texts, which the pipeline judges
    assert rows[5].record["laborant"] == '{"name":"TK"}'
    assert "finite" in rows[3].fault
    assert "JSON" in rows[-1].fault


def test_parquet_types_become_the_declared_ones(tmp_path: Path, dataset: Dataset) -> None:
    frame = pl.DataFrame(
        {
            "material_id": pl.Series(["00000000", "11111111"], dtype=pl.Categorical),
            "datum": [datetime(2025, 2, 1, 10, 30), None],
            "laborant": pl.Series([None, None], dtype=pl.Null),
            "rohwert_1_labormessung": pl.Series([3, 4], dtype=pl.Int32),
            "rohwert_2_labormessung": pl.Series([float("nan"), 0.1], dtype=pl.Float64),
            "rohwert_3_labormessung": pl.Series(["0.5", "x"]),
        }
    )
    frame.write_parquet(tmp_path / "records.pq")
    good, bad = read(tmp_path / "records.pq", dataset)
    assert list(good.record.values())[1:] == ["00000000", "01.02.2025, 10:30:00", None, 3.0, None, 0.5, None]
    assert "must be a number" in bad.fault
    frame.with_columns(laborant=pl.lit([1, 2])).write_parquet(tmp_path / "records.pq")
    with pytest.raises(SourceFileError, match="'laborant' of type List"):
        read(tmp_path / "records.pq", dataset)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("records.docx", b"x", "known are .csv"),
        ("records.xlsx", b"x", "cannot be read as xlsx"),
        ("records", b"x", "known are .csv"),
        ("records.csv", b"", "is empty; its first line has to name the columns"),
        ("records.csv", b"material_id,datum\n1,2,3\n", "line 2 has 3 fields between ',', and the first line has 2"),
        ("records.csv", b"material_id,laborant\n00000000,\0\xc4\n", "is not a text"),
        ("records.csv", b"material_id,material_id\n1,2\n", "has the column 'material_id' more than once"),
        ("records.csv", b"material_id^datum\n1^2\n", "'material_id^datum'"),
        ("records.parquet", b"PAR1 and no more", "parquet"),
        ("records.parquet", b"", "parquet"),
        ("records.jsonl", b"", "lacks the column(s) 'material_id'"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    tmp_path: Path, dataset: Dataset, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceFileError) as error:
        read(tmp_path / name, dataset)
    assert said in error.value.message
    assert "\n" not in error.value.message


def test_a_missing_file_is_named(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(SourceFileError, match="No such file"):
        ReplayFile(tmp_path / "nothing.csv", dataset)


@FORMATS
def test_another_data_set_is_read_by_its_own_columns(write: Write, tmp_path: Path) -> None:
    columns = [
        {"name": "zone 1 (°C)", "type": "number", "range": [0, 900]},
        {"name": "order", "type": "text", "optional": True},
        {"name": "strength", "type": "number", "optional": True},
    ]
    content = {"name": "ovens", "target": "strength", "columns": columns,
               "pipeline": [{"step": "scale", "column": "zone 1 (°C)"}]}  # fmt: skip
    ovens = Dataset.parse(yaml.safe_dump(content))
    (row,) = read(write(tmp_path, [{"order": "0017", "zone 1 (°C)": 712.5}]), ovens)
    assert row.record == {"_id": row.record["_id"], "zone 1 (°C)": 712.5, "order": "0017", "strength": None}


@FORMATS
def test_a_file_of_several_chunks_comes_in_order(
    write: Write, tmp_path: Path, dataset: Dataset, laboratory: Laboratory
) -> None:
    records = list(laboratory.records(12_345))
    rows = read(write(tmp_path, records), dataset, size=500)
    assert [row.record for row in rows] == records
    assert [row.number for row in rows] == list(range(1, 12_346))
