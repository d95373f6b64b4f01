"""A round on moved inputs: a new model has to be better on the newer records, and not surely worse on all."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.evaluation.comparison import Candidate, ranked
from complex_system.evaluation.decision import decide
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.data import Samples
from models import linear_onnx, onnx_metadata


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
