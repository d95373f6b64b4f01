"""The envelope: what both databases keep beside each raw record and no payload shows.

The pipeline version that the record is done with (processed or rejected; empty while it waits), its revision, the time of arrival by
the database's clock, a hash of its content, and its source. MongoDB keeps it in the field ``_envelope``, MariaDB in the columns
``_pipeline`` and ``_envelope_...``. An index on the version and the key finds what waits. A batch is marked as done by one bulk
update, which leaves out every record whose revision is no longer the one that was processed: that record waits again. A record
without an envelope, from an earlier release or another program, gets one when a service starts (MongoDB: also when it is met).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import REVISION
from complex_system.errors import DeclarationError
from complex_system.storage.arrow import values_of

PIPELINE = "_pipeline"
"""The pipeline version: with a processed record the one that made it, with a raw record in MariaDB the one it is done with."""
ENVELOPE = "_envelope"
"""Begins the names that the store keeps for itself."""
FIRST_REVISION = 1
MAX_SOURCE = 200
"""Characters of a source that are kept."""

Digest = Callable[[Mapping[str, Any]], bytes]
"""Hashes the content of a record."""

_EXACT = 2**53  # up to here every integer is a float, too

_encode = msgspec.msgpack.Encoder(enc_hook=str, order="sorted").encode


def refuse_reserved_names(dataset: Dataset) -> None:
    """Keep declared columns apart from the envelope.

    Raises:
        DeclarationError: A column has a reserved name.
    """
    for name in (*dataset.raw_names, *dataset.processed_names):
        if name.casefold().startswith(ENVELOPE):
            raise DeclarationError(
                f"Column '{name}': names that begin with '{ENVELOPE}' are reserved for what the database keeps beside a record. "
                "Declare the column under another name."
            )


def content_hash(dataset: Dataset) -> Digest:
    """Return a function that hashes a record's declared values: the same 16 bytes for the same content in every database.

    Missing values do not count, so that a declaration may grow; 3 and 3.0 are the same, and so are 0.0 and -0.0.
    """
    names = dataset.raw_names

    def digest(record: Mapping[str, Any]) -> bytes:
        content = {
            name: value if type(value) is str else value + 0.0 if type(value) is float else _canonical(value)
            for name in names
            if (value := record.get(name)) is not None
        }
        return hashlib.blake2b(_encode(content), digest_size=16).digest()

    return digest


def _canonical(value: Any) -> Any:
    return float(value) if type(value) is int and -_EXACT <= value <= _EXACT else value


def sources_of(sources: str | Sequence[str], count: int) -> list[str]:
    """Return one source a record, in the length that is kept."""
    return [source[:MAX_SOURCE] for source in ([sources] * count if isinstance(sources, str) else sources)]


def by_revision(revisions: Mapping[str, int | None]) -> dict[int | None, list[str]]:
    """Group keys by the revision that was processed; None where it is not known."""
    found: dict[int | None, list[str]] = defaultdict(list)
    for key, revision in revisions.items():
        found[revision].append(key)
    return dict(found)


def revisions_of(table: pa.Table) -> dict[str, int | None]:
    """Return the revision of each processed record by key; None where the table does not have it. Of equal keys the last counts."""
    keys = values_of(table.column(ID))
    has = REVISION in table.column_names
    return dict(zip(keys, values_of(table.column(REVISION)) if has else [None] * len(keys), strict=True))
