"""What an operator sees and does over the broker: dead letters, conflicts, decisions about the champion, test messages."""

from __future__ import annotations

import csv
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Literal

import msgspec

from complex_system.errors import ComplexSystemError, NobodyListensError, TooLargeError
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.ingest.dead_letters import DeadLetter, DeadLetters
from complex_system.messaging.ingest.publisher import published_records
from complex_system.protocol.base import Empty
from complex_system.protocol.database import ConflictMessage, Value
from complex_system.protocol.operations import TEST_MESSAGES
from complex_system.protocol.promotion import DECIDE_ON_CHAMPION, GET_PROMOTION, ChampionRequest
from complex_system.settings import Settings

_PATIENCE = 5.0

Action = Literal["show", "payload", "replay", "remove"]
_CSV_COLUMNS = ("key", "time", "source", "kept_source", "column", "kept", "lost")


async def manage_dead_letters(
    settings: Settings,
    action: Action,
    say: Callable[[str], None],
    *,
    limit: int = 100,
    number: int | None = None,
    source: str | None = None,
) -> int:
    """Show, publish again or delete the oldest dead letters, and return how many there were.

    Args:
        settings: The broker's address and credentials.
        action: ``show`` prints each with its reason, ``payload`` its content as well; ``replay`` publishes each again and
            deletes it, ``remove`` deletes it.
        say: Prints a line.
        limit: Maximum number of letters.
        number: Only the letter with this number.
        source: Only letters of this source.

    Raises:
        NobodyListensError: The broker is not reachable, or has no streams for the ingest.
    """
    seen = 0
    async with connected(settings, "dead_letters") as connection:
        letters = DeadLetters(connection.client, settings)
        async with aclosing(letters.read(limit, number, source)) as found:
            async for letter in found:
                seen += 1
                say(_line(letter))
                if action == "payload":
                    say(_content(letter))
                elif action == "remove":
                    await letters.remove(letter)
                elif action == "replay" and letter.cut:
                    raise TooLargeError(
                        f"Dead letter {letter.number} was truncated, so it cannot be published again; remove it."
                    )
                elif action == "replay":
                    await letters.replay(letter)
    done = {"replay": " published again; a message that is refused again comes back with a new number", "remove": " removed"}
    say(f"{seen} dead letter(s){done.get(action, '')}.")
    return seen


def _line(letter: DeadLetter) -> str:
    cut = f", truncated from {letter.cut}" if letter.cut else ""
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


async def list_conflicts(
    settings: Settings, say: Callable[[str], None], *, as_csv: bool = False, limit: int | None = None
) -> int:
    """Show values that lost against others of their key, and return how many contents these were.

    Args:
        settings: The broker's address and credentials.
        say: Prints a line.
        as_csv: Write a CSV to the standard output: a row for each value that lost.
        limit: Maximum number of conflicts, by key; None for all.

    Raises:
        NobodyListensError: The broker is not reachable, or no database service answers.
    """
    seen = 0
    table = csv.writer(sys.stdout, lineterminator="\n")
    async with connected(settings, "conflicts") as connection:
        database = DatabaseClient(SystemClient(connection, settings, "conflicts"))
        if as_csv:
            table.writerow(_CSV_COLUMNS)
        async with aclosing(database.conflicts(limit)) as found:
            async for conflict in found:
                seen += 1
                if as_csv:
                    table.writerows(_rows(conflict))
                else:
                    say(_conflict_text(conflict))
        if not as_csv:
            total = (await database.counts()).conflicts
            say(f"{seen} conflict(s)." if seen >= total else f"{seen} of {total} conflicts; --limit shows more.")
    return seen


async def show_promotion(settings: Settings, say: Callable[[str], None]) -> None:
    """Show champion, candidate, pin and the decisions of people.

    Raises:
        NobodyListensError: The broker is not reachable, or ``ml_consumer`` does not answer.
    """
    async with connected(settings, "champion") as connection:
        found = await SystemClient(connection, settings, "champion").ask(GET_PROMOTION, Empty())
    say(f"promotion     {found.mode}")
    for name, version in (("champion", found.champion), ("candidate", found.candidate), ("roll back to", found.previous)):
        rmse = "" if version is None or version.rmse is None else f", hold-out RMSE {version.rmse:.4g}"
        say(f"{name:<13} {version.label if version else 'none'}{rmse}")
    if found.pinned is not None:
        say(f"pinned        {_when(found.pinned.at)} by {found.pinned.who}: {found.pinned.why}")
    for each in found.decisions:
        say(f"{_when(each.at)}  {each.action:<9} {each.label} (before: {each.before or 'none'}), {each.who}: {each.why}")
    if not found.decisions:
        say("No decision was made yet.")


async def decide_on_champion(settings: Settings, asked: ChampionRequest, say: Callable[[str], None]) -> None:
    """Have a person's decision about the champion carried out, and show what was done.

    Raises:
        ComplexSystemError: It is refused, or ``ml_consumer`` does not answer.
    """
    async with connected(settings, "champion") as connection:
        done = await SystemClient(connection, settings, "champion").ask(DECIDE_ON_CHAMPION, asked)
    say(done.message)


async def send_test_messages(settings: Settings, say: Callable[[str], None]) -> bool:
    """Have a test message sent to every receiver of alerts, and show how that went; return whether all have it.

    Raises:
        NobodyListensError: The broker is not reachable, or ``ml_monitoring`` does not answer.
    """
    async with connected(settings, "test_message") as connection:
        tested = await SystemClient(connection, settings, "test_message").ask(TEST_MESSAGES, Empty())
    for each in tested.channels:
        say(f"{each.channel}: {f'not delivered: {each.problem}' if each.problem else 'delivered'}")
    if not tested.channels:
        say(
            "Alerts have no receivers: set COMPLEX_SYSTEM_WEBHOOK_URL or COMPLEX_SYSTEM_MESSAGE_URLS in the deployment's .env."
        )
    return bool(tested.channels) and not any(each.problem for each in tested.channels)


@asynccontextmanager
async def connected(settings: Settings, name: str) -> AsyncIterator[ServiceConnection]:
    """Connect to the broker for a command.

    Raises:
        NobodyListensError: It is not reachable within a few seconds.
    """
    address = f"{settings.nats_host}:{settings.nats_port}"
    try:
        connection = await ServiceConnection.open(settings, name, patience=_PATIENCE)
    except TimeoutError as error:
        raise NobodyListensError(
            f"No broker at {address} accepts a connection within {_PATIENCE:g} s (user '{settings.nats_user}'); "
            "set FASTIOT_NATS_HOST and FASTIOT_NATS_PORT for another broker."
        ) from error
    try:
        yield connection
    finally:
        await connection.close()


def _rows(conflict: ConflictMessage) -> list[tuple[object, ...]]:
    first = (conflict.key, _when(conflict.at), conflict.source, conflict.kept_source)
    return [(*first, each.column, _written(each.kept), _written(each.lost)) for each in conflict.values]


def _conflict_text(conflict: ConflictMessage) -> str:
    head = f"{conflict.key}  {_when(conflict.at)}  from '{conflict.source}' against '{conflict.kept_source}'"
    if conflict.deleted:
        return f"{head}\n    the record is deleted; lost: " + ", ".join(
            f"{e.column} = {_shown(e.lost)}" for e in conflict.values
        )
    if not conflict.values:
        return f"{head}\n    the record has these values again"
    return head + "".join(
        f"\n    {each.column}: {_shown(each.kept)} is kept, {_shown(each.lost)} lost" for each in conflict.values
    )


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _written(value: Value) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, list | bool) else value


def _shown(value: Value) -> str:
    return "nothing" if value is None else f"'{value}'" if isinstance(value, str) else str(_written(value))
