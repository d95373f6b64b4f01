"""Baselines, folds, and how sure an error is, against scikit-learn, SciPy and simulation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from msgspec.structs import replace
from scipy import stats
from sklearn.dummy import DummyRegressor
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from complex_system.domain.dataset import Dataset, Split
from complex_system.domain.keys import original_key, repeated_key
from complex_system.domain.pages import processed_schema
from complex_system.errors import TrainingFailedError
from complex_system.evaluation.baselines import (
    LINEAR,
    MEAN,
    cross_validated_baseline,
    evaluate_baselines,
    fit_mean,
    for_folds,
)
from complex_system.evaluation.candidates import kept_cross_validation
from complex_system.evaluation.statistics import (
    Difference,
    Evaluation,
    Interval,
    Squares,
    blocks,
    cross_difference,
    cross_interval,
    fold_interval,
    rmse_difference,
    rmse_interval,
    units_of,
)
from complex_system.evaluation.verdict import format_figure, intervals_message, judge, verdict_message
from complex_system.local.own_data import films
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import to_wire
from complex_system.training.base import score
from complex_system.training.cross_validation import (
    FewRecords,
    Keyed,
    cross_validate,
    fold_numbers,
)
from complex_system.training.data import SampleCollector, Samples
from complex_system.training.executor import Look
from complex_system.training.linear import fit_linear
from complex_system.training.out_of_fold import standard_error
from complex_system.training.split import Part, groups_of
from samples import lab_samples, ridge


def film_parts() -> SampleCollector:
    dataset = Dataset.shipped("films", target="Ausformung")
    collector = SampleCollector(dataset, list(Part))
    collector.add(Pipeline(dataset).process(films(dataset)).to_arrow().cast(processed_schema(dataset)))
    return collector


def noisy(seed: int, size: int = 60, deviation: float = 2.0) -> Samples:
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, (size, 3)).astype(np.float32)
    return Samples(x, (x @ [3.0, -2.0, 0.0] + random.normal(0, deviation, size)).astype(np.float32))


def keyed(samples: Samples, prefix: str = "k") -> Keyed:
    return Keyed(tuple(f"{prefix}{i}" for i in range(len(samples))), samples)


def test_the_baselines_are_scikit_learns_also_with_one_hot_features() -> None:
    data, holdout = lab_samples(1, 2000)
    train = data.train
    theirs = ridge(len(train))
    for ours, model in ((fit_mean, DummyRegressor()), (fit_linear, theirs)):
        expected = model.fit(train.x.astype(np.float64), train.y).predict(holdout.x)
        np.testing.assert_allclose(ours(train)(holdout.x), expected, rtol=1e-4, atol=1e-3)
    assert fit_linear(train).penalty == pytest.approx(theirs[-1].alpha_ / len(train))
    qualities = evaluate_baselines(train, holdout)
    assert qualities[MEAN].quality.r2 == pytest.approx(0, abs=0.05)
    assert qualities[LINEAR].quality.rmse < 0.3 * qualities[MEAN].quality.rmse


def test_the_films_are_enough_for_a_split_and_a_linear_model_beats_their_mean() -> None:
    collector = film_parts()
    data, holdout = collector.training_data(), collector.samples(Part.HOLDOUT)
    assert len(data.train) + len(data.validation) + len(holdout) == 51
    qualities = evaluate_baselines(data.train, holdout)
    assert qualities[LINEAR].quality.rmse < qualities[MEAN].quality.rmse


def test_every_record_is_scored_once_a_repeat_by_a_fit_that_has_not_seen_it() -> None:
    records = keyed(noisy(0, 51))
    sizes: list[tuple[int, int]] = []
    scored: Counter[bytes] = Counter()

    def fit(train: Samples, validation: Samples, look: Look):  # type: ignore[no-untyped-def]
        sizes.append((len(train), len(validation)))
        known = {row.tobytes() for part in (train, validation) for row in part.x}
        assert len(known) == len(train) + len(validation)

        def predict(x):  # type: ignore[no-untyped-def]
            assert not known & {row.tobytes() for row in x}
            scored.update(row.tobytes() for row in x)
            return fit_mean(train)(x)

        return predict

    told: list[tuple[int, int]] = []
    found = cross_validate(fit, records, lambda done, of: told.append((done, of)))
    assert set(scored.values()) == {2}
    assert len(scored) == 51
    assert [train + validation for train, validation in sizes] == [40, 41, 41, 41, 41] * 2
    assert {validation for _, validation in sizes} == {7}
    assert told == [(i, 10) for i in range(1, 11)]
    assert (found.records, found.folds, found.repeats) == (51, 5, 2)


def test_folds_depend_on_the_groups_only_and_differ_between_repeats() -> None:
    keys = [f"key {i}" for i in range(100)]
    first, second = fold_numbers(keys, 5, 0), fold_numbers(keys, 5, 1)
    assert Counter(first.tolist()) == dict.fromkeys(range(5), 20)
    np.testing.assert_array_equal(fold_numbers(keys[::-1], 5, 0)[::-1], first)
    # Independent folds agree in a fifth of the records; the same folds under other numbers would agree far more often.
    together = (first[:, None] == first) & (second[:, None] == second)
    assert together.sum() / (first[:, None] == first).sum() < 0.35


def test_a_record_that_is_sent_again_is_in_the_part_and_in_the_fold_of_the_first_one() -> None:
    keys = [f"key-{i}" for i in range(60)] + ["a~b", "~3"]
    again = [repeated_key(key, 2) for key in keys]
    assert again[0] == "key-0~2"
    assert [original_key(key) for key in again] == keys
    assert [original_key(key) for key in ("a~b", "~3", "plain")] == ["a~b", "~3", "plain"]
    films = Dataset.shipped("films", target="Ausformung")
    groups = groups_of(films.copy(update={"split": Split(copies="apart")}), pa.table({"_id": [*keys, *again]}))
    assert groups == [*keys, *keys]
    numbers = fold_numbers(groups, 5, 0)
    np.testing.assert_array_equal(numbers[: len(keys)], numbers[len(keys) :])


def test_the_figures_of_a_cross_validation_are_scikit_learns() -> None:
    records = keyed(noisy(3, 80))
    x, y = records.samples.x, records.samples.y
    found = cross_validate(for_folds(fit_linear), records, repeats=1)
    numbers = fold_numbers(records.groups, 5, 0)
    predicted = np.empty(80)
    rmses, maes = [], []
    for fold in range(5):
        test = numbers == fold
        predicted[test] = ridge(int((~test).sum())).fit(x[~test], y[~test]).predict(x[test])
        rmses.append(root_mean_squared_error(y[test], predicted[test]))
        maes.append(mean_absolute_error(y[test], predicted[test]))
    assert found.rmses == pytest.approx(rmses, rel=1e-4)
    assert found.rmse == pytest.approx(np.mean(rmses), rel=1e-4)
    assert found.mae == pytest.approx(np.mean(maes), rel=1e-4)
    assert found.r2 == pytest.approx(r2_score(y, predicted), abs=1e-4)
    kept = to_wire(found)
    assert kept_cross_validation({"cross_validation": kept}) == found
    assert kept_cross_validation({"cross_validation": {**kept, "rmses": [1.0, float("nan")]}}) is None
    assert kept_cross_validation({"cross_validation": {**kept, "folds": 1}}) is None
    assert kept_cross_validation({"cross_validation": {"rmse": 1.0}}) is None
    assert kept_cross_validation({}) is None


def test_a_fit_that_diverges_is_no_cross_validation() -> None:
    def fit(train: Samples, validation: Samples, look: Look):  # type: ignore[no-untyped-def]
        return lambda x: np.full(len(x), np.inf, dtype=np.float32)

    with pytest.raises(TrainingFailedError, match="not finite"):
        cross_validate(fit, keyed(noisy(0, 60)))


def test_the_interval_of_folds_is_students_with_the_corrected_standard_error() -> None:
    values = [1.0, 1.3, 0.8, 1.1, 0.9, 1.2, 1.4, 0.7, 1.0, 1.1]
    plain = stats.sem(values)
    corrected = plain * np.sqrt(10 * (1 / 10 + 1 / 4))
    assert standard_error(values, 5) == pytest.approx(corrected)
    low, high = stats.t.interval(0.95, 9, loc=np.mean(values), scale=corrected)
    found = fold_interval(values, 5)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high), rel=1e-9)


def test_the_interval_on_the_hold_out_part_is_students_of_the_logarithm_of_the_mean_square() -> None:
    errors = np.random.default_rng(14).normal(0, 2, 60)
    found = rmse_interval(Squares.of(errors.astype(np.float32)))
    relative = stats.sem(errors**2) / np.mean(errors**2)
    low, high = stats.t.interval(0.95, 59, loc=np.log(np.mean(errors**2)), scale=relative)
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.sqrt(np.mean(errors**2)), np.exp(low / 2), np.exp(high / 2)), rel=1e-5
    )
    assert rmse_interval(Squares.of(np.zeros(5))) == Interval(0.0, 0.0, 0.0)
    assert rmse_interval(Squares.of(np.full(5, 3.0))) == Interval(3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("name", "groups", "size", "within"),
    [
        ("normal", 30, 1, 0.0),
        ("normal", 300, 1, 0.0),
        ("groups", 30, 5, 0.5),
        ("groups", 30, 5, 0.9),
        ("groups", 60, 8, 0.0),
    ],
)
def test_the_intervals_cover_what_they_say(name: str, groups: int, size: int, within: float) -> None:
    random = np.random.default_rng(groups + size)
    of, covered = np.repeat(np.arange(groups), size), 0
    for _ in range(1000):
        errors = np.sqrt(within) * random.standard_normal(groups)[of] + np.sqrt(1 - within) * random.standard_normal(len(of))
        interval = rmse_interval(Squares.of(errors, None if size == 1 else of))
        covered += interval.low <= 1 <= interval.high
    assert 0.91 <= covered / 1000 <= 0.975  # the full measurement: benchmarks/validity/intervals.py


def test_a_group_counts_as_one_and_a_single_group_is_said_to_be_one() -> None:
    random = np.random.default_rng(3)
    errors, groups = random.standard_normal(60), np.repeat(np.arange(20), 3)
    alike = np.repeat(random.standard_normal(20), 3)
    alone, grouped = (rmse_interval(Squares.of(alike, each)) for each in (None, groups))
    assert alone.value == grouped.value
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    # Sums over groups of one record are the records.
    assert rmse_interval(Squares.of(errors, np.arange(60))) == rmse_interval(Squares.of(errors))
    single = Squares.of(errors, np.zeros(60))
    assert (single.units, rmse_interval(single)) == (1, rmse_interval(Squares.of(errors)))


def test_what_follows_in_time_is_divided_into_blocks() -> None:
    assert [len(set(blocks(count))) for count in (5, 40, 299, 5000)] == [2, 4, 29, 30]
    times = np.random.default_rng(1).permutation(100).astype(np.float64)
    samples = Samples(np.zeros((100, 1), np.float32), np.zeros(100, np.float32), np.arange(100), times)
    units = units_of(samples, "time")
    assert units is not None
    np.testing.assert_array_equal(units, times // 10)
    assert units_of(samples, "group") is samples.groups
    assert units_of(Samples(samples.x, samples.y), "key") is None


def test_the_difference_of_two_errors_is_told_apart_by_pairs_of_records() -> None:
    random = np.random.default_rng(5)
    hard = random.exponential(3, 200)  # what makes a record hard to predict is the same for both
    one, other = hard * random.choice([-1, 1], 200), 1.05 * hard + random.normal(0, 0.1, 200)
    found = rmse_difference(Squares.of(one), Squares.of(other))
    assert found.low > 0
    assert found.value == pytest.approx(np.sqrt(np.mean(other**2)) - np.sqrt(np.mean(one**2)))
    # Apart, the intervals could not tell.
    assert rmse_interval(Squares.of(one)).high > rmse_interval(Squares.of(other)).low
    assert rmse_difference(Squares.of(one), Squares.of(one)) == Difference(0.0, 0.0, 0.0, 1.0)
    assert found.p == pytest.approx(stats.ttest_rel(other**2, one**2, alternative="greater").pvalue)


def test_a_model_that_is_no_better_is_surely_better_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(8)
    for count in (30, 200):
        p = []
        for _ in range(600):
            common, *own = random.standard_normal((3, count))
            one, other = (Squares.of(np.sqrt(0.9) * common + np.sqrt(0.1) * each) for each in own)
            p.append(rmse_difference(one, other).p)
        assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07
        assert np.mean(np.array(p) < 0.01) < 0.02


def test_two_cross_validations_are_compared_record_by_record_on_what_they_have_in_common() -> None:
    samples = noisy(3, 80, 1.0)
    old, new = keyed(Samples(samples.x[:60], samples.y[:60])), keyed(samples)
    mean, linear = cross_validated_baseline(MEAN, old), cross_validated_baseline(LINEAR, new)
    found, records = cross_difference(linear, mean)
    assert records == 60
    assert found is not None
    assert found.low > 0
    back, _ = cross_difference(mean, linear)
    assert back is not None
    assert back.value == -found.value
    assert back.p == pytest.approx(1 - found.p)
    # With the same records the difference is that of the figures that are shown.
    same, records = cross_difference(cross_validated_baseline(LINEAR, old), mean)
    assert records == 60
    assert same is not None
    assert same.value == pytest.approx(mean.rmse - cross_validated_baseline(LINEAR, old).rmse)
    assert cross_difference(cross_validated_baseline(LINEAR, keyed(samples, "other")), mean) == (None, 0)


def test_batches_stay_paired_where_one_has_got_records_since_and_comes_later_now() -> None:
    """By time, batches are in the order of their mean times, which records that come later move."""
    cross = cross_validated_baseline(MEAN, keyed(noisy(3, 80, 1.0)))
    squares = np.random.default_rng(6).exponential(1, 80)
    names = tuple(range(100, 180))
    old = replace(cross, digest="older", groups=names, squares=tuple(squares), sizes=(2,) * 80)
    later = [*range(1, 60), 0, *range(60, 80)]  # the first batch has a third record now, and lies behind 59 others
    new = replace(
        old, digest="newer", groups=tuple(names[i] for i in later), squares=tuple(squares[i] for i in later),
        sizes=tuple(3 if i == 0 else 2 for i in later),
    )  # fmt: skip
    found, records = cross_difference(new, old, "time")
    assert records == 158
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-9), "the same errors of the same batches"


def test_what_the_intervals_are_of_is_said_and_where_they_cannot_be_trusted() -> None:
    random = np.random.default_rng(4)

    def told(errors, groups=None, by="key"):  # type: ignore[no-untyped-def]
        samples = Samples(np.zeros((len(errors), 1), np.float32), np.zeros(len(errors), np.float32), groups)
        return intervals_message(Evaluation.of(errors.astype(np.float32), samples, None, by), "hold-out", len(errors), by)

    assert told(random.standard_normal(77)) == "95 % intervals are over 77 records of the hold-out part."
    rough = "They are rough, and rather too narrow, with fewer than 30 "
    assert told(random.standard_normal(14)) == f"95 % intervals are over 14 records of the hold-out part. {rough}records."
    grouped = told(random.standard_normal(120), np.repeat(np.arange(12), 10), "group")
    assert grouped == f"95 % intervals are over 12 groups with 120 hold-out records. {rough}groups."
    heavy = told(random.standard_t(3, 500))
    assert "A few records make much of the error (kurtosis " in heavy
    assert heavy.endswith("so the intervals are too narrow.")
    crossed = cross_validated_baseline(MEAN, keyed(noisy(1, 60)))
    found = Evaluation.of(np.zeros(9, np.float32), Samples(np.zeros((9, 1), np.float32), np.ones(9, np.float32)), crossed)
    assert intervals_message(found, "cross-validation", 9, "key") == (
        "95 % intervals are over 10 folds of 60 records, corrected for what the folds' training sets share."
    )


@pytest.mark.parametrize("way", ["cross-validation", "hold-out"])
def test_the_intervals_hold_the_true_error_about_as_often_as_they_say(way: str) -> None:
    held = 0
    for seed in range(60):
        samples = noisy(seed)
        model = fit_linear(samples)
        if way == "cross-validation":
            interval = cross_interval(cross_validated_baseline(LINEAR, keyed(samples)))
        else:
            unseen = noisy(seed + 1000)
            interval = rmse_interval(Squares.of(model(unseen.x) - unseen.y))
        fresh = noisy(seed + 5000, 4000)
        held += interval.low <= score(fresh.y, model(fresh.x)).rmse <= interval.high
    assert held >= 50


def test_all_records_are_collected_as_long_as_they_are_few() -> None:
    dataset = Dataset.shipped("films", target="Ausformung")
    table = Pipeline(dataset).process(films(dataset)).to_arrow().cast(processed_schema(dataset))
    few = FewRecords(dataset, 52)
    few.add(table.slice(0, 20))
    assert few.keyed() is None  # fewer than five folds need
    few.add(table.slice(20))
    found = few.keyed()
    assert found is not None
    assert list(found.groups) == groups_of(dataset, table)
    np.testing.assert_array_equal(found.samples.y, table.column("Ausformung").to_numpy().astype(np.float32))
    assert found.samples.x.shape == (51, len(dataset.feature_names))
    many = FewRecords(dataset, 51)
    many.add(table)
    assert many.keyed() is None
    turned = Keyed(found.groups[::-1], Samples(found.samples.x[::-1], found.samples.y[::-1]))
    assert turned.digest == found.digest
    assert Keyed(found.groups[1:], Samples(found.samples.x[1:], found.samples.y[1:])).digest != found.digest


@pytest.mark.parametrize(
    ("mean", "linear", "words"),
    [
        ((0.5, 0.1, 0.9), (0.2, 0.1, 0.3), ""),
        (
            (-0.1, -0.4, 0.2),
            (0.2, 0.1, 0.3),
            "No model is better than predicting the mean: m 1 has RMSE 2.00 bar, the mean 1.90 bar",
        ),
        ((0.1, -0.2, 0.4), (0.2, 0.1, 0.3), "It is not clear whether m 1 is better than predicting the mean"),
        (
            (0.5, 0.1, 0.9),
            (-0.2, -0.3, -0.1),
            "m 1 is worse than a linear model: it has RMSE 2.00 bar, the linear model 1.80",
        ),
        (
            (0.5, 0.1, 0.9),
            (-0.2, -0.3, 0.1),
            "m 1 is not better than a linear model: it has RMSE 2.00 bar, the linear model 1.80",
        ),
        (
            (-0.2, -0.3, -0.1),
            (0.2, 0.1, 0.3),
            "No model is better than predicting the mean, and the best is worse: m 1 has RMSE 2.00 bar, the mean 1.80 bar",
        ),
        ((0.5, 0.1, 0.9), (0.2, -0.1, 0.3), "It is not clear whether m 1 is better than a linear model"),
    ],
)
def test_the_message_claims_no_more_than_is_known(mean: tuple[float, ...], linear: tuple[float, ...], words: str) -> None:
    verdicts = {name: judge(Interval(*ends)) for name, ends in ((MEAN, mean), (LINEAR, linear))}
    found = verdict_message(verdicts, 2.0, "m 1", "bar")
    assert found.startswith(words) if words else found == ""
    assert verdict_message({}, 2.0, "m 1") == ""


def test_figures_show_three_digits_that_count() -> None:
    assert [format_figure(value) for value in (14.6, 0.0, -2.0, 0.25, 0.00409, 3e-7)] == [
        "14.60",
        "0.00",
        "-2.00",
        "0.250",
        "0.00409",
        "3e-07",
    ]
