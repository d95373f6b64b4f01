"""Serves the benchmark's model: ``python -m benchmarks.serve ours|bare <folder> <port> [core] [gRPC port]``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import uvicorn
from typing_extensions import override

from benchmarks.model import DATASET
from complex_system.http.server import RestServer, new_event_loop
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.source import LoadedModel, ModelReference, ModelSource
from complex_system.serving.rest.app import make_app
from complex_system.serving.rest.endpoint import Backend


class FolderSource(ModelSource):
    """The model of the benchmark."""

    label = "the benchmark's folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @override
    def newest(self) -> ModelReference:
        return ModelReference("lab-lightgbm", "1")

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        metadata = json.loads((self._folder / "metadata.json").read_text())
        return LoadedModel((self._folder / "model.onnx").read_bytes(), metadata)


async def make_engine(folder: Path) -> PredictionEngine:
    """Make the engine as the services do."""
    models = ModelManager(FolderSource(folder), Pipeline(DATASET))
    await models.refresh()
    gc.collect()
    gc.freeze()
    return PredictionEngine(models)


async def make_ours(folder: Path) -> Any:
    """Make the application as the services do."""
    return make_app(await make_engine(folder), DATASET)


async def ours(folder: Path, port: int, grpc_port: int) -> None:
    """Serve the application as the services do, and gRPC if it has a port."""
    engine = await make_engine(folder)
    metrics = ServingMetrics(engine.models)
    server = RestServer(make_app(engine, DATASET, metrics=metrics), "127.0.0.1", port)
    await server.start()
    if grpc_port:
        from complex_system.serving.grpc.server import GrpcServer

        await GrpcServer(Backend(engine, metrics), "127.0.0.1", grpc_port).start()
    await asyncio.Event().wait()


def bare(folder: Path, port: int) -> None:
    """The least that serves the model: rows of ready-made features in, numbers out; nothing is checked."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        rows = np.array(msgspec.json.decode(body), dtype=np.float32) if body else np.zeros((0, 16), np.float32)
        values = session.run(["prediction"], {"features": rows})[0] if len(rows) else rows
        answer = msgspec.json.encode(values.ravel().tolist())
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, lifespan="off", log_level="warning")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("kind", choices=["ours", "bare"])
    parser.add_argument("folder", type=Path, help="with the model")
    parser.add_argument("port", type=int)
    parser.add_argument("core", type=int, nargs="?", help="the one to run on; any unless given")
    parser.add_argument("grpc_port", type=int, nargs="?", default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    if given.kind == "ours":
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(ours(given.folder, given.port, given.grpc_port))
    else:
        bare(given.folder, given.port)
