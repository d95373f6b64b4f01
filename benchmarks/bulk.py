"""100,000 records: in one REST request, and as Arrow pages by a real broker. ``python -m benchmarks.bulk [--quick]``."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from benchmarks.load import one_client
from benchmarks.model import features, records
from benchmarks.run import main
from benchmarks.serve import FolderSource
from benchmarks.servers import Server
from benchmarks.tables import Table

COUNT = 100_000
TITLE = "100,000 records at once"
NOTE = (
    "Records a second; the model's own share (`onnxruntime` on ready-made features, one thread, measured in the same run) is "
    "also taken out, because it is the same for everybody."
)


def measure(servers: list[Server], *, quick: bool = False, folder: Path | None = None) -> Table:
    """The table."""
    assert folder is not None
    rounds = 3 if quick else 7
    [ours] = [server for server in servers if server.name == "ours"]
    others = [server for server in servers if server.name in ("bare ASGI", "mlflow models serve")]
    bodies = {server.name: server.body(COUNT) for server in [ours, *others]}
    model = _model(folder)
    times: dict[str, list[float]] = {server.name: [] for server in [ours, *others]}
    alone: list[float] = []
    for number in range(rounds + 1):
        alone.append(model())
        for server in [ours, *others]:
            seconds = one_client(server, bodies[server.name], 0.0001, most=1).p50 / 1000
            if number:
                times[server.name].append(seconds)
    times["ours, Arrow pages by the broker"] = asyncio.run(_by_broker(folder, rounds, model, alone))
    session_seconds = median(alone)
    table = Table(TITLE, NOTE, ["way", "records/s", "spread", "without the model", "seconds"])
    for name, found in times.items():
        rates = [COUNT / seconds for seconds in found]
        rest = median(found) - session_seconds
        table.rows.append(
            [
                {"ours": "ours, one REST request"}.get(name, f"{name}, one REST request" if "broker" not in name else name),
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{COUNT / rest:,.0f}" if rest > 0 else "",
                f"{median(found):.3f}",
            ]
        )
    table.rows.append(["the model alone", f"{COUNT / session_seconds:,.0f}", "", "", f"{session_seconds:.3f}"])
    return table


def _model(folder: Path) -> Callable[[], float]:
    """Runs the model alone, once, and returns the seconds; done between all the others, so that it has the same machine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    matrix = np.ascontiguousarray(features(COUNT))

    def run() -> float:
        began = time.perf_counter()
        session.run(["prediction"], {"features": matrix})
        return time.perf_counter() - began

    return run


async def _by_broker(folder: Path, rounds: int, model: Callable[[], float], alone: list[float]) -> list[float]:
    from complex_system.domain.pages import raw_schema
    from complex_system.local.servers import NatsServer
    from complex_system.messaging.client import SystemClient
    from complex_system.messaging.clients import ServingClient
    from complex_system.messaging.connection import ServiceConnection
    from complex_system.serving.sources import ModelSource
    from complex_system.settings import Settings
    from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService

    class BenchmarkService(MlServingMlflowService):
        """The service itself, with the benchmark's model."""

        def make_source(self) -> ModelSource:
            return FolderSource(folder)

    with tempfile.TemporaryDirectory() as place:
        nats = NatsServer(Path(place), port=0)
        nats.start()
        nats.wait_ready()
        os.environ["FASTIOT_CONFIG_DIR"] = place  # FastIoT would read a deployment's environment otherwise
        settings = Settings.of({**nats.environment(), "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "0"})
        try:
            connection = await ServiceConnection.open(settings, "ml_serving_mlflow")
            async with BenchmarkService(broker_connection=connection, settings=settings) as service:
                while service.holder.current is None:  # noqa: ASYNC110 - nothing says that a model was loaded
                    await asyncio.sleep(0.05)
                async with await SystemClient.open(settings, "benchmark") as asker:
                    from complex_system.domain.dataset import Dataset

                    schema = raw_schema(Dataset.load()).remove(0)
                    table = pa.Table.from_pylist(records(COUNT), schema=schema)
                    times = []
                    for number in range(rounds + 1):
                        alone.append(model())
                        began = time.perf_counter()
                        answer = await ServingClient(asker).predict_table(table)
                        assert answer.num_rows == COUNT
                        if number:
                            times.append(time.perf_counter() - began)
            await connection.close()
        finally:
            nats.stop()
    return times


if __name__ == "__main__":
    main(["bulk"])
