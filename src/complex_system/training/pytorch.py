"""PyTorch: the blueprint's network. The only module that imports ``torch``; import it where it is needed."""

from __future__ import annotations

import io
import logging
import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from complex_system.domain.dataset import Loss
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainedModel, Trainer, huber_threshold
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.network import CLIP, Epoch, Pace, Scaling, network_parameters, train_epochs
from complex_system.training.onnx import BATCH, ONNX_INPUT, ONNX_OUTPUT

HIDDEN = 10
WEIGHT_DECAY = 2e-3
THREADS = 1  # the networks are small, and four trainers share a machine


class DemonstratorNeuralNet(nn.Module):
    """The blueprint's network, input-10-10-output with ReLU, between buffers that scale features and target.

    The buffers are part of the state dict: the loaded model takes processed features and predicts in the target's own unit.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, input_dim: int, output_dim: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, output_dim)
        )
        self.register_buffer("feature_mean", torch.zeros(input_dim))
        self.register_buffer("feature_scale", torch.ones(input_dim))
        self.register_buffer("target_mean", torch.zeros(output_dim))
        self.register_buffer("target_scale", torch.ones(output_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Return predictions of shape (n, output_dim), in the target's unit."""
        scaled = torch.clamp((features - self.feature_mean) / self.feature_scale, -CLIP, CLIP)
        predicted: Tensor = self.layers(scaled)
        return predicted * self.target_scale + self.target_mean

    def take_scaling(self, scaling: Scaling) -> None:
        """Set the buffers."""
        self.feature_mean.copy_(torch.from_numpy(scaling.feature_mean))
        self.feature_scale.copy_(torch.from_numpy(scaling.feature_scale))
        self.target_mean.fill_(scaling.target_mean)
        self.target_scale.fill_(scaling.target_scale)


class PyTorchModel(TrainedModel):
    """A trained ``DemonstratorNeuralNet``."""

    flavor: ClassVar[str] = "pytorch"

    @override
    def predict(self, x: Matrix) -> Matrix:
        with torch.inference_mode():
            predicted: Matrix = self.native(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))[:, 0].numpy()
        return predicted

    @override
    def saved(self) -> bytes:
        return state_bytes(self)

    @override
    def to_onnx(self) -> bytes:
        # The newer exporter ("dynamo") takes 11 s for this network, the older one 0.6 s; the graphs are the same.
        target = io.BytesIO()
        axes = {ONNX_INPUT: {0: BATCH}, ONNX_OUTPUT: {0: BATCH}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.native, (torch.zeros(2, len(self.feature_names)),), target,  # type: ignore[arg-type]  # the older one takes a file
                dynamo=False,
                input_names=[ONNX_INPUT], output_names=[ONNX_OUTPUT], dynamic_axes=axes,
            )  # fmt: skip
        return target.getvalue()


class PyTorchTrainer(Trainer):
    """Adam on the declared loss, slices of a shuffled tensor, averaged weights, early stopping."""

    framework: ClassVar[str] = "pytorch"

    @override
    def prepare(self) -> None:
        torch.set_num_threads(THREADS)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        import onnxruntime

        del onnxruntime
        # The first step of the first optimizer imports much of torch: do it before somebody waits for it.
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.Adam([parameter], fused=True)
        parameter.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @override
    def fit(self, data: TrainingData, on_progress: ProgressCallback) -> PyTorchModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.parameters.seed)
            network = DemonstratorNeuralNet(len(data.feature_names))
        scaling = Scaling.of(data.train, data.loss)
        network.take_scaling(scaling)
        epochs = _Epochs(self, network, scaling, data)
        course = train_epochs(self.parameters, epochs.one, epochs.weights, on_progress)
        network.layers.load_state_dict(course.best_weights)
        network.eval()
        layers = (len(data.feature_names), HIDDEN, HIDDEN, 1)
        parameters = network_parameters(self.parameters, layers, data.loss, epochs.pace, weight_decay=WEIGHT_DECAY)
        return PyTorchModel(data.feature_names, parameters, course.history, course.best_step, network)

    @override
    def restored(
        self,
        saved: bytes,
        feature_names: tuple[str, ...],
        parameters: Mapping[str, Parameter],
        history: list[Progress],
        best_step: int,
    ) -> PyTorchModel:
        network = DemonstratorNeuralNet(len(feature_names))
        try:
            network.load_state_dict(torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(str(error)) from error
        return PyTorchModel(feature_names, parameters, history, best_step, network.eval())


class _Epochs:
    """The epochs of one training. The average of the weights is evaluated and kept, not the weights themselves."""

    def __init__(
        self, trainer: PyTorchTrainer, network: DemonstratorNeuralNet, scaling: Scaling, data: TrainingData
    ) -> None:
        self._layers = network.layers
        self._averaged = DemonstratorNeuralNet(len(data.feature_names)).layers
        self._averaged.load_state_dict(self._layers.state_dict())
        self._scaling = scaling
        self._train, self._validation = (
            [torch.from_numpy(part) for part in scaling.apply(samples)] for samples in (data.train, data.validation)
        )
        self.pace = Pace.of(len(data.train), trainer.parameters.network_batch)
        self._order = torch.Generator().manual_seed(trainer.parameters.seed)
        self._optimizer = torch.optim.Adam(
            self._layers.parameters(), lr=trainer.parameters.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        self._steps = 0
        self._loss = _loss(data.loss, huber_threshold(data.train.y) / scaling.target_scale)

    def one(self) -> Epoch:
        """Go over all training samples in a new order, several times where they are few."""
        x, y = self._train
        order = torch.cat([torch.randperm(len(x), generator=self._order) for _ in range(self.pace.passes)])
        x, y = x[order], y[order]
        weights: list[Tensor] = list(self._layers.parameters())
        averaged: list[Tensor] = list(self._averaged.parameters())
        squares = 0.0
        for xs, ys in zip(torch.split(x, self.pace.batch), torch.split(y, self.pace.batch), strict=True):
            self._optimizer.zero_grad()
            predicted = self._layers(xs)
            loss = self._loss(predicted, ys)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._steps += 1
            with torch.no_grad():
                torch._foreach_lerp_(averaged, weights, 1.0 - self.pace.averaging_at(self._steps))
            squared = loss if self._loss is nn.functional.mse_loss else nn.functional.mse_loss(predicted, ys)
            squares += float(squared.detach()) * len(xs)
        with torch.inference_mode():
            predicted, truth = self._averaged(self._validation[0]), self._validation[1]
            error, lost = float(nn.functional.mse_loss(predicted, truth)), float(self._loss(predicted, truth))
        return Epoch(self._scaling.rmse(squares / len(x)), self._scaling.rmse(error), lost)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._averaged.state_dict().items()}


def _loss(loss: Loss, threshold: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss; ``threshold`` is Huber's, in the unit of the scaled target."""
    if loss == "huber":
        return partial(nn.functional.huber_loss, delta=threshold)
    return nn.functional.l1_loss if loss == "absolute" else nn.functional.mse_loss


def state_bytes(model: TrainedModel) -> bytes:
    """Return the state dict of a PyTorch model as ``torch.save`` writes it."""
    target = io.BytesIO()
    torch.save(model.native.state_dict(), target)
    return target.getvalue()
