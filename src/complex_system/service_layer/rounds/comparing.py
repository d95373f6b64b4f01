"""From the models that trainers hand in to the champion: comparison, log, crown, and what is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from complex_system.domain.dataset import Dataset
from complex_system.errors import TrackingRefusedError
from complex_system.evaluation.announcement import announced
from complex_system.evaluation.comparison import Comparison, ModelComparison
from complex_system.evaluation.mlflow_log import ComparisonLog, Origin
from complex_system.evaluation.triggers import Cause
from complex_system.evaluation.verdict import format_figure
from complex_system.pipeline.pipeline import Pipeline
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.tracking.registry import ModelRegistry

log = logging.getLogger(__name__)

T = TypeVar("T")


class Asked(Protocol):
    """Runs a blocking call to MLflow where it holds nothing up."""

    async def __call__(self, call: Callable[[], T]) -> T:
        """What the call returns."""


@dataclass
class HandedIn:
    """Models that wait for their comparison. What was done stays done when a step fails and the comparison is tried again.

    Attributes:
        models: Registered name and version of each.
        labelled: Labelled records at the round; None for models that no round asked for.
        after: The models were trained on records with larger keys only, and are compared on such.
        cause: The alerts that asked for the round; None where it was the growth of the data.
    """

    round: str
    models: list[tuple[str, str]]
    labelled: int | None = None
    after: str | None = None
    cause: Cause | None = None
    comparison: Comparison | None = None
    runs: dict[str, str] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """``alert``, ``growth`` or ``schedule``."""
        if self.cause is not None:
            return "alert"
        return "schedule" if self.labelled is None else "growth"

    def forget_runs(self, error: Exception) -> None:
        """After a refusal the next try makes new runs: somebody may have deleted one that was begun."""
        if isinstance(error, TrackingRefusedError):
            self.runs.clear()


class ChampionChoice:
    """Compares models on the newest hold-out data, logs that, and crowns the best. A newcomer has to beat the champion there."""

    def __init__(
        self, registry: ModelRegistry, comparisons: ComparisonLog, data: LabelledData, dataset: Dataset, asked: Asked,
        holdout_newest: int, baseline_samples: int = 0, few: int = 0,
    ) -> None:  # fmt: skip
        """Prepares it.

        Args:
            registry: Where the models are.
            comparisons: Where comparisons are kept.
            data: Where the hold-out samples come from.
            dataset: What the models are for.
            asked: Runs calls to MLflow.
            holdout_newest: Hold-out samples that decide, at most; 0 for all.
            baseline_samples: Training samples that baselines are fitted on, at most about; 0 for no baselines.
            few: Labelled records below which baselines are cross-validated, as the trainers do it with their models.
        """
        self._registry = registry
        self._log = comparisons
        self._data = data
        self._dataset = dataset
        self._asked = asked
        self._holdout_newest = holdout_newest
        self._baseline_samples = baseline_samples
        self._few = few

    async def decide(self, waiting: HandedIn) -> dict[str, Any]:
        """Carries the comparison out; returns the value of ``COMPARISON_FINISHED``.

        Raises:
            TrainingFailedError: None of the models can be used.
            TrackingUnavailableError: MLflow does not answer; call again with the same ``waiting``.
        """
        if waiting.comparison is None:
            waiting.comparison = await self._compared(waiting)
        comparison = waiting.comparison
        origin = Origin(waiting.labelled, waiting.why, waiting.after, waiting.cause.alerts if waiting.cause else ())
        url = await self._asked(partial(self._log.log, comparison, origin, waiting.runs))
        champion = comparison.champion
        await self._asked(partial(self._registry.set_champion, champion.ref))
        # Last: a comparison that is finished there is not repeated after a restart, so the champion must be crowned by then.
        await self._asked(partial(self._log.finish, comparison, waiting.runs))
        log.info("Round %s: %s version %s is the champion with RMSE %s on %d hold-out records; ranked by %s", comparison.round,
                 champion.ref.model, champion.ref.version, format_figure(champion.scores.rmse), comparison.holdout,
                 comparison.ranked_by)  # fmt: skip
        if comparison.kept:
            log.info("%s", comparison.kept)
        if comparison.verdict:
            log.warning("Round %s: %s", comparison.round, comparison.verdict)
        return {**announced(comparison, origin.cause, origin.alerts), "run_url": url}

    @staticmethod
    def crowned(comparison: Comparison, cause: str) -> dict[str, Any]:
        """The value of ``CHAMPION_CHANGED``; ``cause`` is what the round was for."""
        summary = comparison.champion.as_dict()
        return {
            **{name: summary[name] for name in ("model", "version", "framework", "rmse")},
            "pipeline_version": comparison.champion.ref.pipeline_version,
            "cause": cause,
        }

    async def _compared(self, waiting: HandedIn) -> Comparison:
        data = await self._data.to_compare(self._holdout_newest, waiting.after, self._baseline_samples, self._few)
        compare = ModelComparison(self._registry, Pipeline(self._dataset)).run
        return await self._asked(partial(compare, waiting.round, waiting.models, data.holdout, data.train, data.few))
