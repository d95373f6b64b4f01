"""The base class of our services: FastIoT's, with health, heartbeats, loops that end, and a connection that comes back."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastiot.cli.constants import CONFIGURE_FILE_NAME
from fastiot.core import FastIoTService, ReplySubject, Subject
from fastiot.core.broker_connection import NatsBrokerSubscription
from nats.errors import Error as NatsError

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, NobodyListensError, ReplyTimeoutError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.errors import to_thing, value_of
from complex_system.messaging.process import ProcessUsage
from complex_system.messaging.subjects import SERVICE_HEARTBEAT, health_subject
from complex_system.settings import Settings

log = logging.getLogger(__name__)

State = Literal["starting", "waiting", "ready", "working", "failing", "stopped"]
T = TypeVar("T")

STOP_GRACE = 1.5
"""Seconds that a request to a server gets to end when its service ends."""


class SystemService(FastIoTService):
    """A FastIoT service of this system.

    A subclass overrides :meth:`on_start` and :meth:`on_stop` and declares handlers with ``@answers`` and ``@hears``. Until
    ``on_start`` has returned, the service is not subscribed to anything; its heartbeat says what it waits for.

    Attributes:
        settings: The settings read at the start.
        dataset: The declared data set of the deployment.
        broker: The connection.
        replica: What people call this replica; settings give it.
        instance: Tells this process from every other one, also from one that was called the same before.
    """

    broker: ServiceConnection
    _subs: list[NatsBrokerSubscription]

    def __init__(
        self, broker_connection: ServiceConnection, settings: Settings | None = None, dataset: Dataset | None = None
    ) -> None:
        super().__init__(broker_connection=broker_connection)
        self.broker = broker_connection
        self.settings = settings or Settings()
        self.dataset = dataset or Dataset.load(self.settings.config_dir, target=self.settings.target)
        self.replica = self.settings.service_id or f"{socket.gethostname()}-{os.getpid()}"
        self.instance = uuid.uuid4().hex
        self.url = ""
        self._state: State = "starting"
        self._detail = ""
        self._usage = ProcessUsage()
        self._started = time.time()

    @classmethod
    def service_name(cls) -> str:
        """snake_case name, as the service's package is called."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Service")).lower()

    @classmethod
    def main(cls, **kwargs: Any) -> None:
        """Runs the service until SIGTERM or Ctrl-C; ``run.py`` calls it."""
        cls._try_setup_test_env()
        try:
            with asyncio.Runner(loop_factory=cls.new_event_loop) as runner:
                runner.run(cls._run_connected(**kwargs))
        except KeyboardInterrupt:
            log.info("Interrupted")
        except ComplexSystemError as error:
            raise SystemExit(f"{cls.service_name()}: {error.message}") from error

    @classmethod
    async def _run_connected(cls, **kwargs: Any) -> None:
        settings = Settings()
        connection = await ServiceConnection.open(settings, cls.service_name())
        try:
            await cls(broker_connection=connection, settings=settings, **kwargs).run()
        finally:
            await connection.close()
        if connection.lost.is_set():
            raise NobodyListensError(connection.reason)

    # What a service overrides

    new_event_loop = staticmethod(asyncio.new_event_loop)
    """Makes the loop that the process runs in."""

    async def on_start(self) -> None:
        """Makes the service ready: opens stores, loads models. May wait for what it needs, see :meth:`set_state`."""

    async def on_stop(self) -> None:
        """Releases what ``on_start`` took."""

    def initial_state(self) -> tuple[State, str]:
        """State and detail once the service is subscribed to everything."""
        return "ready", ""

    # What a service uses

    async def set_state(self, state: State, detail: str = "") -> None:
        """Says how the service is; a change is announced at once. One that has stopped stays so."""
        if (state, detail) != (self._state, self._detail) and self._state != "stopped":
            self._state, self._detail = state, detail
            level = logging.WARNING if state in ("failing", "waiting") else logging.INFO
            log.log(level, "%s%s", state, f": {detail}" if detail else "")
            await self._beat()

    def health(self) -> dict[str, Any]:
        """How the service is, as heartbeats and the health subject say it."""
        return {
            "service": self.service_name(),
            "replica": self.replica,
            "instance": self.instance,
            "state": self._state,
            "detail": self._detail,
            "pid": os.getpid(),
            "url": self.url,
            "version": __version__,
            "host": socket.gethostname(),
            "started": self._started,
            **self._usage.read(),
        }

    async def ask(self, subject: ReplySubject, value: Any, seconds: float | None = None) -> Any:
        """Sends a request and returns the reply's value; an error reply is raised as the error that it carries."""
        thing = to_thing(value, type(self).__name__)
        return value_of(await self.broker.request(subject, thing, seconds or self.settings.request_timeout))

    async def announce(self, subject: Subject, value: Any) -> None:
        """Publishes an event. One that cannot be sent is logged and costs nothing else: nobody waits for an event."""
        try:
            await self.broker.publish(subject, to_thing(value, type(self).__name__))
        except NatsError as error:
            log.warning("An event on '%s' could not be sent: %s", subject.name, error)

    async def while_running(self, work: Awaitable[T], grace: float = STOP_GRACE) -> T:
        """Waits for what may hang, for instance a call in a thread of ``complex_system.background``.

        When the service ends it has ``grace`` seconds left; then the waiting task is cancelled, so that the service ends all the same.
        """
        at_work = asyncio.ensure_future(work)
        ended = asyncio.create_task(self._shutdown_event.wait())
        try:
            await asyncio.wait({at_work, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not (await asyncio.wait({at_work}, timeout=grace))[0]:
                raise asyncio.CancelledError
            return at_work.result()
        finally:
            ended.cancel()
            at_work.cancel()

    async def answerer(self, subject: ReplySubject, value: Any, seconds: float = 5.0) -> str:
        """Who answers a subject at the moment: the sender that a reply names, as a class name; empty for nobody.

        Args:
            subject: What is asked.
            value: A request that changes nothing; an error is an answer, too.
            seconds: How long to wait. Who listens and does not answer in time is called ``somebody``.
        """
        try:
            reply = await self.broker.request(subject, to_thing(value, type(self).__name__), seconds)
        except NobodyListensError:
            return ""
        except ReplyTimeoutError:
            return "somebody"
        return reply.machine or "somebody"

    async def stop_answering(self, subject: ReplySubject) -> None:
        """Gives a subject up; what was taken is still answered."""
        given_up = [subscription for subscription in self._subs if subscription.subject == subject.name]
        self._subs = [subscription for subscription in self._subs if subscription not in given_up]
        await asyncio.gather(*(subscription.unsubscribe() for subscription in given_up))

    def every(self, seconds: float, turn: Callable[[], Awaitable[float | None]], longest_pause: float = 30.0) -> None:
        """Runs ``turn`` again and again until the service ends; a turn that fails is logged and repeated with back-off.

        Args:
            seconds: Pause after a turn. A turn may return its own pause instead.
            turn: One round of work.
            longest_pause: Most seconds until a turn that failed is repeated.
        """

        async def loop() -> None:
            failures = 0
            pause: float = 0.0
            while not self._shutdown_event.is_set():
                try:
                    own = await turn()
                    pause, failures = (seconds if own is None else own), 0
                except ComplexSystemError as error:
                    failures += 1
                    pause = min(0.5 * 2 ** min(failures, 10), longest_pause)
                    log.warning("%s: %s Again in %.0f s.", turn.__name__, error.message, pause)
                except Exception:
                    failures += 1
                    pause = min(0.5 * 2 ** min(failures, 10), longest_pause)
                    log.exception("%s failed; again in %.0f s", turn.__name__, pause)
                # FastIoT reads a time-out of 0 as "for ever".
                await self.wait_for_shutdown(max(pause, 0.001))

        self.run_task(loop())

    # FastIoT's hooks

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._shutdown_event.set)
        # Replicas share the first name; under the second one each host's own is asked, for instance by a container's health check.
        for name in (self.service_name(), f"{self.service_name()}.{socket.gethostname()}"):
            self._subs.append(await self.broker.subscribe_reply_cb(health_subject(name), self._answer_health))
        self.every(self.settings.heartbeat_interval, self._beat)
        self.run_task(self._end_when_lost())
        started = asyncio.create_task(self.on_start())
        ended = asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({started, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if started.done():
            started.result()
        else:
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)

    async def _start_annotated_loops(self) -> None:
        # Called by FastIoT when the annotated subscriptions stand: now the service can be asked.
        await super()._start_annotated_loops()
        await self.broker.settle()
        if self._state in ("starting", "waiting"):
            await self.set_state(*self.initial_state())

    async def _stop_subs(self) -> None:
        # All at once: what each has taken is answered while the others do the same.
        await asyncio.gather(*(subscription.unsubscribe() for subscription in self._subs))
        self._subs.clear()

    async def _stop(self) -> None:
        await self.broker.drain_handlers()
        try:
            await self.on_stop()
        finally:
            # Who watches shall know that nobody needs to look after this one.
            self._state, self._detail = "stopped", ""
            await self._beat()

    async def _exec_task(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await super()._exec_task(coro)
        except asyncio.CancelledError:
            if self._shutdown_event.is_set():
                raise
            # FastIoT lets such a task end unseen, and the service would go on without it.
            await self.request_shutdown("A task was cancelled that nobody asked to end")

    async def _end_when_lost(self) -> None:
        lost, ended = asyncio.create_task(self.broker.lost.wait()), asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({lost, ended}, return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        self._shutdown_event.set()
        await ended

    @staticmethod
    def _try_setup_test_env() -> None:
        """FastIoT's environment of a service that is started by hand: a deployment's, under what is set already."""
        explicit = dict(os.environ)
        if any((folder / CONFIGURE_FILE_NAME).is_file() for folder in (Path.cwd(), *Path.cwd().parents)):
            FastIoTService._try_setup_test_env()
            os.environ.update(explicit)

    async def _beat(self) -> None:
        await self.announce(SERVICE_HEARTBEAT, self.health())

    async def _answer_health(self, _: Any) -> Any:
        return to_thing(self.health(), type(self).__name__)
