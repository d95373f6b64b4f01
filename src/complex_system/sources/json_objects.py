"""JSON in files: the elements of an array, objects without a field that is there twice, and objects without objects in them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import msgspec

Fields = dict[str, Any]
"""An object."""
MAX_ELEMENT = 1 << 24
"""Characters of one element of an array; about so many are in memory at most, and not the file."""
_BLOCK = 1 << 20
_NESTED = 100
"""Levels of objects in each other that are flattened."""
_MAX_DEPTH = 500
_BRACKETS = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_MAX_DIGITS = 4000
_BLANKS = re.compile(r"[ \t\r\n]*")
_KEY = re.compile(rb'"\s*:')
_decode = msgspec.json.Decoder().decode
_scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


class JsonArray:
    """The texts of the elements of a JSON array, of which a part is in memory.

    Attributes:
        is_array: Whether the file begins with ``[``; known once an element is asked for.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self.is_array = False

    def __iter__(self) -> Iterator[str]:
        """Yield the elements.

        Raises:
            ValueError: The file is an array and not JSON.
        """
        self.is_array = self._next() == "["
        if not self.is_array:
            return
        self._at += 1
        is_end = self._next() == "]"
        while not is_end:
            yield self._element()
            if (sign := self._next()) not in ("]", ","):
                raise ValueError("a ',' or a ']' is expected")
            is_end = sign == "]"
            self._at += not is_end
            self._next()
        self._at += 1
        if self._next():
            raise ValueError("something follows the ']' of the array")

    def _next(self) -> str:
        """Go to the next character that is not a blank, and return it; empty at the end of the file."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr] # no blanks are a match, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _element(self) -> str:
        while True:
            try:
                _, end = _scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # What is wrong may only be that the rest is not in memory.
                if len(self._text) - self._at > MAX_ELEMENT:
                    raise ValueError(f"no element ends within {MAX_ELEMENT:,} characters: {error.msg}") from None
                if not self._read():
                    raise ValueError(error.msg) from None
                continue
            if (
                end < len(self._text) - _MAX_DIGITS or not self._read()
            ):  # near the end of what is in memory, a number may go on
                element, self._at = self._text[self._at : end], end
                return element

    def _read(self) -> bool:
        """Read as much again as is left in memory, which is linear in all; return false at the end of the file."""
        left = self._text[self._at :]
        block = self._file.read(max(_BLOCK, len(left)))
        if block:
            self._text, self._at = left + block, 0
        return bool(block)


def object_of(text: bytes) -> Fields | str:
    """Return the object that a text is, or why it is none."""
    if _is_deep(text):
        return f"is not JSON: it is nested deeper than {_MAX_DEPTH}"
    try:
        try:
            value = _decode(text)
        except (msgspec.MsgspecError, ValueError):
            # Python and others write NaN and Infinity, which are not JSON.
            value = json.loads(text, parse_int=_whole)
            json.dumps(value, ensure_ascii=False).encode()  # a half of a surrogate pair is not a text
        if not isinstance(value, dict):
            return "is not a JSON object"
        if twice := _repeated(text, value):
            return f"has the field '{twice[:100]}' more than once; which of the values is right?"
        return value
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"


def _is_deep(text: bytes) -> bool:
    """Return whether a text nests deeper than it may.

    Decoders stop at 1,000 levels in Python 3.11 and at 10,000 in 3.13, for which the stack of polars' threads, 2 MB, is too small:
    the process would end.
    """
    if text.count(b"[") + text.count(b"{") <= _MAX_DEPTH:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text):
        depth += (found[0] in b"[{") - (found[0] in b"]}")
        if depth > _MAX_DEPTH:
            return True
    return False


def _whole(digits: str) -> int | str:
    """Return a whole number; one of more digits than Python reads as a text."""
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _repeated(text: bytes, value: Fields) -> str:
    """Return a field that an object in a text has more than once, of which decoders keep the last; empty for none."""
    fields = _fields(value)
    # There are at least as many colons as fields; only texts with colons in them, such as times, take a closer look.
    if text.count(b":") == fields or len(_KEY.findall(text)) == fields:
        return ""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)

    json.loads(text, object_pairs_hook=look, parse_int=str)
    return found[0] if found else ""


def _fields(value: Any) -> int:
    """Return the number of fields of all objects in a value."""
    if type(value) is not dict:
        return sum(map(_fields, value)) if type(value) is list else 0
    nested = [field for field in value.values() if type(field) in (dict, list)]
    return len(value) + sum(map(_fields, nested))


class _NotFlatError(ValueError):
    """An object cannot be flattened; the text says why."""


def flattened(value: Fields, whole: Container[str]) -> Fields | str:
    """Return an object without objects in it: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``, and MongoDB's ``$oid`` and others as values.

    Args:
        value: The object.
        whole: Names whose objects become texts.
    """
    if dict not in set(map(type, value.values())):
        return value
    made: Fields = {}
    try:
        for name, field in _flat_fields(value, "", whole, _NESTED):
            if name in made:
                return f"has the field '{name}' more than once: in an object, and with dots in its name"
            made[name] = field
    except _NotFlatError as error:
        return str(error)
    return made


def _flat_fields(value: Fields, prefix: str, whole: Container[str], levels: int) -> Iterator[tuple[str, Any]]:
    if not levels:
        raise _NotFlatError(f"has more than {_NESTED} objects in each other")
    for field, inside in value.items():
        name = prefix + field
        if type(inside) is not dict:
            yield name, inside
        elif len(inside) == 1 and (read := _EXTENDED.get(next(iter(inside)))):
            try:
                yield name, read(next(iter(inside.values())))
            except (ValueError, TypeError, OverflowError, LookupError):
                problem = f"field '{name}' is not a value of MongoDB's extended JSON: {text_of(inside)[:60]}"
                raise _NotFlatError(problem) from None
        elif not inside:
            yield name, None
        elif name in whole:
            yield name, text_of(inside)
        else:
            yield from _flat_fields(inside, f"{name}.", whole, levels - 1)


def _date(value: Any) -> str:
    if isinstance(value, str):
        return value
    milliseconds = int(value["$numberLong"] if isinstance(value, dict) else value)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_EXTENDED: dict[str, Callable[[Any], Any]] = {
    "$oid": str, "$date": _date, "$numberInt": int, "$numberLong": int, "$numberDouble": float, "$numberDecimal": float,
    "$uuid": str, "$symbol": str,
}  # fmt: skip
"""MongoDB's extended JSON, as ``mongoexport`` writes it."""


def text_of(value: Any) -> str:
    """Return a value as JSON; a text for a column whose values are of several types."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, OverflowError, ValueError):
        return json.dumps(value, default=str, ensure_ascii=False)
