"""The database service that keeps everything in memory."""

from __future__ import annotations

from typing_extensions import override

from complex_system.service_layer.database.service import DatabaseService
from complex_system.storage.base import DataStore
from my_plant.memory_store import MemoryDatabase, MemoryDataStore


class DatabaseMemoryService(DatabaseService):
    """Keeps the records in memory, until it ends."""

    @override
    def make_store(self) -> DataStore:
        return MemoryDataStore(self.dataset, MemoryDatabase(), replaces=self.settings.on_conflict == "replace")
