"""What goes with a model beside its score: the reference of its training data, and a sample of their raw records."""

from __future__ import annotations

import asyncio
import logging

import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.messaging.clients import DatabaseClient
from complex_system.monitoring.reference import Reference, density_of
from complex_system.tracking.model_files import SAMPLE_FILE, encode_sample
from complex_system.training.data import TrainingData

log = logging.getLogger(__name__)


async def training_description(
    database: DatabaseClient, dataset: Dataset, data: TrainingData, keys: list[str], labelled: int
) -> tuple[bytes, dict[str, bytes]]:
    """Return the reference of training data, and the files with their records.

    Where the database does not answer they are without the raw columns, because the model matters more.

    Args:
        database: Has the raw records.
        dataset: Declares them.
        data: What a model is trained on.
        keys: A sample of the keys of the training part.
        labelled: Labelled records that the parts were made of.
    """
    raw: pa.Table | None = None
    density = density_of(dataset, data.sizes[0], labelled)
    try:
        density *= (await database.counts()).labelled_share
        raw = await database.raw_by_keys(keys)
    except ComplexSystemError as error:
        log.warning("The reference of the training data is without raw columns: %s", error.message)
    reference = await asyncio.to_thread(Reference.of, dataset, data.train.in_order(), raw, density=density)
    return reference.encoded(), {} if raw is None else {SAMPLE_FILE: encode_sample(dataset, raw)}
