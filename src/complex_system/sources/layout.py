"""Where a sheet that people wrote has its header, its units and its sums: rows above and below the records.

A row counts as such only where the columns below it hold numbers and it does not; every row that is left out is named in a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from complex_system.domain.columns import MARKERS

HEAD_ROWS = 40
"""Rows at the beginning of a sheet that are looked at."""
TAIL_ROWS = 12
"""Rows at the end that are looked at."""
_MAX_TITLE = 12

_NUMBER = re.compile(r"[<>]?\s*[+-]?(?:\d[\d.,'\u00a0\u202f ]*|[.,]\d+)(?:[eE][+-]?\d+)?\s*%?")
_UNIT = re.compile(
    r"[\[(].{0,15}[\])]|-|%|‰|°?[CFK]|ppm|ppb|[mµuk]?bar|[hkMG]?Pa|[mkM]?N|Nm|kNm|[µumcdk]?m[²³23]?|[µumk]?g|t|[µum]?s|min|h|d|rpm|"
    r"[mk]?[VAW]|MW|kWh|[kMG]?Hz|[µum]?l|[µum]?L|mol|mmol|pH|Stk\.?|J|kJ|MJ|HV|HRC|HB|[^\s/]{1,5}/[^\s]{1,6}"
)
_SUMS = frozenset(
    ("summe", "gesamt", "gesamtsumme", "mittelwert", "mittel", "durchschnitt", "standardabweichung", "stabw", "stdabw", "total", "sum",
     "average", "mean", "σ", "ø", "sd", "std")
)  # fmt: skip
_FOOTERS = frozenset(
    ("stand", "datum", "date", "seite", "page", "blatt", "prüfer", "pruefer", "bearbeiter", "operator", "laborant", "labor", "ort",
     "erstellt", "gedruckt", "exportiert", "printed", "exported", "created", "quelle", "source", "hinweis", "hinweise", "anmerkung",
     "anmerkungen", "bemerkung", "bemerkungen", "legende", "legend", "note", "notes", "remark", "remarks", "unterschrift", "freigabe",
     "freigegeben", "geprüft", "geprueft", "signed", "checked", "approved", "version", "copyright", "©", "ende", "end", "*", "**")
)  # fmt: skip
"""First words of what stands below a table."""
_LABEL = re.compile(r"[^\W\d_][^:]{0,40}:(\s.*)?")
_DAY = re.compile(r"\d{1,2}\.\d{1,2}\.(\d{2}|\d{4})?")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SENTENCE = 3
"""Words of a text in a row of its own from which it is not a value."""
_SUMS_BESIDE_NUMBERS = _SUMS | {"min", "max", "minimum", "maximum", "median", "anzahl", "count", "n", "s", "avg", "varianz"}

_COMMENT = re.compile(r"#+\s*[^\s\d].*|#+\s.*", re.DOTALL)
"""A comment; #17 may be a key."""

Row = Sequence[str]
"""The fields of a row; empty ones are empty texts."""


@dataclass(frozen=True)
class Head:
    """What stands above the records.

    Attributes:
        names: The columns' names.
        place: The row of the header, from 0.
        skipped: The other rows above the first record, from 0.
        units: The unit of each column that has one in a row of units.
        notes: What is left out, a sentence each, with rows from 1.
        numeric: Columns that hold numbers, by position.
    """

    names: tuple[str, ...]
    place: int = 0
    skipped: tuple[int, ...] = ()
    units: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    numeric: frozenset[int] = frozenset()


def head_of(rows: Sequence[Row], word: str = "row") -> Head:
    """Return what stands above the records, from the first rows of a sheet.

    Args:
        rows: At most ``HEAD_ROWS`` rows.
        word: What a row is called in notes.
    """
    cells = [[cell.strip() for cell in row] for row in rows]
    used = sorted({at for row in cells for at, cell in enumerate(row) if cell})
    if not used:
        return Head(())
    if len(used) <= used[-1]:  # columns without a name and a value
        inner = head_of([[row[at] if at < len(row) else "" for at in used] for row in cells], word)
        named = dict(zip(used, inner.names, strict=True))
        named_all = tuple(named.get(at, "") for at in range(used[-1] + 1))
        return replace(inner, names=named_all, numeric=frozenset(used[at] for at in inner.numeric))
    width = Counter(len(row) for row in cells).most_common(1)[0][0]
    place = _header(cells, width)
    skipped = list(range(place))
    names, units = list(rows[place]), dict[int, str]()
    notes: list[str] = []
    above = place - 1
    if place and _are_units(cells[above], _numeric(cells[place + 1 :], width)):
        units = dict(enumerate(cells[above]))
        notes.append(f"{word} {above + 1} above the header holds the units")
        above -= 1
    elif place and (len(set(cells[place])) < width or "" in cells[place]):
        names = _merged(cells[above], cells[place])
        notes.append(f"{word}s {above + 1} and {place + 1} are the header together")
        above -= 1
    elif place == 0 and len(cells) > 2 and _is_known_units(cells[0]) and _is_header(cells, 1, width):
        place, skipped, names, units = 1, [0], list(rows[1]), dict(enumerate(cells[0]))
        notes.append(f"{word} 1 above the header holds the units")
    for number in range(above + 1):
        if any(cells[number]):
            shown = " ".join(filter(None, cells[number]))[:60]
            notes.append(f"{word} {number + 1} stands above the header and is left out: '{shown}'")
    numeric = _numeric(cells[place + 1 :], width)
    if not units and place + 2 < len(cells):
        below = _numeric(cells[place + 2 :], width)
        if _are_units(cells[place + 1], below):
            units, numeric = dict(enumerate(cells[place + 1])), below
            skipped.append(place + 1)
            notes.append(f"{word} {place + 2} below the header holds the units")
    known = tuple(
        (name, unit) for at, name in enumerate(names) if (unit := units.get(at, "").strip("[]() ")) and unit not in ("-", "")
    )
    return Head(tuple(names), place, tuple(skipped), known, tuple(notes), numeric)


def rows_below(
    rows: Sequence[Row], numeric: frozenset[int], word: str, numbers: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Return the rows at the end that are not records: sums of the others, and what people write below a table.

    Args:
        rows: The last rows.
        numeric: Columns that hold numbers, by position.
        word: What a row is called in notes.
        numbers: The number of each row in notes.

    Returns:
        Positions in ``rows``, and a note on each.
    """
    cells = [[cell.strip() for cell in row] for row in rows]
    found: list[int] = []
    notes: list[str] = []
    for place in range(len(rows) - 1, -1, -1):
        row = cells[place]
        if not any(row):
            continue
        shown = " ".join(filter(None, row))[:60]
        at = next(at for at, cell in enumerate(row) if cell)
        above = [other[at] for other in cells[:place] if len(other) > at]
        if summed := _sum_in(row, numeric):
            notes.append(f"{word} {numbers[place]} sums the others up and is left out: '{summed}'")
        elif _is_footer(row, at, numeric, above, after_blank=place > 0 and not any(cells[place - 1])):
            shown = " ".join(filter(None, row))[:60]
            notes.append(f"{word} {numbers[place]} stands below the table and is left out: '{shown}'")
        else:
            return found[::-1], notes[::-1]
        found.append(place)
    return [], []  # rows like these are the table itself


def _sum_in(row: Row, numeric: frozenset[int]) -> str:
    """Return the word that says that a row sums the others up; empty for other rows."""
    at = next(at for at, cell in enumerate(row) if cell)
    known = row[at].rstrip(":.").lower() in (_SUMS_BESIDE_NUMBERS if at in numeric else _SUMS)
    return row[at] if known and any(map(is_number, row)) else ""


def _is_footer(row: Row, at: int, numeric: frozenset[int], above: Sequence[str], *, after_blank: bool) -> bool:
    """Return whether a row is a text below a table, and not a record whose values are still missing.

    Args:
        row: The row.
        at: Its first cell that is not empty.
        numeric: Columns that hold numbers, by position.
        above: What stands above that cell.
        after_blank: Whether the row above is empty.
    """
    text, filled = row[at], sum(map(bool, row))
    if is_comment(row):
        return True
    if not numeric or is_number(text) or text in MARKERS or filled > 2:
        return False
    is_label = bool(_LABEL.fullmatch(text)) and not any(":" in cell for cell in above)
    first = _first_word(text)
    is_label |= first in _FOOTERS and first not in map(_first_word, above)
    if any(is_number(row[each]) and not _DAY.fullmatch(row[each]) for each in numeric if each < len(row)):
        return is_label and at in numeric
    words = len(_WORD.findall(text))
    return is_label or (filled == 1 and (at in numeric or words >= _SENTENCE or (after_blank and words >= 2)))


def _first_word(text: str) -> str:
    return text.split(maxsplit=1)[0].rstrip(":.,").lower() if text else ""


def is_comment(row: Row) -> bool:
    """Return whether a row of several fields has a comment in its first one and nothing else: a spreadsheet fills lines up."""
    return len(row) > 1 and bool(_COMMENT.fullmatch(row[0].strip())) and not any(cell.strip() for cell in row[1:])


def is_number(cell: str) -> bool:
    """Return whether a cell looks like a number, in any notation."""
    return bool(_NUMBER.fullmatch(cell))


def _header(cells: Sequence[Row], width: int) -> int:
    """Return the row that names the columns: the first, unless a fuller one with names stands below a title."""
    if len(cells[0]) == width and all(cells[0]) and len(set(cells[0])) == width:
        return 0
    filled = sum(map(bool, cells[0]))
    places = range(1, min(_MAX_TITLE, len(cells)))
    for place in places:
        count = sum(map(bool, cells[place]))
        if count > filled and _is_header(cells, place, width):
            return place
        filled = max(filled, count)
    return next((place for place in places if _is_header(cells, place, width, merged=True)), 0)


def _is_header(cells: Sequence[Row], place: int, width: int, *, merged: bool = False) -> bool:
    """Return whether a row has names only, above columns of numbers."""
    row = cells[place]
    names = _merged(cells[place - 1], row) if merged else row
    if merged and not all(own or upper for own, upper in zip(row, cells[place - 1], strict=False)):
        return False
    if len(row) != width or width < 2 or not all(names) or len(set(names)) < width:
        return False
    if any(is_number(cell) or cell in MARKERS for cell in row):
        return False
    return any(row[at] for at in _numeric(cells[place + 1 :], width) | _numeric(cells[place + 2 :], width))


def _merged(above: Row, row: Row) -> list[str]:
    """Return names of a header in two rows: the upper one names groups, in their first cell."""
    made, group = [], ""
    for at, name in enumerate(row):
        group = (above[at] if at < len(above) else "") or group
        made.append(" ".join(filter(None, (group, name))))
    return made


def _numeric(rows: Sequence[Row], width: int) -> frozenset[int]:
    """Return the columns that hold numbers, by position."""
    found = set()
    for at in range(width):
        cells = [row[at] for row in rows if len(row) > at and row[at] and row[at] not in MARKERS]
        good = sum(map(is_number, cells))
        # A sum at the end, or a remark, may stand among the rows.
        if cells and good >= 0.8 * len(cells):
            found.add(at)
    return frozenset(found)


def _are_units(row: Row, numeric: frozenset[int]) -> bool:
    units = [(at, cell) for at, cell in enumerate(row) if cell and cell not in ("-", "[-]")]
    return bool(units) and all(_UNIT.fullmatch(cell) and (at in numeric or cell[0] in "[(") for at, cell in units)


def _is_known_units(row: Row) -> bool:
    return all(_UNIT.fullmatch(cell) for cell in row) and any(re.search(r"[°%/\[\]]|bar|Pa|mm|kg", cell) for cell in row)
