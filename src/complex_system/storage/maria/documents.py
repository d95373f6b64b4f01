"""Documents in MariaDB: one table beside the records, on the store's own connections."""

# ruff: noqa: S608 - the names in these statements are our own, the values are placeholders

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typing_extensions import override

from complex_system.domain.documents import Cursor, Document, decoded_body
from complex_system.storage.base import DOCUMENTS, DocumentStore
from complex_system.storage.maria.pool import MariaConnections, change, change_each, select

_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL"
_KEYS_A_STATEMENT = 500


class MariaDocuments(DocumentStore):
    """Documents as rows of kind, key, time and body; the body is JSON text."""

    def __init__(self, connections: MariaConnections, table: str = DOCUMENTS) -> None:
        self._connections = connections
        self._table = table
        self._select = f"SELECT kind, `key`, at, body FROM {table}"
        self._upsert = (
            f"INSERT INTO {table} (kind, `key`, at, body) VALUES (?, ?, ?, ?) "
            "ON DUPLICATE KEY UPDATE at = VALUES(at), body = VALUES(body)"
        )

    @override
    async def open(self) -> None:
        made = (
            f"CREATE TABLE IF NOT EXISTS {self._table} (kind VARCHAR(32) {_TEXT}, `key` VARCHAR(200) {_TEXT}, "
            f"at DOUBLE NOT NULL, body MEDIUMTEXT {_TEXT}, PRIMARY KEY (kind, `key`), INDEX by_time (kind, at, `key`)) "
            "ENGINE = InnoDB"
        )
        await self._connections.change(made)

    @override
    async def save(self, documents: Sequence[Document]) -> None:
        def write(connection: Any) -> None:
            # By key, so that two writers of the same documents take their locks in the same order.
            by_key = {(d.kind, d.key): (d.kind, d.key, d.at, d.encoded_body()) for d in documents}
            rows = [by_key[key] for key in sorted(by_key)]
            change_each(connection, self._upsert, rows)

        await self._connections.run(write)

    @override
    async def between(
        self,
        kind: str,
        start: float,
        end: float,
        *,
        newest_first: bool = False,
        limit: int = 500,
        after: Cursor | None = None,
    ) -> list[Document]:
        where, values = "kind = ? AND at >= ? AND at < ?", [kind, float(start), float(end)]
        order, beyond, up_to = ("DESC", "<", "<=") if newest_first else ("ASC", ">", ">=")
        if after is not None:
            where += f" AND at {up_to} ? AND (at {beyond} ? OR `key` {beyond} ?)"
            values += [float(after.at), float(after.at), after.key]
        statement = f"{self._select} WHERE {where} ORDER BY at {order}, `key` {order} LIMIT ?"

        return await self._connections.run(lambda connection: _documents(connection, statement, (*values, limit)))

    @override
    async def by_keys(self, kind: str, keys: Sequence[str]) -> list[Document]:
        def read(connection: Any) -> list[Document]:
            found: list[Document] = []
            for part in _parts(keys):
                found += _documents(
                    connection, f"{self._select} WHERE kind = ? AND `key` IN ({_marks(part)})", (kind, *part)
                )
            return sorted(found, key=lambda document: document.key)

        return await self._connections.run(read)

    @override
    async def delete_before(self, kind: str, before: float) -> int:
        statement = f"DELETE FROM {self._table} WHERE kind = ? AND at < ?"
        return await self._connections.change(statement, (kind, float(before)))

    @override
    async def delete_keys(self, kind: str, keys: Sequence[str]) -> int:
        def delete(connection: Any) -> int:
            return sum(
                change(connection, f"DELETE FROM {self._table} WHERE kind = ? AND `key` IN ({_marks(part)})", (kind, *part))
                for part in _parts(keys)
            )

        return await self._connections.run(delete)


def _documents(connection: Any, statement: str, values: Sequence[Any]) -> list[Document]:
    rows = select(connection, statement, values)
    return [Document(kind, key, at, decoded_body(body)) for kind, key, at, body in rows]


def _parts(keys: Sequence[str]) -> Iterator[list[str]]:
    ordered = sorted(set(keys))
    for start in range(0, len(ordered), _KEYS_A_STATEMENT):
        yield ordered[start : start + _KEYS_A_STATEMENT]


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" for _ in values)
