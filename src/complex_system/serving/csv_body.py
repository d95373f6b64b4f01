"""Raw records as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.errors import InvalidRequestError


def csv_columns(body: bytes, dataset: Dataset) -> dict[str, list[Any]]:
    """Columns by the names of the header; numbers as floats where the declared column is one, empty fields as None.

    A field that is no number stays a text, so that the check of the records names it.

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
    texts = {column.name for column in dataset.columns if column.type != "number"} | {"_id"}
    read = {name: _text if name in texts else _number for name in header}
    return {
        name: [read[name](value) for value in column] for name, column in zip(header, zip(*rows, strict=True), strict=True)
    }


def _text(value: str) -> str | None:
    return value or None


def _number(value: str) -> float | str | None:
    if not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        return value
