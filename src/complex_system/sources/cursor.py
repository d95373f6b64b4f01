"""Cursors of tables: numbers and times by which new rows are found, in the types that drivers return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from complex_system.errors import SourceTableError

Scalar = int | float | Decimal | datetime | date | str | bytes | UUID
"""A value of a cursor or key column. A cursor that is a text is a time in ISO 8601, as SQLite has them."""
_READERS: dict[str, Callable[[str], Scalar]] = {
    "int": int, "float": float, "Decimal": Decimal, "datetime": datetime.fromisoformat, "date": date.fromisoformat,
}  # fmt: skip
AHEAD = timedelta(days=1)
"""How far a time may be ahead of the clock here and still be a place to go on from: clocks in local time are, by up to 14 hours."""


@dataclass(frozen=True)
class Place:
    """A place in a table that is ordered by cursor and key.

    Attributes:
        cursor: Value of the cursor column.
        key: Value of the key column; None before all rows of that cursor.
    """

    cursor: Scalar
    key: Scalar | None = None


def is_ahead(cursor: Scalar, now: datetime) -> bool:
    """Return whether a cursor's value is a time far in the future, after which no other row would be found.

    Raises:
        SourceTableError: It is neither a number nor a time.
    """
    moment = moment_of(cursor)
    return moment is not None and moment > now + AHEAD


def is_later(cursor: Scalar, than: Scalar | None) -> bool:
    """Return whether a cursor's value is later than another one; None for the first.

    Raises:
        SourceTableError: It is neither a number nor a time, or one is a number and the other is not.
    """
    if than is not None and (moment_of(cursor) is None) != (moment_of(than) is None):
        raise SourceTableError(f"The cursor column has {cursor!r} beside {than!r}; all its values have to be of one type.")
    return than is None or cursor > than  # type: ignore[operator]


def earlier(cursor: Scalar, overlap: float) -> Scalar:
    """Return a cursor's value before another one.

    Args:
        cursor: A number, a time, or a text of which :func:`moment_of` knows the moment.
        overlap: By how much: a number, or seconds of a time.
    """
    if isinstance(cursor, datetime):
        return cursor - timedelta(seconds=overlap)
    if isinstance(cursor, date):
        return cursor - timedelta(days=-(-overlap // 86_400))
    if isinstance(cursor, int):
        return cursor - math.ceil(overlap)  # not as a float, which has no large whole numbers
    if isinstance(cursor, float):
        return cursor - overlap
    if isinstance(cursor, Decimal):
        return cursor - Decimal(overlap)
    assert isinstance(cursor, str)
    before = datetime.fromisoformat(cursor) - timedelta(seconds=overlap)
    return before.isoformat(cursor[10:11] or "T", "seconds")[: min(len(cursor), 19)]  # which texts of that second follow


def moment_of(cursor: Scalar) -> datetime | None:
    """Return the moment of a cursor's value, in UTC where it names no zone; None for a number.

    Raises:
        SourceTableError: It is neither a number nor a time.
    """
    if isinstance(cursor, int | float | Decimal):
        return None
    moment: object = cursor
    with suppress(ValueError):
        moment = datetime.fromisoformat(cursor) if isinstance(cursor, str) else cursor
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    if not isinstance(moment, datetime):
        raise SourceTableError(
            f"The cursor column has {str(cursor)[:40]!r}; it has to be a number, a time, or a text in ISO 8601."
        )
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def written(cursor: Scalar) -> dict[str, str]:
    """Return a cursor's value for a document: its type and its text."""
    return {"type": type(cursor).__name__, "text": cursor.isoformat() if isinstance(cursor, date) else str(cursor)}


def read(value: Mapping[str, str]) -> Scalar:
    """Return what :func:`written` wrote."""
    return _READERS.get(value["type"], str)(value["text"])


def key_text(key: Scalar | None) -> str:
    """Return a key as text, from which the key of its record follows."""
    return key.hex() if isinstance(key, bytes) else str(key)
