"""Where models to serve come from. Each kind of source is a module beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from complex_system.errors import UnknownModelError
from complex_system.serving.models.runtimes import Runtime
from complex_system.tracking.model_files import SAMPLE_FILE
from complex_system.training.conformal import INTERVALS_FILE

SERVED_FILES = (SAMPLE_FILE, INTERVALS_FILE)
"""Files beside the ONNX model that serving uses."""


@dataclass(frozen=True)
class ModelReference:
    """One version of a model in a source. Two are equal when name and version are.

    Attributes:
        origin: What the source needs to load it.
    """

    name: str
    version: str
    origin: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class LoadedModel:
    """An ONNX model, and the metadata that its trainer stored.

    Attributes:
        runtime: Runs a model that has no ONNX model.
        files: What it carries beside the ONNX model, by name, checked.
    """

    onnx_model: bytes | None
    metadata: dict[str, Any]
    runtime: Runtime | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class ListedModel:
    """A model that can be asked for by name.

    Attributes:
        newest: Its newest version.
        aliases: Alias to version.
    """

    newest: ModelReference
    framework: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)


class ModelSource(ABC):
    """A place where models are published. Its methods block; callers use threads."""

    label: ClassVar[str]
    """Name of the source in messages."""

    @abstractmethod
    def newest(self) -> ModelReference | None:
        """Return the model that should be served now, or None while there is none.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """

    @abstractmethod
    def load(self, reference: ModelReference) -> LoadedModel:
        """Load a model.

        Raises:
            ModelRefusedError: It is missing or damaged.
            TrackingUnavailableError: The source cannot be reached.
        """

    def listed(self) -> list[ListedModel]:
        """Return the models that can be asked for by name; a source of one model has that one.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        newest = self.newest()
        return [ListedModel(newest)] if newest else []

    def find(self, name: str, version: str | None = None) -> ModelReference:
        """Find a model by name, and by version or alias; without either its newest version.

        Raises:
            UnknownModelError: There is no such model.
            TrackingUnavailableError: The source cannot be reached.
        """
        newest = self.newest()
        if newest is None or name != newest.name or version not in (None, newest.version):
            raise self.unknown(name, version)
        return newest

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model that :meth:`find` knows, oldest first; a source of one model has that one.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """
        return [each.newest.version for each in self.listed() if each.newest.name == name]

    def unknown(self, name: str, version: str | None = None) -> UnknownModelError:
        """Return the error for a model that the source does not have."""
        return UnknownModelError(f"There is no model '{name}'{f' of version {version}' if version else ''} in {self.label}.")
