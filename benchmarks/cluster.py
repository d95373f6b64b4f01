"""A fit that two workers of a Ray cluster share, against one process, one core each. ``python -m benchmarks.cluster``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.plant import DATASET, quick
from benchmarks.run import main
from benchmarks.tables import Bar, Table
from complex_system.domain.columns import ARRIVED, ID
from complex_system.training.base import ProgressCallback, TrainedModel, Trainer, TrainingParameters
from complex_system.training.data import TrainingData
from complex_system.training.distributed import SharedFit, _read, fit_on_cluster
from complex_system.training.peers import ALONE, Peers

NOTE = (
    "{count:,} labelled records: pages of 5,000 rows are made by numpy where they are needed, "
    "so that all of the time is our reading of pages (the split's hashes, float32 arrays) and the fit. One process with one core "
    "against two workers of a Ray cluster with one core each, each with half of the pages; {steps}. Processor time is that of the "
    "slower worker, the way that the training has to wait for, and does not count what other work takes from the cores; memory is the "
    "peak of a process above what it has after its imports."
)
PARAMETERS = {
    "lightgbm": TrainingParameters(boosting_rounds=50),
    "pytorch": TrainingParameters(epochs=2),
}
STEPS = {"lightgbm": "50 rounds", "pytorch": "2 epochs"}
AIMS = {"processor time": 1.6, "memory": 0.6}
_ROWS = 5000
_began: tuple[float, float, int] = (0.0, 0.0, 0)


@dataclass(frozen=True)
class SyntheticPages:
    """Pages of labelled processed records that can be learned from, the same whoever makes them."""

    count: int

    def __call__(self, index: int, workers: int) -> Iterator[pa.Table]:
        global _began
        _began = (time.perf_counter(), time.process_time(), psutil.Process().memory_info().rss)
        for page in range(index, self.count // _ROWS, workers):
            draw = np.random.default_rng(page)
            features = {name: draw.random(_ROWS) for name in DATASET.feature_names}
            first, second, third, *_ = features.values()
            target = 300 * first + 100 * np.sin(5 * second) * third + draw.normal(0, 10, _ROWS)
            columns = {ID: [f"{page:08d}-{row:04d}" for row in range(_ROWS)], **features, DATASET.target: target}
            columns[ARRIVED] = np.zeros(_ROWS)
            yield pa.table({name: columns[name] for name in (*DATASET.processed_names, ARRIVED)})


class Measured(Trainer):
    """A trainer whose models have, as a parameter, what each worker needed: seconds, processor seconds, bytes."""

    framework = ""
    distributes = True

    def __init__(self, framework: str) -> None:
        super().__init__(PARAMETERS[framework])
        self.framework = framework  # type: ignore[misc]

    @cached_property
    def _trainer(self) -> Trainer:
        kind: Any
        if self.framework == "lightgbm":
            from complex_system.training.lightgbm import LightGBMTrainer as kind
        else:
            from complex_system.training.pytorch import PyTorchTrainer as kind
        made: Trainer = kind(self.parameters)
        return made

    def prepare(self) -> None:
        self._trainer.prepare()

    def fit(self, data: TrainingData, on_progress: ProgressCallback, peers: Peers = ALONE) -> TrainedModel:
        model = self._trainer.fit(data, on_progress, peers)
        began, processor, memory = _began
        status = Path("/proc/self/status").read_text().splitlines()
        peak = int(next(line for line in status if "VmHWM" in line).split()[1]) * 1024
        mine = (time.perf_counter() - began, time.process_time() - processor, peak - memory)
        model.parameters = {**model.parameters, "measured": json.dumps(peers.gather(mine))}
        return model

    def restored(self, *saved: Any) -> TrainedModel:
        return self._trainer.restored(*saved)

    def __reduce__(self) -> Any:
        return Measured, (self.framework,)


def by_one(framework: str, count: int) -> dict[str, Any]:
    """A fit in this process."""
    work = SharedFit(Measured(framework), DATASET, SyntheticPages(count), 1000)
    work.trainer.prepare()
    data, *_ = _read(work, ALONE)
    model = work.trainer.fit(data, lambda _: None)
    return _told(model, model.history[-1].validation_rmse)


def by_two(framework: str, count: int) -> dict[str, Any]:
    """A fit of two workers of a cluster that is started for it."""
    from complex_system.training.cluster import ClusterParameters, imported

    ray = imported()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    work = SharedFit(Measured(framework), DATASET, SyntheticPages(count), 1000)
    model, fitted = fit_on_cluster(ClusterParameters(ray.get_runtime_context().gcs_address, 2), work, lambda _: None)
    ray.shutdown()
    return _told(model, fitted.validation.rmse)


def _told(model: TrainedModel, rmse: float) -> dict[str, Any]:
    workers = json.loads(str(model.parameters["measured"]))
    seconds, processor, memory = (max(each) for each in zip(*workers, strict=True))
    return {"seconds": seconds, "processor": processor, "memory": memory, "rmse": rmse}


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a framework."""
    count, rounds = (200_000, 1) if quick else (5_000_000, 2)
    for framework in PARAMETERS:
        found: dict[str, list[dict[str, Any]]] = {"one process": [], "two workers": []}
        for _ in range(rounds):
            for place, way in enumerate(found):
                found[way].append(_in_a_process("by_one" if place == 0 else "by_two", framework, count))
        yield _table(framework, count, found)


def _table(framework: str, count: int, found: dict[str, list[dict[str, Any]]]) -> Table:
    note = NOTE.format(count=count, steps=STEPS[framework])
    table = Table(
        f"A fit on a cluster, {framework}", note, ["way", "processor time, s", "wall, s", "memory, MB", "RMSE"], unit="s"
    )
    least = {}
    for way, results in found.items():
        figures = {name: [float(each[name]) for each in results] for name in results[0]}
        least[way] = {name: min(values) for name, values in figures.items()}
        spread = {name: f"{min(values):.1f} to {max(values):.1f}" for name, values in figures.items()}
        memory = f"{least[way]['memory'] / 1e6:.0f}"
        table.rows.append([way, spread["processor"], spread["seconds"], memory, f"{least[way]['rmse']:.3f}"])
        table.bars.append(Bar.of(way, figures["processor"]))
    one, two = least.values()
    quicker, share = one["processor"] / two["processor"], two["memory"] / one["memory"]
    wall = one["seconds"] / two["seconds"]
    ratios = [f"{quicker:.2f} x as fast (aim 1.6)", f"{wall:.2f} x as fast", f"{share:.2f} x (aim 0.6)"]
    table.rows.append(["two against one", *ratios, ""])
    if quicker < AIMS["processor time"]:
        table.missed.append(f"{framework}: {quicker:.2f} x as fast, not 1.6 x")
    if share > AIMS["memory"]:
        table.missed.append(f"{framework}: {share:.2f} x the memory, not 0.6 x")
    return table


def _in_a_process(way: str, framework: str, count: int) -> dict[str, Any]:
    code = f"import json; from benchmarks import cluster; print(json.dumps(cluster.{way}({framework!r}, {count})))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main(["cluster"], quick=quick())
