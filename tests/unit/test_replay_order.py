"""The order of a replayed file, its repetitions, and packed files."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from complex_system.describe.description import describe
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import original_key
from complex_system.domain.records import raw_check
from complex_system.errors import InvalidRecordError, SourceFileError
from complex_system.sources.replay import MAX_ORDERED, Replay, ReplayFile

DATASET = Dataset.parse(json.dumps({
    "name": "ordered", "target": "y",
    "columns": [
        {"name": "made", "type": "datetime", "format": "%d.%m.%Y %H:%M", "optional": True},
        {"name": "x", "type": "number", "range": [0, 1000]},
        {"name": "y", "type": "number", "optional": True},
    ],
    "pipeline": [{"step": "keep", "column": "x"}],
}))  # fmt: skip
TIMES = ["02.01.2024 10:00", "", "01.01.2024 23:59", "31.12.2023 08:00", "02.01.2024 09:59"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ordered.csv"
    path.write_text("made,x,y\n" + "".join(f"{TIMES[i % 5]},{i},{i}\n" for i in range(20)))
    return path


def order(path: Path, of: str, number: int = 1, seed: int = 1) -> list[float]:
    batches = list(Replay(ReplayFile(path, DATASET), DATASET, of, seed).batches(6, number))
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    return [row.record["x"] for batch in batches for row in batch]


def test_the_order_is_the_files_a_seeded_one_or_that_of_a_time(file: Path) -> None:
    assert order(file, "file") == [float(i) for i in range(20)]
    shuffled = order(file, "shuffled")
    assert sorted(shuffled) == order(file, "file") != shuffled
    assert order(file, "shuffled") == shuffled != order(file, "shuffled", seed=2)
    assert order(file, "shuffled", number=2) != shuffled
    # By time, at the same time by row, and without a time last.
    assert [x % 5 for x in order(file, "made")] == [3] * 4 + [2] * 4 + [4] * 4 + [0] * 4 + [1] * 4
    assert order(file, "made")[:4] == [3, 8, 13, 18]


def test_a_repetition_has_keys_of_its_own(file: Path) -> None:
    replay = Replay(ReplayFile(file, DATASET), DATASET)
    first, second = ([row.record[ID] for batch in replay.batches(20, number) for row in batch] for number in (1, 2))
    assert not set(first) & set(second)
    assert [original_key(key) for key in second] == first


def test_a_key_that_is_too_long_for_its_repetition_is_a_fault_and_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "keys.csv"
    path.write_text(f"_id,x\n{'k' * 63},1\nshort,2\n")
    replay = Replay(ReplayFile(path, DATASET), DATASET)
    (rows,) = replay.batches(5, 2)
    assert "more than 64 characters" in rows[0].fault
    assert rows[1].record[ID] == "short~2"


@pytest.mark.parametrize("name", ["x", "nothing", "File"])
def test_an_order_that_is_not_known_is_refused_with_those_that_are(file: Path, name: str) -> None:
    with pytest.raises(SourceFileError, match=r"allowed are 'file', 'shuffled' and a column of type datetime \('made'\)"):
        Replay(ReplayFile(file, DATASET), DATASET, name)


def test_a_file_that_memory_may_not_hold_keeps_its_order(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = ReplayFile(file, DATASET)
    monkeypatch.setattr(large, "rows", MAX_ORDERED + 1)
    Replay(large, DATASET)
    with pytest.raises(SourceFileError, match="at most 1,000,000 can be replayed in another order"):
        Replay(large, DATASET, "shuffled")


def test_a_packed_file_is_read_as_the_one_inside(file: Path) -> None:
    packed = file.with_name("ordered.csv.gz")
    with file.open("rb") as plain, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(plain, target)
    assert order(packed, "file") == order(file, "file")
    assert describe(packed, "y").records == 20
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(SourceFileError, match="cannot be read as gz"):
        ReplayFile(packed, DATASET)
    packed.write_bytes(b"no gzip")
    with pytest.raises(SourceFileError, match="cannot be read as gz"):
        ReplayFile(packed, DATASET)


def test_a_list_of_more_entries_than_allowed_is_refused_in_words() -> None:
    check = raw_check(Dataset.shipped("films", target="Ausformung"))
    with pytest.raises(InvalidRecordError) as error:
        check([{"Massenanteile": [0.0] * 1001}])
    assert any("must have at most 1000 entries, not 1001" in fault["problem"] for fault in error.value.faults)


@pytest.mark.parametrize(("name", "content", "says"), [
    ("long.csv", b"a,b\n1,2\n3,4,5\n", "cannot be read as csv: line 3 has 3 fields"),
    ("twice.csv", b"a,a\n1,2\n", "has the column 'a' more than once"),
    ("zero.csv", b"a,b\n1\x00,2\n", "is not a text"),
    ("empty.csv", b"", "is empty"),
    ("damaged.parquet", b"PAR1damagedPAR1", "cannot be read as parquet"),
    ("damaged.xlsx", b"PK nothing", "cannot be read as xlsx"),
    ("unnamed.jsonl", b'{"": 1}\n', "has a column without a name"),
    ("unknown.abc", b"", "ends with '.abc.gz'"),
])  # fmt: skip
def test_what_is_wrong_inside_a_packed_file_is_said_of_the_packed_file(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(SourceFileError) as refused:
        describe(path)
    assert refused.value.message.startswith(f"The file {path} {says}")
    assert tempfile.gettempdir() not in refused.value.message.replace(str(path), "")
