"""Decorators that turn a method over typed messages into a FastIoT handler over Things."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from fastiot.core import reply, subscribe
from fastiot.msg import Thing

from complex_system import tracing
from complex_system.messaging.subjects import event_subject, reply_subject
from complex_system.messaging.things import error_value, to_thing
from complex_system.protocol.base import Event, Request

SENDER: ContextVar[str] = ContextVar("sender", default="")
"""Who sent the request that a handler answers, as the Thing's ``machine`` says it."""

NAME: ContextVar[str] = ContextVar("name", default="")
"""The name of the Thing of that request; requests for predictions say with it who asks (``protocol.serving.ORIGIN_NAMES``)."""

SENT: ContextVar[float | None] = ContextVar("sent", default=None)
"""When that request was made, seconds since 1970, as the Thing's ``timestamp`` says it; None where that has no time zone."""

M = TypeVar("M")
Q = TypeVar("Q")
R = TypeVar("R")


def answers(request: Request[Q, R]) -> Callable[[Callable[[Any, Q], Awaitable[R]]], Any]:
    """The method takes the request and returns the reply; an exception becomes the error reply."""

    def decorate(method: Callable[[Any, Q], Awaitable[R]]) -> Any:
        @wraps(method)
        async def handler(self: Any, thing: Thing) -> Thing:
            value: Any
            SENDER.set(thing.machine)
            NAME.set(thing.name)
            SENT.set(thing.timestamp.timestamp() if thing.timestamp.tzinfo else None)
            try:
                value = await method(self, request.decode_request(thing.value))
            except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets an answer
                tracing.failed(error)
                value = error_value(error)
            return to_thing(value, type(self).__name__)

        return reply(reply_subject(request))(handler)

    return decorate


def hears(event: Event[M]) -> Callable[[Callable[[Any, M], Awaitable[None]]], Any]:
    """The method takes the message of every event."""

    def decorate(method: Callable[[Any, M], Awaitable[None]]) -> Any:
        @wraps(method)
        async def handler(self: Any, thing: Thing) -> None:
            await method(self, event.decode(thing.value))

        return subscribe(event_subject(event))(handler)

    return decorate
