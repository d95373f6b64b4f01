"""The plain directory of W&B artifacts."""

from __future__ import annotations

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
