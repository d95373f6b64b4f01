"""A seeded global search for several different settings: differential evolution, once for each solution.

R. Storn and K. Price, Differential Evolution (1997), as SciPy has it: it needs no gradient, which tree models do not have, and asks
for many predictions in one call. Every point that was evaluated is kept, so that a solution is the best of all, not of the last run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from complex_system.serving.known import Numbers
from complex_system.serving.suggest.space import SearchSpace

Evaluate = Callable[[Numbers], tuple[Numbers, Numbers]]
"""Returns predictions and distances from known records for points, shapes (n, d) to (n,) and (n,)."""

MAX_EVALUATIONS = 24_000
"""Predictions of one search."""
APART = 0.1
"""Two solutions differ in one column at least: by this part of its bounds, or by another choice."""
TOLERANCE = 0.01
"""A value is reached where the prediction differs from it by at most so many standard deviations of the known records' predictions."""
_POPULATION = (32, 96)
_PER_DIMENSION = 12
_FROM_KNOWN = 0.5
_GAP = 10.0
"""A wanted value missed by one standard deviation weighs as much as settings that are ten times as far away as known ones are."""
_UNKNOWN = 1.0
"""An extreme has to be better by one standard deviation to be worth one distance beyond what is known."""
_NEARER = 0.05
"""Among settings that are as good and as known, the nearer ones are preferred."""
_SAME = 1e-3
"""Standard deviation of a population's costs at which a run ends."""
_FULL = 10.0
"""Cost that is added to a point that is too near to an earlier solution."""


@dataclass(frozen=True)
class Goal:
    """What is wanted.

    Attributes:
        kind: A value or an extreme.
        value: The value.
        spread: Standard deviation of the known records' predictions, which differences are measured in.
    """

    kind: Literal["value", "maximum", "minimum"]
    value: float
    spread: float

    def reached(self, predictions: Numbers) -> Any:
        """Return whether predictions are as wanted; always for an extreme."""
        return np.full(len(predictions), self.kind != "value") | (
            np.abs(predictions - self.value) <= TOLERANCE * self.spread
        )

    def cost(self, predictions: Numbers, distances: Numbers) -> Numbers:
        """Return what is made small: the gap to the goal and the distance from what is known."""
        unknown = _UNKNOWN * np.maximum(distances - 1.0, 0.0) + _NEARER * np.minimum(distances, 1.0)
        if self.kind == "value":
            gap = np.maximum(np.abs(predictions - self.value) / self.spread - TOLERANCE, 0.0)
            return np.asarray(_GAP * gap + unknown)
        sign = -1.0 if self.kind == "maximum" else 1.0
        return np.asarray(sign * predictions / self.spread + unknown)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        points: The solutions, shape (k, d), the best first.
        evaluations: Number of predictions.
        complete: Whether no run was cut off by the time limit.
    """

    points: Numbers
    evaluations: int
    complete: bool


class _Search:
    def __init__(self, space: SearchSpace, goal: Goal, evaluate: Evaluate, seed: int, seconds: float) -> None:
        self._space, self._goal, self._evaluate = space, goal, evaluate
        self._random = np.random.default_rng(seed)
        self._deadline = time.monotonic() + seconds
        self._points: list[Numbers] = []
        self._costs: list[Numbers] = []
        self._found: list[Numbers] = []
        self.evaluations = 0
        self.complete = True

    def run(self, known: Numbers, evaluations: int) -> Numbers | None:
        """Search for one more solution, and return it; None where every point is near to one that was found."""
        from scipy.optimize import differential_evolution  # takes a quarter of a second, in the thread of the first search

        size = min(max(_PER_DIMENSION * len(self._space.low), _POPULATION[0]), _POPULATION[1])
        with np.errstate(over="ignore"):  # a value that is absurdly far away
            differential_evolution(
                self._cost, list(zip(self._space.low, self._space.high, strict=True)), init=self._first(known, size), polish=False,
                integrality=np.array([each.is_whole for each in self._space.dimensions]), vectorized=True, updating="deferred",
                maxiter=max(evaluations // size - 1, 1), tol=0.0, atol=_SAME, rng=self._random, callback=self._is_over,
            )  # fmt: skip
        points, costs = np.concatenate(self._points), np.concatenate(self._costs)
        costs = np.where(self._is_new(points), costs, np.inf)
        best = int(np.argmin(costs))
        if not np.isfinite(costs[best]):
            return None
        point: Numbers = points[best]
        self._found.append(point)
        return point

    def _first(self, known: Numbers, size: int) -> Numbers:
        """Return the points that a run begins with: known records, and others evenly at random."""
        count = min(len(known), int(_FROM_KNOWN * size))
        chosen = known[self._random.choice(len(known), count, replace=False)] if count else known[:0]
        low, high = self._space.low, self._space.high
        made = low + (high - low) * self._random.random((size - count, len(low)))
        return np.concatenate([chosen, made])

    def _cost(self, points: Numbers) -> Numbers:
        rows = points.T
        costs = self._goal.cost(*self._evaluate(rows))
        self._points.append(rows.copy())
        self._costs.append(costs)
        self.evaluations += len(rows)
        return np.where(self._is_new(rows), costs, costs + _FULL + np.abs(costs))

    def _is_new(self, points: Numbers) -> Any:
        apart = [self._space.apart(points, found) >= APART for found in self._found]
        return np.all(apart, axis=0) if apart else np.ones(len(points), dtype=bool)

    def _is_over(self, intermediate_result: Any) -> bool:
        if time.monotonic() < self._deadline:
            return False
        self.complete = False
        return True


def find(
    space: SearchSpace, goal: Goal, evaluate: Evaluate, known: Numbers, *, count: int, seed: int, seconds: float
) -> Found:
    """Search for several solutions.

    Args:
        space: Where.
        goal: What is wanted.
        evaluate: Predicts.
        known: Points of known records, shape (n, d), may be empty.
        count: Solutions at most; fewer where there are not so many that are apart, or the time is over.
        seed: Of the random numbers.
        seconds: After that no run begins, and the present one ends.
    """
    search = _Search(space, goal, evaluate, seed, seconds)
    points: list[Numbers] = []
    while len(points) < count and search.complete:
        point = search.run(known, MAX_EVALUATIONS // count)
        if point is None:
            break
        points.append(point)
    return Found(np.array(points), search.evaluations, search.complete)
