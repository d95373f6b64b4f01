"""Why a JSON body is refused, in words that help who sent it."""

from __future__ import annotations

import math
import re
from itertools import islice

import msgspec

_NO_JSON = "The body is not JSON in UTF-8"
_ALLOWED = "numbers must be finite, at most 1.8e308 in size; null stands for a missing value"
_LITERAL = re.compile(rb"-?(?:NaN|Infinity)")
# Both begin only where a number begins, so that a search takes one pass, however long the digits are.
_EXPONENT = re.compile(rb"(?<![\w.+-])-?\d++(?:\.\d++)?[eE]\+?\d{3,}+")
_LONG = re.compile(rb"(?<![\w.+-])-?(\d{4301,}+)(?![\d.eE])")
_KEY = re.compile(rb'"([^"\\]{1,60})"\s*:\s*$')
_SHOWN = 40
_LOOKED_AT = 1000
"""Numbers with a large exponent that are tried, so that the words cost no more than the refusal."""
_WORDS = {
    "str": "a text",
    "int": "an integer",
    "float": "a number",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def why_no_json(body: bytes, error: Exception) -> str:
    """A sentence for an error of the decoder: the byte, field and value where it can be told, and what is allowed.

    Args:
        body: What was decoded.
        error: What the decoder raised.
    """
    if isinstance(error, RecursionError):
        return "The body is nested too deeply."
    text = str(error).partition(" - at `")[0]
    if text.startswith("Number out of range"):
        large = islice(_EXPONENT.finditer(body), _LOOKED_AT)
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


def why_no_such_object(body: bytes, error: msgspec.ValidationError) -> str:
    """What is wrong with JSON that is not of the type that is taken: the place, what it is, and what is allowed."""
    problem, _, path = str(error).rstrip("`").partition(" - at `$")
    if "out of range" in problem:
        return why_no_json(body, error)
    place = f"'{path.lstrip('.')}'" if path else "the body"
    names = problem.split("`")[1::2]
    if problem.startswith("Expected `") and len(names) == 2:
        expected, got = (" or ".join(_WORDS.get(part, part) for part in name.split(" | ")) for name in names)
        return f"{place} must be {expected}, not {got}"
    if problem.startswith("Object missing required field") and names:
        return f"{place} needs '{names[0]}'"
    return f"{place}: {problem}"


def _cut(value: bytes) -> str:
    text = value.decode("ascii")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _where(body: bytes, at: int) -> str:
    key = _KEY.search(body[max(0, at - 100) : at])
    field = f", field '{key[1].decode(errors='replace')}'" if key else ""
    return f" (byte {at}{field})"
