"""Labels that look wrong: found before a training, named with their keys, and used all the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.protocol.labels import SuspectTargets
from complex_system.training.targets import NAMED, TargetCheck, targets_message
from samples import processed_page

PLANT = """
name: plant
target: y
columns:
  - {{name: x, type: number, range: [0, 1]}}
  - {{name: y, type: number, optional: true{options}}}
pipeline: [{{step: scale, column: x}}]
"""


def check(values: np.ndarray, options: str = "", pages: int = 4) -> SuspectTargets:
    """What is found in labels that come in pages."""
    found = TargetCheck(Dataset.parse(PLANT.format(options=options)))
    for part in np.array_split(np.arange(len(values)), pages):
        found.add(pa.table({"_id": [f"k{i}" for i in part], "y": values[part].astype(float)}))
    return found.found()


def test_slips_codes_and_values_outside_are_named_with_their_keys() -> None:
    y = np.random.default_rng(1).normal(50, 5, 2000)
    y[700] *= 10
    y[[9, 1010, 1911]] = -9999
    y[1999], y[50] = 76.0, -40.0
    found = check(y, ", range: [20, 75], outside: warn")
    assert (found.records, found.count, found.target) == (2000, 6, "y")
    by_key = {each.id: each for each in found.named}
    assert set(by_key) == {"k9", "k1010", "k1911", "k700", "k50", "k1999"}
    assert "as a code for 'no value' is" in by_key["k1010"].why
    assert f"{y[700] / 10:g} would fit: a misplaced decimal sign?" in by_key["k700"].why
    assert by_key["k50"].why.startswith("outside of the range [20, 75], ")
    assert by_key["k1999"].why == "outside of the range [20, 75]"
    message = targets_message(found)
    assert message.startswith("6 of 2000 labels look wrong: -9999 of record k9 (")
    assert message.endswith(
        "; and 1 more. All are used: correct them, or declare missing_values or a narrower range for 'y'."
    )


@pytest.mark.parametrize("name", ["normal", "lognormal", "uniform", "grades", "lab", "few"])
def test_labels_without_fault_are_not_named(name: str) -> None:
    random = np.random.default_rng(2)
    values = {
        "normal": lambda: random.normal(50, 5, 2000), "lognormal": lambda: random.lognormal(3, 1, 2000),
        "uniform": lambda: random.uniform(0, 1, 2000), "grades": lambda: random.integers(1, 9, 2000),
        "lab": lambda: processed_page(1, 2000).table.column(Dataset.load().target).to_numpy(),
        "few": lambda: np.array([1.0, 2.0, 3.0, 1000.0]),
    }[name]()  # fmt: skip
    found = check(values)
    assert (found.count, targets_message(found)) == (0, "")


def test_no_more_are_named_than_a_message_can_hold() -> None:
    y = np.random.default_rng(3).normal(50, 5, 5000)
    y[:60] = 500 + np.arange(60)
    found = check(y)
    assert (found.count, len(found.named)) == (60, NAMED)
    assert found.named[0].value == 559
