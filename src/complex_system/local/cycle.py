"""The full cycle of the system, from its servers to a served prediction, step by step."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from complex_system.domain.laboratory import has_known_function, truth_of
from complex_system.errors import ComplexSystemError, NobodyListensError, ReplyTimeoutError
from complex_system.evaluation.verdict import format_figure
from complex_system.local.plan import SOURCE, TRAINER_SERVICES, Plan
from complex_system.local.probe import ProbeError, predict, rest_client, sample_record, served_model, stored_sample
from complex_system.local.state import Process, RunState
from complex_system.messaging.clients import ServingClient, SystemClient
from complex_system.protocol.training import TrainingFinished

log = logging.getLogger(__name__)

CHAMPION_SERVING = "ml_serving_mlflow"
ARTIFACT_SERVING = "ml_serving"
CONSUMER = "ml_consumer"
PROCESSED = "records processed"
QUIET = 5.0
"""Seconds without a new round, once all records are processed, after which the previous champion is still the right one."""
RECOUNTED = 6.0
"""Seconds after which the numbers of records are certainly newer."""
SAME = 1e-4
"""Largest relative difference of one record's predictions over REST and over NATS."""


class StepFailedError(ComplexSystemError):
    """A step of the cycle failed. Arguments: the message, and the service whose log says more."""

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
        title: Its name, as a person reads it.
        missing: What it still waits for, empty when nothing, and the service whose log may say why.
        work: Returns when the step is done; None for a step that only waits until nothing is missing.
    """

    title: str
    missing: Callable[[], tuple[str, str]]
    work: Callable[[], Awaitable[None]] | None = None


class Cycle:
    """The steps that this deployment has; :meth:`run` goes through them in order."""

    def __init__(self, plan: Plan, state: RunState, client: Callable[[], Awaitable[SystemClient]], *, strict: bool) -> None:
        """Prepare the cycle.

        Args:
            plan: What runs.
            state: What is known of it.
            client: Returns the connection to the broker, once there is one.
            strict: A failed training fails its step; otherwise the cycle waits for a better one.
        """
        self._plan = plan
        self._state = state
        self._client = client
        self._strict = strict
        self._record = sample_record(plan.dataset, plan.settings.seed)
        self._truth = truth_of(self._record) if has_known_function(plan.dataset) else None
        self._processed = 0.0
        self.done: list[tuple[str, float]] = []
        self.current: Step | None = None

    async def run(self) -> None:
        """Go through all steps.

        Raises:
            StepFailedError: A step failed.
        """
        for step in self.steps():
            self.current = step
            try:
                await (step.work or self._until_nothing_is_missing)()
            except ProbeError as error:
                raise StepFailedError(error.message, step.missing()[1]) from error
            self.done.append((step.title, self._state.seconds))
            if step.title == PROCESSED:
                self._processed = self._state.seconds
        self.current = None

    async def _until_nothing_is_missing(self) -> None:
        step = self.current
        assert step is not None
        await self._state.until(lambda: not step.missing()[0])

    def steps(self) -> list[Step]:
        """Return the steps that this deployment has."""
        plan = self._plan
        steps = [Step("servers ready", lambda: self._not_ready(self._state.infrastructure))]
        if plan.database and plan.has(SOURCE):
            steps.append(Step("records saved", self._raw_missing))
        if plan.database and plan.has("data_processing"):
            steps.append(Step(PROCESSED, self._processed_missing))
        if plan.has(CONSUMER) and plan.trainers:
            steps.append(Step("models trained", self._trainings_missing))
            steps.append(Step("models compared", self._comparison_missing))
            if plan.has(CHAMPION_SERVING):
                steps.append(Step("champion served over REST", self._prediction_missing, self._predict_over_rest))
                steps.append(Step("champion served over NATS", self._prediction_missing, self._predict_over_nats))
            if plan.has(ARTIFACT_SERVING) and "pytorch-wandb" in plan.trainers:
                steps.append(Step("W&B model served over REST", self._artifact_missing, self._predict_by_artifact))
        if plan.services:
            steps.append(Step("every service ready", lambda: self._not_ready(self._state.services)))
        return steps

    # What is missing

    @staticmethod
    def _not_ready(processes: dict[str, Process]) -> tuple[str, str]:
        return _named("not ready: ", (name for name, process in processes.items() if not process.ready))

    def _raw_missing(self) -> tuple[str, str]:
        records, want = self._state.records, self._state.wanted_records
        have = max(records.raw, records.processed + records.rejected)  # old raw records may have been deleted
        if self._plan.settings.reads_records and SOURCE in self._state.services:
            # Only the source knows how many records its file, folder or table has, and how many of them are refused.
            source = self._state.services[SOURCE]
            counted_since = source.ready and self._state.seconds - source.since > RECOUNTED
            return ("", "") if counted_since else (source.detail or "not started", SOURCE)
        return ("", "") if have >= want and self._state.counted else (f"{have:,} of {want:,} saved", SOURCE)

    def _processed_missing(self) -> tuple[str, str]:
        records = self._state.records
        want = records.raw if self._plan.settings.reads_records else self._state.wanted_records
        have = records.processed + records.rejected
        return ("", "") if have >= want else (f"{have:,} of {want:,} processed or rejected", "data_processing")

    def _trainings_missing(self) -> tuple[str, str]:
        compared = self._compared()
        missing = []
        for name in self._plan.trainers:
            training = self._state.trainings.get(name)
            ended = training if isinstance(training, TrainingFinished) else None
            if ended and ended.status == "failed" and self._strict:
                raise StepFailedError(f"{name} failed: {ended.error}", TRAINER_SERVICES[name])
            if name not in compared and not (ended and ended.status == "finished"):
                missing.append(name)
        text, _ = _named("not finished: ", missing)
        # Before the first training, the log to look at is that of the service that starts them.
        begun = any(name in self._state.trainings for name in missing)
        return text, (TRAINER_SERVICES[missing[0]] if begun else CONSUMER) if missing else ""

    def _comparison_missing(self) -> tuple[str, str]:
        compared = self._compared()
        left_out = [name for name in self._plan.trainers if name not in compared]
        if not compared or (left_out and self._strict):
            return f"no comparison with {', '.join(left_out)}", CONSUMER
        if self._state.champion:
            return "", ""
        waiting = self._state.comparison.candidate if self._state.comparison else None
        if waiting is None:
            return "no champion", CONSUMER
        return f"{waiting.model} {waiting.version} waits for `fiot extras champion approve`", CONSUMER

    def _compared(self) -> set[str]:
        """Return the trainers in the newest comparison; one of an earlier run counts when no new round begins."""
        state = self._state
        if state.recalled:
            consumer = state.services[CONSUMER]
            quiet = consumer.state == "ready" and state.seconds - max(consumer.since, self._processed) > QUIET
            if state.trainings or not quiet:
                return set()
        return {result.trainer for result in state.results}

    def _prediction_missing(self) -> tuple[str, str]:
        champion = self._state.champion
        text = f"no prediction by {champion.model} version {champion.version}" if champion else "no champion"
        return text, CHAMPION_SERVING

    def _artifact_missing(self) -> tuple[str, str]:
        return "no prediction by the W&B model", ARTIFACT_SERVING

    # Predictions

    async def _choose_record(self) -> None:
        """Where the truth cannot be computed, take a stored record with a known truth that no model was trained on."""
        if has_known_function(self._plan.dataset) or not self._plan.database:
            return
        try:
            found = await stored_sample(self._plan.dataset, await self._client())
        except ComplexSystemError as error:  # the declaration's example serves as well
            log.warning("No stored record to predict: %s", error.message)
            return
        if found is not None:
            self._record, self._truth = found

    async def _predict_over_rest(self) -> None:
        await self._choose_record()
        url = self._state.services[CHAMPION_SERVING].url
        async with rest_client(self._plan.settings.api_key) as http:
            while True:
                served, champion = await served_model(http, url), self._state.champion
                if served and champion and (served.name, served.version) == (champion.model, champion.version):
                    break
                await asyncio.sleep(0.2)
            prediction = await predict(http, url, self._record, self._truth, key_in_shell=self._plan.key_in_shell)
        self._state.prediction = prediction
        self._state.seconds_to_first_prediction = self._state.seconds
        truth = "" if prediction.truth is None else f", truth {format_figure(prediction.truth)}"
        self._state.note(
            f"prediction {format_figure(prediction.value)}{truth}, by {prediction.model} version {prediction.version} "
            f"in {prediction.milliseconds:.1f} ms, {self._state.seconds:.1f} s after the start"
        )
        self._state.note("repeat it: " + " ".join(line.strip().removesuffix("\\").strip() for line in prediction.curl))

    async def _predict_over_nats(self) -> None:
        expected = self._state.prediction
        assert expected is not None
        client = await self._client()
        for _ in range(50):
            try:
                [value] = await ServingClient(client, origin="own").predict([self._record])
                break
            except (NobodyListensError, ReplyTimeoutError):
                await asyncio.sleep(0.2)
            except (ComplexSystemError, ValueError, TypeError) as error:
                raise StepFailedError(f"the prediction over NATS failed: {error}", CHAMPION_SERVING) from error
        else:
            raise StepFailedError("nobody answers the request for a prediction over NATS", CHAMPION_SERVING)
        if not math.isclose(value, expected.value, rel_tol=SAME, abs_tol=1e-3):
            raise StepFailedError(
                f"predictions of one record differ: {value} over NATS, {expected.value} over REST", CHAMPION_SERVING
            )
        self._state.note(f"prediction over NATS: {format_figure(value)}, the same")

    async def _predict_by_artifact(self) -> None:
        url = self._state.services[ARTIFACT_SERVING].url
        async with rest_client(self._plan.settings.api_key) as http:
            while await served_model(http, url) is None:  # noqa: ASYNC110 - the server elsewhere has no event for us
                await asyncio.sleep(0.2)
            prediction = await predict(http, url, self._record, self._truth, key_in_shell=self._plan.key_in_shell)
        self._state.note(
            f"prediction by {ARTIFACT_SERVING}: {format_figure(prediction.value)} ({prediction.model} {prediction.version})"
        )


def _named(prefix: str, names: Iterable[str]) -> tuple[str, str]:
    names = list(names)
    return (prefix + ", ".join(names), names[0]) if names else ("", "")
