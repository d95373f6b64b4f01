"""100,000 records: in one REST request, and as Arrow pages by a real broker. ``python -m benchmarks.bulk``."""

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
from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.serve import FolderSource
from benchmarks.servers import Server, started
from benchmarks.tables import Bar, Table, rounds_of

COUNT = 100_000
TITLE = "100,000 records at once"
NOTE = (
    "Records a second; the model's own share (`onnxruntime` on ready-made features, one thread, measured in the same run) is "
    "also taken out, because it is the same for everybody."
)


def measure(*, quick: bool) -> list[Table]:
    """The table."""
    rounds = 3 if quick else 7
    with started(("ours", "bare ASGI", "mlflow models serve")) as (servers, folder):
        bodies = {server.name: server.body(COUNT) for server in servers}
        model = model_alone(folder, COUNT)

        def way(server: Server) -> Callable[[], float]:
            return lambda: one_client(server, bodies[server.name], 0.0001, most=1).p50 / 1000

        ways: dict[str, Callable[[], float]] = {f"{server.name}, one REST request": way(server) for server in servers}
        times = rounds_of({**ways, "the model alone": model}, rounds)
        alone = times.pop("the model alone")
        times["ours, Arrow pages over NATS"] = asyncio.run(_by_broker(folder, rounds, model, alone))
    session_seconds = median(alone)
    table = Table(TITLE, NOTE, ["way", "records/s", "spread", "without the model", "seconds"], unit="records/s")
    for name, found in times.items():
        bar = Bar.of(name, [COUNT / seconds for seconds in found])
        table.bars.append(bar)
        rest = median(found) - session_seconds
        without = f"{COUNT / rest:,.0f}" if rest > 0 else ""
        spread = f"{bar.least:,.0f} to {bar.most:,.0f}"
        table.rows.append([name, f"{bar.value:,.0f}", spread, without, f"{median(found):.3f}"])
    table.rows.append(["the model alone", f"{COUNT / session_seconds:,.0f}", "", "", f"{session_seconds:.3f}"])
    return table


def model_alone(folder: Path, count: int) -> Callable[[], float]:
    """Runs the model alone, once, and returns the seconds; done between all the others, so that it has the same machine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    matrix = np.ascontiguousarray(features(count))

    def run() -> float:
        began = time.perf_counter()
        session.run(["prediction"], {"features": matrix})
        return time.perf_counter() - began

    return run


async def _by_broker(folder: Path, rounds: int, model: Callable[[], float], alone: list[float]) -> list[float]:
    from complex_system.domain.pages import raw_schema
    from complex_system.local.servers import NatsServer
    from complex_system.messaging.clients import ServingClient, SystemClient
    from complex_system.messaging.connection import ServiceConnection
    from complex_system.serving.models.source import ModelSource
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
                while service.champion.current is None:  # noqa: ASYNC110 - nothing says that a model was loaded
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
    main(["bulk"], quick=quick())
