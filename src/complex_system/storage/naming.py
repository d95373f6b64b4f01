"""Names of tables and collections: those of the contract, with a prefix where several data sets share one database."""

from __future__ import annotations

from dataclasses import dataclass

from complex_system.storage.base import DOCUMENTS, PROCESSED, RAW, REJECTED
from complex_system.storage.conflicts import CONFLICTS

COLUMNS = "KIOptiPackColumns"
"""The collection with the declared types; MariaDB keeps them in comments of its tables."""
BACKLOG = "KIOptiPackBacklog"
"""A collection of earlier releases, which is removed."""
COUNTS = "KIOptiPackCounts"
"""MariaDB's table of the numbers of records."""


@dataclass(frozen=True)
class TableNames:
    """Names of the tables or collections of one data set. They need no quotes."""

    raw: str
    processed: str
    rejected: str
    documents: str
    columns: str
    backlog: str
    conflicts: str
    counts: str

    @classmethod
    def of(cls, prefix: str) -> TableNames:
        """Return the names with a prefix of letters, digits and _."""
        return cls(
            *(f"{prefix}{name}" for name in (RAW, PROCESSED, REJECTED, DOCUMENTS, COLUMNS, BACKLOG, CONFLICTS, COUNTS))
        )
