"""Open Inference as its clients use it: gRPC beside MLServer's, binary tensors beside JSON. ``python -m benchmarks.inference``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median

import grpc

from benchmarks.bulk import model_alone
from benchmarks.load import Run, one_client, run_of
from benchmarks.model import features
from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.servers import BINARY, FEATURES, V2, Server, started, tensors
from benchmarks.tables import Bar, Table, rounds_of
from complex_system.serving.grpc import open_inference_pb2 as pb
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
_GRPC = {"One record a call over gRPC": 1, "100 records a call over gRPC": 100}


@dataclass(frozen=True)
class _Calls(Run):
    """A run, with the processor time of the server in milliseconds a call."""

    processor: float


def measure(*, quick: bool) -> list[Table]:
    """Two tables of gRPC, and one of binary tensors."""
    with started(("ours", V2, V2 + BINARY, V2 + FEATURES, V2 + BINARY + FEATURES, "MLServer")) as (servers, folder):
        ours, *others = (server for server in servers if server.grpc_port)
        beside = [ours, replace(ours, name="ours" + FEATURES), *others]
        tables = [_grpc(title, beside, count, quick=quick) for title, count in _GRPC.items()]
        return [*tables, _binary([server for server in servers if server.name.startswith("ours")], folder, quick=quick)]


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
