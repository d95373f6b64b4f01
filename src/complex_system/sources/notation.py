"""How the numbers of one column are written: decided from all of its values, and read only where one reading fits.

``1,234`` is 1234 or 1.234. A column's other values, else those of the file's other columns, say which; where they do not, the value
is not read, and the message names both readings. ``0,250`` is never 250: thousands do not begin with a zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

_OTHER = {".": ",", ",": "."}
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_THIN = " \u00a0\u202f'’"
"""Signs that group digits and are never decimal signs."""
_SPACED = rf"^[+-]?[1-9]\d{{0,2}}(?:[{_THIN}]\d{{3}})+(?:[.,]\d+)?$"
_LONG = r"^[+-]?\d{4,}(?:[.,]\d*)?$"
"""A number of a thousand and more without a sign that groups."""
BEYOND_LIMIT = r"^\s*[<>≤≥]=?\s*"
"""How a value beyond a limit begins."""


def _either(sign: str) -> str:
    return rf"^[+-]?[1-9]\d{{0,2}}\{sign}\d{{3}}$"


def _decimal(sign: str) -> str:
    return rf"^[+-]?(?:[1-9]\d{{0,2}}(?:\{_OTHER[sign]}\d{{3}})+|\d*)\{sign}\d+{_EXPONENT}$"


def _grouped(sign: str) -> str:
    """Return the pattern of numbers whose thousands are certainly grouped by the sign."""
    return rf"^[+-]?[1-9]\d{{0,2}}(?:(?:\{sign}\d{{3}}){{2,}}|(?:\{sign}\d{{3}})+\{_OTHER[sign]}\d+)$"


@dataclass(frozen=True)
class Notation:
    """How the numbers of a column are written.

    Attributes:
        decimal: The decimal sign, ``.`` or ``,``.
        thousands: Whether the other sign with three digits behind it, as in 1.234 beside decimal commas, groups thousands.
        decided: Whether the decimal sign with three digits behind it is one; otherwise such numbers are not read.
        percent: Whether every number has a percent sign behind it.
    """

    decimal: str = "."
    thousands: bool = False
    decided: bool = True
    percent: bool = False

    def numbers(self, texts: pl.Series) -> pl.Series:
        """Return texts as float64, null where a text is not a number or has two readings."""
        if (plain := self.plain(texts)) is not None:
            return plain
        other, found = _OTHER[self.decimal], texts.str.strip_chars()
        if self.percent:
            share = found.str.ends_with("%")
            found = _without(found, ~share).str.strip_suffix("%").str.strip_chars_end()
        found = _without_spaces(found)
        if bool(found.str.contains(other, literal=True).any()):
            found = _changed(found, _grouped(other), f"[{other}]")
            if self.thousands:
                found = _changed(found, _either(other), f"[{other}]")
            found = _without(found, found.str.contains(other, literal=True))
        if not self.decided:
            found = _without(found, found.str.contains(_either(self.decimal)))
        if self.decimal == ",":
            found = found.str.replace(",", ".", literal=True)
        return found.cast(pl.Float64, strict=False)

    def plain(self, texts: pl.Series) -> pl.Series | None:
        """Return texts as float64 where each is a number as programs write it, and has no other reading; else None. This is fast."""
        if self.decimal != "." or not self.decided or self.percent:
            return None
        read = texts.cast(pl.Float64, strict=False)
        return read if read.null_count() == texts.null_count() and not read.is_nan().any() else None

    def doubt(self, text: str) -> str:
        """Return why a text that looks like a number is not read as one of this column, with its readings; empty for others."""
        plain, other = text.strip(), _OTHER[self.decimal]
        for sign in (other, self.decimal):
            if re.search(_either(sign), plain):
                whole, fraction = plain.replace(sign, ""), plain.replace(sign, ".")
                return (
                    f"'{plain}' can be {whole} or {fraction}, and the column's other values do not say which; write it as one of "
                    "these two"
                )
        if re.search(_decimal(other), plain):
            signs = {".": "points", ",": "commas"}
            written = plain.replace(self.decimal, "").replace(other, self.decimal)
            return (
                f"'{plain}' has another decimal sign than the column's other values, which have decimal {signs[self.decimal]}; "
                f"write {written}"
            )
        if self.percent != plain.endswith("%") and plain.rstrip("% ")[-1:].isdigit():
            has = "no percent sign, and the column's other values have one" if self.percent else "a percent sign"
            return f"'{plain}' has {has}; write all values of the column in the same way"
        return ""


@dataclass
class _Side:
    """Values of a column that say something about one sign, as counts."""

    decimals: int = 0
    groups: int = 0
    either: int = 0


@dataclass
class Evidence:
    """What the values of one column say about how its numbers are written.

    Attributes:
        below: Values that are written as below a limit, such as <0.01.
        above: Values that are written as above one.
    """

    sides: dict[str, _Side] = field(default_factory=lambda: {".": _Side(), ",": _Side()})
    long: int = 0
    percent: int = 0
    bare: int = 0
    below: int = 0
    above: int = 0

    def add(self, texts: pl.Series) -> None:
        """Take further values of the column."""
        texts = texts.drop_nulls()
        if (plain := Notation().plain(texts)) is not None:  # nothing but digits, points and exponents
            self.bare += len(plain)
            points = texts.str.contains(".", literal=True)
            self._add_signs(texts, ((".", points),))
            return
        found = self._without_limits(texts.str.strip_chars())
        share = found.str.ends_with("%")
        if self.percent or (not self.bare and bool(share.any())):
            self.percent += int(share.sum())
            self.bare += int((~share & found.str.contains(r"^[+-]?[\d.,]*\d")).sum())
            found = found.str.strip_suffix("%").str.strip_chars_end()
        elif not self.bare:
            self.bare = int(found.str.contains(r"^[+-]?[\d.,]*\d").any())
        found = _without_spaces(found)
        commas, points = (found.str.contains(sign, literal=True) for sign in ",.")
        both = commas & points
        if bool(both.any()):
            self._add_both(found.filter(both))
            commas, points = commas & ~both, points & ~both
        self._add_signs(found, ((",", commas), (".", points)), some=bool(both.any()))

    def _add_signs(self, found: pl.Series, signs: Iterable[tuple[str, pl.Series]], *, some: bool = False) -> None:
        """Take values, with which of them have only this sign; whole numbers of a thousand and more count where signs are in doubt."""
        for sign, where in signs:
            if bool(where.any()):
                some = True
                self._add_one(sign, found.filter(where) if not bool(where.all()) else found)
        if self.sides[","].either or self.sides["."].either or not some:
            self.long += int(found.str.contains(_LONG).sum())

    def _without_limits(self, found: pl.Series) -> pl.Series:
        """Count values beyond a limit, and return all values without the signs that say so."""
        below, above = (found.str.starts_with(sign) | found.str.starts_with(other) for sign, other in ("<≤", ">≥"))
        if not bool((below | above).any()):
            return found
        limit = found.str.contains(BEYOND_LIMIT + r"[\d.,+-]")
        self.below += int((below & limit).sum())
        self.above += int((above & limit).sum())
        return found.str.replace(BEYOND_LIMIT, "")

    def _add_one(self, sign: str, found: pl.Series) -> None:
        """Take values with only one of the two signs."""
        side = self.sides[sign]
        either = found.str.contains(_either(sign))
        side.either += int(either.sum())
        rest = found.filter(~either)
        plain = rest if sign == "." else rest.str.replace(",", ".", literal=True)
        read = plain.cast(pl.Float64, strict=False).is_not_null()
        side.decimals += int(read.sum())
        side.groups += int(rest.filter(~read).str.contains(_grouped(sign)).sum())

    def _add_both(self, found: pl.Series) -> None:
        """Take values with both signs, such as 1.234,5."""
        for sign, side in self.sides.items():
            groups = int(found.str.contains(_grouped(sign)).sum())
            side.groups += groups
            self.sides[_OTHER[sign]].decimals += groups

    def decimal(self) -> str:
        """Return the decimal sign that the column's own values prove; empty where they prove none or both alike."""
        proofs = {sign: side.decimals + self.sides[_OTHER[sign]].groups for sign, side in self.sides.items()}
        return "" if proofs["."] == proofs[","] else max(proofs, key=proofs.__getitem__)


def notations(columns: Mapping[str, Evidence], usual: str) -> dict[str, Notation]:
    """Return how each column's numbers are written.

    Args:
        columns: What the values say, by column.
        usual: The decimal sign where nothing in the file proves one.
    """
    proven = {decimal for each in columns.values() if (decimal := each.decimal())}
    shared = proven.pop() if len(proven) == 1 else ""
    mixed = bool(proven)
    return {name: _notation(each, shared, usual, mixed=mixed) for name, each in columns.items()}


def _notation(found: Evidence, shared: str, usual: str, *, mixed: bool) -> Notation:
    percent = found.percent > 0 and not found.bare
    own = found.decimal()
    sign = own or shared or usual
    side, other = found.sides[sign], found.sides[_OTHER[sign]]
    if own:
        agree = other.groups > 0 and not other.decimals and not found.long
        return Notation(sign, agree, decided=True, percent=percent)
    if other.decimals or side.decimals:  # as many of one sign as of the other
        return Notation(sign, decided=False, percent=percent)
    if shared:
        return Notation(sign, not side.either and not found.long, decided=True, percent=percent)
    both = side.either > 0 and other.either > 0
    return Notation(sign, decided=not mixed and not both, percent=percent)


def evidence_in(frames: Iterable[pl.DataFrame]) -> dict[str, Evidence]:
    """Return what all values of each column of texts say, read part by part."""
    found: dict[str, Evidence] = {}
    for frame in frames:
        for series in frame.iter_columns():
            if series.dtype == pl.String:
                found.setdefault(series.name, Evidence()).add(series)
    return found


def _without_spaces(found: pl.Series) -> pl.Series:
    """Remove signs between thousands that are never decimal signs."""
    some = bool(found.str.contains(f"[{_THIN}]").any())
    return _changed(found, _SPACED, f"[{_THIN}]") if some else found


def _changed(found: pl.Series, pattern: str, signs: str) -> pl.Series:
    """Remove signs from the values of a pattern."""
    where = found.str.contains(pattern).fill_null(value=False)
    return found.zip_with(~where, found.str.replace_all(signs, "")) if bool(where.any()) else found


def _without(found: pl.Series, where: pl.Series) -> pl.Series:
    """Return the values with null in some places."""
    return pl.select(pl.when(~where).then(found)).to_series()
