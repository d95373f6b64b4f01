"""Networks that are trained by several workers whose shares of the samples are far from equal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from typing_extensions import override

from complex_system.training import pytorch
from complex_system.training.base import TrainingParameters
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.peers import Peers
from complex_system.training.pytorch import PyTorchModel, PyTorchTrainer, ScaledNetwork

T = TypeVar("T")


class Threads:
    """Workers that are threads of this process; tensors travel by gloo."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count = count
        self._folder = folder
        self.one = threading.Lock()
        self.barrier = threading.Barrier(count, timeout=60)
        self._values: list[object] = [None] * count
        self._own = threading.local()

    def run(self, work: Callable[[Peers], T]) -> list[T]:
        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(lambda index: self._work(index, work), range(self.count)))

    def _work(self, index: int, work: Callable[[Peers], T]) -> T:
        store = distributed.FileStore(str(self._folder / "store"), self.count)
        self._own.group = distributed.ProcessGroupGloo(store, index, self.count)
        return work(_Worker(self, index))

    def all_reduce(self, tensor: Tensor) -> None:
        self._own.group.allreduce([tensor]).wait()

    def gather(self, index: int, value: T) -> list[T]:
        self._values[index] = value
        self.barrier.wait()
        found = list(self._values)
        self.barrier.wait()
        return found  # type: ignore[return-value]


class _Trainer(PyTorchTrainer):
    """Makes the same network in all threads: they share the random numbers of the process, which workers have for themselves."""

    def __init__(self, threads: Threads, parameters: TrainingParameters) -> None:
        super().__init__(parameters)
        self._threads = threads

    @override
    def network(self, x: Matrix) -> ScaledNetwork:
        self._threads.barrier.wait()  # from here on no other one seeds
        with self._threads.one, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.parameters.seed)
            return super().network(x)


class _Worker(Peers):
    def __init__(self, threads: Threads, index: int) -> None:
        self._threads = threads
        self.index, self.count = index, threads.count

    @override
    def gather(self, value: T) -> list[T]:
        return self._threads.gather(self.index, value)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Threads:
    made = Threads(2, tmp_path)
    monkeypatch.setattr(pytorch.distributed, "all_reduce", made.all_reduce)
    return made


def test_the_mean_of_workers_weighs_them_by_their_shares(workers: Threads) -> None:
    def work(peers: Peers) -> list[float]:
        tensors = [torch.full((2,), float(peers.index)), torch.full((1, 1), 4.0)]
        pytorch._take_mean(tensors, (0.75, 0.25)[peers.index])
        return [float(value) for tensor in tensors for value in tensor.reshape(-1)]

    assert workers.run(work) == [[0.25, 0.25, 4.0]] * 2


def test_a_share_with_fewer_samples_than_an_epoch_has_steps_is_trained_with(workers: Threads) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(2000, 3)).astype(np.float32)
    y = (2 * x[:, 0] - x[:, 1]).astype(np.float32)
    shares = (slice(0, 1990), slice(1990, 2000))  # below a 64th

    def work(peers: Peers) -> PyTorchModel:
        part = Samples(x[shares[peers.index]], y[shares[peers.index]])
        data = TrainingData(("a", "b", "c"), "y", part, part)
        return _Trainer(workers, TrainingParameters(seed=3, epochs=6)).fit(data, lambda _: None, peers)

    first, second = workers.run(work)
    assert first.history == second.history
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    assert np.sqrt(np.mean((first.predict(x) - y) ** 2)) < 0.5 * y.std()
