"""JSON bodies of any size, decoded so that the event loop goes on."""

from __future__ import annotations

from typing import Any

import msgspec

from complex_system.errors import InvalidRequestError
from complex_system.serving.requests.json import why_no_json

LARGE_BODY = 1_000_000
"""From so many bytes on a body is decoded piece by piece, to be done in a thread."""

_decode = msgspec.json.Decoder().decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_mapping = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decoded(body: bytes) -> Any:
    """The content of a JSON body.

    msgspec holds Python's lock for a whole call, so a large body decoded in one would stop the event loop from any thread. A list
    in it is decoded element by element instead: twice the time, and the loop has its turn in between.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: It is no JSON in UTF-8.
    """
    if len(body) < LARGE_BODY:
        return _decode(body)
    try:
        fields = _mapping(body)
    except msgspec.ValidationError:
        return _elements(body)
    return {name: _elements(value) for name, value in fields.items()}


def json_of(body: bytes) -> Any:
    """A JSON body.

    Raises:
        InvalidRequestError: It is no JSON in UTF-8, or nested too deeply.
    """
    try:
        return decoded(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequestError(why_no_json(body, error)) from None


def _elements(body: bytes | msgspec.Raw) -> Any:
    try:
        elements = _list(body)
    except msgspec.ValidationError:
        return _decode(body)
    return [_decode(element) for element in elements]
