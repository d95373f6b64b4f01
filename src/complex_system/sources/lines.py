"""The lines of a text table: which are records by RFC 4180, which are comments, and where a quotation mark is only a character.

Lines and records are counted here, apart from the library that reads the values. A quoted field may hold line ends; where marks do not
pair, the line is named, and nothing is guessed.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from complex_system.errors import SourceFileError
from complex_system.sources.layout import HEAD_ROWS, TAIL_ROWS, Head, head_of, is_comment, is_number, rows_below

_MAX_LINES = 1000
"""Lines of one record."""


@dataclass(frozen=True)
class Line:
    """A record: a line, or several where a quoted field holds line ends.

    Attributes:
        number: Of its first line, from 1.
        text: As in the file.
        fields: What the fields hold, where quotation marks stand inside of them; None where the text is RFC 4180 as it is.
    """

    number: int
    text: bytes
    fields: list[str] | None = None


@dataclass
class Lines:
    """What was found in all lines of a file.

    Attributes:
        head: Header, units and titles.
        records: Lines with records, blank ones included.
        quoted: Whether a field is quoted.
        notes: What is left out or read in a way of its own, a sentence each.
        left_out: Numbers of lines above and below the records that are not records.
        header: Number of the line that names the columns.
        width: Fields of a line.
        used: Fields up to the last with a name or a value, where lines have more; else 0.
    """

    head: Head
    records: int = 0
    quoted: bool = False
    rewritten: int = 0
    comments: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    header: int = 1
    width: int = 0
    used: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the file can be read as it is."""
        return not self.left_out and not self.comments and not self.rewritten and not self.used


class TextLines:
    """A text table in UTF-8, line by line."""

    def __init__(self, path: Path, separator: str, shown: Path) -> None:
        """Make one; nothing is read yet."""
        self.path, self._separator, self._shown = path, separator, shown
        mark = re.escape(separator.encode())
        quoted, bare = rb'"(?:[^"]|"")*"', rb'[^"' + mark + rb"\r\n]*"
        self._regular = re.compile(
            rb"(?:" + quoted + rb"|" + bare + rb")(?:" + mark + rb"(?:" + quoted + rb"|" + bare + rb"))*\r?\n?"
        )

    def survey(self) -> Lines:
        """Read all lines.

        Raises:
            SourceFileError: Quotation marks in a line do not pair.
        """
        return self._survey(trimmed=True) or self._survey(trimmed=False) or Lines(Head(()))

    def _survey(self, *, trimmed: bool) -> Lines | None:
        """Read all lines; None where the last fields are to be trimmed, and a line has a value there."""
        first = list(islice(self._records(0), HEAD_ROWS))
        rows = [self._row(line) for line in first]
        hashed = [line.text.startswith(b"#") for line in first]
        width = Counter(len(row) for row, skip in zip(rows, hashed, strict=True) if not skip and any(row)).most_common(1)
        found = Lines(Head(()), width=width[0][0] if width else 1)
        kept = self._without_comments(first, rows, hashed, found)
        used = max((at + 1 for row in kept for at, cell in enumerate(rows[row]) if cell.strip()), default=0)
        if trimmed and (spare := max((len(rows[row]) for row in kept), default=0) - used):
            found.used, rows = used, [row[:used] for row in rows]
            which = "the last column has" if spare == 1 else f"the last {spare} columns have"
            found.notes.append(f"{which} no name and no value: the lines end with '{self._separator}'")
        found.head = head_of([rows[at] for at in kept], "line")
        if kept:
            found.header = first[kept[found.head.place]].number
            found.left_out |= {first[kept[at]].number for at in found.head.skipped}
            found.left_out |= {line.number for line in first if line.number < found.header and self._counts(line, found)}
        numbers = {at + 1: first[place].number for at, place in enumerate(kept)}
        found.notes += [_renumbered(note, numbers) for note in found.head.notes]
        if list(found.head.names) != (rows[kept[found.head.place]] if kept else []) or self._hash_names(found):
            found.rewritten += 1
        return found if self._count(found) else None

    def write(self, found: Lines, to: Path) -> None:
        """Write a copy that is RFC 4180, with the header first and records only."""
        names = [name.removeprefix("# ") if at == 0 else name for at, name in enumerate(found.head.names)]
        with to.open("w", encoding="utf-8", newline="") as copy:
            writer = csv.writer(copy, delimiter=self._separator, lineterminator="\n")
            writer.writerow(names)
            for line in self._records(found.width):
                if line.number <= found.header or line.number in found.left_out or self._is_comment(line, found):
                    continue
                if line.fields is None:
                    text = line.text.decode("utf-8", "replace").rstrip("\r\n")
                    while found.used and text.endswith(self._separator) and text.count(self._separator) >= found.used:
                        text = text.removesuffix(self._separator)
                    copy.write(text + "\n")
                else:
                    writer.writerow(line.fields[: found.used or None])

    def _count(self, found: Lines) -> bool:
        """Count records, comments and marks; return False where a line has a value in the last fields that are to be trimmed."""
        marks, first_mark, first_comment, mark = 0, 0, 0, self._separator.encode()
        tail: deque[Line] = deque(maxlen=TAIL_ROWS)
        for line in self._records(found.width):
            if b'"' in line.text:
                found.quoted = True
                if line.fields is not None:
                    marks, first_mark = marks + 1, first_mark or line.number
            if line.text.startswith(b"#") and self._is_comment(line, found):
                found.comments, first_comment = found.comments + 1, first_comment or line.number
            elif line.number > found.header and line.number not in found.left_out:
                found.records += 1
                tail.append(line)
                if found.used and line.text.count(mark) >= found.used and any(self._row(line)[found.used :]):
                    return False
        rows = [self._row(line) for line in tail]
        rows = [row if len(row) <= found.width else [f"{self._separator} ".join(row)] for row in rows]
        numbers = [line.number for line in tail]
        below, notes = rows_below(rows, found.head.numeric, "line", numbers)
        found.left_out |= {numbers[place] for place in below}
        found.records -= len(below)
        found.notes += notes
        found.rewritten += marks
        if marks:
            found.notes.append(
                f"{marks} line(s) have quotation marks inside a field, which are read as characters; the first is line {first_mark}"
            )
        if found.comments:
            found.notes.append(
                f"{found.comments} line(s) begin with '#' and are left out as comments; the first is line {first_comment}"
            )
        return True

    def _without_comments(self, first: list[Line], rows: list[list[str]], hashed: list[bool], found: Lines) -> list[int]:
        """Return the rows that are no comments; a header may begin with '#' where the first row behind it is a record."""
        comments = {at for at, row in enumerate(rows) if hashed[at] and (len(row) != found.width or is_comment(row))}
        kept = [at for at, row in enumerate(rows) if any(row) and at not in comments]
        leading = next((at for at in kept if not hashed[at]), len(rows))
        names = bool(leading < len(rows)) and not any(is_number(cell.strip()) for cell in rows[leading])
        if names and any(hashed[:leading]):  # the header is there, so what stands above it are comments
            found.left_out |= {line.number for line, skip in zip(first[:leading], hashed[:leading], strict=True) if skip}
            return [at for at in kept if at >= leading or not hashed[at]]
        above = [at for at in kept if at < leading and hashed[at]]
        found.left_out |= {first[at].number for at in above[:-1]}
        return [at for at in kept if at not in above[:-1]]

    def _hash_names(self, found: Lines) -> bool:
        return bool(found.head.names) and found.head.names[0].startswith("# ")

    def _counts(self, line: Line, found: Lines) -> bool:
        return not (line.text.startswith(b"#") and self._is_comment(line, found))

    def _is_comment(self, line: Line, found: Lines) -> bool:
        if not line.text.startswith(b"#") or line.number == found.header or line.number in found.left_out:
            return line.text.startswith(b"#") and line.number in found.left_out
        row = self._row(line)
        return len(row) != found.width or is_comment(row)

    def _row(self, line: Line) -> list[str]:
        if line.fields is not None:
            return line.fields
        text = line.text.decode("utf-8", "replace")
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=self._separator), [])

    def _records(self, width: int) -> Iterator[Line]:
        """Yield the records; ``width`` is the number of fields that a line with marks inside a field must have, 0 for any."""
        with self.path.open("rb") as file:
            lines = enumerate(file, 1)
            for number, given in lines:
                text = given.removeprefix(b"\xef\xbb\xbf") if number == 1 else given
                if b'"' not in text or self._regular.fullmatch(text):
                    yield Line(number, text)
                    continue
                fields = self._split(text)
                if fields is None:
                    yield self._over_lines(number, text, lines, width)
                    continue
                if width and len(fields) != width:
                    raise self._refused(number, f"it has {len(fields)} fields where the header has {width}")
                yield Line(number, text, fields)

    def _over_lines(self, number: int, text: bytes, lines: Iterator[tuple[int, bytes]], width: int) -> Line:
        parts = [text]
        for _, more in islice(lines, _MAX_LINES):
            parts.append(more)
            if b'"' not in more:
                continue
            whole = b"".join(parts)
            if self._regular.fullmatch(whole):
                alone = [part.count(self._separator.encode()) + 1 for part in parts]
                if width > 1 and all(count == width for count in alone):
                    raise self._refused(
                        number, f"lines {number} to {number + len(parts) - 1} can be one record or {len(parts)}"
                    )
                return Line(number, whole)
            if self._split(whole) is not None:
                break
        raise self._refused(number, "the mark that opens a field is not closed, or other marks stand inside the field")

    def _split(self, text: bytes) -> list[str] | None:
        """Return the fields, with a mark that does not end its field as a character; None where a field is left open."""
        line, fields, at = text.decode("utf-8", "replace").rstrip("\r\n"), list[str](), 0
        while True:
            if line.startswith('"', at):
                end = self._closing(line, at + 1)
                if end < 0:
                    return None
                fields.append(line[at + 1 : end].replace('""', '"'))
                at = end + 1
            else:
                end = line.find(self._separator, at)
                end = len(line) if end < 0 else end
                fields.append(line[at:end])
                at = end
            if at >= len(line):
                return fields
            at += len(self._separator)

    def _closing(self, line: str, at: int) -> int:
        while (at := line.find('"', at)) >= 0:
            if line.startswith('"', at + 1):
                at += 2
            elif at + 1 == len(line) or line.startswith(self._separator, at + 1):
                return at
            else:
                at += 1
        return -1

    def _refused(self, number: int, problem: str) -> SourceFileError:
        return SourceFileError(
            f"The file {self._shown} has quotation marks that do not pair in line {number}: {problem}. Put a field with a mark, a "
            f"'{self._separator}' or a line end in it between quotation marks, and double each mark inside of it."
        )


def _renumbered(note: str, numbers: dict[int, int]) -> str:
    """Return a note on rows with the numbers of the file's lines."""
    return re.sub(r"(?<=lines )(\d+) and (\d+)|(?<=line )(\d+)", lambda found: _lines(found, numbers), note, count=1)


def _lines(found: re.Match[str], numbers: dict[int, int]) -> str:
    return " and ".join(str(numbers[int(each)]) for each in found.groups() if each)
