"""The lab that the dummy data come from: the function behind the target, and a seeded generator of records.

The target is ``(r1 + r2)^1.5 - exp(-0.25 * r3)``. The features know r1 only to its bin, so no model can be better than the limits
below; a trained model's distance from them is its quality.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import uuid7
from complex_system.domain.records import Record

MATERIALS = ("00000000", "11111111", "22222222", "33333333")
TECHNICIANS = ("TK", "AN", "SO", "HANS", None)


@dataclass(frozen=True)
class BestPossible:
    """The smallest error that any model can reach; from the conditional mean over 4 million draws."""

    rmse: float = 14.22
    mae: float = 12.02
    r2: float = 0.9796


BEST_POSSIBLE = BestPossible()


def has_known_function(dataset: Dataset) -> bool:
    """Return whether the target is declared to be the function of this lab: the smallest error is known, and records can be made.

    A data set is not taken for the demonstration for its name.
    """
    return dataset.law == "laboratory"


def true_value(r1: float, r2: float, r3: float) -> float:
    """Return the target of a measurement with raw values ``r1``, ``r2`` (0 to 30) and ``r3`` (0 to 2)."""
    return float((r1 + r2) ** 1.5 - math.exp(-0.25 * r3))


def truth_of(record: Record) -> float | None:
    """Return the target that a record would have in the lab, or None when a raw value is missing."""
    raw = [record.get(f"rohwert_{i}_labormessung") for i in (1, 2, 3)]
    return None if any(value is None for value in raw) else true_value(*(float(value) for value in raw if value is not None))


class Laboratory:
    """A stream of lab records; the same seed makes the same records, keys included.

    About half of the records have the target; of the others half lack r1, of the rest half lack r2, of the rest half lack r3.
    """

    def __init__(self, seed: int = 0, start: datetime | None = None) -> None:
        """Start a stream.

        Args:
            seed: Seed of everything random.
            start: Time of the first measurement; the next ones follow a minute apart.
        """
        self._random = random.Random(seed)  # noqa: S311 - test data, no secret
        self._time = start or datetime(2025, 1, 1)  # noqa: DTZ001 - the lab writes local time
        self._millis = int((self._time - datetime(1970, 1, 1)).total_seconds() * 1000)  # noqa: DTZ001

    def record(self) -> Record:
        """Return the next record, with its key."""
        draw = self._random
        r1, r2, r3 = draw.uniform(0, 30), draw.uniform(0, 30), draw.uniform(0, 2)
        self._time += timedelta(minutes=1)
        record: Record = {
            ID: self._key(),
            "material_id": draw.choice(MATERIALS),
            "datum": self._time.strftime("%d.%m.%Y, %H:%M:%S"),
            "laborant": draw.choice(TECHNICIANS),
            "rohwert_1_labormessung": r1,
            "rohwert_2_labormessung": r2,
            "rohwert_3_labormessung": r3,
            "aufbereiteter_wert": None,
        }
        if draw.random() < 0.5:
            record["aufbereiteter_wert"] = true_value(r1, r2, r3)
        else:
            for i in (1, 2, 3):
                if draw.random() < 0.5:
                    record[f"rohwert_{i}_labormessung"] = None
                    break
        return record

    def complete_record(self) -> Record:
        """Return the next record with all raw values and without its target, as for a prediction."""
        return {**self.measured_record(), "aufbereiteter_wert": None}

    def measured_record(self) -> Record:
        """Return the next record with all raw values and its target."""
        while True:
            record = self.record()
            truth = truth_of(record)
            if truth is not None:
                return {**record, "aufbereiteter_wert": truth}

    def records(self, count: int) -> Iterator[Record]:
        """Yield the next ``count`` records."""
        for _ in range(count):
            yield self.record()

    def _key(self) -> str:
        self._millis += 1
        return uuid7(self._millis, self._random.getrandbits(80))  # of the seeded stream: a repeated run repeats its keys
