"""What begins when: looks at the data and the alerts, starts the round that is due, and returns the models to compare."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from complex_system.domain.dataset import Dataset
from complex_system.errors import ReplyTimeoutError, TrainingFailedError
from complex_system.evaluation.comparison import ComparisonRequest
from complex_system.evaluation.mlflow_log import ComparisonLog, LastRounds
from complex_system.evaluation.triggers import AlertCause, AlertTrigger, GrowthTrigger
from complex_system.messaging.clients import DatabaseClient
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.training import TrainingRound, TrainRequest
from complex_system.service_layer.rounds.champion import RunBlocking
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.service_layer.rounds.round import RoundRunner, RoundState, new_round_id
from complex_system.settings import Settings
from complex_system.tracking.promotion import PromotionRegistry
from complex_system.tracking.registry import COMPARED, ModelRegistry

log = logging.getLogger(__name__)

UNCOMPARED_INTERVAL = 60.0
"""Seconds between two questions for models that were never compared."""
COUNTING_PAUSE, MAX_COUNTING_PAUSE = 10.0, 60.0
"""Pause between two counts of what is new since an alert, as a multiple of what one takes, and in seconds at most: all that arrived
since then is read for it, labelled or not, and labels may come hours later."""


@dataclass
class RoundScheduler:
    """Starts training rounds, one at a time, and keeps what later rounds must know.

    A round begins when the labelled records have grown or were corrected, or on an alert that asks for one and has enough new
    labelled records.
    After an alert of the error the trainers see only what is newer than its change, because older records follow another law. When
    such a round brings a new champion, later rounds leave out the older records as well. After an alert of the inputs alone the law is
    the same: the trainers see all records.

    Attributes:
        settings: The consumer's.
        database: Counts records.
        data: The labelled ones.
        runner: Runs a round.
        dataset: What is declared: the records must have its pipeline version, and a champion of another split is replaced.
        announce: Publishes the begin and the failure of a round.
        report: Sets what the service works on.
        growth: When the growth of the data asks for a round; None until MLflow was asked for the last round.
        waits: What a round is waiting for; empty for nothing.
        since: Later rounds use only records whose time is later; None for all.
        after: Later rounds use only records with larger keys, after a round of an earlier release; None for all.
        counting: Seconds that the database took to count its records.
        alerts: The alerts that ask for a round.
    """

    settings: Settings
    database: DatabaseClient
    data: LabelledData
    runner: RoundRunner
    dataset: Dataset
    announce: Callable[[TrainingRound], Awaitable[None]]
    report: Callable[[str], Awaitable[None]]
    growth: GrowthTrigger | None = field(default=None, init=False)
    waits: str = field(default="", init=False)
    since: float | None = field(default=None, init=False)
    after: str | None = field(default=None, init=False)
    counting: float = field(default=0.0, init=False)
    _stale: bool = field(default=True, init=False)
    _why: str = field(default="", init=False)
    _begun: ComparisonRequest | None = field(default=None, init=False)
    _outside: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)
    _outside_since: float = field(default=0.0, init=False)
    _looked: float = field(default=-math.inf, init=False)
    _counts_again: tuple[float, float] = field(default=(-math.inf, -math.inf), init=False)
    _compared: set[tuple[str, str]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.alerts = AlertTrigger(self.settings.retrain_pause)

    async def recall(self, registry: PromotionRegistry, comparisons: ComparisonLog, run_blocking: RunBlocking) -> None:
        """Read from MLflow, once and after :meth:`forget`, what an earlier run of this service did: a restart starts no round.

        After a change of the declared split, a round begins at once: the champion may know the records that decide now.
        """
        if not self._stale:
            return
        self._stale = False

        def read() -> tuple[LastRounds, str]:
            champion = registry.champion() or registry.candidate()
            if champion is None or champion.pipeline_version != self.dataset.version:
                return LastRounds(), ""
            return comparisons.recall(champion.tags.get(COMPARED, "")), champion.split

        try:
            last, split = await run_blocking(read)
        except BaseException:
            self._stale = True
            raise
        self.since, self.after = last.since, last.after
        if self.growth is not None:  # a person changed the champion, and the data did not
            return
        if split and split != self.dataset.split_rule:
            self._why = f"The declared split is another one than the champion's ({split}; now {self.dataset.split_rule})."
            log.info("%s A training round begins", self._why)
            last = last._replace(labelled=None)
        if last.labelled is not None:
            log.info("The last round had %d labelled records", last.labelled)
        self.growth = GrowthTrigger(self.settings.min_labelled, self.settings.retrain_growth, last.labelled, last.corrected)

    def forget(self) -> None:
        """Read from MLflow again what later rounds must know, because a person has changed the champion."""
        self._stale = True

    def trained_outside(self, model: str, version: str, round_id: str) -> None:
        """Take a model that a trainer made on its own schedule; it is compared, too."""
        if (model, version) not in self._compared and self._outside.get(model) != (version, round_id):
            self._outside[model] = version, round_id
            self._outside_since = time.monotonic()

    async def look_for_uncompared(self, registry: ModelRegistry, run_blocking: RunBlocking) -> None:
        """Ask MLflow for models that were never compared: made while this service was away, or whose event was missed."""
        if time.monotonic() - self._looked >= UNCOMPARED_INTERVAL:
            for ref in await run_blocking(partial(registry.uncompared, self.dataset.version, self.dataset.split_rule)):
                self.trained_outside(ref.model, ref.version, ref.tags.get("round", ""))
            self._looked = time.monotonic()

    async def next(self, outside_pause: float) -> ComparisonRequest | None:
        """Run the round that is due now, if any, and return the models to compare.

        Args:
            outside_pause: Seconds without another model from outside until those that came are compared.

        Raises:
            TrainingFailedError: The round ended without a model; call :meth:`failed`.
        """
        assert self.growth is not None
        began = time.monotonic()
        counts = await self.database.counts()
        self.counting = time.monotonic() - began
        grown = self.growth.is_due(counts, time.monotonic())
        alert = self.alerts.due(time.monotonic()) if self.growth.last_labelled is not None else None
        if await self._enough_since(alert) and alert is not None:
            return await self._train(self._because_of(alert, counts))
        if self.growth.last_labelled is None and counts.labelled < self.growth.min_labelled:
            self.waits = (
                f"the first training round needs {self.growth.min_labelled} labelled records (COMPLEX_SYSTEM_MIN_LABELLED), "
                f"and there are {counts.labelled}"
            )
        if grown and await self._processed_but(self.growth.most_waiting(counts)):
            request = ComparisonRequest(
                new_round_id(), [], counts.labelled, self.since, None, counts.corrected, self.after,
                first=self.growth.last_labelled is None,
            )  # fmt: skip
            return await self._train(request)
        if self._outside and time.monotonic() - self._outside_since >= outside_pause:
            _, newest_round = list(self._outside.values())[-1]
            return ComparisonRequest(
                newest_round or new_round_id(), self._take_outside(), since=self.since, after=self.after
            )
        return None

    def compared(self, request: ComparisonRequest, *, improved: bool) -> None:
        """Record the end of a round; ``improved`` says whether there is a new champion."""
        self._compared = set(request.models)
        if request.labelled is not None and self.growth is not None:
            self._why = ""
            self.growth.succeeded(request.labelled, request.corrected)
        if request.alert is not None:
            self.alerts.finished(time.monotonic(), improved=improved)
            if improved and request.alert.moved == "error":
                self.since, self.after = request.since, None

    async def failed(self, request: ComparisonRequest | None, problem: str) -> str:
        """Record a round without a model; return the problem with the time of the next round.

        Args:
            request: The models that could not be compared; None where no trainer has one.
            problem: What went wrong.
        """
        of, self._begun = request or self._begun, None
        if of is None or of.labelled is None or self.growth is None:
            return problem
        now = time.monotonic()
        if of.alert is None:
            pause = self.growth.failed(of.labelled, of.corrected, now)
            text = f"{problem} The next round comes after {pause:.0f} s, or with new data."
        else:
            pause = self.alerts.finished(now, improved=False)
            text = f"{problem} The next round comes after {pause:.0f} s, if the alert is still open."
        await self._tell(of, "failed", text)
        return text

    async def _enough_since(self, alert: AlertCause | None) -> bool:
        """Return whether enough labelled records are newer than what the alert is of."""
        if alert is None:
            self.waits = ""
            return False
        began = time.monotonic()
        since, again = self._counts_again
        if alert.since == since and began < again:
            return False
        self.waits, wanted = "", self.settings.retrain_newest
        asked = "an alert asks for a training round"
        try:
            have, _ = await self.data.newest(wanted, alert.since)
        except ReplyTimeoutError as error:  # it must not hold up what the growth of the data asks for
            log.warning("The labelled records that are new since an alert cannot be counted: %s", error.message)
            have, self.waits = 0, f"{asked}, and the new labelled records cannot be counted: {error.message}"
        if have < wanted:
            self.waits = self.waits or f"{asked}: {have} of {wanted} new labelled records"
            ended = time.monotonic()
            self._counts_again = alert.since, ended + min(COUNTING_PAUSE * (ended - began), MAX_COUNTING_PAUSE)
            return False
        return True

    def _because_of(self, alert: AlertCause, counts: RecordCounts) -> ComparisonRequest:
        """Return the request of a round on an alert: on what is newer where the error has moved, else on all records."""
        request = ComparisonRequest(new_round_id(), [], counts.labelled, alert=alert, corrected=counts.corrected)
        if alert.moved == "error":
            return replace(request, since=alert.since)
        return replace(request, since=self.since, after=self.after)

    async def _processed_but(self, most: int) -> bool:
        # The counts are of any pipeline version: after a change of the pipeline they include records of the old one.
        found, after = 0, None
        while found <= most:
            page = await self.database.unprocessed(self.dataset.version, most + 1 - found, after)
            found, after = found + page.table.num_rows, page.next
            if after is None:
                return found <= most
        return False

    async def _train(self, begun: ComparisonRequest) -> ComparisonRequest | None:
        self._begun = begun
        log.info("Training round %s begins with %d labelled records (%s)", begun.round, begun.labelled, begun.cause)
        await self._tell(begun, "started", begun.alert.text if begun.alert else self._why)

        async def report(current: RoundState) -> None:
            await self.report(f"training round {begun.round}: waits for {', '.join(current.open)}")

        records = TrainRequest(since=begun.since, after=begun.after)
        done = await self.runner.run(begun.round, self.settings.trainer_names, report, records)
        if done is None:
            return None
        for trainer, problem in done.problems.items():
            log.warning("Round %s goes on without %s: %s", begun.round, trainer, problem)
        if not done.finished:
            reasons = "; ".join(f"{trainer}: {problem}" for trainer, problem in done.problems.items())
            raise TrainingFailedError(f"Training round {begun.round} ended without a model ({reasons}).")
        begun.models = [(outcome.model, outcome.version) for outcome in done.finished] + self._take_outside()
        self._begun = None
        return begun

    def _take_outside(self) -> list[tuple[str, str]]:
        outside, self._outside = self._outside, {}
        return [(model, version) for model, (version, _) in outside.items()]

    async def _tell(self, of: ComparisonRequest, stage: Literal["started", "failed"], text: str) -> None:
        alerts = of.alert.alerts if of.alert else ()
        await self.announce(
            TrainingRound(
                round=of.round,
                stage=stage,
                cause=of.cause,
                alerts=alerts,
                moved=of.alert.moved if of.alert else None,
                since=of.since,
                after=of.after,
                labelled=of.labelled,
                text=text,
            )
        )
