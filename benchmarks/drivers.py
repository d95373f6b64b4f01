"""The direct alternatives: the databases' drivers in one process, as one writes a script with them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mariadb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pymongo import MongoClient, UpdateMany
from typing_extensions import override

from benchmarks.plant import DATASET
from complex_system.domain.dataset import ID
from complex_system.domain.pages import raw_schema
from complex_system.domain.records import Record
from complex_system.settings import Settings
from complex_system.storage.arrow import rows_of
from complex_system.storage.base import PROCESSED, RAW, REJECTED
from complex_system.storage.envelope import ENVELOPE, PIPELINE

RAW_NAMES = (ID, *DATASET.raw_names)
DONE = f"{ENVELOPE}.done"
WANTED = (DATASET.target, *DATASET.feature_names)
"""Target and features: the columns that training reads."""


class Driver(ABC):
    """One database by its driver; the tables are those that the database service has made."""

    @abstractmethod
    def clear(self) -> None:
        """Removes all records."""

    @abstractmethod
    def save_raw(self, records: Sequence[Record]) -> None:
        """Inserts a batch and commits it."""

    @abstractmethod
    def raw_pages(self, rows: int) -> Iterator[pa.Table]:
        """All raw records, the fastest way that the driver has."""

    @abstractmethod
    def save_processed(self, table: pa.Table) -> None:
        """Inserts a batch of processed records and commits it."""

    @abstractmethod
    def mark(self, table: pa.Table) -> None:
        """Marks each of these raw records as processed, and commits it."""

    @abstractmethod
    def read_labelled(self) -> pd.DataFrame:
        """Target and features of the labelled processed records, the fastest way the driver has."""

    reads_arrays = False
    """Whether :meth:`read_arrays` is another, faster way."""

    def read_arrays(self) -> NDArray[np.float64]:
        """Target and features of the labelled processed records as one array, the fastest way the driver has."""
        return self.read_labelled().to_numpy()

    @abstractmethod
    def unmark(self) -> None:
        """Makes all raw records unprocessed again."""

    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """Raw and processed records."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection."""


class MariaDriver(Driver):
    """MariaDB's connector: ``executemany`` and ``cursor(binary=True)``."""

    def __init__(self, settings: Settings) -> None:
        self._connection = mariadb.connect(
            host=settings.maria_host, port=settings.maria_port, user=settings.maria_user, database=settings.maria_name
        )
        self._cursor = self._connection.cursor()

    @override
    def clear(self) -> None:
        for table in (RAW, PROCESSED, REJECTED):
            self._cursor.execute(f"TRUNCATE {table}")
        self._connection.commit()

    @override
    def save_raw(self, records: Sequence[Record]) -> None:
        self._insert(RAW, RAW_NAMES, [tuple(record.values()) for record in records])

    @override
    def raw_pages(self, rows: int) -> Iterator[pa.Table]:
        cursor, after = self._connection.cursor(binary=True), ""
        while True:
            cursor.execute(f"SELECT {_list(RAW_NAMES)} FROM {RAW} WHERE {ID} > ? ORDER BY {ID} LIMIT ?", (after, rows))
            found = cursor.fetchall()
            if not found:
                return
            after = found[-1][0]
            schema = raw_schema(DATASET)
            columns = zip(zip(*found, strict=True), schema, strict=True)
            yield pa.Table.from_arrays([pa.array(values, field.type) for values, field in columns], schema=schema)

    @override
    def save_processed(self, table: pa.Table) -> None:
        rows = [(*row, DATASET.version) for row in rows_of(table, DATASET.processed_names)]
        self._insert(PROCESSED, (*DATASET.processed_names, PIPELINE), rows)

    @override
    def mark(self, table: pa.Table) -> None:
        statement = f"UPDATE {RAW} SET {PIPELINE} = ? WHERE {ID} = ?"
        self._cursor.executemany(statement, [(DATASET.version, key) for key in table.column(ID).to_pylist()])
        self._connection.commit()

    @override
    def read_labelled(self) -> pd.DataFrame:
        cursor = self._connection.cursor(binary=True)
        cursor.execute(f"SELECT {_list(WANTED)} FROM {PROCESSED} WHERE `{DATASET.target}` IS NOT NULL")
        frame = pd.DataFrame(cursor.fetchall(), columns=list(WANTED))
        cursor.close()
        self._connection.commit()
        return frame

    reads_arrays = True

    @override
    def read_arrays(self) -> NDArray[np.float64]:
        cursor = self._connection.cursor(binary=True, buffered=False)
        cursor.execute(f"SELECT {_list(WANTED)} FROM {PROCESSED} WHERE `{DATASET.target}` IS NOT NULL")
        parts = []
        while rows := cursor.fetchmany(4000):
            parts.append(np.array(rows, dtype=np.float64))
        cursor.close()
        self._connection.commit()
        return np.concatenate(parts)

    @override
    def unmark(self) -> None:
        for statement in (
            f"CREATE OR REPLACE TABLE aside AS SELECT {_list(RAW_NAMES)} FROM {RAW}",
            f"TRUNCATE {RAW}",
            f"INSERT INTO {RAW} ({_list(RAW_NAMES)}) SELECT {_list(RAW_NAMES)} FROM aside",
            f"TRUNCATE {PROCESSED}",
        ):
            self._cursor.execute(statement)
            self._connection.commit()

    @override
    def counts(self) -> tuple[int, int]:
        self._cursor.execute(f"SELECT (SELECT COUNT(*) FROM {RAW}), (SELECT COUNT(*) FROM {PROCESSED})")
        raw, processed = self._cursor.fetchone()
        self._connection.commit()
        return raw, processed

    @override
    def close(self) -> None:
        self._connection.close()

    def _insert(self, table: str, names: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * len(names))
        self._cursor.executemany(f"INSERT INTO {table} ({_list(names)}) VALUES ({marks})", rows)
        self._connection.commit()


class MongoDriver(Driver):
    """pymongo: ``insert_many`` unordered, and raw batches where the server has them, else documents."""

    def __init__(self, settings: Settings) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_host, settings.mongo_port, journal=True)
        database = self._client[settings.mongo_name]
        self._raw, self._processed, self._rejected = database[RAW], database[PROCESSED], database[REJECTED]

    @override
    def clear(self) -> None:
        for collection in (self._raw, self._processed, self._rejected):
            collection.drop()
        self._raw.create_index([(DONE, 1), (ID, 1)], name="by_mark")

    @override
    def save_raw(self, records: Sequence[Record]) -> None:
        self._raw.insert_many([{**record, ENVELOPE: {"done": "", "revision": 1}} for record in records], ordered=False)

    @override
    def raw_pages(self, rows: int) -> Iterator[pa.Table]:
        # One cursor, in no order: sorted pages cost the server here a reading of all that follows, each.
        with self._raw.find({}, batch_size=rows) as cursor:
            while found := cursor.to_list(rows):
                yield pa.Table.from_pylist(found, schema=raw_schema(DATASET))

    @override
    def save_processed(self, table: pa.Table) -> None:
        names = (*DATASET.processed_names, PIPELINE)
        rows = rows_of(table, DATASET.processed_names)
        self._processed.insert_many([dict(zip(names, (*row, DATASET.version), strict=True)) for row in rows], ordered=False)

    @override
    def mark(self, table: pa.Table) -> None:
        keys = table.column(ID).to_pylist()
        parts = [keys[start : start + 25] for start in range(0, len(keys), 25)]  # secantusdb compares keys one by one
        self._raw.bulk_write([UpdateMany({ID: {"$in": part}}, {"$set": {DONE: DATASET.version}}) for part in parts])

    @override
    def read_labelled(self) -> pd.DataFrame:
        found = self._processed.find({DATASET.target: {"$ne": None}}, {ID: 0, PIPELINE: 0}, batch_size=20_000)
        return pd.DataFrame(found.to_list(), columns=list(WANTED))

    @override
    def unmark(self) -> None:
        indexes = [index for index in self._processed.list_indexes() if index["name"] != "_id_"]
        self._processed.drop()
        for index in indexes:
            self._processed.create_index(list(index["key"].items()), name=index["name"])
        self._raw.update_many({}, {"$set": {DONE: ""}})

    def copy(self, part: int, until: int, shifted: Callable[[str, int], str], seconds: float) -> int:
        """Copy the first documents, under later keys, until there are so many or the time is over; return how many there are.

        Args:
            part: Documents that are there.
            until: Documents wanted, in either collection.
            shifted: Makes a key later by so many milliseconds.
            seconds: After which no further copy begins.
        """
        began, there = time.monotonic(), part
        found = [(collection, list(collection.find({}))) for collection in (self._raw, self._processed)]
        while there < until and time.monotonic() - began < seconds:
            for collection, documents in found:
                copies = [{**document, ID: shifted(document[ID], there)} for document in documents[: until - there]]
                for start in range(0, len(copies), 5000):
                    collection.insert_many(copies[start : start + 5000], ordered=False)
            there = min(until, there + part)
            print(f"{there:,} documents after {time.monotonic() - began:.0f} s", flush=True)
        return there

    @override
    def counts(self) -> tuple[int, int]:
        return self._raw.count_documents({}), self._processed.count_documents({})

    @override
    def close(self) -> None:
        self._client.close()


def open_driver(database: str, settings: Settings) -> Driver:
    """The driver of a database by its name."""
    return MariaDriver(settings) if database == "MariaDB" else MongoDriver(settings)


def fill_processed(driver: Driver, tables: Iterator[pa.Table]) -> None:
    """Writes processed records in batches."""
    for table in tables:
        driver.save_processed(table)


def synthetic_processed(count: int, rows: int = 20_000) -> Iterator[pa.Table]:
    """Labelled processed records made by numpy, with rising keys: enough for speed, made in no time."""
    draw = np.random.default_rng(1)
    for start in range(0, count, rows):
        size = min(rows, count - start)
        columns: dict[str, Any] = {ID: [f"{start + i:012d}" for i in range(size)]}
        columns |= {name: draw.random(size) for name in WANTED}
        columns[DATASET.target] = columns[DATASET.target] * 400
        frame = pl.DataFrame(columns).select(DATASET.processed_names)
        yield frame.to_arrow(compat_level=pl.CompatLevel.oldest()).select(list(DATASET.processed_names))


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
