"""Readings in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Readings:
    """A batch of readings in the order of the stream, one entry a reading in each column.

    Attributes:
        machines: Machine of the sensor.
        names: Name of the sensor.
        values: Numbers, texts, true or false; others are refused.
        timestamps: Time of the reading by its sensor, microseconds since 1970 (UTC).
        arrived: Time at which the broker stored it, microseconds since 1970 (UTC).
        sequences: Its number in the stream, rising.
        units: Unit of the value; empty where the sensor does not say it.
        measurement_ids: What it was measured for.
    """

    machines: Sequence[str]
    names: Sequence[str]
    values: Sequence[Any]
    timestamps: Times
    arrived: Times
    sequences: Times
    units: Sequence[str] = field(default=())
    measurement_ids: Sequence[str] = field(default=())

    def __len__(self) -> int:
        return len(self.machines)
