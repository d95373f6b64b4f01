"""``fiot extras backup`` and ``restore``: what they say before they do anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from complex_system.backup.deployment import back_up
from complex_system.backup.places import DATABASE, Place
from complex_system.errors import BackupError
from complex_system.settings import Settings
from runs import FIOT, ROOT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("backup", "mongo", "new", "--local"), "'mongo' has no data of a run"),
        (
            ("backup", "mongo", "new", "--without", "records"),
            "--without takes streams, database, mlflow, wandb, declaration",
        ),
        (("restore", "mongo", ".", "--local"), "is not a backup"),
    ],
)
def test_a_command_that_cannot_begin_says_why(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    command, deployment, folder, *options = arguments
    done = subprocess.run(
        [FIOT, "extras", command, deployment, str(tmp_path / folder), *options],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "COMPLEX_SYSTEM_RUN_DIR": str(tmp_path / "run")},
    )  # fmt: skip
    assert done.returncode != 0
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


async def test_a_database_of_ones_own_is_not_taken_for_another_one(tmp_path: Path) -> None:
    config_dir = ROOT / "deployments/mongo/config_dir"
    place = Place("'mine'", (DATABASE,), Settings.construct(target=""), "database_memory", None, None, config_dir)
    with pytest.raises(BackupError, match="'database_memory'.* MongoDB and MariaDB.*--without database"):
        await back_up(place, "mine", tmp_path / "new", lambda _: None)
    assert list(tmp_path.iterdir()) == []
