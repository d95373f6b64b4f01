"""A registry of its own for each test, and a way to publish models there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.local.servers import Server
from models import linear_onnx, register_onnx


@pytest.fixture
def prefix() -> str:
    """A name prefix of its own, so that no test sees another's models."""
    return f"t{uuid4().hex[:10]}"


@pytest.fixture
def publish(mlflow_server: Server, dataset: Dataset, prefix: str) -> Callable[..., tuple[str, str]]:
    """Registers an ONNX model that answers ``bias`` plus the sum of the features."""

    def make(bias: float, **changes: Any) -> tuple[str, str]:
        return register_onnx(mlflow_server.url, dataset, linear_onnx(dataset, bias), prefix=prefix, **changes)

    return make
