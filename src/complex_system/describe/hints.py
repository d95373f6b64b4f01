"""Hints on a column, for a person to decide: what was read as missing, spellings, sentinels, numbers that are names.

Nothing of this changes the proposal by itself: ``Mg`` is not ``mg``, and -999 may be a measurement.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

from complex_system.domain.columns import LARGEST_INTEGER
from complex_system.domain.records import shown

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
_SENTINEL = re.compile(r"-?(9{3,}|8{4,})(\.9+)?|-?(32767|32768|65535|2147483647|2147483648)|-?1e\+?30", re.IGNORECASE)
_MAX_NAMES = 12
"""Different whole numbers up to which they may be names of things."""
_PER_NAME = 3
_MAX_SENTINELS = 3
_SHOWN = 4


def count_markers(missing: pl.Series) -> dict[str, int]:
    """Return the texts, but for empty ones, among those that were read as missing, with their numbers; most frequent first."""
    texts = missing.drop_nulls().str.strip_chars()
    return dict(Counter(texts.filter(texts != "").to_list()).most_common())


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
    for category, _ in sorted(Counter(texts.to_list()).items(), key=lambda each: (-each[1], each[0])):
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


def sentinels_of(values: pl.Series) -> tuple[float, ...]:
    """Return numbers such as -9999 or 999 that lie far outside of all others.

    Args:
        values: Of a column, without missing ones.
    """
    found: list[float] = []
    while len(found) < _MAX_SENTINELS:
        rest = values.filter(~values.is_in(found)) if found else values
        ends = [float(value) for value in (rest.min(), rest.max()) if value is not None]  # type: ignore[arg-type]
        new = next((value for value in ends if _SENTINEL.fullmatch(f"{value:g}") and _is_far(value, rest)), None)
        if new is None:
            break
        found.append(new)
    return tuple(sorted(found))


def _is_far(value: float, values: pl.Series) -> bool:
    others = values.filter(values != value)
    if others.is_empty() or len(others) * 2 < len(values):
        return False
    low, high = float(others.min()), float(others.max())  # type: ignore[arg-type]
    gap = low - value if value < low else value - high
    return gap > 2 * (high - low) and gap > abs(high if value > high else low)


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


def note_beyond_floats(texts: Iterable[str]) -> str:
    """Return a note on whole numbers that a float cannot hold, such as serial numbers; empty where there are none."""
    for text in texts:
        digits = text.strip().lstrip("+-").lstrip("0")
        if len(digits) >= 16 and digits.isdecimal() and (len(digits) > 16 or int(digits) > LARGEST_INTEGER):
            return "has whole numbers beyond 2^53, whose last digits a number would lose, so they are texts"
    return ""
