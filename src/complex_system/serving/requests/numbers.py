"""Numbers in requests as people write them: with decimal commas, and in quotation marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL_COMMA = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+),[0-9]+")
_EITHER = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # 1,234: thousands or decimals
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def with_decimal_commas(read: list[Any], texts: Sequence[str]) -> list[Any]:
    """Return a column with numbers like 861,5 in place of their texts, where the whole column can only be meant so.

    That is where all its numbers have a comma or are whole, and one of the commas cannot stand for thousands.

    Args:
        read: None where a value is missing, and what else was read.
        texts: The fields as they came.
    """
    given = [text.strip() for text, value in zip(texts, read, strict=True) if value is not None]
    commas = [text for text in given if _DECIMAL_COMMA.fullmatch(text)]
    if all(map(_EITHER.fullmatch, commas)) or not all(_WHOLE.fullmatch(text) for text in given if text not in set(commas)):
        return read
    return [None if value is None else float(_with_point(text)) for value, text in zip(read, texts, strict=True)]


def written_number(text: str) -> str:
    """Return how a number in a text is written as JSON has it; empty where it is no number.

    Where its comma may stand for decimals or for thousands, both are told.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return f"{text.lstrip('+')} without quotation marks"
    if _EITHER.fullmatch(text):
        return f"{_with_point(text)} or {text.replace(',', '')}, whichever is meant"
    return _with_point(text) if _DECIMAL_COMMA.fullmatch(text) else ""


def _with_point(text: str) -> str:
    return text.strip().replace(".", "").replace(",", ".").lstrip("+")
