"""What explanations cost: processor time of one record, and of a model as a whole. ``python -m benchmarks.explain``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.tables import Table
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory, truth_of
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.explanation.model import explain_model
from complex_system.explanation.shapley import Explainer
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.runtimes import OnnxRuntime
from complex_system.training.base import Trainer
from complex_system.training.data import Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.onnx import export_onnx
from complex_system.training.pytorch import PyTorchTrainer

RECORDS = 10_000
WIDE = 57
AIMS = {"lab": 20.0, f"{WIDE} numbers": 150.0}
"""Milliseconds that the explanation of one record may take."""
ADD_UP = 1e-3
"""How far base and contributions may miss the prediction, in standard deviations of the target."""
NOTE = (
    f"Processor time in milliseconds, median and most of {{rounds}} records. Models of {RECORDS:,} records. The lab has five raw "
    f"columns that models see, so all coalitions are evaluated; {WIDE} numbers are sampled. *Sum* is how far base and contributions "
    "miss the prediction, in standard deviations of the target. *Model* is what importance and effects add to a round."
)


class Data(NamedTuple):
    """Records with their target."""

    name: str
    pipeline: Pipeline
    records: list[Record]
    target: np.ndarray[Any, Any]


def measure(*, quick: bool) -> Table:
    """A row a data set and framework."""
    rounds = 30 if quick else 100
    head = ["data", "framework", "method", "background", "one record", "most", "one prediction", "sum", "model"]
    table = Table("Explain a prediction, and a model", NOTE.format(rounds=rounds), head)
    for data in (_lab(), _wide()):
        for framework, trainer in (("LightGBM", LightGBMTrainer()), ("PyTorch", PyTorchTrainer())):
            trainer.prepare()
            row, typical = _measured(data, trainer, rounds)
            table.rows.append([data.name, framework, *row])
            if typical > AIMS[data.name]:
                table.missed.append(f"{data.name}, {framework}: {typical:.0f} ms, at most {AIMS[data.name]:.0f} ms")
    return table


def _measured(data: Data, trainer: Trainer, rounds: int) -> tuple[list[str], float]:
    pipeline, names = data.pipeline, data.pipeline.dataset
    x = pipeline.features(data.records)
    first, second = RECORDS * 7 // 10, RECORDS * 17 // 20
    parts = [Samples(x[part], data.target[part]) for part in (slice(first), slice(first, second), slice(second, None))]
    training = TrainingData(names.feature_names, names.target, parts[0], parts[1])
    onnx_model = export_onnx(trainer.fit(training, lambda _: None), parts[1].x)
    runtime = OnnxRuntime("model", onnx_model, x.shape[1])

    def predict(rows: Any) -> list[float]:
        return runtime.run(rows).reshape(-1).tolist()  # type: ignore[no-any-return]

    schema = raw_schema(names)
    known = pa.Table.from_pylist(data.records[:2000], schema)
    explainer = Explainer(pipeline, predict, known)
    explained, single, missed = [], [], []
    for record in data.records[-rounds:]:
        seconds, found = _timed(partial(lambda one: explainer.explain(one, pipeline.features([one])), record))
        explained.append(1000 * seconds)
        single.append(1000 * _timed(partial(lambda one: predict(pipeline.features([one])), record))[0])
        missed.append(abs(explainer.base + sum(found.contributions.values()) - found.prediction))
    worst = max(missed) / float(np.std(data.target))
    if worst > ADD_UP:
        raise AssertionError(f"{data.name}: base and contributions miss the prediction by {worst:g} standard deviations")
    whole, _ = _timed(lambda: explain_model(("m", "1"), pipeline, predict, parts[2].x, parts[2].y, known))
    typical = median(explained)
    cells = [f"{typical:.1f}", f"{max(explained):.1f}", f"{median(single):.3f}", f"{worst:.0e}", f"{1000 * whole:,.0f}"]
    return [explainer.method, str(explainer.size), *cells], typical


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def _lab() -> Data:
    laboratory = Laboratory(3)
    records = [laboratory.complete_record() for _ in range(RECORDS)]
    return Data("lab", Pipeline(Dataset.load()), records, np.array([truth_of(each) for each in records], dtype=np.float32))


def _wide() -> Data:
    """Numbers of which eight matter, with an interaction and a wave."""
    draw, names = np.random.default_rng(1), [f"c{i}" for i in range(WIDE)]
    columns: list[Any] = [{"name": name, "type": "number", "range": [-6, 6]} for name in names]
    columns.append({"name": "y", "type": "number", "optional": True})
    steps = [{"step": "keep", "column": name} for name in names]
    dataset = Dataset.parse_obj({"name": "wide", "target": "y", "columns": columns, "pipeline": steps})
    x = draw.normal(size=(RECORDS, WIDE)).clip(-6, 6)
    y = x[:, :8] @ np.arange(1, 9) + 3 * x[:, 0] * x[:, 1] + 4 * np.sin(x[:, 2]) + draw.normal(size=RECORDS)
    records = [{"_id": str(i), **dict(zip(names, row.tolist(), strict=True))} for i, row in enumerate(x)]
    return Data(f"{WIDE} numbers", Pipeline(dataset), records, y.astype(np.float32))


if __name__ == "__main__":
    main(["explain"], quick=quick())
