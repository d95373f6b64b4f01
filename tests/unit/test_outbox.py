"""The outbox of a trainer: complete or not there, bounded, and readable without running code."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from complex_system.errors import TrainingFailedError
from complex_system.tracking.outbox import MAX_KEPT, Outbox
from trainings import PIECEWISE, quick_result, trainer


@pytest.mark.parametrize("reference", [b'{"samples": 3}', None])
def test_a_training_comes_back_as_it_was_and_is_gone_when_it_is_removed(tmp_path: Path, reference: bytes | None) -> None:
    outbox, result = Outbox(tmp_path / "outbox"), quick_result("lightgbm")
    data = replace(result.data, copies=400, arrived=1764000000.25, until=1763999000.5)
    result = replace(result, round="a round's /name", reference=reference, data=data)
    assert outbox.trainings() == []
    kept = outbox.keep(result)
    assert outbox.keep(result) == kept
    assert outbox.trainings() == [kept]
    again = Outbox(tmp_path / "outbox").load(kept, trainer("lightgbm"))
    for part in ("train", "validation"):
        for axis in "xy":
            before, after = (getattr(getattr(each.data, part), axis) for each in (result, again))
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
    assert (again.data.copies, again.data.split, again.sizes) == (400, "content", result.sizes)
    assert (again.data.arrived, again.data.until) == (1764000000.25, 1763999000.5)
    assert again.metadata("model", "run") == result.metadata("model", "run")
    assert again.onnx_model == result.onnx_model
    assert (again.started_at, again.trained_at, again.timings) == (result.started_at, result.trained_at, result.timings)
    assert (again.reference, again.model.history) == (result.reference, result.model.history)
    assert dict(again.model.parameters) == dict(result.model.parameters)
    outbox.remove(kept)
    outbox.remove(kept)
    assert outbox.trainings() == []
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0


def test_a_training_of_an_earlier_release_was_divided_by_its_keys(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    kept = outbox.keep(quick_result("lightgbm"))
    manifest = json.loads((kept.path / "training.json").read_text())
    del manifest["split"], manifest["copies"], manifest["arrived"], manifest["until"]
    (kept.path / "training.json").write_text(json.dumps(manifest))
    again = outbox.load(kept, trainer("lightgbm"))
    assert again.dataset.split_rule == "content"
    assert (again.data.split, again.data.copies) == ("key", 0)
    assert (again.data.arrived, again.data.until) == (0.0, None)


def test_the_oldest_are_given_up_when_too_many_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox, result = Outbox(tmp_path), quick_result("lightgbm")
    for number in range(MAX_KEPT + 2):
        outbox.keep(replace(result, round=f"r{number}", trained_at=result.trained_at + timedelta(seconds=number)))
    assert [kept.round for kept in outbox.trainings()] == [f"r{number}" for number in range(2, MAX_KEPT + 2)]
    assert caplog.text.count("is given up") == 2


def test_what_was_written_halfway_or_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox, result = Outbox(tmp_path), quick_result("lightgbm")
    half = tmp_path / ".writing-abc"
    half.mkdir()
    kept = outbox.keep(result)
    assert not half.exists()
    (tmp_path / "damaged").mkdir()
    with caplog.at_level(logging.WARNING):
        assert outbox.trainings() == [kept]
    assert "cannot be read" in caplog.text
    (kept.path / "native").write_bytes(b"no model")
    with pytest.raises(TrainingFailedError, match="cannot be read with this release"):
        outbox.load(kept, trainer("lightgbm"))


def test_the_network_of_an_earlier_release_is_refused_with_its_reason(tmp_path: Path) -> None:
    # ml_pytorch_regression_mlflow trained the blueprint's network once.
    outbox = Outbox(tmp_path)
    kept = outbox.keep(quick_result("pytorch"))
    with pytest.raises(TrainingFailedError, match="cannot be read with this release: .* not a model of PiecewiseTrainer"):
        outbox.load(kept, trainer(PIECEWISE))
