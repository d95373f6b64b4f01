"""The full cycle of the system, from its servers to a served prediction, step by step."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from complex_system.domain.laboratory import has_known_function, truth_of
from complex_system.errors import ComplexSystemError, NobodyListensError, ReplyTimeoutError
from complex_system.evaluation.verdict import format_figure
from complex_system.local.plan import TRAINER_SERVICES, Plan
from complex_system.local.probe import ProbeError, predict, probe_record, rest_client, served_model, stored_probe
from complex_system.local.state import Prediction, RunState
from complex_system.messaging.clients import ServingClient, SystemClient

log = logging.getLogger(__name__)

SOURCE = "dummy_data_generation"
CHAMPION_SERVING = "ml_serving_mlflow"
ARTIFACT_SERVING = "ml_serving"
CONSUMER = "ml_consumer"
PROCESSED = "records processed"
QUIET = 5.0
"""Seconds in which the consumer begins no new round once all is processed: then the last champion is still the right one."""
RECOUNTED = 6.0
"""Seconds after which the numbers of records are certainly newer."""
SAME = 1e-4
"""Largest relative difference of one record's predictions by REST and by the broker."""


class StepFailedError(ComplexSystemError):
    """A step of the cycle went wrong. Arguments: the sentence, and the service whose log says more."""

    code = "step_failed"

    def __init__(self, message: str, service: str = "") -> None:
        super().__init__(message, service)

    @property
    def service(self) -> str:
        """The service whose log says more, or an empty string."""
        return str(self.args[1])


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        title: What it is, for people.
        work: Returns when the step is done.
        missing: What it still waits for, and the service whose log may say why.
    """

    title: str
    work: Callable[[], Awaitable[None]]
    missing: Callable[[], tuple[str, str]]


class Cycle:
    """The steps that this deployment has; :meth:`run` goes through them in order."""

    def __init__(self, plan: Plan, state: RunState, client: Callable[[], Awaitable[SystemClient]], *, strict: bool) -> None:
        """Prepares the cycle.

        Args:
            plan: What runs.
            state: What is known of it.
            client: Gives the connection to the broker, once there is one.
            strict: A failed training fails its step; otherwise the cycle waits for a better one.
        """
        self._plan = plan
        self._state = state
        self._client = client
        self._strict = strict
        self._record = probe_record(plan.dataset, plan.settings.seed)
        self._truth = truth_of(self._record) if has_known_function(plan.dataset) else None
        self._processed = 0.0
        self.done: list[tuple[str, float]] = []
        self.current: Step | None = None

    async def run(self) -> None:
        """Goes through all steps.

        Raises:
            StepFailedError: A step went wrong.
        """
        for step in self._steps():
            self.current = step
            await step.work()
            self.done.append((step.title, self._state.seconds))
            if step.title == PROCESSED:
                self._processed = self._state.seconds
        self.current = None

    def _steps(self) -> list[Step]:
        plan = self._plan
        steps = [Step("servers ready", self._wait(self._servers_missing), self._servers_missing)]
        if plan.database and plan.has("dummy_data_generation"):
            steps.append(Step("records saved", self._wait(self._raw_missing), self._raw_missing))
        if plan.database and plan.has("data_processing"):
            steps.append(Step(PROCESSED, self._wait(self._processed_missing), self._processed_missing))
        if plan.has(CONSUMER) and plan.trainers:
            steps.append(Step("models trained", self._wait(self._trainings_missing), self._trainings_missing))
            steps.append(Step("models compared", self._wait(self._comparison_missing), self._comparison_missing))
            if plan.has(CHAMPION_SERVING):
                steps.append(Step("champion served by REST", self._predict_by_rest, self._prediction_missing))
                steps.append(Step("champion served by the broker", self._predict_by_broker, self._prediction_missing))
            if plan.has(ARTIFACT_SERVING) and "pytorch-wandb" in plan.trainers:
                steps.append(Step("W&B model served by REST", self._predict_by_artifact, self._artifact_missing))
        if plan.services:
            steps.append(Step("every service ready", self._wait(self._not_ready), self._not_ready))
        return steps

    def _wait(self, missing: Callable[[], tuple[str, str]]) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            await self._state.until(lambda: not missing()[0])

        return work

    # What is missing: a sentence, empty when nothing is, and the service to look at

    def _servers_missing(self) -> tuple[str, str]:
        return _named("not ready: ", [p.name for p in self._state.infrastructure.values() if not p.ready])

    def _not_ready(self) -> tuple[str, str]:
        return _named("not ready: ", [p.name for p in self._state.services.values() if not p.ready])

    def _raw_missing(self) -> tuple[str, str]:
        have, want = self._state.records["raw"], self._state.wanted_records
        if self._plan.settings.source_file and SOURCE in self._state.services:
            # How many records a file has, and how many of them are refused, only the source knows.
            source = self._state.services[SOURCE]
            counted_since = source.ready and self._state.seconds - source.since > RECOUNTED
            return ("", "") if counted_since else (source.detail or "not started", SOURCE)
        return ("", "") if have >= want and self._state.counted else (f"{have:,} of {want:,} saved", SOURCE)

    def _processed_missing(self) -> tuple[str, str]:
        records, want = self._state.records, self._state.wanted_records
        if self._plan.settings.source_file:
            want = records["raw"]
        have = records["processed"] + records["rejected"]
        return ("", "") if have >= want else (f"{have:,} of {want:,} processed or rejected", "data_processing")

    def _trainings_missing(self) -> tuple[str, str]:
        compared = self._compared()
        missing = []
        for name in self._plan.trainers:
            training = self._state.trainings.get(name)
            if training is not None and training.status == "failed" and self._strict:
                raise StepFailedError(f"{name} failed: {training.error}", TRAINER_SERVICES[name])
            if name not in compared and (training is None or training.status != "finished"):
                missing.append(name)
        text, _ = _named("not finished: ", missing)
        # Where no training has begun at all, the one to look at is who starts them.
        begun = any(name in self._state.trainings for name in missing)
        return text, (TRAINER_SERVICES[missing[0]] if begun else CONSUMER) if missing else ""

    def _comparison_missing(self) -> tuple[str, str]:
        compared = self._compared()
        left_out = [name for name in self._plan.trainers if name not in compared]
        if not compared or (left_out and self._strict):
            return f"no comparison with {', '.join(left_out)}", CONSUMER
        return ("", "") if self._state.champion else ("no champion", CONSUMER)

    def _compared(self) -> set[str]:
        """The trainers that the newest comparison has; one of an earlier run counts when no new round begins."""
        state = self._state
        if state.recalled:
            consumer = state.services[CONSUMER]
            quiet = consumer.state == "ready" and state.seconds - max(consumer.since, self._processed) > QUIET
            if state.trainings or not quiet:
                return set()
        return {result.trainer for result in state.results}

    def _prediction_missing(self) -> tuple[str, str]:
        champion = self._state.champion
        return (
            f"no prediction by {champion.model} version {champion.version}" if champion else "no champion"
        ), CHAMPION_SERVING

    def _artifact_missing(self) -> tuple[str, str]:
        return "no prediction by the W&B model", ARTIFACT_SERVING

    # Predictions

    async def _choose_record(self) -> None:
        """Takes a stored record whose truth is known and that no model was trained on, where the truth cannot be computed."""
        if has_known_function(self._plan.dataset) or not self._plan.database:
            return
        try:
            found = await stored_probe(self._plan.dataset, await self._client())
        except ComplexSystemError as error:  # the example of the declaration does as well
            log.warning("No stored record to predict: %s", error.message)
            return
        if found is not None:
            self._record, self._truth = found

    async def _predict_by_rest(self) -> None:
        await self._choose_record()
        url = self._state.services[CHAMPION_SERVING].url
        async with rest_client(self._plan.settings.api_key) as http:
            while True:
                served, champion = await served_model(http, url), self._state.champion
                if served and champion and (served.name, served.version) == (champion.model, champion.version):
                    break
                await asyncio.sleep(0.2)
            prediction = await self._predicted(http, url, CHAMPION_SERVING)
        self._state.prediction = prediction
        self._state.seconds_to_first_prediction = self._state.seconds
        truth = "" if prediction.truth is None else f", truth {format_figure(prediction.truth)}"
        self._state.note(
            f"prediction {format_figure(prediction.value)}{truth}, by {prediction.model} version {prediction.version} "
            f"in {prediction.milliseconds:.1f} ms, {self._state.seconds:.1f} s after the start"
        )
        self._state.note("repeat it: " + " ".join(line.strip().removesuffix("\\").strip() for line in prediction.curl))

    async def _predict_by_broker(self) -> None:
        expected = self._state.prediction
        assert expected is not None
        client = await self._client()
        for _ in range(50):
            try:
                [value] = await ServingClient(client).predict([self._record])
                break
            except (NobodyListensError, ReplyTimeoutError):
                await asyncio.sleep(0.2)
            except (ComplexSystemError, ValueError, TypeError) as error:
                raise StepFailedError(f"the broker's prediction failed: {error}", CHAMPION_SERVING) from error
        else:
            raise StepFailedError("nobody answers the broker's request for a prediction", CHAMPION_SERVING)
        if not math.isclose(value, expected.value, rel_tol=SAME, abs_tol=1e-3):
            raise StepFailedError(f"the broker predicts {value} and REST {expected.value} for one record", CHAMPION_SERVING)
        self._state.note(f"prediction by the broker: {format_figure(value)}, the same")

    async def _predict_by_artifact(self) -> None:
        url = self._state.services[ARTIFACT_SERVING].url
        async with rest_client(self._plan.settings.api_key) as http:
            while await served_model(http, url) is None:  # noqa: ASYNC110 - a server elsewhere has no event for us
                await asyncio.sleep(0.2)
            prediction = await self._predicted(http, url, ARTIFACT_SERVING)
        self._state.note(
            f"prediction by {ARTIFACT_SERVING}: {format_figure(prediction.value)} ({prediction.model} {prediction.version})"
        )

    async def _predicted(self, http: httpx.AsyncClient, url: str, service: str) -> Prediction:
        try:
            return await predict(http, url, self._record, self._truth)
        except ProbeError as error:
            raise StepFailedError(error.message, service) from error


def _named(prefix: str, names: list[str]) -> tuple[str, str]:
    return (prefix + ", ".join(names), names[0]) if names else ("", "")
