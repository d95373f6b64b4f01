"""Training rounds from the look at the data to the models that are handed in, one at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from complex_system.errors import TrainingFailedError
from complex_system.evaluation.comparison import Comparison
from complex_system.evaluation.mlflow_log import ComparisonLog
from complex_system.evaluation.rounds import RoundTrigger, TrainingRound
from complex_system.evaluation.triggers import AlertReaction, Cause
from complex_system.messaging.clients import DatabaseClient
from complex_system.service_layer.rounds.comparing import Asked, HandedIn
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.service_layer.rounds.runner import RoundRunner, new_round_id
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelRegistry

log = logging.getLogger(__name__)

Announce = Callable[[dict[str, Any]], Awaitable[None]]
Report = Callable[[str], Awaitable[None]]


class TrainingRounds:
    """Says when a round begins, carries it out, and keeps what later rounds must know.

    A round begins when the labelled records have grown, or on an alert that asks for one and has enough new labelled records. After
    an alert the trainers see the newest records only: what was measured before it may follow another law. When such a round brought
    a new champion, later rounds leave out the old records as well.

    Attributes:
        reaction: The alerts that ask for a round.
        trigger: When the growth of the data asks for one; None until MLflow was asked for the last round.
        waits: What a round is waiting for, in words; empty for nothing.
    """

    def __init__(
        self, settings: Settings, database: DatabaseClient, data: LabelledData, runner: RoundRunner,
        version: str, announce: Announce, report: Report,
    ) -> None:  # fmt: skip
        """Prepares it.

        Args:
            settings: The consumer's.
            database: Counts records.
            data: The labelled ones.
            runner: Asks the trainers.
            version: Pipeline version that the records must have.
            announce: Publishes a value of ``TRAINING_ROUND``.
            report: Says what the service works on.
        """
        self._settings = settings
        self._database = database
        self._data = data
        self._runner = runner
        self._version = version
        self._announce = announce
        self._report = report
        self.reaction = AlertReaction(settings.retrain_pause)
        self.trigger: RoundTrigger | None = None
        self.waits = ""
        self.after: str | None = None
        self.counting = 0.0
        self._begun: HandedIn | None = None
        self._outside: dict[str, tuple[str, str, str]] = {}
        self._outside_since = 0.0

    async def recall(self, registry: ModelRegistry, comparisons: ComparisonLog, asked: Asked) -> None:
        """Reads what an earlier run of this service did, once, so that a restart costs no round."""
        if self.trigger is not None:
            return

        def read() -> tuple[int | None, str | None]:
            champion = registry.champion()
            known = champion is not None and champion.pipeline_version == self._version
            return (comparisons.last_labelled(), comparisons.last_after()) if known else (None, None)

        last, self.after = await asked(read)
        if last is not None:
            log.info("The last round had %d labelled records", last)
        self.trigger = RoundTrigger(self._settings.min_labelled, self._settings.retrain_growth, last)

    def made_outside(self, outcome: dict[str, Any]) -> None:
        """Takes a model that a trainer made by itself; it is compared, too."""
        model = (str(outcome["model"]), str(outcome["version"]))
        self._outside[model[0]] = (*model, str(outcome.get("round") or new_round_id()))
        self._outside_since = time.monotonic()

    async def next(self, outside_pause: float) -> HandedIn | None:
        """One look; carries out the round that is due. Returns the models to compare, or None.

        Args:
            outside_pause: Seconds without another model from outside until those that came are compared.

        Raises:
            TrainingFailedError: The round ended without a model; call :meth:`failed`.
        """
        assert self.trigger is not None
        began = time.monotonic()
        counts = await self._database.counts()
        self.counting = time.monotonic() - began
        grown = self.trigger.due(counts, time.monotonic())
        cause = self.reaction.due(time.monotonic()) if self.trigger.last_labelled is not None else None
        after = await self._enough_since(cause)
        if cause is not None and after is not None:
            return await self._train(HandedIn(new_round_id(), [], counts.labelled, after, cause))
        if grown and await self._all_processed(counts.raw):
            return await self._train(HandedIn(new_round_id(), [], counts.labelled, self.after))
        if self._outside and time.monotonic() - self._outside_since >= outside_pause:
            outside, self._outside = list(self._outside.values()), {}
            return HandedIn(outside[-1][2], [(model, version) for model, version, _ in outside], after=self.after)
        return None

    def compared(self, waiting: HandedIn, comparison: Comparison) -> None:
        """Takes the end of a round."""
        if waiting.labelled is not None and self.trigger is not None:
            self.trigger.done(waiting.labelled)
        if waiting.cause is not None:
            self.reaction.done(time.monotonic(), improved=comparison.is_change)
            if comparison.is_change:
                self.after = waiting.after

    async def failed(self, waiting: HandedIn | None, problem: str) -> str:
        """Takes a round that brought no model; returns the problem with the time of the next round.

        Args:
            waiting: The models that could not be compared; None where the trainers handed nothing in.
            problem: What went wrong.
        """
        of = waiting or self._begun
        self._begun = None
        if of is None or of.labelled is None or self.trigger is None:
            return problem
        now = time.monotonic()
        if of.cause is None:
            text = f"{problem} The next round comes after {self.trigger.failed(of.labelled, now):.0f} s, or with new data."
        else:
            pause = self.reaction.done(now, improved=False)
            text = f"{problem} The next round comes after {pause:.0f} s, if the alert is still there."
        await self._tell(of, "failed", text)
        return text

    async def _enough_since(self, cause: Cause | None) -> str | None:
        """The key after which the newest labelled records begin, once there are enough since the alert began."""
        self.waits = ""
        if cause is None:
            return None
        wanted = self._settings.retrain_newest
        have, after = await self._data.newest(wanted, cause.since)
        if after is None:
            self.waits = f"an alert asks for a training round: {have} of {wanted} new labelled records"
        return after

    async def _all_processed(self, raw: int) -> bool:
        # Counts say nothing of versions: after a change of the pipeline all records are counted and none is of the new one.
        few = min(1000, max(2, raw // 100))
        found, after = 0, None
        while found < few:
            page = await self._database.unprocessed(self._version, few - found, after)
            found, after = found + page.table.num_rows, page.next
            if after is None:
                return True
        return False

    async def _train(self, begun: HandedIn) -> HandedIn | None:
        self._begun = begun
        log.info("Training round %s begins with %d labelled records (%s)", begun.round, begun.labelled, begun.why)
        await self._tell(begun, "started", begun.cause.text if begun.cause else "")

        async def say(current: TrainingRound) -> None:
            await self._report(f"training round {begun.round}: waits for {', '.join(current.open)}")

        done = await self._runner.run(begun.round, self._settings.trainer_names, say, begun.after)
        if done is None:
            return None
        for trainer, problem in done.problems.items():
            log.warning("Round %s goes on without %s: %s", begun.round, trainer, problem)
        if not done.finished:
            reasons = "; ".join(f"{trainer}: {problem}" for trainer, problem in done.problems.items())
            raise TrainingFailedError(f"Training round {begun.round} ended without a model ({reasons}).")
        begun.models = [(str(outcome["model"]), str(outcome["version"])) for outcome in done.finished]
        begun.models += [(model, version) for model, version, _ in self._outside.values()]
        self._outside.clear()
        self._begun = None
        return begun

    async def _tell(self, of: HandedIn, stage: str, text: str) -> None:
        await self._announce({
            "round": of.round, "stage": stage, "cause": of.why, "alerts": list(of.cause.alerts) if of.cause else [],
            "after": of.after, "labelled": of.labelled, "text": text,
        })  # fmt: skip
