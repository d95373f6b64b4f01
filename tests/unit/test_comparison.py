"""The comparison of models: who wins, who is refused, and how it is drawn."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.evaluation.announcement import announced
from complex_system.evaluation.chart import rmse_chart
from complex_system.evaluation.comparison import (
    Candidate,
    Comparison,
    Quality,
    Result,
    ranked,
    ranked_by_folds,
    verdicts_on,
)
from complex_system.evaluation.statistics import cross_interval
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.base import Scores
from complex_system.training.cross_validation import CrossValidation
from complex_system.training.data import Samples
from models import linear_twin, twin_metadata


def ref(trainer: str, version: str = "1") -> ModelVersionRef:
    return ModelVersionRef(f"lab-{trainer}", version, trainer, trainer, "run", "v", {}, datetime.now(UTC))


@pytest.fixture
def holdout(dataset: Dataset) -> Samples:
    """Features of the data set's width whose target is their sum."""
    x = np.random.default_rng(3).uniform(0, 1, (200, len(dataset.feature_names))).astype(np.float32)
    return Samples(x, x.sum(axis=1))


@pytest.fixture
def candidate(dataset: Dataset):
    def make(
        trainer: str, bias: float = 0.0, weight: float = 1.0, *, version: str = "1", incumbent: bool = False
    ) -> Candidate:
        twin = linear_twin(dataset, bias, weight)
        metadata = twin_metadata(dataset, twin, f"lab-{trainer}", trainer)
        predictor = Predictor(Pipeline(dataset), f"lab-{trainer}", version, twin, metadata)
        return Candidate(ref(trainer, version), predictor, incumbent)

    return make


def test_the_lowest_rmse_comes_first_with_scores_in_the_targets_unit(candidate, holdout: Samples) -> None:
    results, refused = ranked(
        [candidate("pytorch", 3.0), candidate("lightgbm", 1.0), candidate("tensorflow", -2.0)], holdout
    )
    assert [result.ref.trainer for result in results] == ["lightgbm", "tensorflow", "pytorch"]
    assert [round(result.scores.rmse, 3) for result in results] == [1.0, 2.0, 3.0]
    assert [round(result.scores.mae, 3) for result in results] == [1.0, 2.0, 3.0]
    assert results[0].scores.r2 == pytest.approx(1 - 1 / holdout.y.var(), rel=1e-3)
    assert refused == {}


def test_a_better_champion_stays_and_an_equal_newcomer_does_not_replace_it(candidate, holdout: Samples) -> None:
    newcomers = [candidate("lightgbm", 1.0, version="2"), candidate("pytorch", 2.0)]
    results, _ = ranked([*newcomers, candidate("lightgbm", 1.0, version="1", incumbent=True)], holdout)
    comparison = Comparison("r", tuple(results), len(holdout))
    assert comparison.champion.ref.version == "1"
    assert not comparison.is_change
    results, _ = ranked([*newcomers, candidate("lightgbm", 1.5, version="1", incumbent=True)], holdout)
    assert Comparison("r", tuple(results), len(holdout)).is_change


def test_a_champion_that_is_not_better_than_a_baseline_is_named(candidate, holdout: Samples) -> None:
    results, _ = ranked([candidate("lightgbm", 1.0)], holdout)
    noise = np.random.default_rng(1).normal(0, 1, len(holdout)).astype(np.float32)
    baselines = {
        "mean": Quality.of(holdout.y + 0.9, holdout),
        "linear": Quality.of(holdout.y + noise, holdout),
        "other": Quality.of(holdout.y - 3.0, holdout),
    }
    verdicts = verdicts_on(results[0], baselines, "hold-out")
    assert {name: verdict.word for name, verdict in verdicts.items()} == {
        "mean": "not better",
        "linear": "not better" if (noise**2).mean() <= 1 else "unclear",
        "other": "better",
    }
    comparison = Comparison("r", tuple(results), 200, {}, baselines, verdicts=verdicts, unit="bar")
    assert "mean" in comparison.unbeaten
    assert "other" not in comparison.unbeaten
    assert comparison.verdict.startswith(
        "No model is better than predicting the mean, and the best is worse: lab-lightgbm 1 has RMSE 1.00 bar"
    )
    told = announced(comparison, "growth", ["a"])
    assert told["verdict"] == comparison.verdict
    assert told["baselines"]["other"]["rmse"] == pytest.approx(3.0)
    assert told["results"][0]["rmse_low"] == pytest.approx(1.0, abs=1e-5)  # every error is 1
    assert Comparison("r", tuple(results), 200).unbeaten == ()


def crossed(rmse: float, digest: str = "d") -> CrossValidation:
    return CrossValidation((rmse - 0.1, rmse + 0.1, rmse - 0.2, rmse + 0.2, rmse), rmse / 2, 0.5, 60, 5, digest)


def result(trainer: str, holdout_rmse: float, cross: CrossValidation | None, *, incumbent: bool = False) -> Result:
    scores = Scores(holdout_rmse, 1.0, 0.5)
    return Result(ref(trainer, "1" if incumbent else "2"), scores, incumbent, Quality(scores, None, cross))


def order(*results: Result) -> list[str] | None:
    found = ranked_by_folds(list(results))
    return None if found is None else [f"{each.ref.trainer}{'*' if each.incumbent else ''}" for each in found]


def test_few_records_are_ranked_by_their_folds_and_not_by_the_few_of_the_hold_out_part() -> None:
    assert order(result("lightgbm", 1.0, crossed(2.0)), result("pytorch", 3.0, crossed(1.5))) == ["pytorch", "lightgbm"]
    # Of other records, or of none: nothing that could be compared.
    assert order(result("lightgbm", 1.0, crossed(2.0)), result("pytorch", 3.0, crossed(1.5, "other"))) is None
    assert order(result("lightgbm", 1.0, crossed(2.0)), result("pytorch", 3.0, None)) is None
    assert order(result("lightgbm", 1.0, crossed(2.0), incumbent=True)) is None


def test_a_champion_of_other_records_meets_the_best_newcomer_on_the_hold_out_part() -> None:
    newcomers = result("lightgbm", 1.0, crossed(2.0)), result("pytorch", 1.4, crossed(1.5))
    assert order(*newcomers, result("pytorch", 1.3, crossed(1.0, "older"), incumbent=True)) == [
        "pytorch*",
        "pytorch",
        "lightgbm",
    ]
    assert order(*newcomers, result("pytorch", 1.5, None, incumbent=True)) == ["pytorch", "lightgbm", "pytorch*"]
    # The same records: it is one of them, and an equal newcomer does not replace it.
    assert order(*newcomers, result("pytorch", 9.0, crossed(1.5), incumbent=True)) == ["pytorch*", "pytorch", "lightgbm"]
    found = ranked_by_folds([*newcomers, result("pytorch", 9.0, crossed(1.5), incumbent=True)])
    assert found is not None
    kept = Comparison("r", tuple(found), 14, ranked_by="cross-validation").kept
    assert kept == (
        "lab-pytorch 1 stays champion with RMSE 1.50 by cross-validation with 60 records: the best new model, lab-pytorch 2, has 1.50."
    )


def test_the_chart_shows_intervals_and_baselines_of_what_the_ranking_goes_by() -> None:
    results = (result("pytorch", 3.0, crossed(1.5)), result("lightgbm", 1.0, crossed(2.0)))
    baselines = {"mean": result("mean", 4.0, crossed(2.5)).quality or Quality(Scores(0, 0, 0))}
    comparison = Comparison("r", results, 14, {}, baselines, "cross-validation")
    axes = rmse_chart(comparison, unit="bar").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1.5, 2.0, 2.5]
    assert "mean\n(baseline)" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.collections  # whiskers
    assert any("60 records in 5 folds" in text.get_text() for text in axes.texts)
    assert axes.get_xlim()[1] > cross_interval(crossed(2.5)).high


def test_a_model_that_predicts_no_numbers_is_left_out_with_the_reason(candidate, holdout: Samples) -> None:
    results, refused = ranked([candidate("pytorch", weight=6e37), candidate("lightgbm", 1.0)], holdout)
    assert [result.ref.trainer for result in results] == ["lightgbm"]
    assert "finite number" in refused["lab-pytorch 1"]


def test_scores_are_the_textbooks() -> None:
    truth = np.array([1.0, 2.0, 3.0, 6.0], dtype=np.float32)
    scores = Scores.of(truth, np.array([1.0, 4.0, 3.0, 5.0], dtype=np.float32))
    assert scores.rmse == pytest.approx((5 / 4) ** 0.5)
    assert scores.mae == pytest.approx(0.75)
    assert scores.r2 == pytest.approx(1 - 5 / 14)


def test_the_chart_has_a_bar_for_each_model_and_a_line_at_the_limit() -> None:
    results = tuple(
        Result(ref(trainer), Scores(rmse, rmse, 0.9), incumbent)
        for trainer, rmse, incumbent in (("lightgbm", 14.6, False), ("pytorch", 14.9, False), ("tensorflow", 20.0, True))
    )
    figure = rmse_chart(Comparison("a1b2", results, 1500), 14.22, "MPa")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [14.6, 14.9, 20.0]
    assert [label.get_text().split("\n")[0] for label in axes.get_yticklabels()] == ["lightgbm", "pytorch", "tensorflow"]
    assert "until now" in axes.get_yticklabels()[2].get_text()
    assert axes.lines[0].get_xdata() == [14.22, 14.22]
    assert axes.get_xlim()[0] == 0
    assert "MPa" in axes.get_xlabel()
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    assert not rmse_chart(Comparison("a1b2", results[:1], 20)).axes[0].lines


def test_a_champion_that_stays_is_explained_and_a_new_one_is_not() -> None:
    old, new = Result(ref("lightgbm"), Scores(14.6, 12.0, 0.98), True), Result(ref("pytorch", "2"), Scores(15.2, 12.0, 0.98))
    kept = Comparison("r", (old, new), 150).kept
    assert kept == (
        "lab-lightgbm 1 stays champion with RMSE 14.60 on the newest 150 hold-out records: "
        "the best new model, lab-pytorch 2, has 15.20."
    )
    assert "no new model could be compared" in Comparison("r", (old,), 150).kept
    assert Comparison("r", (Result(ref("pytorch", "2"), Scores(14.0, 12.0, 0.98)), old), 150).kept == ""
