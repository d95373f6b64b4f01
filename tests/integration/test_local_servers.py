"""The servers of a local run beside others of their kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from complex_system.local.servers import MariaServer
from support import started


def test_mariadb_leaves_the_temporary_tables_of_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    theirs = {shared / "#sql-temptable-6beb-1-3.MAI", shared / "#sql-temptable-6beb-1-3.MAD"}
    for path in theirs:
        path.touch()
    with started(MariaServer(tmp_path / "mariadb", port=0)):
        assert theirs <= set(shared.iterdir())
