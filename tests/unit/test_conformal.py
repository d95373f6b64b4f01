"""Intervals: equal to those of crepes, cover what they say on simulated data, and nothing that calibrates them is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from crepes import ConformalRegressor

from complex_system.domain.dataset import Dataset
from complex_system.errors import InvalidRequestError, ModelRefusedError
from complex_system.evaluation.baselines import for_folds
from complex_system.training.conformal import (
    INTERVALS_FILE,
    Intervals,
    are_calibration,
    interval_files,
    intervals_of,
    set_apart,
)
from complex_system.training.cross_validation import Keyed, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import fit_linear
from samples import lab_samples

DECLARED = """
name: t
target: y
{split}
columns:
  - {{name: g, type: text, optional: true}}
  - {{name: at, type: datetime, optional: true}}
  - {{name: a, type: number, range: [0, 1]}}
  - {{name: y, type: number, optional: true}}
pipeline: [{{step: keep, column: a}}]
"""


def declared(split: str = "") -> Dataset:
    return Dataset.parse(DECLARED.format(split=split))


def noisy(seed: int, size: int, groups: npt.NDArray[np.uint64] | None = None) -> Samples:
    """A linear function of two features with noise of unequal width; with groups, most of the noise is theirs."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, (size, 2)).astype(np.float32)
    noise = random.normal(0, 0.2 + x[:, 1])
    if groups is not None:
        names, numbers = np.unique(groups, return_inverse=True)
        noise = random.normal(0, 1, len(names))[numbers] + 0.2 * noise
    return Samples(x, (3 * x[:, 0] + noise).astype(np.float32), groups)


def data_of(train: Samples, validation: Samples | None = None) -> TrainingData:
    return TrainingData(("a", "b"), "y", train, validation or noisy(99, 20))


def covered(intervals: Intervals, errors: npt.NDArray[np.float32], level: float = 0.9) -> float:
    return float(np.mean(np.abs(errors) <= intervals.half_width(level)))


@pytest.mark.parametrize("size", [13, 57, 333, 1000])  # crepes rounds (1 - level) (n + 1) in binary where it is whole
def test_half_widths_are_those_of_crepes_and_the_largest_level_is_told(size: int) -> None:
    errors = np.random.default_rng(size).standard_t(3, size)
    found, oracle = intervals_of(errors, None, "calibration records"), ConformalRegressor().fit(errors)
    for level in (0.5, 0.8, 0.9, 0.95, 0.99):
        if level <= size / (size + 1):
            low, high = oracle.predict_int(np.zeros(1), confidence=level)[0]
            assert (-low, high) == pytest.approx((found.half_width(level), found.half_width(level)), rel=1e-5)
        else:
            with pytest.raises(InvalidRequestError, match=rf"known of {size} records, which allows at most 0\.\d+\.$"):
                found.half_width(level)
    assert found.largest == pytest.approx(size / (size + 1))


@pytest.mark.parametrize("level", [0, 1, -0.1, 90, float("nan")])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"probability between 0 and 1, such as 0\.9, not"):
        intervals_of(np.arange(100.0), None, "calibration records").half_width(level)


def test_the_file_holds_them_and_another_one_is_refused() -> None:
    found = intervals_of(np.random.default_rng(1).normal(0, 1, 30_000), None, "calibration records")
    assert len(found.levels) == 2000, "of many errors an even choice"
    assert Intervals.decoded(found.encoded()) == found
    assert found.half_width(0.9) == pytest.approx(1.645, abs=0.03)
    for content in (
        b"{",
        b'{"method": "calibration records"}',
        found.encoded().replace(b'"half_widths":[', b'"half_widths":[9,'),
    ):
        with pytest.raises(ModelRefusedError, match=r"intervals\.json cannot be read"):
            Intervals.decoded(content)


def test_records_of_their_own_cover_what_is_said() -> None:
    dataset, shares = declared(), []
    for seed in range(40):
        data = set_apart(dataset, data_of(noisy(seed, 1500), noisy(500 + seed, 300)))
        predict, later = fit_linear(data.train), noisy(1000 + seed, 2000)
        found = Intervals.decoded(interval_files(dataset, predict, data, None)[INTERVALS_FILE])
        assert (found.method, found.records) == ("calibration records", found.units)
        assert 70 < found.units < 150
        shares.append(covered(found, predict(later.x) - later.y))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)
    assert min(shares) > 0.75


def test_errors_of_a_cross_validation_cover_what_is_said() -> None:
    shares = []
    for seed in range(40):
        records = noisy(seed, 120)
        crossed = out_of_fold(for_folds(fit_linear), Keyed(tuple(f"k{i}" for i in range(120)), records))
        assert crossed.errors.shape == (2, 120)
        predict, later = fit_linear(records.of(np.arange(84))), noisy(1000 + seed, 2000)
        found = Intervals.decoded(interval_files(declared(), predict, data_of(records), crossed)[INTERVALS_FILE])
        assert (found.method, found.records, found.units) == ("cross-validation", 120, 120)
        shares.append(covered(found, predict(later.x) - later.y))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_groups_count_once_each_however_many_records_they_have() -> None:
    """The truth of a record of a new group lies within, also where few groups have most of the records."""
    within: list[float] = []
    plain: list[float] = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        sizes = np.concatenate([random.integers(1, 4, 18), [200, 300]])
        groups = np.repeat(np.arange(20), sizes)
        errors = random.normal(0, 1, 20)[groups] + random.normal(0, 0.1, len(groups))
        later = random.normal(0, 1, 500) + random.normal(0, 0.1, 500)
        by_group = intervals_of(errors, groups, "calibration records")
        assert (by_group.units, by_group.largest) == (20, pytest.approx(20 / 21))
        within.append(covered(by_group, later))
        plain.append(covered(intervals_of(errors, None, "calibration records"), later))
    assert 0.89 < np.mean(within) < 0.94
    assert np.mean(plain) < 0.8, "what groups are for"
    with pytest.raises(InvalidRequestError, match="of 20 groups, which allows at most 0.9523"):
        by_group.half_width(0.99)


def rows(samples: Samples) -> set[bytes]:
    return {row.tobytes() for row in samples.x}


@pytest.mark.parametrize(("size", "wanted"), [(300, 21), (3000, 214), (30_000, 900)])
def test_what_is_set_apart_is_trained_on_by_nobody_and_the_same_for_all(size: int, wanted: int) -> None:
    train, validation = noisy(1, size), noisy(2, size * 15 // 70)
    data = set_apart(declared(), data_of(train, validation))
    assert data.calibration is not None
    assert abs(len(data.calibration) - wanted) <= 4 * wanted**0.5
    assert len(data.calibration) <= 1000
    assert len(data.train) + len(data.calibration) == size
    assert not rows(data.calibration) & rows(data.train)
    assert data.validation is validation
    shuffled = set_apart(declared(), data_of(train.of(np.random.default_rng(3).permutation(size)), validation))
    assert shuffled.calibration is not None
    assert rows(shuffled.calibration) == rows(data.calibration)


@pytest.mark.parametrize("copies", ["together", "apart"])
@pytest.mark.parametrize("share", [0.2, 0.01])
def test_a_sample_of_the_records_has_those_apart_that_nobody_has_trained_on(copies: str, share: float) -> None:
    """Also where the sample is so small that its own share of them would be too few to calibrate with."""
    dataset, size, labelled = declared(f"split: {{copies: {copies}}}"), 140_000, 200_000
    random = np.random.default_rng(1)
    x = random.uniform(0, 1, (size, 1)).astype(np.float32)
    whole = Samples(x, random.choice(x[:, 0], size) if copies == "apart" else x[:, 0])
    validation = Samples(x[:1000] + 2, whole.y[:1000])
    apart = set_apart(dataset, data_of(whole, validation), labelled).calibration
    assert apart is not None
    page = pa.table({"a": x[:, 0].astype(np.float64), "y": whole.y.astype(np.float64)})
    drawn = (random.random(size) < share) | are_calibration(dataset, page, labelled)
    sample = set_apart(dataset, data_of(whole.of(np.flatnonzero(drawn)), validation), labelled, sample=True)
    assert sample.calibration is not None
    assert sorted(rows(sample.calibration)) == sorted(rows(apart))
    assert len(sample.train) == pytest.approx(share * size, rel=0.1)
    newer = set_apart(dataset, data_of(whole.of(np.flatnonzero(drawn)), validation), 210_000, sample=True)
    assert newer.calibration is not None
    assert rows(newer.calibration) < rows(apart)


def test_too_few_records_are_all_trained_on_and_without_intervals() -> None:
    data = data_of(noisy(1, 50))
    assert set_apart(declared(), data) is data
    assert interval_files(declared(), fit_linear(data.train), data, None) == {}


def test_copies_are_set_apart_together_and_measurements_of_their_own_one_by_one() -> None:
    coarse = noisy(1, 2000)
    samples = Samples(np.round(coarse.x * 10), np.round(coarse.y))
    together = set_apart(declared(), data_of(samples))
    assert together.calibration is not None
    contents = [{(*row, y) for row, y in zip(part.x.tolist(), part.y.tolist(), strict=True)}
                for part in (together.train, together.calibration)]  # fmt: skip
    assert not contents[0] & contents[1]
    alone = set_apart(declared("split: {copies: apart}"), data_of(samples))
    assert alone.calibration is not None
    assert len(alone.calibration) == pytest.approx(2000 * 0.05 / 0.7, abs=40)
    file = interval_files(declared("split: {copies: apart}"), fit_linear(alone.train), alone, None)[INTERVALS_FILE]
    assert Intervals.decoded(file).units == len(alone.calibration)


def group_hashes(sizes: Sequence[int]) -> npt.NDArray[np.uint64]:
    names = np.random.default_rng(5).integers(0, 2**63, len(sizes), dtype=np.uint64)
    return np.repeat(np.sort(names), sizes)


def test_whole_groups_are_set_apart_and_enough_of_them() -> None:
    dataset = declared("split: {by: group, group: [g]}")
    data = set_apart(dataset, data_of(noisy(1, 2000, group_hashes([10] * 200))))
    assert data.calibration is not None
    assert data.calibration.groups is not None
    assert data.train.groups is not None
    assert not set(data.calibration.groups.tolist()) & set(data.train.groups.tolist())
    assert len(np.unique(data.calibration.groups)) == 19, "for 95 %, although 5 % of the records are fewer"
    few = data_of(noisy(1, 2000, group_hashes([100] * 20)))
    assert set_apart(dataset, few) is few, "an interval of less than 90 % is not worth so many records"


def test_by_time_the_newest_of_the_validation_part_are_set_apart() -> None:
    train, validation = noisy(1, 1400), noisy(2, 300)
    timed = []
    for first, part in ((0.0, train), (2000.0, validation)):
        places = np.random.default_rng(1).permutation(len(part))
        timed.append(Samples(part.x, part.y, places.astype(np.uint64), first + places))
    data = set_apart(declared("split: {by: time}"), data_of(*timed))
    assert data.calibration is not None
    assert data.calibration.times is not None
    assert data.validation.times is not None
    assert data.train is timed[0]
    assert (len(data.calibration), len(data.validation)) == (100, 200)  # 5 of 15 %
    assert data.calibration.times.min() > data.validation.times.max()


def test_the_laboratory_is_covered() -> None:
    dataset = Dataset.load()
    data, later = lab_samples(1, 6000)
    data = set_apart(dataset, data)
    predict = fit_linear(data.train)
    found = Intervals.decoded(interval_files(dataset, predict, data, None)[INTERVALS_FILE])
    assert covered(found, predict(later.x) - later.y) == pytest.approx(0.9, abs=0.05)
