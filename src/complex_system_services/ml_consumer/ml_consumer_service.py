"""Has models trained and compared, makes the best one champion, and consumes predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

from typing_extensions import override

from complex_system.background import run
from complex_system.domain.laboratory import BEST_POSSIBLE, has_known_function
from complex_system.errors import (
    ComplexSystemError,
    NobodyListensError,
    NotEnoughDataError,
    ReplyTimeoutError,
    TrainingFailedError,
)
from complex_system.evaluation.mlflow_log import ComparisonLog
from complex_system.evaluation.rounds import RoundTimes
from complex_system.messaging.clients import DatabaseClient, ServingClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import (
    ALERT_ENDED,
    ALERT_RAISED,
    CHAMPION_CHANGED,
    COMPARISON_FINISHED,
    GET_ALERTS_SUBJECT,
    GET_COMPARISON_SUBJECT,
    GET_SCENARIO_SUBJECT,
    SCENARIO_CHANGED,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
    TRAINING_ROUND,
    TRUTH_KNOWN,
)
from complex_system.service_layer.rounds.comparing import ChampionChoice, HandedIn
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.service_layer.rounds.runner import RoundRunner
from complex_system.service_layer.rounds.scheduler import TrainingRounds
from complex_system.tracking.registry import ModelRegistry
from complex_system_services.ml_consumer.probes import LabProbes, probes_for
from complex_system_services.ml_consumer.regular_requests import PredictionRequests

T = TypeVar("T")

_BASELINE_SAMPLES = 100_000
"""Training samples that the baselines are fitted on, at most about."""


class MlConsumerService(SystemService):
    """Starts training rounds, compares what the trainers hand in, crowns the champion, and asks for predictions.

    A round is due with enough new labelled records, or on an alert that asks for one. The comparison goes to MLflow; when MLflow or
    the database is away, it waits and is not lost. Rounds without a model are repeated after growing pauses. Models that a trainer
    made on its own schedule are compared too.
    """

    look_interval: ClassVar[float] = 1.0
    round_times: ClassVar[RoundTimes] = RoundTimes()
    outside_pause: ClassVar[float] = 10.0
    """Seconds without another model from outside a round until those that came are compared."""
    recall_interval: ClassVar[float] = 10.0
    """Seconds between two looks at what other services know, for events that were missed."""

    @override
    async def on_start(self) -> None:
        settings, dataset = self.settings, self.dataset
        known = has_known_function(dataset)
        best = BEST_POSSIBLE.rmse if known else None
        times = RoundTimes(**{**vars(self.round_times), "timeout": settings.round_timeout})
        database = DatabaseClient(self)
        data = LabelledData(dataset, database)
        self._registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix or dataset.name)
        self._log = ComparisonLog(settings.mlflow_tracking_uri, settings.mlflow_experiment, dataset, best)
        self._choice = ChampionChoice(
            self._registry, self._log, data, dataset, self._asked, settings.holdout_newest,
            baseline_samples=0 if known else _BASELINE_SAMPLES, few=0 if known else settings.cross_validate_below,
        )  # fmt: skip
        self._runner = RoundRunner(self.broker, type(self).__name__, times)
        self._rounds = TrainingRounds(
            settings, database, data, self._runner, dataset.version,
            partial(self.announce, TRAINING_ROUND), partial(self.set_state, "working"),
        )  # fmt: skip
        self._pending: HandedIn | None = None
        self._last: dict[str, Any] | None = None
        self._failed = ""
        self._probes = probes_for(dataset, database)
        self._requests = PredictionRequests(self._probes, ServingClient(self), settings.prediction_records)
        self.every(self.look_interval, self._look, longest_pause=4.0)
        self.every(settings.prediction_interval, self._predict)
        self.every(self.recall_interval, self._catch_up)

    @override
    async def on_stop(self) -> None:
        self._runner.stop()

    # What is heard

    @hears(TRAINING_PROGRESS)
    async def _progress(self, progress: dict[str, Any]) -> None:
        self._runner.progressed(progress)

    @hears(TRAINING_FINISHED)
    async def _finished(self, outcome: dict[str, Any]) -> None:
        if not self._runner.ended(outcome) and outcome.get("status") == "finished":
            self._rounds.made_outside(outcome)

    @hears(ALERT_RAISED)
    async def _alert_raised(self, alert: dict[str, Any]) -> None:
        self._rounds.reaction.raised(alert)

    @hears(ALERT_ENDED)
    async def _alert_ended(self, alert: dict[str, Any]) -> None:
        self._rounds.reaction.ended(alert)

    @hears(SCENARIO_CHANGED)
    async def _scenario_changed(self, scenario: dict[str, Any]) -> None:
        if isinstance(self._probes, LabProbes):
            self._probes.follow(scenario)

    async def _catch_up(self) -> None:
        """Asks for alerts and scenario, so that a missed event or a restart costs seconds only."""
        # Where nobody answers, the events are all there is.
        with contextlib.suppress(NobodyListensError, ReplyTimeoutError):
            self._rounds.reaction.replace((await self.ask(GET_ALERTS_SUBJECT, {}, 5.0))["open"])
        if isinstance(self._probes, LabProbes):
            with contextlib.suppress(NobodyListensError, ReplyTimeoutError):
                self._probes.follow(await self.ask(GET_SCENARIO_SUBJECT, {}, 5.0))

    # Rounds and comparisons

    async def _look(self) -> float:
        """One look at the data, and a round or a comparison if one is due. What fails is done again, with back-off.

        Returns:
            Seconds until the next look: longer where counting is dear, up to three seconds.
        """
        try:
            await self._rounds.recall(self._registry, self._log, self._asked)
            if self._pending is None:
                self._pending = await self._rounds.next(self.outside_pause)
            if self._pending is not None:
                await self._compare(self._pending)
                self._pending = None
                self._failed = ""
        except TrainingFailedError as error:
            failed, self._pending = self._pending, None
            self._failed = await self._rounds.failed(failed, error.message)
            await self.set_state("failing", self._failed)
            raise
        except ComplexSystemError as error:
            if self._pending is not None:
                self._pending.forget_runs(error)
            await self.set_state("waiting", error.message)
            raise
        await self.set_state("failing" if self._failed else "ready", self._failed or self._rounds.waits)
        return max(self.look_interval, min(4 * self._rounds.counting, 3.0))

    async def _compare(self, waiting: HandedIn) -> None:
        await self.set_state("working", f"compares the models of round {waiting.round}")
        try:
            self._last = await self._choice.decide(waiting)
        except NotEnoughDataError as error:
            if waiting.cause is None:
                raise
            raise TrainingFailedError(f"Round {waiting.round} cannot be compared: {error.message}") from error
        comparison = waiting.comparison
        assert comparison is not None
        self._rounds.compared(waiting, comparison)
        await self.announce(COMPARISON_FINISHED, self._last)
        if comparison.is_change:
            await self.announce(CHAMPION_CHANGED, self._choice.crowned(comparison, waiting.why))

    @answers(GET_COMPARISON_SUBJECT)
    async def _last_comparison(self, _: Any) -> dict[str, Any] | None:
        """The newest comparison, for who was not there when it was announced."""
        if self._last is None:
            self._last = await self._asked(self._log.last)
        return self._last

    async def _asked(self, call: Callable[[], T]) -> T:
        """What MLflow answers. It may hang for minutes; this service ends all the same."""
        return await self.while_running(run(call, "mlflow"))

    # Predictions

    async def _predict(self) -> None:
        """Asks for predictions, logs them beside the truth, and announces the truth."""
        truths = await self._requests.make()
        if truths:
            await self.announce(TRUTH_KNOWN, {"truths": truths})
