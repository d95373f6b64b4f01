"""Raw records as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

from complex_system.domain.dataset import ID, Dataset
from complex_system.errors import InvalidRequestError
from complex_system.sources.values import entries


def csv_columns(body: bytes, dataset: Dataset) -> dict[str, list[Any]]:
    """Columns by the names of the header; values as the declared column has them, empty fields as None.

    A field that is no number, no list or neither true nor false stays a text, so that the check of the records names it.

    Raises:
        InvalidRequestError: The body is no CSV in UTF-8, its header is not unique, or a line has another number of fields.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise InvalidRequestError(f"The body is not CSV: {error}.") from None
    if len(lines) < 2:
        raise InvalidRequestError("A header and at least one line are needed.")
    header, *rows = lines
    if len(set(header)) != len(header):
        raise InvalidRequestError("A column is there more than once.")
    for position, row in enumerate(rows):
        if len(row) != len(header):
            raise InvalidRequestError(f"Line {position + 2} has {len(row)} fields where the header has {len(header)}.")
    read: dict[str, Callable[[str], Any]] = {name: _text if name == ID else _number for name in header}
    read |= {column.name: _READERS.get(column.type, _text) for column in dataset.columns}
    return {
        name: [read[name](value) for value in column] for name, column in zip(header, zip(*rows, strict=True), strict=True)
    }


def csv_text(columns: dict[str, list[Any]]) -> str:
    """Columns as CSV that :func:`csv_columns` reads; lists as JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(
            [json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value for value in row]
        )
    return out.getvalue()


def _text(value: str) -> str | None:
    return value or None


def _flag(value: str) -> bool | str | None:
    return {"true": True, "false": False, "": None}.get(value.strip().lower(), value)


def _list(value: str) -> Any:
    return entries(value) if value.strip() else None


def _shares(value: str) -> Any:
    return entries(value, shares=True) if value.strip() else None


def _number(value: str) -> float | str | None:
    if not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        return value


_READERS: dict[str, Callable[[str], Any]] = {
    "number": _number,
    "integer": _number,
    "boolean": _flag,
    "list of categories": _list,
    "list of shares": _shares,
}
