"""How a file of a table is written: compressed or not, its encoding, and what separates the fields."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import shutil
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from complex_system.errors import SourceFileError

_SAMPLE = 256 * 1024
_LINES = 200
_SEPARATORS = ",;\t|"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        encoding: ``utf-8-sig`` with or without a byte order mark, ``utf-16``, or ``cp1252``, which has latin-1's letters.
        separator: Character between two fields.
        has_returns: Whether lines end with a carriage return only, as old programs write them.
    """

    encoding: str = "utf-8-sig"
    separator: str = ","
    has_returns: bool = False


def is_compressed(path: Path) -> bool:
    """Return whether it is a gzip file, by its name."""
    return path.suffix.lower() == ".gz"


def file_type(path: Path) -> str:
    """Return the suffix that names the content, without the dot: ``csv`` for ``a.csv.gz``."""
    return (path.with_suffix("") if is_compressed(path) else path).suffix[1:]


def decompressed(path: Path, folder: Path) -> Path:
    """Write the content of a gzip file to a folder, under its name without ``.gz``.

    Raises:
        SourceFileError: It is not a gzip file, or damaged.
    """
    plain = folder / path.stem
    try:
        with gzip.open(path) as compressed, plain.open("wb") as copy:
            shutil.copyfileobj(compressed, copy)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceFileError(f"The file {path} cannot be read as gz: {error}.") from error
    return plain


def dialect_of(path: Path, shown: Path | None = None) -> Dialect:
    """Return how a file is written; reads all of it for the encoding, and its beginning for the rest.

    Args:
        path: The file.
        shown: The file's name in errors, where ``path`` is a copy.

    Raises:
        SourceFileError: Its bytes are not a text.
    """
    encoding = _encoding(path)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        sample = file.read(_SAMPLE)
    if "\0" in sample:
        raise SourceFileError(f"The file {shown or path} is not a text: it has zero bytes.")
    has_returns = "\r" in sample and "\n" not in sample
    separator = _separator(sample, "\t" if path.suffix.lower() in (".tsv", ".tab") else ",")
    return Dialect(encoding, separator, has_returns)


def as_utf8(path: Path, dialect: Dialect, to: Path) -> None:
    """Write a copy in UTF-8, with line feeds."""
    with (
        path.open(encoding=dialect.encoding, errors="replace", newline="") as source,
        to.open("w", encoding="utf-8", newline="") as copy,
    ):
        while block := source.read(_BLOCK):
            copy.write(block.replace("\r", "\n") if dialect.has_returns else block)


def too_long(path: Path) -> str:
    """Return a sentence on the line that has values in more fields than the first, for a file that was refused for it."""
    if is_compressed(path):
        with tempfile.TemporaryDirectory() as folder:
            return too_long(decompressed(path, Path(folder)))
    dialect = dialect_of(path)
    with path.open(encoding=dialect.encoding, errors="replace", newline="") as file, contextlib.suppress(csv.Error):
        rows = csv.reader(file, delimiter=dialect.separator)
        header = next(rows, [])
        for row in rows:
            if any(row[len(header) :]):
                return (
                    f"line {rows.line_num} has {len(row)} fields between '{dialect.separator}', and the first line has "
                    f"{len(header)}: the first line has to name all columns, nothing may stand above it, and a value with "
                    f"'{dialect.separator}' in it needs quotes"
                )
    return "a line has more fields than the first, which names the columns"


def _encoding(path: Path) -> str:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        first = file.read(2)
        if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0)
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def _rows(text: str, separator: str) -> list[list[str]]:
    """Return the rows before the first that Python cannot read, such as one with a field of more than 131,072 characters."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    return rows


def _separator(sample: str, usual: str) -> str:
    """Return the one that splits the lines most evenly; of several, the one with most fields."""
    lines = "".join(sample.splitlines(keepends=True)[:_LINES])
    best, separator_found = (0.0, 0), usual
    for separator in dict.fromkeys([usual, *_SEPARATORS]):
        rows = [row for row in _rows(lines, separator) if row]
        # A separator behind the last value of a line begins no field, where no line has a value there.
        used = max((at + 1 for row in rows for at, field in enumerate(row) if field), default=0)
        widths = [min(len(row), used) for row in rows]
        if not widths:
            continue
        # The usual number of fields, not that of the first line, which may be a title.
        usual_width, count = Counter(widths).most_common(1)[0]
        if usual_width < 2:
            continue
        score = (round(count / len(widths), 2), usual_width)
        if score > best:
            best, separator_found = score, separator
    if best == (0.0, 0) and usual == ",":
        # Columns of a measuring device: one space between the values, in every line.
        columns = {len(line.split(" ")) for line in lines.splitlines() if line}
        if len(columns) == 1 and columns.pop() > 1:
            return " "
    return separator_found
