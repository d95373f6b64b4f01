"""Starts the servers that are compared, each alone on the first core of the machine, and stops them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.model import DATASET, features, records, train
from complex_system.serving.requests.tensor_bytes import tensor_bytes

MLSERVER = os.environ.get("MLSERVER_BIN", f"{sys.prefix}-clients/bin/mlserver")
"""MLServer needs pydantic 2, so it lives in an environment of its own, .venv-clients; without it, it is left out."""
CORE = min(os.sched_getaffinity(0))
V2, BINARY, FEATURES = "ours, V2", ", binary", ", features"
"""Names of ways to ask ours: V2, with binary tensors, with ready-made features."""
SERVERS = ("ours", V2, "bare ASGI", "mlflow models serve", "MLServer")


_END = b"}}]}"
"""What the JSON ends with where all tensors are binary."""


@dataclass(frozen=True)
class Server:
    """One that answers, and how it is asked for so many records."""

    name: str
    port: int
    path: str
    content_type: str = "application/json"
    grpc_port: int = 0
    pid: int = 0

    @property
    def processor_seconds(self) -> float:
        """Processor time of its process so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def is_binary(self) -> bool:
        """Whether tensors are binary data behind the JSON."""
        return BINARY in self.name

    def headers(self, body: bytes) -> dict[str, str]:
        """The headers of a request."""
        length = {"Inference-Header-Content-Length": str(body.index(_END) + len(_END))} if self.is_binary else {}
        return {"Content-Type": self.content_type, **length}

    def body(self, count: int) -> bytes:
        """A request of ``count`` records in this server's own protocol."""
        if self.name == "ours":
            return json.dumps({"records": records(count)}).encode()
        if self.name.startswith(V2):
            return _inference_body(tensors(count, ready=FEATURES in self.name), is_binary=self.is_binary)
        rows = features(count).tolist()
        if self.name == "bare ASGI":
            return json.dumps(rows).encode()
        if self.name == "MLServer":
            tensor = {
                "name": "input",
                "shape": [count, len(rows[0])],
                "datatype": "FP32",
                "data": [v for row in rows for v in row],
            }
            return json.dumps({"inputs": [tensor]}).encode()
        return json.dumps({"dataframe_split": {"columns": list(DATASET.feature_names), "data": rows}}).encode()

    def predictions(self, body: bytes) -> list[float]:
        """The predictions of an answer, so that servers can be held against each other."""
        if self.is_binary:
            head = body[: body.index(_END) + len(_END)]
            return np.frombuffer(body[len(head) :], "<f4").astype(float).tolist()  # type: ignore[no-any-return]
        content = json.loads(body)
        if isinstance(content, list):
            return [float(value) for value in content]
        if "outputs" in content:
            return [float(value) for value in content["outputs"][0]["data"]]
        return [float(value) for value in content["predictions"]]


def tensors(count: int, *, ready: bool = False) -> list[tuple[str, str, list[int], list[Any]]]:
    """Name, datatype, shape and values of the raw columns of so many records, or of their ready-made features."""
    if ready:
        rows = features(count)
        return [("features", "FP32", list(rows.shape), rows.ravel().tolist())]
    made = records(count)
    numbers = {column.name for column in DATASET.columns if column.type == "number"}
    return [
        (name, "FP64" if name in numbers else "BYTES", [count], [record.get(name) for record in made])
        for name in made[0]
        if name != "datum"
    ]


def _inference_body(columns: list[tuple[str, str, list[int], list[Any]]], *, is_binary: bool) -> bytes:
    inputs: list[dict[str, Any]] = []
    parts = []
    for name, datatype, shape, values in columns:
        tensor = {"name": name, "shape": shape, "datatype": datatype}
        if is_binary:
            parts.append(tensor_bytes(datatype, [value or "" for value in values] if datatype == "BYTES" else values))
            inputs.append({**tensor, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            inputs.append({**tensor, "data": values})
    wanted = {"parameters": {"binary_data_output": True}} if is_binary else {}
    return json.dumps({**wanted, "inputs": inputs}).encode() + b"".join(parts)


@contextmanager
def started(names: Sequence[str] = SERVERS, *, grpc: bool = False) -> Iterator[tuple[list[Server], Path]]:
    """Trains the model and starts the servers; yields them with the model's folder. This process keeps away from their core.

    Ours listens for gRPC, too, only where that is measured: its library's threads cost requests over REST a few percent.
    """
    with tempfile.TemporaryDirectory() as place:
        train(Path(place))
        with running(Path(place), names, grpc=grpc) as servers:
            if others := os.sched_getaffinity(0) - {CORE}:
                os.sched_setaffinity(0, others)
            yield servers, Path(place)


@contextmanager
def running(folder: Path, names: Sequence[str], *, grpc: bool = False) -> Iterator[list[Server]]:
    """Starts servers by name, and yields those that can be started on this machine."""
    with ExitStack() as stack:
        started: list[Server] = []
        for name in names:
            server = _start(stack, folder, name, started, grpc=grpc)
            if server is None:
                print(f"{name} is not installed here and is left out", file=sys.stderr)
            else:
                _wait(server)
                started.append(server)
        answers = {server.name: server.predictions(_ask(server, server.body(5))) for server in started}
        first = next(iter(answers.values()))
        for name, values in answers.items():
            if not all(abs(a - b) < 1e-2 * max(1, abs(b)) for a, b in zip(values, first, strict=True)):
                raise SystemExit(f"{name} predicts {values} where {next(iter(answers))} predicts {first}")
        yield started


def _start(stack: ExitStack, folder: Path, name: str, started: list[Server], *, grpc: bool) -> Server | None:
    port = _free_port()
    if name.startswith(V2):
        return Server(name, next(each.port for each in started if each.name == "ours"), "/v2/models/champion/infer")
    if name in ("ours", "bare ASGI"):
        command = [sys.executable, "-m", "benchmarks.serve", name.split(maxsplit=1)[0], str(folder), str(port), str(CORE)]
        path = "/predict" if name == "ours" else "/"
        grpc_port = _free_port() if grpc and name == "ours" else 0
        pid = stack.enter_context(_process([*command, str(grpc_port)], {}))
        return Server(name, port, path, grpc_port=grpc_port, pid=pid)
    if name == "mlflow models serve":
        command = ["mlflow", "models", "serve", "-m", str(folder / "mlflow"), "-p", str(port), "--env-manager", "local"]
        command[0] = str(Path(sys.executable).with_name("mlflow"))
        # It starts uvicorn by name.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
        stack.enter_context(_process([*command, "--workers", "1"], environment))
        return Server(name, port, "/invocations")
    if not MLSERVER or not shutil.which(MLSERVER):
        return None
    place = folder / "mlserver"
    place.mkdir(exist_ok=True)
    shutil.copy(folder / "model.txt", place / "model.bst")
    ports = {"http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port()}
    # No worker process: handing a request on to one costs it more than the prediction.
    (place / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False, "host": "127.0.0.1"}))
    model = {"name": "lab", "implementation": "mlserver_lightgbm.LightGBMModel", "parameters": {"uri": "./model.bst"}}
    (place / "model-settings.json").write_text(json.dumps(model))
    pid = stack.enter_context(_process([MLSERVER, "start", str(place)], {"MLSERVER_LOGGING_SETTINGS": ""}))
    return Server(name, port, "/v2/models/lab/infer", grpc_port=ports["grpc_port"], pid=pid)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    log = Path(os.environ.get("BENCHMARK_LOG", os.devnull)).open("ab")  # noqa: SIM115 - the process holds it
    process = subprocess.Popen(
        ["taskset", "-c", str(CORE), *command] if shutil.which("taskset") else command,
        env={**os.environ, **environment},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def _ask(server: Server, body: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", server.path, body, server.headers(body))
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ConnectionError(f"{server.name}: {answer.status} {content[:300]!r}")
        return content
    finally:
        connection.close()


def _wait(server: Server, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    body = server.body(1)
    while True:
        try:
            _ask(server, body)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{server.name} did not start: {error}") from error
            time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
