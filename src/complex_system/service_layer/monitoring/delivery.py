"""Brings alerts to their receivers, at least once. What waits is in the alerts themselves, and so in the database."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from complex_system.background import run
from complex_system.domain.keys import uuid7
from complex_system.errors import ComplexSystemError
from complex_system.monitoring.aggregates import HOUR
from complex_system.monitoring.alerts.channels import Channel, NotDeliveredError
from complex_system.monitoring.alerts.messages import MessagePlan, Told, pause_after
from complex_system.monitoring.points import Figures
from complex_system.protocol.operations import Alert, SentMessage, TestedChannel, TestedChannels

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Messages of a receiver that wait while it is away; then the oldest are dropped."""
SEND_SECONDS = 120.0
"""Seconds after which a receiver counts as away that neither takes nor refuses a message."""
KEEP_SECONDS = 2.0
"""Seconds that the database gets to keep the id of a message before it is sent all the same."""

Kind = Literal["raised", "ended"]


class _Waiting(NamedTuple):
    """A message that its receiver does not have yet; its alert says the rest."""

    key: str
    event: Kind


class Delivery:
    """Sends what waits. Its methods run in the event loop; sending blocks a thread of its own.

    An alert and the id of its message are in the database before it is sent, unless that is away. So where a process ends between
    sending and noting that, the next one sends the message again with the same id.
    """

    def __init__(
        self, channels: Sequence[Channel], plan: MessagePlan, deadline_hours: float, now: Callable[[], float],
        find: Callable[[str], Alert | None], change: Callable[[str, Callable[[Alert], Alert]], object],
        persist: Callable[[], Awaitable[None]] | None,
    ) -> None:  # fmt: skip
        """Make it ready.

        Args:
            channels: The receivers, of different names.
            plan: Grouping and quiet hours.
            deadline_hours: Hours after which a message that was not taken is given up.
            now: Seconds since 1970.
            find: Returns an alert by key.
            change: Changes an alert, and has the change written to the database sooner or later.
            persist: Writes changes to the database now, and raises where it is away; None where there is none.
        """
        self.channels: Mapping[str, Channel] = {each.name: each for each in channels}
        self._plan = plan
        self._deadline = deadline_hours * HOUR
        self._now = now
        self._find, self._change, self._persist = find, change, persist
        self._waiting: dict[str, list[_Waiting]] = {name: [] for name in self.channels}
        self._one = {name: asyncio.Lock() for name in self.channels}

    def queue(self, alert: Alert, event: Kind) -> Alert:
        """Queue the beginning or the end of an alert for every receiver; return the alert, which says so."""
        at = self._now()
        for name, channel in self.channels.items():
            due, quiet = self._plan.due(at, alert.severity) if channel.for_people else (at, False)
            message = SentMessage(event=event, channel=name, at=at, due=due, quiet=quiet)
            alert = replace(alert, messages=(*alert.messages, message))
            waiting = self._waiting[name]
            waiting.append(_Waiting(alert.key, event))
            if len(waiting) > MAX_WAITING:
                self._give_up(channel, waiting[0], "dropped", f"more than {MAX_WAITING:,} messages waited")
        return alert

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take up what waited when an earlier process ended; what was tried already is tried again now."""
        found: list[tuple[float, str, _Waiting]] = []
        for alert in alerts:
            for each in alert.messages:
                if each.outcome != "waiting":
                    continue
                entry = _Waiting(alert.key, each.event)
                if each.channel in self.channels:
                    found.append((each.at, each.channel, entry))
                    if each.attempts:
                        self._note(each.channel, entry, due=self._now())
                else:
                    gone = "the receiver is no longer configured"
                    self._note(each.channel, entry, outcome="dropped", finished=self._now(), problem=gone)
        mine = {name: list(waiting) for name, waiting in self._waiting.items()}
        for waiting in self._waiting.values():
            waiting.clear()
        for _, name, entry in sorted(found):
            self._waiting[name].append(entry)
        for name, waiting in mine.items():
            self._waiting[name] += [entry for entry in waiting if entry not in self._waiting[name]]

    def figures(self) -> Figures:
        """Return how many messages of each receiver wait, and for how long it has not taken the oldest that was sent (seconds)."""
        figures, now = Figures(), self._now()
        for name in self.channels:
            told = self._told(name)
            failing = max((now - each.message.at for each in told if each.message.attempts), default=0.0)
            figures.add("messages", {"waiting": len(told), "failing_for": failing}, name)
        return figures

    def turns(self) -> list[Callable[[], Awaitable[None]]]:
        """Return what is to be repeated, for each receiver on its own: one that hangs holds up no other."""

        def turn_of(channel: Channel) -> Callable[[], Awaitable[None]]:
            async def deliver() -> None:
                await self.deliver(channel)

            return deliver

        return [turn_of(channel) for channel in self.channels.values()]

    async def deliver(self, channel: Channel) -> None:
        """Send what is due to a receiver, message by message, until one is not taken."""
        async with self._one[channel.name]:
            while batch := self._due(channel):
                if not await self._send(channel, batch):
                    return

    async def test(self) -> TestedChannels:
        """Send a test message to every receiver."""

        async def one(channel: Channel) -> TestedChannel:
            try:
                await run(channel.send_test, channel.name)
            except NotDeliveredError as error:
                return TestedChannel(channel=channel.place, problem=error.problem)
            return TestedChannel(channel=channel.place)

        return TestedChannels(channels=tuple(await asyncio.gather(*map(one, self.channels.values()))))

    async def close(self, seconds: float) -> int:
        """Send what is due for at most so many seconds; return how many messages wait for the next process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(self.deliver, self.channels.values()))
        return sum(map(len, self._waiting.values()))

    # One message

    def _told(self, name: str) -> list[Told]:
        found = []
        for entry in self._waiting[name]:
            alert = self._find(entry.key)
            if alert is not None:
                found += [Told(alert, each) for each in alert.messages if _is(each, name, entry.event)]
        return found

    def _due(self, channel: Channel) -> list[Told]:
        """Return what the next message tells; nothing where none is due."""
        now, told_all = self._now(), []
        for each in self._told(channel.name):
            if each.message.attempts and now - each.message.at > self._deadline:
                self._give_up(channel, _entry(each), "expired", each.message.problem)
            else:
                told_all.append(each)
        if not channel.for_people:  # one at a time, in order
            return [each for each in told_all[:1] if each.message.due <= now]
        for first in told_all:
            if first.message.id and first.message.due <= now:
                return [each for each in told_all if each.message.id == first.message.id]
        new = [each for each in told_all if not each.message.id]
        if any(each.message.due <= now for each in new):
            return [each for each in new if each.message.due <= now or not each.message.quiet]
        return []

    async def _send(self, channel: Channel, told: list[Told]) -> bool:
        """Send one message and note how that went; return whether it is done with."""
        if not told[0].message.id:
            message_id = self._id_of(channel, told)
            for each in told:
                self._note(channel.name, _entry(each), id=message_id)
            if self._persist is not None:
                with contextlib.suppress(
                    ComplexSystemError, TimeoutError
                ):  # the news that the database is away must go out, too
                    async with asyncio.timeout(KEEP_SECONDS):
                        await self._persist()
            told = [Told(each.alert, replace(each.message, id=message_id)) for each in told]
        attempts = told[0].message.attempts + 1
        error = await _attempt(channel, told)
        if error is not None and error.for_good:
            for each in told:
                self._give_up(channel, _entry(each), "refused", error.problem)
            return True
        if error is not None:
            pause = pause_after(attempts)
            log.warning("The receiver %s did not take an alert: %s. Again in %g s.", channel.place, error.problem, pause)
            for each in told:
                self._note(channel.name, _entry(each), attempts=attempts, due=self._now() + pause, problem=error.problem)
            return False
        log.info("The receiver %s has %d alert(s)", channel.place, len(told))
        for each in told:
            self._done(channel.name, _entry(each), outcome="delivered", attempts=attempts, finished=self._now(), problem="")
        return True

    def _id_of(self, channel: Channel, told: Sequence[Told]) -> str:
        first = told[0]
        if not channel.for_people:
            return f"{first.alert.key}-{first.message.event}"
        members = "\0".join(f"{each.alert.key}-{each.message.event}" for each in told)
        digest = hashlib.sha256(f"{channel.name}\0{members}".encode()).digest()
        return uuid7(int(self._now() * 1000), int.from_bytes(digest[:10], "big"))

    def _give_up(
        self, channel: Channel, entry: _Waiting, outcome: Literal["refused", "expired", "dropped"], problem: str
    ) -> None:
        alert = self._find(entry.key)
        log.error("An alert of rule '%s' is %s by or for the receiver %s, and not sent again: %s",
                  alert.rule if alert else "?", outcome, channel.place, problem)  # fmt: skip
        self._done(channel.name, entry, outcome=outcome, finished=self._now(), problem=problem)

    def _done(self, name: str, entry: _Waiting, **changes: object) -> None:
        self._waiting[name].remove(entry)
        self._note(name, entry, **changes)

    def _note(self, name: str, entry: _Waiting, **changes: object) -> None:
        def changed(alert: Alert) -> Alert:
            messages = (replace(each, **changes) if _is(each, name, entry.event) else each for each in alert.messages)
            return replace(alert, messages=tuple(messages))

        self._change(entry.key, changed)


async def _attempt(channel: Channel, told: Sequence[Told]) -> NotDeliveredError | None:
    """Send a message in a thread; return why the receiver does not have it."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await run(lambda: channel.send(told), channel.name)
    except NotDeliveredError as error:
        return error
    except TimeoutError:
        return NotDeliveredError(f"no answer within {SEND_SECONDS:g} s")
    return None


def _is(message: SentMessage, channel: str, event: Kind) -> bool:
    return message.channel == channel and message.event == event and message.outcome == "waiting"


def _entry(told: Told) -> _Waiting:
    return _Waiting(told.alert.key, told.message.event)
