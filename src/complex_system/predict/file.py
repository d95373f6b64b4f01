"""The rows of a file with their predictions, as CSV."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from complex_system.domain.columns import Column
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import RecordCheck, raw_check
from complex_system.errors import InvalidRecordError, RecordFault, SourceFileError, TooLargeError
from complex_system.predict.client import PredictError, RestClient
from complex_system.serving.requests.naming import ColumnNames
from complex_system.sources.base import Table
from complex_system.sources.replay import fault_text, readable
from complex_system.sources.tables import table_at

CHUNK = 1000
"""Rows of a request at most."""
ROW = "row"
"""Head of the first column where the file has no keys."""


@dataclass
class RowAnswer:
    """A row of the file with what came of it.

    Attributes:
        number: Place in the file, from 1; a header is not counted.
        key: Its key; empty where it has none.
        record: What is sent; empty where the row cannot be read.
        faults: Why there is no prediction.
    """

    number: int
    key: str
    record: dict[str, Any]
    prediction: float | None = None
    model: str = ""
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """What came of a file.

    Attributes:
        rows: How many the file has.
        faulty: How many of them have no prediction.
        first: The first of those, with its faults.
        models: Predictions by model.
    """

    rows: int
    faulty: int
    first: str
    models: dict[str, int]


class PredictionFile:
    """A file whose columns fit what a service takes."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        """Open the file and read its columns and its number of rows.

        Args:
            path: Any file that ``sources.tables`` reads.
            dataset: Declares the records.

        Raises:
            SourceFileError: It cannot be read, or lacks a column that is needed.
        """
        if not path.is_file():
            raise SourceFileError(f"There is no file {path}.")
        self.path = path
        with readable(path):
            self._table: Table = table_at(path, dataset.by_name)
            names, self.rows = self._table.outline()
        self.key = next((name for name in (dataset.id, ID) if name and name in names), "")
        self._key_is_own = self.key == dataset.id
        # What is predicted is not sent, unless the declaration does not let it be missing.
        sent = [each for each in dataset.columns if each.name not in dataset.targets or not each.optional]
        self._columns = {column.name: column for column in sent if column.name in names}
        self._check: RecordCheck = raw_check(dataset)
        self.absent = [column.name for column in sent if column.optional and column.name not in names]
        self.ignored = [name for name in names if name != self.key and name not in dataset.by_name]
        self._require(names, sent, ColumnNames(dataset, dataset.columns, "mlflow"))

    def _require(self, names: list[str], sent: list[Column], known: ColumnNames) -> None:
        alike = {name: near for name in self.ignored if (near := known.misspelled(name, names))}
        if alike:
            name, near = next(iter(alike.items()))
            raise SourceFileError(
                f"The file {self.path} has the column '{name}' and lacks '{near}': is it that one? Rename or remove it."
            )
        if lacking := [column.name for column in sent if not column.optional and column.name not in names]:
            raise SourceFileError(
                f"The file {self.path} lacks the column(s) {listed(lacking)}, which the model needs; it has {listed(names)}."
            )

    def answers(self, client: RestClient) -> Iterator[list[RowAnswer]]:
        """Yield the rows in the order of the file, some hundred at a time, with their predictions or faults."""
        columns: dict[str, Column | None] = {**({self.key: None} if self.key else {}), **self._columns}
        with readable(self.path):
            for numbers, values in self._table.chunks(columns, CHUNK):
                rows = [self._row(number, value) for number, value in zip(numbers, values, strict=True)]
                _predict(client, [row for row in rows if not row.faults])
                yield rows

    def _row(self, number: int, value: dict[str, Any] | str) -> RowAnswer:
        if isinstance(value, str):
            # Its key is not known, so the row is named.
            return RowAnswer(number, "", {}, faults=[f"row {number}: {value}" if self.key else value])
        key = value.get(self.key) if self.key else None
        if self._key_is_own and type(key) is int:
            key = str(key)
        record = {name: value.get(name) for name in self._columns if value.get(name) is not None}
        if key is not None:
            record[ID] = key
        # What is no record of the data set, such as an infinite number, cannot always be sent.
        try:
            self._check([record])
        except InvalidRecordError:
            faults = [fault_text(fault) for fault in self._check.faults([record])]
            return RowAnswer(number, str(key or ""), record, faults=faults)
        return RowAnswer(number, str(key or ""), record)


def predict_file(
    file: PredictionFile,
    client: RestClient,
    out: Callable[[str], None],
    progress: Callable[[int, int, float], None],
) -> Summary:
    """Ask for the predictions of a file's rows and write them as CSV.

    Args:
        file: The rows.
        client: The service.
        out: Takes the CSV, some hundred lines at a time.
        progress: Called after each request with the rows that are done, all rows, and the seconds since the start.

    Raises:
        PredictError: The service cannot be asked; what is done is written.
        SourceFileError: The file cannot be read to its end; what is done is written.
    """
    began = time.monotonic()
    models: Counter[str] = Counter()
    done = faulty = 0
    first = ""
    out(_csv([[file.key or ROW, "prediction", "model", "faults"]]))
    for rows in file.answers(client):
        out(_csv([[row.key if file.key else row.number, _number(row), row.model, "; ".join(row.faults)] for row in rows]))
        done += len(rows)
        models.update(row.model for row in rows if row.model)
        bad = [row for row in rows if row.faults]
        faulty += len(bad)
        if bad and not first:
            first = f"row {bad[0].number}: {'; '.join(bad[0].faults)}"
        progress(done, file.rows, time.monotonic() - began)
    return Summary(done, faulty, first, dict(models))


def _predict(client: RestClient, rows: list[RowAnswer]) -> None:
    """Give rows their predictions; those that the service refuses get their faults, and the others are sent again."""
    while rows:
        try:
            answer = client.predict([row.record for row in rows])
        except InvalidRecordError as error:
            refused = _named(error.faults, rows)
            if not refused:
                raise PredictError(f"The service refuses records without naming them: {error.message}") from error
            for row, fault in refused:
                row.faults.append(fault_text(fault))
            rows = [row for row in rows if not row.faults]
        except TooLargeError:
            if len(rows) == 1:
                raise
            _predict(client, rows[: len(rows) // 2])
            rows = rows[len(rows) // 2 :]
        else:
            for row, prediction in zip(rows, answer.predictions, strict=True):
                row.prediction, row.model = prediction, answer.model.label
            return


def _named(faults: list[RecordFault], rows: list[RowAnswer]) -> list[tuple[RowAnswer, RecordFault]]:
    return [(rows[fault["record"]], fault) for fault in faults if 0 <= fault["record"] < len(rows)]


def _number(row: RowAnswer) -> str:
    return "" if row.prediction is None else repr(row.prediction)


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def listed(names: list[str], limit: int = 20) -> str:
    """Return names for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name[:60]}'" for name in names[:limit]) + more
