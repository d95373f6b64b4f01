"""Newer records that count more where a model is fitted, because the inputs have moved and the law has not."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.evaluation.comparison import Candidate, ranked
from complex_system.evaluation.decision import decide
from complex_system.evaluation.triggers import MAX_TIMES, weighting_since
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.training import Weighting
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.data import Samples, TrainingData
from models import linear_onnx, onnx_metadata
from trainings import FRAMEWORKS, trainer


def test_newer_samples_count_several_times_in_a_fit_and_nowhere_else() -> None:
    y = np.arange(4, dtype=np.float32)
    samples = Samples(y[:, None], y, times=np.array([1.0, 5.0, 2.0, 6.0]))
    data = TrainingData(("x",), "y", samples, samples.of(np.array([0, 1])), weighting=Weighting(since=2.0, times=3))
    fitted = data.weighted()
    assert fitted.train.y.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]
    assert fitted.validation.y.tolist() == [0, 1, 1, 1]
    assert data.train is samples, "what is scored, described and logged stays as it is"
    assert fitted.weighted().train is fitted.train
    assert TrainingData(("x",), "y", samples, samples).weighted().train is samples


@pytest.mark.parametrize(
    ("newer", "records", "times"), [(1000, 6000, 5), (1000, 2600, 2), (1000, 2400, None), (10, 9000, MAX_TIMES)]
)
def test_the_newer_records_count_about_as_much_as_the_others(newer: int, records: int, times: int | None) -> None:
    assert weighting_since(7.0, newer, records) == (Weighting(since=7.0, times=times) if times else None)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_learns_more_from_what_counts_more(framework: str) -> None:
    """Where older and newer records say 0 and 1 of the same inputs, a model says what counts more."""
    generator = np.random.default_rng(1)
    x, new = generator.random((600, 3)).astype(np.float32), np.arange(600) % 6 == 0
    samples = Samples(x, new.astype(np.float32), times=new.astype(np.float64))
    data = TrainingData(("a", "b", "c"), "y", samples.of(np.arange(500)), samples.of(np.arange(500, 600)))
    plain, weighted = (
        trainer(framework).fit(each.weighted(), lambda _: None).predict(x).mean()
        for each in (
            data,
            TrainingData(data.feature_names, "y", data.train, data.validation, weighting=Weighting(since=0.5, times=5)),
        )
    )
    assert plain == pytest.approx(1 / 6, abs=0.06)
    assert weighted == pytest.approx(1 / 2, abs=0.06)


@pytest.mark.parametrize(("bias", "outcome"), [(1.0, "worse"), (0.3, "better")])
def test_a_model_that_is_better_on_the_newer_records_must_not_be_surely_worse_on_all(
    dataset: Dataset, bias: float, outcome: str
) -> None:
    """The newer records lie higher by one; a model that follows them wholly forgets the older ones, which are four times as many."""
    generator = np.random.default_rng(2)
    x = generator.uniform(0, 1, (250, len(dataset.feature_names))).astype(np.float32)
    new = np.arange(250) >= 200
    y = (x.sum(axis=1) + new + generator.normal(0, 0.1, 250)).astype(np.float32)
    everything = Samples(x, y, times=np.arange(250.0))

    def candidate(version: str, bias: float) -> Candidate:
        onnx = linear_onnx(dataset, bias)
        predictor = Predictor(Pipeline(dataset), "lab-a", version, onnx, onnx_metadata(dataset, onnx, "lab-a", "a"))
        ref = ModelVersionRef("lab-a", version, "a", "a", "run", "v", {}, datetime.now(UTC))
        return Candidate(ref, predictor, incumbent=version == "1")

    both = [candidate("1", 0.0), candidate("2", bias)]
    results, _ = ranked(both, everything.newer(199.5), everything=everything)
    champion, challenges = decide(results, 0.05)
    assert results[0].ref.version == "2"
    assert (challenges["lab-a 2"].outcome, challenges["lab-a 2"].better_by > 0) == (outcome, True)
    assert champion.ref.version == ("2" if outcome == "better" else "1")
    alone, _ = ranked(both, everything.newer(199.5))
    assert decide(alone, 0.05)[0].ref.version == "2", "where the error has moved, the newer records alone decide"
