"""The workers that train one model together, each on its own share of the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from complex_system.training.data import Samples

T = TypeVar("T")

COMMON_SAMPLES = 200_000
"""Training samples of all workers that statistics are estimated on, at most: LightGBM's own number for the bins of its histograms."""


class Peers:
    """All workers of a training, as one of them sees them. This class is a worker that is alone and has all samples.

    Attributes:
        index: Number of this worker, from 0.
        count: How many there are.
        threads: Threads that this worker may use.
        machines: Where LightGBM finds the others, as its parameters; empty for nobody.
    """

    index: int = 0
    count: int = 1
    threads: int = 1
    machines: Mapping[str, str | int] = {}

    def gather(self, value: T) -> list[T]:
        """Return the values of all workers, in their order. Every worker must make the same calls in the same order."""
        return [value]

    def keep(self, state: Callable[[], bytes]) -> None:
        """Keep a state that a training can go on from; now and then, so ``state`` is called only if it is time again."""

    def kept(self) -> bytes | None:
        """Return the state that the training goes on from, because a worker was lost; None at its start."""
        return None

    def total(self, values: list[float]) -> list[float]:
        """Return the sums over all workers."""
        return [float(sum(each)) for each in zip(*self.gather(values), strict=True)]

    def common(self, samples: Samples, limit: int = COMMON_SAMPLES, seed: int = 0) -> Samples:
        """Return a random sample of everybody's samples, the same on all workers; all of them for a worker that is alone."""
        if self.count == 1:
            return samples
        every = sum(self.gather(len(samples)))
        mine = min(len(samples), -(-len(samples) * limit // every))
        chosen = np.sort(np.random.default_rng([seed, self.index]).choice(len(samples), mine, replace=False))
        found = self.gather((samples.x[chosen], samples.y[chosen]))
        return Samples(np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found]))


ALONE = Peers()
"""The only worker of its training."""
