"""nats-py as a service needs it: no indefinite waits, no final close after an error, no password in clear text.

The only module that touches private attributes of nats-py; ``tests/unit/test_nats_client.py`` fails when they change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from complex_system.settings import Settings

log = logging.getLogger(__name__)

_NO_RESPONDERS = "503"
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


def inbox_prefix(user: str) -> str:
    """Return where a user of the broker hears replies, so that no user hears another's; without users it is the usual one."""
    return f"_INBOX_{user.replace('.', '_')}" if user else "_INBOX"


def credentials(settings: Settings) -> dict[str, Any]:
    """Return nats-py's options for user, password, encryption and inbox."""
    options: dict[str, Any] = {"inbox_prefix": inbox_prefix(settings.nats_user)}
    if settings.nats_user:
        options |= {"user": settings.nats_user, "password": settings.nats_password}
    if settings.nats_tls_ca:
        options["tls"] = ssl.create_default_context(cafile=settings.nats_tls_ca)
    return options


def refusal(error: Exception) -> tuple[str, str] | None:
    """Return what the broker did not permit, ``publish on`` or ``subscribe to``, and the subject; None for other errors.

    nats-py gives the server's errors in small letters.
    """
    match = _VIOLATION.search(str(error))
    return ("publish on" if match[1] == "publish" else "subscribe to", match[2]) if match else None


class _Transport(TcpTransport):
    """A TCP connection that can be aborted, with what was not sent.

    nats-py closes a connection after it has sent everything and waits until it is closed. That never happens when the broker hangs
    or its host was switched off.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._aborted = False

    async def connect(self, *args: Any, **options: Any) -> None:
        await super().connect(*args, **options)
        self._aborted = False

    def write(self, payload: bytes) -> None:
        with _lost_is_lost():
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        with _lost_is_lost():
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def wait_closed(self) -> None:
        try:
            if not self._aborted:
                await super().wait_closed()  # type: ignore[no-untyped-call]
        finally:
            self.abort()

    def abort(self) -> None:
        self._aborted = True
        # An encrypted connection that was closed twice forgets the connection below it, which then stays open (Python 3.11).
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                with contextlib.suppress(AttributeError):  # Python 3.11.2 aborts an encrypted connection only once
                    writer.transport.abort()


@contextlib.contextmanager
def _lost_is_lost() -> Iterator[None]:
    """Raise what nats-py expects of a connection that is lost: on an encrypted one asyncio then has nothing left to write to."""
    try:
        yield
    except AttributeError as error:
        raise ConnectionResetError("the connection to the broker is lost") from error


class ServiceClient(Client):
    """A client that reconnects after every error until ``close`` is called.

    nats-py closes the connection for good after a protocol error, and its one task that reconnects can fail or hang.

    Attributes:
        last_attempt: Start of the last attempt to connect, in the event loop's time.
        last_unanswered: Time of the last attempt that no broker has answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_attempt = self.last_unanswered = 0.0
        self._link = _Transport()
        self._answered = True
        self._opened = False
        self._closing = False

    async def connect(self, *args: Any, **options: Any) -> None:
        """Connect as nats-py does; from then on reconnect after every error."""
        await super().connect(*args, **options)
        self._opened = True

    async def close(self) -> None:
        """Close the connection for good."""
        self._closing = True
        await super().close()

    async def request(self, *args: Any, **options: Any) -> Msg:
        """Ask as nats-py does, for JetStream; a cancellation ends it in any case.

        nats-py waits with ``asyncio.wait_for``, which before Python 3.12 returns an answer that comes together with a cancellation. A
        loop around it would go on for ever, and with it whoever waits for the end of its task.
        """
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        reply = await super().request(*args, **options)
        if task.cancelling() > cancelled:
            raise asyncio.CancelledError
        return reply

    def let_go(self) -> None:
        """End the connection immediately, with what was not sent."""
        self._link.abort()

    def reconnect(self) -> None:
        """Abort the connection, whatever its state, and connect again with the same subscriptions."""
        if self._reconnection_task is not None:
            self._reconnection_task.cancel()
        self._status = Client.RECONNECTING
        self._ps.reset()
        self.last_attempt = asyncio.get_running_loop().time()
        self._reconnection_task = asyncio.create_task(self._attempt_reconnect())

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._closing or not self._opened:
            await super()._close(status, do_cbs)
        else:
            log.warning("The connection to the broker has ended, reconnecting: %s", self.last_error)
            self.reconnect()

    async def _attempt_reconnect(self) -> None:
        self.let_go()
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        now = asyncio.get_running_loop().time()
        if not self._answered:
            self.last_unanswered = now
        self.last_attempt, self._answered = now, False
        # A failed attempt may leave its tasks behind, which would read from the next connection.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        self.let_go()
        self._transport = self._link
        s.last_attempt = time.monotonic()
        try:
            await self._link.connect(s.uri, buffer_size=DEFAULT_BUFFER_SIZE, connect_timeout=self.options["connect_timeout"])
        except (OSError, TimeoutError):
            self.last_unanswered = asyncio.get_running_loop().time()
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self._answered = True
        await super()._process_info(info, initial_connection)

    def fail_requests(self, error: Exception) -> None:
        """End all of nats-py's own pending requests (JetStream's) with an error."""
        for reply in list(self._resp_map.values()):
            if not reply.done():
                reply.set_exception(error)


class EncryptedClient(ServiceClient):
    """A client that gives its credentials to an encrypted connection only.

    nats-py encrypts when the server asks for it and otherwise goes on in clear text, whatever was configured.
    """

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise NatsError("the broker offers no TLS, and FASTIOT_NATS_TLS_CA asks for it")
        command: bytes = super()._connect_command()
        return command


class ReplyBox:
    """One subscription for the replies to all requests of a connection.

    nats-py does the same with ``asyncio.wait_for``, which costs as much as everything else together.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = ""
        self._opening = asyncio.Lock()
        self._numbers = count()
        self._waiting: dict[str, tuple[str, asyncio.Future[Msg | Exception]]] = {}

    async def ask(self, subject: str, payload: bytes, seconds: float, headers: dict[str, str] | None = None) -> Msg:
        """Send a request and wait for its reply.

        Raises:
            nats.errors.NoRespondersError: The subject has no subscriber.
            nats.errors.TimeoutError: No reply in time.
            Exception: The error given to :meth:`fail`, or one of nats-py's ``publish``.
        """
        if not self._prefix:
            await self._open()
        loop = asyncio.get_running_loop()
        number = str(next(self._numbers))
        reply: asyncio.Future[Msg | Exception] = loop.create_future()
        self._waiting[number] = (subject, reply)
        late = loop.call_later(seconds, _settle, reply, NatsTimeoutError())
        try:
            await self._client.publish(subject, payload, self._prefix + number, headers)
            found = await reply
        finally:
            late.cancel()
            self._waiting.pop(number, None)
        if isinstance(found, Exception):
            raise found
        if found.headers and found.headers.get("Status") == _NO_RESPONDERS:
            raise NoRespondersError
        return found

    def fail(self, error: Exception) -> None:
        """End all pending requests with an error."""
        for _, reply in list(self._waiting.values()):
            _settle(reply, error)

    def refuse(self, subject: str, error: Exception) -> None:
        """End the pending requests on a subject, named in small letters, with an error."""
        for asked, reply in list(self._waiting.values()):
            if asked.lower() == subject:
                _settle(reply, error)

    async def _open(self) -> None:
        async with self._opening:
            if not self._prefix:
                prefix = f"{self._client.new_inbox()}."
                await self._client.subscribe(f"{prefix}*", cb=self._came)
                self._prefix = prefix

    async def _came(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject[len(self._prefix) :])
        if waiting is not None:
            _settle(waiting[1], message)


def _settle(reply: asyncio.Future[Msg | Exception], found: Msg | Exception) -> None:
    if not reply.done():
        reply.set_result(found)


async def next_message(subscription: Subscription) -> Msg:
    """Return the next message of a subscription without a callback.

    nats-py's own ``next_msg`` costs a task and a time-out per message, and drops a message when it is cancelled.
    """
    queue = subscription._pending_queue
    message: Msg = await queue.get()
    subscription._pending_size -= len(message.data)  # no longer counts against the limit of waiting bytes
    queue.task_done()
    return message
