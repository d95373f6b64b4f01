"""Pages of records as Arrow IPC bytes, as which bulk data travels between our own services.

A page carries its own cursor: the schema's metadata holds ``next``, the key to continue after, which the last page lacks. A page may
hold fewer rows than were asked for; only ``next`` says whether there are more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.types import column_type
from complex_system.errors import InvalidRequestError

PAGE_ROWS = 5000
"""Rows of a page unless the caller asks for another number."""
REVISION = "_envelope_revision"
"""Column with the revision of each raw record: in pages of unprocessed records, and in those of the processed ones made of them."""
MAX_PAGE_ROWS = 20_000
"""Rows that a page never exceeds."""


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
        InvalidRequestError: The bytes are not an Arrow IPC stream.
    """
    if not isinstance(encoded, bytes):  # a text would be opened as a path
        raise InvalidRequestError(f"A page of records is expected as Arrow IPC stream bytes, not {type(encoded).__name__}.")
    try:
        with pa.ipc.open_stream(encoded) as reader:
            table = reader.read_all()
        # Offsets that point beyond their buffer would end the process, not the request.
        table.validate(full=True)
        notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"A page of records is expected as Arrow IPC stream bytes: {error}") from error
    return Page(table.replace_schema_metadata(None), notes.pop("next", None), notes)


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
