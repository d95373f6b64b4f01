"""What ``fiot extras dead-letters`` does: shows dead letters, publishes them again, or forgets them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Literal

import msgspec

from complex_system.errors import ComplexSystemError, NobodyListensError, TooLargeError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.dead_letters import DeadLetter, DeadLetters
from complex_system.messaging.ingest.payload import published_records
from complex_system.settings import Settings

Action = Literal["show", "payload", "replay", "remove"]

_PATIENCE = 5.0


async def look_after(
    settings: Settings, action: Action, say: Callable[[str], None], *, limit: int = 100, number: int | None = None
) -> int:
    """Goes through the oldest dead letters and returns how many there were.

    Args:
        settings: Where the broker is.
        action: ``show`` says what each is and why, ``payload`` its content too; ``replay`` publishes each again where it was
            published and forgets it, ``remove`` forgets it.
        say: Takes lines of text.
        limit: Most letters.
        number: Only the letter of that number.

    Raises:
        NobodyListensError: The broker is not there, or has no streams of the ingest.
    """
    address = f"{settings.nats_host}:{settings.nats_port}"
    try:
        connection = await ServiceConnection.open(settings, "dead_letters", patience=_PATIENCE)
    except TimeoutError as error:
        raise NobodyListensError(
            f"No broker at {address} lets us in within {_PATIENCE:g} s (user '{settings.nats_user}'); FASTIOT_NATS_HOST and "
            "FASTIOT_NATS_PORT name another."
        ) from error
    seen = 0
    try:
        letters = DeadLetters(connection.client, settings)
        async with aclosing(letters.read(limit, number)) as found:
            async for letter in found:
                seen += 1
                say(_line(letter))
                if action == "payload":
                    say(_content(letter))
                elif action == "remove":
                    await letters.remove(letter)
                elif action == "replay" and letter.cut:
                    raise TooLargeError(
                        f"Dead letter {letter.number} was kept cut, so it cannot be published again; remove it."
                    )
                elif action == "replay":
                    await letters.replay(letter)
    finally:
        await connection.close()
    done = {"replay": " published again; what is refused again comes back with a new number", "remove": " removed"}
    say(f"{seen} dead letter(s){done.get(action, '')}.")
    return seen


def _line(letter: DeadLetter) -> str:
    cut = f", cut from {letter.cut}" if letter.cut else ""
    own = f", id {letter.message_id}" if letter.message_id else ""
    return (
        f"{letter.number}  {letter.time[:19]}  {letter.subject} (sequence {letter.sequence}, {len(letter.payload)} bytes{cut}{own})\n"
        f"    {letter.code}: {letter.reason}"
    )


def _content(letter: DeadLetter) -> str:
    try:
        text = msgspec.json.encode(published_records(letter.payload), enc_hook=str).decode()
    except (ComplexSystemError, msgspec.MsgspecError, ValueError):
        text = repr(letter.payload)
    return f"    {text}"
