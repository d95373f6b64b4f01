"""Open Inference as its clients use it: gRPC beside MLServer's, binary tensors beside JSON, and where the time goes.

``python -m benchmarks.inference``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import lightgbm
import numpy as np
import onnxruntime as ort

from benchmarks.bulk import model_alone
from benchmarks.load import Run, one_client, run_of
from benchmarks.model import features
from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.serve import make_engine
from benchmarks.servers import BINARY, FEATURES, V2, Server, started, tensors
from benchmarks.tables import Bar, Table, rounds_of
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.grpc.messages import inference_request, inference_response
from complex_system.serving.open_inference import requested_batch
from complex_system.serving.requests.tensor_bytes import tensor_bytes

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ROWS = 10_000
GRPC_AIM, BINARY_AIM = 2.0, 3.0
GRPC_NOTE = (
    "Every server on one core, one client on the other, a call after the other; the client sends the same bytes each time and does "
    "not read the answers. Tensors are raw contents. MLServer is given ready-made features; ours raw records, which it checks and "
    "processes, or the same features. The model is the same LightGBM model, ours as ONNX. Both servers are `grpc.aio`; a call of "
    "`ServerLive`, which does nothing, shows what that costs. Other work ran on the machine; the processor time of the server "
    "depends less on it than the clock does."
)
BINARY_NOTE = (
    f"{ROWS:,} records in one request. Raw records have five columns, two of them texts. The model's own share (`onnxruntime` on "
    "ready-made features, one thread, measured in the same run) is the same for all and is also taken out: it is most of the time, "
    "and no protocol changes it. Times are the server's processor time a request. Other work ran on the machine."
)
STEPS_NOTE = (
    "Microseconds of processor time of each step in this process, one after the other, thousands of times, so with warm "
    "caches; in a server that waits for the next call between two of them, each takes two to four times as long. "
    "`ServerLive`, above, is what `grpc.aio` costs beside them. Servers without asyncio are no way out: in one run, beside "
    "other work, a call that does nothing took 0.295 ms with `grpc.aio` on uvloop, 0.334 ms on asyncio's own loop, 0.269 ms "
    "in gRPC's thread pool, and 0.348 ms in the pool with the work handed to the event loop, where the engine lives. "
    "Messages are not the cost either: with raw contents protobuf makes no object of a value, and decoding and encoding "
    "take the share that is shown here."
)
MODEL_NOTE = (
    f"{ROWS:,} ready-made rows, processor milliseconds and the clock, one thread unless it says otherwise. The ONNX model is one tree "
    "ensemble with one output: nothing is computed twice. It is what it is: smaller batches and more threads take more processor "
    "time, and LightGBM itself, too."
)
_GRPC = {"One record a call over gRPC": 1, "100 records a call over gRPC": 100}


@dataclass(frozen=True)
class _Calls(Run):
    """A run, with the processor time of the server in milliseconds a call."""

    processor: float


def measure(*, quick: bool) -> list[Table]:
    """Two tables of gRPC, and one of binary tensors."""
    with started(("ours", V2, V2 + BINARY, V2 + FEATURES, V2 + BINARY + FEATURES, "MLServer"), grpc=True) as (
        servers,
        folder,
    ):
        ours, *others = (server for server in servers if server.grpc_port)
        beside = [ours, replace(ours, name="ours" + FEATURES), *others]
        tables = [_grpc(title, beside, count, quick=quick) for title, count in _GRPC.items()]
        tables.append(asyncio.run(_steps(folder, quick=quick)))
        tables.append(_binary([server for server in servers if server.name.startswith("ours")], folder, quick=quick))
        return [*tables, _model(folder, quick=quick)]


def _grpc(title: str, servers: list[Server], count: int, *, quick: bool) -> Table:
    seconds, rounds = (1.5, 5) if quick else (3.0, 7)
    ways = {server.name: _calls(server, "ModelInfer", _message(server, count), seconds) for server in servers}
    ways |= {f"{server.name}, ServerLive": _calls(server, "ServerLive", b"", seconds / 2) for server in servers}
    runs = rounds_of(ways, rounds)
    head = ["server", "calls/s", "spread", "p50 ms", "p99 ms", "processor ms", "to MLServer", "by processor time", "aim"]
    table = Table(title, GRPC_NOTE, head, unit="calls/s")
    for name, found in runs.items():
        bar = Bar.of(name, [run.rate for run in found])
        table.bars.append(bar)
        p50, p99, processor = (median(getattr(run, at) for run in found) for at in ("p50", "p99", "processor"))
        row = [
            name,
            f"{bar.value:,.0f}",
            f"{bar.least:,.0f} to {bar.most:,.0f}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            f"{processor:.2f}",
        ]
        if "MLServer" not in runs or name not in ("ours", "ours" + FEATURES):
            table.rows.append([*row, "", "", ""])
            continue
        other = runs["MLServer"]
        faster = bar.value / median(run.rate for run in other)
        cheaper = median(run.processor for run in other) / processor
        table.rows.append([*row, f"{faster:.2f} x", f"{cheaper:.2f} x", _aim(GRPC_AIM, max(faster, cheaper))])
        if max(faster, cheaper) < GRPC_AIM:
            table.missed.append(
                f"{title}: {name} is {faster:.2f} x MLServer by the clock, {cheaper:.2f} x by processor time, aimed at {GRPC_AIM:g} x"
            )
    return table


def _message(server: Server, count: int) -> bytes:
    if server.name.startswith("ours"):
        request = pb.ModelInferRequest(model_name="champion")
        for name, datatype, shape, values in tensors(count, ready=FEATURES in server.name):
            request.inputs.add(name=name, datatype=datatype, shape=shape)
            elements = [value or "" for value in values] if datatype == "BYTES" else values
            request.raw_input_contents.append(tensor_bytes(datatype, elements))
        return request.SerializeToString()
    rows = features(count)
    request = pb.ModelInferRequest(model_name="lab")
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    return request.SerializeToString()


def _calls(server: Server, method: str, message: bytes, seconds: float) -> Callable[[], _Calls]:
    def run() -> _Calls:
        times = []
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(METHOD.replace("ModelInfer", method))
            call(message)
            began, before = time.perf_counter(), server.processor_seconds
            while time.perf_counter() - began < seconds:
                asked = time.perf_counter()
                call(message)
                times.append(time.perf_counter() - asked)
            found = run_of(times, time.perf_counter() - began)
            return _Calls(*astuple(found), (server.processor_seconds - before) / found.count * 1000)

    return run


async def _steps(folder: Path, *, quick: bool) -> Table:
    """Times of the steps of a call, for one and for 100 records, raw and as features."""
    engine, found = await make_engine(folder), {}
    predictor = engine.champion.require()
    reader = engine.reader_for(predictor)
    cases = [(name, count) for name in ("ours", "ours" + FEATURES) for count in _GRPC.values()]
    for name, count in cases:
        content = _message(Server(name, 0, ""), count)
        message = pb.ModelInferRequest.FromString(content)
        request = inference_request(message)
        batch = requested_batch(request, reader)
        matrix = batch.features(predictor.pipeline)
        result = await engine.predict_batch(batch, predictor, live=True)
        answer = inference_response(message, request, result)
        # Arguments are bound now: the ways run later.
        steps: dict[str, tuple[Callable[..., object], tuple[Any, ...]]] = {
            "decode the message": (pb.ModelInferRequest.FromString, (content,)),
            "find its tensors": (inference_request, (message,)),
            "read and check the records": (requested_batch, (request, reader)),
            "features": (batch.features, (predictor.pipeline,)),
            "model": (predictor.predict_features, (matrix,)),
            "answer": (inference_response, (message, request, result)),
            "encode it": (answer.SerializeToString, ()),
        }
        for step, (call, arguments) in steps.items():
            found[step, name, count] = lambda call=call, arguments=arguments, count=count: _processor_seconds(
                lambda: call(*arguments), (500 if quick else 2000) // (10 if count > 1 else 1)
            )
    times = rounds_of(found, 5)
    head = ["step", *(f"{count} record{'s' * (count > 1)}{', features' * (FEATURES in name)}" for name, count in cases)]
    table = Table("Where the time of a call over gRPC goes", STEPS_NOTE, head)
    for step in dict.fromkeys(step for step, _, _ in found):
        table.rows.append([step, *(f"{median(times[step, *case]) * 1e6:.1f}" for case in cases)])
    return table


def _model(folder: Path, *, quick: bool) -> Table:
    """Times of the model alone in other ways."""
    matrix = np.ascontiguousarray(features(ROWS))
    native = lightgbm.Booster(model_file=folder / "model.txt")

    def session(threads: int) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def way(size: int, threads: int = 1) -> Callable[[], tuple[float, float]]:
        run = session(threads).run
        return _timed(lambda: [run(["prediction"], {"features": matrix[at : at + size]}) for at in range(0, ROWS, size)])

    ways = {"onnxruntime, as served": way(ROWS)}
    ways |= {f"onnxruntime, {size} rows at a time": way(size) for size in (1000, 100)}
    ways |= {"onnxruntime, two threads": way(ROWS, 2)}
    ways |= {"LightGBM itself": _timed(lambda: native.predict(matrix, num_threads=1))}
    table = Table(f"{ROWS:,} rows: the model alone", MODEL_NOTE, ["way", "processor ms", "spread", "clock ms"])
    for name, found in rounds_of(ways, 5 if quick else 9).items():
        spent, clock = ([1000 * each for each in one] for one in zip(*found, strict=True))
        table.rows.append([name, f"{median(spent):.1f}", f"{min(spent):.1f} to {max(spent):.1f}", f"{median(clock):.1f}"])
    return table


def _timed(call: Callable[[], object]) -> Callable[[], tuple[float, float]]:
    """Seconds of the processor and of the clock."""

    def run() -> tuple[float, float]:
        spent, began = time.process_time(), time.perf_counter()
        call()
        return time.process_time() - spent, time.perf_counter() - began

    return run


def _binary(servers: list[Server], folder: Path, *, quick: bool) -> Table:
    """Times of requests of the same records; those of features end with ``features``."""
    seconds, rounds = (1.0, 5) if quick else (2.0, 7)
    owner = next(server for server in servers if server.pid)
    bodies = {server.name: server.body(ROWS) for server in servers}

    def way(server: Server) -> Callable[[], float]:
        def run() -> float:
            before = owner.processor_seconds
            sent = one_client(server, bodies[server.name], seconds)
            return (owner.processor_seconds - before) / sent.count

        return run

    model = model_alone(folder, ROWS)
    ways = {server.name: way(server) for server in servers}
    times = rounds_of({**ways, "the model alone": lambda: _processor_seconds(model, 5)}, rounds)
    alone = median(times.pop("the model alone"))
    title = f"{ROWS:,} rows: binary tensors and JSON"
    head = ["request", "ms", "spread", "without the model, ms", "binary is", "without the model", "aim"]
    table = Table(title, BINARY_NOTE, head, unit="ms")
    for name, found in times.items():
        bar = Bar.of(name, [1000 * each for each in found])
        table.bars.append(bar)
        rest = bar.value / 1000 - alone
        row = [name, f"{bar.value:.1f}", f"{bar.least:.1f} to {bar.most:.1f}", f"{rest * 1000:.1f}"]
        if BINARY in name:
            table.rows.append([*row, "", "", ""])
            continue
        own = median(times[f"{V2}{BINARY}{FEATURES if name.endswith(FEATURES) else ''}"])
        whole, without = bar.value / 1000 / own, rest / (own - alone)
        table.rows.append([*row, f"{whole:.2f} x", f"{without:.2f} x", _aim(BINARY_AIM, without)])
        if without < BINARY_AIM:
            table.missed.append(f"{title}: binary is {without:.2f} x {name} without the model, aimed at {BINARY_AIM:g} x")
    table.rows.append(["the model alone", f"{alone * 1000:.1f}", "", "", "", "", ""])
    return table


def _aim(aim: float, found: float) -> str:
    return f">= {aim:g} x" + ("" if found >= aim else ", missed")


def _processor_seconds(call: Callable[[], object], count: int) -> float:
    """Processor time of a call, the mean of so many."""
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count


if __name__ == "__main__":
    main(["inference"], quick=quick())
