"""A training round and serving at many records: ``python -m benchmarks.full_round FOLDER [MariaDB | MongoDB]``.

FOLDER is what ``python -m benchmarks.scale --folder FOLDER`` has left: a database with records, processed. On it the program starts
MLflow, the LightGBM trainer, ``ml_serving_mlflow``, and at last ``ml_consumer``, which starts the round; it ends when the champion has
answered. It prints how long each step took, how long other requests took meanwhile, and the most memory of each process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from benchmarks.plant import DATABASES, Plant
from benchmarks.run import keep_tables, write_page
from benchmarks.scale import Scale, Usage, Watch
from benchmarks.tables import Table
from complex_system.domain.laboratory import Laboratory
from complex_system.local.servers import free_port
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat
from complex_system.protocol.serving import PREDICTION_MADE, PredictionMade
from complex_system.protocol.training import (
    CHAMPION_CHANGED,
    COMPARISON_FINISHED,
    TRAINING_FINISHED,
    ChampionChanged,
    ComparisonFinished,
    TrainingFinished,
)

TRAINER = "ml_lightgbm_regression_mlflow"
SERVICES = ("data_processing", "ml_monitoring")
REQUESTS = 200
NOTE = (
    "{database}, {records:,} records, {labelled:,} of them labelled; {rounds} boosting rounds at most. When: since `ml_consumer` "
    "started. Processor time in seconds and most memory in MB (`VmHWM`) of each process since its own start, so with its imports."
)


class FullRound:
    """What happens in a round, and when."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._began = time.monotonic()
        self._served = asyncio.Event()
        self.steps: dict[str, str] = {}

    async def run(self, seconds: float) -> None:
        """Start the consumer and wait until the champion has answered.

        Args:
            seconds: How long to wait.
        """
        client = self._plant.client
        await client.hear(TRAINING_FINISHED, self._trained)
        await client.hear(COMPARISON_FINISHED, self._compared)
        await client.hear(CHAMPION_CHANGED, self._changed)
        await client.hear(PREDICTION_MADE, self._predicted)
        await client.hear(SERVICE_HEARTBEAT, self._beat)
        self._began = time.monotonic()
        self._plant.start_service("ml_consumer")
        async with asyncio.timeout(seconds):
            await self._served.wait()

    def _note(self, step: str, more: str = "") -> None:
        if step not in self.steps:
            self.steps[step] = f"{time.monotonic() - self._began:.0f} s {more}".strip()
            print(step, self.steps[step], flush=True)

    async def _trained(self, message: TrainingFinished) -> None:
        if message.status == "failed":
            raise SystemExit(message.error)
        parts = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in message.timings.items())
        self._note("the training has finished", f"({parts}; samples {message.samples})")

    async def _compared(self, message: ComparisonFinished) -> None:
        self._note("the comparison has finished", f"(hold-out {message.holdout:,}, RMSE {message.champion.rmse:.2f})")

    async def _changed(self, message: ChampionChanged) -> None:
        self._note("there is a champion", f"({message.model} {message.version})")

    async def _predicted(self, _: PredictionMade) -> None:
        if "the comparison has finished" in self.steps:  # else it is the champion of an earlier round
            self._note("the champion has predicted")
            self._served.set()

    async def _beat(self, message: Heartbeat) -> None:
        if message.service == "ml_consumer" and message.state == "working":
            self._note("the round has begun")


def measure(database: str, folder: Path, rounds: int, seconds: float) -> list[Table]:
    """Have a model trained, compared and served, and return tables of the steps and of the processes."""
    page, serving = free_port(), free_port()
    variables = {
        "COMPLEX_SYSTEM_MONITORING_PORT": str(page),
        "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": str(serving),
        "COMPLEX_SYSTEM_BOOSTING_ROUNDS": str(rounds),
        "COMPLEX_SYSTEM_TRAINERS": "lightgbm",
        "COMPLEX_SYSTEM_OUTBOX_DIR": str(folder / "outbox"),
        "COMPLEX_SYSTEM_ROUND_TIMEOUT": str(seconds),
    }
    with Plant(database, SERVICES, folder=folder, mlflow=True, **variables) as plant:
        counts = plant.run(plant.database.counts())
        scale = Scale(plant, database, f"http://127.0.0.1:{page}", counts.processed)
        print("before:", plant.run(scale.quiet()), flush=True)
        for name in (TRAINER, "ml_serving_mlflow"):
            plant.start_service(name)
        plant.run(plant.ready(TRAINER, 300.0))
        watch, full = Watch(), FullRound(plant)
        plant.run(scale.watched(watch, full.run(seconds)))
        print("meanwhile:", watch, flush=True)
        print("after:", plant.run(scale.quiet()), flush=True)
        print("one record by REST:", _predict(f"http://127.0.0.1:{serving}"), flush=True)
        note = NOTE.format(database=database, records=counts.processed, labelled=counts.labelled, rounds=rounds)
        steps = Table(f"A round, {database}", note, ["step", "when"], [list(each) for each in full.steps.items()])
        usage = Usage.of(scale.pids)
        rows = [[name, f"{usage.seconds[name]:.1f}", f"{usage.peak[name]:.0f}"] for name in scale.pids]
        return [steps, Table(f"Processes in a round, {database}", "", ["process", "processor time", "most memory"], rows)]


def _predict(address: str) -> str:
    watch = Watch()
    for record in Laboratory(seed=5).records(REQUESTS):
        body = json.dumps({"records": [record]}).encode()
        asked = HttpRequest(f"{address}/predict", data=body, headers={"Content-Type": "application/json"})
        began = time.perf_counter()
        with urlopen(asked, timeout=60.0) as answer:
            assert json.load(answer)["predictions"]
        watch.times.setdefault("/predict", []).append(time.perf_counter() - began)
    return f"{watch.text('/predict')} ms (median, longest of {REQUESTS})"


def main() -> None:
    """Run it as a program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the plant is stopped, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_round", description=__doc__.split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("database", nargs="?", default="MariaDB", choices=[*DATABASES])
    parser.add_argument("--rounds", type=int, default=100, help="boosting rounds at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which a round is given up")
    parser.add_argument("--keep", action="store_true", help="leave the tables for docs/benchmarks.md")
    chosen = parser.parse_args()
    tables = measure(chosen.database, chosen.folder, chosen.rounds, chosen.seconds)
    for table in tables:
        print(table.markdown())
    if chosen.keep:
        keep_tables("full_round", tables, quick=False)
        write_page()


if __name__ == "__main__":
    main()
