"""The three hosts of docs/three-hosts, in network namespaces: links are cut, slow, or lose packets while records flow.

Nothing that was acknowledged is lost or doubled, no read is older than what was acknowledged before, and every service comes back.
``HOST_SCHEDULES`` gives the number of random schedules, ``HOST_SEED`` the first one's seed.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.messaging.clients import DatabaseClient, ServingClient
from complex_system.protocol.training import TRAIN_MODEL, TRAINING_FINISHED, TrainingFinished, TrainRequest
from history import check, check_final
from namespaces import KINDS, missing
from support import eventually
from three_hosts import HOSTS, ThreeHosts, three_hosts
from traffic import Fault, Traffic, bring_about, in_turn, random_schedule

SCHEDULES = int(os.environ.get("HOST_SCHEDULES", "3"))
TRAINER = "ml_lightgbm_regression_mlflow"
SEED = int(os.environ.get("HOST_SEED", "1"))

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    """Numbers of the schedules so far."""
    return []


@pytest.fixture(scope="module")
async def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ThreeHosts]:
    if what := missing():
        pytest.skip(what)
    async with three_hosts(tmp_path_factory.mktemp("hosts"), request.param) as made:
        start_services(made)
        await made.ready()
        yield made


MARIA = pytest.mark.parametrize("hosts", ["maria"], indirect=True)
MONGO = pytest.mark.parametrize("hosts", ["mongo"], indirect=True)


def start_services(hosts: ThreeHosts) -> None:
    """The data plane of the example, with a second database service for the replicas' sake."""
    for host in ("data", "training"):
        hosts.start(host, f"database_{hosts.kind}")
    for host in ("data", "serving"):
        hosts.start(host, "data_processing")


async def survive(
    hosts: ThreeHosts, dataset: Dataset, faults: list[Fault], seed: int, number: int, pause: float = 0.05
) -> dict[str, float]:
    """Have links break while records flow, and check everything; return what was measured."""
    traffic = Traffic(hosts, dataset, seed, number, pause)
    traffic.begin()
    try:
        await bring_about(hosts.network, faults)
        healed = time.monotonic()
        ready = await hosts.ready()
    finally:
        await traffic.end()
    raw, processed = await traffic.settled()
    settled = time.monotonic() - healed
    wrong = check(traffic.history) + check_final(traffic.history, raw, processed)
    writes, reads = traffic.history.writes, traffic.history.reads
    assert not wrong, f"{len(wrong)} of {len(writes)} writes and {len(reads)} reads, seed {seed}: " + "\n".join(
        [", ".join(map(str, faults)), *wrong[:20]]
    )
    counts = await hosts.threads["data"].run(hosts.counts())
    assert (counts.rejected, counts.conflicts) == (0, 0)
    assert set(traffic.answered) == {f"database_{hosts.kind}@{host}" for host in ("data", "training")}
    return {
        "ready": ready, "settled": settled, "records": len(raw), "writes": len(writes), "reads": len(reads),
        "unanswered": sum(traffic.errors.values()),
    }  # fmt: skip


@MARIA
@pytest.mark.parametrize("seed", range(SEED, SEED + SCHEDULES))
async def test_a_random_schedule_of_faults(
    hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any, seed: int
) -> None:
    numbers.append(len(numbers))
    faults = random_schedule(seed, hosts.network.links)
    report(await survive(hosts, dataset, faults, seed, numbers[-1]))


@MARIA
async def test_each_fault_on_each_link_in_turn(hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any) -> None:
    numbers.append(len(numbers))
    report(await survive(hosts, dataset, in_turn(hosts.network.links, 5.0), 0, numbers[-1]))


@MARIA
@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_is_alone_for_longer_than_requests_wait(
    hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any, host: str
) -> None:
    numbers.append(len(numbers))
    faults = [Fault(2, 32, link, "cut") for link in hosts.network.links if host in link]
    report(await survive(hosts, dataset, faults, numbers[-1], numbers[-1]))


@MARIA
@pytest.mark.timeout(900)
async def test_the_whole_deployment_survives_each_fault_on_each_link(
    hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any
) -> None:
    """Source, trainer, comparison, serving and monitoring, too; the first champion is trained while links break."""
    records = 3000
    numbers.append(len(numbers))
    await asyncio.to_thread(hosts.start_mlflow)
    hosts.start("training", TRAINER, COMPLEX_SYSTEM_LIGHTGBM_TRIALS="4")
    hosts.start("training", "ml_consumer", COMPLEX_SYSTEM_TRAINERS="lightgbm", COMPLEX_SYSTEM_PREDICTION_INTERVAL="1")
    hosts.start("serving", "ml_serving_mlflow")
    hosts.start("serving", "ml_monitoring", COMPLEX_SYSTEM_MONITORING_INTERVAL="1")
    await eventually(lambda: all(each in hosts.heard["data"] for each in hosts.children), 240)
    source = {"COMPLEX_SYSTEM_RECORDS": str(records), "COMPLEX_SYSTEM_BATCH_SIZE": "25", "COMPLEX_SYSTEM_LIVE_RATE": "2"}
    hosts.start("data", "dummy_data_generation", **source)
    marks = await survive(hosts, dataset, in_turn(hosts.network.links, 5.0), 0, numbers[-1], pause=0.2)
    made = list(Laboratory(1).records(records))
    for host in HOSTS:
        there = await hosts.threads[host].run(DatabaseClient(hosts.clients[host]).raw_by_keys([each[ID] for each in made]))
        assert there.to_pylist() == made
        [prediction] = await hosts.threads[host].run(ServingClient(hosts.clients[host]).predict([made[0]]))
        assert math.isfinite(prediction)
    report(marks)


@MARIA
@pytest.mark.timeout(900)
async def test_trials_run_on_a_cluster_of_two_hosts_while_the_link_between_them_breaks(
    hosts: ThreeHosts, report: Any
) -> None:
    """Ray's head and a worker beside the trainer, another worker on the serving host."""
    began = time.monotonic()
    if hosts.mlflow.child is None:
        await asyncio.to_thread(hosts.start_mlflow)
        records = list(Laboratory(1).records(3000))
        for start in range(0, len(records), 500):
            await hosts.threads["data"].run(hosts.save(records[start : start + 500]))
    elif child := hosts.children.pop(f"{TRAINER}@training", None):
        await asyncio.to_thread(child.stop)
    trainer = await asyncio.to_thread(hosts.start_ray)
    hosts.start("training", TRAINER, **trainer, COMPLEX_SYSTEM_LIGHTGBM_TRIALS="40", COMPLEX_SYSTEM_LIGHTGBM_SECONDS="30")
    await hosts.ready()
    marks = {"started": time.monotonic() - began}
    outcomes: dict[str, TrainingFinished] = {}

    async def hear(outcome: TrainingFinished) -> None:
        outcomes[outcome.round] = outcome

    async def train(name: str) -> TrainingFinished:
        await thread.run(client.ask(TRAIN_MODEL, TrainRequest(round=name, trainers=["lightgbm"])))
        return await eventually(lambda: outcomes.get(name), 300)

    client, thread = hosts.clients["training"], hosts.threads["training"]
    await thread.run(client.hear(TRAINING_FINISHED, hear))
    assert (await train(f"first {time.time_ns()}")).status == "finished"  # without a search, as every first one of a service
    link = ("training", "serving")
    faults = [Fault(1 + 4 * i, 4 + 4 * i, link, kind) for i, kind in enumerate((*KINDS, *KINDS))]
    began = time.monotonic()
    _, outcome = await asyncio.gather(bring_about(hosts.network, faults), train(f"second {time.time_ns()}"))
    marks["trained"] = time.monotonic() - began
    assert outcome.status == "finished", outcome
    assert "searching" in hosts.log(f"{TRAINER}@training")
    assert all(hosts.ray_workers().values()), hosts.ray_workers()
    await hosts.ready()
    report(marks)


@MONGO
async def test_each_fault_on_each_link_on_mongodb(
    hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any
) -> None:
    numbers.append(len(numbers))
    # The stand-in takes a hundredth of what MariaDB does.
    report(await survive(hosts, dataset, in_turn(hosts.network.links, 3.0), 0, numbers[-1], pause=1.0))
