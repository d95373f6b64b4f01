"""Raw records as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

import polars as pl

from complex_system.domain.dataset import ID, Column
from complex_system.domain.records import MAX_FAULTS, faults_message, shown
from complex_system.errors import InvalidRecordError, InvalidRequestError, RecordFault
from complex_system.sources.layout import HEAD_ROWS
from complex_system.sources.notation import evidence_in, notations
from complex_system.sources.values import entries
from complex_system.sources.values import values as file_values

_SEPARATORS = ",;\t"


def csv_columns(body: bytes, declared: Iterable[Column], key: str = "") -> dict[str, list[Any]]:
    """Return columns by the names of the header; values as the declared column has them, missing values as None.

    Fields are read as those of files are (``sources.values``): what is missing, and how numbers are written. A field that is not the
    number, list or boolean that its column declares stays a text, so that the check of the records names it. Fields are separated by
    the character that gives the most declared columns in the header: a comma, or a semicolon or tab as in tables with decimal commas.

    Args:
        body: The text, with or without a byte order mark.
        declared: The known columns.
        key: Another name of the key.

    Raises:
        InvalidRequestError: The body is not CSV in UTF-8, its header is not unique or not its first line, or a line has another number
            of fields.
        InvalidRecordError: A number has two readings.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"The body is not UTF-8 ({error.reason} at byte {error.start}). Send UTF-8: Excel saves UTF-8 as 'CSV UTF-8', and "
            "'iconv -f WINDOWS-1252 -t UTF-8 FILE' converts what it saves as plain CSV."
        ) from None
    columns = {column.name: column for column in declared}
    try:
        separator = _separator(text, {*columns, key, ID})
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise InvalidRequestError(f"The body is not CSV: {error}.") from None
    if len(lines) < 2:
        raise InvalidRequestError("A header and at least one line are needed.")
    header, *rows = lines
    # As pandas calls columns without a name, such as the index that its own to_csv writes.
    header = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    if len(set(header)) != len(header):
        raise InvalidRequestError("A column is there more than once.")
    for position, row in enumerate(rows):
        if len(row) != len(header):
            raise InvalidRequestError(f"Line {position + 2} has {len(row)} fields where the header has {len(header)}.")
    given = dict(zip(header, zip(*rows, strict=True), strict=True))
    keys = {name: [value or None for value in given.pop(name)] for name in (ID, key) if name in given}
    read = {name: _column(values, columns.get(name)) for name, values in given.items()}
    if separator != "," or any(_is_number(columns.get(name)) and str in set(map(type, read[name])) for name in read):
        read = _as_in_files(given, columns, "," if separator == ";" else ".")
    return {name: keys[name] if name in keys else read[name] for name in header}


def _separator(text: str, known: Container[str]) -> str:
    """Return the separator with which the header has the most known columns.

    Raises:
        InvalidRequestError: The first line has none, and one of the next lines has several.
    """
    lines = [(number, line) for number, line in enumerate(islice(io.StringIO(text), HEAD_ROWS), 1) if line.strip()]

    def named(line: str) -> tuple[int, str]:
        return max(((_known_in(line, each, known), each) for each in _SEPARATORS), key=itemgetter(0))

    count, separator = named(lines[0][1]) if lines else (0, ",")
    below = next((number for number, line in lines[1:] if named(line)[0] > 1), 0) if not count else 0
    if below:
        above = shown(lines[0][1].strip(f"{_SEPARATORS} \r\n"))
        raise InvalidRequestError(
            f"Line {below} names the columns, and {above} stands above it. Send the table from the line with the names on."
        )
    return separator


def _known_in(line: str, separator: str, known: Container[str]) -> int:
    return sum(bool(name) and name in known for name in next(csv.reader([line.rstrip("\r\n")], delimiter=separator), ()))


def _column(values: tuple[str, ...], column: Column | None) -> list[Any]:
    """Read a column whose numbers have decimal points and no thousands."""
    if column is None:
        return [_number(value) if value.strip() else None for value in values]
    reader = _READERS.get(column.type, _text)
    return [None if column.is_missing(value) else reader(value) for value in values]


def _as_in_files(given: Mapping[str, tuple[str, ...]], columns: Mapping[str, Column], usual: str) -> dict[str, list[Any]]:
    """Read columns whose numbers are written in another way, which all values of the body say; ``usual`` is the decimal sign else."""
    texts = {name: pl.Series(name, values, pl.String) for name, values in given.items()}
    written = notations(evidence_in([pl.DataFrame(list(texts.values()))]), usual)
    read: dict[str, list[Any]] = {}
    faults: list[RecordFault] = []
    for name, series in texts.items():
        column = columns.get(name)
        found = file_values(series, column, written[name])
        read[name] = found.at(range(len(found.series)))
        if _is_number(column):
            for place, value in found.others.items():
                if isinstance(value, str) and (doubt := written[name].doubt(value)):
                    faults.append({"record": place, "id": None, "field": name, "problem": doubt})
    if faults:
        faults = sorted(faults, key=itemgetter("record"))[:MAX_FAULTS]
        raise InvalidRecordError(faults_message(faults), faults)
    return read


def _is_number(column: Column | None) -> bool:
    return column is not None and column.type in ("number", "integer")


def csv_text(columns: dict[str, list[Any]]) -> str:
    """Return columns as CSV that :func:`csv_columns` reads; lists as JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(
            [json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value for value in row]
        )
    return out.getvalue()


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool | str:
    return {"true": True, "false": False}.get(value.strip().lower(), value)


def _number(value: str) -> float | str:
    # Python reads 1_0 and the digits of every script as numbers; the author of the file did not mean that.
    if not value.isascii() or "_" in value:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return number if number == number else value  # noqa: PLR0124 - NaN in a spelling of its own


_READERS: dict[str, Callable[[str], Any]] = {
    "number": _number,
    "integer": _number,
    "boolean": _flag,
    "list of categories": entries,
    "list of shares": partial(entries, shares=True),
}
