"""JSON bodies: decoded without stopping the event loop, and explained where they are refused."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from itertools import islice
from typing import Any

import msgspec

from complex_system.errors import InvalidRequestError
from complex_system.http.limits import LARGE_BODY

_decode = msgspec.json.Decoder().decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_mapping = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NO_JSON = "The body is not JSON in UTF-8"
_ALLOWED = "numbers must be finite, at most 1.8e308 in size; null stands for a missing value"
_LITERAL = re.compile(rb"-?(?:NaN|Infinity)")
# Both match only where a number begins, so that a search takes one pass, however long the digits are.
_EXPONENT = re.compile(rb"(?<![\w.+-])-?\d++(?:\.\d++)?[eE]\+?\d{3,}+")
_LONG = re.compile(rb"(?<![\w.+-])-?(\d{4301,}+)(?![\d.eE])")
_KEY = re.compile(rb'"([^"\\]{1,60})"\s*:\s*$')
_SHOWN = 40
_TRIED = 1000
"""Numbers with a large exponent that are tried, so that the message costs no more than the refusal."""
_TYPE_NAMES = {
    "str": "a text",
    "int": "an integer",
    "float": "a number",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def decoded(body: bytes) -> Any:
    """Return the content of a JSON body.

    msgspec holds Python's lock during a whole call, so a large body decoded in one call would stop the event loop from any
    thread. A list in it is decoded element by element instead: that takes twice as long, and the event loop runs in between.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: It is not JSON in UTF-8.
    """
    if len(body) < LARGE_BODY:
        return _decode(body)
    try:
        fields = _decode_mapping(body)
    except msgspec.ValidationError:
        return _elements(body)
    return {name: _elements(value) for name, value in fields.items()}


def json_of(body: bytes) -> Any:
    """Return the content of a JSON body; programs for Windows put a byte order mark in front of it.

    Raises:
        InvalidRequestError: It is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return decoded(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if content := unmarked(body):
            return json_of(content)
        raise InvalidRequestError(explain_json(body, error)) from None


def unmarked(body: bytes) -> bytes:
    """Return a body without its byte order mark; empty where it has none, or more than one."""
    content = body.removeprefix(BOM_UTF8)
    return b"" if len(content) == len(body) or content.startswith(BOM_UTF8) else content


def explain_json(body: bytes, error: Exception) -> str:
    """Return a message for an error of the decoder: byte, field and value where they are known, and what is allowed.

    Args:
        body: What was decoded.
        error: What the decoder raised.
    """
    if isinstance(error, RecursionError):
        return "The body is nested too deeply."
    text = str(error).partition(" - at `")[0]
    if text.startswith("Number out of range"):
        large = islice(_EXPONENT.finditer(body), _TRIED)
        found = next((each for each in large if math.isinf(float(each[0]))), None)
        shown = f"the number {_cut(found[0])}{_where(body, found.start())}" if found else "a number that is too large"
        return f"{_NO_JSON}: it holds {shown}, and {_ALLOWED}."
    if text.startswith("Integer value out of range"):
        found = _LONG.search(body)
        shown = (
            f"an integer of {len(found[1])} digits{_where(body, found.start())}" if found else "an integer that is too long"
        )
        return f"{_NO_JSON}: it holds {shown}, and {_ALLOWED}."
    place = re.search(r"\(byte (\d+)\)", text)
    if place is not None:
        at = int(place[1])
        literal = _LITERAL.search(body, max(0, at - 1), at + 9)
        if literal is not None and literal.start() <= at:
            shown = f"it holds {_cut(literal[0])}{_where(body, literal.start())}"
            return f"{_NO_JSON}: {shown}, and {_ALLOWED}."
    return f"{_NO_JSON}: {text}."


def explain_type(body: bytes, error: msgspec.ValidationError) -> str:
    """Return what is wrong with JSON of another type: the place, what it is, and what is allowed."""
    problem, _, path = str(error).rstrip("`").partition(" - at `$")
    if "out of range" in problem:
        return explain_json(body, error)
    place = f"'{path.lstrip('.')}'" if path else "the body"
    names = problem.split("`")[1::2]
    if problem.startswith("Expected `") and len(names) == 2:
        expected, got = (" or ".join(_TYPE_NAMES.get(part, part) for part in name.split(" | ")) for name in names)
        return f"{place} must be {expected}, not {got}"
    if problem.startswith("Object missing required field") and names:
        return f"{place} needs '{names[0]}'"
    return f"{place}: {problem}"


def _elements(body: bytes | msgspec.Raw) -> Any:
    try:
        elements = _decode_list(body)
    except msgspec.ValidationError:
        return _decode(body)
    return [_decode(element) for element in elements]


def _cut(value: bytes) -> str:
    text = value.decode("ascii")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _where(body: bytes, at: int) -> str:
    key = _KEY.search(body[max(0, at - 100) : at])
    field = f", field '{key[1].decode(errors='replace')}'" if key else ""
    return f" (byte {at}{field})"
