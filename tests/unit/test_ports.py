"""The locks of ports are where nobody else can prepare anything."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from complex_system.local.servers import base as servers


@pytest.fixture(autouse=True)
def _forget_the_folder() -> Iterator[None]:
    servers._lock_folder.cache_clear()
    yield
    servers._lock_folder.cache_clear()


def folder_in(monkeypatch: pytest.MonkeyPatch, runtime: Path, cached: Path, temporary: Path) -> Path:
    temporary.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cached))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return servers._lock_folder()


def test_the_locks_are_in_a_folder_of_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = folder_in(monkeypatch, tmp_path / "run", tmp_path / "cache", tmp_path / "tmp")
    assert found == tmp_path / "run" / "complex-system-ports"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    port = servers.free_port()
    assert (found / str(port)).is_file()


def test_a_folder_that_others_can_prepare_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, cached = tmp_path / "shared", tmp_path / "cache"
    shared.mkdir()
    shared.chmod(0o1777)
    cached.mkdir()
    (tmp_path / "theirs").mkdir()
    (cached / "complex-system-ports").symlink_to(tmp_path / "theirs")
    found = folder_in(monkeypatch, shared, cached, tmp_path / "tmp")
    # Without any other place, in one with a name that cannot be guessed.
    assert found.parent == tmp_path / "tmp"
    assert found.name.startswith("complex-system-ports-")
    servers._lock_folder.cache_clear()
    assert found != servers._lock_folder()


def test_any_port_is_none_that_the_kernel_hands_out_nor_one_given_before() -> None:
    ports = [servers.free_port() for _ in range(50)]
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    assert max(ports) < lowest
    assert len(set(ports)) == 50


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = folder_in(monkeypatch, tmp_path / "run", tmp_path / "cache", tmp_path / "tmp")
    port = servers.free_port()
    (found / str(port)).unlink()
    (found / str(port)).symlink_to(tmp_path / "target")
    monkeypatch.setattr(servers, "_held", {})
    assert servers.free_port(port) != port
    assert not (tmp_path / "target").exists()
