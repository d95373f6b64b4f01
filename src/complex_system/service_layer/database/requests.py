"""What the database subjects take beyond the shape of their messages, and what fits into a reply."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import MAX_KEY
from complex_system.domain.pages import MAX_PAGE_ROWS, PAGE_ROWS, REVISION, Page, decode_page, processed_schema
from complex_system.domain.records import MAX_FAULTS, Record, faults_message
from complex_system.errors import InvalidRecordError, InvalidRequestError, RecordFault
from complex_system.messaging.replicas import ALL, Share
from complex_system.protocol.base import Message, Request
from complex_system.protocol.database import ColumnsRequest

M = TypeVar("M", bound=Message)

_MAX_SHARES = 1000
_LATEST = 2.0**31 - 1  # of a TIMESTAMP in MariaDB
_REPLY_OVERHEAD = 1024  # the Thing around a value


class NumberedPage(Message, frozen=True, kw_only=True):
    """Asks for a numbered page of processed records, as kio does.

    Attributes:
        page: Number of the page, from 0.
        page_size: Records of a page; 0 gives none.
    """

    page: Annotated[int, msgspec.Meta(ge=0)] = 0
    page_size: Annotated[int, msgspec.Meta(ge=0)] = 10


def published(value: object, subject: Request[Any, Any], kind: type[M]) -> M:
    """Return the request that a payload on one of kio's subjects holds; unknown fields are logged and ignored.

    Raises:
        InvalidRequestError: It is something else.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError(f"'{subject.name}' takes a mapping, not {type(value).__name__}.")
    return Request(subject.name, kind, Any).decode_request(value)


def page_limit(limit: int | None) -> int:
    """Return how many rows a page has: a larger limit is cut, because the cursor says that there are more."""
    return min(limit or PAGE_ROWS, MAX_PAGE_ROWS)


def share_of(share: tuple[int, int] | None) -> Share:
    """Return the share of the keys that is asked for; everything when none is.

    Raises:
        InvalidRequestError: The index is not below the count.
    """
    if share is None:
        return ALL
    if not 0 <= share[0] < share[1] <= _MAX_SHARES:
        raise InvalidRequestError(
            f"'share' must be [index, count] with index below count and count at most {_MAX_SHARES}, not {list(share)}."
        )
    return Share(*share)


def part_of(page: Page, share: Share, limit: int) -> Page:
    """Return at most ``limit`` rows of a page whose keys are in a share; an empty one need not be the last, the cursor says it."""
    mine = [zlib.crc32(key.encode()) % share.count == share.index for key in page.table.column(ID).to_pylist()]
    table = page.table.filter(pa.array(mine, pa.bool_()))
    if table.num_rows <= limit:
        return Page(table, page.next, page.notes)
    table = table.slice(0, limit)
    return Page(table, table.column(ID)[-1].as_py(), page.notes)


def wanted_columns(columns: list[str] | None, dataset: Dataset) -> list[str]:
    """Return the processed columns that are asked for; all when none are named.

    Raises:
        InvalidRequestError: One is not there, or is named twice.
    """
    names = dataset.processed_names
    if columns is None:
        return list(names)
    unknown = [name for name in columns if name not in names]
    if unknown or not columns or len(set(columns)) < len(columns):
        problem = f" Not {unknown[0]!r:.80}." if unknown else " One is there twice." if columns else ""
        raise InvalidRequestError(f"'columns' must be a list of different names among: {', '.join(names)}.{problem}")
    return columns


def wanted_raw(asked: ColumnsRequest, dataset: Dataset) -> list[str] | None:
    """Return the raw columns that are asked for beside processed ones; none, but the arrival, where records are asked for by it.

    Raises:
        InvalidRequestError: One is not there, or is named twice.
    """
    if asked.raw is None:
        return None if asked.arrived_after is None else []
    unknown = [name for name in asked.raw if name not in dataset.by_name]
    if unknown or len(set(asked.raw)) < len(asked.raw):
        problem = f"Not {unknown[0]!r:.80}." if unknown else "One is there twice."
        raise InvalidRequestError(
            f"'raw' must be a list of different names among: {', '.join(dataset.raw_names)}. {problem}"
        )
    return asked.raw


def arrival(asked: ColumnsRequest) -> float | None:
    """Return the time after which records must have arrived, within what databases can compare.

    Raises:
        InvalidRequestError: It is not a time.
    """
    if asked.arrived_after is None:
        return None
    if not math.isfinite(asked.arrived_after):
        raise InvalidRequestError(f"'arrived_after' must be a time in seconds, not {asked.arrived_after!r:.80}.")
    return min(max(asked.arrived_after, 0.0), _LATEST)


def processed_of(value: object, dataset: Dataset) -> Page:
    """Return a page of processed records: all columns, of the right types, nothing missing but targets.

    The column with the revisions is kept where there is one; the note ``version`` is set.

    Raises:
        InvalidRequestError: It is not an Arrow page, or one with other columns or types.
        InvalidRecordError: A value is missing or not finite, or a key is not allowed.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidRequestError(f"A page of records is expected as Arrow IPC stream bytes, not {type(value).__name__}.")
    page = decode_page(bytes(value))
    table, schema = page.table, processed_schema(dataset)
    if REVISION in table.column_names:
        schema = schema.append(pa.field(REVISION, pa.int64(), nullable=False))
    if sorted(table.column_names) != sorted(schema.names):
        raise InvalidRequestError(f"The page must have exactly these columns: {', '.join(dataset.processed_names)}.")
    faults: list[RecordFault] = []
    columns = []
    for field in schema:
        found = table.schema.field(field.name).type
        text = pa.types.is_string(found) or pa.types.is_large_string(found)
        if not (text if field.name == ID else found == field.type or pa.types.is_null(found)):
            raise InvalidRequestError(f"Column '{field.name}' must be of type {field.type}, not {found}.")
        column = table.column(field.name).cast(field.type)
        columns.append(column)
        if field.name == ID:
            length = pc.fill_null(pc.utf8_length(column), 0)
            good = pc.and_(pc.greater(length, 0), pc.less_equal(length, MAX_KEY))
            problem = f"must have 1 to {MAX_KEY} characters"
        else:
            good = pc.fill_null(pc.is_finite(column), field.name == dataset.target)
            problem = "must be a finite number"
        if pc.all(good).as_py() is False:
            for place in pc.indices_nonzero(pc.invert(good))[:MAX_FAULTS].to_pylist():
                faults.append({"record": place, "id": columns[0][place].as_py(), "field": field.name, "problem": problem})
    if faults:
        faults = sorted(faults, key=lambda fault: int(fault["record"]))[:MAX_FAULTS]
        raise InvalidRecordError(faults_message(faults), faults)
    version = page.notes.get("version") or dataset.version
    if len(version) > MAX_KEY:
        raise InvalidRequestError(f"'version' must be a text of 1 to {MAX_KEY} characters, not {version!r:.80}.")
    return Page(pa.Table.from_arrays(columns, names=schema.names), None, {"version": version})


def table_of(records: list[Record], dataset: Dataset) -> pa.Table:
    """Return checked processed records as an Arrow table."""
    schema = processed_schema(dataset)
    arrays = [pa.array([record[field.name] for record in records], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, names=schema.names)


def max_records(max_payload: int, names: tuple[str, ...]) -> int:
    """Return a number of records that no reply can exceed: each has at least its field names, and a byte a value."""
    smallest = len(msgspec.msgpack.encode(dict.fromkeys(names)))
    return max_payload // smallest


def fits(value: Sequence[Any], max_payload: int) -> bool:
    """Return whether a reply with this value stays below the broker's limit."""
    return len(msgspec.msgpack.encode(value)) + _REPLY_OVERHEAD <= max_payload
