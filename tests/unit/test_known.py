"""Distances from known records: those of a plain calculation, what counts as far, and that one row costs as little as many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from complex_system.errors import BusyError
from complex_system.pipeline.rows import Matrix
from complex_system.serving.known import MAX_REQUESTS, DistanceThread, KnownRecords


def normal(seed: int, rows: int, width: int = 5) -> Matrix:
    return np.random.default_rng(seed).normal(1000, 1, (rows, width)).astype(np.float32)


def test_distances_are_those_to_scikit_learns_nearest_neighbours() -> None:
    known, others = normal(1, 700), normal(2, 600)
    records = KnownRecords(known)
    low, high = np.percentile(known, [25, 75], axis=0)
    scale = (high - low) / 1.349 * np.sqrt(known.shape[1])
    neighbours = NearestNeighbors(n_neighbors=2).fit(known / scale)
    own = neighbours.kneighbors(known / scale)[0][:, 1]
    typical, far = np.percentile(own, [95, 99])
    expected = neighbours.kneighbors(others / scale)[0][:, 0] / typical
    assert records.distance(others) == pytest.approx(expected, abs=2e-3)
    assert records.limit == pytest.approx(far / typical, rel=1e-3)
    assert records.distance(others[:1]) == pytest.approx(expected[:1], abs=2e-3)
    assert records.distance(known[:3]) == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("width", [1, 5, 40])
def test_about_one_in_a_hundred_ordinary_records_is_far_and_all_that_are_far_are(width: int) -> None:
    shares = []
    for seed in range(5):
        records = KnownRecords(normal(seed, 1000, width))
        shares.append(np.mean(records.distance(normal(100 + seed, 2000, width)) > records.limit))
        moved = normal(200 + seed, 100, width)
        moved[:, 0] += 12
        assert (records.distance(moved) > records.limit).all()
    assert np.mean(shares) == pytest.approx(0.01, abs=0.01)


def test_copies_constants_and_one_hot_features_are_no_fault() -> None:
    known = np.zeros((50, 3), np.float32)
    known[:25, 1] = 1
    records = KnownRecords(known)
    assert records.distance(known).tolist() == [0.0] * 50
    assert records.limit == 1
    assert (records.distance(np.array([[0, 1, 1]], np.float32)) > 1).all()


async def test_many_records_are_measured_by_one_thread_in_turns_and_too_many_requests_are_refused() -> None:
    at_work: list[str] = []
    orders: list[str] = []
    busiest = 0

    def measuring(name: str) -> Callable[[Matrix], list[float]]:
        def measure(part: Matrix) -> list[float]:
            nonlocal busiest
            at_work.append(name)
            busiest = max(busiest, len(at_work))
            time.sleep(0.002)
            orders.append(name)
            at_work.remove(name)
            return [float(each) for each in part[:, 0]]

        return measure

    thread, rows = DistanceThread(), np.arange(20_000, dtype=np.float32)
    features = np.repeat(rows[:, None], 57, axis=1)
    names = [f"r{number}" for number in range(MAX_REQUESTS)]
    tasks = [asyncio.create_task(thread.measure(measuring(name), features)) for name in names]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="send this one again later"):
        await thread.measure(measuring("late"), features)
    assert await thread.measure(measuring("few"), features[:50]) == rows[:50].tolist(), "few records wait for nobody"
    assert all(found == rows.tolist() for found in await asyncio.gather(*tasks))
    many = [name for name in orders if name != "few"]
    assert many == names * 3, "part by part"
    assert busiest <= 2, "one thread, and few records on the event loop"
    assert await thread.measure(measuring("again"), features) == rows.tolist()


@pytest.mark.parametrize("width", [1, 15, 57, 400])
def test_products_need_no_threads_and_are_the_same(width: int) -> None:
    records, values = KnownRecords(normal(1, 1000, width)), normal(2, 300, width) - 1000
    assert records._products(values) == pytest.approx(np.einsum("ij,jk->ik", values, records._doubled), rel=1e-4, abs=1e-2)

    def alone() -> bool:
        process, thread = time.process_time(), time.thread_time()
        for _ in range(30):
            records._products(values)
        return time.process_time() - process < 1.3 * (time.thread_time() - thread) + 0.01

    assert any(alone() for _ in range(5))  # a thread of an earlier test may have something to do meanwhile
