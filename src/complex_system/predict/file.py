"""``fiot extras predict``: asks for the predictions of a file's rows, writes them as CSV, and says how far it is."""

from __future__ import annotations

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from complex_system.domain.columns import Column, counts_text
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record, RecordCheck, raw_check
from complex_system.errors import InvalidRecordError, RecordFault, SourceFileError, TooLargeError
from complex_system.predict.client import PredictError, RestClient
from complex_system.serving.requests.column_names import ColumnNames
from complex_system.sources.base import Table
from complex_system.sources.replay import readable
from complex_system.sources.rows import fault_text
from complex_system.sources.tables import table_at
from complex_system.terminal import printable

CHUNK = 1000
"""Rows of a request at most."""
ROW = "row"
"""Head of the first column where the file has no keys."""
FAULTY, INTERRUPTED = 2, 130
"""Exit codes: some rows have faults; Ctrl-C."""

_SHOWN_SECONDS, _LINE_SECONDS = 0.5, 10.0
"""Seconds between two states of the progress, on a terminal and elsewhere."""


def predict_command(
    path: Path, client: RestClient, output: Path | None, *, force: bool, out: TextIO, err: TextIO, say: Callable[[str], None]
) -> int:
    """Predict a file; return the exit code.

    Args:
        path: The file.
        client: The service.
        output: Where to write the CSV; None for ``out``.
        force: Whether to replace an existing file.
        out: Takes the CSV.
        err: Shows the progress.
        say: Takes messages.

    Raises:
        SourceFileError: The file cannot be read.
        PredictError: The service cannot be asked, or the CSV cannot be written.
    """
    if output and output.exists() and not force:
        raise PredictError(f"{output} exists already; --force replaces it.")
    file = PredictionFile(path, client.declaration())
    if file.absent:
        say(f"The file has no column {listed(file.absent)}; its declared fill is used in every row.")
    if file.ignored:
        say(f"Ignored, because the model does not take it: {listed(file.ignored)}.")
    for note in file.notes:
        say(f"NOTE: {note}.")
    progress = _Progress(err)
    where = str(output) if output else "standard output"
    try:
        if output:
            with output.open("w", encoding="utf-8", newline="") as target:
                made = predict_file(file, client, _writer(target), progress)
        else:
            made = predict_file(file, client, _writer(out), progress)
    except KeyboardInterrupt:
        progress.end()
        say(f"Stopped: {progress.done:,} of {file.rows:,} rows were predicted; {where} has them.")
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    except OSError as error:
        raise PredictError(f"{where} cannot be written: {error.strerror or error}.") from error
    finally:
        progress.end()
        client.close()
    say(_said(made, where))
    return FAULTY if made.faulty else 0


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
    record: Record
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
        outside: Values outside of their range that were taken all the same, by column.
    """

    rows: int
    faulty: int
    first: str
    models: dict[str, int]
    outside: dict[str, int]


class PredictionFile:
    """A file whose columns fit what a service takes.

    Attributes:
        outside: Values outside of their range that were predicted with, by column.
    """

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
        self.outside: Counter[str] = Counter()
        self.absent = [column.name for column in sent if column.optional and column.name not in names]
        self.ignored = [name for name in names if name != self.key and name not in dataset.by_name]
        self.notes = (*self._table.limits_in(self._columns.values()), *self._table.notes)
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
                _predict(client, [row for row in rows if not row.faults], self.outside)
                yield rows

    def _row(self, number: int, value: Record | str) -> RowAnswer:
        if isinstance(value, str):
            # Its key is not known, so the row is named.
            return RowAnswer(number, "", {}, faults=[f"row {number}: {value}" if self.key else value])
        key = value.get(self.key) if self.key else None
        if self._key_is_own and type(key) is int:
            key = str(key)
        record = {name: value.get(name) for name in self._columns if value.get(name) is not None}
        if key is not None:
            record[ID] = key
        # A value that no record may have, such as an infinite number, cannot always be sent.
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
    return Summary(done, faulty, first, dict(models), dict(file.outside))


def _predict(client: RestClient, rows: list[RowAnswer], outside: Counter[str]) -> None:
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
            _predict(client, rows[: len(rows) // 2], outside)
            rows = rows[len(rows) // 2 :]
        else:
            outside.update({each.field: each.count for each in answer.warnings})
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


def _writer(target: TextIO) -> Callable[[str], None]:
    def write(text: str) -> None:
        target.write(printable(text) if target.isatty() else text)
        target.flush()

    return write


def _said(made: Summary, where: str) -> str:
    by = ", ".join(f"{count:,} by {model}" for model, count in made.models.items())
    text = f"{made.rows - made.faulty:,} of {made.rows:,} rows predicted{f' ({by})' if by else ''}; {where} has them."
    if made.outside:
        text += f" Values outside of their ranges: {counts_text(made.outside)}."
    return f"{text} {made.faulty:,} with faults; {made.first}" if made.faulty else text


class _Progress:
    """Shows how far a long file is: on a terminal in one line, else in a line now and then."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._shown = 0.0
        self._open = False
        self.done = 0

    def __call__(self, done: int, rows: int, seconds: float) -> None:
        self.done = done
        text = f"{done:,} of {rows:,} rows, {done / seconds:,.0f} a second"
        if self._err.isatty() and seconds - self._shown >= _SHOWN_SECONDS:
            self._shown = seconds
            self._err.write(f"\r{text}\x1b[K")
            self._open = True
        elif not self._err.isatty() and seconds - self._shown >= _LINE_SECONDS:
            self._shown = seconds
            self._err.write(f"{text}\n")
        self._err.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            self._err.write("\n")
            self._open = False
