"""Keys of records and ids of requests: UUIDs whose texts rise with time, so that pages by key follow the order of arrival."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterable
from typing import Any

MAX_KEY = 64
"""Characters of a record's key."""
_REPETITION = "~"
_COUNTER = (1 << 80) - 1 - (1 << 61)  # the counter's highest bit is 0 at first, so that counting cannot overflow
_lock = threading.Lock()
_random = random.Random()  # noqa: S311 - unique, no secret
os.register_at_fork(after_in_child=_random.seed)
_newest = (0, 0)


def new_key() -> str:
    """Return a new key: a UUID of version 7 of this moment, above all that this process made before."""
    global _newest
    now = time.time_ns() // 1_000_000
    with _lock:
        milliseconds, bits = _newest
        _newest = made = (now, _random.getrandbits(80) & _COUNTER) if now > milliseconds else (milliseconds, bits + 1)
    return uuid7(*made)


def uuid7(milliseconds: int, bits: int) -> str:
    """Return a UUID of version 7 (RFC 9562, 5.7).

    Args:
        milliseconds: Since the epoch; its lowest 48 bits are used.
        bits: What makes it unique; its lowest 80 bits are used, but for six that version and variant take.
    """
    return _uuid(7, milliseconds & 0xFFFF_FFFF_FFFF, bits)


def row_key(digest: bytes, row: int) -> str:
    """Return the key of a row in a file: a UUID of version 8 (RFC 9562) of 60 bits of the file's digest, then the row's number.

    Keys of one file rise with the row, so pages by key follow the order of the file.
    """
    file = int.from_bytes(digest[:8]) >> 4
    return _uuid(8, file >> 12, (file & 0xFFF) << 64 | row)


def row_keys(digest: bytes, rows: Iterable[int]) -> list[str]:
    """Return the keys of several rows (:func:`row_key`), which differ in their last 48 bits only."""
    first = row_key(digest, 0)[:-12]
    return [f"{first}{row:012x}" for row in rows]


def derived_key(*names: str) -> str:
    """Return the key that follows from names, such as those of a table and of a row in it: a UUID of version 8 of their hash."""
    bits = int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:16])
    return _uuid(8, bits >> 80, bits)


def repeated_key(key: str, number: int) -> str:
    """Return the key of a record that is sent again under a key of its own, e.g. ``A7~2``.

    Args:
        key: Of the record.
        number: 1 for the first time, which keeps the key.
    """
    return key if number == 1 else f"{key}{_REPETITION}{number}"


def original_key(key: str) -> str:
    """Return the key without the number of a repetition: all repetitions of a record belong to one part of the split, and one fold."""
    if _REPETITION not in key:
        return key
    original, _, number = key.rpartition(_REPETITION)
    return original if original and number.isdecimal() else key


def without_key(declaration: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a data set's declaration without the key's column, in ``columns`` and in steps that drop it."""
    key = declaration.get("id")
    if not isinstance(key, str) or not key:
        return declaration
    steps = [_step_without(step, key) for step in declaration.get("pipeline") or ()]
    columns = [each for each in declaration.get("columns") or () if _named(each, "name") != key]
    return {**declaration, "columns": columns, "pipeline": [step for step in steps if step is not None]}


def _named(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)


def _step_without(step: Any, name: str) -> Any:
    """Return a drop step without a column; None where no other is left; other steps as they are."""
    columns = _named(step, "columns")
    if _named(step, "step") != "drop" or not isinstance(columns, list | tuple) or name not in columns:
        return step
    left = [each for each in columns if each != name]
    return {"step": "drop", "columns": left} if left else None


def _uuid(version: int, head: int, bits: int) -> str:
    value = head << 80 | version << 76 | (bits >> 64 & 0xFFF) << 64 | 0b10 << 62 | bits & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{value:032x}"  # uuid.UUID takes four times as long
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
