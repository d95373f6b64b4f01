"""The suite of sources of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, UnknownModelError
from complex_system.serving.models.source import ModelReference, ModelSource
from complex_system.testing.models import linear_onnx


class ModelPlace(ABC):
    """Where models are published for a source.

    Attributes:
        source: The source under test, which reads there.
    """

    source: ModelSource

    @abstractmethod
    def publish(self, onnx_model: bytes, **changes: Any) -> dict[str, Any]:
        """Publish an ONNX model as the newest and return its metadata; keyword arguments replace entries."""

    @abstractmethod
    def replace(self, content: bytes) -> None:
        """Put something else in place of the newest ONNX model."""

    @abstractmethod
    def publish_without_onnx(self) -> None:
        """Make something the newest that holds no ONNX model."""


class ModelSourceContract:
    """What every :class:`~complex_system.serving.models.source.ModelSource` promises to serving. Override the fixture ``place``."""

    @pytest.fixture
    def place(self) -> ModelPlace:
        """A place with nothing in it."""
        raise NotImplementedError(f"{type(self).__name__} needs the fixture 'place': where models are published.")

    @pytest.fixture
    def dataset(self) -> Dataset:
        """The lab's data set."""
        return Dataset.shipped("lab")

    @pytest.fixture
    def onnx_model(self, dataset: Dataset) -> bytes:
        """A model that can be served."""
        return linear_onnx(dataset, 1.0)

    def test_there_is_nothing_at_first(self, place: ModelPlace) -> None:
        """A source in which nothing is published has no newest model, and says that without an error."""
        assert place.source.newest() is None
        assert place.source.label

    def test_what_was_published_last_is_the_newest_and_earlier_ones_can_still_be_loaded(
        self, place: ModelPlace, dataset: Dataset, onnx_model: bytes
    ) -> None:
        """What was published last is the newest; each version is loaded with its own bytes and metadata, an earlier one, too."""
        metadata = place.publish(onnx_model)
        first = place.source.newest()
        assert first is not None
        assert place.source.newest() == first
        other = linear_onnx(dataset, 2.0)
        other_metadata = place.publish(other)
        second = place.source.newest()
        assert second is not None
        assert second != first
        assert second.name == first.name
        for reference, content, about in ((second, other, other_metadata), (first, onnx_model, metadata)):
            loaded = place.source.load(reference)
            assert loaded.onnx_model == content
            assert loaded.metadata == about

    def test_every_version_can_be_asked_for_by_name(self, place: ModelPlace, dataset: Dataset, onnx_model: bytes) -> None:
        """Models are listed and found by name, version and alias; an unknown one raises ``UnknownModelError``."""
        references: list[ModelReference] = []
        for bias in (1.0, 2.0, 3.0):
            place.publish(linear_onnx(dataset, bias))
            newest = place.source.newest()
            assert newest is not None
            references.append(newest)
        name = references[0].name
        assert place.source.versions(name) == [each.version for each in references]
        assert place.source.versions("nobody's") == []
        for reference in references:
            assert place.source.find(name, reference.version) == reference
        assert place.source.find(name) == references[-1]
        [listed] = place.source.listed()
        assert listed.newest == references[-1]
        for alias, version in listed.aliases.items():
            assert place.source.find(name, alias).version == version
        for unknown, which in (("nobody", None), (name, "99"), (name, "nobody"), (name, "0123456789abcdef")):
            with pytest.raises(UnknownModelError):
                place.source.find(unknown, which)

    def test_a_damaged_onnx_model_is_refused(self, place: ModelPlace, onnx_model: bytes) -> None:
        """An ONNX model whose bytes are not those of its digest raises ``ModelRefusedError``."""
        place.publish(onnx_model)
        reference = place.source.newest()
        assert reference is not None
        place.replace(onnx_model[:-1])
        with pytest.raises(ModelRefusedError, match="damaged"):
            place.source.load(reference)

    def test_a_missing_onnx_model_is_refused(self, place: ModelPlace) -> None:
        """A version without an ONNX model raises ``ModelRefusedError`` when it is loaded."""
        place.publish_without_onnx()
        reference = place.source.newest()
        assert reference is not None
        with pytest.raises(ModelRefusedError):
            place.source.load(reference)
