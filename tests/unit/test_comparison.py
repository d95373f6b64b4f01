"""The comparison of models: who wins, who is refused, and how it is drawn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from complex_system.domain.dataset import Dataset
from complex_system.evaluation.candidates import Candidate, kept_cross_validation
from complex_system.evaluation.chart import rmse_chart
from complex_system.evaluation.comparison import ComparisonRequest, ranked
from complex_system.evaluation.decision import SMALLER, challenge, decide, ranked_by_folds
from complex_system.evaluation.mlflow_log import read_message, read_table
from complex_system.evaluation.results import Comparison, Result
from complex_system.evaluation.statistics import Evaluation, Squares, cross_interval
from complex_system.evaluation.triggers import AlertCause
from complex_system.evaluation.verdict import judge_champion, replaced_message
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.base import to_wire
from complex_system.protocol.labels import SuspectTarget, SuspectTargets
from complex_system.protocol.scores import CrossValidation
from complex_system.protocol.training import COMPARISON_FINISHED, FoldCounts, Quality, ScoresWithInterval
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.base import score
from complex_system.training.data import Samples
from complex_system.training.out_of_fold import standard_error
from complex_system.training.split import Copies
from models import linear_onnx, onnx_metadata


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
        onnx_model = linear_onnx(dataset, bias, weight)
        metadata = onnx_metadata(dataset, onnx_model, f"lab-{trainer}", trainer)
        predictor = Predictor(Pipeline(dataset), f"lab-{trainer}", version, onnx_model, metadata)
        return Candidate(ref(trainer, version), predictor, incumbent)

    return make


def test_the_lowest_rmse_comes_first_with_scores_in_the_targets_unit(candidate, holdout: Samples) -> None:
    results, refused = ranked(
        [candidate("pytorch", 3.0), candidate("lightgbm", 1.0), candidate("tensorflow", -2.0)], holdout
    )
    assert [result.ref.trainer for result in results] == ["lightgbm", "tensorflow", "pytorch"]
    assert [round(result.quality.rmse, 3) for result in results] == [1.0, 2.0, 3.0]
    assert [round(result.quality.mae, 3) for result in results] == [1.0, 2.0, 3.0]
    assert results[0].quality.r2 == pytest.approx(1 - 1 / holdout.y.var(), rel=1e-3)
    assert refused == {}


def test_a_better_champion_stays_and_an_equal_newcomer_does_not_replace_it(candidate, holdout: Samples) -> None:
    newcomers = [candidate("lightgbm", 1.0, version="2"), candidate("pytorch", 2.0)]
    results, _ = ranked([*newcomers, candidate("lightgbm", 1.0, version="1", incumbent=True)], holdout)
    champion, challenges = decide(results, 0.05)
    assert champion.ref.version == "1"
    assert not Comparison("r", tuple(results), champion, 200).is_change
    assert {name: each.outcome for name, each in challenges.items()} == {
        "lab-lightgbm 2": "unclear",
        "lab-pytorch 1": "worse",
    }
    results, _ = ranked([*newcomers, candidate("lightgbm", 1.5, version="1", incumbent=True)], holdout)
    assert decide(results, 0.05)[0].label == "lab-lightgbm 2"


def test_a_champion_that_is_not_better_than_a_baseline_is_named(candidate, holdout: Samples) -> None:
    results, _ = ranked([candidate("lightgbm", 1.0)], holdout)
    noise = np.random.default_rng(1).normal(0, 1, len(holdout)).astype(np.float32)
    baselines = {
        "mean": Evaluation.of(holdout.y + 0.9, holdout),
        "linear": Evaluation.of(holdout.y + noise, holdout),
        "other": Evaluation.of(holdout.y - 3.0, holdout),
    }
    verdicts, message = judge_champion(results[0], "lab-lightgbm 1", baselines, "hold-out", "bar")
    assert {name: verdict.verdict for name, verdict in verdicts.items()} == {
        "mean": "not better",
        "linear": "not better" if (noise**2).mean() <= 1 else "unclear",
        "other": "better",
    }
    comparison = Comparison("r", tuple(results), results[0], 200, None, {}, baselines, verdicts=verdicts, verdict=message)
    assert "mean" in comparison.unbeaten
    assert "other" not in comparison.unbeaten
    assert comparison.verdict.startswith(
        "No model is better than predicting the mean, and the best is worse: lab-lightgbm 1 has RMSE 1.00 bar"
    )
    told = comparison.message(ComparisonRequest("r", [], 100, alert=AlertCause(("a",), 1.0, "Drift.")))
    assert (told.cause, told.alerts) == ("alert", ("a",))
    assert told.verdict == comparison.verdict
    assert told.baselines["other"].rmse == pytest.approx(3.0)
    assert told.results[0].rmse_low == pytest.approx(1.0, abs=1e-5)  # every error is 1
    assert Comparison("r", tuple(results), results[0], 200).unbeaten == ()


def test_labels_that_look_wrong_are_part_of_the_evidence_and_of_the_message() -> None:
    found = SuspectTargets(target="y", records=90, count=1, named=(SuspectTarget(id="B-7", value=-9999.0, why="a code"),))
    comparison = compared(result("lightgbm", 1.0), holdout=90, suspects=found)
    told = comparison.message(ComparisonRequest("r", []))
    assert told.suspects == found
    assert told.verdict.startswith("1 of 90 labels looks wrong: -9999 of record B-7 (a code). All are used: ")
    assert read_message(json.dumps(to_wire(told)).encode()) == told


ALIKE = "400 of 600 labelled records have the same features and the same target as an earlier one"


@pytest.mark.parametrize(
    ("copies", "message"),
    [
        (Copies(), ""),
        (Copies(600), ""),
        (Copies(600, 5), ""),
        (Copies(600, 400), f"{ALIKE}: copies are in one part of the split and in one fold, and count once in the hold-out part."),
        (Copies(600, 400, by_chance=True), "then declare split: {copies: apart}."),
        (Copies(600, 400, together=False),
         f"{ALIKE}; they count as measurements of their own, so a score may be that of memory (split: copies)."),
        (Copies(600, 400, together=False, by_chance=True), ""),
    ],
)  # fmt: skip
def test_copies_are_part_of_the_evidence(copies: Copies, message: str) -> None:
    verdict = "No model is better than predicting the mean."
    plain = compared(result("lightgbm", 1.0), holdout=90, copies=copies)
    assert plain.evidence.endswith(message)
    assert bool(plain.evidence) is bool(message)
    judged = replace(plain, verdict=verdict)
    assert judged.evidence == f"{verdict} {plain.evidence}".strip()
    told = judged.message(ComparisonRequest("r", [], 100))
    assert (told.verdict, told.records, told.copies) == (judged.evidence, copies.records, copies.count)


def test_why_a_champion_of_another_split_was_not_compared_is_part_of_the_evidence() -> None:
    other = replaced_message("lab-lightgbm 3", "key", "group: batch")
    assert other == (
        "lab-lightgbm 3 was trained with another split (key; now group: batch), so it may have learned from the records that "
        "decide: it was not compared, and the best new model replaces it."
    )
    assert "was trained before records came that moved the split" in replaced_message("lab-lightgbm 3", "time: t", "time: t")
    found = compared(
        result("lightgbm", 1.0), replaced=other, copies=Copies(600, 400), split="group: batch", question="a new batch",
        notes="7 of 600 labelled records have no value in batch: each is a group of its own.",
    )  # fmt: skip
    assert found.evidence.startswith(f"{other} 7 of 600 labelled records have no value in batch")
    told = found.message(ComparisonRequest("r", [], 100))
    assert (told.replaced, told.split, told.question) == (other, "group: batch", "a new batch")
    assert found.is_change


def crossed(rmse: float, digest: str = "d") -> CrossValidation:
    rmses = (rmse - 0.1, rmse + 0.1, rmse - 0.2, rmse + 0.2, rmse)
    return CrossValidation(
        rmse=rmse, mae=rmse / 2, r2=0.5, rmses=rmses, standard_error=standard_error(rmses, 5), records=60, folds=5,
        digest=digest,
    )  # fmt: skip


def result(
    trainer: str,
    holdout_rmse: float,
    cross: CrossValidation | None = None,
    *,
    incumbent: bool = False,
    errors: Any = None,
    version: str = "",
    size: int = 0,
) -> Result:
    """A result whose errors are all of one size, unless they are given."""
    cv = None
    if cross is not None:
        ends = cross_interval(cross)
        cv = ScoresWithInterval(rmse=ends.value, mae=cross.mae, r2=cross.r2, rmse_low=ends.low, rmse_high=ends.high)
    errors = np.full(40, holdout_rmse) if errors is None else errors
    return Result(
        ref=ref(trainer, version or ("1" if incumbent else "2")), incumbent=incumbent, cross=cross, size=size,
        errors=errors.astype(np.float32), squares=Squares.of(errors),
        quality=Quality(rmse=holdout_rmse or float(np.sqrt(np.mean(errors**2))), mae=1.0, r2=0.5, cv=cv),
    )  # fmt: skip


def compared(*results: Result, holdout: int = 150, **changes: Any) -> Comparison:
    """A comparison of results, best first, as the rule decides it."""
    champion, challenges = decide(results, 0.05)
    new = next((each for each in results if not each.incumbent), None)
    return Comparison("r", results, champion, holdout, new, challenges=challenges, **changes)


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


def test_the_chart_shows_intervals_and_baselines_of_what_the_ranking_goes_by() -> None:
    results = (result("pytorch", 3.0, crossed(1.5)), result("lightgbm", 1.0, crossed(2.0)))
    baselines: dict[str, Evaluation] = {"mean": result("mean", 4.0, crossed(2.5))}
    comparison = Comparison("r", results, results[1], 14, None, {}, baselines, "cross-validation")
    axes = rmse_chart(comparison, unit="bar").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1.5, 2.0, 2.5]
    assert len({bar.get_facecolor() for bar in axes.patches}) == 3  # the second is the champion
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
    scores = score(truth, np.array([1.0, 4.0, 3.0, 5.0], dtype=np.float32))
    assert scores.rmse == pytest.approx((5 / 4) ** 0.5)
    assert scores.mae == pytest.approx(0.75)
    assert scores.r2 == pytest.approx(1 - 5 / 14)


def test_the_chart_has_a_bar_for_each_model_and_a_line_at_the_limit() -> None:
    results = tuple(
        result(trainer, rmse, incumbent=incumbent)
        for trainer, rmse, incumbent in (("lightgbm", 14.6, False), ("pytorch", 14.9, False), ("tensorflow", 20.0, True))
    )
    figure = rmse_chart(Comparison("a1b2", results, results[0], 1500), 14.22, "MPa")
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
    assert not rmse_chart(Comparison("a1b2", results[:1], results[0], 20)).axes[0].lines


def test_a_champion_that_stays_is_explained_and_a_new_one_is_not() -> None:
    old, new = result("lightgbm", 14.6, incumbent=True), result("pytorch", 15.2)
    assert compared(old, new).kept == (
        "lab-lightgbm 1 stays champion with RMSE 14.60 on the newest 150 hold-out records: "
        "the best new model, lab-pytorch 2, has 15.20."
    )
    assert "no new model could be compared" in compared(old).kept
    assert compared(result("pytorch", 14.0), old).kept == ""


NOISE = np.random.default_rng(5).standard_normal((3, 400))
"""What makes a record hard for every model, and what each of two models adds to it."""


def pair(better_by: float, **changes: Any) -> tuple[Result, Result]:
    """A new model and a champion whose errors correlate at 0.9, the new one better by a share of the RMSE."""
    old, new = (np.sqrt(0.9) * NOISE[0] + np.sqrt(0.1) * own for own in NOISE[1:])
    new *= (1 - better_by) * np.sqrt(np.mean(old**2) / np.mean(new**2))
    return result("pytorch", 0, errors=new, **changes), result("lightgbm", 0, errors=old, incumbent=True, size=100_000)


def test_a_new_model_must_be_surely_better() -> None:
    new, old = pair(0.01)
    champion, challenges = decide([new, old], 0.05)
    found = challenges[new.label]
    assert champion is old
    assert (found.outcome, found.by, found.records) == ("unclear", "hold-out", 400)
    assert found.better_by == pytest.approx(0.01 * old.quality.rmse, rel=1e-3)
    assert found.low < 0 < found.high
    assert 0.05 < found.p < 0.5
    kept = compared(new, old).kept
    assert "the best new model, lab-pytorch 2, has" in kept
    assert "which is not surely better (95 % interval of the difference -" in kept
    new, old = pair(0.10)
    assert decide([new, old], 0.05)[0] is new
    told = compared(new, old).message(ComparisonRequest("r", [], 100))
    assert (told.champion.model, told.kept) == ("lab-pytorch", "")
    assert told.results[0].challenge is not None
    assert told.results[0].challenge.outcome == "better"
    assert told.results[1].challenge is None


def test_new_models_share_the_level_and_the_best_that_passes_is_champion() -> None:
    new, old = pair(0.10)
    p = challenge(new, old, 0.05).p
    others = [result(f"other{i}", 9.0, errors=np.full(400, 9.0)) for i in range(3)]
    assert decide([new, old], 1.5 * p)[0] is new
    champion, challenges = decide([new, old, *others], 1.5 * p)
    assert champion is old
    assert challenges[new.label].limit == pytest.approx(1.5 * p / 4)
    # The best one is not sure, because its errors are those of other records; the second one is.
    unsure = result("tensorflow", 0, errors=NOISE[2] * 0.95)
    champion, challenges = decide([unsure, new, old], 0.05)
    assert challenges[unsure.label].outcome == "unclear"
    assert champion is new


def test_where_there_is_no_champion_the_best_becomes_one() -> None:
    new, _ = pair(0.0)
    assert decide([new, result("lightgbm", 3.0)], 0.05) == (new, {})


def test_a_far_smaller_model_that_is_not_worse_becomes_champion() -> None:
    new, old = result("linear", 1.0, size=1000), result("lightgbm", 1.0, incumbent=True, size=SMALLER * 1000)
    assert challenge(new, old, 0.01).outcome == "cheaper"
    assert decide([old, new], 0.01)[0] is new
    assert challenge(replace(new, size=1001), old, 0.01).outcome == "unclear"
    assert challenge(replace(new, size=0), old, 0.01).outcome == "unclear"  # of an earlier release: not known
    slightly_worse = result("linear", 1.001, size=1000)
    assert challenge(slightly_worse, old, 0.01).outcome == "worse"
    # No worse on these records, but that may be chance: the interval reaches beyond 1 % of the error.
    new, old = pair(0.0, size=1000)
    assert challenge(new, old, 0.01).outcome == "unclear"


def validated(errors: Any, digest: str = "d", first: int = 0) -> CrossValidation:
    """A cross-validation of records that are numbered from ``first`` on."""
    rmse = float(np.sqrt(np.mean(errors**2)))
    return replace_struct(
        crossed(rmse, digest), records=len(errors), squares=tuple(errors**2), groups=tuple(range(first, first + len(errors)))
    )


def test_the_records_that_both_were_validated_with_decide_where_they_are_more() -> None:
    new, old = pair(0.10)
    few = np.ones(40)
    champion = result("lightgbm", 1.0, validated(old.errors[:300], "older"), errors=few, incumbent=True)
    newcomer = result("pytorch", 1.0, validated(new.errors[100:], "newer", 100), errors=few)
    found = challenge(newcomer, champion, 0.05)
    assert (found.outcome, found.by, found.records) == ("better", "cross-validation", 200)
    ours, theirs = (np.sqrt(np.mean(each.errors[100:300] ** 2)) for each in (new, old))
    assert found.better_by == pytest.approx(theirs - ours, rel=1e-5)
    # A fit that went wrong is not saved by its method's good folds.
    broken = replace(
        newcomer, **{name: value for name, value in vars(result("pytorch", 5.0)).items() if name in ("errors", "squares")}
    )
    assert challenge(broken, champion, 0.05).outcome == "worse"
    # Fewer in common than in the hold-out part, or a model of an earlier release: that decides.
    apart = result("pytorch", 1.0, validated(new.errors[:300], "newer", 270), errors=few)
    earlier = result("pytorch", 1.0, crossed(0.5), errors=few)
    assert [challenge(each, champion, 0.05).by for each in (apart, earlier)] == ["hold-out", "hold-out"]
    kept = compared(
        newcomer, result("lightgbm", 1.0, validated(new.errors[100:], "older", 100), errors=few, incumbent=True)
    ).kept
    assert "by cross-validation, higher by 0.00 on the 300 records that both were validated with" in kept


RELEASED = """
{"round": "a1b2c3d4", "results": [{"trainer": "tensorflow", "framework": "tensorflow", "model": "plant-tensorflow",
"version": "1", "rmse": 0.7724926908758041, "mae": 0.6480395112718854, "r2": 0.8169170456512007,
"rmse_low": 0.5813640963735695, "rmse_high": 0.9470700178700064}, {"trainer": "pytorch", "framework": "pytorch",
"model": "plant-pytorch", "version": "2", "rmse": 1.3889572833959982, "mae": 1.0901527064187186,
"r2": 0.4081155464607139, "rmse_low": 0.941980397159381, "rmse_high": 1.9039487704641287, "cv": {"rmse": 1.5,
"mae": 0.75, "r2": 0.5, "rmse_low": 1.2055135257783665, "rmse_high": 1.7944864742216335}}, {"trainer": "lightgbm",
"framework": "lightgbm", "model": "plant-lightgbm", "version": "2", "rmse": 1.043598691182773,
"mae": 0.7309941564287458, "r2": 0.6658617409155903, "rmse_low": 0.6370652280921956, "rmse_high": 1.689029133098534,
"cv": {"rmse": 2.0, "mae": 1.0, "r2": 0.5, "rmse_low": 1.7055135257783665, "rmse_high": 2.2944864742216335}}],
"champion": {"model": "plant-tensorflow", "version": "1", "framework": "tensorflow", "trainer": "tensorflow",
"rmse": 0.7724926908758041}, "holdout": 14,
"kept": "plant-tensorflow 1 stays champion with RMSE 0.772 on the newest 14 hold-out records: the best new model,
plant-pytorch 2, has 1.39.", "cause": "alert", "alerts": ["0190-drift"], "ranked_by": "cross-validation",
"cross_validation": {"records": 60, "folds": 5, "repeats": 1}, "baselines": {"mean": {"rmse": 2.3287788079466503,
"mae": 1.8167504583086287, "r2": -0.6638556074230841, "rmse_low": 1.6929787437609765, "rmse_high": 3.251633433925158,
"cv": {"rmse": 3.0999999999999996, "mae": 1.55, "r2": 0.5, "rmse_low": 2.805513525778366,
"rmse_high": 3.394486474221633}}, "linear": {"rmse": 0.9719804007616561, "mae": 0.818117448261806,
"r2": 0.710149422761525, "rmse_low": 0.7208430314907548, "rmse_high": 1.2610553987996542, "cv": {"rmse": 1.6,
"mae": 0.8, "r2": 0.5, "rmse_low": 1.3055135257783665, "rmse_high": 1.8944864742216336}}},
"verdicts": {"mean": {"verdict": "better", "better_by": 1.5562861170708462, "low": 0.8965336411609666,
"high": 2.4344360531062263}, "linear": {"verdict": "unclear", "better_by": 0.19948770988585207,
"low": -0.05209392279584129, "high": 0.4645940820434806}},
"verdict": "It cannot be told whether plant-tensorflow 1 is better than a linear model: it has RMSE 0.772 bar,
the linear model 0.972 bar (95 % interval of the difference -0.0521 to 0.465).", "not_better_than": []}
""".replace("\n", " ")
"""``announced.json`` as the release before messages were types wrote it, after a round on an alert with few records."""
RELEASED_WITHOUT_FOLDS = """
{"round": "e5f6", "results": [{"trainer": "lightgbm", "framework": "lightgbm", "model": "plant-lightgbm",
"version": "3", "rmse": 14.6, "mae": 12.0, "r2": 0.98}], "champion": {"model": "plant-lightgbm", "version": "3",
"framework": "lightgbm", "trainer": "lightgbm", "rmse": 14.6}, "holdout": 150, "kept": "", "cause": "growth",
"alerts": [], "ranked_by": "hold-out"}
""".replace("\n", " ")
"""The same with many records and no baselines."""
RELEASED_CROSS_VALIDATION = """
{"rmse": 2.0, "mae": 1.0, "r2": 0.5, "standard_error": 0.10606601717798217, "rmses": [1.9, 2.1, 1.8, 2.2, 2.0],
"records": 60, "folds": 5, "digest": "0123456789abcdef"}
""".replace("\n", " ")
"""``cross_validation`` of a model's metadata, of the same release."""


def assert_holds(found: Any, released: Any) -> None:
    """All that was written is found again; only fields that were left out are added."""
    if isinstance(released, dict):
        for name, value in released.items():
            assert_holds(found[name], value)
    elif isinstance(released, list):
        assert len(found) == len(released)
        for one, other in zip(found, released, strict=True):
            assert_holds(one, other)
    else:
        assert found == released


@pytest.mark.parametrize("released", [RELEASED, RELEASED_WITHOUT_FOLDS])
def test_a_comparison_that_an_earlier_release_kept_is_understood(released: str) -> None:
    found = read_message(released.encode())
    assert_holds(json.loads(json.dumps(to_wire(found))), json.loads(released))
    assert COMPARISON_FINISHED.decode(json.loads(released)) == found


def test_fields_that_an_earlier_release_left_out_have_their_defaults() -> None:
    few, many = read_message(RELEASED.encode()), read_message(RELEASED_WITHOUT_FOLDS.encode())
    assert few.cross_validation == FoldCounts(records=60, folds=5, repeats=1)
    assert few.results[0].cv is None
    assert many.cross_validation is None
    assert (many.baselines, many.verdicts, many.not_better_than, many.results[0].rmse_low) == ({}, {}, (), None)


def test_a_cross_validation_that_an_earlier_release_kept_is_understood() -> None:
    assert kept_cross_validation({"cross_validation": json.loads(RELEASED_CROSS_VALIDATION)}) == crossed(
        2.0, "0123456789abcdef"
    )


def test_a_comparison_of_the_first_releases_is_read_from_its_table() -> None:
    columns = ["trainer", "framework", "model", "version", "rmse", "mae", "r2", "champion"]
    rows = [["pytorch", "pytorch", "lab-pytorch", "2", 14.5, 12.1, 0.97, True],
            ["lightgbm", "lightgbm", "lab-lightgbm", "1", 14.9, 12.4, 0.96, False]]  # fmt: skip
    table = json.dumps({"columns": columns, "data": rows}).encode()
    found = read_table(table, {"round": "r", "holdout": "300", "alerts": "a b"})
    assert (found.champion.model, found.champion.rmse, found.holdout) == ("lab-pytorch", 14.5, 300)
    assert [result.trainer for result in found.results] == ["pytorch", "lightgbm"]
    assert (found.cause, found.alerts, found.kept) == ("growth", ("a", "b"), "")
