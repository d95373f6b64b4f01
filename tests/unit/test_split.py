"""The one split of the records, and the samples that trainers get."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.errors import NotEnoughDataError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.training.data import Part, SampleCollector, parts_of


def processed(dataset: Dataset, count: int) -> pa.Table:
    """Labelled processed lab records."""
    raw = pa.Table.from_pylist(list(Laboratory(11).records(count)), schema=raw_schema(dataset))
    frame, rejections = Pipeline(dataset).split(raw)
    assert not rejections
    table = frame.to_arrow()
    return table.filter(table.column(dataset.target).is_valid())


def test_known_keys_stay_where_they_are() -> None:
    # Models out there were trained on this split. CRC-32 of the key, modulo 100: below 70 train, below 85 validation.
    keys = ["a", "b", "e", "0", "1", "00000000-0000-7000-8000-000000000000", "straße"]
    assert parts_of(keys).tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert parts_of([]).tolist() == []


def test_the_shares_are_70_15_15() -> None:
    keys = [record["_id"] for record in Laboratory(2).records(20_000)]
    shares = np.bincount(parts_of(keys), minlength=3) / len(keys)
    assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.01)


def test_the_collector_gives_each_part_its_rows_in_order(dataset: Dataset) -> None:
    table = processed(dataset, 1000)
    collector = SampleCollector(dataset, list(Part))
    assert collector.columns == list(dataset.processed_names)
    for start in range(0, table.num_rows, 100):
        collector.add(table.slice(start, 100))
    assert collector.count() == table.num_rows
    parts = parts_of(table.column("_id").to_pylist())
    for part in Part:
        samples = collector.samples(part)
        chosen = table.filter(pa.array(parts == part))
        assert len(samples) == chosen.num_rows
        assert samples.x.dtype == samples.y.dtype == np.float32
        assert samples.y.tolist() == chosen.column(dataset.target).to_numpy().astype(np.float32).tolist()
        for i, name in enumerate(dataset.feature_names):
            assert samples.x[:, i].tolist() == chosen.column(name).to_numpy().astype(np.float32).tolist()


def test_samples_that_were_given_out_stay_when_more_come(dataset: Dataset) -> None:
    table = processed(dataset, 1000)
    collector = SampleCollector(dataset, [Part.TRAIN])
    collector.add(table.slice(0, 100))
    first = collector.samples(Part.TRAIN)
    x, y = first.x.copy(), first.y.copy()
    collector.add(table.slice(100))
    whole = collector.samples(Part.TRAIN)
    assert len(whole) > len(first) == len(x)
    np.testing.assert_array_equal(first.x, x)
    np.testing.assert_array_equal(whole.x[: len(x)], x)
    np.testing.assert_array_equal(whole.y[: len(y)], y)


def test_collecting_holds_one_matrix_and_a_page(dataset: Dataset) -> None:
    page = processed(dataset, 4000)
    collector = SampleCollector(dataset, [Part.TRAIN])
    tracemalloc.start()
    try:
        for _ in range(40):
            collector.add(page)
        samples = collector.samples(Part.TRAIN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # By the quarter that it grows, and what a page needs; pages or a list of their samples would double it.
    assert peak < 1.3 * (samples.x.nbytes + samples.y.nbytes) + 2 * page.nbytes


def test_a_trainer_never_sees_the_hold_out_part(dataset: Dataset) -> None:
    table = processed(dataset, 1000)
    collector = SampleCollector(dataset, [Part.TRAIN, Part.VALIDATION])
    collector.add(table)
    data = collector.training_data()
    assert data.feature_names == dataset.feature_names
    assert data.target == dataset.target
    holdout = int((parts_of(table.column("_id").to_pylist()) == Part.HOLDOUT).sum())
    assert holdout > 0
    assert len(data.train) + len(data.validation) == table.num_rows - holdout


def test_too_few_samples_are_said_so(dataset: Dataset) -> None:
    collector = SampleCollector(dataset, [Part.TRAIN, Part.VALIDATION])
    with pytest.raises(NotEnoughDataError, match="train part has 0 labelled records"):
        collector.training_data()


@pytest.mark.parametrize("newest", [20, 50, 100_000])
def test_of_each_part_the_newest_samples_are_kept(dataset: Dataset, newest: int) -> None:
    table = processed(dataset, 1000)
    everything, bounded = SampleCollector(dataset, list(Part)), SampleCollector(dataset, list(Part), newest)
    for start in range(0, table.num_rows, 90):
        everything.add(table.slice(start, 90))
        bounded.add(table.slice(start, 90))
    for part in Part:
        expected, kept = everything.samples(part), bounded.samples(part)
        assert kept.y.tolist() == expected.y[-newest:].tolist()
        assert kept.x.tolist() == expected.x[-newest:].tolist()
    assert newest > 1000 or bounded.count() < everything.count(), "what is older does not stay in memory"
