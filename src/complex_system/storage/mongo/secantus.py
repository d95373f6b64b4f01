"""What only ``secantusdb`` needs, the server that takes MongoDB's place on machines without it. A real server never comes here.

It collects every document from a query's first key to its last before it sorts and cuts, compares lists of keys one by one, counts by
reading everything, and holds its one lock meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

from typing_extensions import override

from complex_system.domain.dataset import ID
from complex_system.storage.envelope import PIPELINE
from complex_system.storage.mongo.connection import (
    OF_OTHERS,
    ROWS_A_REPLY,
    Collection,
    Document,
    Index,
    Queries,
    read_encoded,
    rows_at_once,
)

Read = Callable[[Document, Sequence[str], int | None], Awaitable[list[Document]]]
"""Reads the documents that match a query, by key: query, fields, most documents (None for all)."""

STEP = 500
"""Documents of a new range, and of one update. A read takes as many ranges as the page needs."""
FEWEST = 50
VALUES = 40_000
"""Fields of the documents of a range: of wide documents it has fewer, down to ``FEWEST``, or a read would run into its time-out."""
AT_ONCE = 100_000
"""Fields of the documents of one read, but for a single range."""

SLOW = 0.1  # seconds that a count may take each time
OLD = (
    10  # how old a slow answer may be, in times of what counting took, where own writes have changed it by an unknown number
)
KEPT = 1000  # and where they have not: then only another replica's writes are missing
TOO_LONG = 15.0  # seconds: longer than a server that is away is waited for
PAUSE = 3  # before it is tried again, in times of what the failure took
FEW = 1000  # so few are counted each time: what took long then was something else


def is_secantus(build_info: Document) -> bool:
    """Return whether a server says that it is ``secantusdb``."""
    return "secantusVersion" in build_info


class SecantusQueries(Queries):
    """Reads between two keys, one read or write of a collection after the other, and counts that are kept for a while."""

    keys_a_query = 25
    keys_a_search = 100

    def __init__(self, widths: Mapping[str, int]) -> None:
        """Make the queries.

        Args:
            widths: Fields of a document, by collection.
        """
        self._widths = widths
        self._turns: dict[str, asyncio.Lock] = {}
        self._ranges: dict[tuple[str, str | None], KeyRanges] = {}
        self._counts: dict[tuple[str, str], CachedCount] = {}

    @override
    def indexes(self, target: str) -> dict[str, dict[str, Index]]:
        return {"processed": {"by_version": [(PIPELINE, 1), (ID, 1)]}, "rejected": {"by_version": [("version", 1), (ID, 1)]}}

    @override
    async def find_after(
        self, collection: Collection, after: str | None, fields: Sequence[str], limit: int
    ) -> list[Document]:
        return await self._ranges_of(collection).find(after, limit, fields)

    @override
    async def find_marked(
        self,
        collection: Collection,
        mark: tuple[str, str],
        after: str | None,
        fields: Sequence[str],
        limit: int,
        known: str | None = None,
        until: str | None = None,
    ) -> list[Document]:
        ranges = self._ranges_of(collection, mark)
        if known is None:
            return await ranges.find(after, limit, fields, until=until)
        # Another condition in the query would keep the server from using the index.
        return await ranges.find(
            after, limit, [*fields, known], lambda document: document.get(known) is not None, until=until
        )

    @override
    async def walk(self, collection: Collection, rows: int) -> AsyncIterator[list[Any]]:
        # All keys first: a page that begins at a key would collect every document after it.
        keys = [document[ID] for document in await collection.find({}, {ID: 1}).to_list()]
        ends = sorted(key for key in keys if isinstance(key, str))[rows - 1 :: rows]
        for after, end in pairwise(["", *ends]):
            yield await read_encoded(collection, {ID: {"$gt": after, "$lte": end}})
        for query in ({ID: {"$gt": ends[-1] if ends else ""}}, OF_OTHERS):
            if rest := await read_encoded(collection, query):
                yield rest

    @override
    async def count(self, collection: Collection) -> int:
        return await self._counted(collection, "", partial(super().count, collection)).get()

    @override
    async def count_known(self, collection: Collection, field: str) -> int:
        count = self._counted(collection, field, lambda: collection.count_documents({field: {"$ne": None}}))
        return await count.get(among=await self.count(collection))

    @override
    async def insert(self, collection: Collection, documents: list[Document]) -> list[int]:
        before = {field: count.moments for field, count in self._counts_of(collection)}
        with self._counts_doubted(collection):  # some may be there, and are taken back later
            existing = await super().insert(collection, documents)
        there = set(existing)
        new = [document for place, document in enumerate(documents) if place not in there]
        for field, count in self._counts_of(collection):  # one that is new is doubted
            known = sum(document.get(field) is not None for document in new) if field else len(new)
            count.add(known, before.get(field, -1))
        if documents and PIPELINE in documents[0]:
            self._ranges_of(collection, (PIPELINE, documents[0][PIPELINE])).written(d[ID] for d in documents)
        return existing

    @override
    async def delete(self, collection: Collection, keys: Iterable[str], condition: Document | None = None) -> int:
        before = {field: count.moments for field, count in self._counts_of(collection)}
        with self._counts_doubted(collection):
            deleted = await super().delete(collection, keys, condition)
        for field, count in self._counts_of(collection):
            if field and deleted:
                count.doubt()
            elif not field:
                count.add(-deleted, before.get(field, -1))
        return deleted

    @override
    async def replace(self, collection: Collection, documents: list[Document]) -> None:
        with self._counts_doubted(collection):
            await super().replace(collection, documents)
        for field, count in self._counts_of(collection):
            if field and documents:
                count.doubt()

    @override
    async def update(
        self, collection: Collection, keys: Iterable[str], condition: Document, change: Document, *, journal: bool = True
    ) -> int:
        ordered, changed = sorted(set(keys)), 0
        for start in range(0, len(ordered), STEP):  # more at once may run into the time-out
            part = ordered[start : start + STEP]
            with self._counts_doubted(collection):
                changed += await super().update(collection, part, condition, change, journal=journal)
        for field, count in self._counts_of(collection):
            if changed and field in change.get("$set", ()):
                count.doubt()
        return changed

    @override
    def turn(self, collection: Collection) -> AbstractAsyncContextManager[Any]:
        """Return the lock of a collection.

        The server looks up the documents of a reply under its own lock. Each look-up waits for a page of the storage engine that has
        grown beyond 5 MB and cannot be divided while a write to it is not committed, and that write waits for the lock: a few thousand
        wide documents take a minute, and all requests with them. One after the other they are not slower.
        """
        return self._turns.setdefault(collection.name, asyncio.Lock())

    def _ranges_of(self, collection: Collection, mark: tuple[str, str] | None = None) -> KeyRanges:
        key = (collection.name, mark and mark[1])
        if key not in self._ranges:
            width = self._widths[collection.name]
            self._ranges[key] = KeyRanges(partial(self._find_within, collection, width), dict([mark] if mark else []), width)
        return self._ranges[key]

    async def _find_within(
        self, collection: Collection, width: int, query: Document, fields: Sequence[str], limit: int | None
    ) -> list[Document]:
        """Find as :meth:`find` does; sorting and choosing fields cost this server as much as the reading."""
        if limit is not None:
            return await self.find(collection, query, fields, limit)
        few = len(fields) <= width // 2
        projection = {ID: 1, **dict.fromkeys(fields, 1)} if few else None
        rows = rows_at_once(ROWS_A_REPLY, len(fields) if few else width)
        async with self.turn(collection):
            found = await collection.find(query, projection, batch_size=rows).to_list()
        found.sort(key=lambda document: str(document[ID]))  # the index has them in this order already
        return found

    def _counted(self, collection: Collection, field: str, count: Callable[[], Awaitable[int]]) -> CachedCount:
        return self._counts.setdefault((collection.name, field), CachedCount(count))

    def _counts_of(self, collection: Collection) -> list[tuple[str, CachedCount]]:
        """Return the counts of a collection that were asked for, by field, '' for all documents."""
        return [(field, count) for (name, field), count in self._counts.items() if name == collection.name]

    @contextmanager
    def _counts_doubted(self, collection: Collection) -> Iterator[None]:
        """Doubt the counts of a collection if a write fails: nobody knows how much of it was done."""
        try:
            yield
        except BaseException:
            for _, count in self._counts_of(collection):
                count.doubt()
            raise


class KeyRanges:
    """The documents of one collection with one mark, or all of them, read in ranges of their keys.

    Pages are correct whatever the ends of the ranges are, however old: these say only where a read ends, not what it finds.
    ``(mark, _id)`` must have an index.
    """

    def __init__(self, read: Read, mark: Document, width: int) -> None:
        """Make the reader; nothing is read yet.

        Args:
            read: Reads from the collection.
            mark: The condition: the field with the mark and its value; empty for all documents.
            width: Fields of a document.
        """
        self._read = read
        self._step = min(STEP, max(FEWEST, VALUES // width))
        self._at_once = max(1, AT_ONCE // (self._step * width))
        self._mark = mark
        self._ends: list[str] = []
        self._written = 0
        self._looking = asyncio.Lock()

    def written(self, keys: Iterable[str]) -> None:
        """Note that documents were written, so that nobody has to read them all to find ends among them."""
        for key in keys:
            if not self._ends or key > self._ends[-1]:
                self._written += 1
                if self._written == self._step:
                    self._written = 0
                    self._ends.append(key)

    async def find(
        self,
        after: str | None,
        limit: int,
        fields: Sequence[str],
        keep: Callable[[Document], bool] | None = None,
        until: str | None = None,
    ) -> list[Document]:
        """Return the first ``limit`` documents after a key.

        Args:
            after: A key; None from the beginning.
            limit: Most documents.
            fields: What is read beside the key.
            keep: Chooses documents; by default all count.
            until: The last key; None for no limit.
        """
        wanted = [ID, *(field for field in fields if field != ID)]
        found: list[Document] = []
        last = after or ""
        while len(found) < limit and (until is None or last < until):
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
            whole = ends if until is None else [end for end in ends if end <= until]
            end = ends[-1] if until is None else min(ends[-1], until)
            documents = await self._read({**self._mark, ID: {"$gt": last, "$lte": end}}, wanted, None)
            found += documents if keep is None else filter(keep, documents)
            self._adjust(whole, documents)
            last = end
        if until is not None:
            found = [document for document in found if document[ID] <= until]
        return found[:limit]

    async def _rest(self, last: str, wanted: Sequence[str]) -> list[Document]:
        """Read at most two ranges after the last known end; look for more ends if there is more."""
        query = {**self._mark, ID: {"$gt": last}}
        documents = await self._read(query, wanted, 2 * self._step)
        if len(documents) == 2 * self._step:
            async with self._looking:
                if bisect_right(self._ends, last) == len(self._ends):
                    keys = [document[ID] for document in await self._read(query, [ID], None)]
                    self._ends = sorted({*self._ends, *keys[self._step - 1 :: self._step]})  # some were written meanwhile
        return documents

    def _adjust(self, ends: Sequence[str], documents: Sequence[Document]) -> None:
        """Join ranges that have become empty to the next one, and cut those that have grown."""
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


class CachedCount:
    """A count; where counting takes long, an answer that is not much older than it takes.

    A client that polls would leave such a server no time for anything else. Own writes are added to the answer, so that nobody misses
    what was just acknowledged, and it stays right for long; only after a write that changes it by an unknown number it is soon counted
    anew.
    """

    def __init__(self, count: Callable[[], Awaitable[int]]) -> None:
        """Take the function that counts; nothing is counted yet."""
        self._count = count
        self._answer = 0
        self._known = False
        self._added = 0
        self._until = self._until_doubted = float("-inf")
        self._doubted = False
        self._failed: Exception | None = None
        self._counting = asyncio.Lock()
        self.moments = 0
        """How often a count has begun or ended."""

    async def get(self, among: int | None = None) -> int:
        """Return the count.

        Args:
            among: The number of documents to read; by default as many as were counted last.
        """
        async with self._counting:  # who comes meanwhile gets the same answer
            few = self._answer < FEW and self._failed is None if among is None else among < FEW
            if few or time.monotonic() >= (self._until_doubted if self._doubted else self._until):
                began = time.monotonic()
                self._added, self._doubted = 0, False
                self.moments += 1
                try:
                    counted = await self._count()
                except Exception as error:
                    took = time.monotonic() - began
                    if took < TOO_LONG:
                        raise
                    self._failed = error
                    # Asked again at once, a server that cannot count so many in time would do nothing else.
                    self._until = self._until_doubted = time.monotonic() + PAUSE * took
                    return self._last()
                self.moments += 1
                self._known, self._failed = True, None
                # What was written meanwhile is in the count or not, so it is counted anew soon.
                self._doubted = self._doubted or self._added != 0
                self._answer = min(counted + self._added, max(counted, self._answer)) if self._added > 0 else counted
                took = time.monotonic() - began
                ended, slow = time.monotonic(), took if took > SLOW else 0.0
                self._until, self._until_doubted = ended + KEPT * slow, ended + OLD * slow
            return self._last()

    def _last(self) -> int:
        """Return the last answer; without one, the reason is the answer until it is counted again."""
        if self._failed is not None and not self._known:
            raise self._failed.with_traceback(None)  # else it would keep the frames of each who asks
        return self._answer

    def add(self, written: int, moments: int) -> None:
        """Add what a write of our own has changed.

        Args:
            written: Documents.
            moments: :attr:`moments` before the write: where a count has begun or ended since, it may have them already.
        """
        self._doubted = self._doubted or (written != 0 and moments != self.moments)
        self._answer += written
        self._added += written

    def doubt(self) -> None:
        """Take it that a write of our own has changed the count by an unknown number."""
        self._doubted = True

    def forget(self) -> None:
        """Count anew next time."""
        self._until = self._until_doubted = float("-inf")
