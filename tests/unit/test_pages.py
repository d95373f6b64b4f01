"""Pages of records as Arrow bytes, and their cursors."""

from __future__ import annotations

import gc
import struct
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import (
    Page,
    decode_page,
    encode_page,
    encode_within,
    plain_columns,
    processed_schema,
    raw_schema,
)
from complex_system.errors import InvalidRequestError


@pytest.fixture
def table(dataset: Dataset, laboratory: Laboratory) -> pa.Table:
    return pa.Table.from_pylist(list(laboratory.records(1000)), schema=raw_schema(dataset))


@pytest.mark.parametrize("after", [None, "key"])
def test_a_page_comes_back_with_rows_cursor_and_notes(table: pa.Table, after: str | None) -> None:
    page = decode_page(encode_page(Page(table, after, {"version": "abc"})))
    assert page.table.equals(table)
    assert page.next == after
    assert page.notes == {"version": "abc"}


def test_a_page_without_rows_keeps_its_columns(dataset: Dataset) -> None:
    empty = processed_schema(dataset).empty_table()
    page = decode_page(encode_page(Page(empty)))
    assert page.table.schema == processed_schema(dataset)
    assert (page.table.num_rows, page.next) == (0, None)


def test_the_schemas_follow_the_declaration(dataset: Dataset) -> None:
    assert raw_schema(dataset).names == ["_id", *dataset.raw_names]
    assert processed_schema(dataset).names == list(dataset.processed_names)
    assert set(processed_schema(dataset).types[1:]) == {pa.float64()}
    assert not processed_schema(dataset).field("_id").nullable


@pytest.mark.parametrize("encoded", [b"", b"no arrow at all", None, "text", 7])
def test_what_is_no_arrow_is_refused_as_a_request(encoded: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="Arrow IPC"):
        decode_page(encoded)


def test_a_damaged_page_is_refused_as_a_request(table: pa.Table) -> None:
    with pytest.raises(InvalidRequestError, match="Arrow IPC"):
        decode_page(encode_page(Page(table))[:5000])


def test_damaged_bytes_are_refused_or_read_and_never_end_the_process(table: pa.Table) -> None:
    # Arrow trusts the offsets in its input; without a check, a wrong one is a segmentation fault.
    good = encode_page(Page(table.slice(0, 50), "key", {"version": "abc"}))
    random, refused = Random(1), 0
    for _ in range(2000):
        damaged = bytearray(good)
        for _ in range(random.randint(1, 4)):
            damaged[random.randrange(len(good))] = random.randrange(256)
        try:
            decode_page(bytes(damaged)).table.to_pylist()
        except InvalidRequestError:
            refused += 1
    assert refused > 1000


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_page_is_refused_before_it_is_unpacked(compression: str) -> None:
    bomb = stream(pa.table({"a": pa.array(np.ones(25_000_000))}), compression)
    assert len(bomb) < 1_000_000  # of 200 MB
    gc.collect()
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    with pytest.raises(InvalidRequestError, match="uncompressed"):
        decode_page(bomb)
    # Less where garbage of an earlier test went meanwhile.
    assert pa.total_allocated_bytes() <= before
    assert pool.bytes_allocated() <= before
    for small in (pa.table({"a": [1.0, None]}), pa.table({"a": ["x"], "b": [True]})):
        with pytest.raises(InvalidRequestError, match="uncompressed"):
            decode_page(stream(small, compression))
        assert decode_page(stream(small)).table.equals(small)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.nulls(10**9)}),
        pa.table({"a": pa.ListArray.from_arrays(pa.array([0, 10**9], pa.int32()), pa.nulls(10**9))}),
        pa.table({f"c{i}": pa.nulls(10_000) for i in range(100)}),
    ],
    ids=["rows", "entries", "columns"],
)
def test_values_that_no_byte_stands_for_are_refused(table: pa.Table) -> None:
    encoded = stream(table)
    assert len(encoded) < 20_000
    with pytest.raises(InvalidRequestError, match="more than these bytes hold"):
        decode_page(encoded)


def test_nulls_beside_values_are_no_bomb() -> None:
    table = pa.table({"a": [str(i) for i in range(5000)], "b": pa.nulls(5000), "c": [True] * 5000, "d": [[]] * 5000})
    assert decode_page(stream(table)).table.equals(table)


def test_columns_over_the_same_bytes_are_refused() -> None:
    size, count, end = 80_000, 20, bytes([255] * 4 + [0] * 4)
    whole = stream(pa.table({f"c{i}": np.arange(size / 8) for i in range(count)}))
    assert whole.endswith(end)
    body = len(whole) - len(end) - size * count
    metadata = whole[:body].replace(struct.pack("<q", size * count), struct.pack("<q", size))  # the length of the body
    for place in range(count):
        metadata = metadata.replace(struct.pack("<qq", place * size, size), struct.pack("<qq", 0, size))
    shared = metadata + whole[body : body + size] + end
    assert pa.ipc.open_stream(shared).read_all().column(count - 1)[7].as_py() == 7.0
    with pytest.raises(InvalidRequestError, match="more than these bytes hold"):
        decode_page(shared)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x" * 60_000]).dictionary_encode(),
        pa.array(["x" * 60_000], pa.string_view()),
        pa.array([{"a": 1}]),
        pa.array([[[1]]]),
        pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
        pa.RunEndEncodedArray.from_arrays([1_000_000], ["x"]),
    ],
    ids=lambda column: str(column.type)[:10],
)
def test_columns_that_are_larger_than_their_bytes_are_refused(column: pa.Array) -> None:
    with pytest.raises(InvalidRequestError, match="plain numbers"):
        decode_page(stream(pa.table({"a": column})))


def test_a_client_sends_plain_columns() -> None:
    texts = pa.table(
        {
            "a": pa.array(["x", "y", "x"]).dictionary_encode(),
            "b": pa.array(["p", None, "q"], pa.string_view()),
            "c": [1, 2, 3],
        }
    )
    sent = decode_page(encode_page(Page(plain_columns(texts)))).table
    assert sent.to_pydict() == texts.to_pydict()


@pytest.mark.parametrize("max_bytes", [100_000, 20_000, 5_000])
def test_a_page_that_is_cut_goes_on_after_its_last_row(table: pa.Table, max_bytes: int) -> None:
    rest, seen, pages = table, [], 0
    while rest.num_rows:
        encoded = encode_within(Page(rest, "beyond", {"version": "abc"}), max_bytes)
        assert len(encoded) <= max_bytes
        page = decode_page(encoded)
        pages += 1
        keys = page.table.column("_id").to_pylist()
        assert keys
        seen += keys
        rest = rest.slice(len(keys))
        assert page.next == ("beyond" if not rest.num_rows else keys[-1])
        assert page.notes == {"version": "abc"}
    assert seen == table.column("_id").to_pylist()
    assert pages > 1


def test_a_page_that_fits_is_not_cut(table: pa.Table) -> None:
    page = Page(table, None)
    assert encode_within(page, 1_000_000) == encode_page(page)


def test_a_single_row_is_sent_however_large(table: pa.Table) -> None:
    page = decode_page(encode_within(Page(table, None), 10))
    assert page.table.num_rows == 1
    assert page.next == table.column("_id")[0].as_py()
