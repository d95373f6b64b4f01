"""Payloads into Things and back, and errors as the published error reply."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from fastiot.msg import Thing
from fastiot.msg.thing import MEASUREMENT_ID

from complex_system.errors import ERRORS_BY_CODE, ComplexSystemError, InternalError
from complex_system.messaging.codec import thing_of

log = logging.getLogger(__name__)

ERROR_MARK = "__error_occured__"  # kio's spelling, part of the contract


def to_thing(value: Any, sender: str, made: float | None = None) -> Thing:
    """Return a Thing that carries ``value``; ``sender`` is the class name of the service, as in kio's replies.

    Args:
        value: The payload.
        sender: Who sends it.
        made: When the payload was made, seconds since 1970; by default now.
    """
    return thing_of(
        {
            "machine": sender,
            "name": "",
            "measurement_id": MEASUREMENT_ID,
            "value": value,
            "timestamp": datetime.now(UTC) if made is None else datetime.fromtimestamp(made, UTC),
            "unit": "",
        }
    )


def error_value(error: BaseException) -> dict[str, Any]:
    """Return the published error reply for an error, with our stable code beside it.

    An error that is not ours becomes an :class:`InternalError`: its text stays in the log and does not reach the sender.
    """
    if not isinstance(error, ComplexSystemError):
        log.error("A handler failed", exc_info=error)
        error = InternalError(f"The service failed internally ({type(error).__name__}); see its log.")
    return {
        ERROR_MARK: True,
        "error_type": type(error).__name__,
        "error_msg": error.message,
        "error_args": list(error.args),
        "error_code": error.code,
    }


def value_of(thing: Thing) -> Any:
    """Return the payload of a reply.

    Raises:
        ComplexSystemError: The reply is an error; it has the class of the error that was raised on the other side.
    """
    value = thing.value
    if isinstance(value, dict) and ERROR_MARK in value:
        known = ERRORS_BY_CODE.get(str(value.get("error_code")))
        arguments = value.get("error_args") or [value.get("error_msg", "")]
        raise known(*arguments) if known else InternalError(f"{value.get('error_type')}: {value.get('error_msg')}")
    return value
