"""The three hosts of docs/three-hosts, in network namespaces: links are cut, slow, or lose packets while records flow.

Nothing that was acknowledged is lost or doubled, no read is older than what was acknowledged before, and every service comes back.
``HOST_SCHEDULES`` gives the number of random schedules, ``HOST_SEED`` the first one's seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from history import check, check_final
from namespaces import missing
from three_hosts import ThreeHosts, three_hosts
from traffic import Fault, Traffic, bring_about, in_turn, random_schedule

SCHEDULES = int(os.environ.get("HOST_SCHEDULES", "3"))
SEED = int(os.environ.get("HOST_SEED", "1"))

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    """Numbers of the schedules so far."""
    return []


@pytest.fixture(scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ThreeHosts]:
    if what := missing():
        pytest.skip(what)
    async with three_hosts(tmp_path_factory.mktemp("hosts"), "maria") as made:
        start_services(made)
        await made.ready()
        yield made


def start_services(hosts: ThreeHosts) -> None:
    """The data plane of the example, with a second database service for the replicas' sake."""
    for host in ("data", "training"):
        hosts.start(host, f"database_{hosts.kind}")
    for host in ("data", "serving"):
        hosts.start(host, "data_processing")


async def survive(hosts: ThreeHosts, dataset: Dataset, faults: list[Fault], seed: int, number: int) -> dict[str, float]:
    """Have links break while records flow, and check everything; return what was measured."""
    traffic = Traffic(hosts, dataset, seed, number)
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


@pytest.mark.parametrize("seed", range(SEED, SEED + SCHEDULES))
async def test_a_random_schedule_of_faults(
    hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any, seed: int
) -> None:
    numbers.append(len(numbers))
    faults = random_schedule(seed, hosts.network.links)
    report(await survive(hosts, dataset, faults, seed, numbers[-1]))


async def test_each_fault_on_each_link_in_turn(hosts: ThreeHosts, dataset: Dataset, numbers: list[int], report: Any) -> None:
    numbers.append(len(numbers))
    report(await survive(hosts, dataset, in_turn(hosts.network.links, 5.0), 0, numbers[-1]))
