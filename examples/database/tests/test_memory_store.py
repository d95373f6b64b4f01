"""The store in memory keeps the contract of stores."""

from __future__ import annotations

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.testing.stores import DataStoreContract
from my_plant.memory_store import MemoryDatabase, MemoryDataStore


class TestMemoryDataStore(DataStoreContract):
    @pytest.fixture
    def database(self) -> MemoryDatabase:
        return MemoryDatabase()

    def make(self, dataset: Dataset, database: MemoryDatabase, *, replaces: bool = False) -> MemoryDataStore:
        return MemoryDataStore(dataset, database, replaces=replaces)
