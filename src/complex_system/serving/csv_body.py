"""Raw records as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.errors import InvalidRequestError

MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
     "None", "n/a", "nan", "null")
)  # fmt: skip
"""What pandas, and so MLflow's server, reads as a missing value."""


def csv_columns(body: bytes, dataset: Dataset) -> dict[str, list[Any]]:
    """Columns by the names of the header; numbers as floats where the declared column is one, missing values as None.

    Missing is what :data:`MISSING` holds, unless it is a declared category. A field that is no number stays a text, so that the
    check of the records names it.

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
    texts = {column.name: MISSING - {*column.categories} for column in dataset.columns if column.type != "number"}
    texts["_id"] = frozenset(("",))
    return {
        name: _texts(column, texts[name]) if name in texts else [_number(value) for value in column]
        for name, column in zip(header, zip(*rows, strict=True), strict=True)
    }


def _texts(values: tuple[str, ...], missing: frozenset[str]) -> list[str | None]:
    return [None if value in missing else value for value in values]


def _number(value: str) -> float | str | None:
    try:
        # Python takes 1_0 and the digits of every script for numbers; whoever wrote the file did not mean that.
        number = float(value) if value.isascii() and "_" not in value else None
    except ValueError:
        number = None
    if number is None or number != number:  # noqa: PLR0124 - NaN
        return None if value.strip() in MISSING else value
    return number
