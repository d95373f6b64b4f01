"""What the database subjects take, checked: page requests, rejections, processed columns, and what a reply may hold."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import MAX_PAGE_ROWS, PAGE_ROWS, Page, decode_page, processed_schema
from complex_system.domain.records import MAX_FAULTS, Record, faults_message
from complex_system.errors import InvalidRecordError, InvalidRequestError
from complex_system.messaging.replicas import ALL, Share

log = logging.getLogger(__name__)

_LONGEST_TEXT = 64
_MOST_SHARES = 1000
_REPLY_OVERHEAD = 1024  # the Thing around a value


def fields_of(value: object, subject: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
    """The request's fields; unknown ones are warned of and left out.

    Raises:
        InvalidRequestError: The request is no mapping.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError(f"'{subject}' takes a mapping, not {type(value).__name__}.")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown and known:
        log.warning("'%s': unknown field(s) ignored: %s", subject, ", ".join(unknown))
    return {key: value[key] for key in known if key in value}


def whole_number(fields: dict[str, Any], name: str, default: int, largest: int | None = None) -> int:
    """A field that is an integer of at least 0.

    Raises:
        InvalidRequestError: It is something else, or larger than ``largest``.
    """
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(f"'{name}' must be an integer of at least 0, not {value!r:.80}.")
    if largest is not None and value > largest:
        raise InvalidRequestError(f"'{name}' must be at most {largest}, not {value}; ask for more pages.")
    return value


def page_limit(fields: dict[str, Any]) -> int:
    """The field ``limit``: 1 to ``MAX_PAGE_ROWS`` rows; a larger one is cut, for the cursor tells that there is more."""
    value = fields.get("limit")
    limit = whole_number({} if value is None else fields, "limit", PAGE_ROWS)
    if limit == 0:
        raise InvalidRequestError("'limit' must be at least 1.")
    return min(limit, MAX_PAGE_ROWS)


def short_text(fields: dict[str, Any], name: str, *, optional: bool = False) -> str | None:
    """A field that is a text of 1 to 64 characters, as keys and versions are.

    Raises:
        InvalidRequestError: It is something else, or missing though it must be there.
    """
    value = fields.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT:
        raise InvalidRequestError(f"'{name}' must be a text of 1 to {_LONGEST_TEXT} characters, not {value!r:.80}.")
    return value


def version_of(fields: dict[str, Any]) -> str:
    """The field ``version``, which must be there."""
    version = short_text(fields, "version")
    assert version is not None
    return version


def share_of(fields: dict[str, Any]) -> Share:
    """The field ``share``: ``[index, count]``; everything when it is not there.

    Raises:
        InvalidRequestError: It is something else, or the index is not below the count.
    """
    value = fields.get("share")
    if value is None:
        return ALL
    numbers = isinstance(value, list | tuple) and len(value) == 2 and all(type(number) is int for number in value)
    if not numbers or not 0 <= value[0] < value[1] <= _MOST_SHARES:
        raise InvalidRequestError(
            f"'share' must be [index, count] with index below count and count at most {_MOST_SHARES}, not {value!r:.80}."
        )
    return Share(*value)


def part_of(page: Page, share: Share, limit: int) -> Page:
    """At most ``limit`` rows of a page whose keys are in a share; may be empty and not the last one, the cursor tells."""
    mine = [zlib.crc32(key.encode()) % share.count == share.index for key in page.table.column(ID).to_pylist()]
    table = page.table.filter(pa.array(mine, pa.bool_()))
    if table.num_rows <= limit:
        return Page(table, page.next, page.notes)
    table = table.slice(0, limit)
    return Page(table, table.column(ID)[-1].as_py(), page.notes)


@dataclass(frozen=True)
class ColumnsRequest:
    """Which processed records are wanted, and what of them."""

    columns: list[str]
    labelled: bool
    version: str | None
    after: str | None
    limit: int

    @classmethod
    def parse(cls, value: object, subject: str, dataset: Dataset) -> ColumnsRequest:
        """Reads a request.

        Raises:
            InvalidRequestError: A field is of the wrong type, or names what is not there.
        """
        fields = fields_of(value, subject, ("columns", "labelled", "version", "after", "limit"))
        columns = fields.get("columns")
        if columns is None:
            columns = list(dataset.processed_names)
        allowed = f"'columns' must be a list of different names among: {', '.join(dataset.processed_names)}."
        if not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns):
            raise InvalidRequestError(allowed)
        unknown = [name for name in columns if name not in dataset.processed_names]
        if unknown or len(set(columns)) < len(columns):
            raise InvalidRequestError(f"{allowed} {f'Not {unknown[0]!r:.80}.' if unknown else 'One is there twice.'}")
        labelled = fields.get("labelled")
        if labelled is None:
            labelled = False
        if not isinstance(labelled, bool):
            raise InvalidRequestError(f"'labelled' must be true or false, not {labelled!r:.80}.")
        return cls(
            columns,
            labelled,
            short_text(fields, "version", optional=True),
            short_text(fields, "after", optional=True),
            page_limit(fields),
        )


def rejections_of(fields: dict[str, Any]) -> list[dict[str, str]]:
    """The field ``rejections``: a list of ``{"_id", "reason"}``.

    Raises:
        InvalidRequestError: It is no list.
        InvalidRecordError: One of them is malformed.
    """
    rejections = fields.get("rejections")
    if not isinstance(rejections, list):
        raise InvalidRequestError("'rejections' must be a list of mappings with '_id' and 'reason'.")
    faults = []
    for position, rejection in enumerate(rejections):
        if not isinstance(rejection, dict):
            field, problem = None, "must be a mapping with '_id' and 'reason'"
        elif not isinstance(rejection.get(ID), str) or not 0 < len(rejection[ID]) <= _LONGEST_TEXT:
            field, problem = ID, f"must be a text of 1 to {_LONGEST_TEXT} characters"
        elif not isinstance(rejection.get("reason"), str):
            field, problem = "reason", "must be a text"
        else:
            continue
        faults.append({"record": position, "id": None, "field": field, "problem": problem})
    _raise_faults(faults)
    return [{ID: rejection[ID], "reason": rejection["reason"]} for rejection in rejections]


def processed_of(value: object, dataset: Dataset) -> Page:
    """A page of processed records as it arrives: all columns, of the right types, nothing missing but targets.

    Raises:
        InvalidRequestError: No Arrow page, or one with other columns or types.
        InvalidRecordError: A value is missing, not finite, or no key.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidRequestError(f"A page of records is expected as Arrow IPC stream bytes, not {type(value).__name__}.")
    page = decode_page(bytes(value))
    names, table = list(dataset.processed_names), page.table
    if sorted(table.column_names) != sorted(names):
        raise InvalidRequestError(f"The page must have exactly these columns: {', '.join(names)}.")
    schema = processed_schema(dataset)
    for field in schema:
        found = table.schema.field(field.name).type
        text = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
        if not (text if field.name == ID else found == field.type or pa.types.is_null(found)):
            raise InvalidRequestError(f"Column '{field.name}' must be of type {field.type}, not {found}.")
    columns = [table.column(field.name).cast(field.type) for field in schema]
    faults: list[dict[str, Any]] = []
    for name, column in zip(names, columns, strict=True):
        if name == ID:
            length = pc.fill_null(pc.utf8_length(column), 0)
            good = pc.and_(pc.greater(length, 0), pc.less_equal(length, _LONGEST_TEXT))
            problem = f"must have 1 to {_LONGEST_TEXT} characters"
        else:
            good = pc.fill_null(pc.is_finite(column), name == dataset.target)
            problem = "must be a finite number"
        if pc.all(good).as_py() is False:
            for place in pc.indices_nonzero(pc.invert(good))[:MAX_FAULTS].to_pylist():
                faults.append({"record": place, "id": columns[0][place].as_py(), "field": name, "problem": problem})
    _raise_faults(sorted(faults, key=lambda fault: int(fault["record"]))[:MAX_FAULTS])
    version = short_text(page.notes, "version", optional=True) or dataset.version
    return Page(pa.Table.from_arrays(columns, names=names), None, {"version": version})


def table_of(records: list[Record], dataset: Dataset) -> pa.Table:
    """Checked processed records as an Arrow table."""
    schema = processed_schema(dataset)
    arrays = [pa.array([record[field.name] for record in records], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, names=schema.names)


def most_records(max_payload: int, names: tuple[str, ...]) -> int:
    """No reply can hold more records than this: each has at least its field names, and a byte a value."""
    smallest = len(msgspec.msgpack.encode(dict.fromkeys(names)))
    return max_payload // smallest


def fits(value: Sequence[Mapping[str, Any]], max_payload: int) -> bool:
    """Whether a reply with this value stays below the broker's limit."""
    return len(msgspec.msgpack.encode(value)) + _REPLY_OVERHEAD <= max_payload


def _raise_faults(faults: list[dict[str, Any]]) -> None:
    if faults:
        raise InvalidRecordError(faults_message(faults), faults[:MAX_FAULTS])
