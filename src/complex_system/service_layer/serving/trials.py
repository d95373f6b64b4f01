"""Handlers for trying the champion: its predictions are not announced, and those that fail are not counted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from complex_system.errors import BusyError, ModelRefusedError, UnsupportedByModelError
from complex_system.protocol.base import Empty, Request
from complex_system.protocol.trial import (
    GET_MODEL_INPUTS,
    SUGGEST_SETTINGS,
    TRY_RECORD,
    ModelInputs,
    Suggestions,
    SuggestRequest,
    TriedRecord,
    TryRequest,
)
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.known import record_warnings
from complex_system.serving.requests.wanted import Wanted
from complex_system.serving.suggest.inputs import model_inputs
from complex_system.serving.suggest.suggester import Suggester


class TrialHandlers:
    """What a serving service answers about its champion beside predictions.

    Attributes:
        engine: Predicts.
        suggester: Finds settings.
        trials: The subjects and their handlers.
    """

    engine: PredictionEngine
    suggester: Suggester

    async def get_model_inputs(self, _: Empty) -> ModelInputs:
        """Answer what the champion takes."""
        return await asyncio.to_thread(model_inputs, self.engine.champion.require())

    async def try_record(self, asked: TryRequest) -> TriedRecord:
        """Answer what the champion says about a made-up record."""
        known = self.engine.champion.require().known is not None
        result = await self.engine.predict([asked.record], "trial", Wanted(warnings=known))
        [warnings] = result.warnings if known else record_warnings([0.0], result.outside)
        base: float | None = None
        contributions: dict[str, float] = {}
        # Of an earlier release, damaged, or too many ask: the prediction is worth having all the same.
        with contextlib.suppress(UnsupportedByModelError, ModelRefusedError, BusyError):
            explained = await self.engine.explain([asked.record])
            base, contributions = explained.base, explained.explanations[0].contributions
        return TriedRecord(
            model=result.model.name,
            version=result.model.version,
            prediction=result.predictions[0],
            half_width=result.model.half_width_90,
            warnings=tuple(each.text for each in warnings),
            contributions=contributions,
            base=base,
        )

    async def suggest_settings(self, asked: SuggestRequest) -> Suggestions:
        """Answer a request for settings."""
        return await self.suggester.suggest(asked)

    trials: ClassVar[tuple[tuple[Request[Any, Any], Any], ...]] = (
        (GET_MODEL_INPUTS, get_model_inputs),
        (TRY_RECORD, try_record),
        (SUGGEST_SETTINGS, suggest_settings),
    )
