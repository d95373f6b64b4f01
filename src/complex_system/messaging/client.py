"""A client on the broker that is no service: it asks, and it hears events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastiot.core import ReplySubject, Subject
from fastiot.msg import Thing

from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.errors import to_thing, value_of
from complex_system.settings import Settings

EventHandler = Callable[[Any], Awaitable[None]]


class SystemClient:
    """Asks services and hears events, for programs around the system such as the local runner.

    ``async with await SystemClient.open(settings, "name") as client: ...`` closes the connection at the end.
    """

    def __init__(self, connection: ServiceConnection, settings: Settings, name: str) -> None:
        self.broker = connection
        self.settings = settings
        self._name = name

    @classmethod
    async def open(cls, settings: Settings, name: str) -> SystemClient:
        """Connects; waits for the broker as long as it takes."""
        return cls(await ServiceConnection.open(settings, name), settings, name)

    async def ask(self, subject: ReplySubject, value: Any, seconds: float | None = None) -> Any:
        """Sends a request and returns the reply's value; an error reply is raised as the error that it carries."""
        thing = to_thing(value, self._name)
        return value_of(await self.broker.request(subject, thing, seconds or self.settings.request_timeout))

    async def hear(self, subject: Subject, handler: EventHandler) -> None:
        """Hands the value of every event on the subject to ``handler``."""

        async def consume(thing: Thing) -> None:
            await handler(thing.value)

        await self.broker.subscribe(subject, consume)

    async def close(self) -> None:
        """Closes the connection."""
        await self.broker.close()

    async def __aenter__(self) -> SystemClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
