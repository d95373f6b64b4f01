"""One training round over the broker: the request to every trainer, and the wait for what they hand in."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from complex_system.errors import ComplexSystemError
from complex_system.evaluation.rounds import RoundTimes, TrainingRound
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.errors import to_thing, value_of
from complex_system.messaging.subjects import TRAIN_MODEL_SUBJECT

log = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0
"""How long the trainers' answers to a request are collected."""


def new_round_id() -> str:
    """A short id of a round."""
    return uuid.uuid4().hex[:8]


class RoundRunner:
    """Runs one round at a time. The owner passes on the events that it hears."""

    def __init__(self, broker: ServiceConnection, sender: str, times: RoundTimes) -> None:
        self._broker = broker
        self._sender = sender
        self._times = times
        self._news = asyncio.Event()
        self._stopped = False
        self.round: TrainingRound | None = None

    async def run(
        self,
        round_id: str,
        trainers: Iterable[str],
        on_wait: Callable[[TrainingRound], Awaitable[None]],
        after: str | None = None,
    ) -> TrainingRound | None:
        """Carries a round out: returns when every trainer has finished, failed or been given up; None after :meth:`stop`.

        Args:
            round_id: Id of the round.
            trainers: Names of the trainers that are meant.
            on_wait: Called whenever something has changed.
            after: The trainers use only records with larger keys; None for all.
        """
        current = self.round = TrainingRound(round_id, trainers, time.monotonic(), self._times)
        try:
            while current.open and not self._stopped:
                await on_wait(current)
                await self._ask(current, after)
                current.give_up(time.monotonic())
                self._news.clear()
                if current.open and not self._stopped:
                    await self._wait_for_news()
            return None if self._stopped else current
        finally:
            self.round = None

    def stop(self) -> None:
        """Ends the wait of a round that runs, so that the service can stop. The trainers go on."""
        self._stopped = True
        self._news.set()

    def progressed(self, progress: dict[str, Any]) -> None:
        """Passes a progress event on."""
        if self.round is not None:
            self.round.progressed(progress, time.monotonic())

    def ended(self, outcome: dict[str, Any]) -> bool:
        """Passes the end of a training on; False if it does not belong to the round that runs."""
        if self.round is None or outcome.get("round") != self.round.id:
            return False
        self.round.ended(outcome)
        self._news.set()
        return True

    async def _ask(self, current: TrainingRound, after: str | None) -> None:
        names = current.to_ask(time.monotonic())
        if not names:
            return
        only = {} if after is None else {"after": after}
        request = to_thing({"round": current.id, "trainers": names, **only}, self._sender)
        # Everybody answers, also who is not meant, so as many answers are expected as there are trainers.
        replies = await self._broker.gather(TRAIN_MODEL_SUBJECT, request, ANSWER_SECONDS, len(current.statuses))
        for thing in replies:
            try:
                reply = value_of(thing)
            except ComplexSystemError as error:
                log.warning("A trainer answers with an error: %s", error.message)
                continue
            if isinstance(reply, dict) and reply.get("trainer") in names:
                current.answered(reply, time.monotonic())

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(min(0.5, self._times.ask_again)):
                await self._news.wait()
        except TimeoutError:
            pass
