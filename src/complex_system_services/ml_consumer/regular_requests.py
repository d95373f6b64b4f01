"""The consumer's requests for predictions, and the truths that it knows."""

from __future__ import annotations

import logging
from typing import Any

from complex_system.domain.dataset import ID
from complex_system.errors import ComplexSystemError, InvalidRecordError
from complex_system.messaging.clients import ServingClient
from complex_system_services.ml_consumer.probes import Probe, Probes

log = logging.getLogger(__name__)

REFUSALS = 3
"""Requests one after the other of which no record was taken, until that is said."""
LOGGED = 2
"""Predictions of a request that are logged."""


class PredictionRequests:
    """Asks for predictions of records whose truth may be known."""

    def __init__(self, probes: Probes, serving: ServingClient, count: int) -> None:
        """Prepares requests.

        Args:
            probes: Where the records come from.
            serving: Who predicts.
            count: Records of a request.
        """
        self._probes = probes
        self._serving = serving
        self._count = count
        self._failed = ""
        self._refusals = 0

    async def make(self) -> list[dict[str, Any]]:
        """Makes one request; returns the truths that are known now: ``[{"id", "truth"}]``, empty when nothing was predicted."""
        try:
            probes = await self._probes.draw(self._count)
            probes, predictions = await self._predicted(probes)
        except ComplexSystemError as error:
            # Said once and not every few seconds: before the first model this is how things are.
            if self._failed != error.code:
                self._failed = error.code
                log.warning("No prediction: %s", error.message)
            return []
        self._failed = ""
        for (_, truth), prediction in list(zip(probes, predictions, strict=True))[:LOGGED]:
            if truth is None:
                log.info("Prediction %.2f, truth not known", prediction)
            else:
                log.info("Prediction %.2f, truth %.2f, error %+.2f", prediction, truth, prediction - truth)
        return [{"id": record[ID], "truth": truth} for record, truth in probes if truth is not None]

    async def _predicted(self, probes: list[Probe]) -> tuple[list[Probe], list[float]]:
        """Records that can be processed, and their predictions; one that cannot costs only itself."""
        while probes:
            try:
                predictions = await self._serving.predict([record for record, _ in probes])
                self._refusals = 0
                return probes, predictions
            except InvalidRecordError as error:
                bad = {int(fault["record"]) for fault in error.faults}
                if not bad:
                    raise
                log.debug("%d records are not predicted: %s", len(bad), error.message)
                probes = [probe for place, probe in enumerate(probes) if place not in bad]
                if not probes:
                    # It may be for long: after a change of the declaration the model of before may need a column that is no more.
                    self._refusals += 1
                    if self._refusals == REFUSALS:
                        log.warning("No prediction: the model that answers takes none of the records. %s", error.message)
        return [], []
