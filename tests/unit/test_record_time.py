"""When a record was made: how declared times are read, what stands in for them, and which declarations are refused."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.domain.datetimes import USUAL_FORMATS, TimeFormat
from complex_system.domain.record_time import BEFORE_ALL, RecordTimes
from complex_system.errors import DeclarationError, InvalidRequestError

PRESS = """
name: press
target: y
columns:
  - {name: Zeit, type: datetime, format: "%d.%m.%Y %H:%M", optional: true}
  - {name: note, type: text, optional: true}
  - {name: stamp, type: number, optional: true}
  - {name: millis, type: integer, optional: true}
  - {name: batch, type: category, categories: [a, b]}
  - {name: x, type: number, range: [0, 1]}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: keep, column: x}
"""
BERLIN = ZoneInfo("Europe/Berlin")


def declared(time: str) -> Dataset:
    return Dataset.parse(f"{PRESS}time: {time}\n")


def read(time: str, values: list[Any]) -> list[float]:
    """What a column of such values says."""
    dataset = declared(time)
    assert dataset.time is not None
    kind = {"number": pa.float64(), "integer": pa.int64()}.get(dataset.column(dataset.time.column).type, pa.string())
    found: list[float] = RecordTimes(dataset).declared(pa.chunked_array([values], kind)).tolist()
    return found


def seconds(text: str, zone: Any = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"])
def test_times_of_every_usual_format_are_what_python_says(zone: str) -> None:
    draw = random.Random(zone)
    for form in USUAL_FORMATS:
        times = [datetime(1970, 1, 2) + timedelta(seconds=draw.uniform(0, 2e9)) for _ in range(20)]
        texts = [time.strftime(form) for time in times]
        expected = [datetime.strptime(text, form).replace(tzinfo=ZoneInfo(zone)).timestamp() for text in texts]
        found = read(f"{{column: note, format: '{form}', zone: {zone}}}", texts)
        assert found == pytest.approx(expected, abs=1e-5), form


def test_what_is_not_a_time_is_not_read_and_each_text_as_by_the_pipeline() -> None:
    texts = ["29.02.2024 00:00", "29.02.2023 00:00", "31.04.2024 10:00", "1.1.2024 9:05", "00.01.2024 00:00", "01.13.2024 00:00",
             "01.01.2024 24:00", "01.01.2024 00:60", "01.01.2024", " 01.01.2024 00:00", "", "n/a", "01.01.0000 00:00",
             "01.01.2024 00:00\n", "31.12.9999 23:59", "01.01.0001 00:00"]  # fmt: skip
    single = TimeFormat("%d.%m.%Y %H:%M")
    found = read("{column: Zeit}", [*texts, None])
    assert [math.isfinite(each) for each in found] == [*(single.parts(text) is not None for text in texts), False]
    assert found[0] == seconds("2024-02-29")
    assert found[3] == seconds("2024-01-01T09:05")
    assert read("{column: note, format: '%d.%m.%y'}", ["01.01.69", "01.01.68"]) == [
        seconds("1969-01-01"),
        seconds("2068-01-01"),
    ]


def test_summer_time_counts_and_of_the_hour_that_comes_twice_the_first_is_meant() -> None:
    texts = ["26.10.2025 01:59", "26.10.2025 02:30", "26.10.2025 03:00", "30.03.2025 01:59", "30.03.2025 03:00"]
    found = read("{column: Zeit, zone: Europe/Berlin}", texts)
    assert found == [seconds(each) for each in (
        "2025-10-25T23:59", "2025-10-26T00:30", "2025-10-26T02:00", "2025-03-30T00:59", "2025-03-30T01:00",
    )]  # fmt: skip


def test_numbers_are_read_in_their_unit() -> None:
    noon = seconds("2025-06-01T12:00")
    assert read("{column: stamp, format: unix}", [noon + 0.25, None, math.nan]) == pytest.approx(
        [noon + 0.25, math.nan, math.nan], nan_ok=True
    )
    assert read("{column: millis, format: unix_ms}", [int(noon * 1000) + 5]) == [noon + 0.005]
    assert read("{column: stamp, format: excel}", [45809.5, 25569.0]) == [noon, 0.0]
    assert read("{column: stamp, format: excel, zone: Europe/Berlin}", [45809.5]) == [seconds("2025-06-01T12:00", BERLIN)]
    # Milliseconds that are declared as seconds are beyond every calendar.
    assert np.isnan(read("{column: millis, format: unix}", [int(noon * 1000)])).all()


def page(dataset: Dataset, values: list[str | None], arrived: list[float | None]) -> pa.Table:
    columns = {raw_name("Zeit"): pa.array(values, pa.string())} if dataset.time else {}
    return pa.table({**columns, ARRIVED: pa.array(arrived, pa.float64())})


def test_the_arrival_stands_in_for_a_time_that_cannot_be_read_and_is_counted() -> None:
    dataset = declared("{column: Zeit}")
    times = RecordTimes(dataset)
    assert times.raw == ["Zeit"]
    assert times.message == ""
    made = times.of(page(dataset, ["01.06.2025 12:00", "yesterday", None, None], [5e9, 7.0, 8.0, None]))
    assert made.tolist() == [seconds("2025-06-01T12:00"), 7.0, 8.0, BEFORE_ALL]
    times.of(page(dataset, ["01.06.2025 12:00"], [9.0]))
    assert (times.records, times.unreadable) == (5, 3)
    assert times.message.startswith("3 of 5 records have no time in 'Zeit' that can be read as %d.%m.%Y %H:%M")


def test_without_a_declared_time_records_are_ordered_by_their_arrival() -> None:
    dataset = Dataset.parse(PRESS)
    times = RecordTimes(dataset)
    table = page(dataset, [], [3.0, 1.0, None, 2.0])
    assert times.raw == []
    assert times.of(table).tolist() == [3.0, 1.0, BEFORE_ALL, 2.0]
    assert times.message == ""
    assert times.newer(table, 1.0).column(ARRIVED).to_pylist() == [3.0, 2.0]
    assert times.newer(table, None) is table
    with pytest.raises(InvalidRequestError, match="earlier release; update it"):
        times.of(pa.table({"x": [1.0]}))


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        ("{column: Zeitt}", "time, column: 'Zeitt' is not one of the columns.*Zeit, note, stamp, millis, x, y"),
        ("{column: batch}", "time, column: column 'batch' is a category; a time is"),
        ("{column: note}", "time, format: the format '' needs %d, %m and %Y"),
        ("{column: Zeit, format: '%H:%M'}", "time, format: the format '%H:%M' needs"),
        ("{column: stamp}", "time, format: column 'stamp' is a number: the format is one of unix, unix_ms, excel"),
        ("{column: millis, format: seconds}", "time, format: .*unix, unix_ms, excel, not 'seconds'"),
        ("{column: stamp, format: unix, zone: Europe/Berlin}", "time, zone: the format unix counts from 1970 in UTC"),
        (
            "{column: Zeit, zone: Europe/Berln}",
            "time, zone: 'Europe/Berln' is not a time zone .did you mean 'Europe/Berlin'",
        ),
        ("{column: Zeit, zone: ../etc/passwd}", "time, zone: '../etc/passwd' is not a time zone"),
        ("{column: Zeit, zon: UTC}", "time, zon: is not a known key .did you mean 'zone'.*allowed are column, format, zone"),
        ("{format: unix}", "time, column: is required and missing"),
        ("Zeit", "time: must have keys: column, format, zone"),
    ],
)
def test_a_time_that_cannot_be_read_is_refused_with_its_line(time: str, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem) as refused:
        declared(time)
    assert "line 14" in refused.value.message


def test_a_declared_time_changes_neither_the_pipeline_version_nor_what_models_keep() -> None:
    plain, timed = Dataset.parse(PRESS), declared("{column: Zeit, zone: Europe/Berlin}")
    assert timed.version == plain.version
    assert timed.as_content() == plain.as_content()
    assert Dataset.restored(timed.as_content()).version == plain.version
    assert Dataset.parse(PRESS.replace("name: press", "name: lab")).law is None
