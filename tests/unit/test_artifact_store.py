"""The plain directory of W&B artifacts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from complex_system.errors import ModelRefusedError
from complex_system.tracking.artifact_store import ArtifactStore

FILES = {"model.pt": b"state", "model.onnx": b"twin"}


def test_what_was_written_last_is_the_newest(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "deep" / "store")
    assert store.newest() is None
    first = store.write(FILES, {"round": "1"})
    second = store.write(FILES, {"round": "2"})
    assert first != second
    assert len(second) == 16
    assert ArtifactStore(tmp_path / "deep" / "store").newest() == second
    assert store.read(first) == (FILES, {"round": "1"})
    assert store.read(second) == (FILES, {"round": "2"})


def test_the_same_content_is_one_artifact_and_becomes_the_newest_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first = store.write(FILES, {"round": "1"})
    store.write(FILES, {"round": "2"})
    assert store.write(FILES, {"round": "1"}) == first
    assert store.newest() == first
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_nothing_half_written_is_left_behind_or_seen(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.write(FILES, {})
    with pytest.raises(OSError, match=r"no/such"):
        store.write({"no/such/folder": b""}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([digest, "newest"])
    assert store.newest() == digest


@pytest.mark.parametrize("name", ["model.onnx", "metadata.json"])
def test_a_changed_artifact_is_refused(tmp_path: Path, name: str) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.write(FILES, {"round": "1"})
    (tmp_path / digest / name).write_bytes(b"{}")
    with pytest.raises(ModelRefusedError, match="damaged"):
        store.read(digest)


@pytest.mark.parametrize("digest", ["../secret", "", "0123456789abcdef"])
def test_what_is_no_artifact_is_refused(tmp_path: Path, digest: str) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(ModelRefusedError):
        ArtifactStore(tmp_path / "store").read(digest)


def test_only_the_newest_artifacts_are_kept(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, keep=3)
    written = []
    for number in range(5):
        written.append(store.write(FILES, {"round": str(number)}))
        os.utime(tmp_path / written[-1], (number, number))
    assert store.digests() == written[2:]
    # One that becomes the newest again is not the next to go.
    assert store.write(FILES, {"round": "2"}) == written[2]
    last = store.write(FILES, {"round": "9"})
    assert store.digests() == [written[4], written[2], last]
    assert store.newest() == last
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*store.digests(), "newest"])


def test_what_a_killed_process_left_behind_is_removed_later(tmp_path: Path) -> None:
    for name, age in ((".writing-old", 7200), (".writing-now", 0), (".removing-0123456789abcdef-1", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_bytes(b"half")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    digest = ArtifactStore(tmp_path).write(FILES, {})
    assert {path.name for path in tmp_path.iterdir()} == {".writing-now", digest, "newest"}


def test_files_and_folders_are_on_disk_before_the_pointer_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append("writing" if path.name.startswith(".writing") else path.name)

    monkeypatch.setattr(os, "fsync", watched)
    ArtifactStore(root).write(FILES, {})
    pointer = f".newest-{os.getpid()}"
    assert synced == [tmp_path.name, "model.pt", "model.onnx", "metadata.json", "writing", "store", pointer, "store"]
