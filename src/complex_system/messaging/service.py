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
from typing import Any, ClassVar, TypeVar

from fastiot.cli.constants import CONFIGURE_FILE_NAME
from fastiot.core import FastIoTService
from fastiot.core.broker_connection import NatsBrokerSubscription
from nats.errors import Error as NatsError

from complex_system import __version__, logs, tracing
from complex_system.background import watch_event_loop
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, NobodyListensError, ReplyTimeoutError
from complex_system.messaging.clients import ask
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.lease import DEFAULT_KEY, LOOK, Holder, Lease
from complex_system.messaging.process import ProcessUsage, process_name
from complex_system.messaging.subjects import event_subject, reply_subject
from complex_system.messaging.things import to_thing
from complex_system.protocol.base import Event, Request
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat, State, health_request
from complex_system.settings import Settings

log = logging.getLogger(__name__)

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

STOP_GRACE = 1.5
"""Seconds that pending work gets when the service ends."""


class SystemService(FastIoTService):
    """A FastIoT service of this system.

    A subclass overrides :meth:`on_start` and :meth:`on_stop` and declares handlers with ``@answers`` and ``@hears``. Until
    ``on_start`` has returned, the service answers its health subject only; its heartbeat says what it waits for.

    Attributes:
        settings: The settings read at the start.
        dataset: The declared data set of the deployment.
        broker: The connection.
        replica: Name of this replica, from the settings.
        instance: Unique id of this process; it changes with a restart.
        lease: Held by the one replica that acts; None for a service whose replicas all do.
    """

    acts_alone: ClassVar[bool] = False
    """Whether one replica acts at a time. It holds a lease; the others are stand-bys, which have not called ``on_start`` yet."""

    broker: ServiceConnection
    _subs: list[NatsBrokerSubscription]

    def __init__(
        self, broker_connection: ServiceConnection, settings: Settings | None = None, dataset: Dataset | None = None
    ) -> None:
        super().__init__(broker_connection=broker_connection)
        self.broker = broker_connection
        self.settings = settings or Settings()
        self.dataset = dataset or Dataset.load(self.settings.config_dir, target=self.settings.target)
        self.replica = logs.replica_name(self.settings)
        self.instance = uuid.uuid4().hex
        self.url = ""
        self._state: State = "starting"
        self._detail = ""
        self._after_on_start: tuple[State, str] = (self._state, self._detail)
        self._usage = ProcessUsage()
        self._started = time.time()
        self._on_start_called = False
        self.lease: Lease | None = None
        if self.acts_alone:
            me = Holder(self.instance, self.replica, process_name())
            replicas = self.settings.ingest_replicas
            self.lease = Lease(broker_connection.client, self.service_name(), me, key=self.lease_key(), replicas=replicas)

    @classmethod
    def service_name(cls) -> str:
        """Return the snake_case name of the service, which is its package's name."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Service")).lower()

    def known_as(self) -> str:
        """Return the names of this service's HTTP server: its own, as other containers know it, and those of the settings."""
        name = self.service_name()
        return ",".join((name, name.replace("_", "-"), self.settings.allowed_hosts))

    @classmethod
    def main(cls, **kwargs: Any) -> None:
        """Run the service until SIGTERM or Ctrl-C; ``run.py`` calls this."""
        logs.set_up(Settings(), cls.service_name())
        cls._try_setup_test_env()
        logs.set_up(Settings(), cls.service_name())
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
        watch_event_loop(settings.watchdog_seconds)
        tracing.start(settings, cls.service_name(), __version__, logs.replica_name(settings))
        connection = await ServiceConnection.open(settings, cls.service_name())
        try:
            service = cls(broker_connection=connection, settings=settings, **kwargs)
            await service.run()
        finally:
            await connection.close()
            await tracing.stop()
        if connection.lost.is_set():
            raise NobodyListensError(connection.lost_reason)
        if service.lease is not None:
            service.lease.check_not_lost()

    # What a service overrides

    new_event_loop = staticmethod(asyncio.new_event_loop)
    """Makes the event loop of the process."""

    def lease_key(self) -> str:
        """Return what tells the lease from those of replicas that do other work, and may act at the same time."""
        return DEFAULT_KEY

    async def warm_up(self) -> None:
        """Import what takes seconds, while a stand-by waits for the lease."""

    async def on_start(self) -> None:
        """Make the service ready: open stores, load models. May wait for what it needs, see :meth:`set_state`."""

    async def on_stop(self) -> None:
        """Release what ``on_start`` took."""

    def initial_state(self) -> tuple[State, str]:
        """Return state and detail for the moment when all subscriptions exist."""
        return "ready", ""

    # What a service uses

    @property
    def may_act(self) -> bool:
        """Whether this replica may act at this moment; to be asked directly before everything that has an effect."""
        return self.lease is None or self.lease.is_held

    async def until_it_may_act(self) -> bool:
        """Wait while the lease cannot be renewed; return False if the service ends before."""
        while not self.may_act:
            await self.set_state("waiting", "the lease cannot be renewed, so another replica may hold it by now")
            if await self.wait_for_shutdown(LOOK):
                return False
        return not self._shutdown_event.is_set()

    async def set_state(self, state: State, detail: str = "") -> None:
        """Set the state of the service; a change is published immediately. ``stopped`` is final."""
        if (state, detail) != (self._state, self._detail) and self._state != "stopped":
            self._state, self._detail = state, detail
            level = logging.WARNING if state in ("failing", "waiting") else logging.INFO
            log.log(level, "%s%s", state, f": {detail}" if detail else "")
            await self._beat()

    def health(self) -> Heartbeat:
        """Return the state of the service for heartbeats and the health subject."""
        cpu_percent, memory_megabytes = self._usage.read()
        return Heartbeat(
            service=self.service_name(), replica=self.replica, instance=self.instance, state=self._state, detail=self._detail,
            pid=os.getpid(), url=self.url, version=__version__, host=socket.gethostname(), started=self._started,
            cpu_percent=cpu_percent, memory_megabytes=memory_megabytes,
        )  # fmt: skip

    async def ask(self, request: Request[Q, R], value: Q, seconds: float | None = None, made: float | None = None) -> R:
        """Send a request and return the reply.

        Raises:
            ComplexSystemError: The error that an error reply carries.
        """
        return await ask(self.broker, type(self).__name__, request, value, seconds or self.settings.request_timeout, made)

    async def announce(self, event: Event[T], message: T) -> None:
        """Publish an event. A failure is logged and has no other effect, because nobody waits for an event."""
        try:
            await self.broker.publish(event_subject(event), to_thing(message, type(self).__name__))
        except NatsError as error:
            log.warning("An event on '%s' could not be sent: %s", event.name, error)

    async def while_running(self, work: Awaitable[T], grace: float = STOP_GRACE) -> T:
        """Wait for work that may hang, for instance a call in a thread of ``complex_system.background``.

        When the service ends, the work has ``grace`` seconds left; then this task is cancelled, so that the service can end.
        """
        task = asyncio.ensure_future(work)
        ended = asyncio.create_task(self._shutdown_event.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not (await asyncio.wait({task}, timeout=grace))[0]:
                raise asyncio.CancelledError
            return task.result()
        finally:
            ended.cancel()
            task.cancel()

    async def answerer(self, request: Request[Q, Any], value: Q, seconds: float = 5.0) -> str:
        """Return the class name of the service that answers a subject at the moment; empty if there is none.

        Args:
            request: The subject.
            value: A request that changes nothing; an error is an answer as well.
            seconds: How long to wait. A listener that does not answer in time is returned as ``somebody``.
        """
        try:
            reply = await self.broker.request(reply_subject(request), to_thing(value, type(self).__name__), seconds)
        except NobodyListensError:
            return ""
        except ReplyTimeoutError:
            return "somebody"
        return reply.machine or "somebody"

    async def stop_answering(self, request: Request[Any, Any]) -> None:
        """Unsubscribe from a subject; requests that have arrived are still answered."""
        given_up = [subscription for subscription in self._subs if subscription.subject == request.name]
        self._subs = [subscription for subscription in self._subs if subscription not in given_up]
        await asyncio.gather(*(subscription.unsubscribe() for subscription in given_up))

    def every(self, seconds: float, turn: Callable[[], Awaitable[float | None]], longest_pause: float = 30.0) -> None:
        """Repeat ``turn`` until the service ends; a failure is logged and retried with back-off. No turn begins without the lease.

        Args:
            seconds: Pause between two turns. A turn may return its own pause instead.
            turn: The work.
            longest_pause: Maximum seconds until a failed turn is retried.
        """

        async def loop() -> None:
            failures = 0
            pause: float = 0.0
            while not self._shutdown_event.is_set() and (turn == self._beat or await self.until_it_may_act()):
                try:
                    own = await turn()
                    pause, failures = (seconds if own is None else own), 0
                except Exception as error:
                    failures += 1
                    pause = min(0.5 * 2 ** min(failures, 10), longest_pause)
                    if isinstance(error, ComplexSystemError):
                        log.warning("%s: %s Again in %.0f s.", turn.__name__, error.message, pause)
                    else:
                        log.exception("%s failed; again in %.0f s", turn.__name__, pause)
                # FastIoT takes a timeout of 0 as "no timeout".
                await self.wait_for_shutdown(max(pause, 0.001))

        self.run_task(loop())

    # FastIoT's hooks

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._shutdown_event.set)
        # All replicas answer on the first name; the second one reaches the replica of a host, for instance from a health check.
        for name in (self.service_name(), f"{self.service_name()}.{socket.gethostname()}"):
            self._subs.append(await self.broker.subscribe_reply_cb(reply_subject(health_request(name)), self._answer_health))
        self.every(self.settings.heartbeat_interval, self._beat)
        self.run_task(self._stop_when(self.broker.lost))
        started = asyncio.create_task(self._start_with_lease())
        ended = asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({started, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if started.done():
            try:
                started.result()
            except BaseException:
                await self._give_up_start()
                raise
        else:
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)

    async def _give_up_start(self) -> None:
        """Leave nothing behind of a start that has failed: its process may go on, and a stand-by may have more success."""
        self._shutdown_event.set()
        await self._stop_subs()
        if self.lease is not None:
            await self.lease.release()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=STOP_GRACE)

    async def _start_with_lease(self) -> None:
        if self.lease is not None:
            await self.lease.take(self.set_state, self.warm_up)
            self.run_task(self._stop_when(self.lease.lost))
            await self.set_state("starting")
        self._on_start_called = True
        await self.on_start()
        self._after_on_start = self._state, self._detail

    async def _start_annotated_subs(self) -> None:
        if not self._shutdown_event.is_set():  # else a stand-by that is stopped would answer for a moment
            await super()._start_annotated_subs()

    async def _start_annotated_loops(self) -> None:
        # FastIoT calls this when the annotated subscriptions exist.
        await super()._start_annotated_loops()
        await self.broker.settle()
        unchanged = (self._state, self._detail) == self._after_on_start  # else a loop or a handler has said what is true now
        if unchanged and self._state in ("starting", "waiting") and not self._shutdown_event.is_set():
            await self.set_state(*self.initial_state())

    async def _stop_subs(self) -> None:
        # Concurrently, so that all of them answer their pending requests at the same time.
        await asyncio.gather(*(subscription.unsubscribe() for subscription in self._subs))
        self._subs.clear()

    async def _stop(self) -> None:
        await self.broker.drain_handlers()
        try:
            if self._on_start_called:
                await self.on_stop()
        finally:
            if self.lease is not None:
                await self.lease.release()
            # Tells monitoring and the supervisor that this end is intended.
            self._state, self._detail = "stopped", ""
            await self._beat()

    async def _exec_task(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await super()._exec_task(coro)
        except asyncio.CancelledError:
            if self._shutdown_event.is_set():
                raise
            # FastIoT ignores this, and the service would continue without the task.
            await self.request_shutdown("A task of the service was cancelled unexpectedly")

    async def _stop_when(self, lost: asyncio.Event) -> None:
        happened, ended = asyncio.create_task(lost.wait()), asyncio.create_task(self._shutdown_event.wait())
        await asyncio.wait({happened, ended}, return_when=asyncio.FIRST_COMPLETED)
        happened.cancel()
        self._shutdown_event.set()
        await ended

    @staticmethod
    def _try_setup_test_env() -> None:
        """Set up FastIoT's environment for a service started by hand; variables that are set already keep their values."""
        explicit = dict(os.environ)
        if any((folder / CONFIGURE_FILE_NAME).is_file() for folder in (Path.cwd(), *Path.cwd().parents)):
            FastIoTService._try_setup_test_env()
            os.environ.update(explicit)

    async def _beat(self) -> None:
        await self.announce(SERVICE_HEARTBEAT, self.health())

    async def _answer_health(self, _: Any) -> Any:
        return to_thing(self.health(), type(self).__name__)
