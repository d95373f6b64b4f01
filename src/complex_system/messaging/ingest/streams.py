"""The two JetStream streams of the ingest, created and kept up to date by their readers.

Messages on ``ingest-raw-datapoints`` are kept until the database has them, dead letters until somebody handles them. The subjects
are listed one by one: a stream over a wildcard that covers requests would answer them in place of the services.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from complex_system.errors import NobodyListensError
from complex_system.messaging.subjects import DEAD_RAW, INGEST_RAW
from complex_system.settings import Settings

log = logging.getLogger(__name__)

STREAM = "INGEST_RAW_DATAPOINTS"
DEAD_STREAM = "INGEST_DEAD_LETTERS"
CONSUMER = "database"
"""The durable consumer; the replicas of the database service share it."""

ACK_WAIT = 30.0
"""Seconds after which a message goes to another replica, unless its holder reports progress."""

ROOM_FOR_REASON = 16 * 1024
"""Bytes between the largest published message and the broker's limit, so that a dead letter has room for its headers."""

DUPLICATE_WINDOW = 0.1
"""Seconds within which the broker drops a message whose ``Nats-Msg-Id`` it has seen: the shortest that JetStream takes.

The broker compares the ids of all sources with each other, so devices that count 1, 2, 3 would lose messages to one another.
"""
MAX_WAITING = 1_000_000
"""Messages in the stream. As no more can be unacknowledged, the consumer needs no limit that refused messages could use up."""
MAX_DEAD = 100_000
"""Dead letters of all sources together, and so the number of sources that can have any."""

_DEAD_DUPLICATE_WINDOW = 120.0  # the ids of dead letters are ours
_SECONDS = 5.0
_NO_JETSTREAM = {10039, 10076}  # not enabled for the account, not enabled
_SHARE_IS_FULL = "maximum messages per subject exceeded"
_STREAM_IS_FULL = ("maximum messages exceeded", "maximum bytes exceeded")


class NoRoomError(NobodyListensError):
    """A stream has no room for a message; the publisher keeps it.

    Attributes:
        share: Whether only the share of the message's source is full.
    """

    def __init__(self, message: str, *, share: bool) -> None:
        super().__init__(message)
        self.share = share


@dataclass(frozen=True)
class StreamCounts:
    """Messages in the streams.

    Attributes:
        waiting: Messages that no replica has taken yet.
        in_flight: Messages that a replica has taken and not acknowledged.
        dead: Dead letters.
        stopped: Sources that have no room for another dead letter.
    """

    waiting: int
    in_flight: int
    dead: int
    stopped: tuple[str, ...] = ()


class IngestStreams:
    """Creates the streams and the consumer, and counts their messages."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._address = f"{settings.nats_host}:{settings.nats_port}"
        self.context: JetStreamContext = client.jetstream(timeout=_SECONDS)

    async def ensure(self) -> None:
        """Create streams and consumer, or change them to the settings; leave alone what is right already.

        Raises:
            NobodyListensError: JetStream is missing or refuses; the message says what to do.
        """
        settings = self._settings
        try:
            await ensure_stream(
                self.context,
                StreamConfig(
                    name=DEAD_STREAM,
                    subjects=[DEAD_RAW.name, f"{DEAD_RAW.name}.>"],
                    retention=RetentionPolicy.LIMITS,
                    # Full, it refuses further dead letters and drops none. Each source has a share, so that one cannot take all.
                    discard=DiscardPolicy.NEW,
                    discard_new_per_subject=True,
                    max_msgs_per_subject=settings.ingest_dead_share,
                    max_msgs=MAX_DEAD,
                    max_bytes=settings.ingest_dead_bytes,
                    max_age=settings.ingest_dead_age,
                    duplicate_window=min(_DEAD_DUPLICATE_WINDOW, settings.ingest_dead_age or _DEAD_DUPLICATE_WINDOW),
                    storage=StorageType.FILE,
                    num_replicas=settings.ingest_replicas,
                ),
            )
            await ensure_stream(
                self.context,
                StreamConfig(
                    name=STREAM,
                    subjects=[INGEST_RAW.name, f"{INGEST_RAW.name}.>"],
                    # An acknowledged message is deleted, so the limits apply to what waits for the database.
                    retention=RetentionPolicy.WORK_QUEUE,
                    # A full stream refuses new messages, which a publisher that waits is told, and drops nothing that it has accepted.
                    # The same for one source: what waits because its dead letters have no room must not fill the stream.
                    discard=DiscardPolicy.NEW,
                    discard_new_per_subject=True,
                    max_msgs_per_subject=settings.ingest_source_messages,
                    max_msgs=MAX_WAITING,
                    max_bytes=settings.ingest_bytes,
                    max_age=settings.ingest_age,
                    duplicate_window=DUPLICATE_WINDOW,
                    storage=StorageType.FILE,
                    num_replicas=settings.ingest_replicas,
                ),
            )
            await self._ensure_consumer()
        except (NatsError, TimeoutError) as error:
            raise self.explained(error) from error

    async def counts(self) -> StreamCounts:
        """Return the numbers of messages at the moment.

        Raises:
            NobodyListensError: JetStream does not answer, or has no such streams.
        """
        try:
            consumer = await self.context.consumer_info(STREAM, CONSUMER)
            stream = (await self.context.stream_info(STREAM)).state
            dead = await self.context.stream_info(DEAD_STREAM)
            share, stopped = self._settings.ingest_dead_share, tuple[str, ...]()
            if dead.state.messages >= share:
                counts = await _counts_by_subject(self.context, DEAD_STREAM)
                stopped = tuple(sorted(source_of(subject) for subject, count in counts.items() if count >= share))
        except (NatsError, TimeoutError) as error:
            raise self.explained(error) from error
        taken, delivered = consumer.num_ack_pending or 0, consumer.delivered
        # The consumer's own number of waiting messages follows a moment after the stream has acknowledged one to its sender. But the
        # stream may keep acknowledged messages where the broker's disk was full, and its sequence counts those that have expired.
        behind = stream.last_seq - (delivered.stream_seq if delivered else 0)
        return StreamCounts(max(0, min(stream.messages - taken, behind)), taken, dead.state.messages, stopped)

    def explained(self, error: BaseException) -> NobodyListensError:
        """Return the error for a JetStream that is missing or refuses, with a message for the operator of the broker."""
        if isinstance(error, NotFoundError):
            return NobodyListensError(
                f"The broker at {self._address} has no streams for the ingest; no database service has created them yet."
            )
        if isinstance(error, APIError) and error.description in (_SHARE_IS_FULL, *_STREAM_IS_FULL):
            share = error.description == _SHARE_IS_FULL
            return NoRoomError(
                f"JetStream at {self._address} has no room for the message"
                + (
                    ": too many of its source wait (COMPLEX_SYSTEM_INGEST_SOURCE_MESSAGES, or for dead letters "
                    "COMPLEX_SYSTEM_INGEST_DEAD_SHARE)."
                    if share
                    else f" ({error.description}). The limits are COMPLEX_SYSTEM_INGEST_BYTES and, for dead letters, "
                    "COMPLEX_SYSTEM_INGEST_DEAD_BYTES."
                ),
                share=share,
            )
        if isinstance(error, APIError) and error.description and error.err_code not in _NO_JETSTREAM:
            return NobodyListensError(
                f"JetStream at {self._address} refuses the ingest: {error.description}. Its limits are COMPLEX_SYSTEM_INGEST_BYTES, "
                "COMPLEX_SYSTEM_INGEST_DEAD_BYTES and COMPLEX_SYSTEM_INGEST_REPLICAS, and max_file_store of the broker."
            )
        if isinstance(error, APIError | NoRespondersError | NoStreamResponseError):
            return NobodyListensError(
                f"The broker at {self._address} has no JetStream, so nothing keeps messages published on "
                f"'{INGEST_RAW.name}': give it `jetstream {{ store_dir: ... }}`, or set COMPLEX_SYSTEM_INGEST=false."
            )
        if isinstance(error, NatsTimeoutError | TimeoutError):
            return NobodyListensError(f"JetStream at {self._address} does not answer within {_SECONDS:g} s.")
        return NobodyListensError(f"JetStream at {self._address} does not answer: {error or type(error).__name__}.")

    async def _ensure_consumer(self) -> None:
        wanted = ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            # Refused messages without room among the dead letters are unacknowledged for long; see MAX_WAITING.
            max_ack_pending=-1,
            max_deliver=-1,
        )
        try:
            there = (await self.context.consumer_info(STREAM, CONSUMER)).config
        except NotFoundError:
            there = None
        fields = _given(wanted)
        if there is None or any(getattr(there, name) != value for name, value in fields.items()):
            await self.context.add_consumer(STREAM, wanted)


async def ensure_stream(context: JetStreamContext, wanted: StreamConfig) -> None:
    """Create a stream, or change the fields that we set; the rest, such as the placement, belongs to the operator.

    Raises:
        NatsError: JetStream is missing, refuses, or does not answer.
    """
    assert wanted.name is not None
    try:
        there = (await context.stream_info(wanted.name)).config
    except NotFoundError:
        await context.add_stream(wanted)
        log.info("Created stream %s for %s", wanted.name, ", ".join(wanted.subjects or []))
        return
    fields = _given(wanted)
    if wanted.max_msgs_per_subject > 0 and not 0 < there.max_msgs_per_subject <= wanted.max_msgs_per_subject:
        # JetStream would delete messages beyond a limit that is introduced or lowered.
        limit = wanted.max_msgs_per_subject
        most = max((await _counts_by_subject(context, wanted.name)).values(), default=0)
        most += limit // 10  # some may arrive meanwhile
        if most > limit:
            fields["max_msgs_per_subject"] = max(there.max_msgs_per_subject, most)
            log.warning(
                "Stream %s holds too much of one source; the limit of %d is set at a later start", wanted.name, limit
            )
    if differing := {name: value for name, value in fields.items() if getattr(there, name) != value}:
        await context.update_stream(there.evolve(**differing))
        log.info("Changed stream %s: %s", wanted.name, ", ".join(differing))


async def _counts_by_subject(context: JetStreamContext, stream: str) -> dict[str, int]:
    return (await context.stream_info(stream, subjects_filter=">")).state.subjects or {}


def source_of(subject: str) -> str:
    """Return the part of a subject below the ingest's or the dead letters', which names the source; may be empty."""
    return subject.removeprefix(INGEST_RAW.name).removeprefix(DEAD_RAW.name).lstrip(".")


def _given(config: StreamConfig | ConsumerConfig) -> dict[str, Any]:
    """Return the fields that we set."""
    stream = (
        "subjects retention discard discard_new_per_subject max_msgs_per_subject max_msgs max_bytes max_age duplicate_window"
    )
    consumer = "ack_policy ack_wait max_ack_pending max_deliver"
    ours = f"{stream} storage num_replicas" if isinstance(config, StreamConfig) else consumer
    return {name: getattr(config, name) for name in ours.split()}
