"""Reading processed records: pages by key or by arrival, with raw columns beside them, which another collection has."""

from __future__ import annotations

from collections.abc import Collection as Keys
from collections.abc import Sequence
from datetime import UTC, datetime

from complex_system.domain.dataset import ID
from complex_system.domain.pages import Page
from complex_system.storage.arrow import chosen_schema, page_of, table_of, with_key, without_key
from complex_system.storage.envelope import ENVELOPE, PIPELINE
from complex_system.storage.mongo.connection import ROWS_A_REPLY, Document, keys_between, rows_at_once
from complex_system.storage.mongo.schema import RECEIVED, Collections, field_of, time_in


class ProcessedRecords:
    """The processed records of one data set."""

    def __init__(self, collections: Collections) -> None:
        """Make it; nothing is read."""
        self._collections = collections
        self._fields = collections.fields

    async def by_key(
        self, columns: list[str], known: str | None, version: str | None, after: str | None, limit: int, until: str | None
    ) -> list[Document]:
        """Return at most ``limit`` documents after a key, by key.

        Args:
            columns: Those whose fields are read.
            known: A field that they must have; None for none.
            version: The pipeline version; None for any.
            after: The key; None from the beginning.
            limit: At least 1.
            until: The last key; None for no limit.
        """
        queries, processed, fields = self._collections.queries, self._collections.processed, self._of(columns)
        if version is not None:
            return await queries.find_marked(processed, (PIPELINE, version), after, fields, limit, known, until)
        query: Document = {ID: keys_between(after, until), **({known: {"$ne": None}} if known else {})}
        return await queries.find(processed, query, fields, limit)

    async def raw_by_key(self, found: Keys[Document], raw: Sequence[str]) -> dict[str, Document]:
        """Return the raw records of processed ones by key, with the fields of some columns and their arrival."""
        keys, fields = [document[ID] for document in found], self._beside(raw)
        return {d[ID]: d for d in await self._collections.queries.find_keys(self._collections.raw, keys, fields)}

    async def by_arrival(
        self,
        columns: list[str],
        known: str | None,
        version: str | None,
        arrived_after: float,
        after: str | None,
        limit: int,
        raw: Sequence[str],
        until: str | None,
    ) -> tuple[list[Document], dict[str, Document]]:
        """Return documents as :meth:`by_key` does, of records that arrived after a time, by arrival and key; and their raw records.

        Args:
            columns: As there, and so are ``known``, ``version`` and ``limit``.
            known: A field.
            version: A pipeline version.
            arrived_after: Seconds since 1970.
            after: The last key that is known of the records that arrived at this very time; None where it has none.
            limit: At least 1.
            raw: Raw columns.
            until: As there.
        """
        fields = [*self._of(columns), PIPELINE, *([known] if known else [])]
        found: list[Document] = []
        beside: dict[str, Document] = {}
        moment, last = datetime.fromtimestamp(arrived_after, UTC), after
        while len(found) < limit and (arrived := await self._arrived(moment, last, limit, raw)):
            keys = [document[ID] for document in arrived]
            there = {d[ID]: d for d in await self._collections.queries.find_keys(self._collections.processed, keys, fields)}
            # Of others nothing is kept: where labels come late, a million may lie between.
            for document in arrived:
                each = there.get(document[ID])
                if (
                    each is not None
                    and (until is None or each[ID] <= until)
                    and version in (None, each.get(PIPELINE))
                    and (known is None or each.get(known) is not None)
                ):
                    found.append(each)
                    beside[document[ID]] = document
            if len(arrived) < limit:
                break
            moment, last = arrived[-1][ENVELOPE]["received"], arrived[-1][ID]
        return found[:limit], beside

    def page_of(
        self,
        found: Sequence[Document],
        columns: list[str],
        limit: int,
        raw: Sequence[str] | None,
        beside: dict[str, Document],
    ) -> Page:
        """Return a page of documents.

        Args:
            found: The documents.
            columns: Those of the page.
            limit: Rows that were asked for.
            raw: Raw columns that follow, with the arrival last; None for neither.
            beside: The raw records by key, as far as they are there.
        """
        names = with_key(columns)
        values = [[document.get(field) for document in found] for field in self._of(columns)]
        if raw is not None:
            raws = [beside.get(document[ID], {}) for document in found]
            values += [[document.get(field_of(name)) for document in raws] for name in raw]
            values.append([time_in(document[ENVELOPE]) if ENVELOPE in document else None for document in raws])
        return without_key(page_of(table_of(values, chosen_schema(self._collections.dataset, names, raw)), limit), columns)

    async def _arrived(self, moment: datetime, last: str | None, limit: int, raw: Sequence[str]) -> list[Document]:
        """Return at most ``limit`` raw records that arrived after a time, or then with a larger key, by arrival and key."""
        query: Document = {RECEIVED: {"$gt": moment}, ID: {"$gte": ""}}  # other keys are of records that are tried out
        if last is not None:
            query |= {RECEIVED: {"$gte": moment}, "$nor": [{RECEIVED: moment, ID: {"$lte": last}}]}
        fields, collection = self._beside(raw), self._collections.raw
        rows = rows_at_once(ROWS_A_REPLY, len(fields))
        async with self._collections.queries.turn(collection):
            cursor = collection.find(query, dict.fromkeys(fields, 1), batch_size=min(limit + 1, rows))
            return await cursor.sort([(RECEIVED, 1), (ID, 1)]).limit(limit).to_list()

    def _of(self, columns: list[str]) -> list[str]:
        return [self._fields.processed[name] for name in with_key(columns)]

    def _beside(self, raw: Sequence[str]) -> list[str]:
        return [ID, *map(field_of, raw), RECEIVED]
