"""The two JetStream streams of the ingest, made and kept up to date by whoever reads them.

``ingest-raw-datapoints`` is kept until the database has it, the dead letters until somebody looks after them. The subjects are
listed one by one: a stream over a wildcard that covers requests would answer them in place of the services.
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
from complex_system.messaging.subjects import DEAD_RAW_DATAPOINTS, INGEST_RAW_DATAPOINTS
from complex_system.settings import Settings

log = logging.getLogger(__name__)

STREAM = "INGEST_RAW_DATAPOINTS"
DEAD_STREAM = "INGEST_DEAD_LETTERS"
CONSUMER = "database"
"""The durable consumer; the replicas of the database service share it."""

ACK_WAIT = 30.0
"""Seconds after which a message goes to another replica, unless who has it says that it is at work."""

_SECONDS = 5.0
_NO_JETSTREAM = {10039, 10076}  # not enabled for the account, not enabled


@dataclass(frozen=True)
class IngestCounts:
    """What the streams hold.

    Attributes:
        waiting: Messages that no replica has taken yet.
        in_flight: Messages that a replica has taken and not acknowledged.
        dead: Dead letters.
    """

    waiting: int
    in_flight: int
    dead: int


class IngestStreams:
    """Makes streams and consumer, and counts what they hold."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._address = f"{settings.nats_host}:{settings.nats_port}"
        self.context: JetStreamContext = client.jetstream(timeout=_SECONDS)

    async def ensure(self) -> None:
        """Makes streams and consumer, or changes them to what the settings say; what is right already is left alone.

        Raises:
            NobodyListensError: JetStream is not there, or refuses; the sentence says what to do.
        """
        settings = self._settings
        try:
            await self._ensure_stream(
                StreamConfig(
                    name=DEAD_STREAM,
                    subjects=[DEAD_RAW_DATAPOINTS.name, f"{DEAD_RAW_DATAPOINTS.name}.>"],
                    retention=RetentionPolicy.LIMITS,
                    # A full one forgets its oldest: dead letters must never hold up the living.
                    discard=DiscardPolicy.OLD,
                    max_bytes=settings.ingest_dead_bytes,
                    max_age=settings.ingest_dead_age,
                    duplicate_window=_window(settings, settings.ingest_dead_age),
                    storage=StorageType.FILE,
                    num_replicas=settings.ingest_replicas,
                )
            )
            await self._ensure_stream(
                StreamConfig(
                    name=STREAM,
                    subjects=[INGEST_RAW_DATAPOINTS.name, f"{INGEST_RAW_DATAPOINTS.name}.>"],
                    # A message goes when it is acknowledged, so the limits are limits of what waits for the database.
                    retention=RetentionPolicy.WORK_QUEUE,
                    # A full stream refuses what comes, so that a publisher who waits learns of it, and drops nothing it has taken.
                    discard=DiscardPolicy.NEW,
                    max_bytes=settings.ingest_bytes,
                    max_age=settings.ingest_age,
                    duplicate_window=_window(settings, settings.ingest_age),
                    storage=StorageType.FILE,
                    num_replicas=settings.ingest_replicas,
                )
            )
            await self._ensure_consumer()
        except (NatsError, TimeoutError) as error:
            raise self.explained(error) from error

    async def counts(self) -> IngestCounts:
        """What the streams hold at the moment.

        Raises:
            NobodyListensError: JetStream does not answer, or has no such streams.
        """
        try:
            consumer = await self.context.consumer_info(STREAM, CONSUMER)
            dead = await self.context.stream_info(DEAD_STREAM)
        except (NatsError, TimeoutError) as error:
            raise self.explained(error) from error
        return IngestCounts(consumer.num_pending or 0, consumer.num_ack_pending or 0, dead.state.messages)

    def explained(self, error: BaseException) -> NobodyListensError:
        """The error of a JetStream that is not there or refuses, as a sentence for whoever runs the broker."""
        if isinstance(error, NotFoundError):
            return NobodyListensError(
                f"The broker at {self._address} has no streams of the ingest; no database service made them."
            )
        if isinstance(error, APIError) and error.description and error.err_code not in _NO_JETSTREAM:
            return NobodyListensError(
                f"JetStream at {self._address} refuses the ingest: {error.description}. Its limits are COMPLEX_SYSTEM_INGEST_BYTES, "
                "COMPLEX_SYSTEM_INGEST_DEAD_BYTES and COMPLEX_SYSTEM_INGEST_REPLICAS, and max_file_store of the broker."
            )
        if isinstance(error, APIError | NoRespondersError | NoStreamResponseError):
            return NobodyListensError(
                f"The broker at {self._address} has no JetStream, so nothing keeps what is published on "
                f"'{INGEST_RAW_DATAPOINTS.name}': give it `jetstream {{ store_dir: ... }}`, or set COMPLEX_SYSTEM_INGEST=false."
            )
        if isinstance(error, NatsTimeoutError | TimeoutError):
            return NobodyListensError(f"JetStream at {self._address} does not answer within {_SECONDS:g} s.")
        return NobodyListensError(f"JetStream at {self._address} cannot be asked: {error or type(error).__name__}.")

    async def _ensure_stream(self, wanted: StreamConfig) -> None:
        assert wanted.name is not None
        try:
            there = (await self.context.stream_info(wanted.name)).config
        except NotFoundError:
            await self.context.add_stream(wanted)
            log.info("Stream %s made, for %s", wanted.name, ", ".join(wanted.subjects or []))
            return
        fields = _given(wanted)
        if differing := {name: value for name, value in fields.items() if getattr(there, name) != value}:
            # The rest, such as a placement, is the operator's.
            await self.context.update_stream(there.evolve(**differing))
            log.info("Stream %s changed: %s", wanted.name, ", ".join(differing))

    async def _ensure_consumer(self) -> None:
        wanted = ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            max_ack_pending=self._settings.ingest_ack_pending,
            max_deliver=-1,
        )
        try:
            there = (await self.context.consumer_info(STREAM, CONSUMER)).config
        except NotFoundError:
            there = None
        fields = _given(wanted)
        if there is None or any(getattr(there, name) != value for name, value in fields.items()):
            await self.context.add_consumer(STREAM, wanted)


def _window(settings: Settings, age: float) -> float:
    """The duplicate window of a stream; JetStream wants it no longer than messages are kept."""
    return min(settings.ingest_duplicate_window, age or settings.ingest_duplicate_window)


def _given(config: StreamConfig | ConsumerConfig) -> dict[str, Any]:
    """The fields that we decide."""
    ours = (
        ("subjects", "retention", "discard", "max_bytes", "max_age", "duplicate_window", "storage", "num_replicas")
        if isinstance(config, StreamConfig)
        else ("ack_policy", "ack_wait", "max_ack_pending", "max_deliver")
    )
    return {name: getattr(config, name) for name in ours}
