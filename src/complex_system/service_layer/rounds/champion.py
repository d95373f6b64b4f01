"""From the models of a round to the champion: compare them, log that in MLflow, and move the alias ``champion``, or ``candidate``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from complex_system.domain.dataset import Dataset
from complex_system.errors import NotEnoughDataError, TrainingFailedError, UnknownModelError
from complex_system.evaluation.candidates import explain_version
from complex_system.evaluation.card import write_cards
from complex_system.evaluation.comparison import ComparisonRequest, ModelComparison, ToCompare, linear_result
from complex_system.evaluation.mlflow_log import ComparisonLog
from complex_system.evaluation.results import Comparison
from complex_system.evaluation.verdict import format_figure
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.training import ChampionChanged, ComparisonFinished
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.tracking.base import TrainingResult
from complex_system.tracking.mlflow import MlflowTracker
from complex_system.tracking.promotion import (
    HOLDOUT_RECORDS,
    HOLDOUT_RMSE,
    PINNED,
    RESTORED,
    PromotionRegistry,
    decision_in,
)
from complex_system.tracking.registry import CHAMPION_ROUND, DATA_UNTIL, TRAINED_UNTIL, ModelVersionRef, newest_champion
from complex_system.training.grouping import Read

log = logging.getLogger(__name__)

T = TypeVar("T")

STACK_SAMPLES = 50_000
"""Training samples that are read for a stack where no baseline needs them, at most about."""


class RunBlocking(Protocol):
    """Runs a blocking call to MLflow without holding up the event loop."""

    async def __call__(self, call: Callable[[], T]) -> T:
        """Return what the call returns."""


@dataclass(frozen=True)
class ChampionSelector:
    """Compares models on the newest hold-out data and makes one champion. A new model has to be surely better than the present one.

    The linear model is fitted here, and registered like a trainer's model where it is to be champion. So is the stack of a round's
    models, which is registered whenever there is one, and then compared like them.

    Attributes:
        registry: Where the models are.
        tracker: Registers the linear model and the stack.
        comparisons: Where comparisons are kept.
        data: Where the hold-out samples come from.
        dataset: What the models are for.
        run_blocking: Runs calls to MLflow.
        holdout_newest: Hold-out samples that decide, at most; 0 for all.
        baseline_samples: Training samples that baselines are fitted on, at most about; 0 for no baselines.
        few: Labelled records below which baselines are cross-validated, as the trainers do it with their models.
        prefix: Begin of the registered names.
        level: Probability with which a round may change the champion although no model is better.
        stack: Whether there is a stack.
        approved: A person decides about every new champion; the winner of a round is the candidate.
    """

    registry: PromotionRegistry
    tracker: MlflowTracker
    comparisons: ComparisonLog
    data: LabelledData
    dataset: Dataset
    run_blocking: RunBlocking
    _: KW_ONLY
    holdout_newest: int
    baseline_samples: int
    few: int
    prefix: str
    level: float
    stack: bool = True
    approved: bool = False

    async def select(self, request: ComparisonRequest) -> tuple[ComparisonFinished, ChampionChanged | None]:
        """Compare, log, and move the alias ``champion``, or ``candidate`` where a person decides; return what there is to announce.

        Raises:
            TrainingFailedError: None of the models can be used.
            TrackingUnavailableError, UnknownModelError: MLflow does not answer, or the best model was deleted during the comparison;
                call again with the same request.
        """
        if request.comparison is None:
            request.comparison = await self._compare(request)
        if request.linear is not None:
            request.comparison = await self._registered(request.comparison, request, request.linear)
        if request.holdout is not None:
            explain = partial(explain_version, self.registry, Pipeline(self.dataset), request.comparison.winner.ref)
            explanation = await self.run_blocking(partial(explain, request.holdout))
            request.comparison, request.holdout = replace(request.comparison, explanation=explanation), None
        comparison = request.comparison
        champion, rmse = comparison.champion.ref, comparison.champion.quality.rmse
        url = await self.run_blocking(partial(self.comparisons.log, comparison, request))
        await self.run_blocking(partial(write_cards, self.registry, self.dataset, comparison))
        try:
            await self.run_blocking(partial(self._promote, comparison))
        except UnknownModelError:
            request.comparison = None  # the best model was deleted meanwhile: the same request compares the others
            raise
        await self.run_blocking(partial(self.registry.mark_compared, request.models, request.round))
        # Last: a comparison that is finished in MLflow is not repeated after a restart, so the alias must have moved by then.
        await self.run_blocking(partial(self.comparisons.finish, request))
        log.info(
            "Round %s: %s %s with RMSE %s on %d hold-out records; ranked by %s",
            comparison.round, "candidate" if comparison.candidate else "champion", comparison.winner.label,
            format_figure(comparison.winner.quality.rmse), comparison.holdout, comparison.ranked_by,
        )  # fmt: skip
        if comparison.kept:
            log.info("%s", comparison.kept)
        if comparison.evidence:
            log.warning("Round %s: %s", comparison.round, comparison.evidence)
        changed = ChampionChanged(
            model=champion.model, version=champion.version, framework=champion.framework, rmse=rmse,
            holdout=comparison.holdout, pipeline_version=champion.pipeline_version, cause=request.cause,
        )  # fmt: skip
        return comparison.message(request, url), changed if comparison.is_change else None

    def _promote(self, comparison: Comparison) -> None:
        """Move an alias to the winner, with the error that it was chosen by. The candidate before is out of date."""
        winner = comparison.winner
        if not winner.incumbent:
            found = {HOLDOUT_RMSE: repr(winner.quality.rmse), HOLDOUT_RECORDS: str(comparison.holdout)}
            self.registry.tag(self.registry.find(winner.ref.model, winner.ref.version), found)
        if comparison.candidate is None:
            self.registry.set_champion(comparison.champion.ref, comparison.round)
        if not winner.incumbent:
            self.registry.set_candidate(None if comparison.candidate is None else winner.ref)

    async def rejected(self, request: ComparisonRequest) -> None:
        """Record that the models of a round cannot be used, so that they are not compared again."""
        await self.run_blocking(partial(self.registry.mark_compared, request.models, request.round))

    async def uphold(self, last: ComparisonFinished) -> bool:
        """Move the alias back to the champion of the last comparison where a replica without the lease moved it, or died doing so.

        MLflow cannot move an alias only if it is still where it was, so a replica that was frozen between its look at the lease and
        its request moves it when it goes on. Such a move is of a round that was never finished. A person may move the alias, too: to
        a version that was never champion, or is that of a finished round.

        Returns:
            Whether the alias was not where it belongs.
        """
        return await self.run_blocking(partial(self._uphold, last))

    def _uphold(self, last: ComparisonFinished) -> bool:
        found = self.registry.champions()
        newest = newest_champion(found)
        if newest is None or (
            len(found) == 1 and (newest.model, newest.version) == (last.champion.model, last.champion.version)
        ):
            return False
        target = newest
        if not self._stands(newest, last):
            target = next((ref for ref in self.registry.crowned() if self._stands(ref, last)), newest)
        if target == newest and len(found) == 1:
            return False
        self.registry.set_champion(target, target.tags.get(CHAMPION_ROUND, ""))
        log.warning(
            "The alias champion is back at %s version %s; a replica without the lease had moved it, or was cut off moving it",
            target.model, target.version,
        )  # fmt: skip
        return True

    def _stands(self, champion: ModelVersionRef, last: ComparisonFinished) -> bool:
        """Return whether a person crowned a version, or a round that was finished."""
        by = champion.tags.get(CHAMPION_ROUND)
        return not by or by == last.round or self.comparisons.is_finished(by)

    def _seen_by(self, models: list[tuple[str, str]]) -> list[Read]:
        found = []
        for model, version in models:
            with contextlib.suppress(UnknownModelError):  # the comparison says so
                found.append(_read_by(self.registry.find(model, version)))
        return found

    async def _compare(self, request: ComparisonRequest) -> Comparison:
        champion = present = await self.run_blocking(self.registry.champion)
        if champion is not None and champion.pipeline_version != self.dataset.version:
            champion = None
        takes_part = champion is not None and champion.split == self.dataset.split_rule
        seen: list[Read] = []
        if self.dataset.split.by != "key":
            seen = await self.run_blocking(partial(self._seen_by, request.models))
        try:
            data = await self.data.to_compare(
                self.holdout_newest, request.since, self.baseline_samples or (STACK_SAMPLES if self.stack else 0), self.few,
                request.after, seen, _read_by(champion) if champion is not None and takes_part else None, request.moved_since,
                stack=self.stack,
            )  # fmt: skip
        except NotEnoughDataError as error:
            if request.alert is None:
                raise
            raise TrainingFailedError(f"Round {request.round} cannot be compared: {error.message}") from error
        compare = ModelComparison(
            self.registry, Pipeline(self.dataset), self.prefix, self.level, baselines=self.baseline_samples > 0
        )
        if self.stack and not request.stacked:
            await self._add_stack(compare, request, data)
        hold = self._hold(present, compared=takes_part and not data.champion_has_seen)
        found = await self.run_blocking(partial(compare.run, request, data, champion, hold))
        request.holdout = data.holdout
        if not found.winner.ref.version and data.training is not None:
            reference, files = await self.data.description(data.training, data.keys, data.labelled)
            fit = partial(linear_result, request, self.dataset, data.training, data.few, reference, files)
            request.linear = await asyncio.to_thread(fit)
        return found

    async def _add_stack(self, compare: ModelComparison, request: ComparisonRequest, data: ToCompare) -> None:
        """Register the stack of the models and add it to them. After a failure, the next call goes on with what was begun."""
        if request.stack is None and data.training is not None:
            reference, files = await self.data.description(data.training, data.keys, data.labelled)
            request.stack = await self.run_blocking(partial(compare.stack, request, data, reference, files))
        if request.stack is not None:
            logged = await self.run_blocking(partial(self.tracker.log, request.stack))
            request.models, request.stack = [*request.models, (logged.model, logged.version)], None
        request.stacked = True

    def _hold(self, champion: ModelVersionRef | None, *, compared: bool) -> str:
        """Return why a person decides about a new champion, as a part of a sentence; empty where the round does."""
        if pin := decision_in(champion, PINNED):
            return f"{pin.label} is pinned by {pin.who} ({pin.why})"
        if self.approved:
            return "a person approves every champion (COMPLEX_SYSTEM_PROMOTION)"
        back = decision_in(champion, RESTORED)
        if back is not None and not compared:
            return f"{back.who} rolled back to {back.label} ({back.why}), which cannot be compared any more"
        return ""

    async def _registered(self, found: Comparison, request: ComparisonRequest, linear: TrainingResult) -> Comparison:
        """Register the linear model that is to be champion. After a failure, the next call goes on with what was begun."""
        logged = await self.run_blocking(partial(self.tracker.log, linear))
        ref = await self.run_blocking(partial(self.registry.find, logged.model, logged.version))
        request.models, request.linear = [*request.models, (ref.model, ref.version)], None
        return found.with_version(ref)


def _read_by(ref: ModelVersionRef) -> Read:
    """Return what a model's training has read, as far as its tags say so."""
    known: dict[str, float] = {}
    for name, tag in (("arrived", DATA_UNTIL), ("until", TRAINED_UNTIL)):
        with contextlib.suppress(KeyError, ValueError):
            known[name] = float(ref.tags[tag])
    return Read(**known)
