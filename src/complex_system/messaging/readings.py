"""The JetStream stream of readings: created, read in order from any place on, and the place that the collection has reached.

Nothing is acknowledged message by message. The collection keeps a place behind everything that it still needs, and a new process
reads again from there. The stream is bounded by age and bytes; it drops the oldest readings and refuses no new one, since a sensor
does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    PersistMode,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    NoStreamResponseError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from complex_system.domain.collecting import Collecting
from complex_system.domain.things import covers
from complex_system.errors import NobodyListensError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.streams import ensure_stream
from complex_system.messaging.mqtt import MqttForwarder
from complex_system.messaging.pull import Pull, batches_of
from complex_system.settings import Settings

log = logging.getLogger(__name__)

STREAM = "READINGS"
CONSUMER = "thing_collection"
BUCKET = "thing_collection"
"""Bucket of the place; its stream is ``KV_<bucket>``."""
FASTIOT, PLAIN = "v1.thing", "things"
"""First parts of the subjects: of FastIoT's Things, and of readings as JSON, for instance from MQTT topics ``things/...``."""

_KEY = "place"
_SECONDS = 5.0
_TICK = 0.25
"""Seconds to wait for a reading, until open records are looked at."""
_IDLE = 300.0
"""Seconds after which the broker drops a consumer that nobody asks."""
_CLOCK_SECONDS = 30.0
"""Seconds after which the broker is asked for its time again."""


@dataclass(frozen=True)
class Batch:
    """Messages in the order of the stream.

    Attributes:
        messages: Empty where there was nothing new.
        now: A time on the broker's clock, seconds since 1970: every message that was stored before it has been returned by now.
        dropped: Messages that the stream had dropped before they were read.
    """

    messages: list[Msg]
    now: float
    dropped: int = 0


def subjects_of(collecting: Collecting) -> tuple[str, ...]:
    """Return the subjects that the stream stores: of the declared things in both forms, and of the labels' own."""
    things = tuple(f"{prefix}.{pattern}" for pattern in collecting.subscribed for prefix in (FASTIOT, PLAIN))
    kind, subject = collecting.label.source if collecting.label else ("thing", "")
    return things if kind == "thing" or any(covers(each, subject) for each in things) else (*things, subject)


class ReadingStream:
    """The stream, one reader of it, and its place.

    Attributes:
        behind: Messages in the stream that were not read yet, as far as known.
        is_gone: Whether the stream that was opened is no longer there; what was read of it can only begin again with a new one.
    """

    def __init__(self, connection: ServiceConnection, settings: Settings, subjects: Sequence[str]) -> None:
        """Prepare the reader without contacting the broker.

        Args:
            connection: The service's connection.
            settings: Limits of the stream, and the size of a batch.
            subjects: What the stream stores (:func:`subjects_of`).
        """
        self._connection, self._client = connection, connection.client
        self._settings, self._subjects = settings, list(subjects)
        self._address = f"{settings.nats_host}:{settings.nats_port}"
        self._context = connection.client.jetstream(timeout=_SECONDS)
        # A label's own subject is the laboratory's, which speaks NATS.
        forwarded = [each for each in subjects if each.startswith((f"{PLAIN}.", f"{FASTIOT}."))]
        self._mqtt = MqttForwarder(connection, settings, CONSUMER, forwarded, in_order=True) if settings.mqtt_port else None
        self._pull: Pull | None = None
        self._bucket: KeyValue | None = None
        self._next = 1  # the sequence number of the next message
        self._seen = 0
        self._delivered = 0  # the consumer's number of the last one
        self._created = ""
        self._stored = 0.0
        self._offset, self._asked = 0.0, float("-inf")
        self.behind = 0
        self.is_gone = False

    async def open(self) -> bytes | None:
        """Create or change the stream; return what was kept of it last, or None: nothing yet, or of another stream.

        Raises:
            NobodyListensError: JetStream is missing or refuses; the message says what to do.
        """
        settings = self._settings
        wanted = StreamConfig(
            name=STREAM, subjects=self._subjects, retention=RetentionPolicy.LIMITS, discard=DiscardPolicy.OLD,
            discard_new_per_subject=False, max_msgs_per_subject=-1, max_msgs=-1, max_bytes=settings.collect_bytes,
            max_age=settings.collect_age, duplicate_window=min(120.0, settings.collect_age), storage=StorageType.FILE,
            num_replicas=settings.ingest_replicas, persist_mode=None if settings.collect_durable else PersistMode.ASYNC,
        )  # fmt: skip
        try:
            await ensure_stream(self._context, wanted)
            if self._mqtt:
                await self._mqtt.ensure()
            found = await self._info()
            self._created = str(found["created"])
            self._next, self._seen, self.is_gone = max(1, found["state"]["first_seq"]), 0, False
            try:
                entry = await (await self._places()).get(_KEY)
            except KeyNotFoundError:
                return None
        except (NatsError, TimeoutError) as error:
            raise self._explained(error) from error
        kept = json.loads(entry.value or b"{}")
        if kept.get("stream") != self._created:
            log.warning("The stream %s is a new one: it is read from its begin on", STREAM)
            return None
        return msgspec.json.encode(kept["content"])

    def read_from(self, sequence: int, seen: int) -> None:
        """Begin again, before the first batch.

        Args:
            sequence: The first message to be read, or the first one that is there after it.
            seen: The last one that was read before; up to it, none counts as dropped.
        """
        self._next, self._seen = max(1, sequence), seen

    async def keep(self, content: bytes) -> None:
        """Keep the place, and what belongs to it, as one entry: JSON.

        Raises:
            NobodyListensError: It is not known whether the broker has it.
        """
        entry = b'{"stream":%s,"content":%s}' % (msgspec.json.encode(self._created), content)
        try:
            await (await self._places()).put(_KEY, entry)
        except (NatsError, TimeoutError) as error:
            self._bucket = None
            raise self._explained(error) from error

    async def next(self, stopping: asyncio.Event) -> Batch:
        """Return the next messages, after a moment none if there are none.

        Raises:
            NobodyListensError: The broker does not deliver. The next call goes on behind the last returned message.
        """
        try:
            if time.monotonic() - self._asked > _CLOCK_SECONDS:
                await self._info()
            pull = self._pull or await self._opened()
            before = time.monotonic()
            messages = await pull.next(stopping)
        except (NatsError, TimeoutError) as error:
            await self.close()
            raise self._explained(error) from error
        if not messages:
            self.behind = 0
            # The broker had nothing more when it was asked, so by its clock at that moment everything was returned.
            return Batch([], max(self._stored, before + self._offset))
        good, dropped = await self._in_order(messages)
        if self._mqtt:
            good = [message for message in good if not self._mqtt.is_copy(message)]
        return Batch(good, self._stored, dropped)

    async def forward(self, stopping: asyncio.Event) -> float:
        """Bring readings of MQTT clients into the stream until ``stopping`` is set; return seconds to wait until it is open.

        Raises:
            NobodyListensError: The broker does not deliver or accept.
        """
        if self._mqtt and self._created:
            await self._mqtt.run(stopping)
        return _TICK

    async def close(self) -> None:
        """End the reader; the place stays."""
        if self._pull is not None:
            pull, self._pull = self._pull, None
            await pull.close()

    async def _in_order(self, messages: list[Msg]) -> tuple[list[Msg], int]:
        """Return messages up to the first one before which another one is missing; that one is read again."""
        dropped = 0
        for place, message in enumerate(messages):
            metadata = message.metadata
            if metadata.sequence.consumer != self._delivered + 1:
                log.warning("A batch of readings was lost on its way; it is read again from %d on", self._next)
                await self.close()
                return messages[:place], dropped
            self._delivered += 1
            dropped += max(0, metadata.sequence.stream - max(self._next, self._seen + 1))
            self._next = metadata.sequence.stream + 1
            self._stored = max(self._stored, metadata.timestamp.timestamp())
        self.behind = messages[-1].metadata.num_pending
        if dropped:
            log.warning("The stream %s had dropped %d messages before they were read", STREAM, dropped)
        return messages, dropped

    async def _opened(self) -> Pull:
        """Return a reader that begins with the next message: a consumer of its own, without state worth keeping."""
        if str((await self._info())["created"]) != self._created:
            raise NotFoundError
        with contextlib.suppress(NotFoundError):
            await self._context.delete_consumer(STREAM, CONSUMER)
        await self._context.add_consumer(
            STREAM,
            ConsumerConfig(
                name=CONSUMER, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._next,
                ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=_IDLE,
            ),
        )  # fmt: skip
        self._delivered = 0
        pull = Pull(
            self._client, self._settings.collect_batch, 2 * self._connection.max_payload,
            batches_of(STREAM, CONSUMER), expires=_TICK, acknowledged=False,
        )  # fmt: skip
        await pull.open()
        self._pull = pull
        return pull

    async def _info(self) -> dict[str, Any]:
        """Return what the broker says of the stream; it also says what time it is."""
        reply = await self._client.request(f"$JS.API.STREAM.INFO.{STREAM}", timeout=_SECONDS)
        found: dict[str, Any] = json.loads(reply.data)
        if "error" in found:
            APIError.from_error(found["error"])
        self._asked = time.monotonic()
        # Measured after the reply, so the clock is rather behind the broker's than ahead of it.
        self._offset = datetime.fromisoformat(found["ts"]).timestamp() - self._asked
        return found

    def _explained(self, error: BaseException) -> NobodyListensError:
        """Return the error for a JetStream that is missing or refuses, with a message for the operator of the broker."""
        if isinstance(error, NotFoundError):
            self.is_gone = True
            return NobodyListensError(f"The stream {STREAM} at {self._address} is not there any more; it is created again.")
        if isinstance(error, NoRespondersError | NoStreamResponseError | ServiceUnavailableError):
            return NobodyListensError(
                f"The broker at {self._address} has no JetStream, so nothing keeps readings: give it `jetstream {{ store_dir: ... }}`."
            )
        if isinstance(error, APIError):
            return NobodyListensError(
                f"JetStream at {self._address} refuses the stream {STREAM}: {error.description}. Its limits are "
                "COMPLEX_SYSTEM_COLLECT_BYTES, COMPLEX_SYSTEM_COLLECT_AGE and max_file_store of the broker."
            )
        return NobodyListensError(f"JetStream at {self._address} does not answer: {str(error) or type(error).__name__}.")

    async def _places(self) -> KeyValue:
        if self._bucket is None:
            try:
                self._bucket = await self._context.key_value(BUCKET)
            except BucketNotFoundError:
                self._bucket = await self._context.create_key_value(
                    KeyValueConfig(
                        bucket=BUCKET, history=1, storage=StorageType.FILE, replicas=self._settings.ingest_replicas
                    )
                )
        return self._bucket
