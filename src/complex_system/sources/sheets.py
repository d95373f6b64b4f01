"""Tables that people write: CSV and similar, and spreadsheets."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
from typing_extensions import override

from complex_system.errors import SourceFileError
from complex_system.sources.base import FrameTable
from complex_system.sources.dialect import Dialect, as_utf8, dialect_of
from complex_system.sources.layout import HEAD_ROWS, TAIL_ROWS, Head, head_of, is_comment, rows_below
from complex_system.sources.lines import Lines, TextLines
from complex_system.sources.notation import evidence_in

_POINT = r"^[+-]?\d*\.\d+$"
_DUPLICATE = re.compile(r"(.+)_duplicated_\d+", re.DOTALL)
"""polars' name of the second column with the same name."""
PART_BYTES = 16 * 1024 * 1024
"""Size of the parts that a large file is read in: polars would hold all of it."""


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
    def _lines(self) -> TextLines:
        text = self.path
        if self.dialect.encoding != "utf-8-sig" or self.dialect.has_returns:
            text = self._folder / "utf-8.csv"
            as_utf8(self.path, self.dialect, text)
        return TextLines(text, self.dialect.separator, self.shown)

    @cached_property
    def _found(self) -> Lines:
        return self._lines.survey()

    @cached_property
    def _folder(self) -> Path:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @cached_property
    def _readable(self) -> Path:
        if self._found.is_plain:
            return self._lines.path
        copy = self._folder / "records.csv"
        self._lines.write(self._found, copy)
        return copy

    @cached_property
    def _parts(self) -> list[Path]:
        """The file, or parts of a large one that each begin with the header."""
        if self._readable.stat().st_size <= 4 * PART_BYTES:
            return [self._readable]
        parts: list[Path] = []
        with self._readable.open("rb") as file:
            header = self._whole_lines(file, file.readline())
            while block := file.read(PART_BYTES):
                parts.append(self._folder / f"part-{len(parts):06}.csv")
                parts[-1].write_bytes(header + self._whole_lines(file, block + file.readline()))
        return parts

    def _whole_lines(self, file: BinaryIO, text: bytes) -> bytes:
        """Return a text of whole lines with those that follow it as long as a quoted field is open."""
        is_open = self._found.quoted and text.count(b'"') % 2 == 1
        while is_open and (line := file.readline()):
            text += line
            is_open = line.count(b'"') % 2 == 0
        return text

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        return tuple(self._found.notes)

    @property
    @override
    def units(self) -> Mapping[str, str]:
        return dict(self._found.head.units)

    @override
    def outline(self) -> tuple[list[str], int]:
        return self._outline

    @cached_property
    def _outline(self) -> tuple[list[str], int]:
        frame = self._scan()
        names = frame.collect_schema().names()
        filled = pl.any_horizontal(pl.col(names).is_not_null()).sum()
        read, rows = frame.select(pl.len(), filled.alias("filled")).collect(engine="streaming").row(0)
        if read != self._found.records:
            raise SourceFileError(
                f"The file {self.shown} has {self._found.records} records below its header and {read} of them are read: its quotation "
                "marks do not pair."
            )
        return names, int(rows)

    @override
    def _scan(self) -> pl.LazyFrame:
        frame = pl.scan_csv(
            self._parts,
            infer_schema=False,
            glob=False,
            separator=self.dialect.separator,
            quote_char='"' if self._found.quoted else None,
        )
        names = frame.collect_schema().names()
        duplicates = [name for name in names if (match := _DUPLICATE.fullmatch(name)) and match[1] in names]
        if duplicates:
            name = _DUPLICATE.sub(r"\1", duplicates[0])
            raise SourceFileError(
                f"The file {self.shown} has the column '{name}' more than once; give each a name of its own."
            )
        if self._found.quoted and any('"' in name for name in names):  # polars keeps the marks of a header doubled
            frame = frame.rename({name: name.replace('""', '"') for name in names})
            names = frame.collect_schema().names()
        if "" not in names:
            return frame
        # Programs write an empty header above their row numbers.
        at = names.index("") + 1
        new = next(name for name in (f"column {number}" for number in range(at, at + len(names) + 1)) if name not in names)
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
            # Everything as texts, to see where the header is; then the records in their own types.
            cells = fastexcel.read_excel(self.path).load_sheet(0, header_row=None, skip_rows=0, dtypes="string").to_polars()
            self._head, options = _head_of_sheet(cells)
            sheet = self._read(options)
            if any(_has_both_signs(column) for column in sheet.iter_columns()):
                sheet = _in_one_notation(sheet, self._read({**options, "dtypes": "boolean"}))
            sheet = sheet.filter(pl.any_horizontal(pl.all().is_not_null())) if sheet.width else sheet
        except fastexcel.FastExcelError as error:
            text = str(error).partition("\n")[0].replace(str(self.path), str(self.shown))
            raise SourceFileError(f"The file {self.shown} cannot be read as {self.path.suffix[1:]}: {text}.") from error
        except IndexError as error:  # polars takes the first one
            raise SourceFileError(f"The file {self.shown} has no sheet.") from error
        # Columns are named by their place: the reader gives names of its own to those without one, and to the second of two.
        names = dict(zip(sheet.columns, chain(self._head.names, repeat("")), strict=False))
        if twice := next((name for name, count in Counter(names.values()).items() if name and count > 1), None):
            raise SourceFileError(
                f"The file {self.shown} has the column '{twice}' more than once; give each a name of its own."
            )
        kept = [given for given, name in names.items() if name or sheet[given].null_count() < sheet.height]
        named = {given: names[given] or f"column {place}" for place, given in enumerate(sheet.columns, 1) if given in kept}
        sheet = sheet.select(kept).rename(named).with_columns(pl.col(pl.Null).cast(pl.String))
        if not (comments := _comments_in(sheet)):
            return sheet
        number = next(at for at, row in enumerate(cells.rows(), 1) if sheet.item(comments[0], 0) in row)
        note = f"{len(comments)} row(s) begin with '#' and are left out as comments; the first is row {number}"
        self._head = replace(self._head, notes=(*self._head.notes, note))
        return sheet[[at for at in range(sheet.height) if at not in set(comments)]]

    def _read(self, options: dict[str, Any]) -> pl.DataFrame:
        return pl.read_excel(
            self.path,
            engine="calamine",
            infer_schema_length=None,
            raise_if_empty=False,
            drop_empty_rows=False,
            drop_empty_cols=False,
            read_options=options,
        )

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        _ = self._sheet
        return self._head.notes

    @property
    @override
    def units(self) -> Mapping[str, str]:
        _ = self._sheet
        return dict(self._head.units)

    @override
    def _scan(self) -> pl.LazyFrame:
        return self._sheet.lazy()

    @override
    def _rows(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return frame.filter(pl.any_horizontal(pl.col(names).is_not_null())) if names else frame


def _has_both_signs(cells: pl.Series) -> bool:
    return cells.dtype == pl.String and all(cells.str.contains(pattern).any() for pattern in (_POINT, r"^\D*\d[\d.]*,\d"))


def _in_one_notation(sheet: pl.DataFrame, flags: pl.DataFrame) -> pl.DataFrame:
    """Return a sheet whose columns of texts have their numbers written as the texts beside them are.

    A cell that is a number has no notation: the reader writes 901.5, and the text ``901,5`` beside it does not contradict it.

    Args:
        sheet: All cells.
        flags: The same cells as true or false, which the reader makes of numbers, and of texts never.
    """
    is_number = {name: flags[name].is_not_null() for name, kind in sheet.schema.items() if kind == pl.String}
    texts = evidence_in(sheet.select(pl.col(name).filter(~each)) for name, each in is_number.items())
    proven = {decimal for each in texts.values() if (decimal := each.decimal())}
    shared = proven.pop() if len(proven) == 1 else "."
    made = []
    for name in filter(lambda name: _has_both_signs(sheet[name]), is_number):
        # With a further digit behind three of them, the point cannot be taken for a sign between thousands.
        written = sheet[name].str.replace(r"^([+-]?\d{1,3}\.\d{3})$", "${1}0")
        sign = texts[name].decimal() or shared
        written = written.str.replace(".", sign, literal=True)
        made.append(sheet[name].zip_with(~(is_number[name] & sheet[name].str.contains(_POINT)), written))
    return sheet.with_columns(made)


def _comments_in(sheet: pl.DataFrame) -> list[int]:
    """Return the rows of a sheet that are a comment; a first column of another type than texts has none."""
    if sheet.width < 2 or sheet.to_series().dtype != pl.String:
        return []
    hashed = sheet.to_series().str.starts_with("#").fill_null(value=False).arg_true().to_list()
    return [at for at in hashed if is_comment(["" if cell is None else str(cell) for cell in sheet.row(at)])]


def _head_of_sheet(cells: pl.DataFrame) -> tuple[Head, dict[str, int]]:
    """Return what stands above the records of a sheet, and what of the sheet to read; nothing where it is to be read as a whole."""

    def texts(rows: pl.DataFrame) -> list[list[str]]:
        return [[cell or "" for cell in row] for row in rows.rows()]

    head = head_of(texts(cells.head(HEAD_ROWS)))
    begin = head.place + 1 + sum(row > head.place for row in head.skipped)
    last = max(cells.height - TAIL_ROWS, begin)
    numbers = range(last + 1, cells.height + 1)
    below, notes = rows_below(texts(cells.slice(last)), head.numeric, "row", numbers)
    options = {"header_row": head.place, "skip_rows": begin - head.place - 1} if begin > 1 or below else {}
    if below:
        options["n_rows"] = last + below[0] - begin
    return replace(head, notes=(*head.notes, *notes)), options
