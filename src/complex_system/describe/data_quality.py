"""Columns that look as if they should not be used, judged against the others."""

from __future__ import annotations

import re

import polars as pl

from complex_system.describe.columns import Found

ALMOST_ONE = 0.9999
"""A correlation from which a column tells the target rather than helps to find it."""
_PAIRS = 10
_RANKS = 20
_APART = 3
_DIFFERENT = re.compile(r"\d+ different texts in \d+ records")
_KEY_NAME = re.compile(
    r"(^|[^a-zäöü])(id|key|nr|no|nummer|number|schlüssel|serial|index)([^a-zäöü]|$)|(nummer|[a-z]id|[a-z]nr|-id|_id)\.?$",
    re.IGNORECASE,
)
LONGEST_KEY = 64


def leak(column: Found, frame: pl.DataFrame, target: Found) -> str:
    """How a column tells the target so closely that it was probably made of it, or the target of it; '' where it does not."""
    if target.numbers is None or column.name == target.name:
        return ""
    if column.numbers is not None and column.type != "boolean":
        pairs = pl.DataFrame({"a": column.numbers, "b": target.numbers}).drop_nulls()
        return "follows the target almost exactly" if _follows(pairs) or _is_rounded(pairs) else ""
    if column.type in ("category", "boolean"):
        pairs = pl.DataFrame({"a": frame[column.name].cast(pl.String), "b": target.numbers}).drop_nulls()
        if column.categories:
            pairs = pairs.filter(pl.col("a").is_in(column.categories))
        parts = _parts(pairs)
        several = parts.height > 1 and bool((parts["count"] >= _PAIRS).all() and (parts["different"] >= _APART).all())
        return "divides the target's values without overlap" if several and _apart(parts) else ""
    return ""


def _follows(pairs: pl.DataFrame) -> bool:
    if pairs.height < _PAIRS or pairs["a"].n_unique() < 3 or pairs["b"].n_unique() < 3:
        return False
    found = [pairs.select(pl.corr("a", "b")).item()]
    if pairs["a"].n_unique() >= _RANKS:  # the target's logarithm or square
        found.append(pairs.select(pl.corr("a", "b", method="spearman")).item())
    return any(each is not None and abs(each) >= ALMOST_ONE for each in found)


def _is_rounded(pairs: pl.DataFrame) -> bool:
    """Whether a number that comes again and again always means a part of the target's range of its own."""
    parts = _parts(pairs)
    again = parts.filter((pl.col("count") > 1) & (pl.col("different") > 1))
    return again.height >= _APART and int(again["count"].sum()) >= _RANKS and _apart(parts)


def _parts(pairs: pl.DataFrame) -> pl.DataFrame:
    """The target's range for each value, by the least target."""
    target = pl.col("b")
    return (
        pairs.group_by("a")
        .agg(low=target.min(), high=target.max(), count=pl.len(), different=target.n_unique())
        .sort("low", "high")
    )


def _apart(parts: pl.DataFrame) -> bool:
    return bool((parts["high"].head(-1) < parts["low"].tail(-1)).all())


def note_repeated_keys(columns: list[Found]) -> None:
    """Says of texts that are named as a key is why they are none."""
    for column in columns:
        records = len(column.notes) == 1 and _DIFFERENT.match(column.notes[0])
        if column.type == "text" and records and _KEY_NAME.search(column.name):
            column.notes.append("named as a key, and the same in several records, of which a key keeps only the first")


def key_of(columns: list[Found], frame: pl.DataFrame) -> str:
    """The first column that names records: by its name a key, there in every record, and each time another; '' for none."""
    for column in columns:
        if column.type not in ("text", "category", "integer") or not _KEY_NAME.search(column.name) or column.name == "_id":
            continue
        series = frame[column.name]
        if series.dtype.is_float() or series.dtype.is_nested():
            continue
        texts = series.cast(pl.String)
        if (
            texts.null_count()
            or not texts.str.len_chars().is_between(1, LONGEST_KEY).all()
            or (texts.str.strip_chars() == "").any()
        ):
            continue
        if texts.n_unique() == len(texts):
            return column.name
    return ""
