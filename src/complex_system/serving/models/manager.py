"""All models that can be asked for: the champion, kept always, and others by name, loaded on first use and few at a time."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from typing import Any

from complex_system.background import started
from complex_system.errors import ComplexSystemError, ModelRefusedError, UnknownModelError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.models.slot import ModelHolder
from complex_system.serving.models.source import ListedModel, ModelReference, ModelSource

log = logging.getLogger(__name__)

CHAMPION = "champion"
"""Name under which the champion is served beside its own."""
LISTED_SECONDS = 5.0
"""How long a list of the source's models is used again, and how long an unknown name stays unknown."""
MOST_UNKNOWN = 1000
"""Unknown names that are remembered, so that asking for them again does not ask the source."""
FIRST_USES = 4
"""Models that are looked for at the same time, whatever clients ask for."""

_Key = tuple[str, str | None]


class ModelManager:
    """Finds the predictor that a request names.

    A name without a version follows the newest version of that model, an alias follows the alias, and each is swapped as the champion
    is: loaded beside the old one, which stays if that fails.

    Attributes:
        champion: Holds what is served where no model is named.
    """

    def __init__(
        self,
        source: ModelSource,
        pipeline: Pipeline,
        *,
        kept: int = 8,
        champion: ModelHolder | None = None,
        only_present: bool = False,
    ) -> None:
        """Makes a manager; nothing is loaded yet.

        Args:
            source: Where the models are.
            pipeline: The pipeline of the deployment's data set.
            kept: How many models beside the champion stay loaded; the one that was not used for longest goes first.
            champion: A holder that exists already.
            only_present: Whether models of another pipeline version are refused although they bring their declaration.
        """
        self.pipeline = pipeline
        self.champion = champion or ModelHolder(source, pipeline, only_present=only_present)
        self._only_present = only_present
        self._kept = kept
        self._slots: OrderedDict[_Key, ModelHolder] = OrderedDict()
        self._listed: list[ListedModel] = []
        self._listed_until = 0.0
        self._unknown: dict[_Key, tuple[float, str]] = {}
        self._first_uses = asyncio.Semaphore(FIRST_USES)

    async def predictor(self, name: str | None = None, version: str | None = None) -> Predictor:
        """The model of that name, loaded if need be.

        Args:
            name: Registered name; None or ``champion`` for the champion.
            version: Version or alias; None for the newest of that name.

        Raises:
            NoModelError: There is no champion yet.
            UnknownModelError: There is no such model.
            ModelRefusedError: It exists and must not be served; the sentence says why.
            TrackingUnavailableError: The source cannot be reached.
        """
        if name is None or (name == CHAMPION and version is None):
            return self.champion.require()
        if name == CHAMPION and (current := self.champion.current) is not None and current.info.version == version:
            return current
        key = (name, version)
        slot = self._slots.get(key)
        if slot is not None:
            self._slots.move_to_end(key)
            if slot.current is not None:
                return slot.current
        return await self._first_use(key, slot)

    async def refresh(self) -> bool:
        """Looks for newer versions of the champion and of all that is loaded by name or alias.

        Returns:
            Whether another champion is served now.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        swapped = await self.champion.refresh()
        for (name, version), slot in list(self._slots.items()):
            if (slot.current is None and slot.problem is None) or (version is not None and version.isdigit()):
                continue  # its first use has not ended yet, or a fixed version
            try:
                await slot.refresh()
            except UnknownModelError:
                self._slots.pop((name, version), None)
            except ComplexSystemError as error:
                log.debug("Looking for %s: %s", name, error.message)
        return swapped

    async def listed(self) -> list[ListedModel]:
        """The models of the source; asked for at most every few seconds.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        if time.monotonic() >= self._listed_until:
            self._listed = await asyncio.wrap_future(started(self.champion.source.listed, "model-list"))
            self._listed_until = time.monotonic() + LISTED_SECONDS
        return self._listed

    async def versions(self, name: str) -> list[str]:
        """The versions of a model that can be asked for, oldest first; those of the champion are the one that is served.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        if name == CHAMPION:
            return [self.champion.require().info.version]
        return await asyncio.wrap_future(started(functools.partial(self.champion.source.versions, name), "model-versions"))

    async def status(self) -> dict[str, Any]:
        """The champion, the models that can be asked for, and those that are loaded, as JSON."""
        source_problem = None
        try:
            listed = await self.listed()
        except ComplexSystemError as error:
            listed, source_problem = self._listed, error.message
        return {
            "champion": self.champion.status(),
            "models": [
                {
                    "name": each.newest.name,
                    "newest": each.newest.version,
                    "framework": each.framework,
                    "aliases": dict(each.aliases),
                    "loaded": sorted({ref.version for ref in self._references() if ref.name == each.newest.name}),
                }
                for each in listed
            ],
            "loaded": [
                {
                    "name": name,
                    "version": version,
                    "model": slot.current.info.as_dict() if slot.current else None,
                    "problem": slot.problem.as_dict() if slot.problem else None,
                }
                for (name, version), slot in self._slots.items()
            ],
            "kept": self._kept,
            "source_problem": source_problem,
        }

    def holders(self) -> list[ModelHolder]:
        """The champion's holder and those of all models that were asked for."""
        return [self.champion, *self._slots.values()]

    async def _first_use(self, key: _Key, slot: ModelHolder | None) -> Predictor:
        name, version = key
        if slot is None:
            self._refuse_unknown(key)
            find = functools.partial(self.champion.source.find, name, version)
            slot = ModelHolder(self.champion.source, self.pipeline, find, self._loaded, only_present=self._only_present)
            self._slots[key] = slot
        waiting = slot.waiting
        try:
            if waiting is None:
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
        return next((each.current for each in self.holders() if each.reference == reference), None)

    def _references(self) -> list[ModelReference]:
        return [each.reference for each in self.holders() if each.reference is not None]

    def _drop_unused(self) -> None:
        while len(self._slots) > self._kept:
            (name, version), _ = self._slots.popitem(last=False)
            log.info("%s%s was not used for longest and is dropped", name, f" version {version}" if version else "")

    def _refuse_unknown(self, key: _Key) -> None:
        until, message = self._unknown.pop(key, (0.0, ""))
        if time.monotonic() < until:
            self._unknown[key] = (until, message)
            raise UnknownModelError(message)
        if len(self._unknown) >= MOST_UNKNOWN:
            self._unknown.clear()
