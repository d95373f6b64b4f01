"""The tracker keeps the contract of trackers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from complex_system.testing.trackers import KeptModel, TrackerContract, TrackerPlace
from my_plant.folder_tracker import FolderTracker


class Folder(TrackerPlace):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tracker(self) -> FolderTracker:
        return FolderTracker(self.folder)

    def runs(self) -> Sequence[str]:
        return [json.loads(path.read_text())["state"] for path in self.folder.glob("runs/*.json")]

    def models(self) -> Sequence[KeptModel]:
        whole = [path.parent for path in self.folder.glob("models/*/*/metadata.json")]
        return [self._kept(folder) for folder in sorted(whole, key=lambda each: int(each.name))]

    def _kept(self, folder: Path) -> KeptModel:
        onnx_model, metadata = (folder / "model.onnx").read_bytes(), json.loads((folder / "metadata.json").read_bytes())
        files = {path.name: path.read_bytes() for path in (folder / "files").iterdir()}
        return KeptModel(folder.parent.name, folder.name, onnx_model, metadata, files)

    def interruptions(self) -> Sequence[AbstractContextManager[Any]]:
        full = OSError(28, "No space left on device")
        return [patch.object(FolderTracker, step, side_effect=full) for step in ("_write_run", "_write_model")]


class TestFolderTracker(TrackerContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> TrackerPlace:
        return Folder(tmp_path)
