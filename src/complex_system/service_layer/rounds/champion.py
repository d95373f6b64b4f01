"""From the models of a round to the champion: compare them, log that in MLflow, and move the alias ``champion``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Protocol, TypeVar

from complex_system.domain.dataset import Dataset
from complex_system.errors import NotEnoughDataError, TrainingFailedError
from complex_system.evaluation.comparison import Comparison, ComparisonRequest, ModelComparison
from complex_system.evaluation.mlflow_log import ComparisonLog
from complex_system.evaluation.verdict import format_figure
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.training import ChampionChanged, ComparisonFinished
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.tracking.registry import ModelRegistry

log = logging.getLogger(__name__)

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs a blocking call to MLflow without holding up the event loop."""

    async def __call__(self, call: Callable[[], T]) -> T:
        """Return what the call returns."""


@dataclass(frozen=True)
class ChampionSelector:
    """Compares models on the newest hold-out data and makes the best one champion. A new model has to beat the present one.

    Attributes:
        registry: Where the models are.
        comparisons: Where comparisons are kept.
        data: Where the hold-out samples come from.
        dataset: What the models are for.
        run_blocking: Runs calls to MLflow.
        holdout_newest: Hold-out samples that decide, at most; 0 for all.
        baseline_samples: Training samples that baselines are fitted on, at most about; 0 for no baselines.
        few: Labelled records below which baselines are cross-validated, as the trainers do it with their models.
    """

    registry: ModelRegistry
    comparisons: ComparisonLog
    data: LabelledData
    dataset: Dataset
    run_blocking: RunBlocking
    _: KW_ONLY
    holdout_newest: int
    baseline_samples: int
    few: int

    async def select(self, request: ComparisonRequest) -> tuple[ComparisonFinished, ChampionChanged | None]:
        """Compare, log, and move the alias; return what there is to announce.

        Raises:
            TrainingFailedError: None of the models can be used.
            TrackingUnavailableError: MLflow does not answer; call again with the same request.
        """
        if request.comparison is None:
            request.comparison = await self._compare(request)
        comparison = request.comparison
        champion, rmse = comparison.champion.ref, comparison.champion.quality.rmse
        url = await self.run_blocking(partial(self.comparisons.log, comparison, request))
        await self.run_blocking(partial(self.registry.set_champion, champion))
        # Last: a comparison that is finished in MLflow is not repeated after a restart, so the alias must have moved by then.
        await self.run_blocking(partial(self.comparisons.finish, request))
        log.info(
            "Round %s: champion %s with RMSE %s on %d hold-out records; ranked by %s",
            comparison.round, comparison.champion.label, format_figure(rmse), comparison.holdout, comparison.ranked_by,
        )  # fmt: skip
        if comparison.kept:
            log.info("%s", comparison.kept)
        if comparison.verdict:
            log.warning("Round %s: %s", comparison.round, comparison.verdict)
        changed = ChampionChanged(
            model=champion.model, version=champion.version, framework=champion.framework, rmse=rmse,
            pipeline_version=champion.pipeline_version, cause=request.cause,
        )  # fmt: skip
        return comparison.message(request, url), changed if comparison.is_change else None

    async def _compare(self, request: ComparisonRequest) -> Comparison:
        try:
            data = await self.data.to_compare(self.holdout_newest, request.after, self.baseline_samples, self.few)
        except NotEnoughDataError as error:
            if request.alert is None:
                raise
            raise TrainingFailedError(f"Round {request.round} cannot be compared: {error.message}") from error
        compare = ModelComparison(self.registry, Pipeline(self.dataset)).run
        return await self.run_blocking(partial(compare, request, data.holdout, data.train, data.few))
