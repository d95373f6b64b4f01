"""What both databases keep beside raw records, read and changed without a store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import mariadb
from pymongo import MongoClient

from complex_system.settings import Settings
from complex_system.storage.base import RAW


class Envelope(NamedTuple):
    """What is kept beside a raw record."""

    key: str
    done: str
    revision: int
    received: datetime
    hash: bytes
    source: str


def connected(settings: Settings) -> Any:
    """A connection to the database of the settings, with times in UTC."""
    connection = mariadb.connect(
        host=settings.maria_host, port=settings.maria_port, user=settings.maria_user, password=settings.maria_password,
        database=settings.maria_name,
    )  # fmt: skip
    connection.cursor().execute("SET time_zone = '+00:00'")
    return connection


def envelopes(database: str, settings: Settings) -> list[Envelope]:
    """The envelopes of all raw records by key; ``database`` is ``mongo`` or ``maria``."""
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            kept = client[settings.mongo_name][RAW].find().sort("_id").to_list()
        rows = [(d["_id"], *(d["_envelope"][name] for name in Envelope._fields[1:])) for d in kept]
    else:
        with closing(connected(settings)) as connection:
            cursor = connection.cursor(binary=True)
            cursor.execute(
                "SELECT _id, _pipeline, _envelope_revision, _envelope_received, _envelope_hash, _envelope_source "  # noqa: S608
                f"FROM {RAW} ORDER BY _id"
            )
            rows = cursor.fetchall()
    return [Envelope(*row[:3], row[3].replace(tzinfo=UTC), bytes(row[4]), row[5]) for row in rows]


def change(database: str, settings: Settings, key: str, column: str, value: float) -> None:
    """Changes a raw record as a correction does: another value, the next revision, to be processed again."""
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            update = {"$set": {column: value, "_envelope.done": ""}, "$inc": {"_envelope.revision": 1}}
            client[settings.mongo_name][RAW].update_one({"_id": key}, update)
    else:
        with closing(connected(settings)) as connection:
            connection.cursor().execute(
                f"UPDATE {RAW} SET `{column}` = ?, _pipeline = '', "  # noqa: S608
                "_envelope_revision = _envelope_revision + 1 WHERE _id = ?",
                (value, key),
            )
            connection.commit()


def age(database: str, settings: Settings, arrived: Mapping[str, float]) -> None:
    """Lets raw records have arrived so many days ago, by the database's clock."""
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            now = client.admin.command("hello")["localTime"]
            for key, days in arrived.items():
                update = {"$set": {"_envelope.received": now - timedelta(days=days)}}
                client[settings.mongo_name][RAW].update_one({"_id": key}, update)
    else:
        with closing(connected(settings)) as connection:
            statement = f"UPDATE {RAW} SET _envelope_received = NOW(6) - INTERVAL ? SECOND WHERE _id = ?"  # noqa: S608
            for key, days in arrived.items():
                connection.cursor().execute(statement, (days * 86_400, key))
            connection.commit()


def make_unique(database: str, settings: Settings, column: str, table: str = RAW) -> None:
    """Makes a unique index of numbers, ``operators_own``, as an operator of the database does."""
    if database == "mongo":
        with MongoClient[Any](settings.mongo_host, settings.mongo_port) as client:
            known = {column: {"$type": "number"}}
            client[settings.mongo_name][table].create_index(
                column, name="operators_own", unique=True, partialFilterExpression=known
            )
    else:
        with closing(connected(settings)) as connection:
            connection.cursor().execute(f"ALTER TABLE {table} ADD UNIQUE INDEX operators_own (`{column}`)")
