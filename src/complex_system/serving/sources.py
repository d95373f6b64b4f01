"""Where models to serve come from. Each place is a module of its own beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class ModelReference:
    """One version of a model in a source. Two are equal when name and version are.

    Attributes:
        origin: What the source needs to find it again.
    """

    name: str
    version: str
    origin: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class LoadedTwin:
    """The ONNX twin of a model, and the metadata that its trainer wrote."""

    onnx: bytes
    metadata: dict[str, Any]


class ModelSource(ABC):
    """A place that models are published in. Its methods block; callers use threads."""

    label: ClassVar[str]
    """What messages call the source."""

    @abstractmethod
    def newest(self) -> ModelReference | None:
        """The model that should be served now, or None as long as there is none.

        Raises:
            TrackingUnavailableError: The source cannot be reached.
        """

    @abstractmethod
    def load(self, reference: ModelReference) -> LoadedTwin:
        """Fetches the twin of a model.

        Raises:
            ModelRefusedError: The twin is missing or damaged.
            TrackingUnavailableError: The source cannot be reached.
        """
