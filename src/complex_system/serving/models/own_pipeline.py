"""Which pipeline a model is served with: the deployment's, or after a change of the declaration the one that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError, ModelRefusedError
from complex_system.pipeline.pipeline import Pipeline


def pipeline_for(what: str, metadata: Mapping[str, Any], present: Pipeline, *, only_present: bool = False) -> Pipeline:
    """The pipeline of a twin, made of the declaration that its trainer noted where its version is not the present one. Blocking.

    Args:
        what: What messages call the model.
        metadata: What the trainer noted beside the twin.
        present: The deployment's pipeline.
        only_present: Whether records are processed elsewhere, where only the present version is known.

    Raises:
        ModelRefusedError: The model is of another version and has no usable declaration, or is for another data set or target.
    """
    dataset = present.dataset
    version = metadata.get("pipeline_version")
    if version == dataset.version:
        return present
    mismatch = f"{what} was trained for pipeline version {version}, and this service runs {dataset.version}"
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
