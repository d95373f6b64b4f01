"""Recognises what the name and the values of a column give away: unit, range, codes, names of things, spellings.

Everything here is a hint for a person, and changes nothing by itself: ``Mg`` is not ``mg``, and -999 may be a measurement.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

import polars as pl

from complex_system.domain.columns import LARGEST_INTEGER, Column
from complex_system.domain.records import shown
from complex_system.sources.notation import Notation

MARGIN = 0.1
"""How far a proposed range goes beyond what the file holds, in parts of the values' width, on each side."""
KEY_NAME = re.compile(
    r"(^|[^a-zäöü])(id|key|nr|no|nummer|number|schlüssel|serial|index)([^a-zäöü]|$)|(nummer|[a-z]id|[a-z]nr|-id|_id)\.?$",
    re.IGNORECASE,
)
_UNIT_AT_THE_END = re.compile(r"^(.*\S)\s*(?:\[([^\[\]]{1,15})\]|\(([^()]{1,15})\))\s*$")
_UNIT_AFTER_IN = re.compile(r"^(.*\S) in (\S{1,8})$")
_UNIT_BARE = re.compile(
    r"^(.*[^\W_].*)[ _]((?:%|‰|ppm|ppb|°C|°F|m?bar|[kM]?Pa|GPa|kN|Nm|[µu]m|[mcnk]m|kg|mg|[µu]g|ms|min|rpm|1/min|U/min|mV|kV|mA|kW|MW|"
    r"kWh|[kM]?Hz|ml|m/s|mm/s|m/min|l/min|l/h|m³/h|m3/h|kg/h|t/h|g/l|mg/l|mg/kg|kJ|MJ/kg|W/m²|g/cm³|kg/m³|m²|m³)(?:/h)?)$"
)
"""Units that need no brackets, because they are nothing else."""
_NO_UNIT = re.compile(r"^\d*$|.*\s.*\s.*")
_UNIT_AFTER = re.compile(r"[+-]?\d[\d.,]*\s*([^\W\d_]\S{0,7}|[%‰°]\S{0,7})")
_NO_LIMIT = re.compile(r"<.*|n\.?\s?[nd]\.?|bdl|u\.?bg|nwg|lo[dq]|bloq?|not detected|nicht nachweisbar", re.IGNORECASE)
"""What laboratories write for a value below the detection limit, without the limit."""
KEPT_AS_TEXT = r"^\s*[+-]?(?:0\d|\d{16})"
"""Numbers that would lose a leading zero or their last digits."""
_ANY_NUMBER = Column(name="x", type="number")
REMARK_NAME = re.compile(r"bemerkung|kommentar|anmerkung|notiz|remark|comment|(^|[^a-z])notes?([^a-z]|$)", re.IGNORECASE)
"""Names of what people write freely."""
COUNT_NAME = re.compile(
    r"anzahl|anz\.?([^a-zäöü]|$)|stück|stk|zähler|zyklen|(^|[^a-z])(count|counts|number of|no\. of|num|n|qty|quantity|pieces|"
    r"pcs|cycles|shots|hits)([^a-z]|$)|[a-z]Count|count$",
    re.IGNORECASE,
)
"""Names of what is counted, so that it has no decimals."""
_THING_NAME = re.compile(
    r"ofen|anlage|linie|maschine|werk|kanal|nest|kavität|schicht|gruppe|klasse|sorte|rezept|programm|charge|reaktor|form([^a-z]|$)|"
    r"station|machine|oven|furnace|kiln|line([^a-z]|$)|plant|tool|mould|mold|cavity|shift|group|class|recipe|program|reactor|"
    r"operator|code|typ([^a-z]|$)|type|level([^a-z]|$)",
    re.IGNORECASE,
)
_MAX_NAMES = 12
"""Different whole numbers up to which they may be names of things."""
_PER_NAME = 3
_SHOWN = 4


def unit_of(name: str) -> str:
    """Return the unit in the name: ``Temp. [°C]``, ``Druck (bar)``, ``Dicke in µm``, ``Feuchte %``; empty for none."""
    for pattern in (_UNIT_AT_THE_END, _UNIT_AFTER_IN, _UNIT_BARE):
        if match := pattern.match(name):
            unit = next(group for group in match.groups()[1:] if group is not None).strip()
            return "" if _NO_UNIT.match(unit) else unit
    return ""


# Ranges


def with_margin(low: float, high: float, margin: float = MARGIN) -> tuple[float, float]:
    """Return ``low`` and ``high`` moved apart by a part of their distance on each side, as round numbers, and not beyond 0."""
    width = high - low
    digits = 1 - math.floor(math.log10(width))
    step = 10.0**-digits if -300 < digits < 300 else width / 100
    begin, end = math.floor((low - margin * width) / step) * step, math.ceil((high + margin * width) / step) * step
    begin, end = (round(each, digits) if -300 < digits < 300 else each for each in (begin, end))
    begin = 0.0 if low >= 0 > begin else min(begin, low)
    end = 0.0 if high <= 0 < end else max(end, high)
    return float(begin), float(end)


# Hints


def count_markers(missing: pl.Series) -> dict[str, int]:
    """Return the texts, but for empty ones, among those that were read as missing, with their numbers; most frequent first."""
    texts = missing.drop_nulls().str.strip_chars()
    return dict(Counter(texts.filter(texts != "").to_list()).most_common())


def hint_of_months(declared: str, times: pl.Series) -> str:
    """Return that the first number of all times may be the month; empty where one is larger than 12, or the format has no slashes."""
    if "%d/%m/" not in declared or int(times.str.extract(r"^(\d+)/").cast(pl.Int64).max() or 0) > 12:  # type: ignore[arg-type]
        return ""
    other = declared.replace("%d/%m/", "%m/%d/")
    return f"every time, such as {times[0]}, can be read with the day or with the month first; write {other} for the month"


def hint_of_markers(markers: Mapping[str, int], *, is_category: bool) -> str:
    """Return what was read as missing; empty where nothing was."""
    if not markers:
        return ""
    listed = ", ".join(f"'{text}' in {count}" for text, count in list(markers.items())[:_SHOWN])
    listed += f" and {len(markers) - _SHOWN} more texts" if len(markers) > _SHOWN else ""
    plural = "records" if sum(markers.values()) > 1 else "record"
    advice = "; where it is a value, add it to categories" if is_category else ""
    return f"read as missing: {listed} {plural}{advice}"


def spellings_of(texts: pl.Series) -> dict[str, tuple[str, ...]]:
    """Return categories that differ only in case or blanks, by the one that they may all mean.

    That is the most frequent one without blanks around it, where there is such a one.
    """
    alike: dict[str, list[str]] = {}
    for category, _ in sorted(Counter(texts.to_list()).items(), key=lambda each: (-each[1], each[0].isupper(), each[0])):
        alike.setdefault(" ".join(category.casefold().split()), []).append(category)
    found = (sorted(same, key=lambda each: each != each.strip()) for same in alike.values() if len(same) > 1)
    return {same[0]: tuple(sorted(same[1:])) for same in found}


def hint_of_spellings(spellings: Mapping[str, tuple[str, ...]]) -> str:
    """Return which categories differ only in case or blanks; empty where none do."""
    if not spellings:
        return ""
    group = ", ".join(map(shown, sorted(next(((name, *others) for name, others in spellings.items()), ()))))
    more = f" (and {len(spellings) - 1} more groups)" if len(spellings) > 1 else ""
    return f"{group} differ only in case or blanks{more}: are they one category? The declaration has the line for it"


def hint_of_sentinels(sentinels: tuple[float, ...], values: pl.Series) -> str:
    """Return where numbers probably stand for "no value"; empty where none do."""
    if not sentinels:
        return ""
    listed = ", ".join(f"{value:g} in {int((values == value).sum())}" for value in sentinels)
    return f"{listed} records lies far from all others: does it stand for 'no value'? The declaration has the line for it"


def is_a_count(name: str, unit: str) -> bool:
    """Return whether a column's name or unit says that its values are counted."""
    return bool(COUNT_NAME.search(name)) or bool(COUNT_NAME.fullmatch(unit))


def may_be_names(name: str, unit: str, values: pl.Series) -> bool:
    """Return whether whole numbers are perhaps names of things, such as ovens.

    Args:
        name: Of the column.
        unit: Of the column; what has one is measured.
        values: Whole numbers, without missing ones.
    """
    different = values.n_unique()
    if unit or is_a_count(name, unit) or not 2 <= different <= _MAX_NAMES or len(values) < _PER_NAME * different:
        return False
    if _THING_NAME.search(name):
        return True
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    return different >= 3 and low == 1 and high == different


def note_beyond_floats(texts: pl.Series) -> str:
    """Return a note on whole numbers that a float cannot hold, such as serial numbers; empty where there are none."""
    for text in texts.filter(texts.str.contains(r"^\s*[+-]?\d{16,}\s*$")):
        digits = text.strip().lstrip("+-").lstrip("0")
        if len(digits) >= 16 and digits.isdecimal() and (len(digits) > 16 or int(digits) > LARGEST_INTEGER):
            return "has whole numbers beyond 2^53, whose last digits a number would lose, so they are texts"
    return ""


def without_markers(series: pl.Series) -> pl.Series:
    """Return texts with null for a missing value: a number has all markers, and what is left decides whether it is one."""
    if Notation().plain(series) is not None:
        return series
    is_missing = series.str.strip_chars().is_in(list(_ANY_NUMBER.markers)).fill_null(value=True)
    return series.set(is_missing, None)


def nearly_numbers(column: pl.Series, notation: Notation, row: Callable[[int], int]) -> str:
    """Return what keeps texts that are mostly numbers from being a column of numbers, and what to do; empty for other texts.

    Args:
        column: The texts.
        notation: How its numbers are written.
        row: Returns the row number of a place.
    """
    texts = without_markers(column)
    present = len(texts) - texts.null_count()
    others = (texts.is_not_null() & notation.numbers(texts).is_null()).arg_true().to_list()
    if not others:  # such as 0012, which is kept as a text
        return ""
    first = texts[others[0]]
    looked_at = texts.gather(others)
    if not notation.percent:  # a word is then in doubt for a percent sign only
        looked_at = looked_at.filter(looked_at.str.contains(r"^\s*[+\-.,\d]|%\s*$"))
    if doubtful := next((doubt for text in looked_at.unique(maintain_order=True) if (doubt := notation.doubt(text))), ""):
        return f"{len(others)} of its {present} values are not read as numbers: row {row(others[0])}, " + (
            notation.doubt(first) or doubtful
        )
    if 2 * len(others) <= present:
        which = f"row {row(others[0])} has {shown(first)}"
        advice = "correct it or leave it empty"
        if _NO_LIMIT.fullmatch(first.strip()):
            advice = "write the limit, as <0.01: without these values the mean would be too high"
        return f"{present - len(others)} of its {present} values are numbers, and {which}; {advice}"
    if not _UNIT_AFTER.fullmatch(first.strip()):
        return ""
    units = {match[1] for text in texts if text is not None and (match := _UNIT_AFTER.fullmatch(text.strip()))}
    behind = sum(text is not None and bool(_UNIT_AFTER.fullmatch(text.strip())) for text in texts)
    if len(units) == 1 and behind == present:
        return f"numbers with '{units.pop()}' after each; move the unit to the column's name, in brackets, and keep the numbers only"
    return ""
