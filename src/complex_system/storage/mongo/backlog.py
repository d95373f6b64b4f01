"""Which raw records wait for processing in MongoDB, without a mark on each of them.

A list names the keys of one saved batch. It is written before the records and goes when all of its keys are done, so

    every raw record is in a list, or done (processed or rejected) with the state's version, or above the state's ``walked``.

A crash between two steps leaves too much in the lists and never too little: a key whose record was not inserted is passed over, one
that was done already is done once more. Each list is changed by single atomic operations, which any number of replicas may send.
When the version changes, ``walked`` goes back to the beginning and the store walks over the keys of all raw records once, by pages,
and lists those that are not done. What lists keys waits for the disk, what takes them off does not.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from complex_system.domain.dataset import ID
from complex_system.storage.mongo.connection import Collection, Document, MongoConnection, insert
from complex_system.storage.mongo.lists import LISTS_AT_ONCE, WaitingLists, left_of

FORGOTTEN = 3600.0
"""Seconds after which a listed record that is not there will not come any more: the one who wrote the list has died."""

_STATE = "state"


@dataclass(frozen=True)
class State:
    """What is known of raw records that are in no list: those up to ``walked`` (None: all) are done with ``version``."""

    version: str = ""
    walked: str | None = ""
    run: str = ""
    """Tells this state from an earlier one of the same version; '' when nothing is written yet."""


@dataclass(frozen=True)
class Group:
    """Keys of one list that wait, rising."""

    keys: list[str]
    together: bool
    """Whether few other raw records lie between the first and the last of the list."""
    old: bool
    """Whether a record that is not there by now will not come any more."""


@dataclass(frozen=True)
class Entry:
    """Some keys in one list."""

    head: Document
    """Key and version of the list."""
    keys: set[str]
    whole: bool
    """Whether nothing else waits in the list."""


class Backlog:
    """The lists and the state, in one collection."""

    def __init__(self, connection: MongoConnection, name: str) -> None:
        """Makes it; nothing is sent.

        Args:
            connection: To the database.
            name: The collection.
        """
        self._connection = connection
        self._name = name
        self._lists = WaitingLists(connection, name)

    async def open(self, *, empty: bool) -> None:
        """Creates the index, and the state if there is none.

        Args:
            empty: Whether there is no raw record: then all that come will be in lists.
        """
        await self._collection.create_index([("first", 1)], name="by_first")
        if not (await self.state()).run:
            await self._replace(State(), State("", None if empty else "", uuid.uuid4().hex))

    async def state(self) -> State:
        """The state as it is kept at the moment."""
        found = await self._collection.find_one({ID: _STATE})
        return State(found["version"], found["walked"], found["run"]) if found else State()

    async def switch(self, version: str) -> State:
        """Makes the state that of a version, before the first write with it."""
        while True:
            state = await self.state()
            if state.version == version:
                return state
            # As long as nothing is done with any version, all are in lists, whatever the version.
            walked = None if not state.version and state.walked is None else ""
            new = State(version, walked, uuid.uuid4().hex)
            if await self._replace(state, new):
                return new

    async def advance(self, state: State, walked: str | None) -> bool:
        """Moves ``walked``, after all raw records up to there were looked at and those not done were listed.

        Returns:
            False when the state is no longer the one that was looked at.
        """
        return await self._replace(state, State(state.version, walked, state.run))

    async def note(self, keys: Iterable[str], *, together: bool = False) -> list[Any]:
        """Lists keys as waiting, and returns the ids of the lists."""
        return await self._lists.note(keys, together=together)

    async def forget(self, ids: Sequence[Any]) -> None:
        """Removes lists."""
        await self._lists.forget(ids)

    async def waiting(self, version: str, after: str, upto: str | None, limit: int) -> tuple[list[Group], bool]:
        """The first ``limit`` keys that wait, in groups, and whether there may be more.

        Args:
            version: Keys done with another version wait.
            after: Keys greater than this.
            upto: Keys up to this; None for all.
            limit: Most keys.
        """
        first = {"$gte": ""} if upto is None else {"$gte": "", "$lte": upto}
        heads = await self._lists.heads({"first": first, "last": {"$gt": after}}, version)
        groups: list[tuple[bool, bool, set[str]]] = []
        found: list[str] = []
        more, read = False, 0
        now = time.time()
        for start in range(0, len(heads), LISTS_AT_ONCE):
            if len(found) == limit and heads[start]["first"] > found[-1]:
                more = True
                break
            part = [head[ID] for head in heads[start : start + LISTS_AT_ONCE]]
            read += len(part)
            async for each in self._lists.read({ID: {"$in": part}}):
                last = found[-1] if len(found) == limit else upto
                left = {key for key in left_of(each, version) if key > after and (last is None or key <= last)}
                more = more or last != upto
                groups.append((each["together"], now - each["at"] > FORGOTTEN, left))
            union = sorted(set().union(found, *(left for _, _, left in groups[-len(part) :])))
            more = more or len(union) > limit
            found = union[:limit]
        await self._lists.lay_apart(heads[:read], version, limit)
        wanted, chosen = set(found), []
        for together, old, left in groups:
            if keys := sorted(left & wanted):
                wanted.difference_update(keys)  # a key may be in several lists
                chosen.append(Group(keys, together, old))
        return chosen, more

    async def entries(self, keys: Iterable[str], version: str) -> list[Entry]:
        """Where keys stand in lists at the moment, as waiting for a version."""
        wanted = set(keys)
        if not wanted:
            return []
        found = []
        async for each in self._lists.read({"first": {"$lte": max(wanted)}, "last": {"$gte": min(wanted)}}):
            left = set(left_of(each, version))
            found.append(Entry({ID: each[ID], "version": each["version"]}, left & wanted, left <= wanted))
        return found

    async def settle(self, entries: Sequence[Entry], keys: Iterable[str], state: State) -> None:
        """Takes keys that are done with the state's version off the lists.

        Args:
            entries: Where the keys stood before they were done, or known to be. A list that came later is left alone: who replaces
                the result by another version's, at the same time, lists the key again.
            keys: The keys.
            state: As it was before that, too.
        """
        done = set(keys)
        if not done:
            return
        finished: list[Any] = []
        for entry in entries:
            part = entry.keys & done
            if entry.whole and part == entry.keys:
                finished.append(entry.head[ID])
            elif part:
                await self._lists.cross_off(entry.head, sorted(part), state.version)
        await self.forget(finished)
        if (await self.state()).run != state.run:
            # Another version's walk may have passed them, as done or not yet there, and these lists were taken for older ones.
            await self.note(done)

    # Inside

    @property
    def _collection(self) -> Collection:
        return self._connection.collection(self._name)

    async def _replace(self, old: State, new: State) -> bool:
        values = {"version": new.version, "walked": new.walked, "run": new.run}
        if not old.run:
            return not await insert(self._collection, [{ID: _STATE, **values}])
        kept = {ID: _STATE, "version": old.version, "walked": old.walked, "run": old.run}
        return bool((await self._collection.update_one(kept, {"$set": values})).matched_count)
