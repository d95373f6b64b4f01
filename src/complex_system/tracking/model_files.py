"""Files that a version carries beside its ONNX model: what they hold belongs to the model, and a digest in its metadata says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.pages import Page, decode_page, encode_page
from complex_system.errors import InvalidRequestError, ModelRefusedError

FILES = "files"
"""Entry of a model's metadata with the SHA-256 of each file by its name."""
TRAINING = "training"
"""Artifact folder of a run with what its training can be repeated from, and the entry of the metadata with its digests."""
SAMPLE_FILE = "sample.arrow"
"""Raw records of the training part, as :func:`encode_sample` writes them."""
SAMPLE_RECORDS = 2000
"""Records of the sample, at most."""


def digests_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of every file in hex digits, by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def declared_files(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests in a model's metadata by the files' names; none for a model of an earlier release."""
    found = metadata.get(FILES)
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, Mapping) else {}


def checked_files(label: str, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that the metadata declare, without any other ones.

    Args:
        label: Name and version of the model in messages.
        files: Contents by name.
        metadata: What is kept beside the model; its signature was checked.

    Raises:
        ModelRefusedError: A file is not the one that was declared.
    """
    declared = declared_files(metadata)
    found = {name: files[name] for name in declared if name in files}
    for name, digest in digests_of(found).items():
        if digest != declared[name]:
            raise ModelRefusedError(f"{label} is damaged: {name} does not match its digest in the metadata.")
    return found


def encode_sample(dataset: Dataset, raw: pa.Table) -> bytes:
    """Return at most ``SAMPLE_RECORDS`` raw records, evenly chosen, as Arrow IPC: declared columns without key, id and target."""
    left_out = (ID, dataset.id, dataset.target)
    columns = raw.select([name for name in raw.column_names if name not in left_out])
    if columns.num_rows > SAMPLE_RECORDS:
        columns = columns.take(pa.array(np.linspace(0, columns.num_rows - 1, SAMPLE_RECORDS).astype(np.int64)))
    return encode_page(Page(columns))


def decode_sample(content: bytes) -> pa.Table:
    """Return the records that :func:`encode_sample` wrote.

    Raises:
        ModelRefusedError: The content is not such a sample.
    """
    try:
        return decode_page(content).table
    except InvalidRequestError as error:
        raise ModelRefusedError(f"{SAMPLE_FILE} cannot be read: {error.message}") from error
