"""The store on MariaDB: InnoDB tables, one column a declared column."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.pages import Page
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.protocol.database import ConflictMessage, RecordCounts, Rejection, Saved
from complex_system.settings import Settings
from complex_system.storage.arrow import (
    chosen_schema,
    converted,
    page_of,
    raw_page,
    table_of,
    unpacked,
    values_of,
    with_key,
    without_key,
)
from complex_system.storage.base import DataStore
from complex_system.storage.conflicts import (
    Conflict,
    Incoming,
    Merge,
    Orders,
    Stored,
    incoming_of,
    orders_of,
    unpacked_orders,
)
from complex_system.storage.envelope import (
    by_revision,
    content_hash,
    refuse_reserved_names,
    revisions_of,
    sources_of,
)
from complex_system.storage.maria import literals as values
from complex_system.storage.maria.documents import MariaDocuments
from complex_system.storage.maria.pool import (
    ONE_SNAPSHOT,
    MariaConnections,
    Row,
    change,
    change_each,
    select,
    select_in_parts,
)
from complex_system.storage.maria.schema import migrate, recount, statements_without_tables
from complex_system.storage.maria.sql import COUNTED, Asked
from complex_system.storage.naming import TableNames

_NONE_THERE = "SET @there = 0, @labelled = 0"
_THERE = "SELECT @there, @labelled"
_NOW = "SELECT UNIX_TIMESTAMP(CURRENT_TIMESTAMP(6)) + 0e0"


class MariaDataStore(DataStore):
    """Raw, processed and rejected records as rows, keyed by ``_id``. A batch is one transaction."""

    label: ClassVar[str] = "MariaDB"

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        super().__init__(dataset)
        self._connections = MariaConnections(settings)
        self.address = self._connections.address
        self._names = TableNames.of(settings.table_prefix)
        self._sql = statements_without_tables(dataset, self._names)
        self._digest = content_hash(dataset)
        self._replaces = settings.on_conflict == "replace"
        self._packet = values.USUAL_PACKET
        self.documents = MariaDocuments(self._connections, self._names.documents)

    @override
    async def open(self) -> None:
        refuse_reserved_names(self.dataset)
        await asyncio.to_thread(self._connections.open)
        await asyncio.to_thread(self._connections.create_database)
        wanted = (
            f"the data set '{self.dataset.name}' with {len(self.dataset.columns)} columns and "
            f"{len(self.dataset.feature_names)} features"
        )
        self._sql = await self._connections.alone(lambda connection: migrate(connection, self.dataset, self._names), wanted)
        [(self._packet,)] = await self._connections.select("SELECT @@max_allowed_packet")
        await self.documents.open()

    @override
    async def close(self) -> None:
        await asyncio.to_thread(self._connections.close)

    @override
    async def ping(self) -> None:
        await self._connections.select("SELECT 1")

    @override
    async def now(self) -> float:
        [(now,)] = await self._connections.select("SELECT UNIX_TIMESTAMP(CURRENT_TIMESTAMP(6))")
        return float(now)

    @override
    async def last_key(self, before: float) -> str | None:
        found = await self._connections.select(self._sql.select_last_key, (before,))
        return str(found[0][0]) if found else None

    @override
    async def save_raw(self, records: list[Record], sources: str | Sequence[str] = "", orders: Orders = None) -> Saved:
        if not records:
            return Saved(db=self.label, inserted=0, existing=0)
        return await self._connections.run(lambda connection: self._save(connection, records, sources, orders))

    @override
    async def trial(self, records: list[Record]) -> None:
        def attempt(connection: Any) -> None:
            self._save(connection, records, "", None)
            connection.rollback()

        await self._connections.run(attempt)

    @override
    async def probe(self) -> None:
        example = self.example(f"probe {uuid.uuid4().hex}")

        def write(connection: Any) -> None:
            # Nobody sees it: it is deleted in the same transaction, which is on disk when it is committed.
            self._insert_raw(connection, [example], [""], [0.0])
            change(connection, f"{self._sql.delete_raw} ({next(values.keys_of([example[ID]]))})")

        with suppress(InvalidRecordError):
            await self._connections.run(write)

    @override
    async def raw_records(self, limit: int) -> list[Record]:
        names = (ID, *self.dataset.raw_names)

        def read(connection: Any) -> list[Record]:
            rows = converted(select(connection, self._sql.select_raw, (limit,)), unpacked(self.dataset))
            return [dict(zip(names, row, strict=True)) for row in rows]

        return await self._connections.run(read)

    @override
    async def unprocessed(self, version: str, after: str | None, limit: int) -> Page:
        def read(connection: Any) -> Page:
            rows: list[Row] = []
            # A record whose mark changes between two of these queries would be there twice, or not at all.
            change(connection, ONE_SNAPSHOT)
            # One exact mark after the other: each walks the index in the order of the keys, which "not equal" cannot.
            for mark in self._marks(connection):
                if mark != version:
                    rows += select(connection, self._sql.select_unprocessed, (mark, after or "", limit))
            rows.sort(key=lambda row: str(row[0]))
            return raw_page(self.dataset, converted(rows[:limit], unpacked(self.dataset)), limit, revisions=True)

        return await self._connections.run(read)

    @override
    async def upsert_processed(self, table: pa.Table, version: str) -> dict[str, int]:
        def write(connection: Any) -> int:
            changed = self._mark_done(connection, revisions_of(table), version)
            current = (
                table if not changed else table.filter(pc.invert(pc.is_in(table.column(ID), pa.array(changed, pa.string()))))
            )
            rows = values.processed_rows(current, self.dataset.processed_names, version)
            change(connection, _NONE_THERE)
            for part in values.texts_of(rows, self._packet):
                change(connection, self._sql.insert_processed + part + self._sql.replace_processed)
            [(there, were_labelled)] = select(connection, _THERE, ())
            rejected = 0
            for keys in values.keys_of(values_of(rows.column(ID))):
                rejected += change(connection, f"{self._sql.delete_rejected} ({keys})")
            target = rows.column(self.dataset.target)
            labelled = rows.num_rows - target.null_count - were_labelled
            self._add(connection, processed=rows.num_rows - there, labelled=labelled, rejected=-rejected)
            return int(current.num_rows)

        return {"upserted": await self._connections.run(write)}

    @override
    async def reject(self, rejections: list[Rejection], version: str) -> dict[str, int]:
        by_key = {each.id: each for each in rejections}

        def write(connection: Any) -> int:
            changed = set(self._mark_done(connection, {key: each.revision for key, each in by_key.items()}, version))
            rows = sorted((key, each.reason, version) for key, each in by_key.items() if key not in changed)
            change(connection, _NONE_THERE)
            change_each(connection, self._sql.reject, rows)
            [(there, _)] = select(connection, _THERE, ())
            processed = labelled = 0
            for keys in values.keys_of(row[0] for row in rows):
                deleted = select(connection, f"{self._sql.delete_processed} ({keys}) {self._sql.was_labelled}", ())
                processed += len(deleted)
                labelled += sum(row[0] for row in deleted)
            self._add(connection, processed=-processed, labelled=-labelled, rejected=len(rows) - there)
            return len(rejections) - len(changed)

        return {"rejected": await self._connections.run(write)}

    @override
    async def rejected(self, after: str | None, limit: int) -> list[Rejection]:
        rows = await self._connections.select(self._sql.select_rejected, (after or "", limit))
        return [Rejection(id=key, reason=reason, version=version) for key, reason, version in rows]

    @override
    async def processed_columns(
        self,
        columns: list[str],
        *,
        labelled: bool,
        version: str | None,
        after: str | None,
        limit: int,
        raw: Sequence[str] | None = None,
        arrived_after: float | None = None,
        until: str | None = None,
    ) -> Page:
        names, schema = with_key(columns), chosen_schema(self.dataset, with_key(columns), raw)
        asked = Asked(labelled, version, after, limit, arrived_after, until)
        statement, parameters = self._sql.select_processed(names, asked, raw)

        def read(connection: Any) -> Page:
            by_place = unpacked(self.dataset, raw, len(names)) if raw else {}
            tables = [schema.empty_table()]
            for rows in select_in_parts(connection, statement, parameters):
                tables.append(table_of(zip(*converted(rows, by_place), strict=True), schema))
            return without_key(page_of(pa.concat_tables(tables).combine_chunks(), limit), columns)

        return await self._connections.run(read)

    @override
    async def processed_key(self, after: str | None, places: int) -> str | None:
        if places < 1:
            return after
        found = await self._connections.select(self._sql.select_processed_key, (after or "", places - 1))
        return str(found[0][0]) if found else None

    @override
    async def counts(self) -> RecordCounts:
        [counted] = await self._connections.select(self._sql.counts)
        return RecordCounts(**dict(zip(COUNTED, counted, strict=True)))

    @override
    async def recount(self) -> None:
        await self._connections.alone(lambda connection: recount(connection, self.dataset, self._sql))

    @override
    async def conflicts(self, after: tuple[str, str] | None, limit: int) -> list[ConflictMessage]:
        key, digest = after or ("", "")

        def read(connection: Any) -> list[ConflictMessage]:
            found = select(connection, self._sql.select_conflicts, (key, key, bytes.fromhex(digest), limit))
            rows = _select_keys(connection, self._sql.select_raw_by_keys, [row[0] for row in found])
            names = (ID, *self.dataset.raw_names)
            present = {row[0]: dict(zip(names, row, strict=True)) for row in converted(rows, unpacked(self.dataset))}
            return [Conflict(*row[:-1]).message(row[-1], present.get(row[0]), names[1:]) for row in found]

        return await self._connections.run(read)

    @override
    async def targets(self, keys: list[str]) -> dict[str, float]:
        found = await self._connections.run(lambda connection: _select_keys(connection, self._sql.select_targets, keys))
        return {key: float(target) for key, target in found if target is not None}

    @override
    async def delete_raw(self, days: float, limit: int) -> int:
        def delete(connection: Any) -> int:
            deleted = change(connection, self._sql.delete_old_raw, (self.dataset.version, days * 86_400, limit))
            self._add(connection, raw=-deleted)
            return deleted

        return await self._connections.run(delete)

    @override
    async def raw_by_keys(self, keys: list[str]) -> Page:
        def read(connection: Any) -> Page:
            found = sorted(_select_keys(connection, self._sql.select_raw_by_keys, keys), key=lambda row: str(row[0]))
            return raw_page(self.dataset, converted(found, unpacked(self.dataset)), len(found) + 1)

        return await self._connections.run(read)

    # Inside

    def _save(self, connection: Any, records: list[Record], sources: str | Sequence[str], orders: Orders) -> Saved:
        """Insert what is new, and merge the others with what is there."""
        merge = Merge(self.dataset, self._digest, replaces=self._replaces)
        senders = sources_of(sources, len(records))
        [(now,)] = select(connection, _NOW, ()) if orders is None else [(0.0,)]
        given = orders_of(self.dataset, records, orders, now)
        inserted = self._insert_raw(connection, records, senders, given)
        conflicts = corrected = 0
        if inserted < len(records):
            conflicts, corrected = self._merge(connection, incoming_of(records, senders, given, self._digest), merge)
        self._add(connection, raw=inserted, conflicts=conflicts, corrected=corrected)
        return merge.saved(self.label, inserted, len(records))

    def _add(self, connection: Any, **numbers: int) -> None:
        """Add to the kept numbers of records; last in a transaction, so that others do not wait for more than its commit."""
        if any(numbers.values()):
            change(connection, self._sql.add_counts, [numbers.get(name, 0) for name in COUNTED])

    def _insert_raw(self, connection: Any, records: list[Record], sources: list[str], orders: list[float]) -> int:
        """Insert the records that are not there yet, and return how many these were."""
        rows = values.raw_rows(records, sources, orders, self.dataset, self._digest)
        inserted = 0
        for part in values.texts_of(rows, self._packet):
            inserted += change(connection, self._sql.insert_raw + part + self._sql.keep_raw)
        if inserted:
            self._mark_processed_before(connection, values_of(rows.column(ID)))
        return inserted

    def _merge(self, connection: Any, incoming: dict[int, Incoming], merge: Merge) -> tuple[int, int]:
        """Fill and replace values of stored records, and keep what loses. The insert has locked their rows.

        Returns:
            Numbers of the new conflicts, and of the new corrections among all conflicts.
        """
        found = _select_keys(connection, self._sql.select_origins, [each.record[ID] for each in incoming.values()])
        kept = {key: (digest, order) for key, digest, order in found}
        if refused := [each for each in incoming.values() if each.record[ID] not in kept]:
            # A unique index of the operator's has found another record's row. Without ON DUPLICATE KEY, MariaDB names it.
            records, sources, orders = zip(*((each.record, each.source, each.order) for each in refused), strict=True)
            rows = values.raw_rows(records, sources, orders, self.dataset, self._digest)
            for part in values.texts_of(rows, self._packet):
                change(connection, self._sql.insert_raw + part)
        unknown = {
            place: each
            for place, each in incoming.items()
            if each.record[ID] in kept and not merge.is_known(each, *kept[each.record[ID]])
        }
        if not unknown:
            return 0, 0
        rows = _select_keys(connection, self._sql.select_stored, [each.record[ID] for each in unknown.values()])
        changes = merge.merge(unknown, self._stored(rows))
        conflicts = sorted(merge.conflicts.values())
        before = self._conflicts_of(connection, conflicts)
        if conflicts:
            change_each(connection, self._sql.keep_conflict, conflicts)
        after = self._conflicts_of(connection, conflicts)
        for of_values, ending in ((True, self._sql.changed_values), (False, self._sql.changed_raw)):
            chosen = [each for each in changes if each.values == of_values]
            if chosen:
                for part in values.texts_of(values.changed_rows(chosen, self.dataset), self._packet):
                    change(connection, self._sql.change_raw + part + ending)
        return after[0] - before[0], after[1] - before[1]

    def _conflicts_of(self, connection: Any, conflicts: list[Conflict]) -> tuple[int, int]:
        """Count the kept conflicts, and the corrections among them, of the keys of some conflicts."""
        rows = _select_keys(connection, self._sql.count_conflicts, [each.key for each in conflicts])
        return sum(row[0] for row in rows), sum(row[1] for row in rows)

    def _stored(self, rows: list[Row]) -> list[Stored]:
        """Return raw records with what their envelopes say."""
        names = (ID, *self.dataset.raw_names)
        found = []
        for row in converted(rows, unpacked(self.dataset)):
            source, revision, digest, order, orders = row[len(names) :]
            record = dict(zip(names, row, strict=False))
            known = self._digest(record) if digest is None else bytes(digest)
            found.append(Stored(record, source, revision, known, order, unpacked_orders(orders)))
        return found

    def _marks(self, connection: Any) -> Iterator[str]:
        """The versions that raw records are marked with, '' first; each costs one look into the index."""
        mark: str | None = ""
        while mark is not None:
            yield mark
            [(mark,)] = select(connection, self._sql.next_version, (mark,))

    def _mark_done(self, connection: Any, revisions: Mapping[str, int | None], version: str) -> list[str]:
        """Mark raw records as done with a version, if they have the revision that was processed.

        Returns:
            Keys of those that have another one: they wait, or a newer result is there, so this one must not be written.
        """
        changed: list[str] = []
        for revision, keys in by_revision(revisions).items():
            parts, marked = list(values.keys_of(sorted(keys))), 0
            for part in parts:
                if revision is None:
                    change(connection, f"{self._sql.mark} ({part})", (version,))
                else:
                    marked += change(connection, f"{self._sql.mark_revision} ({part})", (version, revision))
            if revision is not None and marked < len(keys):
                statement = self._sql.select_changed.format(revision=int(revision))
                changed += [str(row[0]) for row in _select_keys(connection, statement, keys)]
        return changed

    def _mark_processed_before(self, connection: Any, keys: list[str]) -> None:
        """Mark new raw records as done whose processed record came first."""
        [(any_processed,)] = select(connection, self._sql.any_processed, (keys[0], keys[-1]))
        if any_processed:
            for part in values.keys_of(keys):
                change(connection, f"{self._sql.mark_processed} ({part})")


def _select_keys(connection: Any, statement: str, keys: Sequence[str]) -> list[Row]:
    """Return the rows with these keys, in any order."""
    return [row for part in values.keys_of(set(keys)) for row in select(connection, f"{statement} ({part})", ())]
