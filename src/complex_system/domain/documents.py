"""Documents: what monitoring keeps in the database, of any shape, found by kind and time or by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from complex_system.errors import InvalidRequestError

MAX_BODY_BYTES = 512 * 1024
"""Bytes of a body as JSON."""


class Cursor(NamedTuple):
    """The document after which a page continues: its time and its key."""

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
        """The cursor of a page that ends with this document."""
        return Cursor(self.at, self.key)

    def encoded_body(self) -> str:
        """Return the body as JSON text, as both databases keep it.

        Raises:
            InvalidRequestError: It is too large, or is not JSON.
        """
        try:
            encoded = msgspec.json.encode(self.body)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(f"The body of document '{self.key}' is not JSON: {error}") from error
        if len(encoded) > MAX_BODY_BYTES:
            raise InvalidRequestError(
                f"The body of document '{self.key}' has {len(encoded)} bytes; at most {MAX_BODY_BYTES} are kept."
            )
        return encoded.decode()


def decoded_body(text: str) -> dict[str, Any]:
    """Return the mapping that :meth:`Document.encoded_body` encoded."""
    body: dict[str, Any] = msgspec.json.decode(text)
    return body
