"""Tries the champion for the page: asks the service that serves it."""

from __future__ import annotations

from complex_system.messaging.clients import Requester
from complex_system.protocol.base import Empty
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

SECONDS = 5.0
"""How long the page waits for a prediction; a search takes its own time besides."""


class TrialClient:
    """The champion's service, as :class:`complex_system.monitoring.page.trial.Trials` asks it."""

    def __init__(self, requester: Requester) -> None:
        """Make a client.

        Args:
            requester: Sends the requests.
        """
        self._ask = requester.ask

    async def inputs(self) -> ModelInputs:
        """Return what the champion takes."""
        return await self._ask(GET_MODEL_INPUTS, Empty(), SECONDS)

    async def attempt(self, asked: TryRequest) -> TriedRecord:
        """Return what the champion says about a record."""
        return await self._ask(TRY_RECORD, asked, SECONDS)

    async def suggest(self, asked: SuggestRequest) -> Suggestions:
        """Return settings that reach a value or an extreme."""
        return await self._ask(SUGGEST_SETTINGS, asked, SECONDS + asked.seconds)
