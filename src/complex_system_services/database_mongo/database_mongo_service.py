"""The database service on MongoDB."""

from __future__ import annotations

from typing_extensions import override

from complex_system.service_layer.database.service import DatabaseService
from complex_system.storage.base import DataStore
from complex_system.storage.mongo.store import MongoDataStore


class DatabaseMongoService(DatabaseService):
    """Keeps the records in MongoDB."""

    @override
    def make_store(self) -> DataStore:
        return MongoDataStore(self.dataset, self.settings)
