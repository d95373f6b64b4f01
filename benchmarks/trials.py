"""Trials and folds on a Ray cluster, and in the service's own process. ``python -m benchmarks.trials``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.tables import Bar, Table, rounds_of
from complex_system.training.base import Trainer, TrainingParameters
from complex_system.training.cluster import ClusterParameters, RayExecutor, imported
from complex_system.training.cross_validation import Keyed, TrainerFit, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.executor import SEQUENTIAL, Executor

NOTE = (
    "{what}, {records} records. In the service's own process, and on Ray clusters with workers of one CPU on this machine, in turn. "
    "Cold: the first time of a training, with the connection, the start of the workers' processes and their imports; warm: again with "
    "the same connection. CPU: processor time while warm, of all processes, Ray's own included, and of the busiest one, below which "
    "no number of free cores brings the time. Results are equal in all of them."
)
OWN = "in the service"
QUICK, FULL = (150, 1), (400, 3)
"""Records and rounds."""


@dataclass(frozen=True)
class Measured:
    """Seconds of one round."""

    cold: float
    warm: float
    processor: float
    busiest: float


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a task."""
    records, rounds = QUICK if quick else FULL
    with _clusters(1, 2) as clusters:
        for what, trainer, task in _tasks(records, quick=quick):
            trainer.prepare()
            results: list[Any] = []

            def measured(
                executor: Executor, task: Callable[[Executor], Any] = task, results: list[Any] = results
            ) -> Measured:
                began = time.perf_counter()
                results.append(task(executor))
                cold, before = time.perf_counter(), _processor_times()
                results.append(task(executor))
                warm, after = time.perf_counter(), _processor_times()
                executor.close()
                spent = [seconds - before.get(process, 0.0) for process, seconds in after.items()]
                return Measured(cold - began, warm - cold, sum(spent), max(spent))

            ways: dict[str, Callable[[], Measured]] = {OWN: lambda: measured(SEQUENTIAL)}
            for workers, address in clusters.items():
                executor = RayExecutor(ClusterParameters(address), trainer.prepare)
                ways[f"{workers} worker{'s' * (workers > 1)}"] = lambda executor=executor: measured(executor)  # type: ignore[misc]
            found = rounds_of(ways, rounds, warm_up=False)
            assert all(np.array_equal(each, results[0]) for each in results)
            yield _table(what, records, found)


def _tasks(records: int, *, quick: bool) -> Iterator[tuple[str, Trainer, Callable[[Executor], Any]]]:
    from complex_system.training.lightgbm import LightGBMTrainer
    from complex_system.training.pytorch import PiecewiseTrainer

    draw = np.random.default_rng(records)
    x = draw.normal(size=(records, 8)).astype(np.float32)
    y = (3 * x[:, 0] + np.sin(3 * x[:, 1]) + x[:, 2] * x[:, 3] + draw.normal(0, 0.5, records)).astype(np.float32)
    samples = Samples(x, y)
    few = Keyed(tuple(f"key {each}" for each in range(records)), samples)
    data = TrainingData(
        tuple("abcdefgh"), "y", samples.of(np.arange(records // 5, records)), samples.of(np.arange(records // 5))
    )
    trees = LightGBMTrainer(TrainingParameters(lightgbm_trials=12 if quick else 30, lightgbm_seconds=3600))
    network = PiecewiseTrainer(TrainingParameters(epochs=4 if quick else 200))

    def search(executor: Executor) -> Any:
        found = trees.tuned(data, few, executor=executor).found
        return [found.rounds, found.gain] if found else []

    def folds(executor: Executor) -> Any:
        return out_of_fold(TrainerFit.of(network, data), few, executor=executor).predictions

    yield f"LightGBM's search, {trees.parameters.lightgbm_trials} trials in 10 folds", trees, search
    yield "Cross-validation of PyTorch's network, 10 folds", network, folds


@contextmanager
def _clusters(*sizes: int) -> Iterator[dict[int, str]]:
    """Start a cluster of each size, with free ports; return the addresses."""
    imported()
    from ray.cluster_utils import Cluster

    made = {
        size: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}) for size in sizes
    }
    try:
        for size, cluster in made.items():
            for _ in range(size):
                cluster.add_node(num_cpus=1)
        yield {size: cluster.address for size, cluster in made.items()}
    finally:
        for cluster in made.values():
            cluster.shutdown()


def _processor_times() -> dict[int, float]:
    """Return the seconds that this process, and all that it has started, have computed, by process."""
    found: dict[int, float] = {}
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _table(what: str, records: int, found: dict[str, list[Measured]]) -> Table:
    head = [
        "way",
        "cold, s",
        "warm, s",
        "spread",
        "as fast as in the service",
        "CPU, s",
        "CPU of the service's",
        "busiest, s",
    ]
    table = Table(f"On a cluster: {what}", NOTE.format(what=what, records=records), head, unit="s, warm")
    own = found[OWN]
    for name, rounds in found.items():
        bar = Bar.of(name, [each.warm for each in rounds])
        gain = [alone.warm / each.warm for alone, each in zip(own, rounds, strict=True)]
        processor = float(np.median([each.processor for each in rounds]))
        row = [
            name, f"{np.median([each.cold for each in rounds]):.1f}", f"{bar.value:.1f}", f"{bar.least:.1f} to {bar.most:.1f}",
            f"{np.median(gain):.2f} x ({min(gain):.2f} to {max(gain):.2f})", f"{processor:.1f}",
            f"{processor / float(np.median([each.processor for each in own])):.2f} x",
            f"{np.median([each.busiest for each in rounds]):.1f}",
        ]  # fmt: skip
        table.rows.append(row)
        table.bars.append(bar)
    return table


if __name__ == "__main__":
    main(["trials"], quick=quick())
