"""Pages of raw records that a pipeline version has not seen, from the backlog's lists or by looking at all keys."""

from __future__ import annotations

from collections.abc import Sequence

from complex_system.domain.dataset import ID
from complex_system.storage.mongo.backlog import Backlog, Group, State
from complex_system.storage.mongo.connection import Document
from complex_system.storage.mongo.reads import MongoReads

_CHUNK = 2500
_MOST = 20_000
"""So many keys are looked at for one page; one that holds less for it says where to go on."""


class Unprocessed:
    """Makes the pages."""

    def __init__(self, backlog: Backlog, reads: MongoReads) -> None:
        """Makes it; nothing is read."""
        self._backlog = backlog
        self._reads = reads

    async def page(self, version: str, after: str | None, limit: int, *, own: bool) -> tuple[list[Document], str | None]:
        """Raw records by key, at most ``limit``, and the key to go on after (None when there is no more).

        Args:
            version: What they must not be done with.
            after: Only records after this key.
            limit: Most records.
            own: Whether the version is that of the deployment, for which the state is kept even if nothing was written with it yet.
        """
        state = await (self._backlog.switch(version) if own else self._backlog.state())
        if state.version == version or (not state.version and state.walked is None):
            return await self._listed(state, version, after or "", limit)
        return await self._compared(version, after or "", limit)

    async def _listed(self, state: State, version: str, after: str, limit: int) -> tuple[list[Document], str | None]:
        found: list[Document] = []
        looked = 0
        while True:
            if state.walked is None or after < state.walked:
                groups, more = await self._backlog.waiting(version, after, state.walked, limit - len(found))
                found += await self._records(groups, state)
                if len(found) == limit:
                    break
                if more:  # some of the listed are not there (yet)
                    after = max(group.keys[-1] for group in groups)
                    continue
            if state.walked is None:
                return found, None
            after = max(after, state.walked)
            if looked >= _MOST:
                return found, after
            looked += _CHUNK
            state = await self._walk_on(state)
            if state.version != version:  # another version was written meanwhile
                return found, after
        return found, found[-1][ID]

    async def _records(self, groups: Sequence[Group], state: State) -> list[Document]:
        old = [key for group in groups if group.old for key in group.keys]
        entries = await self._backlog.entries(old, state.version)
        documents = await self._reads.raw_of(groups) if groups else []
        documents.sort(key=lambda document: str(document[ID]))
        if old:
            there = {document[ID] for document in documents}
            await self._backlog.settle(entries, [key for key in old if key not in there], state)
        return documents

    async def _walk_on(self, state: State) -> State:
        """Lists what is not done of the next keys, and moves the state behind them."""
        assert state.walked is not None
        keys = [document[ID] for document in await self._reads.raw_after(state.walked, _CHUNK, keys_only=True)]
        if keys:
            entries = await self._backlog.entries(keys, state.version)
            done = await self._reads.done_between(state.version, state.walked, keys[-1])
            left = [key for key in keys if key not in done]
            await self._backlog.note(left, together=2 * len(left) > len(keys))
            await self._backlog.settle(entries, done, state)  # older lists know nothing of this version
        await self._backlog.advance(state, keys[-1] if len(keys) == _CHUNK else None)
        return await self._backlog.state()

    async def _compared(self, version: str, after: str, limit: int) -> tuple[list[Document], str | None]:
        """Without the lists, which know one version only."""
        found: list[Document] = []
        looked = 0
        while looked < _MOST:
            rows = max(limit - len(found), min(_CHUNK, _MOST))
            documents = await self._reads.raw_after(after, rows, keys_only=False)
            if documents:
                last = documents[-1][ID]
                done = await self._reads.done_between(version, after, last)
                found += [document for document in documents if document[ID] not in done]
                after = last
            if len(found) >= limit:
                return found[:limit], found[limit - 1][ID]
            if len(documents) < rows:
                return found, None
            looked += len(documents)
        return found, after
