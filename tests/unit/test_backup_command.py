"""``fiot extras backup`` and ``restore``: what they say before they do anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

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
