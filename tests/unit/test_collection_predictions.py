"""Collected records are predicted once, also where the answer of the database was lost and the stream is read again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from collecting import at, dataset
from complex_system.collection import CollectedRecord
from complex_system.domain.dataset import ID
from complex_system.errors import ReplyTimeoutError
from complex_system.protocol.database import Saved
from complex_system.service_layer.collection.collection import Collection

PREDICTED = """
collect:
  things: "*.*"
  columns:
    temp_mean: {machine: press-4, name: temperature, over: 10s, take: mean}
  record: {on: every 10s, wait: 2s, predict: true}
"""


class Plant:
    """Database and serving; the answer to the first request is lost."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.predicted: list[str] = []
        self._answers = False

    async def save_raw(self, records: list[dict[str, Any]], made: float | None = None) -> Saved:
        keys = {record[ID] for record in records}
        new, self.stored = len(keys - self.stored), self.stored | keys
        if not self._answers:
            self._answers = True
            raise ReplyTimeoutError("lost")
        return Saved(inserted=new, existing=len(keys) - new)

    async def raw_by_keys(self, keys: Iterable[str]) -> pa.Table:
        return pa.table({ID: pa.array(sorted(self.stored.intersection(keys)), pa.string())})

    async def predict(self, records: list[dict[str, Any]]) -> list[float]:
        self.predicted += [record[ID] for record in records]
        return [0.0] * len(records)


@pytest.mark.parametrize("sizes", [(3,), (1, 2), (2, 1), (1, 1, 1)])
async def test_records_whose_answer_was_lost_are_predicted_once_also_when_they_come_again_in_other_parts(
    sizes: tuple[int, ...],
) -> None:
    plant: Any = Plant()
    stream: Any = SimpleNamespace()
    collection = Collection(dataset(PREDICTED), stream, plant, plant, plant)
    records = [CollectedRecord(key, at(10), "press-4", "", {"temp_mean": 1.0}, (), 1) for key in "abc"]
    with pytest.raises(ReplyTimeoutError):
        await collection._save(records)
    collection._reads_again = True  # as _open() does
    for _ in range(2):
        begin = 0
        for size in sizes:
            await collection._save(records[begin : begin + size])
            begin += size
        await asyncio.gather(*collection._predicting)
    assert plant.stored == {"a", "b", "c"}
    assert plant.predicted == ["a", "b", "c"]
    assert not collection._unanswered
