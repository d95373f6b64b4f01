"""Cursors of tables: what is earlier, later and far ahead, in the types that drivers return."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from complex_system.errors import SourceTableError
from complex_system.settings import Settings
from complex_system.sources.cursor import Scalar, earlier, is_ahead, is_later, read, written
from complex_system.sources.delivery import source_name

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cursor", "before"),
    [
        (1000, 940),
        (2**60 + 1, 2**60 - 59),
        (1000.5, 940.5),
        (Decimal("1000.25"), Decimal("940.25")),
        (datetime(2026, 3, 1, 0, 0, 30), datetime(2026, 2, 28, 23, 59, 30)),
        (date(2026, 3, 1), date(2026, 2, 28)),
        ("2026-03-01 00:00:30", "2026-02-28 23:59:30"),
        ("2026-03-01T00:00:30.250Z", "2026-02-28T23:59:30"),
        ("2026-03-01", "2026-02-28"),
    ],
)
def test_a_cursor_a_minute_or_sixty_before_is_kept_and_read_again(cursor: Scalar, before: Scalar) -> None:
    assert earlier(cursor, 60) == before
    assert is_later(cursor, before)
    assert not is_later(before, cursor)
    again = read(written(cursor))
    assert (type(again), again) == (type(cursor), cursor)


def test_texts_of_the_same_second_are_not_before_its_start() -> None:
    start = earlier("2026-03-01 00:00:30.900", 0)
    assert all(text >= start for text in ("2026-03-01 00:00:30", "2026-03-01 00:00:30.5", "2026-03-01 00:00:30.000001"))  # type: ignore[operator]


def test_a_local_time_is_not_far_ahead_and_the_next_week_is() -> None:
    assert not is_ahead(datetime(2026, 3, 2, 2, 0), NOW)
    assert not is_ahead(NOW.astimezone(timezone(timedelta(hours=14))), NOW)
    assert is_ahead("2026-03-08 00:00:00", NOW)
    assert not is_ahead(10**12, NOW)


def test_others_than_numbers_and_times_are_refused() -> None:
    for cursor in ("a", b"a"):
        with pytest.raises(SourceTableError, match="has to be a number, a time"):
            is_ahead(cursor, NOW)
    with pytest.raises(SourceTableError, match="of one type"):
        is_later("2026-03-01", 7)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mariadb://u:pw@host:3306/db?ssl=1", "host:3306/db/t"),
        ("postgresql://u:p@w:x/y?z@host/db", "host/db/t"),
        ("sqlite:////var/plant.db", "//var/plant.db/t"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dpw", "//t"),
    ],
)
def test_the_name_of_a_table_has_no_user_and_no_password(url: str, name: str) -> None:
    assert source_name(Settings(source_table="t", source_table_url=url)) == name
    assert source_name(Settings(source_table="t", source_table_url=url, source_name="hall 2")) == "hall 2"
