"""Makes lab records: a seeded stock at the start, then a slow stream of new measurements."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from datetime import datetime
from itertools import islice
from typing import Any

from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record, new_id
from complex_system.errors import (
    ComplexSystemError,
    InvalidRecordError,
    InvalidRequestError,
    NobodyListensError,
    TooLargeError,
)
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.service import State, SystemService

log = logging.getLogger(__name__)

_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_PROGRESS_INTERVAL = 0.5


class DummyDataGenerationService(SystemService):
    """A source that gives keys to its records and repeats a batch, keys included, until the database has it.

    The stock is the same for the same seed, so a restart sends it again and changes nothing.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._database = DatabaseClient(self)
        self._saved = 0
        self._told = float("-inf")
        self._laboratory = Laboratory(secrets.randbits(64))
        self._due = 0.0

    @override
    async def on_start(self) -> None:
        if self.dataset.name == "lab":
            self.run_task(self._make())

    @override
    def initial_state(self) -> tuple[State, str]:
        if self.dataset.name == "lab":
            return "working", f"0 of {self.settings.records} records saved"
        return "ready", f"makes lab records only and so none for the data set '{self.dataset.name}'"

    async def _make(self) -> None:
        try:
            await self._make_stock()
            while not self._shutdown_event.is_set():
                await self.set_state("ready", f"{self.settings.records} of {self.settings.records} records saved")
                await self._measure()
                await self.wait_for_shutdown(1.0)
        except ComplexSystemError as error:
            log.critical("The records are refused, so no more are made: %s", error.message)
            await self.set_state("failing", error.message)

    async def _make_stock(self) -> None:
        """Sends the stock, ``batches_in_flight`` batches at once; only these are in memory."""
        records = Laboratory(self.settings.seed).records(self.settings.records)
        turn = asyncio.Lock()

        async def next_batch() -> list[Record]:
            async with turn:
                return await asyncio.to_thread(lambda: list(islice(records, self.settings.batch_size)))

        async def work() -> None:
            while (batch := await next_batch()) and await self._save(batch):
                await self._tell_progress(len(batch))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.settings.batches_in_flight):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _measure(self) -> None:
        """The live stream's second: so many new measurements, with the keys and the time of now."""
        self._due += self.settings.live_rate
        count = min(int(self._due), self.settings.batch_size)
        self._due %= 1
        now = datetime.now().strftime("%d.%m.%Y, %H:%M:%S")  # noqa: DTZ005 - the lab writes local time
        batch = [{**record, ID: new_id(), "datum": now} for record in self._laboratory.records(count)]
        if batch:
            await self._save(batch)

    async def _save(self, records: list[Record]) -> bool:
        """Sends records until they are acknowledged; False if the service ends before.

        Raises:
            InvalidRecordError: The database refuses them; sending them again would not help.
            InvalidRequestError: As above.
            TooLargeError: A single record is too large for the broker.
        """
        pause = _PAUSE
        while not self._shutdown_event.is_set():
            try:
                await self._database.save_raw(records)
                return True
            except (InvalidRecordError, InvalidRequestError):
                raise
            except TooLargeError:
                if len(records) == 1:
                    raise
                middle = len(records) // 2
                return await self._save(records[:middle]) and await self._save(records[middle:])
            except ComplexSystemError as error:
                await self.set_state("waiting", error.message)
                # Nobody listening costs nothing and fails at once, so there is no need for longer and longer pauses.
                pause = _PAUSE if isinstance(error, NobodyListensError) else min(2 * pause, _LONGEST_PAUSE)
            await self.wait_for_shutdown(pause)
        return False

    async def _tell_progress(self, saved: int) -> None:
        self._saved += saved
        if time.monotonic() - self._told >= _PROGRESS_INTERVAL:
            self._told = time.monotonic()
            await self.set_state("working", f"{self._saved} of {self.settings.records} records saved")
