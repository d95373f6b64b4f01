"""Has models trained and compared, makes the best one champion, and consumes predictions."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

from typing_extensions import override

from complex_system.background import run
from complex_system.domain.laboratory import BEST_POSSIBLE, has_known_function
from complex_system.errors import (
    BusyError,
    ComplexSystemError,
    NobodyListensError,
    ReplyTimeoutError,
    TrainingFailedError,
)
from complex_system.evaluation.comparison import ComparisonRequest
from complex_system.evaluation.mlflow_log import ComparisonLog
from complex_system.messaging.clients import DatabaseClient, DocumentClient, ServingClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import (
    ALERT_ENDED,
    ALERT_RAISED,
    GET_ALERTS,
    GET_SCENARIO,
    SCENARIO_CHANGED,
    Alert,
    ScenarioState,
)
from complex_system.protocol.promotion import DECIDE_ON_CHAMPION, GET_PROMOTION, ChampionRequest, Promotion
from complex_system.protocol.serving import TRUTH_KNOWN, TruthKnown
from complex_system.protocol.training import (
    CHAMPION_CHANGED,
    COMPARISON_FINISHED,
    GET_COMPARISON,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
    TRAINING_ROUND,
    ComparisonFinished,
    TrainingFinished,
    TrainingProgress,
)
from complex_system.service_layer.rounds.champion import ChampionSelector
from complex_system.service_layer.rounds.decisions import ChampionDecisions
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.service_layer.rounds.round import RoundRunner, RoundTimes
from complex_system.service_layer.rounds.scheduler import RoundScheduler
from complex_system.tracking.connection import load_mlflow
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.promotion import PromotionRegistry
from complex_system_services.ml_consumer.predictions import LabProbes, PredictionRequests, StoredProbes, probes_for

T = TypeVar("T")

_BASELINE_SAMPLES = 100_000
"""Training samples that the baselines are fitted on, at most about."""


class MlConsumerService(SystemService):
    """Starts training rounds, compares their models, makes the best one champion, and asks for predictions.

    A round is due with enough new labelled records, or on an alert that asks for one. While MLflow or the database is away, a
    comparison waits and is not lost. Rounds without a model are repeated after growing pauses. Models that a trainer made on its
    own schedule are compared, too.
    """

    acts_alone: ClassVar[bool] = True
    look_interval: ClassVar[float] = 1.0
    round_times: ClassVar[RoundTimes] = RoundTimes()
    outside_pause: ClassVar[float] = 10.0
    """Seconds without another model from outside a round until those that came are compared."""
    recall_interval: ClassVar[float] = 10.0
    """Seconds between two requests for alerts and scenario, in case events were missed."""
    uphold_interval: ClassVar[float] = 10.0
    """Seconds between two looks at where the alias ``champion`` is."""
    decision_patience: ClassVar[float] = 20.0
    """Seconds that a person's decision waits for a comparison in progress."""

    @override
    async def warm_up(self) -> None:
        await run(load_mlflow, "mlflow")

    @override
    async def on_start(self) -> None:
        settings, dataset = self.settings, self.dataset
        known = has_known_function(dataset)
        database = DatabaseClient(self)
        data = LabelledData(dataset, database)
        uri, prefix, key = settings.mlflow_tracking_uri, settings.model_prefix or dataset.name, settings.model_key
        self._registry = PromotionRegistry(uri, prefix, key)
        self._log = ComparisonLog(uri, settings.mlflow_experiment, dataset, BEST_POSSIBLE.rmse if known else None)
        self._selector = ChampionSelector(
            self._registry, MlflowTracker(uri, settings.mlflow_experiment, prefix, key), self._log, data, dataset,
            self._run_blocking, holdout_newest=settings.holdout_newest,
            baseline_samples=0 if known else _BASELINE_SAMPLES, few=0 if known else settings.cross_validate_below,
            prefix=prefix, level=settings.champion_level, stack=settings.stack, approved=settings.promotion == "approved",
        )  # fmt: skip
        self._decisions = ChampionDecisions(
            self._registry, DocumentClient(self), self._run_blocking, mode=settings.promotion
        )
        self._promoting = asyncio.Lock()
        times = replace(self.round_times, timeout=settings.round_timeout)
        self._runner = RoundRunner(self.broker, type(self).__name__, times)
        self._rounds = RoundScheduler(
            settings, database, data, self._runner, dataset,
            partial(self.announce, TRAINING_ROUND), partial(self.set_state, "working"),
        )  # fmt: skip
        self._pending: ComparisonRequest | None = None
        self._last: ComparisonFinished | None = None
        self._failed = ""
        self._upheld = -math.inf
        self._probes = probes_for(dataset, database)
        serving = ServingClient(self, origin=self._probes.origin)
        self._requests = PredictionRequests(self._probes, serving, settings.prediction_records)
        self.every(self.look_interval, self._look, longest_pause=4.0)
        self.every(settings.prediction_interval, self._predict)
        self.every(self.recall_interval, self._catch_up)

    @override
    async def on_stop(self) -> None:
        self._runner.stop()

    # Events

    @hears(TRAINING_PROGRESS)
    async def _training_progressed(self, progress: TrainingProgress) -> None:
        self._runner.progressed(progress)

    @hears(TRAINING_FINISHED)
    async def _training_finished(self, outcome: TrainingFinished) -> None:
        if not self._runner.ended(outcome) and outcome.status == "finished":
            self._rounds.trained_outside(outcome.model, outcome.version, outcome.round)

    @hears(ALERT_RAISED)
    async def _alert_raised(self, alert: Alert) -> None:
        self._rounds.alerts.raised(alert)

    @hears(ALERT_ENDED)
    async def _alert_ended(self, alert: Alert) -> None:
        self._rounds.alerts.ended(alert)

    @hears(SCENARIO_CHANGED)
    async def _scenario_changed(self, scenario: ScenarioState) -> None:
        if isinstance(self._probes, LabProbes):
            self._probes.follow(scenario)

    async def _catch_up(self) -> None:
        """Ask for alerts and scenario, so that a missed event or a restart costs seconds only."""
        # Where nobody replies, the events are all there is.
        with contextlib.suppress(NobodyListensError, ReplyTimeoutError):
            self._rounds.alerts.replace((await self.ask(GET_ALERTS, Empty(), 5.0)).open)
        if isinstance(self._probes, LabProbes):
            with contextlib.suppress(NobodyListensError, ReplyTimeoutError):
                self._probes.follow(await self.ask(GET_SCENARIO, Empty(), 5.0))

    # Rounds and comparisons

    async def _look(self) -> float:
        """Run the round or the comparison that is due. What fails is repeated with back-off.

        Returns:
            Seconds until the next look: longer where counting is expensive, up to three seconds.
        """
        try:
            await self._rounds.recall(self._registry, self._log, self._run_blocking)
            if self._pending is None:
                await self._uphold()
                await self._rounds.look_for_uncompared(self._registry, self._run_blocking)
                self._pending = await self._rounds.next(self.outside_pause)
            if self._pending is not None:
                await self._compare(self._pending)
                self._pending = None
                self._failed = ""
        except TrainingFailedError as error:
            failed, self._pending = self._pending, None
            if failed is not None:
                with contextlib.suppress(ComplexSystemError):  # at worst they are compared again
                    await self._selector.rejected(failed)
            self._failed = await self._rounds.failed(failed, error.message)
            await self.set_state("failing", self._failed)
            raise
        except ComplexSystemError as error:
            if self._pending is not None:
                self._pending.failed(error)
            await self.set_state("waiting", error.message)
            raise
        await self.set_state("failing" if self._failed else "ready", self._failed or self._rounds.waits)
        return max(self.look_interval, min(4 * self._rounds.counting, 3.0))

    async def _uphold(self) -> None:
        """Look whether the champion is still the one of the last comparison."""
        if time.monotonic() - self._upheld >= self.uphold_interval:
            last = await self._last_comparison()
            if last is not None:
                async with self._promoting:
                    await self._selector.uphold(last)
            self._upheld = time.monotonic()

    async def _compare(self, request: ComparisonRequest) -> None:
        await self.set_state("working", f"comparing the models of round {request.round}")
        async with self._promoting:
            self._last, changed = await self._selector.select(request)
        self._rounds.compared(request, improved=changed is not None)
        await self.announce(COMPARISON_FINISHED, self._last)
        if changed is not None:
            await self.announce(CHAMPION_CHANGED, changed)

    @answers(GET_COMPARISON)
    async def _get_comparison(self, _: Empty) -> ComparisonFinished | None:
        """Return the newest comparison, for those who missed the event."""
        return await self._last_comparison()

    @answers(GET_PROMOTION)
    async def _get_promotion(self, _: Empty) -> Promotion:
        """Return which versions have which part, and what people decided."""
        return await self._decisions.state()

    @answers(DECIDE_ON_CHAMPION)
    async def _decide(self, asked: ChampionRequest) -> Promotion:
        """Carry out a person's decision, but not in the middle of a comparison."""
        try:
            async with asyncio.timeout(self.decision_patience):
                await self._promoting.acquire()
        except TimeoutError as error:
            raise BusyError("Models are being compared, which may change the champion; try again afterwards.") from error
        try:
            promotion, changed = await self._decisions.carry_out(asked)
        finally:
            # Also after an error: the alias may have moved before it.
            if self._pending is not None:
                self._pending.compare_again()
            if asked.action in ("approve", "roll-back"):
                self._rounds.forget()
            self._promoting.release()
        if changed is not None:
            await self.announce(CHAMPION_CHANGED, changed)
        return promotion

    async def _last_comparison(self) -> ComparisonFinished | None:
        if self._last is None:
            self._last = await self._run_blocking(self._log.last)
        return self._last

    async def _run_blocking(self, call: Callable[[], T]) -> T:
        """Run a call to MLflow in a thread, with the lease before and after it. It may hang; the service ends all the same.

        Raises:
            NotHolderError: The lease is not held, or was lost during the call: what was to follow from it is not done.
        """
        assert self.lease is not None
        self.lease.check()
        found = await self.while_running(run(call, "mlflow"))
        self.lease.check()
        return found

    # Predictions

    async def _predict(self) -> None:
        """Ask for predictions, log them beside the truth, and announce the truth."""
        if isinstance(self._probes, StoredProbes):
            self._probes.round = self._last.round if self._last else ""
            self._probes.since = self._rounds.since
        truths = await self._requests.make()
        if truths:
            await self.announce(TRUTH_KNOWN, TruthKnown(truths=tuple(truths)))
