"""A tracker: runs and versions of models in a folder, for instance of a file server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from complex_system.errors import TrackingUnavailableError
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult


class FolderTracker(Tracker):
    """Keeps ``runs/<round>-<trainer>.json``, and each version in ``models/<name>/<version>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @override
    def prepare(self) -> None:
        """Import nothing: this tracker needs no library."""

    @override
    def log(self, result: TrainingResult) -> LoggedModel:
        try:
            return self._log(result)
        except OSError as error:  # the disk is full, the file server is away: the trainer tries again
            raise TrackingUnavailableError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def _log(self, result: TrainingResult) -> LoggedModel:
        run_id = f"{result.round}-{result.trainer}"  # the same after a crash, so that it goes on with what it has begun
        run = self.folder / "runs" / f"{run_id}.json"
        run.parent.mkdir(parents=True, exist_ok=True)
        begun = json.loads(run.read_text()) if run.exists() else {}
        name = f"{result.dataset.name}-{result.trainer}"
        version = begun.get("version") or self._next_version(name)
        self._write_run(run, "running", version, result)
        self._write_model(self.folder / "models" / name / version, result, result.metadata(name, run_id))
        self._write_run(run, "finished", version, result)
        return LoggedModel(name, version, run_id, run.resolve().as_uri())

    def _next_version(self, name: str) -> str:
        models = self.folder / "models" / name
        models.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(each.name) for each in models.iterdir()), default=0)
        while True:
            try:
                (models / str(number)).mkdir()  # fails where another trainer has just taken the number
                return str(number)
            except FileExistsError:
                number += 1

    def _write_run(self, run: Path, state: str, version: str, result: TrainingResult) -> None:
        content = {
            "state": state,
            "version": version,
            "parameters": dict(result.model.parameters),
            "validation_rmse": result.validation.rmse,
            **result.sizes,
        }
        _write(run, json.dumps(content, indent=1).encode())

    def _write_model(self, folder: Path, result: TrainingResult, metadata: Mapping[str, Any]) -> None:
        for name, content in result.files.items():
            _write(folder / "files" / name, content)
        _write(folder / "model.onnx", result.onnx_model)
        _write(folder / "metadata.json", json.dumps(metadata).encode())  # last: a version with it is whole


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)  # nobody reads half of it
