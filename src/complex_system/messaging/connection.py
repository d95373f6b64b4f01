"""FastIoT's NATS connection with what a production system needs beyond it.

Reply subscriptions join a queue group, so replicas share the work; handlers run side by side in a bounded number of tasks; a
handler always answers, whatever happens in it; requests go through the connection's shared inbox and fail at once when
nobody listens; the connection comes back by itself, without limit while no broker answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from fastiot.core.broker_connection import NatsBrokerConnection, NatsBrokerSubscription
from fastiot.core.data_models import ReplySubject, Subject
from fastiot.msg import Thing
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError, SlowConsumerError
from nats.errors import TimeoutError as NatsTimeoutError

from complex_system.errors import BusyError, InvalidRequestError, NobodyListensError, ReplyTimeoutError, TooLargeError
from complex_system.messaging.codec import serialize_from_bin, serialize_to_bin
from complex_system.messaging.errors import error_value, to_thing
from complex_system.messaging.nats_client import EncryptedClient, ServiceClient
from complex_system.messaging.reply_box import ReplyBox
from complex_system.messaging.workers import Workers
from complex_system.settings import Settings

log = logging.getLogger(__name__)

Handler = Callable[[Thing], Awaitable[Thing | None]]

WAITING_MESSAGES = 4096
"""Messages that may wait for a handler, per subject; a request above that is refused, an event dropped."""
WAITING_BYTES = 64 * 1024 * 1024
"""The same in bytes."""
_SECONDS_BETWEEN_WARNINGS = 10.0

DRAIN_SECONDS = 10.0
"""How long a service that ends goes on answering the requests that it has taken."""
CLOSE_SECONDS = 5.0
"""How long it waits for a broker that takes nothing more."""
STUCK_SECONDS = 15.0
"""Seconds without an attempt to connect after which nats-py, which makes one every few seconds, is taken to hang."""
_CHECK_INTERVAL = 0.5
"""Seconds between two checks of the connection."""


class _ConnectionLostError(NatsError):
    """What a request gets that waits for its reply when the connection goes."""


class _DrainingSubscription(NatsBrokerSubscription):
    """A subscription that ends after the messages that came: nats-py's own unsubscribe throws them away."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    @property
    def subject(self) -> str:
        """Name of the subject that it is on."""
        return str(self._subscription.subject)

    async def unsubscribe(self) -> None:
        client = self._subscription._conn
        if not client.is_connected:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._subscription.drain()
        except (NatsError, TimeoutError) as error:
            log.warning("Messages on '%s' may be left unanswered: %s", self._subscription.subject, error or "no time left")
        await self._workers.end()


class ServiceConnection(NatsBrokerConnection):
    """The connection of one service."""

    def __init__(self, client: ServiceClient, name: str, handler_tasks: int) -> None:
        super().__init__(client=client)
        self._name = name
        self._handler_tasks = handler_tasks
        self._replies = ReplyBox(client)
        self._running: set[asyncio.Task[None]] = set()
        self._workers: list[Workers] = []
        self._closing = False
        self._warned = float("-inf")
        self._supervisor: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        """Set when the connection does not come back and the service has to be started again."""
        self.lost_reason = ""

    @classmethod
    async def open(cls, settings: Settings, name: str, patience: float | None = None) -> ServiceConnection:
        """Connects, and waits for the broker as long as it takes, saying so in the log.

        Args:
            settings: Where the broker is and who we are.
            name: snake_case name of the service; its replicas share it, it names the queue group.
            patience: Seconds after which it gives up with ``TimeoutError``; None for never.
        """
        client = EncryptedClient() if settings.nats_tls_ca else ServiceClient()
        connection = cls(client, name, settings.handler_tasks)
        address = f"{settings.nats_host}:{settings.nats_port}"
        waiting = False

        async def on_error(error: Exception) -> None:
            nonlocal waiting
            if isinstance(error, SlowConsumerError):
                await connection._refuse(error)
            elif not client.is_connected and not waiting:
                waiting = True
                log.warning("Waiting for the broker at %s: %s", address, error or type(error).__name__)
            elif client.is_connected:
                log.warning("Broker: %s", error or type(error).__name__)

        async def on_disconnect() -> None:
            # The broker forgets who waits for which reply, so none of these can come any more.
            connection._replies.fail(_ConnectionLostError())
            for reply in list(client._resp_map.values()):
                if not reply.done():
                    reply.set_exception(_ConnectionLostError())
            if not connection._closing:
                log.warning("The broker at %s is away", address)

        async def on_reconnect() -> None:
            nonlocal waiting
            waiting = False
            log.info("The broker at %s is back", address)

        async def on_close() -> None:
            connection._lose(f"The connection to the broker at {address} was closed: {client.last_error}")

        options: dict[str, Any] = {}
        if settings.nats_user:
            options |= {"user": settings.nats_user, "password": settings.nats_password}
        if settings.nats_tls_ca:
            options["tls"] = ssl.create_default_context(cafile=settings.nats_tls_ca)
        async with asyncio.timeout(patience):
            await client.connect(
                f"nats://{address}",
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                closed_cb=on_close,
                **options,
            )
        connection._supervisor = asyncio.create_task(connection._supervise(address, settings.reconnect_timeout))
        return connection

    @property
    def connected(self) -> bool:
        """Whether the broker is there at the moment."""
        return bool(self._client.is_connected)

    @property
    def client(self) -> Client:
        """nats-py's client, for what only it can do (JetStream)."""
        return self._client

    @property
    def max_payload(self) -> int:
        """Bytes that the broker takes in one message."""
        return int(self._client.max_payload)

    async def publish(self, subject: Subject, msg: Any) -> None:
        """Sends a message to all who listen; with our codec, which packs an event in a tenth of the time."""
        await self._client.publish(subject.name, serialize_to_bin(subject.msg_cls, msg))

    async def request(self, subject: ReplySubject, msg: Any, timeout: float = 30.0) -> Any:
        """Asks and waits for the reply, at most ``timeout`` seconds.

        Raises:
            NobodyListensError: No service subscribes to the subject.
            ReplyTimeoutError: No reply in time, or none to be expected because the connection was lost meanwhile.
            TooLargeError: The request exceeds the broker's limit.
        """
        payload = serialize_to_bin(subject.msg_cls, msg)
        try:
            reply = await self._replies.ask(subject.name, payload, timeout)
        except NoRespondersError as error:
            raise NobodyListensError(f"No service answers '{subject.name}' at the moment.") from error
        except (NatsTimeoutError, TimeoutError) as error:
            raise ReplyTimeoutError(f"No reply on '{subject.name}' within {timeout:g} s.") from error
        except MaxPayloadError as error:
            raise TooLargeError(
                f"A request on '{subject.name}' of {len(payload)} bytes exceeds the broker's limit of "
                f"{self.max_payload}; send it in smaller batches."
            ) from error
        except _ConnectionLostError as error:
            raise ReplyTimeoutError(f"No reply on '{subject.name}': the broker went away meanwhile.") from error
        except NatsError as error:  # closed, or so long away that what waits to be sent fills the buffer
            raise NobodyListensError(f"The broker does not take '{subject.name}' at the moment: {error}") from error
        return serialize_from_bin(subject.reply_cls, reply.data)

    async def gather(self, subject: ReplySubject, msg: Any, seconds: float, expected: int) -> list[Any]:
        """Asks everybody who listens and collects the replies of ``seconds`` seconds, or until ``expected`` came."""
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        replies: list[Any] = []
        try:
            await self._client.publish(subject.name, serialize_to_bin(subject.msg_cls, msg), reply=inbox)
            async with asyncio.timeout(seconds):
                while len(replies) < expected:
                    message = await subscription.next_msg(timeout=seconds)
                    if message.data:  # an empty reply is the broker's "no responders"
                        replies.append(serialize_from_bin(subject.reply_cls, message.data))
                    else:
                        break
        except (NatsTimeoutError, TimeoutError):
            pass
        finally:
            await subscription.unsubscribe()
        return replies

    async def subscribe_reply_cb(self, subject: ReplySubject, cb: Handler) -> NatsBrokerSubscription:
        """Subscribes a handler that answers requests, in the queue group of this service."""

        async def answer(message: Msg) -> None:
            try:
                thing = _decode(subject, message)
                payload = serialize_to_bin(Thing, await cb(thing))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                log.warning("The work on a message on '%s' was cancelled", subject.name)
                given_up = ReplyTimeoutError(
                    f"The service gave a request on '{subject.name}' up, as one that ends does; whether it was carried out is not "
                    "known. Send it again."
                )
                payload = serialize_to_bin(Thing, to_thing(error_value(given_up), self._name))
            except Exception as error:  # noqa: BLE001 - the caller gets every error as a reply
                payload = serialize_to_bin(Thing, to_thing(error_value(error), self._name))
            if not message.reply:
                return
            if len(payload) > self.max_payload:
                refusal = TooLargeError(
                    f"The reply on '{subject.name}' has {len(payload)} bytes, more than the broker's limit of "
                    f"{self.max_payload}; send fewer records at once, or ask for fewer, page by page."
                )
                payload = serialize_to_bin(Thing, to_thing(error_value(refusal), self._name))
            await self._client.publish(message.reply, payload)

        return await self._subscribe_bounded(subject.name, self._name, answer)

    async def subscribe(self, subject: Subject, cb: Callable[..., Awaitable[None]]) -> NatsBrokerSubscription:
        """Subscribes to events: every replica hears them. An exception in a handler is logged and costs nothing else."""

        async def consume(message: Msg) -> None:
            try:
                await cb(_decode(subject, message))
            except Exception:
                log.exception("An event on '%s' could not be handled", message.subject)

        return await self._subscribe_bounded(subject.name, "", consume)

    async def _subscribe_bounded(
        self, name: str, queue: str, work: Callable[[Msg], Awaitable[None]]
    ) -> NatsBrokerSubscription:
        subscription = await self._client.subscribe(
            name,
            queue=queue,
            pending_msgs_limit=WAITING_MESSAGES,
            pending_bytes_limit=max(WAITING_BYTES, 2 * self.max_payload),
        )
        workers = Workers(subscription, work, self._handler_tasks, self._running)
        self._workers.append(workers)
        result = _DrainingSubscription(workers)
        result._set_subscription(subscription)
        return result

    async def _refuse(self, dropped: SlowConsumerError) -> None:
        """Answers a request that was dropped because too many wait: its sender shall not wait for the time-out."""
        now = asyncio.get_running_loop().time()
        if now - self._warned >= _SECONDS_BETWEEN_WARNINGS:
            self._warned = now
            log.warning("More messages on '%s' wait than are taken, some are refused or dropped", dropped.subject)
        if dropped.reply:
            busy = BusyError(
                f"Too many requests on '{dropped.subject}' wait already (at most {WAITING_MESSAGES}, or {WAITING_BYTES} bytes); "
                "have fewer on the way at once, and send this one again later."
            )
            with contextlib.suppress(NatsError):
                await self._client.publish(dropped.reply, serialize_to_bin(Thing, to_thing(error_value(busy), self._name)))

    async def _supervise(self, address: str, timeout: float) -> None:
        """Reconnect where nats-py does not, and set ``lost`` where that does not help.

        The wait for a broker that does not answer has no limit: ``timeout`` counts while one answers, or while no attempt is made.
        """
        now = asyncio.get_running_loop().time
        connected = now()
        while not self.lost.is_set():
            if self._client.is_connected:
                connected = now()
            elif now() - max(connected, self._client.last_unanswered) > timeout:
                self._lose(
                    f"The broker at {address} has not accepted the connection within {timeout:g} s: "
                    f"{self._client.last_error or 'no reason given'}"
                )
            elif now() - max(connected, self._client.last_attempt) > STUCK_SECONDS:
                log.warning("No attempt to connect to the broker at %s for %g s; reconnecting", address, STUCK_SECONDS)
                self._client.reconnect()
            await asyncio.sleep(_CHECK_INTERVAL)

    def _lose(self, reason: str) -> None:
        if not self._closing:
            log.error("%s", reason)
            self.lost_reason = reason
            self.lost.set()

    async def settle(self) -> None:
        """Waits until the broker knows every subscription made so far; a broker that goes away meanwhile is told when it is back."""
        # nats-py writes a flush's PING past the commands that wait for its flusher task; these are out when the first PONG
        # is back, so it is the second one that comes after them.
        try:
            await self._client.flush()
            await self._client.flush()
        except (NatsError, TimeoutError) as error:
            log.warning("The broker does not confirm the subscriptions: %s", error)

    async def drain_handlers(self) -> None:
        """Waits for the handlers that are at work, so that what was taken is answered before the service ends."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_SECONDS)

    async def close(self) -> None:
        """Sends what waits to be sent and closes the connection."""
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
        if self._client.is_connected:
            try:
                await self._client.flush(timeout=2)
            except (NatsTimeoutError, TimeoutError):
                log.warning("The broker did not take the last messages in time")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()
        except (TimeoutError, OSError):  # it takes nothing more, or has gone this moment
            self._client.let_go()
        for workers in self._workers:
            await workers.end()


def _decode(subject: Subject, message: Msg) -> Thing:
    try:
        thing: Thing = serialize_from_bin(subject.msg_cls, message.data)
    except Exception as error:
        raise InvalidRequestError(f"'{subject.name}' takes a FastIoT Thing as msgpack: {error}") from error
    return thing
