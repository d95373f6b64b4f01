"""Documents in memory, for tests of what is kept; what databases do with them, complex_system.testing.stores says."""

from __future__ import annotations

import json
from collections.abc import Sequence

from complex_system.domain.documents import Document
from complex_system.errors import StoreUnavailableError


class KeptDocuments:
    """Documents in a dict, each through JSON and back."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Document] = {}
        self.away = False

    async def save(self, documents: Sequence[Document]) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        for each in documents:
            body = json.loads(each.encoded_body())
            self.kept[each.kind, each.key] = Document(each.kind, each.key, each.at, body)

    async def between(
        self, kind: str, start: float, end: float, *, newest_first: bool = False, most: int = 10_000
    ) -> list[Document]:
        found = sorted((d for d in self.kept.values() if d.kind == kind and start <= d.at < end), key=lambda d: d.cursor)
        return (found[::-1] if newest_first else found)[:most]

    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        return [self.kept[kind, key] for key in keys if (kind, key) in self.kept]

    async def delete_before(self, kind: str, before: float) -> int:
        return await self.delete_keys(kind, [d.key for d in self.kept.values() if d.kind == kind and d.at < before])

    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        return sum(self.kept.pop((kind, key), None) is not None for key in keys)

    async def targets(self, keys: Sequence[str]) -> dict[str, float]:
        return {}

    def count(self, kind: str) -> int:
        return sum(d.kind == kind for d in self.kept.values())
