"""Numbers outside of their range (``outside``): what is refused, taken or clipped, alike for one record and for many."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from complex_system.describe.checking import check_file
from complex_system.describe.description import describe
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record, raw_check
from complex_system.errors import DeclarationError, InvalidRecordError
from complex_system.pipeline.pipeline import FEW_RECORDS, Pipeline
from everything import EVERYTHING, TEXT, records

LENIENT_TEXT = (
    TEXT.replace("range: [-40, 250]", "range: [-40, 250], outside: warn")
    .replace("range: [0.5, 80]", "range: [0.5, 80], outside: warn")
    .replace("range: [0, 1000]", "range: [0, 1000], outside: clip")
    .replace("range: [0.001, 1000000]", "range: [0.001, 1000000], outside: warn, missing_values: [-999]")
    .replace("range: [-1000, 1000]", "range: [-1000, 1000], outside: warn")
)
"""Every type and every step, with numbers that may lie outside of their ranges."""
LENIENT = Pipeline(Dataset.parse(LENIENT_TEXT))
NUMBERS = ("Temp. [°C]", "temp. [°c]", "Größe", "quality")


@st.composite
def beyond(draw: Any) -> Record:
    """A record whose numbers often lie far outside."""
    record: Record = draw(records())
    far = st.sampled_from([-999.0, 0.0, -1e-300, 1e9, -1e9]) | st.floats(-5e10, 5e10)
    for name in draw(st.lists(st.sampled_from(NUMBERS), unique=True)):
        record[name] = draw(far)
    if draw(st.booleans()):
        record["select"] = draw(st.integers(-(2**53), 2**53))
    return {**record, "_id": "k"}


def frame_of(batch: list[Record]) -> pl.DataFrame:
    return pl.DataFrame(batch, schema={name: LENIENT._raw_types.get(name, pl.String) for name in batch[0]}, strict=False)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.lists(beyond(), min_size=1, max_size=8))
def test_what_lies_outside_is_processed_and_counted_alike_in_rows_and_in_columns(batch: list[Record]) -> None:
    checked = raw_check(LENIENT.dataset)(batch)
    frame = LENIENT.typed(frame_of(checked))
    by_row, by_frame = LENIENT.features(checked), LENIENT.features_of(frame)
    many = LENIENT.features([*checked] * (FEW_RECORDS // len(checked) + 1))
    assert by_row.tobytes() == by_frame.tobytes() == many[: len(checked)].tobytes()
    assert np.isfinite(by_row).all()
    assert LENIENT.outside(checked) == LENIENT.outside(frame)
    processed, rejections = LENIENT.split(frame)
    assert not rejections
    assert processed.rows() == LENIENT.process(checked).rows()
    expected = {
        column.name: sum(
            value is not None and not column.range[0] <= value <= column.range[1]
            for value in (record[column.name] for record in checked)
        )
        for column in LENIENT.dataset.columns
        if column.range
    }
    assert {each.column.name: each.count for each in LENIENT.outside(checked)} == {k: n for k, n in expected.items() if n}


def test_linear_steps_go_on_and_the_others_take_the_end_of_the_range() -> None:
    base: Record = {"Temp. [°C]": 105.0, "temp. [°c]": 41.0, "select": 10, "Größe": 1.0, "an": True}
    inside, outside = (
        LENIENT.process([{**base, **change}]).row(0, named=True)
        for change in (
            {"Temp. [°C]": 250.0, "select": 1000, "Größe": 0.001, "temp. [°c]": 0.5},
            {"Temp. [°C]": 395.0, "select": 5000, "Größe": -8.0, "temp. [°c]": -0.5},
        )
    )
    assert outside["Temp. [°C]"] == 2.0  # scaled to [-1, 1], half a width beyond
    assert outside["size"] == -8.0
    same = ("size_scaled", "size_cox", "size_cox_0", "select_many", "select_log", "clipped", "per_degree")
    assert {name: outside[name] for name in same} == {name: inside[name] for name in same}
    assert outside["energy"] == -0.5 * 395 * 1000  # the product of what is taken as it is and of what is clipped


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e12, -1e300, sys.float_info.max])
def test_what_no_model_can_take_stays_refused(value: float) -> None:
    record: Record = {"Temp. [°C]": value, "select": 1}
    found = []
    for make in (lambda: LENIENT.features([record]), lambda: LENIENT.features_of(LENIENT.typed(frame_of([record])))):
        with pytest.raises(InvalidRecordError) as caught:
            make()
        found.append(caught.value.faults[0]["problem"])
    assert found[0] == found[1]
    assert found[0] in (
        f"must be a finite number, not {value}",
        f"{value} is outside of [-40, 250] by more than 1e+09 times its width",
    )


def test_an_infinite_number_is_not_clipped() -> None:
    dataset = Dataset.parse(
        "name: a\ntarget: y\ncolumns:\n  - {name: x, type: number, range: [0, 1], outside: clip}\n"
        "  - {name: y, type: number, optional: true}\npipeline: [{step: scale, column: x}]"
    )
    pipeline = Pipeline(dataset)
    assert pipeline.features([{"x": 1e308}]).tolist() == [[1.0]]
    for value, problem in ((float("inf"), "must be a finite number, not inf"), (float("nan"), "is missing")):
        with pytest.raises(InvalidRecordError, match=problem):
            pipeline.features([{"x": value}])


def test_declarations_without_it_keep_their_version_and_content() -> None:
    assert (
        Dataset.parse(TEXT.replace("range: [-40, 250]", "range: [-40, 250], outside: refuse")).version == EVERYTHING.version
    )
    assert "outside" not in str(EVERYTHING.as_content())
    changed = Dataset.parse(TEXT.replace("range: [-40, 250]", "range: [-40, 250], outside: warn"))
    assert changed.version != EVERYTHING.version
    assert Dataset.restored(changed.as_content()).version == changed.version


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "name: Notiz, type: text",
            "name: Notiz, type: text, outside: warn",
            "'outside: warn' and no range to be outside of",
        ),
        ("range: [-1000, 1000]", "range: [-1000, 1000], outside: clip", "the target 'quality' cannot be clipped"),
        ("range: [-40, 250]", "range: [-40, 250], outside: wran", "must be one of refuse, warn, clip, not 'wran'"),
        (
            "range: [-40, 250]",
            "range: [-1.0e30, 1.0e30], outside: warn",
            "makes numbers beyond what models take .* declare 'outside: clip'",
        ),
    ],
)
def test_faults_of_a_declaration_are_named(old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(DeclarationError, match=says):
        Dataset.parse(TEXT.replace(old, new))


def test_none_of_the_second_half_of_a_chemical_process_is_refused_by_what_is_proposed_for_the_first(tmp_path: Path) -> None:
    """57 sensors that wander, as those of a process do; ``benchmarks/validity/outside.py`` has a public table."""
    random = np.random.default_rng(14)
    steps = random.normal(size=(176, 57))
    values = np.empty_like(steps)
    values[0] = steps[0]
    for i in range(1, len(steps)):
        values[i] = 0.9 * values[i - 1] + steps[i]
    table = pl.DataFrame({f"sensor {i}": 20 + values[:, i] for i in range(57)})
    table = table.with_columns(pl.Series("yield", 40 + values[:, :5].sum(axis=1) / 5))
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    table.head(88).write_csv(first)
    table.tail(88).write_csv(second)
    text = describe(first, "yield").text()
    assert text.count(", outside: warn") == 57
    assert "is taken as it is, and counted" in " ".join(text.replace("#", " ").split())
    checked = check_file(second, Dataset.parse(text))
    assert (checked.records, checked.refused) == (88, 0)
    assert sum(checked.outside.values()) > 100
    strict = check_file(second, Dataset.parse(text.replace(", outside: warn", "")))
    assert strict.refused > 0.5 * strict.records
