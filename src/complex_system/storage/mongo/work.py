"""Which raw records wait for a pipeline version: by marks in their envelopes and an index on mark and key.

A mark names the version that the record is done with: there is a processed record or a rejection of that version. Whoever replaces
or deletes one of these takes the mark off first and sets it last, if nobody else has set one, so a writer that dies in between leaves
a record that waits and is processed once more. A writer that could not set its mark compares the marks with what is there, and those
that do not fit put the record in doubt.
"""

from __future__ import annotations

from collections.abc import Collection as Keys
from collections.abc import Mapping

from complex_system.domain.dataset import ID
from complex_system.storage.envelope import ENVELOPE, PIPELINE, by_revision
from complex_system.storage.mongo.connection import Document
from complex_system.storage.mongo.schema import DONE, REVISION, Collections, add_envelopes

_WAITING = ""
_IN_DOUBT = "written by several at the same time, to be processed once more by any version"
"""A mark that is longer than any version: such a record waits, and a mark that comes late is not set."""


class Work:
    """The marks of one data set's raw records."""

    def __init__(self, collections: Collections) -> None:
        """Make it; nothing is read."""
        self._collections = collections
        self._marks = [_WAITING]

    async def page(self, version: str, after: str | None, limit: int) -> list[Document]:
        """Return at most ``limit`` raw records after a key that are not done with a version, by key, with their revision."""
        await add_envelopes(self._collections)
        raw, fields, found = self._collections.raw, [*self._collections.fields.raw, REVISION], list[Document]()
        marks = await self._all_marks()
        if version not in marks:
            # All records. Mark by mark, one whose mark changes between two queries would be there twice, or not at all.
            return await self._collections.queries.find_after(raw, after, fields, limit)
        for mark in marks:
            if mark != version:
                found += await self._collections.queries.find_marked(raw, (DONE, mark), after, fields, limit)
        found.sort(key=lambda document: str(document[ID]))
        return found[:limit]

    async def mark_pending(self, keys: Keys[str], *, but: str = _WAITING) -> int:
        """Take the marks off, before results with these keys are replaced or deleted; return how many there were.

        Args:
            keys: Theirs.
            but: Leave marks of this version. For a caller's own results, which replace others of the same version: a record that
                waits meanwhile would be processed, and the pipeline's result would replace the caller's.
        """
        marked = {DONE: {"$gt": _WAITING, "$ne": but}}
        return await self._collections.queries.update(self._collections.raw, keys, marked, {"$set": {DONE: _WAITING}})

    async def mark_done(self, revisions: Mapping[str, int | None], version: str, *, taken_off: int = 0) -> None:
        """Mark raw records as done with a version, each only if it still has the revision that was processed.

        The marks need not be on disk: if the server forgets them, the records are processed once more. Whoever has taken a mark off
        has removed the trace of another writer, which may have deleted the result that is marked now: then results are compared.
        """
        marked = 0
        for revision, keys in by_revision(revisions).items():
            waiting: Document = {DONE: _WAITING, **({} if revision is None else {REVISION: revision})}
            marked += await self._collections.queries.update(
                self._collections.raw, keys, waiting, {"$set": {DONE: version}}, journal=False
            )
        if marked < len(revisions) or taken_off:
            await self._put_in_doubt(revisions)

    async def changed(self, revisions: Mapping[str, int | None]) -> set[str]:
        """Return the keys of raw records that have another revision than the one that was processed, where that is known."""
        known = [key for key, revision in revisions.items() if revision is not None]
        found = await self._collections.queries.find_keys(self._collections.raw, known, [ID, REVISION]) if known else []
        return {each[ID] for each in found if each.get(ENVELOPE, {}).get("revision") != revisions[each[ID]]}

    async def mark_processed_before(self, keys: Keys[str]) -> None:
        """Mark new raw records as done whose processed record came first."""
        processed = await self._collections.queries.find_keys(self._collections.processed, keys, [ID, PIPELINE], few=True)
        versions = {document[ID]: document.get(PIPELINE, "") for document in processed}
        for version in set(versions.values()):
            await self.mark_done({key: None for key, of in versions.items() if of == version}, version)

    async def _put_in_doubt(self, revisions: Mapping[str, int | None]) -> None:
        """Have those processed again whose mark does not fit what is there, or whose revision is not the one that was processed."""
        processed, rejected = await self._collections.versions_of(revisions)
        wrong = []
        for document in await self._collections.queries.find_keys(self._collections.raw, revisions, [ID, ENVELOPE]):
            if ENVELOPE not in document:
                continue  # another program's: what gives it its envelope finds the result
            key, envelope = document[ID], document[ENVELOPE]
            does_not_fit = envelope.get("done") not in (_WAITING, processed.get(key), rejected.get(key))
            if does_not_fit or revisions[key] not in (None, envelope.get("revision")):
                wrong.append(key)
        await self._collections.queries.update(self._collections.raw, wrong, {}, {"$set": {DONE: _IN_DOUBT}})

    async def _all_marks(self) -> list[str]:
        """Return the marks of all raw records: those known so far, and what the index has between them."""
        marks, place = list(self._marks), 0  # a copy: of two walks at the same time, both would insert what they find
        while place < len(marks):
            low, above = marks[place], marks[place + 1 : place + 2]
            # The next text: with "greater than" some servers walk over all that carry the mark itself.
            between = {"$gte": low + "\0", **({"$lt": above[0]} if above else {})}
            found = await self._collections.raw.find_one({DONE: between}, {DONE: 1}, sort=[(DONE, 1)])
            place += 1
            if found is not None:
                marks.insert(place, found[ENVELOPE]["done"])
        self._marks = marks
        return marks
