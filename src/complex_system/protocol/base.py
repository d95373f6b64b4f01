"""Messages and subjects: typed objects in the code, plain mappings on the wire."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from types import UnionType
from typing import Any, Generic, TypeVar

import msgspec

from complex_system.errors import InternalError, InvalidRequestError

log = logging.getLogger(__name__)

M = TypeVar("M")
Q = TypeVar("Q")
R = TypeVar("R")

_PATH = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages. Fields that a sender leaves out get their defaults; fields that a receiver does not know are ignored.

    So releases with more or fewer fields understand each other. Requests also omit fields with default values: services of the
    release 0.1 do not accept null for some of them.
    """


class Empty(Message, frozen=True, kw_only=True):
    """A request without parameters."""


ArrowPage = bytes
"""A page of records as Arrow IPC bytes (:mod:`complex_system.domain.pages`); its receiver decodes and checks it."""


@dataclass(frozen=True)
class Event(Generic[M]):
    """A subject that messages are published on, without a reply.

    Attributes:
        name: The subject's name on the broker.
        message: Type of its messages; ``Any`` stands for a payload that its receiver checks.
        description: For the documentation, where the type does not say it.
    """

    name: str
    message: type[M]
    description: str = ""

    def decode(self, value: object) -> M:
        """Return the message that a payload holds.

        Raises:
            InvalidRequestError: The payload is not such a message.
        """
        found: M = decode(value, self.message, self.name)
        return found


@dataclass(frozen=True)
class Request(Generic[Q, R]):
    """A request/reply subject.

    Attributes:
        name: The subject's name on the broker.
        request: Type of the request.
        reply: Type of the reply. ``Any`` stands for a payload of kio's, which its receiver checks.
        description: What the subject answers, for the documentation.
        thing: Name of the Thing that carries it; requests for predictions say with it who asks.
    """

    name: str
    request: type[Q]
    reply: type[R] | UnionType
    description: str = ""
    thing: str = ""

    def decode_request(self, value: object) -> Q:
        """Return the request that a payload holds; unknown fields are logged and ignored.

        Raises:
            InvalidRequestError: The payload is not such a request; the message names field, problem and what is allowed.
        """
        if is_message(self.request):
            if value is None:
                value = {}
            if isinstance(value, dict):
                unknown = sorted(str(key) for key in value if key not in _wire_names(self.request))
                if unknown:
                    log.warning("'%s': unknown field(s) ignored: %s", self.name, ", ".join(unknown))
        found: Q = decode(value, self.request, self.name)
        return found

    def decode_reply(self, value: object) -> R:
        """Return the reply that a payload holds.

        Raises:
            InternalError: The payload is not such a reply.
        """
        try:
            found: R = decode(value, self.reply, self.name)
        except InvalidRequestError as error:
            raise InternalError(f"The reply is not understood: {error.message}") from None
        return found


def is_message(kind: Any) -> bool:
    """Whether a type is a message of ours."""
    return isinstance(kind, type) and issubclass(kind, Message)


def decode(value: object, kind: Any, subject: str) -> Any:
    """Return a payload as an object of a declared type.

    Raises:
        InvalidRequestError: It is something else.
    """
    if kind is Any or kind is ArrowPage or (is_message(kind) and isinstance(value, kind)):
        return value
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _PATH.match(str(error))
        problem, path = (match["problem"], match["path"]) if match else (str(error), None)
        if is_message(kind) and not isinstance(value, dict):
            raise InvalidRequestError(f"'{subject}' takes a mapping, not {type(value).__name__}.") from None
        where = f"field '{path}': " if path else ""
        fields = ", ".join(_wire_names(kind)) if is_message(kind) else ""
        allowed = f" Its fields are: {fields}." if fields else ""
        raise InvalidRequestError(f"'{subject}': {where}{problem[:1].lower()}{problem[1:]}.{allowed}") from None


def to_wire(value: Any) -> Any:
    """Return a message as plain JSON values."""
    return msgspec.to_builtins(value)


def _wire_names(kind: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = kind.__struct_encode_fields__
    return names
