"""A replica set for tests: a member that answers MongoDB's wire protocol with the errors that a test wants.

No replica set can be installed from the registries. What drivers ask a member for (``hello``, ``buildInfo``) is answered here; every
other command goes to the server behind, without the session and transaction number that only members know.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import bson

Document = dict[str, Any]

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_NAME = "rs0"


@dataclass(frozen=True)
class Failure:
    """An error that writes into a collection are answered with.

    Attributes:
        code: MongoDB's number.
        place: Whether the whole command fails, each document, or, after it was written, its replication.
        key: Only the documents whose key contains it; every one by default.
        label: An error label for drivers; may be empty.
    """

    code: int
    place: Literal["command", "documents", "concern"] = "command"
    key: str = ""
    label: str = ""


class ReplicaSet:
    """The primary of a set of one.

    Attributes:
        failure: The error that inserts into ``failing`` get at the moment; None for none.
        failing: The end of the collection's name.
        answered: How many inserts got it.
        concerns: The write concerns that inserts asked for.
    """

    def __init__(self, behind: int) -> None:
        self.failure: Failure | None = None
        self.failing = ""
        self.answered = 0
        self.concerns: list[Document] = []
        self.port = 0
        self._behind = behind
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, there = await asyncio.open_connection("127.0.0.1", self._behind)
        self._writers |= {writer, there}
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    number, operation, payload = await _message(reader)
                    if operation == _OP_QUERY:  # the first hello of a connection
                        reply = bson.encode(self._hello())
                        writer.write(_framed(number, _OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + reply))
                    else:
                        body, rest = _parsed(payload)
                        writer.write(_framed(number, _OP_MSG, _packed(await self._answer(body, rest, behind, there))))
                    await writer.drain()
        finally:
            self._writers -= {writer, there}
            writer.transport.abort()
            there.transport.abort()

    async def _answer(
        self, body: Document, rest: bytes, behind: asyncio.StreamReader, there: asyncio.StreamWriter
    ) -> Document:
        command = next(iter(body))
        if command.lower() in ("hello", "ismaster"):
            return self._hello()
        if command == "buildInfo":
            return {"version": "7.0.0", "versionArray": [7, 0, 0, 0], "maxBsonObjectSize": 16 * 2**20, "ok": 1.0}
        if command == "insert":
            self.concerns.append(body.get("writeConcern", {}))
        failure = self.failure if command == "insert" and body[command].endswith(self.failing) else None
        documents = _documents(rest) if failure else []
        bad = [place for place, each in enumerate(documents) if failure and failure.key in str(each["_id"])]
        if failure is None or not bad:
            return await self._forwarded(body, rest, behind, there)
        self.answered += 1
        said = {"code": failure.code, "errmsg": f"error {failure.code} of the test"}
        labels = {"errorLabels": [failure.label]} if failure.label else {}
        if failure.place == "command":
            return {"ok": 0.0, **said, **labels}
        if failure.place == "concern":
            return {**await self._forwarded(body, rest, behind, there), "writeConcernError": said, **labels}
        good, reply = [place for place in range(len(documents)) if place not in bad], {"ok": 1.0, "n": 0}
        if good:
            reply = await self._forwarded(body, _section([documents[place] for place in good]), behind, there)
        errors = [{**each, "index": good[each["index"]]} for each in reply.get("writeErrors", [])]
        errors += [{"index": place, **said} for place in bad]
        return {**reply, "writeErrors": sorted(errors, key=lambda each: int(each["index"])), **labels}

    async def _forwarded(
        self, body: Document, rest: bytes, behind: asyncio.StreamReader, there: asyncio.StreamWriter
    ) -> Document:
        known = {name: value for name, value in body.items() if name not in ("lsid", "txnNumber", "$clusterTime")}
        there.write(_framed(1, _OP_MSG, _packed(known) + rest))
        await there.drain()
        _, _, payload = await _message(behind)
        return _parsed(payload)[0]

    def _hello(self) -> Document:
        address = f"127.0.0.1:{self.port}"
        return {
            "isWritablePrimary": True, "ismaster": True, "helloOk": True, "setName": _NAME, "setVersion": 1, "secondary": False,
            "hosts": [address], "primary": address, "me": address, "maxBsonObjectSize": 16 * 2**20, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "localTime": datetime.now(UTC), "logicalSessionTimeoutMinutes": 30, "connectionId": 1,
            "minWireVersion": 0, "maxWireVersion": 21, "readOnly": False, "ok": 1.0,
        }  # fmt: skip


@asynccontextmanager
async def replica_set(behind: int) -> AsyncIterator[ReplicaSet]:
    """A replica set in front of a server on loopback."""
    made = ReplicaSet(behind)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def _message(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    length, number, _, operation = struct.unpack("<iiii", await reader.readexactly(16))
    return number, operation, await reader.readexactly(length - 16)


def _framed(number: int, operation: int, payload: bytes) -> bytes:
    return struct.pack("<iiii", 16 + len(payload), number, number, operation) + payload


def _packed(body: Document) -> bytes:
    return struct.pack("<I", 0) + b"\0" + bson.encode(body)


def _parsed(payload: bytes) -> tuple[Document, bytes]:
    """The body of an OP_MSG, and its other sections as they came."""
    (flags,) = struct.unpack_from("<I", payload)
    assert flags & 1 == 0, "checksums are not understood"
    place, body, rest = 4, b"", b""
    while place < len(payload):
        kind = payload[place]
        (size,) = struct.unpack_from("<i", payload, place + 1)
        if kind == 0:
            body = payload[place + 1 : place + 1 + size]
        else:
            rest += payload[place : place + 1 + size]
        place += 1 + size
    return bson.decode(body), rest


def _section(documents: list[Document]) -> bytes:
    """An insert's section of documents."""
    content = b"documents\0" + b"".join(map(bson.encode, documents))
    return b"\1" + struct.pack("<i", 4 + len(content)) + content


def _documents(rest: bytes) -> list[Document]:
    """The documents of an insert's section, which has a size and a name before them."""
    return bson.decode_all(rest[rest.index(b"\0", 5) + 1 :])
