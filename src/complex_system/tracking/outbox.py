"""Trained models on their way to the tracking server: kept on disk until it has them, so that a restart loses none.

A training is written here before it is logged, and removed afterwards; what a restart finds here is logged then. Nothing that is read
back can run code: JSON, arrays, the ONNX model, and the framework's own model in a format without code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import astuple
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from complex_system.domain.dataset import Dataset
from complex_system.domain.partition import BY_KEY
from complex_system.errors import DeclarationError, TrainingFailedError
from complex_system.protocol.base import Message
from complex_system.protocol.scores import CrossValidation, Scores
from complex_system.tracking.base import TrainingResult
from complex_system.tracking.model_files import TRAINING
from complex_system.training.base import Parameter, Progress, Trainer
from complex_system.training.data import Samples, TrainingData

log = logging.getLogger(__name__)

MAX_KEPT = 5
"""Trainings of one trainer that are kept; of more, the oldest are given up."""
_NO_REFERENCE = b"null"
_MANIFEST, _ARRAYS, _ONNX, _NATIVE = "training.json", "data.npz", "model.onnx", "native"
_FILES = "files"
_WRITING = ".writing-"
_PARTS = ("train", "validation", "calibration")
"""Of the last one there may be none."""


class KeptTraining(NamedTuple):
    """A training in the outbox.

    Attributes:
        path: Its folder.
        round: Id of its round.
    """

    path: Path
    round: str


class _Manifest(Message, frozen=True, kw_only=True):
    """What is not in another file.

    Attributes:
        trainer: Name of the trainer.
        framework: Its framework.
        round: Id of the training round.
        declaration: The data set's declaration.
        target: The column that is predicted.
        feature_names: Names of the features, in the model's order.
        validation: Scores on the validation part.
        started_at: Begin of the training.
        trained_at: End of the training.
        timings: Seconds by step.
        reference: The distribution of the training data, for drift, as JSON; ``null`` where there is none.
        cross_validation: Scores in the folds; None where there were none.
        parameters: Hyperparameters.
        history: Step, steps in all, training and validation error of each report.
        best_step: The step whose model it is.
        copies: Copies among the labelled records.
        split: By what the records were divided; a release that did not write it divided them by their keys.
        arrived: When the newest labelled record arrived, with a split by group or time; else 0.
        until: The latest time of both parts, with a split by time; else None.
    """

    trainer: str
    framework: str
    round: str
    declaration: dict[str, Any]
    target: str
    feature_names: tuple[str, ...]
    validation: Scores
    started_at: datetime
    trained_at: datetime
    timings: dict[str, float]
    reference: msgspec.Raw
    cross_validation: CrossValidation | None
    parameters: dict[str, Parameter]
    history: list[tuple[int, int, float, float]]
    best_step: int
    copies: int = 0
    split: str = BY_KEY
    arrived: float = 0.0
    until: float | None = None


class Outbox:
    """The trainings of one trainer that the tracking server does not have yet. Blocking."""

    def __init__(self, folder: Path) -> None:
        """Prepare an outbox; nothing is written yet.

        Args:
            folder: Of this trainer alone; made when it is needed.
        """
        self._folder = folder

    def keep(self, result: TrainingResult) -> KeptTraining:
        """Write a training; it is there completely or not at all.

        Raises:
            OSError: It cannot be written.
        """
        data, model = result.data, result.model
        manifest = _Manifest(
            trainer=result.trainer, framework=result.framework, round=result.round, declaration=result.dataset.as_content(),
            target=data.target, feature_names=data.feature_names, validation=result.validation, started_at=result.started_at,
            trained_at=result.trained_at, timings=result.timings, reference=msgspec.Raw(result.reference or _NO_REFERENCE),
            cross_validation=result.cross_validation, parameters=dict(model.parameters),
            history=[astuple(each) for each in model.history], best_step=model.best_step,
            copies=data.copies, split=data.split, arrived=data.arrived, until=data.until,
        )  # fmt: skip
        name = f"{result.trained_at:%Y%m%dT%H%M%S%f}-{hashlib.sha256(result.round.encode()).hexdigest()[:8]}"
        target = self._folder / name
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clean()
        folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self._folder))
        try:
            (folder / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
            parts = {part: samples for part in _PARTS if (samples := getattr(data, part)) is not None}
            arrays = {f"{part}_{axis}": getattr(samples, axis) for part, samples in parts.items() for axis in "xy"}
            with (folder / _ARRAYS).open("wb") as file:
                np.savez(file, **arrays)
            (folder / _ONNX).write_bytes(result.onnx_model)
            (folder / _NATIVE).write_bytes(model.saved())
            for inner, files in ((_FILES, result.files), (TRAINING, result.training)):
                (folder / inner).mkdir()
                for file_name, content in files.items():
                    (folder / inner / file_name).write_bytes(content)
            for path in (*folder.glob("*/*"), *folder.iterdir(), folder):
                _sync(path)
            if not target.is_dir():
                folder.rename(target)
            _sync(self._folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._bound()
        return KeptTraining(target, result.round)

    def remove(self, kept: KeptTraining) -> None:
        """Remove a training that was logged."""
        # Renamed first: what is removed halfway must not be found again.
        gone = kept.path.with_name(f"{_WRITING}{kept.path.name}")
        try:
            kept.path.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def trainings(self) -> list[KeptTraining]:
        """Return what is kept, the oldest first."""
        found = []
        for path in self._folders():
            try:
                manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
                found.append(KeptTraining(path, str(manifest["round"])))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("The training in %s cannot be read, and is not logged: %r", path, error)
        return found

    def load(self, kept: KeptTraining, trainer: Trainer) -> TrainingResult:
        """Read a training back.

        Args:
            kept: Which one.
            trainer: Of the framework; reads its model.

        Raises:
            TrainingFailedError: It cannot be read with this release.
        """
        try:
            manifest = msgspec.json.decode((kept.path / _MANIFEST).read_bytes(), type=_Manifest)
            with np.load(kept.path / _ARRAYS, allow_pickle=False) as arrays:
                there = [part for part in _PARTS if f"{part}_x" in arrays]
                parts = {part: Samples(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in there}
            history = [Progress(*each) for each in manifest.history]
            model = trainer.restored(
                (kept.path / _NATIVE).read_bytes(), manifest.feature_names, manifest.parameters, history, manifest.best_step
            )
            about = manifest.feature_names, manifest.target
            data = TrainingData(
                *about,
                parts["train"],
                parts["validation"],
                manifest.copies,
                manifest.split,
                arrived=manifest.arrived,
                until=manifest.until,
                calibration=parts.get("calibration"),
            )
            return TrainingResult(
                trainer=manifest.trainer, framework=manifest.framework, round=manifest.round,
                dataset=Dataset.restored(manifest.declaration), data=data, model=model,
                onnx_model=(kept.path / _ONNX).read_bytes(), validation=manifest.validation, started_at=manifest.started_at,
                trained_at=manifest.trained_at, timings=manifest.timings,
                reference=None if bytes(manifest.reference) == _NO_REFERENCE else bytes(manifest.reference),
                cross_validation=manifest.cross_validation, files=_files_of(kept.path / _FILES),
                training=_files_of(kept.path / TRAINING),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, DeclarationError, msgspec.MsgspecError) as error:
            raise TrainingFailedError(
                f"The training in {kept.path.name} cannot be read with this release: {error}"
            ) from error

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _clean(self) -> None:
        """Remove what an earlier process wrote, or removed, halfway."""
        for path in self._folder.glob(f"{_WRITING}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _bound(self) -> None:
        for path in self._folders()[:-MAX_KEPT]:
            log.warning("The training %s is given up: %d newer ones wait for the tracking server", path.name, MAX_KEPT)
            shutil.rmtree(path, ignore_errors=True)


def _files_of(folder: Path) -> dict[str, bytes]:
    # An earlier release wrote none.
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
