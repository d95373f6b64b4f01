"""A slot holds one model that is served, and replaces it with a newer one without losing a request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from complex_system.background import started
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, DeclarationError, ModelRefusedError, NoModelError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import ModelInfo, Predictor
from complex_system.serving.models.source import ModelReference, ModelSource

log = logging.getLogger(__name__)

RETRY_FIRST = 15.0
"""Seconds before a version that could not be loaded is tried again; doubled each time."""
RETRY_LAST = 600.0


class ModelProblem(msgspec.Struct, frozen=True):
    """A version that is not served, and why."""

    name: str
    version: str
    code: str
    reason: str
    attempts: int


class ModelStatus(msgspec.Struct, frozen=True):
    """What a slot serves, and what it does not serve and why."""

    model: ModelInfo | None
    pipeline_version: str
    source: Annotated[str, msgspec.Meta(description="Where the models come from.")]
    problem: ModelProblem | None
    source_problem: Annotated[str | None, msgspec.Meta(description="Why the source could not be asked, the last time.")]


class ModelSlot:
    """The current predictor. A request takes it once, so a swap never mixes two models in one response.

    Attributes:
        current: The predictor; None until one is loaded.
        reference: What is loaded.
        problem: The source's newest version, if it was refused.
        source_problem: Why the source could not be asked, the last time.
    """

    def __init__(
        self,
        source: ModelSource,
        pipeline: Pipeline,
        find: Callable[[], ModelReference | None] | None = None,
        loaded: Callable[[ModelReference], Predictor | None] = lambda _: None,
        *,
        only_present: bool = False,
    ) -> None:
        """Make a slot; nothing is loaded yet.

        Args:
            source: Where the model comes from.
            pipeline: The pipeline of the deployment's data set.
            find: Finds the model that belongs into the slot; by default the source's newest. Blocking.
            loaded: Returns a model that another slot has, so that none is loaded twice.
            only_present: Whether models of another pipeline version are refused although they carry their declaration.
        """
        self.source = source
        self.pipeline = pipeline
        self.current: Predictor | None = None
        self.reference: ModelReference | None = None
        self.problem: ModelProblem | None = None
        self.source_problem: str | None = None
        self._find = find
        self._loaded = loaded
        self._only_present = only_present
        self._retry_at = 0.0
        self._lock = asyncio.Lock()

    def require(self) -> Predictor:
        """Return the current predictor.

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
    def must_wait(self) -> bool:
        """Whether a version was refused and will not be tried again yet."""
        return self.problem is not None and time.monotonic() < self._retry_at

    @property
    def reason(self) -> str:
        """Why a newer model is not served or not looked for; empty when all is well."""
        if self.problem is not None:
            return self.problem.reason
        return self.source_problem or ""

    @property
    def status(self) -> ModelStatus:
        """What is served, and what is not and why."""
        info = self.current.info if self.current else None
        return ModelStatus(info, self.pipeline.dataset.version, self.source.label, self.problem, self.source_problem)

    async def refresh(self) -> bool:
        """Look for a newer model, load it in a thread, warm it up and swap it in.

        A version that cannot be loaded leaves the old one in place; it is tried again after a growing pause.

        Returns:
            Whether another model is served now.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        async with self._lock:
            try:
                # ``source`` is read at each call: it may be replaced.
                newest = await asyncio.wrap_future(started(self._find or self.source.newest, "model-look"))
                if newest is None or newest == self.reference:
                    self.problem, self.source_problem = None, self._withdrawn() if newest is None else None
                    return False
                swapped = False if self.must_wait and self._is_refused(newest) else await self._swap_in(newest)
            except ComplexSystemError as error:
                self.source_problem = error.message
                raise
            except Exception as error:
                # Clients read this: no text of a foreign error, which may contain paths.
                self.source_problem = f"Looking for a model failed ({type(error).__name__}); the log says more."
                raise
            self.source_problem = None
            return swapped

    def _withdrawn(self) -> str | None:
        """Return what to say where the source has no model any more; None where nothing is loaded either."""
        if self.reference is None:
            return None
        told = f"{self.reference} stays loaded; it is no longer {self.source.label}, and there is no other: was it deleted?"
        if self.source_problem != told:
            log.warning("%s", told)
        return told

    async def _swap_in(self, newest: ModelReference) -> bool:
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
        self.current, self.reference, self.problem = predictor, newest, None
        log.info("Serving %s (%s)", predictor.info.label, predictor.info.framework)
        if (own := predictor.info.pipeline_version) != (present := self.pipeline.dataset.version):
            log.warning(
                "%s is of pipeline version %s and is served with that pipeline until there is a model of version %s",
                predictor.info.label,
                own,
                present,
            )
        return True

    def _load(self, reference: ModelReference) -> Predictor:
        model = self.source.load(reference)
        pipeline = self.pipeline
        if model.runtime is None:
            pipeline = pipeline_for(str(reference), model.metadata, pipeline, only_present=self._only_present)
        return Predictor(
            pipeline, reference.name, reference.version, model.onnx_model, model.metadata, model.runtime, model.files
        )

    def _is_refused(self, version: ModelReference) -> bool:
        return self.problem is not None and (self.problem.name, self.problem.version) == (version.name, version.version)

    def _refuse(self, newest: ModelReference, code: str, reason: str) -> None:
        attempts = self.problem.attempts + 1 if self.problem is not None and self._is_refused(newest) else 1
        self.problem = ModelProblem(newest.name, newest.version, code, reason, attempts)
        self._retry_at = time.monotonic() + min(RETRY_FIRST * 2 ** min(attempts - 1, 10), RETRY_LAST)
        log.warning("%s is not served: %s %s stays.", newest, reason, self.reference or "Nothing")


def pipeline_for(label: str, metadata: Mapping[str, Any], present: Pipeline, *, only_present: bool = False) -> Pipeline:
    """Return the pipeline of a model: the present one, or one of the declaration that its trainer stored. Blocking.

    Args:
        label: Name of the model in messages.
        metadata: What the trainer stored beside the model.
        present: The deployment's pipeline.
        only_present: Whether records are processed elsewhere, where only the present version is known.

    Raises:
        ModelRefusedError: The model is of another version and has no usable declaration, or is for another data set or target.
    """
    dataset = present.dataset
    version = metadata.get("pipeline_version")
    if version == dataset.version:
        return present
    mismatch = f"{label} was trained for pipeline version {version}, and this service runs {dataset.version}"
    content = metadata.get("declaration")
    if content is None:
        raise ModelRefusedError(
            f"{mismatch}; it brings no declaration to be served with: train again with the present data set."
        )
    if only_present:
        raise ModelRefusedError(
            f"{mismatch}; records are processed by data_processing (COMPLEX_SYSTEM_SERVING_PIPELINE=broker), which knows the present "
            "version only: train again, or set it to local until that is done."
        )
    try:
        own = Dataset.restored(content)
    except DeclarationError as error:
        raise ModelRefusedError(
            f"{mismatch}; the declaration that it brings is not readable here: {error.message}"
        ) from error
    if own.version != version:
        raise ModelRefusedError(
            f"{mismatch}; the declaration that it brings is of version {own.version} here: train again with this release."
        )
    if own.name != dataset.name:
        raise ModelRefusedError(f"{mismatch}; it is for the data set '{own.name}' and not for '{dataset.name}'.")
    if own.target != dataset.target:
        raise ModelRefusedError(f"{mismatch}; it predicts '{own.target}' and not '{dataset.target}'.")
    return Pipeline(own)
