"""What a request asks for beside the predictions, and the names that the answers have in every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from complex_system.domain.records import shown
from complex_system.errors import InvalidRequestError

INTERVAL, WARNINGS = "interval", "warnings"
"""Fields, parameters or notes of a request."""
LOWER, UPPER = "lower", "upper"
"""Ends of the intervals where an answer has columns or tensors."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What is asked for beside the predictions.

    Attributes:
        interval: Level of the intervals; None for none.
        warnings: Whether every record gets its warnings.
    """

    interval: float | None = None
    warnings: bool = False


NOTHING = Wanted()


def wanted_of(fields: Mapping[str, Any]) -> Wanted:
    """Return what fields of JSON ask for; other fields are ignored.

    Raises:
        InvalidRequestError: A field is of another type.
    """
    interval, warnings = fields.get(INTERVAL), fields.get(WARNINGS)
    if interval is not None and type(interval) not in (int, float):
        raise InvalidRequestError(
            f"'{INTERVAL}' is the level of the intervals, a number between 0 and 1 such as 0.9, not {shown(interval)}."
        )
    if warnings not in (None, True, False) or type(warnings) in (int, float):
        raise InvalidRequestError(f"'{WARNINGS}' is true or false, not {shown(warnings)}.")
    return Wanted(interval, bool(warnings))


def wanted_of_notes(notes: Mapping[str, str]) -> Wanted:
    """Return what the notes of an Arrow page ask for: the same, written as in JSON.

    Raises:
        InvalidRequestError: A note cannot be read.
    """
    return wanted_of(read_notes(notes)) if notes else NOTHING


def read_notes(notes: Mapping[str, str]) -> dict[str, Any]:
    """Return those of the notes that ask for something, each as its text says in JSON, or else as a text."""
    found: dict[str, Any] = {name: notes[name] for name in (INTERVAL, WARNINGS) if name in notes}
    for name, text in found.items():
        with suppress(msgspec.MsgspecError):  # then it is refused with its text
            found[name] = msgspec.json.decode(text)
    return found
