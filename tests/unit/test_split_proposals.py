"""What describe-data proposes the split to go by, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from complex_system.describe.description import Description, describe
from complex_system.describe.splitting import BATCH_NAME

N = 300
DRAW = np.random.default_rng(0)
NOISE = DRAW.random((N, 4)).round(4)


def described(tmp_path: Path, **columns: object) -> Description:
    file = tmp_path / "plant.csv"
    pl.DataFrame({**columns, "y": DRAW.normal(0, 1, N).round(4)}).write_csv(file)
    return describe(file, "y")


def days() -> list[str]:
    return [str(day) for day in np.datetime64("2024-01-01") + np.arange(N)]


def test_settings_that_were_measured_several_times_are_a_group(tmp_path: Path) -> None:
    settings = NOISE[np.repeat(np.arange(N // 3), 3)]
    found = described(tmp_path, a=settings[:, 0], b=settings[:, 1], c=settings[:, 2], age=NOISE[:, 3])
    assert found.dataset().split_rule == "group: a, b, c"
    assert (
        "# 300 different records are of 100 settings (age apart), so most settings were measured several times."
        in found.text()
    )
    assert "a new combination of a, b, c" in found.text().replace("\n# ", " ")
    assert found.checked is not None
    assert np.array(found.checked.parts) / N == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_a_batch_is_a_group(tmp_path: Path) -> None:
    found = described(tmp_path, **{"batch no": [f"B{i // 10}" for i in range(N)]}, a=NOISE[:, 0], b=NOISE[:, 1])
    assert found.dataset().split_rule == "group: batch no"
    assert "'batch no' says what was made together (30 in 300 records)." in found.text()
    assert "split: {by: group, group: [batch no]}" in found.text()


def test_a_time_that_orders_the_rows_divides_them_and_no_batch_is_in_two_parts(tmp_path: Path) -> None:
    found = described(tmp_path, day=days(), charge=np.arange(N) // 10, a=NOISE[:, 0], b=NOISE[:, 1])
    assert found.dataset().split_rule == "time: day; gap: 0 s; group: charge"
    found = described(tmp_path, day=days(), a=NOISE[:, 0], b=NOISE[:, 1])
    assert found.dataset().split_rule == "time: day; gap: 0 s"
    assert found.checked is not None
    assert found.checked.parts == (210, 45, 45)


def test_a_time_that_orders_nothing_is_only_offered(tmp_path: Path) -> None:
    found = described(tmp_path, day=DRAW.permutation(days()), a=NOISE[:, 0], b=NOISE[:, 1])
    assert found.dataset().split_rule == "content"
    assert "\n# split: {by: time}\n" in found.text()
    active = found.text().replace("# split: {by", "split: {by").replace("# time: {column", "time: {column")
    assert type(found.dataset()).parse(active).split_rule == "time: day; gap: 0 s"


def test_independent_records_and_a_plan_of_few_settings_stay_divided_by_key(tmp_path: Path) -> None:
    assert "split:" not in described(tmp_path, a=NOISE[:, 0], b=NOISE[:, 1], c=NOISE[:, 2]).text()
    few = [str(DRAW.choice(["red", "green", "blue"])) for _ in range(N)]
    assert (
        "split: {by"
        not in described(tmp_path, colour=few, size=DRAW.choice([1.5, 2.5, 3.5], N), b=NOISE[:, 1].round(1)).text()
    )


def test_too_few_groups_for_three_parts_are_not_proposed(tmp_path: Path) -> None:
    unequal = ["B0"] * 291 + [f"B{i}" for i in range(1, 10)]  # nine records are held out and validate together
    found = described(tmp_path, batch=unequal, a=NOISE[:, 0], b=NOISE[:, 1])
    assert "split:" not in found.text()


@pytest.mark.parametrize(
    ("name", "is_batch"),
    [("batch", True), ("Batch_ID", True), ("Charge Nr.", True), ("Auftragsnummer", True), ("coil", True), ("production order", True),
     ("Versuch 2", True), ("Lot_Frontage", False), ("slot", False), ("heat", False), ("border", False), ("Ladung", False)],
)  # fmt: skip
def test_names_of_batches(name: str, is_batch: bool) -> None:
    assert bool(BATCH_NAME.search(name)) is is_batch
