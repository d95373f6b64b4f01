"""PyTorch: the blueprint's network. The only module that imports ``torch``; import it where it is needed."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from typing_extensions import override

from complex_system.domain.dataset import Loss
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainedModel, Trainer, huber_threshold
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.network import (
    CLIP,
    Course,
    Epoch,
    Pace,
    Scaling,
    learning_rate,
    members_for,
    network_parameters,
    quantiles,
    train_epochs,
)
from complex_system.training.onnx import BATCH, ONNX_INPUT, ONNX_OUTPUT
from complex_system.training.peers import ALONE, Peers

HIDDEN = 10
"""Units of a hidden layer of ``DemonstratorNeuralNet``."""
MEMBER_HIDDEN = 64
"""Units of a hidden layer of a member of ``PiecewiseNeuralNet``."""
MAX_BINS = 10
"""Bins of a feature, at most."""
MIN_BIN_SAMPLES = 20
"""Training samples of a bin, at least."""
WEIGHT_DECAY = 2e-3
TOGETHER_EVERY = 16
"""Steps after which workers that train one network together take the mean of their weights."""
THREADS = 1  # the networks are small, and four trainers share a machine


class ScaledNetwork(nn.Module):
    """A network between buffers that scale features and target.

    The buffers are part of the state dict: the loaded model takes processed features and predicts in the target's own unit.

    Attributes:
        layers: Takes scaled features. Returns predictions in the scaled target's unit, of shape (n, outputs); while it is trained it
            may return more than one for each, side by side, which are trained alike.
        about: What is logged of the architecture.
    """

    hidden: ClassVar[int]
    """Units of a hidden layer."""

    layers: nn.Module
    about: dict[str, Parameter]
    feature_mean: Tensor
    feature_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, layers: nn.Module, input_dim: int, output_dim: int = 1) -> None:
        super().__init__()
        self.layers = layers
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


class DemonstratorNeuralNet(ScaledNetwork):
    """The blueprint's network, input-10-10-output with ReLU."""

    hidden: ClassVar[int] = HIDDEN

    def __init__(self, input_dim: int, output_dim: int = 1) -> None:
        layers = nn.Sequential(
            nn.Linear(input_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, output_dim)
        )
        super().__init__(layers, input_dim, output_dim)
        self.about = {"layers": f"{input_dim}-{HIDDEN}-{HIDDEN}-{output_dim}"}


class PiecewiseEncoding(nn.Module):
    """Features, and behind them how full each of their quantile bins is, 0 to 1: a piecewise-linear encoding.

    Gorishniy, Rubachev and Babenko, On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS 2022.
    """

    feature: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("feature", torch.zeros(bins, dtype=torch.int64))
        self.register_buffer("slope", torch.zeros(bins))
        self.register_buffer("offset", torch.zeros(bins))

    def forward(self, scaled: Tensor) -> Tensor:
        """Return shape (n, features + bins)."""
        if not len(self.slope):
            return scaled
        bins = torch.clamp(scaled[:, self.feature] * self.slope + self.offset, 0.0, 1.0)
        return torch.cat([scaled, bins], dim=1)


def encoding_of(scaled: Matrix) -> PiecewiseEncoding:
    """Return an encoding by quantiles of scaled training features of shape (n, features)."""
    at = np.linspace(0, 1, 1 + min(MAX_BINS, max(2, len(scaled) // MIN_BIN_SAMPLES)))
    # Edges closer than a thousandth of a deviation would make steps of the bins.
    edges = [np.unique(quantiles(column, at).round(3)) for column in scaled.T]
    # A bin that is the only one of its feature is that feature again.
    bins = [(i, low, high) for i, each in enumerate(edges) if len(each) > 2 for low, high in pairwise(each)]
    encoding = PiecewiseEncoding(len(bins))
    for place, (i, low, high) in enumerate(bins):
        encoding.feature[place], encoding.slope[place], encoding.offset[place] = i, 1 / (high - low), low / (low - high)
    return encoding


class Ensemble(nn.Module):
    """Networks with two hidden layers and a linear path beside them, side by side, each from a random start of its own.

    While it is trained it returns the predictions of all members, shape (n, members), otherwise their mean, shape (n, 1).
    """

    def __init__(self, width: int, members: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, members)
        self.first = nn.Linear(width, members * MEMBER_HIDDEN)
        self.second = nn.Parameter(torch.empty(members, MEMBER_HIDDEN, MEMBER_HIDDEN))
        self.second_bias = nn.Parameter(torch.zeros(members, 1, MEMBER_HIDDEN))
        self.last = nn.Parameter(torch.empty(members, MEMBER_HIDDEN, 1))
        nn.init.zeros_(self.linear.weight)
        for weights in (self.second, self.last):
            nn.init.uniform_(weights, -(MEMBER_HIDDEN**-0.5), MEMBER_HIDDEN**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions of ``inputs`` of shape (n, width)."""
        hidden = torch.relu(self.first(inputs)).reshape(-1, len(self.last), MEMBER_HIDDEN).transpose(0, 1)
        hidden = torch.relu(torch.bmm(hidden, self.second) + self.second_bias)
        members: Tensor = torch.bmm(hidden, self.last).squeeze(2).T + self.linear(inputs)
        return members if self.training else members.mean(dim=1, keepdim=True)


class PiecewiseNeuralNet(ScaledNetwork):
    """An ensemble on piecewise-linear encodings: unlike a plain network it bends where the data are, as trees do."""

    hidden: ClassVar[int] = MEMBER_HIDDEN

    def __init__(self, input_dim: int, encoding: PiecewiseEncoding, members: int) -> None:
        bins = len(encoding.slope)
        super().__init__(nn.Sequential(encoding, Ensemble(input_dim + bins, members)), input_dim)
        layers = f"{input_dim + bins}-{MEMBER_HIDDEN}-{MEMBER_HIDDEN}-1"
        self.about = {"layers": layers, "bins": bins, "members": members}


class PyTorchModel(TrainedModel):
    """A trained network."""

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
    distributes: ClassVar[bool] = True
    on_gpus: ClassVar[bool] = True

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
    def fit(self, data: TrainingData, on_progress: ProgressCallback, peers: Peers = ALONE) -> PyTorchModel:
        common = peers.common(data.train, seed=self.parameters.seed)
        scaling = Scaling.of(common, data.loss)
        device = chosen_device(self.parameters.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.parameters.seed)
            network = self.network(scaling.apply(common)[0])
            network.take_scaling(scaling)
            network.to(device)
            threshold = huber_threshold(common.y) / scaling.target_scale
            epochs = _Epochs(self, network, scaling, data, threshold, peers)

            def note(progress: Progress) -> None:
                peers.keep(epochs.state)
                on_progress(progress)

            course = train_epochs(self.parameters, epochs.one, epochs.weights, note, epochs.course)
        assert course.best_weights is not None
        network.layers.load_state_dict(course.best_weights)
        network.to("cpu").eval()  # served, exported and compared there
        about = {"weight_decay": WEIGHT_DECAY, "device": device_name(device), **network.about}
        parameters = network_parameters(self.parameters, data.loss, epochs.pace, network.hidden, **about)
        return PyTorchModel(data.feature_names, parameters, course.history, course.best_step, network)

    def network(self, x: Matrix) -> ScaledNetwork:
        """Make the network that is trained on scaled features ``x``, at random."""
        return DemonstratorNeuralNet(x.shape[1])

    def empty(self, state: Mapping[str, Tensor], width: int) -> ScaledNetwork:
        """Make the network that a state dict of :meth:`network` can be loaded into; KeyError where it is another one's."""
        return DemonstratorNeuralNet(width)

    @override
    def restored(
        self,
        saved: bytes,
        feature_names: tuple[str, ...],
        parameters: Mapping[str, Parameter],
        history: list[Progress],
        best_step: int,
    ) -> PyTorchModel:
        try:
            state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
            network = self.empty(state, len(feature_names))
            network.load_state_dict(state)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise ValueError(f"The bytes are not a model of {type(self).__name__}: {error}") from error
        return PyTorchModel(feature_names, parameters, history, best_step, network.eval())


class PiecewiseTrainer(PyTorchTrainer):
    """Trains a ``PiecewiseNeuralNet``: the members at the same time, on the same batches."""

    @override
    def network(self, x: Matrix) -> ScaledNetwork:
        return PiecewiseNeuralNet(x.shape[1], encoding_of(x), members_for(len(x)))

    @override
    def empty(self, state: Mapping[str, Tensor], width: int) -> ScaledNetwork:
        encoding = PiecewiseEncoding(len(state["layers.0.slope"]))
        return PiecewiseNeuralNet(width, encoding, len(state["layers.1.last"]))


class _Epochs:
    """The epochs of one training. The average of the weights is evaluated and kept, not the weights themselves.

    Workers that train together go over their own samples, and replace their weights by the mean of all every few steps (local SGD; S.
    Stich, ICLR 2019). A worker counts as its samples do: shares may be far from equal. Exchanging the gradients of every step, as
    DistributedDataParallel does, takes two to three times as long as a step of such a small network.

    Attributes:
        course: What has been trained.
    """

    def __init__(
        self, trainer: PyTorchTrainer, network: ScaledNetwork, scaling: Scaling, data: TrainingData, threshold: float, peers: Peers
    ) -> None:  # fmt: skip
        self._layers = network.layers.train()
        self._averaged = copy.deepcopy(network.layers).eval()
        self._scaling, self._peers = scaling, peers
        self._device = network.feature_mean.device
        self._train, self._validation = (
            [torch.from_numpy(part).to(self._device) for part in scaling.apply(samples)]
            for samples in (data.train, data.validation)
        )
        train, self._validated = (int(each) for each in peers.total([len(data.train), len(data.validation)]))
        self._trained = train
        self._share = len(data.train) / train
        self.pace = Pace.of(-(-train // peers.count), trainer.parameters.network_batch)
        self._order = torch.Generator().manual_seed(trainer.parameters.seed + peers.index)
        self._optimizer = torch.optim.Adam(
            self._layers.parameters(),
            lr=learning_rate(trainer.parameters, network.hidden),
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self._steps = 0
        self._loss = _loss(data.loss, threshold)
        self.course: Course[dict[str, Tensor]] = Course()
        if (kept := peers.kept()) is not None:
            self._go_on(kept)

    def one(self) -> Epoch:
        """Go over all training samples in a new order, several times where they are few."""
        x, y = self._train
        order = torch.cat([torch.randperm(len(x), generator=self._order) for _ in range(self.pace.passes)]).to(self._device)
        x, y = x[order], y[order]
        weights: list[Tensor] = list(self._layers.parameters())
        averaged: list[Tensor] = list(self._averaged.parameters())
        squares = 0.0
        for xs, ys in zip(self._batches(x), self._batches(y), strict=True):
            if len(xs):  # a share may have fewer samples than an epoch has steps
                self._optimizer.zero_grad()
                predicted = self._layers(xs)
                # The sum over what is trained side by side, so that each is trained as it would be alone.
                loss = predicted.shape[1] * self._loss(predicted, ys.expand_as(predicted))
                loss.backward()
                self._optimizer.step()
                squares += float(nn.functional.mse_loss(predicted.detach().mean(dim=1, keepdim=True), ys)) * len(xs)
            self._steps += 1
            if self._peers.count > 1 and self._steps % TOGETHER_EVERY == 0:
                _take_mean(weights, self._share)
            with torch.no_grad():
                torch._foreach_lerp_(averaged, weights, 1.0 - self.pace.averaging_at(self._steps))
        if self._peers.count > 1:
            _take_mean([*weights, *averaged], self._share)
        with torch.inference_mode():
            predicted, truth = self._averaged(self._validation[0]), self._validation[1]
            error, lost = float(nn.functional.mse_loss(predicted, truth)), float(self._loss(predicted, truth))
        if self._peers.count == 1:
            return Epoch(self._scaling.rmse(squares / len(x)), self._scaling.rmse(error), lost)
        squares, error, lost = self._peers.total([squares, error * len(truth), lost * len(truth)])
        return Epoch(
            self._scaling.rmse(squares / (self._trained * self.pace.passes)),
            self._scaling.rmse(error / self._validated),
            lost / self._validated,
        )

    def _batches(self, part: Tensor) -> tuple[Tensor, ...]:
        """Cut an epoch's samples into steps: as many on every worker, though their shares differ."""
        if self._peers.count == 1:
            return torch.split(part, self.pace.batch)
        return torch.tensor_split(part, self.pace.steps)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._averaged.state_dict().items()}

    def state(self) -> bytes:
        """Return what the training can go on from after this epoch."""
        target = io.BytesIO()
        kept = {
            "layers": self._layers.state_dict(), "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(), "steps": self._steps,
            "course": {**vars(self.course), "history": [astuple(each) for each in self.course.history]},
        }  # fmt: skip
        torch.save(kept, target)
        return target.getvalue()

    def _go_on(self, state: bytes) -> None:
        kept = torch.load(io.BytesIO(state), map_location=self._device, weights_only=True)
        for part, name in ((self._layers, "layers"), (self._averaged, "averaged"), (self._optimizer, "optimizer")):
            part.load_state_dict(kept[name])
        self._steps = kept["steps"]
        self.course = Course(**{**kept["course"], "history": [Progress(*each) for each in kept["course"]["history"]]})
        self._order.manual_seed(self._order.initial_seed() + 1_000_003 * len(self.course.history))


def _take_mean(tensors: list[Tensor], share: float) -> None:
    """Replace tensors by their mean over all workers, each of which has a share of the samples."""
    with torch.no_grad():
        mean = torch.cat([each.reshape(-1) for each in tensors]).cpu() * share  # on a CPU: gloo exchanges it
        distributed.all_reduce(mean)
        for tensor, part in zip(tensors, torch.split(mean, [each.numel() for each in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def chosen_device(asked: str) -> torch.device:
    """Return a GPU with CUDA for ``auto``, where there is one; a worker of a cluster sees only those that it was given."""
    return torch.device("cuda" if asked == "auto" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return what is logged of a device."""
    return f"gpu ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


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
