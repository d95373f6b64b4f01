"""Open Inference as its clients use it: gRPC beside MLServer's, binary tensors beside JSON. ``python -m benchmarks.inference``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import grpc

from benchmarks.bulk import model_alone
from benchmarks.load import Run, one_client, run_of
from benchmarks.model import features
from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.servers import Server, started, tensors
from benchmarks.tables import Bar, Table, rounds_of
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.requests.tensor_bytes import tensor_bytes

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ROWS = 10_000
GRPC_AIM, BINARY_AIM = 2.0, 3.0
GRPC_NOTE = (
    "Every server on one core, one client on the other, a call after the other; the client sends the same bytes each time and does not "
    "read the answers. Tensors are raw contents. MLServer is given ready-made features, ours raw records, which it checks and processes; "
    "the model is the same LightGBM model, ours as ONNX. Other work ran on the machine at the same time."
)
BINARY_NOTE = (
    f"{ROWS:,} raw records in one request: five columns, two of them texts. The model's own share (`onnxruntime` on ready-made "
    "features, one thread, measured in the same run) is the same for all and is also taken out: it is most of the time, and no "
    "protocol changes it. Other work ran on the machine at the same time."
)


def measure(*, quick: bool) -> list[Table]:
    """Two tables of gRPC and one of binary tensors."""
    with started(("ours", "ours, V2", "ours, V2 binary", "MLServer")) as (servers, folder):
        beside = [server for server in servers if server.grpc_port]
        tables = [_grpc(title, beside, count, quick=quick) for title, count in _GRPC.items()]
        return [*tables, _binary([server for server in servers if server.name.startswith("ours")], folder, quick=quick)]


_GRPC = {"One record a call over gRPC": 1, "100 records a call over gRPC": 100}


def _grpc(title: str, servers: list[Server], count: int, *, quick: bool) -> Table:
    seconds, rounds = (1.5, 5) if quick else (4.0, 7)
    ways = {f"{server.name}": _calls(server, _message(server, count), seconds) for server in servers}
    runs = rounds_of(ways, rounds)
    table = Table(title, GRPC_NOTE, ["server", "calls/s", "spread", "p50 ms", "p99 ms", "ours is", "aim"], unit="calls/s")
    own = median(run.rate for run in runs["ours"])
    for name, found in runs.items():
        bar = Bar.of(name, [run.rate for run in found])
        table.bars.append(bar)
        p50, p99 = (median(getattr(run, at) for run in found) for at in ("p50", "p99"))
        ratio = own / bar.value
        other = name != "ours"
        table.rows.append([
            name, f"{bar.value:,.0f}", f"{bar.least:,.0f} to {bar.most:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{ratio:.2f} x",
            f">= {GRPC_AIM:g} x" if other else "",
        ])  # fmt: skip
        if other and ratio < GRPC_AIM:
            table.missed.append(f"{title}: ours is {ratio:.2f} x {name}, aimed at {GRPC_AIM:g} x")
    return table


def _message(server: Server, count: int) -> bytes:
    if server.name == "ours":
        request = pb.ModelInferRequest(model_name="champion")
        for name, datatype, values in tensors(count):
            request.inputs.add(name=name, datatype=datatype, shape=[count])
            request.raw_input_contents.append(tensor_bytes(datatype, [value or "" for value in values]))
        return request.SerializeToString()
    rows = features(count)
    request = pb.ModelInferRequest(model_name="lab")
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    return request.SerializeToString()


def _calls(server: Server, message: bytes, seconds: float) -> Callable[[], Run]:
    def run() -> Run:
        times = []
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(METHOD)
            call(message)
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                asked = time.perf_counter()
                call(message)
                times.append(time.perf_counter() - asked)
            return run_of(times, time.perf_counter() - began)

    return run


def _binary(servers: list[Server], folder: Path, *, quick: bool) -> Table:
    seconds, rounds = (1.0, 5) if quick else (2.0, 9)
    bodies = {server.name: server.body(ROWS) for server in servers}

    def way(server: Server) -> Callable[[], float]:
        return lambda: one_client(server, bodies[server.name], seconds).p50 / 1000

    model = model_alone(folder, ROWS)
    ways = {server.name: way(server) for server in servers}
    times = rounds_of({**ways, "the model alone": lambda: median(model() for _ in range(5))}, rounds)
    alone = median(times.pop("the model alone"))
    title = f"{ROWS:,} rows: binary tensors and JSON"
    head = ["request", "ms", "spread", "without the model, ms", "binary is", "binary is, without the model"]
    table = Table(title, BINARY_NOTE, head, unit="ms")
    own = median(times["ours, V2 binary"])
    for name, found in times.items():
        bar = Bar.of(name, [1000 * each for each in found])
        table.bars.append(bar)
        rest = bar.value / 1000 - alone
        whole, without = bar.value / 1000 / own, rest / (own - alone)
        table.rows.append([
            name, f"{bar.value:.1f}", f"{bar.least:.1f} to {bar.most:.1f}", f"{rest * 1000:.1f}", f"{whole:.2f} x", f"{without:.2f} x",
        ])  # fmt: skip
        if name == "ours, V2" and without < BINARY_AIM:
            table.missed.append(f"{title}: binary is {without:.2f} x JSON without the model, aimed at {BINARY_AIM:g} x")
    table.rows.append(["the model alone", f"{alone * 1000:.1f}", "", "", "", ""])
    return table


if __name__ == "__main__":
    main(["inference"], quick=quick())
