"""Columns that look as if they should not be used, judged against the others."""

from __future__ import annotations

import re

import polars as pl

from complex_system.describe.columns import Found

ALMOST_ONE = 0.9999
"""A correlation from which a column tells the target rather than helps to find it."""
_PAIRS = 10
_KEY_NAME = re.compile(
    r"(^|[^a-zäöü])(id|key|nr|no|nummer|number|schlüssel|serial|index)([^a-zäöü]|$)|(nummer|[a-z]id|[a-z]nr|-id|_id)\.?$",
    re.IGNORECASE,
)
LONGEST_KEY = 64


def leaks(column: Found, target: Found) -> bool:
    """Whether a number follows the target so closely that it was probably made of it, or the target of it."""
    if column.numbers is None or target.numbers is None or column.name == target.name:
        return False
    pairs = pl.DataFrame({"a": column.numbers, "b": target.numbers}).drop_nulls()
    if pairs.height < _PAIRS or pairs["a"].n_unique() < 3 or pairs["b"].n_unique() < 3:
        return False
    found = pairs.select(pl.corr("a", "b")).item()
    return found is not None and abs(found) >= ALMOST_ONE


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
