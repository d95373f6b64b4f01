"""Signed models: what a trainer of the deployment made passes, and nothing that anybody has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError
from complex_system.serving.models.wandb import WandbDirectorySource
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.signature import require_signature, signed
from complex_system.tracking.wandb import ARTIFACT, ONNX_FILE
from models import linear_onnx, onnx_metadata

KEY = "model-key-1"
MODEL = "lab-lightgbm"


@pytest.fixture
def metadata(dataset: Dataset) -> dict[str, Any]:
    return onnx_metadata(dataset, linear_onnx(dataset, 1.0), MODEL)


def read_again(metadata: dict[str, Any]) -> dict[str, Any]:
    """As a file of it is read, its entries in another order."""
    again: dict[str, Any] = json.loads(json.dumps(metadata, indent=2))
    return dict(reversed(again.items()))


def test_what_is_signed_passes_as_a_file_too(metadata: dict[str, Any]) -> None:
    require_signature("a", MODEL, read_again(signed(metadata, KEY)), KEY)
    assert signed(metadata, "") == metadata
    require_signature("a", MODEL, metadata, "")
    require_signature("a", MODEL, signed(metadata, KEY), "")


def test_what_is_changed_does_not(metadata: dict[str, Any]) -> None:
    good = signed(metadata, KEY)
    changed: list[dict[str, Any]] = [
        metadata,
        signed(metadata, "another"),
        {**good, "signature": ""},
        {**good, "signature": None},
        {**good, "signature": [1]},
        {**good, "sha256": "0" * 64},
        {**good, "more": 1},
        {**good, "declaration": {**good["declaration"], "description": "x"}},
        {name: value for name, value in good.items() if name != "validation"},
    ]
    for each in changed:
        with pytest.raises(ModelRefusedError, match="not signed by a trainer of this deployment"):
            require_signature("lab-lightgbm version 3", MODEL, read_again(each), KEY)
    with pytest.raises(ModelRefusedError, match="signed as the model 'lab-lightgbm'"):
        require_signature("lab-pytorch version 1", "lab-pytorch", good, KEY)


def test_an_artifact_in_the_folder_is_checked_before_it_is_used(dataset: Dataset, tmp_path: Path) -> None:
    onnx_model = linear_onnx(dataset, 1.0)
    store = ArtifactStore(tmp_path)
    source = WandbDirectorySource(store, KEY)
    metadata = onnx_metadata(dataset, onnx_model, ARTIFACT)
    store.write({ONNX_FILE: onnx_model}, metadata)
    reference = source.newest()
    assert reference is not None
    with pytest.raises(ModelRefusedError, match="not signed"):
        source.load(reference)
    assert WandbDirectorySource(store).load(reference).onnx_model == onnx_model
    store.write({ONNX_FILE: onnx_model}, signed(metadata, KEY))
    reference = source.newest()
    assert reference is not None
    assert source.load(reference).onnx_model == onnx_model
