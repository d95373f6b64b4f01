"""When a training round is due, and where its trainers are. Pure bookkeeping: no clock, no broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from complex_system.protocol.database import RecordCounts

SETTLED_SHARE = 0.01
"""Data are settled when at most this share of the raw records is neither processed nor rejected ..."""
SETTLED_GROWTH = 0.02
"""... and they grew by less than this share since the last look."""
SETTLE_PATIENCE = 60.0
"""Seconds after which a due round starts although the data have not settled."""
FAILED_FIRST = 30.0
"""Seconds from a round without a model to the next one; doubled with every further one ..."""
FAILED_LAST = 1800.0
"""... up to this."""


class RoundTrigger:
    """Says when a training round is due."""

    def __init__(self, min_labelled: int, growth: float, last_labelled: int | None = None) -> None:
        """Makes a trigger.

        Args:
            min_labelled: Labelled records that a round needs.
            growth: Share by which the labelled records must have changed since the last round.
            last_labelled: Labelled records at the last round; None when there was none.
        """
        self._min_labelled = min_labelled
        self._growth = growth
        self.last_labelled = last_labelled
        self._raw_before: int | None = None
        self._enough_since: float | None = None
        self._failures = 0
        self._failed_labelled = 0
        self._not_before = 0.0

    def due(self, counts: RecordCounts, now: float) -> bool:
        """Takes a look at the record counts.

        Args:
            counts: ``raw``, ``processed``, ``labelled`` and ``rejected``.
            now: Monotonic time in seconds.

        Returns:
            Whether a round is due: enough new labelled records, and the data settled or 60 s of waiting for that. After a round
            without a model a pause has to be over too, unless the data have changed as much as a new round wants it.
        """
        raw_before, self._raw_before = self._raw_before, counts.raw
        if not self._enough(counts.labelled):
            self._enough_since = None
            return False
        if self._failures and self._has_changed(counts.labelled, self._failed_labelled):
            self._failures = 0
        if self._failures and now < self._not_before:
            return False
        if self._enough_since is None:
            self._enough_since = now
        if now - self._enough_since >= SETTLE_PATIENCE:
            return True
        raw = counts.raw
        waiting = abs(raw - counts.processed - counts.rejected)
        return raw_before is not None and waiting <= SETTLED_SHARE * raw and raw - raw_before <= SETTLED_GROWTH * raw_before

    def done(self, labelled: int) -> None:
        """Notes that a round with so many labelled records was carried out."""
        self.last_labelled = labelled
        self._enough_since = None
        self._failures = 0

    def failed(self, labelled: int, now: float) -> float:
        """Notes that a round with so many labelled records ended without a model; returns the seconds until the next one."""
        pause: float = min(FAILED_FIRST * 2 ** min(self._failures, 10), FAILED_LAST)
        self._failures += 1
        self._failed_labelled, self._not_before = labelled, now + pause
        self._enough_since = None
        return pause

    def _enough(self, labelled: int) -> bool:
        if labelled < self._min_labelled:
            return False
        return self.last_labelled is None or self._has_changed(labelled, self.last_labelled)

    def _has_changed(self, labelled: int, before: int) -> bool:
        # Fewer than before happens too: the database was emptied and filled anew.
        return abs(labelled - before) >= self._growth * before


Status = Literal["asked", "training", "finished", "failed", "missing"]


@dataclass
class _Trainer:
    since: float
    status: Status = "asked"
    asked: float | None = None
    outcome: dict[str, Any] = field(default_factory=dict)


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


class TrainingRound:
    """One round: which trainers are still to be asked, at work, done or given up. All times are monotonic seconds."""

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
    def finished(self) -> list[dict[str, Any]]:
        """What the trainers that finished handed in."""
        return [trainer.outcome for trainer in self._trainers.values() if trainer.status == "finished"]

    @property
    def statuses(self) -> dict[str, Status]:
        """Where each trainer is."""
        return {name: trainer.status for name, trainer in self._trainers.items()}

    @property
    def problems(self) -> dict[str, str]:
        """Why a trainer handed nothing in, by name."""
        return {
            name: str(trainer.outcome.get("error") or "no reason given")
            for name, trainer in self._trainers.items()
            if trainer.status in ("failed", "missing")
        }

    def to_ask(self, now: float) -> list[str]:
        """Trainers to be sent the request now; notes that it is sent."""
        due = []
        for name in self.open:
            trainer = self._trainers[name]
            at_work = trainer.status == "training"
            pause = self._times.check_again if at_work else self._times.ask_again
            last = max(trainer.since, trainer.asked or trainer.since) if at_work else trainer.asked
            if last is None or now - last >= pause:
                trainer.asked = now
                due.append(name)
        return due

    def answered(self, reply: Mapping[str, Any], now: float) -> None:
        """Takes a trainer's answer to the request.

        Accepted means it trains; busy with this very round means the same. Busy with something else means it is there and will be
        asked again. Any other refusal does not count as a sign of life.
        """
        trainer = self._open(reply)
        if trainer is None:
            return
        if reply.get("accepted") or (reply.get("reason") == "busy" and reply.get("round") == self.id):
            trainer.status, trainer.since = "training", now
        elif reply.get("reason") == "busy":
            trainer.status, trainer.since = "asked", now
        elif reply.get("reason") != "not asked":
            trainer.outcome = {"error": f"refused: {reply.get('reason')}"}

    def progressed(self, progress: Mapping[str, Any], now: float) -> None:
        """Takes a sign of life of a trainer."""
        trainer = self._open(progress)
        if trainer is not None and progress.get("round") == self.id:
            trainer.status, trainer.since = "training", now

    def ended(self, outcome: Mapping[str, Any]) -> None:
        """Takes what a trainer announced at its end, if it belongs to this round."""
        trainer = self._open(outcome)
        if trainer is not None and outcome.get("round") == self.id:
            trainer.status = "finished" if outcome.get("status") == "finished" else "failed"
            trainer.outcome = dict(outcome)

    def give_up(self, now: float) -> None:
        """Goes on without trainers that have been silent for too long, and without all when the round's time is over."""
        for name in self.open:
            trainer = self._trainers[name]
            if now - self._started >= self._times.timeout:
                reason = f"not done after {self._times.timeout:g} s"
            elif now - trainer.since >= self._times.patience:
                reason = f"silent for {self._times.patience:g} s"
            else:
                continue
            trainer.status = "missing"
            trainer.outcome.setdefault("error", reason)

    def _open(self, message: Mapping[str, Any]) -> _Trainer | None:
        trainer = self._trainers.get(str(message.get("trainer")))
        return trainer if trainer is not None and trainer.status in ("asked", "training") else None
