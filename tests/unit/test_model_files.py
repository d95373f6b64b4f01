"""Files beside the ONNX model: the sample of raw records, and digests."""

from __future__ import annotations

import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import raw_schema
from complex_system.errors import ModelRefusedError
from complex_system.tracking.model_files import (
    FILES,
    SAMPLE_RECORDS,
    checked_files,
    decode_sample,
    digests_of,
    encode_sample,
)


@pytest.mark.parametrize("count", [1, SAMPLE_RECORDS, 2 * SAMPLE_RECORDS + 1])
def test_the_sample_is_even_and_has_neither_keys_nor_targets(dataset: Dataset, count: int) -> None:
    raw = pa.Table.from_pylist(list(Laboratory(1).records(count)), raw_schema(dataset))
    sample = decode_sample(encode_sample(dataset, raw))
    assert sample.num_rows == min(count, SAMPLE_RECORDS)
    assert sample.column_names == [c.name for c in dataset.columns if c.name not in (dataset.id, dataset.target)]
    kept = raw.select(sample.column_names)
    assert sample.slice(0, 1).equals(kept.slice(0, 1))
    assert sample.slice(sample.num_rows - 1).equals(kept.slice(count - 1)), "from the first record to the last"


def test_a_sample_that_is_none_is_refused() -> None:
    with pytest.raises(ModelRefusedError, match=r"sample\.arrow cannot be read"):
        decode_sample(b"not Arrow")


def test_only_declared_files_with_their_digest_pass() -> None:
    files = {"a": b"1", "b": b"2"}
    metadata = {FILES: digests_of(files)}
    assert checked_files("lab 1", {**files, "c": b"3"}, metadata) == files
    assert checked_files("lab 1", files, {}) == {}, "a model of an earlier release"
    with pytest.raises(ModelRefusedError, match="lab 1 is damaged: b does not match"):
        checked_files("lab 1", {**files, "b": b"3"}, metadata)
