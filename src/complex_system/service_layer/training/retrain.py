"""Train a model again on the records that it was trained on, and compare the two."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

import numpy as np

from complex_system.errors import TrainingFailedError
from complex_system.messaging.clients import DatabaseClient, Requester, SystemClient
from complex_system.messaging.operators import connected
from complex_system.settings import Settings
from complex_system.tracking.training_run import load_training_run
from complex_system.training.onnx import export_onnx, run_onnx
from complex_system.training.training_set import read_training_set, rebuilt

TOLERANCE = 1e-6
"""Largest difference of predictions, relative to the standard deviation of the targets."""


async def retrain_run(settings: Settings, run_id: str, say: Callable[[str], None]) -> None:
    """Repeat a training with the servers that settings name; as :func:`retrain`."""
    async with connected(settings, "retrain") as connection:
        client = SystemClient(connection, settings, "retrain")
        await retrain(client, settings.mlflow_tracking_uri, run_id, say, settings.model_key)


async def retrain(
    requester: Requester, tracking_uri: str, run_id: str, say: Callable[[str], None], model_key: str = ""
) -> None:
    """Repeat a training and compare the models. Nothing is logged or registered.

    Args:
        requester: Asks the database service.
        tracking_uri: MLflow server.
        run_id: The run of the training.
        say: Prints a line.
        model_key: With it, the model must be signed by a trainer of this deployment.

    Raises:
        ComplexSystemError: It cannot be repeated, or the model is a different one; the message says why.
    """
    run = await asyncio.to_thread(load_training_run, tracking_uri, run_id, model_key)
    described, listed = read_training_set(run.files)
    label = f"{run.ref.model} {run.ref.version}"
    say(
        f"{label}: {described.train:,} records and {described.validation:,} for validation, pipeline {described.pipeline_version}"
    )
    others = described.other_versions()
    if others:
        say(f"Library versions have changed, so the model may differ: {', '.join(others)}.")
    raw = await DatabaseClient(requester).raw_by_keys(listed.column(0).to_pylist())
    data = await asyncio.to_thread(rebuilt, run.dataset, listed, raw)
    say("All records are there, with the same values.")
    began = time.monotonic()
    model = await asyncio.to_thread(described.trained, data)
    say(f"Trained in {time.monotonic() - began:.1f} s.")
    if hashlib.sha256(model.saved()).hexdigest() == described.model:
        say(f"The same model, bit for bit: SHA-256 {described.model}.")
        return
    x, y = (np.concatenate([getattr(part, axis) for part in (data.train, data.validation)]) for axis in "xy")
    onnx = await asyncio.to_thread(export_onnx, model, data.validation.x, data.validation.y)
    [then] = await asyncio.to_thread(run_onnx, run.onnx, [x])
    [now] = await asyncio.to_thread(run_onnx, onnx, [x])
    spread = float(y.std(dtype=np.float64)) or 1.0
    difference = float(np.max(np.abs(now.astype(np.float64) - then))) / spread
    text = f"its predictions of these records differ by at most {difference:.2g} of the target's standard deviation"
    if not difference <= TOLERANCE:
        why = f" Library versions have changed: {', '.join(others)}." if others else ""
        raise TrainingFailedError(f"{label} is a different model now: {text}, more than {TOLERANCE:g}.{why}")
    say(f"The same model: {text}; up to {TOLERANCE:g} is the rounding of another order of additions.")
