"""Names of tables and collections: those of the contract, or with a prefix where several data sets share one database."""

from __future__ import annotations

from dataclasses import dataclass

from complex_system.storage.base import PROCESSED, RAW, REJECTED
from complex_system.storage.documents import DOCUMENTS

COLUMNS = "KIOptiPackColumns"
"""Where MongoDB keeps what was declared; MariaDB keeps it in its tables' comments."""
BACKLOG = "KIOptiPackBacklog"
"""Where MongoDB keeps which raw records wait for processing; MariaDB marks the records."""


@dataclass(frozen=True)
class TableNames:
    """What one data set's tables or collections are called. They need no quotes."""

    raw: str
    processed: str
    rejected: str
    documents: str
    columns: str
    backlog: str

    @classmethod
    def of(cls, prefix: str) -> TableNames:
        """The names with a prefix of letters, digits and _."""
        return cls(*(f"{prefix}{name}" for name in (RAW, PROCESSED, REJECTED, DOCUMENTS, COLUMNS, BACKLOG)))
