"""Files that gzip has packed."""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path

from complex_system.errors import SourceFileError

_SUFFIX = ".gz"


def is_packed(path: Path) -> bool:
    """Whether it is a gzip file, by its name."""
    return path.suffix.lower() == _SUFFIX


def kind_of_file(path: Path) -> str:
    """The suffix that says what is in a file, without the dot: ``csv`` for ``a.csv.gz``."""
    return (path.with_suffix("") if is_packed(path) else path).suffix[1:]


def unpacked(path: Path, folder: Path) -> Path:
    """Writes what is in a gzip file to a folder, under its name without ``.gz``.

    Raises:
        SourceFileError: It is no gzip file, or damaged.
    """
    plain = folder / path.stem
    try:
        with gzip.open(path) as packed, plain.open("wb") as copy:
            shutil.copyfileobj(packed, copy)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceFileError(f"The file {path} cannot be read as gz: {error}.") from error
    return plain
