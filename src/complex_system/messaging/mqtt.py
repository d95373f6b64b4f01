"""MQTT at the broker: its listener, and messages with quality of service on their way into the streams of the system.

NATS delivers a message of an MQTT client to its subscribers and to streams without waiting for them. It acknowledges the message
(PUBACK) when its own stream ``$MQTT_msgs`` has it, and that stream keeps only what a consumer has an interest in. So an acknowledged
message is safe in one place only, if a durable consumer was there. Such a consumer is read here, and each message is published on its
own subject with the acknowledgement of the stream that stores it. What the broker delivered to that stream beside it is a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    Header,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from complex_system.errors import StartError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.publisher import ORDER_HEADER
from complex_system.messaging.ingest.streams import MAX_WAITING, IngestStreams, NoRoomError, ensure_stream
from complex_system.messaging.pull import Pull, batches_of
from complex_system.settings import Settings

log = logging.getLogger(__name__)

STREAM = "$MQTT_msgs"
"""NATS's own stream of messages with quality of service 1 and 2."""
PORT_VARIABLE = "COMPLEX_SYSTEM_MQTT_PORT"

_PREFIX = "$MQTT.msgs."
"""What NATS puts before the subject of a message in its stream."""
_QUALITY = "Nmqtt-Pub"
"""Header of what came by MQTT: its quality of service. A forwarded message has none."""
_ACK_WAIT = 2.0
"""Seconds after which the broker delivers again what was not acknowledged."""
_ROOM_FOR_HEADERS = 1024
_AGAIN, _AGAIN_LATEST = 1.0, 300.0
"""Seconds until a message is tried again; the longer the more often its stream had no room: thousands of a device may wait."""


def mqtt_port(environment: Mapping[str, str]) -> int:
    """Return the port for MQTT; 0 where there is none.

    Raises:
        StartError: It is not a port number.
    """
    value = environment.get(PORT_VARIABLE) or "0"
    if not value.isdigit() or int(value) > 65535:
        raise StartError(f"{PORT_VARIABLE} must be a port number, not '{value}'.")
    return int(value)


def mqtt_listener(host: str, port: int, tls: str = "") -> str:
    """Return the section ``mqtt`` of NATS's configuration; its users are those of the broker.

    Args:
        host: Address to listen at.
        port: Port to listen on.
        tls: The section ``tls`` of the broker's own listener, or empty.
    """
    return "\n".join(["mqtt {", f'  listen: "{host}:{port}"', *([f"  {tls}"] if tls else []), "}"]) + "\n"


class MqttForwarder:
    """Publishes acknowledged MQTT messages on subjects that a stream of ours stores, each until that stream has it.

    A message may be published twice, after a failure in between; its ``Nats-Msg-Id`` is the same.

    Attributes:
        problem: Why nothing is forwarded at the moment; empty if everything works.
        forwarded: Messages forwarded so far.
    """

    def __init__(
        self,
        connection: ServiceConnection,
        settings: Settings,
        consumer: str,
        subjects: Sequence[str],
        *,
        in_order: bool = False,
    ) -> None:
        """Prepare the forwarder without contacting the broker.

        Args:
            connection: The service's connection.
            settings: Limits.
            consumer: Name of the durable consumer, which the replicas of a service share.
            subjects: What is forwarded, for instance ``things.>``.
            in_order: Whether no message overtakes another one, also after a failure. Then one process may forward at a time.
        """
        self._connection, self._client, self._settings = connection, connection.client, settings
        self._consumer, self._subjects = consumer, tuple(subjects)
        self._streams = IngestStreams(self._client, settings)
        self._context = self._streams.context
        self._in_order = in_order
        self._delivered = 0  # the consumer's number of the last delivery
        self._since: datetime | None = None
        self.problem = ""
        self.forwarded = 0

    async def ensure(self) -> None:
        """Create the durable consumer, and before the first MQTT client comes its stream; or change them to the settings.

        The stream refuses what has no room instead of growing without bound: the client then gets no PUBACK, and repeats the message.

        Raises:
            NobodyListensError: JetStream is missing or refuses.
        """
        settings = self._settings
        stream = StreamConfig(
            name=STREAM, subjects=[f"{_PREFIX}>"], retention=RetentionPolicy.INTEREST, discard=DiscardPolicy.NEW,
            discard_new_per_subject=True, max_msgs_per_subject=settings.ingest_source_messages, max_msgs=MAX_WAITING,
            max_bytes=settings.ingest_bytes, max_age=settings.ingest_age, duplicate_window=120.0, storage=StorageType.FILE,
            num_replicas=settings.ingest_replicas,
        )  # fmt: skip
        wanted = ConsumerConfig(
            name=self._consumer, durable_name=self._consumer, filter_subjects=[_PREFIX + each for each in self._subjects],
            ack_policy=AckPolicy.EXPLICIT, ack_wait=_ACK_WAIT, max_ack_pending=-1, max_deliver=-1,
        )  # fmt: skip
        try:
            await ensure_stream(self._context, stream)
            try:
                there = await self._context.consumer_info(STREAM, self._consumer)
            except NotFoundError:
                there = await self._context.add_consumer(STREAM, wanted)
                log.info("Created consumer %s of %s for %s", self._consumer, STREAM, ", ".join(self._subjects))
            if set(there.config.filter_subjects or []) != set(wanted.filter_subjects or []):
                there = await self._context.add_consumer(STREAM, wanted)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error
        self._since = there.created

    def is_copy(self, message: Msg) -> bool:
        """Return whether the forwarder brings this message as well, once :meth:`ensure` was there.

        What a stream stored before the durable consumer existed comes this way only.
        """
        if self._since is None or (message.headers or {}).get(_QUALITY, "0") == "0":
            return False
        return message.metadata.timestamp >= self._since

    async def waiting(self) -> int:
        """Return the number of messages that are not forwarded yet.

        Raises:
            NobodyListensError: JetStream does not answer.
        """
        try:
            consumer = await self._context.consumer_info(STREAM, self._consumer)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error
        return (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)

    async def run(self, stopping: asyncio.Event) -> None:
        """Forward until ``stopping`` is set.

        Raises:
            NobodyListensError: The broker does not deliver or accept; what was not forwarded is delivered again.
        """
        pull = Pull(
            self._client,
            self._settings.ingest_messages,
            2 * self._connection.max_payload,
            batches_of(STREAM, self._consumer),
        )
        await pull.open()
        try:
            if self._in_order:
                await self._begin_in_order(stopping)
            while not stopping.is_set():
                messages = await pull.next(stopping)
                self._check_order(messages)
                await self._forward_all(messages)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error
        finally:
            await pull.close()

    async def _begin_in_order(self, stopping: asyncio.Event) -> None:
        """Wait until what was delivered and not acknowledged is delivered again, which is in order and before anything new."""
        if (await self._context.consumer_info(STREAM, self._consumer)).num_ack_pending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _ACK_WAIT + 0.5)
        delivered = (await self._context.consumer_info(STREAM, self._consumer)).delivered
        self._delivered = delivered.consumer_seq if delivered else 0

    def _check_order(self, messages: list[Msg]) -> None:
        for message in messages if self._in_order else ():
            if message.metadata.sequence.consumer != self._delivered + 1:
                raise NatsError("a delivery was lost on its way, and is waited for")
            self._delivered += 1

    async def _forward_all(self, messages: list[Msg]) -> None:
        outcomes = await asyncio.gather(*(self._forward(each) for each in messages), return_exceptions=True)
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        full = next((each.message for each in failures if isinstance(each, NoRoomError)), "")
        if full and full != self.problem:
            log.warning("MQTT messages wait: %s", full)
        self.problem = full
        for failure in failures:
            if not isinstance(failure, NoRoomError):
                raise failure

    async def _forward(self, message: Msg) -> None:
        """Publish a message on its own subject, and acknowledge it when a stream has it."""
        taken = message.metadata.timestamp
        headers = {
            # With the time: a stream that was made anew counts from 1 again.
            Header.MSG_ID.value: f"{STREAM}-{message.metadata.sequence.stream}-{taken.isoformat()}",
            ORDER_HEADER: str(taken.timestamp()),
        }
        # Without room for these headers it is too large in any case, and whoever reads it says so.
        payload = message.data[: self._connection.max_payload - _ROOM_FOR_HEADERS]
        try:
            await self._context.publish(message.subject.removeprefix(_PREFIX), payload, headers=headers)
        except (NatsError, TimeoutError) as error:
            reason = self._streams.explained(error)
            if isinstance(reason, NoRoomError):
                tries = (message.metadata.num_delivered or 1) - 1
                with contextlib.suppress(NatsError):  # without a connection, _ACK_WAIT expires
                    await message.nak(delay=min(_AGAIN * 2 ** min(tries, 10), _AGAIN_LATEST))
            raise reason from error
        await message.ack()
        self.forwarded += 1
