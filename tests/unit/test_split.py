"""The one split of the records, and the samples that trainers get."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.columns import ARRIVED
from complex_system.domain.dataset import Dataset, Split
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.errors import DeclarationError, NotEnoughDataError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.storage.envelope import content_hash
from complex_system.training.base import score
from complex_system.training.cross_validation import FewRecords, TrainerFit, cross_validate, fold_numbers
from complex_system.training.data import SampleCollector, _Rows
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.split import Copies, CopyCount, Part, contents_of, groups_of, parts_of


def processed(dataset: Dataset, count: int) -> pa.Table:
    """Labelled processed lab records."""
    raw = pa.Table.from_pylist(list(Laboratory(11).records(count)), schema=raw_schema(dataset))
    frame, rejections = Pipeline(dataset).split(raw)
    assert not rejections
    table = frame.to_arrow()
    return table.filter(table.column(dataset.target).is_valid())


def test_known_keys_stay_where_they_are() -> None:
    # Models out there were trained on this split. CRC-32 of the group, modulo 100: below 70 train, below 85 validation.
    keys = ["a", "b", "e", "0", "1", "00000000-0000-7000-8000-000000000000", "straße"]
    assert parts_of(keys).tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert parts_of([]).tolist() == []


def test_known_contents_stay_where_they_are() -> None:
    # The hash of the values as float32, for the same reason; -0.0 is 0.0.
    columns = [np.array([0.0, -0.0, 1.5, 1.5]), np.array([7.0, 7.0, -3.25, 2.0])]
    found = [f"{content:016x}" for content in contents_of(columns, 4).tolist()]
    assert found == ["f3cdba6587ca03fc", "f3cdba6587ca03fc", "6a874a3aaa4b7b4c", "2352e45503cf0e03"]
    assert contents_of([column.astype(np.float32) for column in columns], 4).tolist() == [int(each, 16) for each in found]


NOISE = Dataset.parse("""
name: noise
target: y
columns:
  - {name: a, type: number, range: [0, 1]}
  - {name: b, type: number, range: [0, 1]}
  - {name: y, type: number}
pipeline:
  - {step: keep, column: a}
  - {step: keep, column: b}
""")


def three_times(seed: int) -> pa.Table:
    """200 records of noise, each there three times under keys of their own, in any order."""
    draw = np.random.default_rng(seed)
    rows = np.repeat(draw.random((200, 3)).round(4), 3, axis=0)[draw.permutation(600)]
    return pa.table({"_id": [f"r{i}" for i in range(600)], "y": rows[:, 2], "a": rows[:, 0], "b": rows[:, 1]})


@pytest.mark.parametrize("seed", range(3))
def test_noise_that_is_there_three_times_is_not_predictable(seed: int) -> None:
    table = three_times(seed)
    collector = SampleCollector(NOISE, list(Part))
    for start in range(0, 600, 70):
        collector.add(table.slice(start, 70))
    seen = {part: {row.tobytes() for row in collector.samples(part).x} for part in Part}
    assert not seen[Part.TRAIN] & seen[Part.VALIDATION]
    assert not (seen[Part.TRAIN] | seen[Part.VALIDATION]) & seen[Part.HOLDOUT]
    data, holdout = collector.training_data(), collector.samples(Part.HOLDOUT)
    assert (data.copies, data.split) == (400, "content")
    assert collector.copies.found() == Copies(600, 400, by_chance=False, together=True)
    assert len(holdout.without_copies()) * 3 == len(holdout)
    model = LightGBMTrainer().fit(data, lambda _: None)
    assert score(holdout.y, model.predict(holdout.x)).r2 < 0.1
    few = FewRecords(NOISE, 1000)
    few.add(table)
    keyed = few.keyed()
    assert keyed is not None
    folds = fold_numbers(keyed.groups, 5, 0)
    assert all(len(set(folds[np.array(keyed.groups) == group])) == 1 for group in set(keyed.groups))
    crossed = cross_validate(TrainerFit.of(LightGBMTrainer(), data), keyed)
    assert crossed.r2 < 0.1


def test_a_score_by_keys_alone_is_that_of_memory() -> None:
    """What the declared split is for: apart, the same noise looks predictable."""
    apart = NOISE.copy(update={"split": Split(copies="apart")})
    collector = SampleCollector(apart, list(Part))
    collector.add(three_times(0))
    model = LightGBMTrainer().fit(collector.training_data(), lambda _: None)
    holdout = collector.samples(Part.HOLDOUT)
    assert score(holdout.y, model.predict(holdout.x)).r2 > 0.3


TRIALS = Dataset.parse(
    """
name: trials
target: [grade, yield]
columns:
  - {name: number, type: integer}
  - {name: remark, type: text, optional: true}
  - {name: temperature, type: number, range: [0, 300]}
  - {name: pressure, type: number, range: [0, 5]}
  - {name: grade, type: number, optional: true}
  - {name: yield, type: number, optional: true}
pipeline:
  - {step: scale, column: temperature}
  - {step: scale, column: pressure}
  - {step: drop, columns: [number, remark]}
""",
    target="grade",
)


def trial(number: int, grade: float, temperature: float = 200.0, **more: object) -> Record:
    values = {"_id": f"r{number}", "number": number, "temperature": temperature, "pressure": 2.0, "grade": grade}
    return {**dict.fromkeys(("remark", "yield")), **values, **more}


def groups(records: list[Record]) -> list[str]:
    return groups_of(TRIALS, Pipeline(TRIALS).process(records).to_arrow())


def test_a_record_stays_in_its_part_when_other_values_come_later_and_row_numbers_make_no_difference() -> None:
    """Why the group is not the hash of the raw content that the database keeps: it changes with both."""
    early = [trial(1, 3.5), trial(2, 4.25)]
    late = [{**early[0], "yield": 0.9}, {**early[1], "remark": "checked"}]
    assert groups(early) == groups(late)
    digest = content_hash(TRIALS)
    assert all(digest(before) != digest(after) for before, after in zip(early, late, strict=True))
    again = trial(7, 3.5)  # the same row in an export that was appended, counted on
    assert groups([again]) == groups(early[:1])
    assert digest(again) != digest(early[0])


def settings_and_grades(count: int, seed: int = 1) -> pa.Table:
    """A plan of trials: four settings, whole grades."""
    draw = np.random.default_rng(seed)
    temperatures = draw.choice([150.0, 180.0, 210.0, 240.0], count)
    grades = np.round(temperatures / 50 + draw.normal(0, 1.5, count))
    records = [trial(i, float(grade), float(t)) for i, (t, grade) in enumerate(zip(temperatures, grades, strict=True))]
    return Pipeline(TRIALS).process(records).to_arrow()


def found(dataset: Dataset, *tables: pa.Table) -> Copies:
    count = CopyCount(dataset)
    for table in tables:
        count.add(table)
    return count.found()


def test_measurements_that_come_out_alike_are_told_from_copies() -> None:
    assert found(NOISE) == Copies()
    assert not found(NOISE, three_times(1)).by_chance
    alike = found(TRIALS, settings_and_grades(200), settings_and_grades(200, 2))
    assert alike.by_chance
    assert 340 < alike.count < 380
    # Copies, also beside very many records of one setting with targets of their own.
    draw = np.random.default_rng(1)
    usual = pa.table(
        {"_id": [f"s{i}" for i in range(900)], "y": draw.random(900), "a": np.full(900, 0.5), "b": np.full(900, 0.5)}
    )
    assert found(NOISE, three_times(1), usual) == Copies(1500, 400)


def test_where_alike_records_leave_a_part_empty_it_is_said_what_to_declare() -> None:
    first = settings_and_grades(1)
    collector = SampleCollector(TRIALS, list(Part))
    for _ in range(60):
        collector.add(first)
    empty = next(part for part in Part if part != parts_of(groups_of(TRIALS, first))[0])
    with pytest.raises(
        NotEnoughDataError, match=r"59 of 60 labelled records have the same .* declare split: {copies: apart}"
    ):
        collector.samples(empty)


def test_equal_records_of_categories_are_no_copies_unless_it_is_declared(dataset: Dataset) -> None:
    text = """
name: plan
target: grade
{split}
columns:
  - {name: oven, type: category, categories: [A, B]}
  - {name: wet, type: boolean}
  - {name: grade, type: number}
pipeline:
  - {step: one_hot, column: oven}
  - {step: keep, column: wet}
"""
    plain, declared = (Dataset.parse(text.replace("{split}", split)) for split in ("", "split: {copies: together}"))
    assert (plain.split_rule, declared.split_rule, dataset.split_rule, NOISE.split_rule) == (
        "key",
        "content",
        "content",
        "content",
    )
    assert plain.version == declared.version  # the records are processed in the same way
    assert "split" not in plain.as_content()
    assert Dataset.restored(declared.as_content()).split_rule == "content"
    with pytest.raises(DeclarationError, match="line 4, split, copies: must be one of together, apart"):
        Dataset.parse(text.replace("{split}", "split: {copies: twice}"))


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
    parts = parts_of(groups_of(dataset, table))
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
    holdout = int((parts_of(groups_of(dataset, table)) == Part.HOLDOUT).sum())
    assert holdout > 0
    assert len(data.train) + len(data.validation) == table.num_rows - holdout


def test_too_few_samples_are_said_so(dataset: Dataset) -> None:
    collector = SampleCollector(dataset, [Part.TRAIN, Part.VALIDATION])
    with pytest.raises(NotEnoughDataError, match="train part has 0 labelled records"):
        collector.training_data()


@pytest.mark.parametrize("newest", [20, 50, 100_000])
@pytest.mark.parametrize("order", ["as they came", "the other way round", "any", "all at once"])
def test_of_each_part_the_newest_samples_are_kept_whatever_their_keys(dataset: Dataset, newest: int, order: str) -> None:
    table = processed(dataset, 1000)
    arrived = np.arange(table.num_rows, dtype=np.float64)
    if order != "as they came":
        arrived = {"the other way round": arrived[::-1], "all at once": 0 * arrived}.get(
            order, np.random.default_rng(3).permutation(arrived)
        )
    table = table.append_column(ARRIVED, pa.array(arrived))
    everything, bounded = SampleCollector(dataset, list(Part)), SampleCollector(dataset, list(Part), newest)
    assert (everything.raw, bounded.raw) == (None, [])
    for start in range(0, table.num_rows, 90):
        everything.add(table.slice(start, 90))
        bounded.add(table.slice(start, 90))
    parts = parts_of(groups_of(dataset, table))
    for part in Part:
        expected, kept = everything.samples(part), bounded.samples(part)
        latest = np.sort(np.argsort(arrived[parts == part], kind="stable")[-newest:])
        assert kept.y.tolist() == expected.y[latest].tolist()
        assert kept.x.tolist() == expected.x[latest].tolist()
    assert newest > 1000 or bounded.count() < everything.count(), "what is older does not stay in memory"


def test_times_are_collected_without_a_copy_of_all_of_them_for_every_page() -> None:
    """4 million records: 20 s of nothing but copies of their times, if each page made one."""
    page = pa.table({"_id": ["r"] * 5000, "y": np.random.default_rng(1).random(5000), "a": np.zeros(5000), "b": np.zeros(5000),
                     ARRIVED: np.arange(5000.0)})  # fmt: skip
    parts = parts_of(groups_of(NOISE, page))
    rows = _Rows(2, timed=True)
    began = time.thread_time()
    columns, times = [page.column(name).to_numpy() for name in ("a", "b")], page.column(ARRIVED).to_numpy()
    chosen = np.flatnonzero(parts == Part.TRAIN)
    for number in range(1000):
        rows.add(columns, page.column("y").to_numpy(), chosen, times + 5000 * number)
    assert time.thread_time() - began < 4
    samples = rows.samples()
    assert samples.times is not None
    assert len(samples) == len(samples.times) == 1000 * len(chosen)
    assert samples.times[-1] == 4_995_000 + chosen[-1]
    assert rows.samples().times is not None, "again, although the memory is shared"
    rows.add(columns, page.column("y").to_numpy(), chosen, times)
    assert len(samples.times) == len(rows.samples()) - len(chosen)
