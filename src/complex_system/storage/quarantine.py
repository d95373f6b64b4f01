"""Saves raw records and, where that fails, finds out whether one of them is the reason.

Only a record can be refused for good; whatever else fails is to wait. So a record is named only if the database says that it is wrong,
or if it fails alone again and again while a probe write succeeds: a code that is not known, or a fault of our own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from complex_system.domain.dataset import ID
from complex_system.domain.records import MAX_FAULTS, Record, faults_message
from complex_system.errors import ComplexSystemError, InvalidRecordError, RecordFault, StoreUnavailableError
from complex_system.protocol.database import Saved
from complex_system.storage.base import DataStore
from complex_system.storage.conflicts import Orders

log = logging.getLogger(__name__)

PAUSES = (0.1, 0.2, 0.4, 0.8)
"""Seconds before a record that failed alone is tried again, each time after a probe write."""


class RawWriter:
    """Saves raw records for requests and for the ingest."""

    def __init__(self, store: DataStore) -> None:
        self._store = store
        self._has_saved = False

    async def save(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        """Save raw records as :meth:`DataStore.save_raw` does.

        Raises:
            InvalidRecordError: Names the records that can never be stored, at most the first twenty; nothing of the batch was saved.
            StoreUnavailableError: Send the records again. If it is not ``explained``, a probe was written, and no record fails alone.
        """
        try:
            saved = await self._store.save_raw(records, sources, orders)
        except StoreUnavailableError as error:
            if error.explained:
                raise
            failure: Exception = error
        except InvalidRecordError as error:
            failure = error
        except Exception as error:
            log.exception("%d raw records could not be saved", len(records))
            failure = error
        else:
            self._has_saved = True
            return saved
        await self._probe()  # while nothing can be written at all, no record is the reason
        if faults := await self._faults(records):
            raise InvalidRecordError(faults_message(faults), faults) from failure
        if isinstance(failure, ComplexSystemError):
            raise StoreUnavailableError(failure.message, explained=False, answered=True) from failure
        raise self._own_fault(failure, explained=False) from failure

    async def _probe(self) -> None:
        """Write a probe; where that fails, no record is the reason, whatever the database says."""
        try:
            await self._store.probe()
        except StoreUnavailableError as error:
            raise StoreUnavailableError(error.message, answered=error.answered) from error
        except Exception as error:
            raise self._own_fault(error, explained=True) from error

    def _own_fault(self, error: Exception, *, explained: bool) -> StoreUnavailableError:
        place = f"{self._store.label} at {self._store.address}"
        return StoreUnavailableError(
            f"The database service failed when it wrote to {place} ({type(error).__name__}); see its log.",
            explained=explained,
        )

    async def _faults(self, records: list[Record]) -> list[RecordFault]:
        """Return what is wrong with the records that fail whenever they are tried alone, at most the first twenty."""
        suspects = await self._failing(records, 0) or await self._colliding(records)
        named = {place: error for place, error in suspects.items() if isinstance(error, InvalidRecordError)}
        suspects = {place: error for place, error in suspects.items() if place not in named}
        if len(suspects) == min(len(records), MAX_FAULTS) and not self._has_saved:
            suspects = {}  # where no record at all was ever saved, none of them is the reason
        for pause in PAUSES if suspects else ():
            await asyncio.sleep(pause)
            await self._probe()
            again: dict[int, Exception] = {}
            for place in suspects:
                again |= await self._failing([records[place]], place)
            suspects = again
        for place, error in suspects.items():
            key = records[place][ID]
            why = "Record %r can never be saved: it fails alone while others are written"
            log.error(why, key, exc_info=error, extra={"record_key": key})
        found = sorted((named | suspects).items())
        return [
            RecordFault(record=place, id=records[place][ID], field=None, problem=f"cannot be stored: {_text(error)}")
            for place, error in found
        ]

    async def _failing(self, records: list[Record], first: int) -> dict[int, Exception]:
        """Return the errors of records that fail alone by their place, the first record's being ``first``: by halves.

        Raises:
            StoreUnavailableError: The database fails, and no record is the reason.
        """
        try:
            await self._store.trial(records)
        except StoreUnavailableError as error:
            if error.explained:
                raise
            failure: Exception = error
        except Exception as error:  # noqa: BLE001 - it is reported with the record
            failure = error
        else:
            return {}
        if len(records) == 1:
            return {first: failure}
        middle = len(records) // 2
        found = await self._failing(records[:middle], first)
        if len(found) < MAX_FAULTS:
            found |= await self._failing(records[middle:], first + middle)
        return dict(list(found.items())[:MAX_FAULTS])

    async def _colliding(self, records: list[Record]) -> dict[int, Exception]:
        """Return the error of the first record that the database refuses beside those before it, as a unique index does."""
        found: dict[int, Exception] = {}
        good, bad = 0, len(records) + 1
        while bad - good > 1:  # that many pass, and that many do not
            middle = (good + bad) // 2 if found else len(records)
            try:
                await self._store.trial(records[:middle])
            except InvalidRecordError as error:
                found, bad = {middle - 1: error}, middle
            else:
                good = middle
        return found


def _text(error: Exception) -> str:
    if isinstance(error, ComplexSystemError):
        return error.message.rstrip(".")
    return f"the database service fails at it ({type(error).__name__}); see its log"
