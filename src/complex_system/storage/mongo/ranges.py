"""Pages in the order of the keys from servers that do not stop a sorted read at its limit.

MongoDB walks an index and stops after ``limit`` documents. ``secantusdb``, which takes its place on machines without it, collects
every document from the first key to the last of the collection before it cuts: each page of a walk would cost as much as the whole
rest. A range with two ends costs only what it holds, so the store keeps some keys in between and reads from one to the next.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import Awaitable, Callable, Iterable, Sequence

from complex_system.domain.dataset import ID
from complex_system.storage.mongo.connection import Document

Read = Callable[[Document, Sequence[str], int | None], Awaitable[list[Document]]]
"""Reads the documents that match a query, by key: query, fields, most documents (None for all)."""

STEP = 500
"""Documents of a range when it was made. A read takes as many ranges as the page needs."""
FEWEST = 50
VALUES = 40_000
"""Fields of the documents of a range: of wide documents it has fewer, down to ``FEWEST``, or a read would run into its time-out."""
AT_ONCE = 100_000
"""Fields of the documents of one read, but for a single range."""


class KeyRanges:
    """The documents of one collection with one mark, in ranges of their keys.

    Correct for any keys in between, however old they are: these say only where a read ends, not what it finds. ``(mark, _id)`` must
    have an index.
    """

    def __init__(self, read: Read, field: str, mark: str, width: int) -> None:
        """Makes the reader; nothing is read yet.

        Args:
            read: Reads from the collection.
            field: The field that carries the mark.
            mark: Its value.
            width: Fields of a document.
        """
        self._read = read
        self._step = min(STEP, max(FEWEST, VALUES // width))
        self._at_once = max(1, AT_ONCE // (self._step * width))
        self._mark = {field: mark}
        self._ends: list[str] = []
        self._written = 0
        self._looking = asyncio.Lock()

    def written(self, keys: Iterable[str]) -> None:
        """Notes that documents were written, so that nobody has to read them all to find ends among them."""
        for key in keys:
            if not self._ends or key > self._ends[-1]:
                self._written += 1
                if self._written == self._step:
                    self._written = 0
                    self._ends.append(key)

    async def find(
        self, after: str | None, limit: int, fields: Sequence[str], keep: Callable[[Document], bool] | None = None
    ) -> list[Document]:
        """The first ``limit`` documents after a key.

        Args:
            after: A key; None from the beginning.
            limit: Most documents.
            fields: What is read; the key is always.
            keep: Which documents count; by default all.
        """
        wanted = [ID, *(field for field in fields if field != ID)]
        found: list[Document] = []
        last = after or ""
        while len(found) < limit:
            place = bisect_right(self._ends, last)
            if place == len(self._ends):
                documents = await self._rest(last, wanted)
                found += documents if keep is None else filter(keep, documents)
                if len(documents) < 2 * self._step:
                    break
                last = documents[-1][ID]
                continue
            ranges = min(-(-(limit - len(found)) // self._step), self._at_once)
            ends = self._ends[place : place + ranges]
            documents = await self._read({**self._mark, ID: {"$gt": last, "$lte": ends[-1]}}, wanted, None)
            found += documents if keep is None else filter(keep, documents)
            self._adjust(ends, documents)
            last = ends[-1]
        return found[:limit]

    async def _rest(self, last: str, wanted: Sequence[str]) -> list[Document]:
        """At most two ranges of what comes after the last known end; if there is more, ends are looked for."""
        query = {**self._mark, ID: {"$gt": last}}
        documents = await self._read(query, wanted, 2 * self._step)
        if len(documents) == 2 * self._step:
            async with self._looking:
                if bisect_right(self._ends, last) == len(self._ends):
                    keys = [document[ID] for document in await self._read(query, [ID], None)]
                    self._ends = sorted({*self._ends, *keys[self._step - 1 :: self._step]})  # some were written meanwhile
        return documents

    def _adjust(self, ends: Sequence[str], documents: Sequence[Document]) -> None:
        """Joins ranges that have become empty to the next one, and cuts those that have grown."""
        keys = [document[ID] for document in documents]
        begin = 0
        for end in ends:
            after = bisect_right(keys, end)
            if begin == after and end in self._ends:
                self._ends.remove(end)
            elif after - begin > 2 * self._step:
                for key in keys[begin + self._step - 1 : after : self._step]:
                    if key not in self._ends:
                        insort(self._ends, key)
            begin = after
