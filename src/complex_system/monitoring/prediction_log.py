"""Every served prediction, kept in the database for a bounded time, to be read beside the true values.

Predictions are kept in blocks: those of one model within a minute, at most 1,000. A block is written again while it grows, so that
a crash loses seconds and a million predictions are some thousand documents.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import AsyncIterator, Iterable

import msgspec

from complex_system.domain.documents import Document
from complex_system.monitoring.aggregates import HOUR, MINUTE, Served, begin_of
from complex_system.monitoring.history import STATES, Documents
from complex_system.protocol.base import to_wire
from complex_system.protocol.serving import PredictedRecord

log = logging.getLogger(__name__)

PREDICTIONS = "prediction"
"""Kind of the blocks: body as :class:`Block`, the time is that of the first prediction."""
BLOCK_ROWS = 1000
BLOCK_CHARACTERS = 60_000
"""Characters of keys and warnings in a block at most, so that its body is below the bound of a document."""
MAX_UNWRITTEN = 100_000
"""Predictions that wait in memory while the database is away; of more, the oldest are dropped."""
BLOCKS_A_PAGE = 8
"""Blocks that are read at a time."""
DAY = 86_400.0
_STATE = "predictions"
_SEGMENTS = 100


class Block(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Predictions of one model, by columns.

    Attributes:
        service: Name of the service that predicted.
        model: Registered name.
        version: Registered version.
        origin: Who asked.
        at: Time of the first prediction, seconds since 1970 (UTC).
        keys: The records' keys; empty for a record without one.
        milliseconds: Time of each since ``at``.
        predictions: In the target's unit.
        half_width: Of the model's 90 % intervals, in the target's unit; None where it has none.
        warnings: What was said of each; empty where nothing was said of any.
    """

    service: str
    model: str
    version: str
    origin: str = ""
    at: float
    keys: list[str] = msgspec.field(default_factory=list)
    milliseconds: list[int] = msgspec.field(default_factory=list)
    predictions: list[float] = msgspec.field(default_factory=list)
    half_width: float | None = None
    warnings: list[str] = msgspec.field(default_factory=list)


class _Segment(msgspec.Struct):
    """Blocks that are deleted together: those from a time on, and their predictions."""

    at: float
    rows: int


class _Segments(msgspec.Struct):
    segments: list[_Segment]


class _Open:
    """A block that may grow."""

    def __init__(self, block: Block, key: str) -> None:
        self.block = block
        self.key = key
        self.written = 0
        self._left = BLOCK_CHARACTERS

    def add(self, at: float, each: PredictedRecord, warning: str) -> bool:
        """Add a prediction; return False where it belongs to another block."""
        block, key = self.block, each.id or ""
        size = len(key) + len(warning)
        is_in_time = begin_of(at, MINUTE) == begin_of(block.at, MINUTE)
        if len(block.keys) == BLOCK_ROWS or not is_in_time or (self._left < size and block.keys):
            return False
        self._left -= size
        if block.warnings or warning:
            block.warnings.extend([""] * (len(block.keys) - len(block.warnings)))
            block.warnings.append(warning)
        block.keys.append(key)
        block.milliseconds.append(max(0, round(1000 * (at - block.at))))
        block.predictions.append(each.prediction)
        return True


class PredictionLog:
    """Keeps predictions in the database, the newest ones. All methods run in one thread."""

    def __init__(self, days: float, rows: int) -> None:
        """Make an empty log.

        Args:
            days: How long predictions are kept.
            rows: How many are kept, about; 0 to keep none.
        """
        self._days = days
        self._rows = rows
        self._name = uuid.uuid4().hex[:8]
        self._number = 0
        self._growing: dict[Served, _Open] = {}
        self._unwritten: dict[str, _Open] = {}
        self._segments: list[_Segment] | None = None
        self._dropped = 0

    def add(
        self, at: float, served: Served, predictions: Iterable[tuple[PredictedRecord, str]], half_width: float | None = None
    ) -> None:
        """Record predictions of one request; one that is not a finite number is left out.

        Args:
            at: When they were made, seconds since 1970.
            served: The model.
            predictions: Each with its warning; empty for none.
            half_width: Of the model's 90 % intervals; None where it has none.
        """
        if not self._rows:
            return
        for each, warning in predictions:
            if not math.isfinite(each.prediction):
                continue
            open_block = self._growing.get(served)
            if open_block is None or not open_block.add(at, each, warning):
                self._number += 1
                block = Block(
                    service=served.service, model=served.model, version=served.version, origin=served.origin, at=at,
                    half_width=half_width,
                )  # fmt: skip
                open_block = self._growing[served] = _Open(block, f"{int(at * 1000):013}-{self._name}-{self._number}")
                open_block.add(at, each, warning)
            self._unwritten[open_block.key] = open_block
        while len(self._unwritten) > MAX_UNWRITTEN // BLOCK_ROWS and self._unwritten_rows() > MAX_UNWRITTEN:
            self._dropped += len(self._unwritten.pop(next(iter(self._unwritten))).block.keys)

    def _unwritten_rows(self) -> int:
        return sum(len(each.block.keys) for each in self._unwritten.values())

    async def save(self, documents: Documents, now: float) -> None:
        """Write what is new, and delete what is beyond the limits.

        Raises:
            ComplexSystemError: The database is away; the next call goes on.
        """
        if self._segments is None:
            found = await documents.by_keys(STATES, [_STATE])
            self._segments = msgspec.convert(found[0].body, _Segments).segments if found else []
        if self._dropped:
            log.warning("%d predictions are not kept: the database was away for too long", self._dropped)
            self._dropped = 0
        self._growing = {
            served: each
            for served, each in self._growing.items()
            if begin_of(now, MINUTE) == begin_of(each.block.at, MINUTE)
        }
        due = list(self._unwritten.items())
        for key, each in due:
            rows = len(each.block.keys)
            await documents.save([Document(PREDICTIONS, key, each.block.at, to_wire(each.block))])
            self._count(self._segments, each.block.at, rows - each.written)
            each.written = rows
            if len(each.block.keys) == rows:  # nothing came while it was written
                self._unwritten.pop(key, None)
        kept = list(self._segments)
        while kept and (
            kept[0].at < now - self._days * DAY - HOUR or (len(kept) > 1 and sum(each.rows for each in kept) > self._rows)
        ):
            kept.pop(0)
        if len(kept) < len(self._segments):
            await documents.delete_before(PREDICTIONS, kept[0].at if kept else now - self._days * DAY)
            self._segments = kept
        if due:
            await documents.save([Document(STATES, _STATE, now, to_wire(_Segments(self._segments)))])

    def _count(self, segments: list[_Segment], at: float, rows: int) -> None:
        last = segments[-1] if segments else None
        if last is None or begin_of(at, HOUR) > begin_of(last.at, HOUR) or last.rows >= self._rows / _SEGMENTS:
            segments.append(_Segment(at, 0))
        segments[-1].rows += rows

    async def blocks(
        self, documents: Documents, start: float, end: float, model: str = "", version: str = ""
    ) -> AsyncIterator[list[Block]]:
        """Yield the kept blocks that may have predictions with ``start <= time < end``, some at a time, by their begin.

        Args:
            documents: The database.
            start: Seconds since 1970.
            end: Seconds since 1970.
            model: Registered name; empty for all.
            version: Registered version; empty for all.

        Raises:
            ComplexSystemError: The database is away.
        """
        at, seen = start - MINUTE, set[str]()
        while True:
            # A page begins at the time of the last block, and leaves out what it has in common with the page before.
            found = await documents.between(PREDICTIONS, at, end, most=BLOCKS_A_PAGE + len(seen))
            new = [each for each in found if each.key not in seen]
            blocks = [msgspec.convert(each.body, Block) for each in new]
            yield [each for each in blocks if model in ("", each.model) and version in ("", each.version)]
            if len(found) < BLOCKS_A_PAGE + len(seen):
                return
            at = found[-1].at
            seen = {each.key for each in found if each.at == at}
