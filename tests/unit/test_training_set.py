"""The records of a training are known: by key or group, without those that were set apart, and as long as they are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.columns import ARRIVED, ID, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import ModelRefusedError, TrainingFailedError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.training.conformal import set_apart
from complex_system.training.data import SampleCollector, TrainingData
from complex_system.training.split import Part
from complex_system.training.training_set import (
    MAX_LISTED,
    RECORDS,
    TRAINING_SET,
    describe_training,
    read_training_set,
    rebuilt,
)
from trainings import QUICK, trainer

DECLARED = """
name: batches
target: y
{split}
columns:
  - {{name: batch, type: text, optional: true}}
  - {{name: a, type: number, range: [0, 1]}}
  - {{name: b, type: number, range: [0, 1]}}
  - {{name: y, type: number, optional: true}}
pipeline:
  - {{step: keep, column: a}}
  - {{step: keep, column: b}}
"""


def made(count: int) -> list[Record]:
    random = np.random.default_rng(3)
    return [
        {ID: f"r{i:05}", "batch": f"b{i % 400}", "a": float(a), "b": float(b), "y": float(y)}
        for i, (a, b, y) in enumerate(random.random((count, 3)))
    ]


def raw_of(records: Sequence[Record]) -> pa.Table:
    return pa.Table.from_pylist(list(records))


def training_data(dataset: Dataset, records: Sequence[Record], listed: int = MAX_LISTED) -> TrainingData:
    """As a trainer gets them, page by page."""
    collector = SampleCollector(dataset, [Part.TRAIN, Part.VALIDATION], timed=True, listed=listed)
    for start in range(0, len(records), 100):
        page = records[start : start + 100]
        table = Pipeline(dataset).process(page).to_arrow()
        table = table.append_column(raw_name("batch"), pa.array([each["batch"] for each in page]))
        collector.add(table.append_column(ARRIVED, pa.array([float(start + i) for i in range(len(page))])))
    return set_apart(dataset, collector.training_data())


@pytest.mark.parametrize("split", ["", "split: {by: group, group: [batch]}", "split: {by: time}"])
def test_the_data_of_a_training_are_made_again_in_their_order(split: str) -> None:
    dataset, records = Dataset.parse(DECLARED.format(split=split)), made(2000)
    data = training_data(dataset, records)
    lightgbm = trainer("lightgbm", replace(QUICK, lightgbm_trials=8)).tuned(data, None)
    assert lightgbm.searched["trials"] == 8
    model = lightgbm.fit(data, lambda _: None)
    described, listed = read_training_set(describe_training(lightgbm, dataset, data, model, None, None))
    assert described.calibration > 0, "they are not among the records of the training"
    assert described.records + described.calibration < 2000
    again = rebuilt(dataset, listed, raw_of([*reversed(records), *({**each, ID: f"new{each[ID]}"} for each in made(50))]))
    for part in ("train", "validation"):
        for axis in "xy":
            np.testing.assert_array_equal(getattr(getattr(again, part), axis), getattr(getattr(data, part), axis))
    assert described.new_trainer().searched == lightgbm.searched
    assert described.new_trainer().fit(again, lambda _: None).saved() == model.saved()

    used = set(listed.column(ID).to_pylist())
    others = [each for each in records if each[ID] not in used]
    assert (
        rebuilt(dataset, listed, raw_of([each for each in records if each not in others])).train.y.shape
        == data.train.y.shape
    )
    changed = [{**each, "a": 0.5} if each[ID] == listed.column(ID)[0].as_py() else each for each in records]
    with pytest.raises(TrainingFailedError, match="1 have other values now"):
        rebuilt(dataset, listed, raw_of(changed))
    with pytest.raises(TrainingFailedError, match=rf"of its {len(used)} records {len(used) - 7} are no longer there"):
        rebuilt(dataset, listed, raw_of([each for each in records if each[ID] in sorted(used)[:7]]))
    with pytest.raises(TrainingFailedError, match=rf"of its {len(used)} records {len(used)} are no longer there"):
        rebuilt(dataset, listed, raw_of(records[:1]).slice(1))


def test_of_too_many_records_the_digest_alone_is_kept() -> None:
    dataset = Dataset.parse(DECLARED.format(split=""))
    data, lightgbm = training_data(dataset, made(500), listed=300), trainer("lightgbm")
    files = describe_training(lightgbm, dataset, data, lightgbm.fit(data, lambda _: None), None, None)
    assert set(files) == {TRAINING_SET}
    with pytest.raises(ModelRefusedError, match=r"had \d+ records; keys are kept of at most 1000000"):
        read_training_set(files)


def test_a_list_that_does_not_match_its_digest_is_refused() -> None:
    dataset = Dataset.parse(DECLARED.format(split=""))
    lightgbm = trainer("lightgbm")
    one, two = (training_data(dataset, made(count)) for count in (400, 500))
    files = [
        describe_training(lightgbm, dataset, data, lightgbm.fit(data, lambda _: None), None, None) for data in (one, two)
    ]
    with pytest.raises(ModelRefusedError, match="does not match its digest"):
        read_training_set({**files[0], RECORDS: files[1][RECORDS]})
    with pytest.raises(ModelRefusedError, match="cannot be read"):
        read_training_set({**files[0], RECORDS: b"nothing"})
