"""What a person decided is written to the database, also where several ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from complex_system.domain.documents import Document
from complex_system.errors import StoreUnavailableError
from complex_system.messaging.clients import DocumentClient
from complex_system.service_layer.rounds.decisions import DECISIONS, ChampionDecisions
from complex_system.tracking.promotion import PromotionRegistry


class SlowDocuments(DocumentClient):
    """Takes the first request late, and refuses the second one."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.may_go_on = asyncio.Event()
        self.requests = 0

    async def save(self, documents: Sequence[Document]) -> None:
        self.requests += 1
        if self.requests == 2:
            self.may_go_on.set()
            raise StoreUnavailableError("The database is away.")
        await self.may_go_on.wait()
        self.taken += [each.key for each in documents]


async def test_a_decision_that_comes_while_another_one_is_written_is_written_too() -> None:
    async def run_blocking(call: Any) -> Any:
        return call()

    documents = SlowDocuments()
    decisions = ChampionDecisions(PromotionRegistry("http://127.0.0.1:1", "lab"), documents, run_blocking)
    decisions._unsaved.append(Document(DECISIONS, "first", 1.0, {}))
    writing = asyncio.create_task(decisions.save())
    await asyncio.sleep(0)
    decisions._unsaved.append(Document(DECISIONS, "second", 2.0, {}))
    await decisions.save()
    await writing
    assert documents.taken == ["first"]
    await decisions.save()
    assert documents.taken == ["first", "second"]
