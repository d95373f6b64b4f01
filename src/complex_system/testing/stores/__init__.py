"""The suite of stores: what the system counts on of a database."""

from __future__ import annotations

from complex_system.testing.stores.base import StoreHooks
from complex_system.testing.stores.columns import ColumnCases
from complex_system.testing.stores.conflicts import ConflictCases
from complex_system.testing.stores.documents import DocumentCases
from complex_system.testing.stores.failures import FailureCases
from complex_system.testing.stores.processed import ProcessedCases
from complex_system.testing.stores.raw_records import RawRecordCases
from complex_system.testing.stores.unprocessed import UnprocessedCases

__all__ = ["DataStoreContract", "StoreHooks"]


class DataStoreContract(
    RawRecordCases, UnprocessedCases, ProcessedCases, ConflictCases, ColumnCases, DocumentCases, FailureCases
):
    """What every :class:`~complex_system.storage.base.DataStore` promises, its documents included.

    Override the hooks of :class:`StoreHooks`: ``database`` and ``make`` are enough for a store without a server.
    """
