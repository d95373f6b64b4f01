"""The interface of what reads single values of sensors, to be published as FastIoT's Things (``messaging.ingest.thing_publisher``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ThingReading:
    """One value of a sensor.

    Attributes:
        machine: Machine of the sensor.
        name: Name of the sensor; with the machine it names the Thing's subject, so neither has blanks or wildcards.
        value: A finite number, a text, true or false.
        at: When it was measured, by the source's clock, with a time zone.
        unit: Unit of the value; may be empty.
    """

    machine: str
    name: str
    value: float | str
    at: datetime
    unit: str = ""


Take = Callable[[ThingReading], None]
"""Is called with every reading, and does not wait."""


class ThingSource(ABC):
    """Reads sensors, in the order of their values, until it is cancelled, whatever becomes of the connection to them."""

    @abstractmethod
    async def run(self) -> None:
        """Connect and read, again and again; a server that is away is waited for.

        Raises:
            DeclarationError: What was declared can never be read.
        """

    @property
    @abstractmethod
    def faults(self) -> tuple[str, ...]:
        """What a person has to know at the moment, such as a server that does not answer; empty while all is well."""
