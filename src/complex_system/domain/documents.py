"""Documents: what monitoring keeps in the database, of any shape, found by kind and time or by key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from complex_system.errors import InvalidRequestError

MAX_DOCUMENTS = 5000
"""Documents in one request, and in one page."""
MAX_DOCUMENT_KEY = 200
"""Characters of a key."""
MAX_BODY_BYTES = 512 * 1024
"""Bytes of a body as JSON."""
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")


class Cursor(NamedTuple):
    """After which document a page continues: its time and its key."""

    at: float
    key: str


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        kind: What it is: lower-case letters, digits and hyphens, at most 32.
        key: Unique within the kind, 1 to 200 characters.
        at: The time that it is of, seconds since 1970 (UTC).
        body: What it says, as JSON: texts, finite numbers, booleans, null, lists, mappings by text.
    """

    kind: str
    key: str
    at: float
    body: Mapping[str, Any]

    @property
    def cursor(self) -> Cursor:
        """Where a page that ends with this document continues."""
        return Cursor(self.at, self.key)

    def as_dict(self) -> dict[str, Any]:
        """It as a message carries it."""
        return {"kind": self.kind, "key": self.key, "at": self.at, "body": dict(self.body)}

    @classmethod
    def parse(cls, value: object) -> Document:
        """Reads what :meth:`as_dict` made.

        Raises:
            InvalidRequestError: It is no document.
        """
        if not isinstance(value, dict) or set(value) != {"kind", "key", "at", "body"}:
            raise InvalidRequestError("A document is a mapping with 'kind', 'key', 'at' and 'body'.")
        if not isinstance(value["body"], dict):
            raise InvalidRequestError(f"The body of a document must be a mapping, not {type(value['body']).__name__}.")
        return cls(checked_kind(value["kind"]), checked_key(value["key"]), checked_time(value["at"], "at"), value["body"])

    def encoded_body(self) -> str:
        """The body as JSON text, as both databases keep it.

        Raises:
            InvalidRequestError: It is too large, or holds what JSON does not have.
        """
        try:
            encoded = msgspec.json.encode(self.body)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"The body of document '{self.key}' is no JSON: {error}") from error
        if len(encoded) > MAX_BODY_BYTES:
            raise InvalidRequestError(
                f"The body of document '{self.key}' has {len(encoded)} bytes; at most {MAX_BODY_BYTES} are kept."
            )
        return encoded.decode()


def decoded_body(text: str) -> dict[str, Any]:
    """What :meth:`Document.encoded_body` made, as a mapping."""
    body: dict[str, Any] = msgspec.json.decode(text)
    return body


def checked_kind(value: object) -> str:
    """A kind.

    Raises:
        InvalidRequestError: It is none.
    """
    if not isinstance(value, str) or not _KIND.fullmatch(value):
        raise InvalidRequestError(f"'kind' must be a short text like 'minute', not {value!r:.80}.")
    return value


def checked_key(value: object) -> str:
    """A key.

    Raises:
        InvalidRequestError: It is none.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_DOCUMENT_KEY:
        raise InvalidRequestError(f"A key must be a text of 1 to {MAX_DOCUMENT_KEY} characters, not {value!r:.80}.")
    return value


def checked_time(value: object, name: str) -> float:
    """A time in seconds since 1970.

    Raises:
        InvalidRequestError: It is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(f"'{name}' must be a time in seconds, not {value!r:.80}.")
    return float(value)
