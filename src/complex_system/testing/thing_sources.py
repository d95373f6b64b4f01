"""The suite of sources of Things."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from complex_system.domain.things import is_pattern, thing_name
from complex_system.sources.things import Take, ThingReading, ThingSource
from complex_system.testing.waiting import eventually


class Machine(ABC):
    """A machine, or what stands for it, with two sensors of numbers: ``press-4.temperature`` in ``degC`` and ``press-4.part``."""

    @abstractmethod
    def source(self, take: Take) -> ThingSource:
        """Return the source under test, which reads both sensors of this machine."""

    @abstractmethod
    async def set(self, name: str, value: float, at: datetime) -> None:
        """Have a sensor measure a value at a time."""

    @abstractmethod
    def away(self, take: Take) -> ThingSource:
        """Return a source whose machine does not answer."""

    async def break_connection(self) -> bool:
        """Cut the connection of the source, which may make a new one at once; return False, the default, where there is none."""
        return False


class ThingSourceContract:
    """What every :class:`~complex_system.sources.things.ThingSource` promises. Override the fixture ``machine``."""

    @pytest.fixture
    def machine(self) -> Machine:
        """A machine that answers, whose sensors have not measured ``part`` values above 0."""
        raise NotImplementedError(f"{type(self).__name__} needs the fixture 'machine': what the source reads.")

    @asynccontextmanager
    async def reading(self, machine: Machine) -> AsyncIterator[tuple[ThingSource, list[ThingReading]]]:
        """Run a source until the block ends; return it with what it reads, once it has read a first value of the test's."""
        found: list[ThingReading] = []
        source = machine.source(found.append)
        task = asyncio.create_task(source.run())

        async def connected() -> bool:
            await machine.set("temperature", 20.0 + len(found) / 8, datetime.now(UTC))
            return bool(found) and not source.faults

        try:
            await eventually(lambda: task.done() or connected())
            yield source, found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @pytest.mark.asyncio
    async def test_a_reading_has_the_name_the_unit_and_the_time_of_its_sensor(self, machine: Machine) -> None:
        """A reading names machine, sensor and unit, and has the time of the measurement, not that of its arrival."""
        at = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
        async with self.reading(machine) as (_, found):
            await machine.set("temperature", 181.5, at)
            await eventually(lambda: any(each.value == 181.5 for each in found))
            [reading] = [each for each in found if each.value == 181.5]
        assert reading == ThingReading("press-4", "temperature", 181.5, at, "degC")

    @pytest.mark.asyncio
    async def test_every_reading_can_be_a_thing(self, machine: Machine) -> None:
        """Values are finite numbers, texts or booleans, times have a zone, and the names make a subject without wildcards."""
        async with self.reading(machine) as (_, found):
            await machine.set("part", 1.0, datetime.now(UTC))
            await eventually(lambda: any(each.name == "part" for each in found))
        for each in found:
            assert type(each.value) in (bool, int, float, str)
            assert isinstance(each.value, str) or math.isfinite(each.value)
            assert each.at.utcoffset() is not None
            thing = thing_name(each.machine, each.name)
            assert thing == f"{each.machine}.{each.name}"
            assert is_pattern(thing)
            assert not set(thing) & set("*>")

    @pytest.mark.asyncio
    async def test_all_values_arrive_once_and_in_their_order(self, machine: Machine) -> None:
        """Values that follow each other quickly arrive, each once, in the order in which they were measured."""
        async with self.reading(machine) as (_, found):
            for part in range(1, 201):
                await machine.set("part", float(part), datetime.now(UTC))
            await eventually(lambda: any(each.value == 200 for each in found if each.name == "part"))
        parts = [each for each in found if each.name == "part" and each.value != 0]
        assert [each.value for each in parts] == list(range(1, 201))
        assert [each.at for each in parts] == sorted(each.at for each in parts)

    @pytest.mark.asyncio
    async def test_a_broken_connection_is_made_again(self, machine: Machine) -> None:
        """A source whose connection breaks goes on by itself, and says afterwards that all is well."""
        async with self.reading(machine) as (source, found):
            if not await machine.break_connection():
                pytest.skip("this source has no connection: 'break_connection' returns False")

            async def goes_on() -> bool:
                await machine.set("part", 500.0 + len(found), datetime.now(UTC))
                return any(each.name == "part" and float(each.value) >= 500 for each in found)

            await eventually(goes_on)
            await eventually(lambda: not source.faults)

    @pytest.mark.asyncio
    async def test_a_machine_that_does_not_answer_is_waited_for_and_named(self, machine: Machine) -> None:
        """While the machine does not answer, ``run`` goes on, nothing is taken, and ``faults`` says why."""
        found: list[ThingReading] = []
        source = machine.away(found.append)
        task = asyncio.create_task(source.run())
        try:
            await eventually(lambda: task.done() or (source.faults and all(source.faults)))
            assert not task.done()
            assert found == []
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @pytest.mark.asyncio
    async def test_a_source_that_is_cancelled_ends_and_reads_nothing_more(self, machine: Machine) -> None:
        """A source that is cancelled ends in seconds, and nothing is taken afterwards."""
        async with self.reading(machine) as (_, found):
            pass
        count = len(found)
        await machine.set("part", 77.0, datetime.now(UTC))
        async with self.reading(machine) as (_, again):
            await eventually(lambda: again)
        assert len(found) == count
