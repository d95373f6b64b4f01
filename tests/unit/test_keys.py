"""Keys of records and ids of requests."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from complex_system.domain import keys
from complex_system.domain.keys import new_key, original_key, repeated_key, row_key, uuid7


def test_a_new_key_is_a_uuid_of_version_7_of_this_moment_and_no_two_are_equal() -> None:
    before = time.time_ns() // 1_000_000
    made = [new_key() for _ in range(5000)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == len(made)
    for each in map(UUID, made):
        assert (each.version, each.variant) == (7, RFC_4122)
        assert before <= each.int >> 80 <= after
    assert all(str(UUID(each)) == each for each in made)


def test_new_keys_rise_also_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_key() for _ in range(1000)]
    now = time.time_ns()
    monkeypatch.setattr(keys.time, "time_ns", lambda: now - 3_600_000_000_000)
    made += [new_key() for _ in range(1000)]
    assert made == sorted(set(made))


def test_threads_and_a_forked_process_make_no_key_twice() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [key for part in pool.map(lambda _: [new_key() for _ in range(2000)], range(8)) for key in part]
    assert len(set(made)) == len(made)
    forked = r"""
import os, time
from complex_system.domain.keys import new_key
new_key()
os.fork()
for _ in range(100):
    time.sleep(0.0015)  # a new millisecond, so a new random part
    os.write(1, f"{new_key()[19:]}\n".encode())
os.wait() if os.getpid() == os.getsid(0) else None
"""
    printed = subprocess.run(
        [sys.executable, "-c", forked], capture_output=True, text=True, check=True, start_new_session=True
    )
    parts = printed.stdout.split()
    assert len(parts) == len(set(parts)) == 200


def test_the_bits_of_a_uuid_are_those_that_were_given_but_for_version_and_variant() -> None:
    assert uuid7(0x0123_4567_89AB, (1 << 80) - 1) == "01234567-89ab-7fff-bfff-ffffffffffff"
    assert uuid7(0x0123_4567_89AB, 0) == "01234567-89ab-7000-8000-000000000000"
    assert uuid7(1 << 48 | 5, 1 << 80 | 6) == "00000000-0005-7000-8000-000000000006"


def test_the_keys_of_a_files_rows_rise_and_name_the_file() -> None:
    made = [row_key(b"\xab" * 32, row) for row in (1, 2, 10, 5000, 2**40)]
    assert made == sorted(made)
    assert made[0] == "abababab-abab-8aba-8000-000000000001"
    assert row_key(b"\xac" + b"\xab" * 31, 1) != made[0]


def test_a_repeated_key_leads_back_to_its_original() -> None:
    assert (repeated_key("A7", 1), repeated_key("A7", 2)) == ("A7", "A7~2")
    assert [original_key(key) for key in ("A7", "A7~2", "a~b", "~3", "a~b~3")] == ["A7", "A7", "a~b", "~3", "a~b"]
