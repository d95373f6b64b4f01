"""Snapshots of the ingest's streams, as JetStream itself makes and restores them, in the files that ``nats stream restore`` reads.

Reading the messages and publishing them again would not do: records without a key get theirs from a message's number and time in the
stream, and the broker would drop messages of different sources that have the same ``Nats-Msg-Id``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from complex_system.errors import BackupError, ComplexSystemError, NobodyListensError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.streams import DEAD_STREAM, STREAM
from complex_system.messaging.subjects import reply_subject
from complex_system.messaging.things import to_thing
from complex_system.protocol.base import Empty
from complex_system.protocol.database import GET_COUNTS
from complex_system.settings import Settings

STREAMS = (STREAM, DEAD_STREAM)
"""The streams that a backup holds."""

_CHUNK = 128 * 1024
_SECONDS = 30.0
_PATIENCE = 10.0
_ABOUT, _CONTENT = "backup.json", "stream.tar.s2"
_NOT_FOUND = 404


class _Error(msgspec.Struct):
    code: int = 0
    description: str = ""


class _State(msgspec.Struct):
    messages: int = 0


class _Answer(msgspec.Struct):
    """What JetStream answers."""

    error: _Error | None = None
    config: msgspec.Raw = msgspec.Raw(b"null")
    state: msgspec.Raw = msgspec.Raw(b"null")
    deliver_subject: str = ""

    @property
    def messages(self) -> int:
        """Messages in the stream."""
        return msgspec.json.decode(self.state, type=_State).messages


class StreamSnapshots:
    """Makes and restores snapshots over one connection.

    Every method raises ``NobodyListensError`` where JetStream does not answer, and ``BackupError`` where it refuses.
    """

    def __init__(self, connection: ServiceConnection, address: str) -> None:
        self._connection = connection
        self._client: Client = connection.client
        self._address = address

    @classmethod
    async def open(cls, settings: Settings) -> StreamSnapshots:
        """Connect to the broker of the settings."""
        address = f"{settings.nats_host}:{settings.nats_port}"
        try:
            connection = await ServiceConnection.open(settings, "backup", patience=_PATIENCE)
        except TimeoutError as error:
            raise NobodyListensError(
                f"No broker at {address} accepts a connection within {_PATIENCE:g} s (user '{settings.nats_user}')."
            ) from error
        return cls(connection, address)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def is_answered(self) -> bool:
        """Return whether a database service answers at the moment."""
        try:
            await self._connection.request(reply_subject(GET_COUNTS), to_thing(Empty(), "Backup"), _PATIENCE)
        except NobodyListensError:
            return False
        except ComplexSystemError:
            return True
        return True

    async def messages(self, stream: str) -> int | None:
        """Return the number of messages in a stream; None where there is no such stream."""
        answer = await self._ask(f"STREAM.INFO.{stream}", b"")
        if answer.error is not None and answer.error.code == _NOT_FOUND:
            return None
        return self._good(answer, stream).messages

    async def save(self, stream: str, folder: Path) -> int:
        """Save a stream into a folder; return the number of its messages.

        It is saved without its consumer, which the database service creates again: what that has not acknowledged is still in the
        stream, and is delivered at once.
        """
        folder.mkdir(parents=True)  # noqa: ASYNC240 - a command, which does nothing else meanwhile
        chunks: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=chunks.put, pending_msgs_limit=-1, pending_bytes_limit=-1)
        try:
            wanted = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": _CHUNK, "jsck": True}
            answer = self._good(await self._ask(f"STREAM.SNAPSHOT.{stream}", msgspec.json.encode(wanted)), stream)
            (folder / _ABOUT).write_bytes(msgspec.json.encode({"config": answer.config, "state": answer.state}))
            with (folder / _CONTENT).open("wb") as file:
                while True:
                    async with asyncio.timeout(_SECONDS):
                        chunk = await chunks.get()
                    if not chunk.data:
                        self._complain(stream, chunk.headers or {})
                        break
                    file.write(chunk.data)
                    if chunk.reply:  # the broker sends on when it hears that this has arrived
                        await self._client.publish(chunk.reply)
        except (NatsError, TimeoutError) as error:
            raise self._silent(error) from error
        finally:
            await subscription.unsubscribe()
        return answer.messages

    async def restore(self, stream: str, folder: Path) -> None:
        """Create a stream as it was saved; where there is an empty one, this takes its place."""
        about = (folder / _ABOUT).read_bytes()
        if await self.messages(stream) == 0:
            await self.delete(stream)
        answer = self._good(await self._ask(f"STREAM.RESTORE.{stream}", about), stream)
        try:
            for chunk in _chunks(folder / _CONTENT):
                self._good(_decoded(await self._client.request(answer.deliver_subject, chunk, timeout=_SECONDS)), stream)
            self._good(_decoded(await self._client.request(answer.deliver_subject, b"", timeout=_SECONDS)), stream)
        except (NatsError, TimeoutError) as error:
            raise self._silent(error) from error

    async def delete(self, stream: str) -> None:
        """Delete a stream, if it is there."""
        answer = await self._ask(f"STREAM.DELETE.{stream}", b"")
        if answer.error is None or answer.error.code != _NOT_FOUND:
            self._good(answer, stream)

    async def _ask(self, what: str, payload: bytes) -> _Answer:
        try:
            return _decoded(await self._client.request(f"$JS.API.{what}", payload, timeout=_SECONDS))
        except (NatsError, TimeoutError) as error:
            raise self._silent(error) from error

    def _good(self, answer: _Answer, stream: str) -> _Answer:
        if answer.error is not None:
            raise BackupError(f"JetStream at {self._address} refuses the stream {stream}: {answer.error.description}.")
        return answer

    def _complain(self, stream: str, headers: dict[str, Any]) -> None:
        """Raise an error if the end of a snapshot says that it is none."""
        if headers.get("Status", "").startswith(("4", "5")):
            reason = headers.get("Description", headers["Status"])
            raise BackupError(f"JetStream at {self._address} gave up the snapshot of {stream}: {reason}.")

    def _silent(self, error: BaseException) -> NobodyListensError:
        reason = str(error) or type(error).__name__
        return NobodyListensError(f"JetStream at {self._address} does not answer: {reason.removeprefix('nats: ')}.")


def _decoded(message: Msg) -> _Answer:
    return msgspec.json.decode(message.data, type=_Answer) if message.data else _Answer()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
