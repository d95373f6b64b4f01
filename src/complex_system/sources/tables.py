"""Tables in files: CSV and similar, spreadsheets, JSON and Parquet; the one reader for replay and for ``describe-data``."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from complex_system.errors import SourceFileError
from complex_system.sources.base import Table
from complex_system.sources.dialect import decompressed, is_compressed
from complex_system.sources.sheets import CsvTable, ExcelTable
from complex_system.sources.structured import JsonTable, LinesTable, ParquetTable

_READERS: dict[str, type[Table]] = {
    ".csv": CsvTable, ".tsv": CsvTable, ".tab": CsvTable, ".txt": CsvTable,
    ".parquet": ParquetTable, ".pq": ParquetTable,
    ".xlsx": ExcelTable, ".xls": ExcelTable, ".xlsm": ExcelTable, ".xlsb": ExcelTable, ".ods": ExcelTable,
    ".jsonl": LinesTable, ".ndjson": LinesTable, ".json": JsonTable,
}  # fmt: skip


def table_at(path: Path, declared: Iterable[str] = ()) -> Table:
    """Return the table in a file, by the file's suffix.

    Args:
        path: The file.
        declared: Names of columns that are known; an object with such a name is not taken apart.

    Raises:
        SourceFileError: The suffix is not known, or the file is a damaged gzip file.
    """
    if not is_compressed(path):
        return _reader(path, path)(path, declared=declared)
    folder = Path(tempfile.mkdtemp())  # for as long as the table is in use
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        copy = decompressed(path, folder)
        table = _reader(copy, path)(copy, path, declared)
    except BaseException:
        remove()
        raise
    weakref.finalize(table, remove)
    return table


def is_table(path: Path) -> bool:
    """Return whether a file's suffix is that of a table, or of a compressed one."""
    return path.with_suffix("" if is_compressed(path) else path.suffix).suffix.lower() in _READERS


def _reader(path: Path, shown: Path) -> type[Table]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SourceFileError(
            f"The file {shown} ends with '{''.join(shown.suffixes[-2:]) if shown != path else path.suffix}'; known are .csv, .tsv, "
            ".tab and .txt (fields with a separator), .jsonl and .ndjson (JSON lines), .json (an array of objects, or "
            "JSON lines), .xlsx, .xlsm, .xlsb, .xls and .ods "
            "(spreadsheets), .parquet and .pq, each also with .gz."
        )
    return reader
