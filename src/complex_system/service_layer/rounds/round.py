"""One training round over the broker: the request to every trainer, and the wait until each has finished, failed or vanished."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from msgspec import structs

from complex_system.errors import ComplexSystemError
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.subjects import reply_subject
from complex_system.messaging.things import to_thing, value_of
from complex_system.protocol.training import TRAIN_MODEL, TrainingFinished, TrainingProgress, TrainReply, TrainRequest

log = logging.getLogger(__name__)

REPLY_SECONDS = 1.0
"""How long the trainers' replies to a request are collected."""

Status = Literal["asked", "training", "finished", "failed", "missing"]


def new_round_id() -> str:
    """Return a short id for a round."""
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class RoundTimes:
    """Seconds of a round.

    Attributes:
        timeout: How long the round waits for its trainers altogether.
        patience: How long a trainer may be silent before the round goes on without it.
        ask_again: Pause between two requests to a trainer that has not accepted.
        check_again: Silence after which a training trainer is asked whether it is still at it.
    """

    timeout: float = 1800.0
    patience: float = 120.0
    ask_again: float = 1.5
    check_again: float = 15.0


@dataclass
class _Trainer:
    since: float
    status: Status = "asked"
    asked: float | None = None
    problem: str = ""
    outcome: TrainingFinished | None = None


class RoundState:
    """The trainers of one round: to be asked, training, finished, failed or given up. All times are monotonic seconds."""

    def __init__(self, round_id: str, trainers: Iterable[str], now: float, times: RoundTimes) -> None:
        self.id = round_id
        self._times = times
        self._started = now
        self._trainers = {name: _Trainer(now) for name in trainers}

    @property
    def open(self) -> list[str]:
        """Trainers that the round still waits for."""
        return [name for name, trainer in self._trainers.items() if trainer.status in ("asked", "training")]

    @property
    def finished(self) -> list[TrainingFinished]:
        """The trainings that ended with a model."""
        return [each.outcome for each in self._trainers.values() if each.outcome and each.status == "finished"]

    @property
    def statuses(self) -> dict[str, Status]:
        """Status by trainer."""
        return {name: trainer.status for name, trainer in self._trainers.items()}

    @property
    def problems(self) -> dict[str, str]:
        """Why a trainer has no model for the round, by name."""
        return {
            name: trainer.problem or "no reason given"
            for name, trainer in self._trainers.items()
            if trainer.status in ("failed", "missing")
        }

    def to_ask(self, now: float) -> list[str]:
        """Return the trainers to send the request to now; record that it is sent."""
        due = []
        for name in self.open:
            trainer = self._trainers[name]
            training = trainer.status == "training"
            pause = self._times.check_again if training else self._times.ask_again
            last = max(trainer.since, trainer.asked or trainer.since) if training else trainer.asked
            if last is None or now - last >= pause:
                trainer.asked = now
                due.append(name)
        return due

    def replied(self, reply: TrainReply, now: float) -> None:
        """Take a trainer's reply to the request.

        Accepted means that it trains; busy with this very round means the same. Busy with something else means that it is there
        and will be asked again. After any other refusal it still counts as silent.
        """
        trainer = self._waiting_for(reply.trainer)
        if trainer is None:
            return
        if reply.accepted or (reply.reason == "busy" and reply.round == self.id):
            trainer.status, trainer.since = "training", now
        elif reply.reason == "busy":
            trainer.status, trainer.since = "asked", now
        elif reply.reason != "not asked":
            trainer.problem = f"refused: {reply.reason}"

    def progressed(self, progress: TrainingProgress, now: float) -> None:
        """Take the progress of a training; one of another round is ignored."""
        trainer = self._waiting_for(progress.trainer)
        if trainer is not None and progress.round == self.id:
            trainer.status, trainer.since = "training", now

    def ended(self, outcome: TrainingFinished) -> None:
        """Take the end of a training; one of another round is ignored."""
        trainer = self._waiting_for(outcome.trainer)
        if trainer is not None and outcome.round == self.id:
            trainer.status, trainer.problem, trainer.outcome = outcome.status, outcome.error, outcome

    def give_up(self, now: float) -> None:
        """Go on without trainers that have been silent for too long, and without all when the round's time is over."""
        for name in self.open:
            trainer = self._trainers[name]
            if now - self._started >= self._times.timeout:
                problem = f"not done after {self._times.timeout:g} s"
            elif now - trainer.since >= self._times.patience:
                problem = f"silent for {self._times.patience:g} s"
            else:
                continue
            trainer.status, trainer.problem = "missing", trainer.problem or problem

    def _waiting_for(self, name: str) -> _Trainer | None:
        return self._trainers[name] if name in self.open else None


class RoundRunner:
    """Runs one round at a time. The owner passes on the events that it hears."""

    def __init__(self, broker: ServiceConnection, sender: str, times: RoundTimes) -> None:
        self._broker = broker
        self._sender = sender
        self._times = times
        self._news = asyncio.Event()
        self._stopped = False
        self.round: RoundState | None = None

    async def run(
        self,
        round_id: str,
        trainers: Iterable[str],
        on_wait: Callable[[RoundState], Awaitable[None]],
        request: TrainRequest,
    ) -> RoundState | None:
        """Run a round; return when every trainer has finished, failed or been given up, None after :meth:`stop`.

        Args:
            round_id: Id of the round.
            trainers: Names of the trainers that are meant.
            on_wait: Called whenever something has changed.
            request: Which records are trained on, and how they are weighted.
        """
        current = self.round = RoundState(round_id, trainers, time.monotonic(), self._times)
        try:
            while current.open and not self._stopped:
                await on_wait(current)
                await self._ask(current, request)
                current.give_up(time.monotonic())
                self._news.clear()
                if current.open and not self._stopped:
                    await self._wait_for_news()
            return None if self._stopped else current
        finally:
            self.round = None

    def stop(self) -> None:
        """End the wait of the round that runs, so that the service can stop. The trainers go on."""
        self._stopped = True
        self._news.set()

    def progressed(self, progress: TrainingProgress) -> None:
        """Pass a progress event on."""
        if self.round is not None:
            self.round.progressed(progress, time.monotonic())

    def ended(self, outcome: TrainingFinished) -> bool:
        """Pass the end of a training on; return False if it does not belong to the round that runs."""
        if self.round is None or outcome.round != self.round.id:
            return False
        self.round.ended(outcome)
        self._news.set()
        return True

    async def _ask(self, current: RoundState, request: TrainRequest) -> None:
        names = current.to_ask(time.monotonic())
        if not names:
            return
        asked = to_thing(structs.replace(request, round=current.id, trainers=names), self._sender)
        # Trainers that are not meant reply, too, so as many replies are expected as there are trainers.
        replies = await self._broker.gather(reply_subject(TRAIN_MODEL), asked, REPLY_SECONDS, len(current.statuses))
        for thing in replies:
            try:
                reply = TRAIN_MODEL.decode_reply(value_of(thing))
            except ComplexSystemError as error:
                log.warning("A trainer's reply is an error: %s", error.message)
                continue
            if reply.trainer in names:
                current.replied(reply, time.monotonic())

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(min(0.5, self._times.ask_again)):
                await self._news.wait()
        except TimeoutError:
            pass
