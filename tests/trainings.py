"""Small real trainings, ready to be logged."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.testing.trackers import result_of
from complex_system.tracking.base import TrainingResult
from complex_system.tracking.model_files import SAMPLE_FILE, encode_sample
from complex_system.training.base import TrainedModel, Trainer, TrainingParameters
from complex_system.training.linear import LINEAR, LinearModel
from complex_system.training.onnx import export_onnx
from samples import lab_samples

QUICK = TrainingParameters(seed=3, epochs=6, boosting_rounds=20)
FRAMEWORKS = ("lightgbm", "pytorch", "tensorflow")
PIECEWISE = "piecewise"
"""The other network of PyTorch, where a framework is asked for."""


def trainer(framework: str, parameters: TrainingParameters = QUICK) -> Trainer:
    """The trainer of a framework, prepared; imports the framework."""
    kind: Any
    if framework == "lightgbm":
        from complex_system.training.lightgbm import LightGBMTrainer as kind
    elif framework == "pytorch":
        from complex_system.training.pytorch import PyTorchTrainer as kind
    elif framework == PIECEWISE:
        from complex_system.training.pytorch import PiecewiseTrainer as kind
    else:
        from complex_system.training.tensorflow import TensorFlowTrainer as kind
    made: Trainer = kind(parameters)
    made.prepare()
    return made


def network_from_state(state: bytes) -> Any:
    """The PyTorch network of a saved state dict; only tensors are read from it, never code."""
    import io

    import torch

    from complex_system.training.pytorch import DemonstratorNeuralNet

    content = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    network = DemonstratorNeuralNet(len(content["feature_mean"]), len(content["target_mean"]))
    network.load_state_dict(content)
    return network.eval()


@cache
def quick_model(framework: str) -> tuple[TrainedModel, bytes]:
    """A model of a few steps on few records, native and as ONNX."""
    data, _ = lab_samples(2, 1000)
    model = LinearModel(data) if framework == LINEAR else trainer(framework).fit(data, lambda _: None)
    return model, export_onnx(model, data.validation.x)


@cache
def quick_sample() -> bytes:
    """The sample of raw records that a version carries."""
    dataset = Dataset.load()
    records = list(Laboratory(2).records(100))
    return encode_sample(dataset, pa.Table.from_pylist(records, raw_schema(dataset)))


def quick_result(framework: str, trainer_name: str | None = None) -> TrainingResult:
    """The result of a training in a round of its own."""
    model, onnx = quick_model(framework)
    shown = "pytorch" if framework == PIECEWISE else framework
    return result_of(model, onnx, shown, trainer_name or framework, {SAMPLE_FILE: quick_sample()})
