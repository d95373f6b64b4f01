"""Services that act alone: two of each, on hosts whose clocks are an hour apart; the first is killed, or frozen and goes on.

The second takes over, the first comes back as its stand-by, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.keys import new_key
from complex_system.domain.laboratory import Laboratory
from complex_system.local.servers import Server
from complex_system.messaging import lease
from complex_system.messaging.clients import DocumentClient
from complex_system.messaging.subjects import event_subject
from complex_system.messaging.things import to_thing
from complex_system.monitoring.aggregates import HOUR, MINUTE, Rollup
from complex_system.monitoring.history import HOURS, MINUTES
from complex_system.protocol.serving import PREDICTION_MADE, PredictedRecord, PredictionMade
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelRegistry
from plant import FULL, Plant, plant
from support import Ear, TesterService, eventually, running
from training_rounds import StandInLightgbm, StandInPytorch, fill

pytestmark = [
    pytest.mark.timeout(1800 if FULL else 300),
    # MLflow warns of its own and its dependencies' deprecations.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
]

AN_HOUR = 3600.0
TAKEN_OVER = 10.0
"""Seconds within which a stand-by acts where processors are free. Where they are not, all of its steps but the life of the entry take
longer, so the tests wait for longer, and report how long it was."""
assert lease.TTL + 2 * lease.LOOK < TAKEN_OVER - 2.0
LONG = () if FULL else (pytest.mark.long,)
BREAKS = [pytest.param("frozen", marks=LONG), pytest.param("killed", marks=LONG)]
DATABASE, SOURCE, CONSUMER, MONITORING = "database_mongo", "dummy_data_generation", "ml_consumer", "ml_monitoring"


@pytest.fixture
async def system(nats_server: Server, mongo_server: Server, mlflow_server: Server, tmp_path: Path) -> AsyncIterator[Plant]:
    name = f"f{uuid.uuid4().hex[:10]}"
    variables = {
        **mlflow_server.environment(),
        "FASTIOT_MONGO_DB_NAME": name, "MLFLOW_EXPERIMENT_NAME": name, "COMPLEX_SYSTEM_MODEL_PREFIX": name,
        "COMPLEX_SYSTEM_TRAINERS": "lightgbm,pytorch", "COMPLEX_SYSTEM_MIN_LABELLED": "100",
        "COMPLEX_SYSTEM_PREDICTION_INTERVAL": "60", "COMPLEX_SYSTEM_MONITORING_PORT": "0",
        "COMPLEX_SYSTEM_MONITORING_INTERVAL": "1", "COMPLEX_SYSTEM_HEARTBEAT_INTERVAL": "0.5",
        "COMPLEX_SYSTEM_PROCESSING_INTERVAL": "0.2", "COMPLEX_SYSTEM_BATCH_SIZE": "500" if FULL else "10",
        "COMPLEX_SYSTEM_BATCHES_IN_FLIGHT": "2",
    }  # fmt: skip
    async with plant(tmp_path, nats_server, mongo_server, variables, FULL or 3_000, random.randrange(2**31)) as made:
        yield made


class Pair:
    """Two replicas of a service; the clock of the second is an hour ahead."""

    def __init__(self, system: Plant, service: str) -> None:
        self.system, self.service = system, service
        self.first, self.second = f"{service}_a", f"{service}_b"

    async def start(self, acts: Callable[[], Any]) -> None:
        """Start the first one, wait until it acts, and start the second one."""
        self.system.start(self.service, "_a")
        await eventually(acts, 60)
        self.system.start(self.service, "_b", clock=AN_HOUR)
        await eventually(lambda: self._stands_by(self.second, self.first), 90)

    async def break_first(self, how: str, acts: Callable[[], Any] | None = None) -> float:
        """Break the first one; return how long it took until the second one acted."""
        began = time.monotonic()
        if how == "killed":
            self.system.kill(self.first)
        else:
            self.system.children[self.first].signal_group(signal.SIGSTOP)

        def took_over() -> bool:
            return self.system.state(self.second) != "" and "stand-by" not in self.system.detail(self.second)

        try:
            await eventually(acts or took_over, 6 * TAKEN_OVER)
        except AssertionError:
            pytest.fail(
                f"{self.second} did not take over within {6 * TAKEN_OVER:g} s. It said:\n{self.system.log(self.second)}"
            )
        return time.monotonic() - began

    async def come_back(self, how: str) -> None:
        """Let the first one go on: it ends by itself, and is a stand-by when it is started again."""
        if how == "frozen":
            child = self.system.children[self.first]
            child.signal_group(signal.SIGCONT)
            await eventually(lambda: not child.alive, 60)
            assert "this one has to start again as its stand-by" in self.system.log(self.first)
        self.system.start(self.service, "_a")
        await eventually(lambda: self._stands_by(self.first, self.second), 90)

    def _stands_by(self, one: str, other: str) -> bool:
        return (self.system.state(one), self.system.detail(one)) == ("ready", f"stand-by of {other}")


@pytest.mark.long
@pytest.mark.parametrize("how", ["frozen", BREAKS[1]])
async def test_a_stand_by_of_the_source_goes_on_and_every_record_is_there_once(
    how: str, system: Plant, dataset: Dataset, report: Any
) -> None:
    pair = Pair(system, SOURCE)
    system.start(DATABASE)
    system.start("data_processing")
    await pair.start(lambda: system.told)
    assert system.told < system.records
    seconds = await pair.break_first(how)
    await pair.come_back(how)
    await system.finished(pair.second)
    await system.verify(dataset)
    assert system.state(pair.first) == "ready"
    report({"taken over": seconds})


@pytest.mark.parametrize("how", BREAKS)
async def test_a_stand_by_of_the_consumer_ends_the_round_and_there_is_one_champion(
    how: str, system: Plant, dataset: Dataset, report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = system.settings
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.mlflow_tracking_uri)  # for the stand-ins of the trainers
    pair, registry = Pair(system, CONSUMER), ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix)
    system.start(DATABASE)
    await eventually(lambda: system.state(DATABASE) == "ready", 60)
    async with (
        running(TesterService, settings) as tester,
        running(Ear, settings) as ear,
        running(StandInLightgbm, settings, bias=50.0) as slow,
        running(StandInPytorch, settings, bias=150.0),
    ):
        await fill(tester, dataset, 1, 400)
        slow.go_on.clear()
        await pair.start(lambda: slow.asked)
        seconds = await pair.break_first(how)
        slow.go_on.set()
        await eventually(lambda: ear.champions, 60)
        await pair.come_back(how)
        await eventually(lambda: system.state(pair.second) == "ready", 60)

        async def all_told() -> bool:
            return len(await asyncio.to_thread(finished_comparisons, settings)) == len(ear.comparisons)

        await eventually(all_told)
        assert len(ear.comparisons) == len({each.round for each in ear.comparisons})
        assert {each.champion.model for each in ear.comparisons} == {f"{settings.model_prefix}-pytorch"}
        (champion,) = await asyncio.to_thread(registry.champions)
        assert champion.model == f"{settings.model_prefix}-pytorch"
    report({"taken over": seconds})


def finished_comparisons(settings: Settings) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    experiment = client.get_experiment_by_name(settings.mlflow_experiment)
    return list(
        client.search_runs([experiment.experiment_id], "tags.kind = 'comparison' and attributes.status = 'FINISHED'")
    )


@pytest.mark.parametrize("how", BREAKS)
async def test_a_stand_by_of_monitoring_goes_on_with_the_history_and_nothing_is_counted_twice(
    how: str, system: Plant, report: Any
) -> None:
    pair, laboratory, documents = Pair(system, MONITORING), Laboratory(3), DocumentClient(system.client)
    began, sent, ended = time.time(), 0, asyncio.Event()

    async def predict() -> None:
        nonlocal sent
        while not ended.is_set():
            record = PredictedRecord(id=new_key(), record=laboratory.measured_record(), prediction=1.0)
            event = PredictionMade(
                service="ml_serving_mlflow", model="m", version="1", milliseconds=1.0, predictions=(record,)
            )
            await system.client.broker.publish(event_subject(PREDICTION_MADE), to_thing(event, "tester"))
            sent += 1
            await asyncio.sleep(0.02)

    async def counted(kind: str) -> dict[float, int]:
        found = await documents.between(kind, began - 2 * AN_HOUR, began + 3 * AN_HOUR)
        rollups = [Rollup.of_document(each.at, each.body) for each in found]
        return {rollup.at: sum(sums.requests for sums in rollup.latency.values()) for rollup in rollups}

    async def total() -> int:
        return sum((await counted(MINUTES)).values())

    system.start(DATABASE)
    await eventually(lambda: system.state(DATABASE) == "ready", 60)
    await pair.start(lambda: system.state(pair.first) == "ready")
    sending = asyncio.create_task(predict())
    try:
        await eventually(total, 60)
        seconds = await pair.break_first(how)
        before = await total()

        async def goes_on() -> bool:
            return await total() > before + 50

        await eventually(goes_on, 60)
        await pair.come_back(how)
    finally:
        ended.set()
        await sending
    system.children[pair.second].terminate()
    await eventually(lambda: not system.children[pair.second].alive, 30)
    minutes, hours = await counted(MINUTES), await counted(HOURS)
    assert 0 < sum(minutes.values()) <= sent
    # What is missing was sent while nobody held the lease, or was not yet written when the first one was broken.
    assert sum(minutes.values()) >= sent - (TAKEN_OVER + seconds + 8) / 0.02
    # By the database's clock, whatever those of the two replicas say.
    assert all(began - MINUTE <= at <= time.time() for at in minutes)
    by_hour: dict[float, int] = {}
    for at, count in minutes.items():
        by_hour[at // HOUR * HOUR] = by_hour.get(at // HOUR * HOUR, 0) + count
    assert {at: count for at, count in hours.items() if count} == {at: count for at, count in by_hour.items() if count}
    report({"taken over": seconds, "not counted": 0.02 * (sent - sum(minutes.values()))})
