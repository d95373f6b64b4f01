"""The lists of the backlog as documents: written, read, crossed off, and joined where they are small or lie over each other."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from complex_system.domain.dataset import ID
from complex_system.storage.mongo.connection import KEYS_A_FILTER, Collection, Document, MongoConnection

LIST = 500
"""Most keys of a list."""
LISTS_AT_ONCE = 16

_HEADS = 20_000
_SMALL = 50
_MANY_SMALL = 200
_TANGLED = 4  # so many times the keys that a page needs are read for it
_JOINED = 64  # lists, full ones, that are joined at once
_JOINING = 2.0  # seconds of a page's time


class WaitingLists:
    """Lists of keys, each a document that is changed by single atomic operations."""

    def __init__(self, connection: MongoConnection, name: str) -> None:
        """Makes it; nothing is sent.

        Args:
            connection: To the database.
            name: The collection.
        """
        self._connection = connection
        self._name = name

    async def note(self, keys: Iterable[str], *, together: bool = False) -> list[Any]:
        """Lists keys as waiting, which is on disk then, and returns the ids of the lists.

        The server may be killed and started again before the next command, which goes to the new one without an error.
        """
        ordered = sorted(set(keys))
        now = time.time()
        lists = []
        for start in range(0, len(ordered), LIST):
            part = ordered[start : start + LIST]
            lists.append({"first": part[0], "last": part[-1], "count": len(part), "keys": _packed(part),
                          "together": together, "at": now, "version": "", "done": []})  # fmt: skip
        if not lists:
            return []
        return list((await self._collection.insert_many(lists, ordered=False)).inserted_ids)

    async def forget(self, ids: Sequence[Any]) -> None:
        """Removes lists."""
        for start in range(0, len(ids), KEYS_A_FILTER):
            await self._unjournalled.delete_many({ID: {"$in": list(ids[start : start + KEYS_A_FILTER])}})

    async def heads(self, query: Document, version: str) -> list[Document]:
        """Key, first entry and length of lists, by first entry, after many small ones were joined."""
        while True:
            found = self._collection.find(query, {"first": 1, "count": 1}).sort("first", 1)
            heads: list[Document] = await found.limit(_HEADS).to_list()
            small = [head for head in heads if head["count"] < _SMALL]
            if len(small) <= _MANY_SMALL:
                break
            await self.join(small, version)
        if len(heads) == _HEADS:
            heads = await self._collection.find(query, {"first": 1, "count": 1}).sort("first", 1).to_list()
        return heads

    def read(self, query: Document) -> Any:
        """A cursor over lists."""
        return self._collection.find(query, batch_size=LISTS_AT_ONCE)

    async def cross_off(self, each: Document, keys: list[str], version: str) -> None:
        """Notes keys of a list as done with a version; the list goes when none is left."""
        entry = _packed(keys)
        while True:
            how = (
                {"$push": {"done": entry}} if each["version"] == version else {"$set": {"version": version, "done": [entry]}}
            )
            changed = await self._unjournalled.find_one_and_update(
                {ID: each[ID], "version": each["version"]}, how, return_document=True
            )
            if changed is not None:
                if not left_of(changed, version):  # others have crossed off the rest meanwhile
                    await self.forget([each[ID]])
                return
            # Somebody has finished the list, or crossed off keys of another version.
            kept = await self._collection.find_one({ID: each[ID]})
            if kept is None:
                return
            each = kept

    async def join(self, heads: list[Document], version: str, seconds: float = math.inf) -> None:
        """Makes full lists, side by side, of what waits in the given ones. What is done meanwhile is done again.

        Publishers of single records leave small ones, and batches whose keys do not rise with time leave lists that lie over each
        other: each page would have to look into all of them.

        Args:
            heads: The lists, by first key.
            version: The state's. What is done with it is left out: should another one come, its walk makes lists of its own.
            seconds: After so long the rest is left as it is.
        """
        until = time.monotonic() + seconds
        part: list[Any] = []
        count = 0
        for place, head in enumerate(heads, 1):
            part.append(head[ID])
            count += head["count"]
            if count >= _JOINED * LIST or place == len(heads):
                left, together = set[str](), True
                for start in range(0, len(part), KEYS_A_FILTER):
                    async for each in self.read({ID: {"$in": part[start : start + KEYS_A_FILTER]}}):
                        left.update(left_of(each, version))
                        together = together and each["together"]
                await self.note(left, together=together)
                await self.forget(part)
                if time.monotonic() > until:
                    return
                part, count = [], 0

    async def lay_apart(self, read: list[Document], version: str, limit: int) -> None:
        """Joins the lists that were read for a page of ``limit`` keys if they have many more than it needs."""
        if sum(head["count"] for head in read) > 2 * LISTS_AT_ONCE * LIST + _TANGLED * limit:
            await self.join(read, version, _JOINING)

    @property
    def _collection(self) -> Collection:
        return self._connection.collection(self._name)

    @property
    def _unjournalled(self) -> Collection:
        """For what takes keys off: were it forgotten, they would be done once more."""
        return self._connection.unjournalled(self._name)


def _packed(keys: list[str]) -> bytes:
    return msgspec.msgpack.encode(keys)


def _unpacked(keys: bytes) -> list[str]:
    return msgspec.msgpack.decode(keys, type=list[str])


def left_of(each: Document, version: str) -> list[str]:
    """The keys of a list that are not done with a version."""
    keys = _unpacked(each["keys"])
    if each["version"] != version or not each["done"]:
        return keys
    done = {key for entry in each["done"] for key in _unpacked(entry)}
    return [key for key in keys if key not in done]
