"""Pages of records as Arrow IPC bytes: how bulk data travels between our own services.

A page carries its own cursor: the schema's metadata holds ``next``, the key to continue after, which the last page lacks. A page may
hold fewer rows than were asked for; only ``next`` says whether there are more.

A page takes at most as much memory as it has bytes. Arrow's format allows more: compressed buffers, dictionaries, several columns over
the same bytes, rows without any. All these are refused before anything is allocated for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from complex_system.domain.columns import ARRIVED, raw_name
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.types import column_type
from complex_system.errors import InvalidRequestError

PAGE_ROWS = 5000
"""Rows of a page unless the caller asks for another number."""
REVISION = "_envelope_revision"
"""Column with the revision of each raw record, in pages of unprocessed records, and in those of the processed ones made of them."""
MAX_PAGE_ROWS = 20_000
"""Rows that a page never exceeds."""
CELLS_PER_BYTE = 8
"""Values that a byte of a page can hold, as booleans; so many are allowed of nulls, too, which need no byte at all."""


@dataclass(frozen=True)
class Page:
    """Rows, the key after which the next page begins (None on the last page), and notes that travel with them."""

    table: pa.Table
    next: str | None = None
    notes: dict[str, str] = field(default_factory=dict)


def raw_schema(dataset: Dataset) -> pa.Schema:
    """Return the Arrow types of raw records: the key, then the columns as declared."""
    fields = [pa.field(ID, pa.string(), nullable=False)]
    for column in dataset.columns:
        fields.append(pa.field(column.name, column_type(column).arrow))
    return pa.schema(fields)


def processed_schema(dataset: Dataset) -> pa.Schema:
    """Return the Arrow types of processed records: the key, the target (may be missing), the features; numbers are float64."""
    fields = [pa.field(ID, pa.string(), nullable=False)]
    fields += [pa.field(name, pa.float64()) for name in dataset.processed_names[1:]]
    return pa.schema(fields)


def beside_schema(dataset: Dataset, raw: Iterable[str]) -> pa.Schema:
    """Return what a page of processed records has beside them: raw columns, and the time of arrival; null without a raw record."""
    fields = [pa.field(raw_name(name), column_type(dataset.column(name)).arrow) for name in raw]
    return pa.schema([*fields, pa.field(ARRIVED, pa.float64())])


def encode_page(page: Page) -> bytes:
    """Return a page as Arrow IPC stream bytes."""
    notes = {**page.notes, **({"next": page.next} if page.next is not None else {})}
    table = page.table.replace_schema_metadata(notes or None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def decode_page(encoded: bytes) -> Page:
    """Read what :func:`encode_page` wrote, without copying the columns.

    Raises:
        InvalidRequestError: The bytes are not an Arrow IPC stream, or one that is larger in memory.
    """
    if not isinstance(encoded, bytes):  # a text would be opened as a path
        raise InvalidRequestError(f"A page of records is expected as Arrow IPC stream bytes, not {type(encoded).__name__}.")
    try:
        table = _table_of(encoded)
        # Offsets that point beyond their buffer would end the process, not the request.
        table.validate(full=True)
        notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error, StopIteration, OverflowError) as error:
        raise InvalidRequestError(f"A page of records is expected as Arrow IPC stream bytes: {error}") from error
    return Page(table.replace_schema_metadata(None), notes.pop("next", None), notes)


def plain_columns(table: pa.Table) -> pa.Table:
    """Return a table with dictionaries and views as plain columns, as pages hold them."""
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(place, column.name, table.column(place).cast(column.type.value_type))
        elif pa.types.is_string_view(column.type):
            table = table.set_column(place, column.name, table.column(place).cast(pa.string()))
    return table


def _table_of(encoded: bytes) -> pa.Table:
    """Read an Arrow IPC stream whose columns are views of its bytes."""
    messages = pa.ipc.MessageReader.open_stream(encoded)
    first = messages.read_next_message()
    if first.type != "schema":  # read as one, another message would end the process
        raise InvalidRequestError(
            f"A page is expected as an Arrow IPC stream, which begins with a schema, not a {first.type}."
        )
    schema = pa.ipc.read_schema(first)
    for column in schema:
        if not _is_plain(column.type):
            raise InvalidRequestError(
                f"Column '{column.name[:60]}' of a page is of type {str(column.type)[:60]}; pages hold plain numbers, booleans, "
                "texts, times, and lists of them."
            )
    batches = list(_batches(messages, schema))
    table = pa.Table.from_batches(batches, schema)
    cells = sum(_cells(chunk) for each in table.columns for chunk in each.chunks)
    if table.nbytes > len(encoded) or cells > CELLS_PER_BYTE * len(encoded):
        raise InvalidRequestError(
            f"A page of {len(encoded)} bytes declares {table.num_rows} rows of {table.num_columns} columns: more than these "
            "bytes hold."
        )
    return table


def _batches(messages: pa.ipc.MessageReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for message in messages:
        if message.type != "record batch":
            raise InvalidRequestError(f"A page holds record batches only, not a {message.type}.")
        if _is_compressed(message.metadata):
            raise InvalidRequestError("A page holds its columns uncompressed.")
        yield pa.ipc.read_record_batch(message, schema)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type) and not pa.types.is_nested(kind.value_type)
    return any(
        check(kind) for check in (pa.types.is_primitive, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    )


def _cells(chunk: pa.Array) -> int:
    entries = len(chunk.values) if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type) else 0
    return len(chunk) + entries


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Return whether the metadata of a record batch name a compression; pyarrow reads them and does not tell.

    They are a flatbuffer (``Message.fbs`` of Arrow's format): of the table ``Message`` field 2 is the header, here a
    ``RecordBatch``, whose field 3 is the compression.
    """
    data = memoryview(metadata)

    def field_of(table: int, number: int) -> int:
        """Return the position of a field, 0 where it is missing."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        (size,) = struct.unpack_from("<H", data, vtable)
        offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
        return table + offset if offset else 0

    header = field_of(struct.unpack_from("<I", data, 0)[0], 2)
    batch = header + struct.unpack_from("<I", data, header)[0]
    return field_of(batch, 3) != 0


def encode_within(page: Page, max_bytes: int, columns: list[str] | None = None) -> bytes:
    """Encode the longest leading part of a page that fits into ``max_bytes``; its cursor continues after that part.

    Args:
        page: The page; it must contain the key column if it may be cut.
        max_bytes: Limit of the result.
        columns: The columns to encode, in this order; the key need not be among them. None for all.
    """
    sent = page.table if columns is None else page.table.select(columns)
    encoded = encode_page(Page(sent, page.next, page.notes))
    while len(encoded) > max_bytes and sent.num_rows > 1:
        rows = max(1, int(sent.num_rows * max_bytes / len(encoded) * 0.95))
        sent = sent.slice(0, min(rows, sent.num_rows - 1))
        after = page.table.column(ID)[sent.num_rows - 1].as_py()
        encoded = encode_page(Page(sent, after, page.notes))
    return encoded
