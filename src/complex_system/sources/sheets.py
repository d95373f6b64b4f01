"""Tables that people write: CSV and similar, and spreadsheets."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path

import polars as pl
from typing_extensions import override

from complex_system.errors import SourceFileError
from complex_system.sources.base import FrameTable
from complex_system.sources.dialect import Dialect, as_utf8, dialect_of

_DUPLICATE = re.compile(r"(.+)_duplicated_\d+", re.DOTALL)
"""polars' name of the second column with the same name."""
_NUMBERED = re.compile(r"(.+)_\d+", re.DOTALL)
"""The same in a spreadsheet, where a column may have such a name itself."""


class CsvTable(FrameTable):
    """CSV with a header, of any usual separator and encoding. Fields are read as texts: a guess would make a 0 of 00000000."""

    @cached_property
    def dialect(self) -> Dialect:
        """How the file is written."""
        return dialect_of(self.path, self.shown)

    @property
    @override
    def usual_decimal(self) -> str:
        return "," if self.dialect.separator == ";" else "."

    @cached_property
    def _readable(self) -> Path:
        if self.dialect.encoding == "utf-8-sig":
            return self.path
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        copy = Path(folder) / "utf-8.csv"
        as_utf8(self.path, self.dialect, copy)
        return copy

    @override
    def _scan(self) -> pl.LazyFrame:
        frame = pl.scan_csv(self._readable, infer_schema=False, glob=False, separator=self.dialect.separator)
        names = frame.collect_schema().names()
        duplicates = [name for name in names if (match := _DUPLICATE.fullmatch(name)) and match[1] in names]
        if duplicates:
            name = _DUPLICATE.sub(r"\1", duplicates[0])
            raise SourceFileError(
                f"The file {self.shown} has the column '{name}' more than once; give each a name of its own."
            )
        if "" not in names:
            return frame
        # Programs write an empty header above their row numbers.
        new = next(name for name in (f"column {number}" for number in range(1, len(names) + 2)) if name not in names)
        return frame.rename({"": new})

    @override
    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        # All columns are read, so a row of another length is found before the first record is sent. Empty lines are not rows.
        return frame.filter(pl.any_horizontal(pl.col(names).is_not_null()))


class ExcelTable(FrameTable):
    """The first sheet of an Excel or OpenDocument file, with a header; held in memory as a whole."""

    @cached_property
    def _sheet(self) -> pl.DataFrame:
        import fastexcel

        try:
            sheet = pl.read_excel(self.path, engine="calamine", infer_schema_length=None, raise_if_empty=False)
        except fastexcel.FastExcelError as error:
            text = str(error).partition("\n")[0].replace(str(self.path), str(self.shown))
            raise SourceFileError(f"The file {self.shown} cannot be read as {self.path.suffix[1:]}: {text}.") from error
        except IndexError as error:  # polars takes the first one
            raise SourceFileError(f"The file {self.shown} has no sheet.") from error
        if any((match := _NUMBERED.fullmatch(name)) and match[1] in sheet.columns for name in sheet.columns):
            self._refuse_duplicates()
        return sheet.with_columns(pl.col(pl.Null).cast(pl.String))

    def _refuse_duplicates(self) -> None:
        """Read the header itself: reading the sheet gives a number to the second column with the same name."""
        header = pl.read_excel(self.path, engine="calamine", has_header=False, read_options={"n_rows": 1}).row(0)
        duplicates = [name for place, name in enumerate(header) if name is not None and name in header[:place]]
        if duplicates:
            raise SourceFileError(
                f"The file {self.shown} has the column '{duplicates[0]}' more than once; give each a name of its own."
            )

    @override
    def _scan(self) -> pl.LazyFrame:
        return self._sheet.lazy()

    @override
    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return frame.filter(pl.any_horizontal(pl.col(names).is_not_null())) if names else frame
