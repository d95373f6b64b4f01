"""Distances from known records: those of a plain calculation, what counts as far, and that one row costs as little as many."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from complex_system.pipeline.rows import Matrix
from complex_system.serving.known import KnownRecords


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
