"""The declared types in Python, in Arrow and in JSON: the one table for checks, pages, stores and schemas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from complex_system.domain.columns import LARGEST_INTEGER, Column

MAX_TEXT = 65_536
"""Characters of a text: a record must fit into a page, and a page into a message."""

MAX_ENTRIES = 1000
"""Entries of a list."""

_LARGEST = 1.7976931348623157e308
Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
"""A finite number; NaN and infinities fail both bounds."""
Whole = Annotated[float, msgspec.Meta(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER, multiple_of=1)]
"""A whole number, also one written as 3.0."""


@dataclass(frozen=True)
class ColumnType:
    """A declared type.

    Attributes:
        python: What ``msgspec`` checks a value against.
        arrow: The type in pages and stores.
        json: JSON Schema of a value.
    """

    python: Any
    arrow: pa.DataType
    json: dict[str, Any]

    @property
    def is_list(self) -> bool:
        """Whether a value is a list."""
        return bool(pa.types.is_list(self.arrow))


Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
"""A text that is not too long."""
_ENTRIES = msgspec.Meta(max_length=MAX_ENTRIES)
_TEXT = ColumnType(Text, pa.string(), {"type": "string"})
_TYPES = {
    "number": ColumnType(Finite, pa.float64(), {"type": "number"}),
    "integer": ColumnType(Whole, pa.int64(), {"type": "integer"}),
    "boolean": ColumnType(bool, pa.bool_(), {"type": "boolean"}),
    "category": _TEXT,
    "text": _TEXT,
    "datetime": _TEXT,
    "list of categories": ColumnType(
        Annotated[list[Text], _ENTRIES],
        pa.list_(pa.string()),
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_ENTRIES},
    ),
    "list of shares": ColumnType(
        Annotated[list[Finite], _ENTRIES],
        pa.list_(pa.float64()),
        {"type": "array", "items": {"type": "number"}, "maxItems": MAX_ENTRIES},
    ),
}


def column_type(column: Column) -> ColumnType:
    """Return the declared type of a column."""
    return _TYPES[column.type]
