"""FastIoT's NATS connection, extended for production.

Reply subscriptions join a queue group, so replicas share the work. A bounded number of tasks handle messages concurrently. A handler
always answers, whatever happens in it. Requests use one shared inbox and fail immediately if no service listens. The connection
reconnects indefinitely while no broker answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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

from complex_system import tracing
from complex_system.errors import (
    BusyError,
    NobodyListensError,
    ReplyTimeoutError,
    TooLargeError,
    UnauthorizedError,
)
from complex_system.logs import REQUEST, REQUEST_ID
from complex_system.messaging.nats_client import EncryptedClient, ReplyBox, ServiceClient, credentials, refusal
from complex_system.messaging.subscriptions import DRAIN_SECONDS, DrainingSubscription, Handler, Workers, answering, hearing
from complex_system.messaging.things import error_value, serialize_from_bin, serialize_to_bin, to_thing
from complex_system.settings import Settings

log = logging.getLogger(__name__)

WAITING_MESSAGES = 4096
"""Messages that may wait for a handler, per subject; a request above that is refused, an event dropped."""
WAITING_BYTES = 64 * 1024 * 1024
"""The same in bytes."""
_SECONDS_BETWEEN_WARNINGS = 10.0

CLOSE_SECONDS = 5.0
"""Seconds to wait for a broker that accepts nothing more."""
STUCK_SECONDS = 15.0
"""nats-py tries to connect every few seconds; without an attempt for this long it hangs."""
_CHECK_INTERVAL = 0.5
"""Seconds between two checks of the connection."""


class _ConnectionLostError(NatsError):
    """Ends a request that waits for its reply when the connection is lost."""


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
        """Set when the connection does not come back and the service must be restarted."""
        self.lost_reason = ""
        self.refusals: list[str] = []
        """What the broker did not permit: nothing, where the service's user may do its work."""

    @classmethod
    async def open(cls, settings: Settings, name: str, patience: float | None = None) -> ServiceConnection:
        """Connect, and wait for the broker as long as it takes; the log says so.

        Args:
            settings: The broker's address and our credentials.
            name: snake_case name of the service; its replicas share it, it names the queue group.
            patience: Seconds after which ``TimeoutError`` is raised; None for never.
        """
        client = EncryptedClient() if settings.nats_tls_ca else ServiceClient()
        connection = cls(client, name, settings.handler_tasks)
        address, reported = f"{settings.nats_host}:{settings.nats_port}", ""

        async def on_error(error: Exception) -> None:
            nonlocal reported
            reason = str(error) or type(error).__name__
            if isinstance(error, SlowConsumerError):
                await connection._reply_busy(error)
            elif refused := refusal(error):
                connection._not_permitted(settings.nats_user, *refused)
            elif client.is_connected:
                log.warning("Broker: %s", reason)
            elif reason != reported:
                reported = reason
                log.warning("Waiting for the broker at %s: %s", address, reason)

        async def on_disconnect() -> None:
            # The broker forgets pending requests, so their replies cannot arrive any more.
            connection._replies.fail(_ConnectionLostError())
            client.fail_requests(_ConnectionLostError())
            if not connection._closing:
                log.warning("The broker at %s is away", address)

        async def on_reconnect() -> None:
            nonlocal reported
            reported = ""
            log.info("The broker at %s is back", address)

        async def on_close() -> None:
            connection._give_up(f"The connection to the broker at {address} was closed: {client.last_error}")

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
                **credentials(settings),
            )
        connection._supervisor = asyncio.create_task(connection._supervise(address, settings.reconnect_timeout))
        return connection

    @property
    def connected(self) -> bool:
        """Whether the broker is connected at the moment."""
        return bool(self._client.is_connected)

    @property
    def client(self) -> Client:
        """nats-py's client, for JetStream."""
        return self._client

    @property
    def max_payload(self) -> int:
        """Maximum bytes of a message."""
        return int(self._client.max_payload)

    async def publish(self, subject: Subject, msg: Any) -> None:
        """Publish a message; our codec packs an event in a tenth of FastIoT's time."""
        await self._client.publish(subject.name, serialize_to_bin(subject.msg_cls, msg))

    async def request(self, subject: ReplySubject, msg: Any, timeout: float = 30.0) -> Any:
        """Send a request and wait for the reply, at most ``timeout`` seconds.

        Raises:
            NobodyListensError: No service subscribes to the subject.
            ReplyTimeoutError: No reply in time, or the connection was lost while waiting.
            TooLargeError: The request exceeds the broker's limit.
            UnauthorizedError: The broker does not permit it.
        """
        payload = serialize_to_bin(subject.msg_cls, msg)
        try:
            with tracing.span(subject.name, "client", tracing.NATS):
                headers = tracing.headers()
                if (answered := REQUEST.get()) is not None:
                    headers = {**(headers or {}), REQUEST_ID: answered.id}
                reply = await self._replies.ask(subject.name, payload, timeout, headers)
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
            raise ReplyTimeoutError(f"No reply on '{subject.name}': the connection to the broker was lost.") from error
        except NatsError as error:  # closed, or disconnected for so long that the send buffer is full
            raise NobodyListensError(f"The broker does not accept '{subject.name}' at the moment: {error}") from error
        return serialize_from_bin(subject.reply_cls, reply.data)

    async def gather(self, subject: ReplySubject, msg: Any, seconds: float, expected: int) -> list[Any]:
        """Send a request to all listeners and collect their replies for ``seconds`` seconds, or until there are ``expected``."""
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
        """Subscribe a handler that answers requests, in the queue group of this service."""
        return await self._subscribe_bounded(subject.name, self._name, answering(self._client, subject, cb, self._name))

    async def subscribe(self, subject: Subject, cb: Callable[..., Awaitable[None]]) -> NatsBrokerSubscription:
        """Subscribe to events; every replica receives them.

        A message that cannot be decoded is logged and dropped. An exception in a handler is logged and has no other effect.
        """
        return await self._subscribe_bounded(subject.name, "", hearing(subject, cb))

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
        return DrainingSubscription(self._client, subscription, workers)

    async def _reply_busy(self, dropped: SlowConsumerError) -> None:
        """Answer a request that was dropped because too many wait, so that its sender need not wait for the time-out."""
        now = asyncio.get_running_loop().time()
        if now - self._warned >= _SECONDS_BETWEEN_WARNINGS:
            self._warned = now
            log.warning("Too many messages wait on '%s'; some are refused or dropped", dropped.subject)
        if dropped.reply:
            busy = BusyError(
                f"Too many requests wait on '{dropped.subject}' (at most {WAITING_MESSAGES}, or {WAITING_BYTES} bytes); "
                "send fewer at the same time, and this one again later."
            )
            with contextlib.suppress(NatsError):
                await self._client.publish(dropped.reply, serialize_to_bin(Thing, to_thing(error_value(busy), self._name)))

    async def _supervise(self, address: str, timeout: float) -> None:
        """Reconnect if nats-py does not, and set ``lost`` if that does not help.

        There is no limit while no broker answers: ``timeout`` applies while one answers, or while no attempt is made.
        """
        now = asyncio.get_running_loop().time
        connected = now()
        while not self.lost.is_set():
            if self._client.is_connected:
                connected = now()
            elif now() - max(connected, self._client.last_unanswered) > timeout:
                self._give_up(
                    f"The broker at {address} has not accepted the connection within {timeout:g} s: "
                    f"{self._client.last_error or 'no reason given'}"
                )
            elif now() - max(connected, self._client.last_attempt) > STUCK_SECONDS:
                log.warning("No attempt to connect to the broker at %s for %g s; reconnecting", address, STUCK_SECONDS)
                self._client.reconnect()
            await asyncio.sleep(_CHECK_INTERVAL)

    def _not_permitted(self, user: str, action: str, subject: str) -> None:
        """Log what the broker refused, and end requests on that subject: nobody answers them."""
        reason = f"The broker does not permit the user '{user}' to {action} '{subject}'."
        log.error("%s docs/security.md has the permissions of each user.", reason)
        self.refusals = [*self.refusals, reason][-20:]
        self._replies.refuse(subject, UnauthorizedError(reason))

    def _give_up(self, reason: str) -> None:
        if not self._closing:
            log.error("%s", reason)
            self.lost_reason = reason
            self.lost.set()

    async def settle(self) -> None:
        """Wait until the broker knows all subscriptions; if it disconnects meanwhile, it gets them when it is back."""
        # nats-py sends the PING of a flush ahead of commands that wait for its flusher task; they are sent when the first PONG
        # arrives, so the second PONG comes after them.
        try:
            await self._client.flush()
            await self._client.flush()
        except (NatsError, TimeoutError) as error:
            log.warning("The broker does not confirm the subscriptions: %s", error)

    async def drain_handlers(self) -> None:
        """Wait for running handlers, so that received requests are answered before the service ends."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_SECONDS)

    async def close(self) -> None:
        """Send what is buffered and close the connection."""
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
        if self._client.is_connected:
            try:
                await self._client.flush(timeout=2)
            except (NatsError, TimeoutError, OSError):
                log.warning("The broker did not accept the last messages in time")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()
        except (TimeoutError, OSError):  # the broker accepts nothing more, or has just disconnected
            self._client.let_go()
        for workers in self._workers:
            await workers.end()
