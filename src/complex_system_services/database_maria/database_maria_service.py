"""The database service on MariaDB."""

from __future__ import annotations

from typing_extensions import override

from complex_system.service_layer.database.service import DatabaseService
from complex_system.storage.base import DataStore
from complex_system.storage.maria.store import MariaDataStore


class DatabaseMariaService(DatabaseService):
    """Keeps the records in MariaDB."""

    @override
    def make_store(self) -> DataStore:
        return MariaDataStore(self.dataset, self.settings)
