"""The collections of a data set: which field keeps which column, what was declared, indexes, and envelopes for records without one."""

from __future__ import annotations

import logging
from collections.abc import Collection as Keys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.storage.arrow import converted, plain, rows_of
from complex_system.storage.conflicts import Change, Conflict, Stored, packed_orders, unpacked_orders
from complex_system.storage.envelope import ENVELOPE, FIRST_REVISION, PIPELINE, content_hash
from complex_system.storage.migrations import refuse_another_data_set, refuse_other_types
from complex_system.storage.mongo.connection import (
    OTHER_KEYS,
    TRIED_OUT,
    Collection,
    Document,
    MongoConnection,
    Queries,
    ensure_index,
)
from complex_system.storage.naming import TableNames

log = logging.getLogger(__name__)

DONE = f"{ENVELOPE}.done"
REVISION = f"{ENVELOPE}.revision"
RECEIVED = f"{ENVELOPE}.received"

CORRECTED = "corrected"

_DECLARED = "declaration"
"""Key of the note on what was declared."""
_MARKS = "by_mark"
_ARRIVAL = "by_arrival"
_FORMER_MARKS = "unprocessed"
_KEYS_AT_ONCE = 20_000
_RECORDS_AT_ONCE = 500


class Fields:
    """The fields of one data set's documents."""

    def __init__(self, dataset: Dataset) -> None:
        """Find a field for each declared column."""
        self._dataset = dataset
        self.digest = content_hash(dataset)
        self.raw = [ID, *(field_of(name) for name in dataset.raw_names)]
        """The key's and the raw columns' fields, in the order of the declaration."""
        self.processed = {name: field_of(name) for name in dataset.processed_names}
        """Fields of the processed columns by name, the key first."""
        self.target = self.processed[dataset.target]
        """The field of the target among the processed ones."""

    def raw_documents(
        self, records: Sequence[Record], sources: Sequence[str], orders: Sequence[float], received: datetime
    ) -> list[Document]:
        """Return documents of checked raw records."""
        names, fields = self._dataset.raw_names, self.raw[1:]
        return [
            # MariaDB keeps no sign of zero, so neither does this store; adding 0 takes it away.
            {
                ID: r[ID],
                **{f: v + 0.0 if type(v := r[n]) is float else v for f, n in zip(fields, names, strict=True)},
                ENVELOPE: {**_envelope("", received, self.digest(r), source), "order": order},
            }
            for r, source, order in zip(records, sources, orders, strict=True)
        ]

    def stored(self, documents: Sequence[Document]) -> list[Stored]:
        """Return raw records with what their envelopes say; those of earlier releases have no order but their arrival."""
        return [
            Stored(
                record,
                envelope["source"],
                envelope["revision"],
                bytes(envelope["hash"]),
                order_in(envelope),
                unpacked_orders(envelope.get("orders")),
            )
            for record, envelope in zip(self.raw_records(documents), (d[ENVELOPE] for d in documents), strict=True)
        ]

    def changed(self, change: Change) -> tuple[Document, Document]:
        """Return query and update for a change; the query finds nothing if somebody else was faster."""
        before, after = change.before, change.after
        values = {
            field_of(name): value + 0.0 if type(value) is float else value
            for name, value in after.record.items()
            if name != ID and value != before.record[name]
        }
        envelope = {"revision": after.revision, "hash": after.hash, "source": after.source, "order": after.order}
        envelope |= {"orders": packed_orders(after), **({"done": ""} if change.values else {})}
        update = {**values, **{f"{ENVELOPE}.{name}": value for name, value in envelope.items()}}
        return {ID: after.record[ID], REVISION: before.revision}, {"$set": update}

    def raw_records(self, documents: Iterable[Document]) -> list[Record]:
        """Return raw records of documents: the key, then the columns as declared."""
        names = (ID, *self._dataset.raw_names)
        rows = ([str(d[ID]), *(d.get(field) for field in self.raw[1:])] for d in documents)
        return [dict(zip(names, row, strict=True)) for row in converted(rows, plain(self._dataset))]

    def processed_documents(self, table: pa.Table, version: str) -> list[Document]:
        """Return documents of processed records by rising key; of equal keys the last record."""
        fields = list(self.processed.values())
        rows = rows_of(table, self._dataset.processed_names)
        return [{**dict(zip(fields, row, strict=True)), PIPELINE: version} for row in rows]


def order_in(envelope: Document) -> float:
    """Return the highest order of a record's values."""
    order = envelope.get("order")
    return time_in(envelope) if order is None else float(order)


def time_in(document: Document) -> float:
    """Return when a conflict, or a record by its envelope, was received, seconds since 1970."""
    received: datetime = document["received"]
    return received.replace(tzinfo=UTC).timestamp()


def conflict_id(key: str, digest: str) -> str:
    """Return the key of a conflict: there is one for each content, so that a second delivery of a message changes nothing."""
    return f"{key} {digest}"


def conflict_document(conflict: Conflict, received: datetime) -> Document:
    """Return the document of a conflict."""
    entry = {ID: conflict_id(conflict.key, conflict.hash.hex()), **conflict._asdict(), "received": received}
    corrected = (
        {CORRECTED: 1} if entry.pop(CORRECTED) else {}
    )  # a number, which the count of such documents finds by its index
    return {**entry, **corrected}


def conflict_in(document: Document) -> Conflict:
    """Return the conflict of a document."""
    return Conflict(**{name: document.get(name, False) for name in Conflict._fields})


def field_of(name: str) -> str:
    """Return the field of a column: its own name, but for characters that MongoDB reads as a path or an operator."""
    if name == PIPELINE:
        return "%5F" + name[1:]
    return name.replace("%", "%25").replace(".", "%2E").replace("$", "%24").replace("\0", "%00")


class Collections:
    """The collections of one data set.

    Attributes:
        queries: How the server that is connected is asked.
    """

    def __init__(self, connection: MongoConnection, dataset: Dataset, names: TableNames) -> None:
        self.connection = connection
        self.dataset = dataset
        self.names = names
        self.fields = Fields(dataset)
        self.queries = Queries()

    @property
    def raw(self) -> Collection:
        """The raw records."""
        return self.connection.collection(self.names.raw)

    @property
    def processed(self) -> Collection:
        """The processed records."""
        return self.connection.collection(self.names.processed)

    @property
    def rejected(self) -> Collection:
        """The rejections."""
        return self.connection.collection(self.names.rejected)

    @property
    def conflicts(self) -> Collection:
        """The records whose key existed with other values."""
        return self.connection.collection(self.names.conflicts)

    async def versions_of(self, keys: Keys[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the pipeline versions of the processed records and of the rejections with these keys."""
        processed = await self.queries.find_keys(self.processed, keys, [ID, PIPELINE])
        rejected = await self.queries.find_keys(self.rejected, keys, [ID, "version"])
        return {d[ID]: d.get(PIPELINE, "") for d in processed}, {d[ID]: d["version"] for d in rejected}


async def migrate(collections: Collections, *, by_arrival: bool) -> None:
    """Make the collections of an empty database, or of an earlier release, those of this release and of this declaration.

    Args:
        collections: The collections.
        by_arrival: With the index that finds old raw records.

    Raises:
        DeclarationError: The kept records are not allowed by the declaration; nothing was changed.
    """
    await _note_declaration(collections)
    queries, raw, names = collections.queries, collections.raw, collections.names
    await ensure_index(raw, _MARKS, [(DONE, 1), (ID, 1)])
    await ensure_index(raw, _ARRIVAL, [(DONE, 1), (RECEIVED, 1)] if by_arrival else None)
    for collection, indexes in queries.indexes(collections.fields.target).items():
        for name, keys in indexes.items():
            await ensure_index(getattr(collections, collection), name, keys)
    await ensure_index(collections.conflicts, CORRECTED, [(CORRECTED, 1)])
    await add_envelopes(collections)
    await ensure_index(raw, _FORMER_MARKS, None)
    await collections.connection.collection(names.backlog).drop()
    # What a service that was killed in between has tried out.
    await raw.delete_many({ID: {"$type": "object"}, f"{ID}.{TRIED_OUT}": {"$exists": True}})
    await _warn_of_foreign_keys(raw)


async def add_envelopes(collections: Collections) -> None:
    """Give an envelope to the raw records that an earlier release or another program wrote, in batches that may be interrupted.

    A record is done if there is a processed record or a rejection of it. It is received now.
    """
    done = 0
    query = {DONE: None, ID: {"$gte": ""}}  # in the index, where a missing field is null
    while found := await collections.raw.find(query, {ID: 1}).limit(_KEYS_AT_ONCE).to_list():
        keys = sorted(document[ID] for document in found)
        for start in range(0, len(keys), _RECORDS_AT_ONCE):
            part = keys[start : start + _RECORDS_AT_ONCE]
            await _add_envelopes_to(collections, part)
            done += len(part)
            log.info("Added the envelope to %d raw records", done)


async def _add_envelopes_to(collections: Collections, keys: list[str]) -> None:
    between = {DONE: None, ID: {"$gte": keys[0], "$lte": keys[-1]}}
    documents = await collections.queries.find(collections.raw, between, collections.fields.raw)
    processed, rejected = await collections.versions_of([document[ID] for document in documents])
    received, present = await collections.connection.now(), collections.dataset.version
    changes: list[tuple[Document, Document]] = []
    for document, record in zip(documents, collections.fields.raw_records(documents), strict=True):
        key = document[ID]
        versions = (processed.get(key, ""), rejected.get(key, ""))
        version = present if present in versions else versions[0] or versions[1]
        envelope = _envelope(version, received, collections.fields.digest(record), "")
        changes.append(({ID: key, DONE: None}, {"$set": {ENVELOPE: envelope}, "$unset": {PIPELINE: ""}}))
    await collections.queries.update_each(collections.raw, changes)


async def _note_declaration(collections: Collections) -> None:
    """Refuse a declaration that the kept records do not allow, and note it: MongoDB itself knows no columns."""
    dataset = collections.dataset
    notes = collections.connection.collection(collections.names.columns)
    kept = await notes.find_one({ID: _DECLARED}) or {}
    types = dict(kept.get("types", ()))
    where = f"The collection {collections.names.raw}"
    refuse_another_data_set(where, kept.get("data_set", ""), dataset)
    refuse_other_types(where, types, dataset)
    types |= {column.name: column.type for column in dataset.columns}
    note = {ID: _DECLARED, "data_set": dataset.name, "types": [[name, kind] for name, kind in types.items()]}
    if note != kept:
        await notes.replace_one({ID: _DECLARED}, note, upsert=True)


async def _warn_of_foreign_keys(raw: Collection) -> None:
    """Warn of keys of other types: pages are walked by the order of texts, so such records are in no page."""
    foreign = await raw.count_documents({ID: {"$type": OTHER_KEYS}})
    if foreign:
        log.warning(
            "%s has %d raw record(s) whose '_id' is not text, such as MongoDB's own ObjectId: they are counted as raw and never "
            "processed. Write keys as text.",
            raw.name,
            foreign,
        )


def _envelope(done: str, received: datetime, digest: bytes, source: str) -> Document:
    return {"done": done, "revision": FIRST_REVISION, "received": received, "hash": digest, "source": source}
