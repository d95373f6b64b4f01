"""Pages of records as Arrow bytes, and their cursors."""

from __future__ import annotations

from random import Random

import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, decode_page, encode_page, encode_within, processed_schema, raw_schema
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
