"""Holds the model that is served, and swaps a newer one in without a lost request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from complex_system.background import started
from complex_system.errors import ComplexSystemError, ModelRefusedError, NoModelError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.own_pipeline import pipeline_for
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.models.source import ModelReference, ModelSource

log = logging.getLogger(__name__)

RETRY_FIRST = 15.0
"""Seconds before a version that could not be loaded is tried again; doubled each time."""
RETRY_LAST = 600.0


@dataclass(frozen=True)
class Problem:
    """Why the source's newest model is not the one that is served."""

    name: str
    version: str
    code: str
    reason: str
    attempts: int
    retry_at: float

    def as_dict(self) -> dict[str, Any]:
        """It as JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "code": self.code,
            "reason": self.reason,
            "attempts": self.attempts,
        }


class ModelHolder:
    """The predictor of the moment. A request takes it once, so a swap never mixes two models in one answer."""

    def __init__(
        self,
        source: ModelSource,
        pipeline: Pipeline,
        look: Callable[[], ModelReference | None] | None = None,
        loaded: Callable[[ModelReference], Predictor | None] | None = None,
        *,
        only_present: bool = False,
    ) -> None:
        """Makes a holder; nothing is loaded yet.

        Args:
            source: Where the model comes from.
            pipeline: The pipeline of the deployment's data set.
            look: Says which model should be held; without it the source's newest. Blocking.
            loaded: Returns a model that another holder has, so that none is loaded twice.
            only_present: Whether models of another pipeline version are refused although they bring their declaration.
        """
        self._only_present = only_present
        self._look = look
        self._loaded = loaded or (lambda _: None)
        self.source = source
        self.pipeline = pipeline
        self.current: Predictor | None = None
        self.problem: Problem | None = None
        """The version that was refused, if the source's newest is one."""
        self.source_problem: str | None = None
        """Why the source could not be asked, the last time."""
        self._served: ModelReference | None = None
        self._turn = asyncio.Lock()

    def require(self) -> Predictor:
        """The current predictor.

        Raises:
            NoModelError: There is none yet.
        """
        if self.current is None:
            why = f" {self.reason}" if self.reason else ""
            raise NoModelError(
                f"There is no model yet.{why} A model is served as soon as a training round has ended: save labelled records "
                "and start the trainers and ml_consumer."
            )
        return self.current

    @property
    def reference(self) -> ModelReference | None:
        """What is held."""
        return self._served

    @property
    def waiting(self) -> Problem | None:
        """The problem of a version that will not be tried again yet."""
        return self.problem if self.problem is not None and time.monotonic() < self.problem.retry_at else None

    @property
    def reason(self) -> str:
        """Why a newer model is not served or not looked for; empty when all is well."""
        if self.problem is not None:
            return self.problem.reason
        return self.source_problem or ""

    async def refresh(self) -> bool:
        """Looks for a newer model, loads it in a thread, warms it up and swaps it in.

        A version that cannot be loaded leaves the old one in place; it is tried again after a growing pause.

        Returns:
            Whether another model is served now.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        async with self._turn:
            try:
                # The source is asked for now, because it may be exchanged.
                newest = await asyncio.wrap_future(started(self._look or self.source.newest, "model-look"))
                if newest is None or newest == self._served:
                    self.problem = self.source_problem = None
                    return False
                swapped = False if self._must_wait(newest) else await self._take(newest)
            except ComplexSystemError as error:
                self.source_problem = error.message
                raise
            except Exception as error:
                # Clients read this: no text of a foreign error, which may hold paths.
                self.source_problem = f"Looking for a model failed ({type(error).__name__}); the log says more."
                raise
            self.source_problem = None
            return swapped

    def status(self) -> dict[str, Any]:
        """What is served, and what is not and why, as JSON."""
        return {
            "model": self.current.info.as_dict() if self.current else None,
            "pipeline_version": self.pipeline.dataset.version,
            "source": self.source.label,
            "problem": self.problem.as_dict() if self.problem else None,
            "source_problem": self.source_problem,
        }

    async def _take(self, newest: ModelReference) -> bool:
        try:
            predictor = self._loaded(newest)
            if predictor is None:
                predictor = await asyncio.wrap_future(started(lambda: self._load(newest), "model-load"))
        except ModelRefusedError as error:
            self._refuse(newest, error.code, error.message)
            return False
        except ComplexSystemError:
            raise
        except Exception as error:
            log.exception("%s could not be loaded", newest)
            self._refuse(newest, "internal", f"{newest} could not be loaded ({type(error).__name__}); the log says more.")
            return False
        self.current, self._served, self.problem = predictor, newest, None
        log.info("Serving %s (%s)", predictor.info.label, predictor.info.framework)
        if (own := predictor.info.pipeline_version) != (present := self.pipeline.dataset.version):
            log.warning(
                "%s is of pipeline version %s and is served with that pipeline until a model of version %s is there",
                predictor.info.label,
                own,
                present,
            )
        return True

    def _load(self, reference: ModelReference) -> Predictor:
        twin = self.source.load(reference)
        pipeline = self.pipeline
        if twin.runtime is None:
            pipeline = pipeline_for(str(reference), twin.metadata, pipeline, only_present=self._only_present)
        return Predictor(pipeline, reference.name, reference.version, twin.onnx, twin.metadata, twin.runtime)

    def _must_wait(self, newest: ModelReference) -> bool:
        problem = self.problem
        same = problem is not None and (problem.name, problem.version) == (newest.name, newest.version)
        return same and problem is not None and time.monotonic() < problem.retry_at

    def _refuse(self, newest: ModelReference, code: str, reason: str) -> None:
        before = self.problem
        same = before is not None and (before.name, before.version) == (newest.name, newest.version)
        attempts = before.attempts + 1 if same and before is not None else 1
        pause = min(RETRY_FIRST * 2 ** min(attempts - 1, 10), RETRY_LAST)
        self.problem = Problem(newest.name, newest.version, code, reason, attempts, time.monotonic() + pause)
        log.warning("%s is not served: %s %s stays.", newest, reason, self._served or "Nothing")
