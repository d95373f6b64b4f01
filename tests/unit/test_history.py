"""The checker of histories finds what is wrong in wrong ones, and nothing in right ones."""

from __future__ import annotations

import math

import pytest

from history import PROCESSED, RAW, UNKNOWN, History, Read, Write, check, check_final


def saved(begin: float, end: float = math.inf, *, inserted: int | None = None, **versions: int) -> Write:
    return Write("writer", "saved", versions, begin, end, inserted)


def published(begin: float, end: float = math.inf, **versions: int) -> Write:
    return Write("device", "published", versions, begin, end)


def read(begin: float, end: float, keys: str, table: str = RAW, **found: int) -> Read:
    return Read("reader", table, tuple(found.items()), begin, end, keys=tuple(keys))


def page(begin: float, end: float, after: str = "", until: str | None = None, table: str = RAW, **found: int) -> Read:
    return Read("walker", table, tuple(found.items()), begin, end, after=after, until=until)


RIGHT = {
    "what was acknowledged is read": ([saved(0, 1, a=1)], [read(2, 3, "a", a=1)]),
    "it is read while it is written, or not": ([saved(0, 9, a=1)], [read(2, 3, "a", a=1), read(1, 4, "a")]),
    "without a reply it may never take effect": ([saved(0, a=1)], [read(5, 6, "a"), page(7, 8)]),
    "without a reply it may take effect late": ([saved(0, a=1)], [read(5, 6, "a"), read(7, 8, "a", a=1)]),
    "the read began before the acknowledgement": ([saved(0, 3, a=1)], [read(2, 9, "a")]),
    "a later version is read": ([saved(0, 1, a=1), saved(2, 3, a=2)], [read(4, 5, "a", a=2), read(2, 3, "a", a=1)]),
    "a published record comes later": ([published(0, 1, a=1)], [read(2, 3, "a"), page(4, 5), read(8, 9, "a", a=1)]),
    "a page ends before the key": ([saved(0, 1, a=1, b=1)], [page(2, 3, until="a", a=1), page(3, 4, after="a", b=1)]),
    "a repeated batch is new once": ([saved(0, 1, inserted=2, a=1, b=1), saved(2, 3, inserted=0, a=1, b=1)], []),
    "two attempts share a batch": ([saved(0, 1, inserted=1, a=1, b=1), saved(0, 3, inserted=1, a=1, b=1)], []),
    "it is processed later": ([saved(0, 1, a=1)], [page(2, 3, table=PROCESSED), page(4, 5, table=PROCESSED, a=1)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_history_has_no_faults(name: str) -> None:
    writes, reads = RIGHT[name]
    assert check(History(list(writes), list(reads))) == []


WRONG = {
    "an acknowledged record is missing": (
        [saved(0, 1, a=1)],
        [read(2, 3, "a")],
        "version 0, and version 1 was acknowledged",
    ),
    "a page misses it": ([saved(0, 1, a=1, b=1, c=1)], [page(2, 3, a=1, c=1)], "b has version 0, and version 1 was acknowl"),
    "the last page misses it": ([saved(0, 1, a=1, b=1)], [page(2, 3, after="a")], "b has version 0"),
    "a middle page misses it": ([saved(0, 1, a=1, b=1, c=1)], [page(2, 3, after="a", until="c", c=1)], "b has version 0"),
    "the read is stale": ([saved(0, 1, a=1), saved(2, 3, a=2)], [read(4, 5, "a", a=1)], "version 1, and version 2 was ack"),
    "time goes back for another reader": (
        [saved(0, a=1)],
        [read(1, 2, "a", a=1), read(3, 4, "a")],
        "was read by reader at 2",
    ),
    "a published record vanishes": ([published(0, 1, a=1)], [page(2, 3, a=1), page(4, 5)], "was read by walker at 3"),
    "a result vanishes": (
        [saved(0, 1, a=1)],
        [page(2, 3, table=PROCESSED, a=1), page(4, 5, table=PROCESSED)],
        "processed, read by walker from 4.000 to 5.000: a has version 0",
    ),
    "nobody wrote it": ([], [read(1, 2, "a", a=1)], "a has version 1, which nobody had written"),
    "nobody had written it yet": ([saved(3, 4, a=1)], [read(1, 2, "a", a=1)], "which nobody had written"),
    "its content is nobody's": ([saved(0, 1, a=1)], [read(2, 3, "a", a=UNKNOWN)], "the content of a is nobody's"),
    "a page has no order": ([saved(0, 1, a=1, b=1)], [page(2, 3, b=1, a=1)], "a comes after b"),
    "a page has keys of another": (
        [saved(0, 1, a=1, b=1)],
        [page(2, 3, after="a", a=1, b=1)],
        "a is not in the page's range",
    ),
    "a key was not asked for": ([saved(0, 1, a=1, b=1)], [read(2, 3, "a", a=1, b=1)], "b was not asked for"),
    "a record was new twice": ([saved(0, 1, inserted=1, a=1), saved(2, 3, inserted=1, a=1)], [], "2 new records were ack"),
    "more are new than were sent": ([saved(0, 1, inserted=2, a=1)], [], "told of 2 new records of 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_found(name: str) -> None:
    writes, reads, said = WRONG[name]
    found = check(History(list(writes), list(reads)))
    assert any(said in each for each in found), found


def test_a_page_with_a_key_twice_is_found() -> None:
    twice = Read("walker", RAW, (("a", 1), ("a", 1)), 2, 3)
    assert check(History([saved(0, 1, a=1)], [twice])) == ["raw, read by walker from 2.000 to 3.000: a comes after a"]
    asked = Read("reader", RAW, (("a", 1), ("a", 1)), 2, 3, keys=("a",))
    assert check(History([saved(0, 1, a=1)], [asked])) == ["raw, read by reader from 2.000 to 3.000: a key is there twice"]


@pytest.mark.parametrize(
    ("writes", "raw", "processed", "said"),
    [
        ([saved(0, 1, a=1)], {}, {}, "a: version 1 was acknowledged, and version 0 is there at the end"),
        ([saved(0, 1, a=1), saved(1, 2, a=2)], {"a": 1}, {"a": 1}, "version 2 was acknowledged, and version 1 is there"),
        ([published(0, 1, a=1)], {}, {}, "a: version 1 was acknowledged"),
        ([saved(0, 1, a=1)], {"a": 1, "b": 1}, {"a": 1, "b": 1}, "b: nobody wrote it"),
        ([saved(0, 1, a=1)], {"a": UNKNOWN}, {"a": UNKNOWN}, "a: its content is nobody's"),
        ([saved(0, 1, a=1)], {"a": 1}, {}, "a: version 1 is there, and the processed record is of version 0"),
        (
            [saved(0, 1, a=1), saved(1, 2, a=2)],
            {"a": 2},
            {"a": 1},
            "a: version 2 is there, and the processed record is of version 1",
        ),
        ([saved(0, a=1)], {}, {"a": 1}, "a: processed, and not there"),
    ],
)
def test_a_wrong_end_is_found(writes: list[Write], raw: dict[str, int], processed: dict[str, int], said: str) -> None:
    assert any(said in each for each in check_final(History(writes), raw, processed))


def test_a_right_end_has_no_faults() -> None:
    history = History([saved(0, 1, a=1), saved(2, a=2), saved(0, b=1), published(0, 1, c=1)])
    for a in (1, 2):
        assert check_final(history, {"a": a, "c": 1}, {"a": a, "c": 1}) == []
