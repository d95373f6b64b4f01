"""Records that came under a key that another record has: the first one stays, and the others are kept beside it and counted.

Repetitions are not conflicts: the hash in the envelope tells whether the values are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from complex_system.domain.dataset import ID
from complex_system.domain.records import Record

log = logging.getLogger(__name__)

CONFLICTS = "KIOptiPackConflicts"
"""The table or collection; one entry for each key and content."""


class Conflict(NamedTuple):
    """A record that was not written, because its key exists with other values.

    Attributes:
        key: Its key.
        hash: Of its content, as in the envelope.
        source: Who sent it.
        kept_source: Who sent the record that stays.
        record: Its values as JSON.
    """

    key: str
    hash: bytes
    source: str
    kept_source: str
    record: str


def find_conflicts(
    records: Iterable[tuple[Record, str, bytes]], kept: Mapping[str, tuple[bytes | None, str]]
) -> list[Conflict]:
    """Return the records whose key exists with other values, and log them.

    Args:
        records: Records with their sources and hashes.
        kept: Hash and source of the stored records, by key; a record without a hash is not compared.
    """
    found = []
    for record, source, digest in records:
        there, kept_source = kept.get(record[ID], (None, ""))
        if there is not None and digest != bytes(there):
            values = msgspec.json.encode(record, enc_hook=str).decode()
            found.append(Conflict(record[ID], digest, source, kept_source, values))
    if found:
        first = found[0]
        log.warning(
            "%d record(s) came under keys that exist with other values, and were not written: the first one of a key stays. "
            "First: %r from '%s'; the stored one is from '%s'. The values are kept in %s.",
            len(found),
            first.key,
            first.source,
            first.kept_source,
            CONFLICTS,
        )
    return found
