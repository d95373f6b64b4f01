"""Splits by group and by time: the parts, the folds, and what a model has seen when the parts move."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import Dataset, Split
from complex_system.errors import DeclarationError, NotEnoughDataError
from complex_system.training.cross_validation import FewRecords, Keyed, balanced_fold_numbers
from complex_system.training.data import SampleCollector, Samples
from complex_system.training.grouping import (
    NO_PART,
    OriginCollector,
    Origins,
    Read,
    components,
    divide,
    group_hashes,
    parts_by_group,
    parts_by_time,
    seen_in,
    text_hash,
)
from complex_system.training.split import Part

DAY = 86_400.0
DECLARED = """
name: batches
target: y
{split}
columns:
  - {{name: batch, type: text, optional: true}}
  - {{name: furnace, type: integer, optional: true}}
  - {{name: a, type: number, range: [0, 1]}}
  - {{name: b, type: number, range: [0, 1]}}
  - {{name: y, type: number, optional: true}}
pipeline:
  - {{step: keep, column: a}}
  - {{step: keep, column: b}}
"""


def declared(split: str) -> Dataset:
    return Dataset.parse(DECLARED.format(split=split))


def page(
    batches: Sequence[object],
    times: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    rows: npt.NDArray[np.float64] | None = None,
) -> pa.Table:
    """A page of processed records with their raw columns and their arrival beside."""
    count = len(batches)
    rows = np.random.default_rng(seed).random((count, 3)) if rows is None else rows
    return pa.table(
        {
            "_id": [f"r{seed}-{i}" for i in range(count)],
            "y": rows[:, 2],
            "a": rows[:, 0],
            "b": rows[:, 1],
            raw_name("batch"): pa.array([None if each is None else str(each) for each in batches], pa.string()),
            raw_name("furnace"): pa.array([None] * count, pa.int64()),
            ARRIVED: np.arange(count, dtype=float) if times is None else np.asarray(times, dtype=float),
        }
    )


def hashes(names: Sequence[object]) -> npt.NDArray[np.uint64]:
    return np.array([text_hash(str(name)) for name in names], dtype=np.uint64)


def origins(groups: Sequence[object], times: npt.ArrayLike, arrived: npt.ArrayLike | None = None) -> Origins:
    made = np.asarray(times, dtype=float)
    return Origins(hashes(groups), made, made if arrived is None else np.asarray(arrived, dtype=float))


# The declaration


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ("split: {by: group}", r"split: by: group needs the columns that name a group, such as group: \[batch\]"),
        (
            "split: {by: group, group: [charge]}",
            "split, group, entry 1: names the unknown column 'charge'; the columns are batch",
        ),
        ("split: {by: group, group: [y]}", "the target 'y' must not name a group"),
        ("split: {by: group, group: [batch, batch]}", "names the column 'batch' twice"),
        ("split: {group: [batch]}", "group needs by: group"),
        ("split: {gap: 3}", "gap needs by: time"),
        ("split: {by: time, gap: soon}", "a number with one of s, min, h, d, w, such as 7 d; not 'soon'"),
        ("split: {by: tine}", r"must be one of key, group, time, not 'tine' \(did you mean 'time'\?\)"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_what_is_allowed(split: str, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        declared(split)


def test_splits_are_told_apart_by_their_rule_and_are_no_part_of_the_version() -> None:
    splits = [
        "", "split: {copies: apart}", "split: {by: group, group: [batch]}", "split: {by: group, group: [furnace]}",
        "split: {by: group, group: [batch, furnace]}", "split: {by: group, group: [batch], copies: apart}", "split: {by: time}",
        "split: {by: time, gap: 1 d}", "split: {by: time, gap: 2 d}", "split: {by: time, group: [batch]}",
    ]  # fmt: skip
    datasets = [declared(split) for split in splits]
    assert len({dataset.split_rule for dataset in datasets}) == len(splits)
    assert len({dataset.version for dataset in datasets}) == 1
    assert [dataset.split_rule for dataset in datasets[:3]] == ["content", "key", "group: batch"]
    assert declared("split: {by: group, group: [furnace, batch]}").split_rule == datasets[4].split_rule
    assert declared("split: {by: time, gap: 24 h}").split_rule == declared("split: {by: time, gap: 86400}").split_rule
    assert all(Dataset.restored(dataset.as_content()).split == dataset.split for dataset in datasets)
    long = [Split(by="group", group=tuple(f"column {i}" for i in range(count))) for count in (99, 100)]
    rules = [split.rule(copies_together=True, time="") for split in long]
    assert rules[0] != rules[1]
    assert max(map(len, rules)) < 600


def test_the_question_says_what_the_error_is_measured_for() -> None:
    assert declared("").split.question.startswith("a new sample of what is known")
    assert declared("split: {by: group, group: [batch]}").split.question == "a new batch"
    assert declared("split: {by: time}").split.question == "what comes after all that was trained on"
    week = declared("split: {by: time, gap: 1 w}").split.question
    assert week == "what comes at least 7 days after all that was trained on"


# Groups


def test_records_that_are_bound_through_others_are_one_component() -> None:
    groups, copies = hashes("aabbccdd"), hashes([0, 1, 1, 2, 3, 4, 5, 6])  # a and b have an equal record
    found = components(groups, copies)
    assert len(set(found[:4])) == 1
    assert len(set(found)) == 3
    assert found[0] == min(groups[:4])


def test_a_long_chain_of_groups_is_found_in_a_few_turns() -> None:
    """Each batch has the last record of the one before once more, as where samples are measured again when a batch begins."""
    draw = np.random.default_rng(2)
    names = draw.integers(0, 2**63, 20_000).astype(np.uint64)
    copies = draw.integers(0, 2**63, 60_000).astype(np.uint64)
    copies[3::3] = copies[2:-1:3]
    copies[30_000] = 1  # but for one
    began = time.thread_time()
    found = components(np.repeat(names, 3), copies)
    assert time.thread_time() - began < 5, "label by label it took minutes"
    assert set(found[:30_000]) == {names[:10_000].min()}
    assert set(found[30_000:]) == {names[10_000:].min()}


def test_a_group_is_known_by_its_values_on_every_machine() -> None:
    # Models out there were trained on this split.
    columns = [pa.chunked_array([["B1", "B2", None, None]]), pa.chunked_array([pa.array([1, 1, 1, None], pa.int64())])]
    found, missing = group_hashes(columns)
    assert f"{found[0]:016x}" == f"{text_hash('B1' + chr(31) + '1'):016x}" == "5b20513fe06caa7b"
    assert missing.tolist() == [False, False, False, True]
    assert len(set(found.tolist())) == 4


@pytest.mark.parametrize("seed", range(3))
def test_no_group_and_no_equal_records_are_in_two_parts_or_folds(seed: int) -> None:
    draw = np.random.default_rng(seed)
    dataset = declared("split: {by: group, group: [batch]}")
    batches = draw.integers(0, 60, 900)
    rows = draw.random((900, 3))
    again = draw.permutation(900)[:16]
    rows[again[:8]] = rows[again[8:]]  # equal records, mostly of other batches
    table = page(batches.tolist(), seed=seed, rows=rows)
    collector, few = SampleCollector(dataset, list(Part)), FewRecords(dataset, 2000)
    for start in range(0, 900, 130):
        collector.add(table.slice(start, 130))
        few.add(table.slice(start, 130))
    _, parts = collector.divided()

    def apart(one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> bool:
        same_batch = set(batches[one]) & set(batches[other])
        return not same_batch and not {row.tobytes() for row in rows[one]} & {row.tobytes() for row in rows[other]}

    places = [np.flatnonzero(parts == part) for part in Part]
    assert all(apart(places[i], places[j]) for i in range(3) for j in range(i))
    assert [len(collector.samples(part)) for part in Part] == [len(each) for each in places]
    assert np.array([len(each) for each in places]) / 900 == pytest.approx([0.70, 0.15, 0.15], abs=0.06)
    keyed = few.keyed()
    assert keyed is not None
    for folds in keyed.folds(2):
        assert sorted(np.concatenate([fold.scored for fold in folds]).tolist()) == list(range(900))
        assert all(apart(one, other) for fold in folds for one, other in [fold[:2], fold[1:], fold[::2]])
        assert max(len(fold.scored) for fold in folds) < 1.3 * min(len(fold.scored) for fold in folds)


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([50, 30, 20], None),
        ([600, *[50] * 8], (0.7, 0.15, 0.15)),
        ([20] * 5, (0.6, 0.2, 0.2)),
        ([1] * 7, (5 / 7, 1 / 7, 1 / 7)),
        ([60, 30, 10], (0.6, 0.3, 0.1)),
        ([5, 5], (1.0, 0.0, 0.0)),
    ],
)
def test_parts_have_their_shares_of_the_records_as_far_as_whole_groups_allow(
    sizes: list[int], shares: tuple[float, float, float] | None
) -> None:
    parts = parts_by_group(hashes(np.repeat(np.arange(len(sizes)), sizes).tolist()))
    found = np.bincount(parts, minlength=3) / len(parts)
    if shares is None:
        assert found[0] == found.max()  # the largest group is trained on
        assert found.min() > 0
    else:
        assert found == pytest.approx(shares)


def test_folds_of_groups_of_any_size_have_about_as_many_records() -> None:
    groups = [str(each) for each in np.repeat(np.arange(30), np.r_[120, [40] * 9, [11] * 20])]
    numbers = balanced_fold_numbers(groups, 5, 0)
    sizes = np.bincount(numbers)
    assert sizes.sum() == len(groups)
    assert sizes.max() - sizes.min() <= 20
    assert all(len(set(numbers[np.array(groups) == group])) == 1 for group in set(groups))
    assert numbers.tolist() != balanced_fold_numbers(groups, 5, 1).tolist()


def test_most_groups_stay_in_their_part_when_others_come() -> None:
    names = [f"batch {i}" for i in range(300)]
    before, after = (dict(zip(names[:n], parts_by_group(hashes(names[:n])).tolist(), strict=True)) for n in (200, 300))
    moved = sum(before[name] != after[name] for name in before)
    assert moved < 20


def test_a_record_without_a_group_is_one_of_its_own_and_is_counted() -> None:
    dataset = declared("split: {by: group, group: [batch, furnace], copies: apart}")
    collector = OriginCollector(dataset)
    assert collector.raw == ["batch", "furnace"]
    collector.add(page([None, None, "B1", "B1", None]))
    found = collector.found()
    assert found.ungrouped == 3
    assert len(set(found.bound.tolist())) == 4


@pytest.mark.parametrize(
    ("batches", "split", "why"),
    [
        (["B1"] * 40 + ["B2"] * 40, "split: {by: group, group: [batch]}",
         r"The holdout part has 0 labelled records.* 80 labelled records are of 2 groups \(batch\).* at least 3"),
        (["B1"] * 80, "split: {by: time, gap: 1000 d}",
         r"The train part has 0 labelled records.* of 80 different times, and a gap of 1000 days .* a smaller gap"),
    ],
)  # fmt: skip
def test_too_few_groups_or_times_are_said_so(batches: list[str], split: str, why: str) -> None:
    collector = SampleCollector(declared(split), list(Part))
    collector.add(page(batches, np.arange(80) * DAY))
    with pytest.raises(NotEnoughDataError, match=why):
        collector.samples(Part.TRAIN if "train" in why else Part.HOLDOUT)


# Time


@pytest.mark.parametrize("gap", [0.0, 3 * DAY])
def test_training_ends_before_the_hold_out_part_begins_with_the_gap_between(gap: float) -> None:
    draw = np.random.default_rng(1)
    times = draw.permutation(np.repeat(np.arange(100) * DAY, 4))  # four records a day, in any order
    found = origins(range(400), times)
    parts = parts_by_time(found, gap)
    ends = [(times[parts == part].min(), times[parts == part].max()) for part in Part]
    assert ends[0][1] + gap < ends[1][0]
    assert ends[1][1] + gap < ends[2][0]
    left_out = parts == NO_PART
    assert left_out.sum() == 2 * 4 * (gap / DAY)
    assert (parts == Part.HOLDOUT).mean() == pytest.approx(0.15, abs=0.01)
    assert all(len(set(parts[times == day])) == 1 for day in set(times))  # records of one time stay together


def test_a_later_copy_of_a_trained_record_decides_nothing() -> None:
    names = [f"r{i}" for i in range(100)]
    names[95] = names[10]
    names[40] = names[42]
    parts = parts_by_time(origins(names, np.arange(100)), 0.0)
    assert parts[95] == NO_PART
    assert parts[10] == parts[40] == parts[42] == Part.TRAIN
    assert (parts == NO_PART).sum() == 1


def test_records_of_one_time_alone_cannot_be_divided_by_it() -> None:
    collector = SampleCollector(declared("split: {by: time}"), list(Part))
    collector.add(page(["B"] * 50, np.zeros(50)))
    with pytest.raises(NotEnoughDataError, match="50 labelled records are of 1 different times: more records are needed"):
        collector.samples(Part.HOLDOUT)


@pytest.mark.parametrize("gap", [0.0, 2 * DAY])
def test_folds_roll_forward(gap: float) -> None:
    dataset = declared(f"split: {{by: time, gap: {gap}}}")
    few = FewRecords(dataset, 2000)
    times = np.random.default_rng(3).permutation(300) * DAY
    few.add(page(["B"] * 300, times))
    keyed = few.keyed()
    assert keyed is not None
    (folds,) = keyed.folds()
    assert len(folds) == 5
    for train, validation, scored in folds:
        assert times[train].max() + gap < times[validation].min()
        assert times[validation].max() + gap < times[scored].min()
        assert len(scored) == 30
    assert [times[fold.scored].min() for fold in folds] == [(150 + 30 * i) * DAY for i in range(5)]


def test_where_folds_would_be_empty_there_are_none() -> None:
    dataset = declared("split: {by: time, gap: 200 d}")
    few = FewRecords(dataset, 2000)
    few.add(page(["B"] * 300, np.arange(300) * DAY))
    assert few.keyed() is None
    few = FewRecords(declared("split: {by: group, group: [batch]}"), 2000)
    few.add(page(list("ABCD") * 30))
    assert few.keyed() is None


def test_a_collector_takes_what_is_newest_by_time() -> None:
    dataset = declared("split: {by: time}")
    collector = SampleCollector(dataset, [Part.HOLDOUT], newest=5)
    assert collector.raw == []
    times = np.random.default_rng(4).permutation(100).astype(float)
    table = page(["B"] * 100, times)
    collector.add(table)
    samples = collector.samples(Part.HOLDOUT)
    assert samples.times is not None
    assert sorted(samples.times) == [95, 96, 97, 98, 99]
    assert samples.y.tolist() == table.column("y").to_numpy()[np.isin(times, samples.times)].astype(np.float32).tolist()


# When the parts move


@pytest.mark.parametrize("split", [Split(by="group", group=("batch",)), Split(by="time")])
def test_what_a_model_has_seen_is_known_when_the_parts_move(split: Split) -> None:
    draw = np.random.default_rng(7)
    arrived = np.arange(600, dtype=float)
    times = arrived + draw.normal(0, 40, 600)  # some come late
    everything = origins((np.arange(600) // 10).tolist() if split.by == "group" else range(600), times, arrived)
    parts = divide(split, everything)
    seen = seen_in(split, everything, Read(399.0))
    then = divide(split, everything.of(arrived <= 399))
    trained = np.flatnonzero((then == Part.TRAIN) | (then == Part.VALIDATION))
    assert set(trained) <= set(np.flatnonzero(seen))
    assert not set(np.flatnonzero(then == Part.HOLDOUT)) & set(np.flatnonzero(seen))
    unseen = (parts == Part.HOLDOUT) & ~seen
    assert unseen.sum() > 0.5 * (parts == Part.HOLDOUT).sum()
    assert not seen_in(split, everything, Read(-1.0)).any()


def test_labels_of_old_records_that_come_later_hide_nothing_that_a_model_was_trained_on() -> None:
    """The older half has got its labels since: a division of all that had arrived cuts earlier than the training did."""
    dataset, times = declared("split: {by: time}"), np.arange(2000.0)
    trained = SampleCollector(dataset, [Part.TRAIN, Part.VALIDATION])
    trained.add(page(["B"] * 900, times[1000:1900]))
    data = trained.training_data()
    assert (data.arrived, data.until) == (1899.0, 1764.0)
    everything = origins(range(2000), times)
    held_out = divide(dataset.split, everything) == Part.HOLDOUT
    really = (times >= 1000) & (times <= 1764)
    by_arrival = seen_in(dataset.split, everything, Read(data.arrived))
    assert (held_out & really & ~by_arrival).sum() == 65
    seen = seen_in(dataset.split, everything, Read(data.arrived, data.until))
    assert not (held_out & really & ~seen).any()
    assert (held_out & ~seen).sum() == 235


def test_keys_of_a_part_are_sampled_evenly() -> None:
    dataset = declared("split: {by: time}")
    collector = SampleCollector(dataset, [Part.TRAIN], keys=20)
    for seed in range(5):
        collector.add(page(["B"] * 400, np.arange(400) + 400.0 * seed, seed=seed))
    found = collector.keys(Part.TRAIN)
    assert len(set(found)) == 20
    assert {key[:2] for key in found} <= {"r0", "r1", "r2", "r3"}  # the last fifth validates or is held out
    held_out = collector.keys(Part.HOLDOUT)
    assert len(held_out) == 20
    assert {key[:2] for key in held_out} == {"r4"}


def test_keyed_records_of_a_split_by_key_have_the_folds_that_they_had() -> None:
    # Cross-validations of models out there are compared by these folds.
    groups = tuple(f"r{i}" for i in range(30))
    keyed = Keyed(groups, Samples(np.arange(30, dtype=np.float32)[:, None], np.arange(30, dtype=np.float32)))
    assert keyed.digest == "85c9378e6450a05e"
    first = keyed.folds()[0][0]
    assert first.scored.tolist() == [11, 14, 17, 23, 26, 29]
    assert first.validation.tolist() == [4, 8, 16, 20, 25]
