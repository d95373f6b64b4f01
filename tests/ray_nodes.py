"""A Ray cluster of several nodes on this machine, and functions for its workers."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from complex_system.domain.columns import ARRIVED
from complex_system.domain.dataset import Dataset
from complex_system.training.base import TrainingParameters
from complex_system.training.cluster import ClusterParameters, imported
from complex_system.training.conformal import set_apart_by_content
from complex_system.training.cross_validation import Fit, Keyed, Predict
from complex_system.training.data import SampleCollector, Samples, TrainingData
from complex_system.training.executor import Look, never
from complex_system.training.split import Part
from samples import processed_page

FOLDERS = (Path(__file__).parent, Path(__file__).parents[1] / "src")
"""What workers import from."""


class Nodes:
    """A head, and nodes with one worker each."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.workers: list[Any] = []

    @property
    def parameters(self) -> ClusterParameters:
        return ClusterParameters(self.cluster.address)

    def use(self, workers: int, **resources: int) -> None:
        """Start or end nodes until there are so many; new ones have those resources, too."""
        while len(self.workers) < workers:
            self.workers.append(added(self.cluster, num_cpus=1, **resources))
        while len(self.workers) > workers:
            self.cluster.remove_node(self.workers.pop(), allow_graceful=True)
        drop_files()
        self.cluster.wait_for_nodes()

    def kill_head(self) -> None:
        self.cluster.head_node.kill_gcs_server()

    def kill(self) -> None:
        """Kill the node that was started last, with its worker."""
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)
        drop_files()

    def end(self) -> None:
        """End all nodes, and forget them."""
        self.cluster.shutdown()
        self.workers.clear()
        del self.cluster
        drop_files()


def drop_files() -> None:
    """Drop files that Ray opened for its processes and does not close: else a later test is warned of them, which is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def added(cluster: Any, **options: Any) -> Any:
    """Add a node, the head first. Ray gives it 30 s, which may not be enough on a busy machine."""
    for _ in range(4):
        with suppress(Exception):
            return cluster.add_node(wait=False, **options)
        drop_files()
    return cluster.add_node(wait=False, **options)


@contextmanager
def ray_nodes() -> Iterator[Nodes]:
    """Start the head of a cluster on free ports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        imported()
        from ray.cluster_utils import Cluster

        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, FOLDERS))
        nodes = Nodes(Cluster())
        added(nodes.cluster, num_cpus=0, include_dashboard=False)
        try:
            yield nodes
        finally:
            nodes.end()
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


SEARCHED = TrainingParameters(seed=5, epochs=4, boosting_rounds=60, lightgbm_trials=14, lightgbm_seconds=3600)


def bent(records: int) -> tuple[TrainingData, Keyed]:
    """Records of a function that trees and networks learn something of, as a training has them, and as few."""
    draw = np.random.default_rng(records)
    x = draw.normal(size=(records, 5)).astype(np.float32)
    y = (3 * x[:, 0] + np.sin(3 * x[:, 1]) + x[:, 2] * x[:, 3] + draw.normal(0, 0.5, records)).astype(np.float32)
    samples, names = Samples(x, y), tuple("abcde")
    train, validation = (samples.of(part) for part in (np.arange(records // 5, records), np.arange(records // 5)))
    return TrainingData(names, "y", train, validation), Keyed(tuple(f"key {i}" for i in range(records)), samples)


def wait_for(check: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def squared(item: int, look: Look) -> int:
    look()
    return item**2


def visible_gpus(item: int, look: Look) -> list[str]:
    """Numbers of the GPUs that a framework would see."""
    return [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",") if each]


def refused(item: int, look: Look) -> int:
    if item == 2:
        raise ValueError(f"not {item}")
    return item


@dataclass(frozen=True)
class Noted:
    """Notes in a folder which item was begun by which process; then waits until the folder has a file ``go``, but for some items."""

    folder: Path
    free: tuple[int, ...] = ()

    def __call__(self, item: int, look: Look) -> int:
        self.note(item, look)
        return item

    def note(self, item: object, look: Look) -> None:
        (self.folder / f"{item}.{os.getpid()}").touch()
        until = time.monotonic() + 120
        while item not in self.free and not (self.folder / "go").exists() and time.monotonic() < until:
            look()
            time.sleep(0.01)

    @property
    def begun(self) -> list[tuple[str, str]]:
        """Items, with the process that began them."""
        return [(path.stem, path.suffix) for path in self.folder.iterdir() if path.suffix]


@dataclass(frozen=True)
class NotedFit:
    """A fit that is noted."""

    fit: Fit
    noted: Noted

    def __call__(self, train: Samples, validation: Samples, look: Look = never) -> Predict:
        self.noted.note(f"{float(train.y.sum()):.4f}".replace(".", "_"), look)
        return self.fit(train, validation, look)


@dataclass(frozen=True)
class LabPages:
    """Pages of the laboratory, as workers fetch them."""

    seed: int
    records: int
    pages: int = 4

    def __call__(self, index: int, count: int) -> Iterator[pa.Table]:
        for page in range(index, self.pages, count):
            table = processed_page(self.seed + page, self.records // self.pages).table
            yield table.append_column(ARRIVED, pa.array(range(table.num_rows), pa.float64()))

    @property
    def labelled(self) -> int:
        return sum(table.num_rows for table in self(0, 1))

    def data(self) -> TrainingData:
        """What one worker alone would train on."""
        dataset = Dataset.load()
        collector = SampleCollector(dataset, [Part.TRAIN, Part.VALIDATION])
        for table in self(0, 1):
            collector.add(table)
        return set_apart_by_content(dataset, collector.training_data(), self.labelled)
