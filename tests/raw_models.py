"""Runs ``raw.onnx`` files with raw records, and what serving makes of the same records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from complex_system.domain.columns import LISTS
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.pipeline.onnx_graph import PREDICTION
from complex_system.pipeline.pipeline import Pipeline

OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = OPTIONS.inter_op_num_threads = 1
OPTIONS.log_severity_level = 3


def inputs(dataset: Dataset, session: Any, records: Sequence[Record]) -> dict[str, npt.NDArray[Any]]:
    """Raw records as the inputs of ``raw.onnx``."""
    made = {}
    for each in session.get_inputs():
        text = each.type == "tensor(string)"
        rows = [record.get(each.name) for record in records]
        column = dataset.column(each.name)
        if column.type not in LISTS:
            missing = [min(column.markers)] if "" in column.categories else None  # an empty text is a category there
            rows = [missing if row is None else [row] for row in rows]
        longest = 6 if column.type in LISTS else 1
        padding = "" if text else np.nan
        padded = [[*(row or []), *[padding] * (longest - len(row or []))] for row in rows]
        made[each.name] = np.array(padded, object if text else np.float64).reshape(len(records), longest)
    return made


def predicted(dataset: Dataset, raw_model: bytes, records: Sequence[Record]) -> npt.NDArray[Any]:
    """What ``raw.onnx`` predicts, shape (n,)."""
    session = onnxruntime.InferenceSession(raw_model, OPTIONS, providers=["CPUExecutionProvider"])
    [answer] = session.run([PREDICTION], inputs(dataset, session, records))
    assert (answer.dtype, answer.shape) == (np.float32, (len(records), 1))
    return np.asarray(answer[:, 0])


def by_serving(dataset: Dataset, model: bytes, records: Sequence[Record]) -> npt.NDArray[Any]:
    """What serving makes of the same records: the pipeline, then the ONNX model."""
    session = onnxruntime.InferenceSession(model, OPTIONS, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": Pipeline(dataset).features(records)})[0][:, 0])
