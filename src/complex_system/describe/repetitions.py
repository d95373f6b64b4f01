"""Finds rows of a file that repeat an earlier one, by 64-bit hashes, in memory that does not grow with the rows.

Up to ``IN_MEMORY`` rows are held; more of them go to files by their first bits, so that equal hashes meet in one file (as in a
partitioned hash join), and each file is small enough to be sorted.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IN_MEMORY = 1_000_000
"""Rows that are held."""
_BITS = 6
"""Of a hash, that choose its file: with 64 files 64 million rows need the memory of one million."""

Rows = npt.NDArray[Any]
"""A structured array with at least the fields ``hash`` (uint64) and ``number`` (int64), the row's number in the file."""
Flags = npt.NDArray[np.bool_]


class HashedRows:
    """Rows of a file by their hash."""

    def __init__(self, **fields: str) -> None:
        """Begin without rows.

        Args:
            fields: Further fields of a row, with their types as numpy writes them.
        """
        self.dtype = np.dtype([("hash", "u8"), ("number", "i8"), *fields.items()])
        self._held: list[Rows] = []
        self._count = 0
        self._folder: Path | None = None

    def add(self, **fields: npt.ArrayLike) -> None:
        """Take the next rows: an array for each field."""
        rows = np.empty(len(np.asarray(fields["hash"])), self.dtype)
        for name, values in fields.items():
            rows[name] = values
        if self._folder:
            self._write(rows)
            return
        self._held.append(rows)
        self._count += len(rows)
        if self._count > IN_MEMORY:
            self._folder = Path(tempfile.mkdtemp())
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._write(np.concatenate(self._held))
            self._held = []

    def _write(self, rows: Rows) -> None:
        places = rows["hash"] >> np.uint64(64 - _BITS)
        for place in np.unique(places).tolist():
            with self._file(place).open("ab") as file:
                file.write(rows[places == place].tobytes())

    def _file(self, place: int) -> Path:
        assert self._folder is not None
        return self._folder / str(place)

    def parts(self) -> Iterator[tuple[Rows, Flags]]:
        """Yield all rows, sorted by hash and number, and which of them repeat an earlier one."""
        for rows in self._read():
            ordered = rows[np.lexsort((rows["number"], rows["hash"]))]
            repeats = np.zeros(len(ordered), dtype=bool)
            repeats[1:] = ordered["hash"][1:] == ordered["hash"][:-1]
            yield ordered, repeats

    def _read(self) -> Iterator[Rows]:
        if self._folder is None:
            yield np.concatenate([np.empty(0, self.dtype), *self._held])
            return
        for file in map(self._file, range(1 << _BITS)):
            if file.exists():
                yield np.fromfile(file, self.dtype)
