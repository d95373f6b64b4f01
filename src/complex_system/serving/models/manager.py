"""All models that can be asked for: the champion, always loaded, and others by name, loaded on first use and a few at a time."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated

import msgspec

from complex_system.background import started
from complex_system.errors import ComplexSystemError, ModelRefusedError, UnknownModelError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import ModelInfo, Predictor
from complex_system.serving.models.slot import ModelProblem, ModelSlot, ModelStatus
from complex_system.serving.models.source import ListedModel, ModelReference, ModelSource

log = logging.getLogger(__name__)

CHAMPION = "champion"
"""Name under which the champion is served beside its own."""
LISTED_SECONDS = 5.0
"""How long a list of the source's models is used again, and how long an unknown name stays unknown."""
MAX_UNKNOWN = 1000
"""Unknown names that are remembered, so that asking for them again does not ask the source."""
FIRST_USES = 4
"""Models that are loaded for the first time at once, whatever clients ask for."""

_Key = tuple[str, str | None]


class RegisteredModel(msgspec.Struct, frozen=True):
    """A model that can be asked for."""

    name: str
    newest: str
    framework: str
    aliases: Annotated[Mapping[str, str], msgspec.Meta(description="Alias to version.")]
    loaded: Annotated[list[str], msgspec.Meta(description="Versions that are loaded.")]


class LoadedStatus(msgspec.Struct, frozen=True):
    """A model that was asked for by name, and by version or alias."""

    name: str
    version: str | None
    model: ModelInfo | None
    problem: ModelProblem | None


class ModelsStatus(msgspec.Struct, frozen=True):
    """The champion, the models that can be asked for, and those that are loaded."""

    champion: ModelStatus
    models: list[RegisteredModel]
    loaded: list[LoadedStatus]
    kept: Annotated[int, msgspec.Meta(description="How many models beside the champion stay loaded.")]
    source_problem: str | None


class ModelManager:
    """Finds the predictor that a request names.

    A name without a version follows the newest version of that model, an alias follows the alias, and each is swapped as the
    champion is: loaded beside the old one, which stays if that fails.

    Attributes:
        champion: Holds what is served where no model is named.
    """

    def __init__(self, source: ModelSource, pipeline: Pipeline, *, kept: int = 8, only_present: bool = False) -> None:
        """Make a manager; nothing is loaded yet.

        Args:
            source: Where the models are.
            pipeline: The pipeline of the deployment's data set.
            kept: How many models beside the champion stay loaded; the least recently used one goes first.
            only_present: Whether models of another pipeline version are refused although they carry their declaration.
        """
        self.pipeline = pipeline
        self.champion = ModelSlot(source, pipeline, only_present=only_present)
        self._only_present = only_present
        self._kept = kept
        self._slots: OrderedDict[_Key, ModelSlot] = OrderedDict()
        self._listed: list[ListedModel] = []
        self._listed_until = 0.0
        self._unknown: dict[_Key, tuple[float, str]] = {}
        self._first_uses = asyncio.Semaphore(FIRST_USES)

    async def predictor(self, name: str = CHAMPION, version: str | None = None) -> Predictor:
        """Return the model of that name, loaded if necessary.

        Args:
            name: Registered name, or ``champion``.
            version: Version or alias; None for the newest of that name.

        Raises:
            NoModelError: There is no champion yet.
            UnknownModelError: There is no such model.
            ModelRefusedError: It exists and must not be served; the message says why.
            TrackingUnavailableError: The source cannot be reached.
        """
        if name == CHAMPION:
            if version is None:
                return self.champion.require()
            if (current := self.champion.current) is not None and current.info.version == version:
                return current
        key = (name, version)
        slot = self._slots.get(key)
        if slot is not None:
            self._slots.move_to_end(key)
            if slot.current is not None:
                return slot.current
        return await self._first_use(key, slot)

    async def refresh(self) -> bool:
        """Look for newer versions of the champion and of all that is loaded by name or alias.

        Returns:
            Whether another champion is served now.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        swapped = await self.champion.refresh()
        for (name, version), slot in list(self._slots.items()):
            if (slot.current is None and slot.problem is None) or (version is not None and version.isdigit()):
                continue  # its first use has not ended yet, or it is a fixed version
            try:
                await slot.refresh()
            except UnknownModelError:
                self._slots.pop((name, version), None)
            except ComplexSystemError as error:
                log.debug("Looking for %s: %s", name, error.message)
        return swapped

    async def listed(self) -> list[ListedModel]:
        """Return the models of the source, asked for every few seconds at most.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        if time.monotonic() >= self._listed_until:
            self._listed = await asyncio.wrap_future(started(self.champion.source.listed, "model-list"))
            self._listed_until = time.monotonic() + LISTED_SECONDS
        return self._listed

    async def versions(self, name: str) -> list[str]:
        """Return the versions of a model that can be asked for, oldest first; of ``champion`` the one that is served.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        if name == CHAMPION:
            return [self.champion.require().info.version]
        return await asyncio.wrap_future(started(functools.partial(self.champion.source.versions, name), "model-versions"))

    async def status(self) -> ModelsStatus:
        """Return the champion, the models that can be asked for, and those that are loaded."""
        source_problem = None
        try:
            listed = await self.listed()
        except ComplexSystemError as error:
            listed, source_problem = self._listed, error.message
        loaded = [slot.reference for slot in self.slots() if slot.reference is not None]
        return ModelsStatus(
            self.champion.status,
            [
                RegisteredModel(
                    each.newest.name,
                    each.newest.version,
                    each.framework,
                    each.aliases,
                    sorted({reference.version for reference in loaded if reference.name == each.newest.name}),
                )
                for each in listed
            ],
            [
                LoadedStatus(name, version, slot.current.info if slot.current else None, slot.problem)
                for (name, version), slot in self._slots.items()
            ],
            self._kept,
            source_problem,
        )

    def slots(self) -> list[ModelSlot]:
        """Return the champion's slot and those of all models that were asked for."""
        return [self.champion, *self._slots.values()]

    async def _first_use(self, key: _Key, slot: ModelSlot | None) -> Predictor:
        name, version = key
        if slot is None:
            self._refuse_unknown(key)
            find = functools.partial(self.champion.source.find, name, version)
            slot = ModelSlot(self.champion.source, self.pipeline, find, self._loaded, only_present=self._only_present)
            self._slots[key] = slot
        try:
            if not slot.must_wait:
                async with self._first_uses:
                    await slot.refresh()
        except UnknownModelError as error:
            self._slots.pop(key, None)
            self._unknown[key] = (time.monotonic() + LISTED_SECONDS, error.message)
            raise
        except BaseException:
            if slot.current is None:
                self._slots.pop(key, None)
            raise
        finally:
            self._drop_unused()
        if slot.current is None:
            raise ModelRefusedError(slot.reason or f"{name} cannot be loaded.")
        return slot.current

    def _loaded(self, reference: ModelReference) -> Predictor | None:
        return next((slot.current for slot in self.slots() if slot.reference == reference), None)

    def _drop_unused(self) -> None:
        while len(self._slots) > self._kept:
            (name, version), _ = self._slots.popitem(last=False)
            log.info("%s%s is dropped: least recently used", name, f" version {version}" if version else "")

    def _refuse_unknown(self, key: _Key) -> None:
        until, message = self._unknown.pop(key, (0.0, ""))
        if time.monotonic() < until:
            self._unknown[key] = (until, message)
            raise UnknownModelError(message)
        if len(self._unknown) >= MAX_UNKNOWN:
            self._unknown.clear()
