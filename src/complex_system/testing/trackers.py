"""The suite of trackers."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import TrackingRefusedError, TrackingUnavailableError
from complex_system.testing.data import lab_samples
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.training.base import TrainedModel, score
from complex_system.training.linear import LINEAR, LinearModel
from complex_system.training.onnx import export_onnx

SECRET = "s3cret-of-the-suite"  # noqa: S105 - of no server
"""What must not be in a message: :meth:`TrackerPlace.away` has it as its password."""


@dataclass(frozen=True)
class KeptModel:
    """What a tracker has kept of a training, as serving finds it.

    Attributes:
        metadata: ``metadata.json``, without a signature.
        files: What lies beside the ONNX model, by name.
    """

    name: str
    version: str
    onnx_model: bytes
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]


class TrackerPlace(ABC):
    """Where a tracker logs to: a server, or an account of it, with nothing in it."""

    @abstractmethod
    def tracker(self) -> Tracker:
        """Return a tracker, prepared, as a process has it that starts: it knows nothing of earlier ones."""

    @abstractmethod
    def runs(self) -> Sequence[str]:
        """Return the states of all runs: ``finished`` or another text."""

    @abstractmethod
    def models(self) -> Sequence[KeptModel]:
        """Return all registered versions, the oldest first."""

    @abstractmethod
    def interruptions(self) -> Sequence[AbstractContextManager[Any]]:
        """Return what makes logging fail with ``TrackingUnavailableError`` while it is open, each at another step after the begin."""

    def away(self) -> Tracker | None:
        """Return a tracker of a server that does not answer, with ``SECRET`` as password; None, the default, where none is needed."""
        return None


class TrackerContract:
    """What every :class:`~complex_system.tracking.base.Tracker` promises. Override the fixture ``place``, and what it logs."""

    @pytest.fixture
    def place(self) -> TrackerPlace:
        """A place with nothing in it."""
        raise NotImplementedError(f"{type(self).__name__} needs the fixture 'place': where trainings are logged.")

    def result(self) -> TrainingResult:
        """Return the training to log, in a round of its own; by default one of the linear model."""
        return result_of(*_linear(), LINEAR)

    def test_a_training_is_one_finished_run_and_one_version_with_its_onnx_model(self, place: TrackerPlace) -> None:
        """One training is one finished run and one version, with the ONNX model, its metadata and its files as they were given."""
        result = self.result()
        logged = place.tracker().log(result)
        assert list(place.runs()) == ["finished"]
        [kept] = place.models()
        assert (kept.name, kept.version) == (logged.model, logged.version)
        assert kept.onnx_model == result.onnx_model
        assert dict(kept.metadata) == result.metadata(logged.model, logged.run_id)
        assert dict(kept.files) == dict(result.files)
        assert logged.run_id
        assert logged.run_url

    def test_another_round_is_another_version_of_the_same_model(self, place: TrackerPlace) -> None:
        """The next training of a trainer is a run of its own, and the next version under the same name."""
        tracker = place.tracker()
        first, second = tracker.log(self.result()), tracker.log(self.result())
        assert first.model == second.model
        assert first.run_id != second.run_id
        assert list(place.runs()) == ["finished"] * 2
        assert [kept.version for kept in place.models()] == [first.version, second.version]

    def test_logging_goes_on_where_it_was_cut(self, place: TrackerPlace) -> None:
        """After any failure the same call goes on with what was begun: there is one run and one version in the end."""
        result, tracker = self.result(), place.tracker()
        for interruption in place.interruptions():
            with interruption, pytest.raises(TrackingUnavailableError):
                tracker.log(result)
        logged = tracker.log(result)
        self.is_there_once(place, logged, result)

    def test_another_process_goes_on_with_what_was_begun_and_registers_nothing_twice(self, place: TrackerPlace) -> None:
        """A process goes on with what a killed one has begun; a training that was logged is found, not repeated."""
        result = self.result()
        for interruption in place.interruptions():
            with interruption, pytest.raises(TrackingUnavailableError):
                place.tracker().log(result)
        logged = place.tracker().log(result)
        assert place.tracker().log(result) == logged
        self.is_there_once(place, logged, result)

    def test_a_server_that_is_away_is_noticed_in_seconds_and_its_password_is_not_told(self, place: TrackerPlace) -> None:
        """A server that does not answer raises ``TrackingUnavailableError`` within 20 s, and no message has a password."""
        tracker = place.away()
        if tracker is None:
            pytest.skip("this tracker has no server: 'away' returns None")
        begin = time.monotonic()
        with pytest.raises(TrackingUnavailableError) as caught:
            tracker.log(self.result())
        assert time.monotonic() - begin < 20
        assert not isinstance(caught.value, TrackingRefusedError), "it is not to be given up"
        assert SECRET not in caught.value.message

    def test_a_tracker_is_closed_more_than_once(self, place: TrackerPlace) -> None:
        """``close`` may be called before anything was logged, and again."""
        tracker = place.tracker()
        tracker.close()
        tracker.close()

    def is_there_once(self, place: TrackerPlace, logged: LoggedModel, result: TrainingResult) -> None:
        """Assert that a training is one run and one version."""
        assert list(place.runs()) == ["finished"]
        [kept] = place.models()
        assert (kept.name, kept.version, kept.onnx_model) == (logged.model, logged.version, result.onnx_model)
        assert dict(kept.metadata) == result.metadata(logged.model, logged.run_id)
        assert dict(kept.files) == dict(result.files)


def result_of(
    model: TrainedModel, onnx_model: bytes, framework: str, trainer: str = "", files: Mapping[str, bytes] | None = None
) -> TrainingResult:
    """Return the result of a training on ``lab_samples(2, 1000)``, in a round of its own."""
    data, _ = lab_samples(2, 1000)
    now = datetime.now(UTC)
    return TrainingResult(
        trainer=trainer or framework,
        framework=framework,
        round=uuid.uuid4().hex,
        dataset=Dataset.shipped("lab"),
        data=data,
        model=model,
        onnx_model=onnx_model,
        validation=score(data.validation.y, model.predict(data.validation.x)),
        started_at=now,
        trained_at=now,
        timings={"training": 0.5},
        files={"notes.txt": b"kept beside the model"} if files is None else files,
    )


@cache
def _linear() -> tuple[TrainedModel, bytes]:
    data, _ = lab_samples(2, 1000)
    model = LinearModel(data)
    return model, export_onnx(model, data.validation.x)
