"""Has models trained and compared, makes the best one champion, and consumes predictions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

from typing_extensions import override

from complex_system.background import run
from complex_system.domain.laboratory import BEST_POSSIBLE
from complex_system.errors import ComplexSystemError, TrackingRefusedError, TrainingFailedError
from complex_system.evaluation.comparison import Comparison, ModelComparison
from complex_system.evaluation.rounds import RoundTimes, RoundTrigger, TrainingRound
from complex_system.evaluation.tracking import ComparisonLog
from complex_system.messaging.clients import DatabaseClient, ServingClient
from complex_system.messaging.handlers import answers, hears
from complex_system.messaging.service import SystemService
from complex_system.messaging.subjects import (
    CHAMPION_CHANGED,
    COMPARISON_FINISHED,
    GET_COMPARISON_SUBJECT,
    TRAINING_FINISHED,
    TRAINING_PROGRESS,
    TRUTH_KNOWN,
)
from complex_system.preprocessing.pipeline import Pipeline
from complex_system.tracking.registry import ModelRegistry
from complex_system.training.data import Part, SampleCollector, Samples
from complex_system_services.ml_consumer.probes import LAB, probes_for
from complex_system_services.ml_consumer.training import RoundRunner, new_round_id

log = logging.getLogger(__name__)

T = TypeVar("T")

_BASELINE_SAMPLES = 100_000
"""Training samples that the baselines are fitted on, at most about."""


@dataclass
class _HandedIn:
    """Models that wait for their comparison. What was done stays done when a step fails and the comparison is tried again."""

    round: str
    models: list[tuple[str, str]]
    labelled: int | None = None
    comparison: Comparison | None = None
    runs: dict[str, str] = field(default_factory=dict)


class MlConsumerService(SystemService):
    """Starts training rounds, compares what the trainers hand in, crowns the champion, and asks for predictions.

    A round is due with enough new labelled records. The comparison on the hold-out part goes to MLflow; when MLflow or the database
    is away, it waits and is not lost. Rounds without a model are repeated after growing pauses. Models that a trainer made on its
    own schedule are compared too.
    """

    look_interval: ClassVar[float] = 1.0
    round_times: ClassVar[RoundTimes] = RoundTimes()
    outside_pause: ClassVar[float] = 10.0
    """Seconds without another model from outside a round until those that came are compared."""

    @override
    async def on_start(self) -> None:
        settings = self.settings
        prefix = settings.model_prefix or self.dataset.name
        best = BEST_POSSIBLE.rmse if self.dataset.name == LAB else None
        times = RoundTimes(**{**vars(self.round_times), "timeout": settings.round_timeout})
        self.database = DatabaseClient(self)
        self._registry = ModelRegistry(settings.mlflow_tracking_uri, prefix)
        self._log = ComparisonLog(settings.mlflow_tracking_uri, settings.mlflow_experiment, self.dataset, best)
        self._rounds = RoundRunner(self.broker, type(self).__name__, times)
        self._trigger: RoundTrigger | None = None
        self._pending: _HandedIn | None = None
        self._last: dict[str, Any] | None = None
        self._counting = 0.0
        self._outside: dict[str, tuple[str, str, str]] = {}
        self._outside_since = 0.0
        self._serving = ServingClient(self)
        self._probes = probes_for(self.dataset, self.database)
        self._no_prediction = ""
        self._failed = ""
        self.every(self.look_interval, self._look, longest_pause=4.0)
        self.every(settings.prediction_interval, self._predict)

    @override
    async def on_stop(self) -> None:
        self._rounds.stop()

    # Training rounds

    @hears(TRAINING_PROGRESS)
    async def _progress(self, progress: dict[str, Any]) -> None:
        self._rounds.progressed(progress)

    @hears(TRAINING_FINISHED)
    async def _finished(self, outcome: dict[str, Any]) -> None:
        if not self._rounds.ended(outcome) and outcome.get("status") == "finished":
            model = (str(outcome["model"]), str(outcome["version"]))
            self._outside[model[0]] = (*model, str(outcome.get("round") or new_round_id()))
            self._outside_since = time.monotonic()

    async def _look(self) -> float:
        """One look at the counts, and a round or a comparison if one is due. What fails is done again, with back-off.

        Returns:
            Seconds until the next look: longer where counting is dear, up to three seconds.
        """
        try:
            if self._pending is None:
                self._pending = await self._new_models()
            if self._pending is not None:
                await self._compare(self._pending)
                self._pending = None
                self._failed = ""
        except TrainingFailedError as error:
            self._pending = None
            self._failed = error.message
            await self.set_state("failing", error.message)
            raise
        except ComplexSystemError as error:
            if isinstance(error, TrackingRefusedError) and self._pending is not None:
                self._pending.runs.clear()  # somebody may have deleted a run that was begun: the next try makes new ones
            await self.set_state("waiting", error.message)
            raise
        await self.set_state("failing" if self._failed else "ready", self._failed)
        return max(self.look_interval, min(4 * self._counting, 3.0))

    async def _new_models(self) -> _HandedIn | None:
        began = time.monotonic()
        counts = await self.database.counts()
        self._counting = time.monotonic() - began
        if self._trigger is None:
            self._trigger = await self._asked(self._recall)
        if self._trigger.due(counts, time.monotonic()) and await self._all_processed(counts["raw"]):
            return await self._train(counts["labelled"], self._trigger)
        if self._outside and time.monotonic() - self._outside_since >= self.outside_pause:
            outside, self._outside = list(self._outside.values()), {}
            return _HandedIn(outside[-1][2], [(model, version) for model, version, _ in outside])
        return None

    def _recall(self) -> RoundTrigger:
        # What an earlier run of this service did, so that a restart costs no round.
        champion = self._registry.champion()
        known = champion is not None and champion.pipeline_version == self.dataset.version
        last = self._log.last_labelled() if known else None
        if last is not None:
            log.info("The last round had %d labelled records", last)
        return RoundTrigger(self.settings.min_labelled, self.settings.retrain_growth, last)

    async def _all_processed(self, raw: int) -> bool:
        # Counts say nothing of versions: after a change of the pipeline all records are counted and none is of the new one.
        few = min(1000, max(2, raw // 100))
        page = await self.database.unprocessed(self.dataset.version, few)
        return page.next is None or page.table.num_rows < few

    async def _train(self, labelled: int, trigger: RoundTrigger) -> _HandedIn | None:
        round_id = new_round_id()
        log.info("Training round %s begins with %d labelled records", round_id, labelled)

        async def say(current: TrainingRound) -> None:
            await self.set_state("working", f"training round {round_id}: waits for {', '.join(current.open)}")

        done = await self._rounds.run(round_id, self.settings.trainer_names, say)
        if done is None:
            return None
        for trainer, problem in done.problems.items():
            log.warning("Round %s goes on without %s: %s", round_id, trainer, problem)
        models = [(str(outcome["model"]), str(outcome["version"])) for outcome in done.finished]
        if not models:
            reasons = "; ".join(f"{trainer}: {problem}" for trainer, problem in done.problems.items())
            raise self._failure(f"Training round {round_id} ended without a model ({reasons}).", labelled, trigger)
        models += [(model, version) for model, version, _ in self._outside.values()]
        self._outside.clear()
        return _HandedIn(round_id, models, labelled)

    def _failure(self, what: str, labelled: int, trigger: RoundTrigger) -> TrainingFailedError:
        pause = trigger.failed(labelled, time.monotonic())
        return TrainingFailedError(f"{what} The next round comes after {pause:.0f} s, or with new data.")

    async def _asked(self, call: Callable[[], T]) -> T:
        """What MLflow answers. It may hang for minutes; this service ends all the same."""
        return await self.while_running(run(call, "mlflow"))

    # Comparison

    async def _compare(self, waiting: _HandedIn) -> None:
        await self.set_state("working", f"compares the models of round {waiting.round}")
        if waiting.comparison is None:
            waiting.comparison = await self._compared(waiting)
        comparison = waiting.comparison
        url = await self._asked(partial(self._log.log, comparison, waiting.labelled, waiting.runs))
        champion = comparison.champion
        await self._asked(partial(self._registry.set_champion, champion.ref))
        # Last: a comparison that is finished there is not repeated after a restart, so the champion must be crowned by then.
        await self._asked(partial(self._log.finish, comparison, waiting.runs))
        if waiting.labelled is not None and self._trigger is not None:
            self._trigger.done(waiting.labelled)
        log.info("Round %s: %s version %s is the champion with RMSE %.2f on %d hold-out records", comparison.round,
                 champion.ref.model, champion.ref.version, champion.scores.rmse, comparison.holdout)  # fmt: skip
        for name in comparison.unbeaten:
            log.warning("Round %s: the champion is not better than the baseline '%s' with RMSE %.4g", comparison.round, name,
                        comparison.baselines[name].rmse)  # fmt: skip
        summary = champion.as_dict()
        self._last = {
            "round": comparison.round,
            "results": [result.as_dict() for result in comparison.results],
            "champion": {name: summary[name] for name in ("model", "version", "framework", "trainer", "rmse")},
            "holdout": comparison.holdout,
            "run_url": url,
        }
        if comparison.baselines:
            self._last["baselines"] = {name: scores.as_dict() for name, scores in comparison.baselines.items()}
            self._last["not_better_than"] = list(comparison.unbeaten)
        await self.announce(COMPARISON_FINISHED, self._last)
        if comparison.is_change:
            await self.announce(CHAMPION_CHANGED, {
                **{name: summary[name] for name in ("model", "version", "framework", "rmse")},
                "pipeline_version": champion.ref.pipeline_version,
            })  # fmt: skip

    @answers(GET_COMPARISON_SUBJECT)
    async def _last_comparison(self, _: Any) -> dict[str, Any] | None:
        """The newest comparison, for who was not there when it was announced."""
        if self._last is None:
            self._last = await self._asked(self._log.last)
        return self._last

    async def _compared(self, waiting: _HandedIn) -> Comparison:
        holdout, train = await self._samples()
        compare = ModelComparison(self._registry, Pipeline(self.dataset)).run
        try:
            return await self._asked(partial(compare, waiting.round, waiting.models, holdout, train))
        except TrainingFailedError as error:  # none of the models can be used
            if waiting.labelled is None or self._trigger is None:
                raise
            raise self._failure(error.message, waiting.labelled, self._trigger) from error

    async def _samples(self) -> tuple[Samples, Samples | None]:
        """The hold-out part, and training samples for the baselines where the best possible error is not known."""
        collector, train = SampleCollector(self.dataset, [Part.HOLDOUT]), SampleCollector(self.dataset, [Part.TRAIN])
        pages = self.database.processed_pages(collector.columns, labelled=True, version=self.dataset.version)
        async for page in pages:
            await asyncio.to_thread(collector.add, page.table)
            if self.dataset.name != LAB and train.count() < _BASELINE_SAMPLES:
                await asyncio.to_thread(train.add, page.table)
        return collector.samples(Part.HOLDOUT), train.samples(Part.TRAIN) if train.count() else None

    # Predictions

    async def _predict(self) -> None:
        """Asks for predictions of two records, logs them beside the truth, and announces the truth."""
        try:
            probes = await self._probes.draw(2)
            if not probes:
                return
            predictions = await self._serving.predict([record for record, _ in probes])
        except ComplexSystemError as error:
            # Said once and not every few seconds: before the first model this is how things are.
            if self._no_prediction != error.code:
                self._no_prediction = error.code
                log.warning("No prediction: %s", error.message)
            return
        self._no_prediction = ""
        for (_, truth), prediction in zip(probes, predictions, strict=True):
            if truth is None:
                log.info("Prediction %.2f, truth not known", prediction)
            else:
                log.info("Prediction %.2f, truth %.2f, error %+.2f", prediction, truth, prediction - truth)
        truths = [{"id": record["_id"], "truth": truth} for record, truth in probes if truth is not None]
        if truths:
            await self.announce(TRUTH_KNOWN, {"truths": truths})
