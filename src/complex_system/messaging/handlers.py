"""Decorators that turn a method over payloads into a FastIoT handler over Things."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from fastiot.core import ReplySubject, Subject, reply, subscribe
from fastiot.msg import Thing

from complex_system.messaging.errors import error_value, to_thing

ValueHandler = Callable[[Any, Any], Awaitable[Any]]


def answers(subject: ReplySubject) -> Callable[[ValueHandler], Any]:
    """The method takes the request's value and returns the reply's; an exception becomes the error reply."""

    def decorate(method: ValueHandler) -> Any:
        @wraps(method)
        async def handler(self: Any, thing: Thing) -> Thing:
            try:
                value = await method(self, thing.value)
            except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets an answer
                value = error_value(error)
            return to_thing(value, type(self).__name__)

        return reply(subject)(handler)

    return decorate


def hears(subject: Subject) -> Callable[[ValueHandler], Any]:
    """The method takes the value of every event on the subject."""

    def decorate(method: ValueHandler) -> Any:
        @wraps(method)
        async def handler(self: Any, thing: Thing) -> None:
            await method(self, thing.value)

        return subscribe(subject)(handler)

    return decorate
