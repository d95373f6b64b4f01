"""Rows that are checked: the records of a file or an SQL table, each with a key, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record, RecordCheck
from complex_system.errors import InvalidRecordError, RecordFault


@dataclass(frozen=True)
class Row:
    """One row of a file or a table.

    Attributes:
        number: Place in the file, from 1; a header is not counted.
        record: The raw record with its key; empty when the row is faulty.
        fault: Why the row is not a record of the data set; empty when it is one.
        key_made: Whether the key was made here, because the row has none.
        name: What messages call it; empty for its number.
    """

    number: int
    record: Record
    fault: str = ""
    key_made: bool = False
    name: str = ""

    def __str__(self) -> str:
        """Return what messages call the row."""
        return self.name or f"row {self.number}"


def checked_rows(
    numbers: Sequence[int],
    values: Sequence[Record | str],
    dataset: Dataset,
    check: RecordCheck,
    make_key: Callable[[int], str],
) -> Iterator[Row]:
    """Yield the rows: good ones are checked together, and one by one where a record among them has a fault.

    Args:
        numbers: Of the rows.
        values: By column name, changed here; for a row that is not read, the reason.
        dataset: Names the key column.
        check: Of the raw records.
        make_key: Makes the key of a row that has none.
    """
    without_key: set[int] = set()
    for number, value in zip(numbers, values, strict=True):
        if isinstance(value, str):
            continue
        key = value.pop(dataset.id or ID, None)
        if key is None:
            without_key.add(number)
            key = make_key(number)
        value[ID] = str(key) if dataset.id and isinstance(key, int) else key
    checked: Iterator[Record] | None = None
    with suppress(InvalidRecordError):
        checked = iter(check([value for value in values if not isinstance(value, str)]))
    for number, value in zip(numbers, values, strict=True):
        if isinstance(value, str):
            yield Row(number, {}, value)
            continue
        try:
            record = check([value])[0] if checked is None else next(checked)
        except InvalidRecordError as error:
            yield Row(number, {}, fault_text(error.faults[0]))
        else:
            yield Row(number, record, key_made=number in without_key)


def fault_text(fault: RecordFault) -> str:
    """Return a fault of a record as text, without its place."""
    return (f"field '{fault['field']}': " if fault["field"] else "") + fault["problem"]
