"""``pip install`` of the built wheel into an empty environment, ``complex-system init``, ``fiot run``: nothing of a clone is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_project_runs_from_the_built_wheel(tmp_path: Path) -> None:
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_", "FASTIOT_", "COMPLEX_SYSTEM_")  # earlier tests may have left some
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    programs = tmp_path / "env" / "bin"
    environment["PATH"] = os.pathsep.join([str(programs), environment["PATH"]])

    def run(*command: str | Path, folder: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    # From a copy, because the build writes into the source folder.
    run("git", "checkout-index", "--all", f"--prefix={tmp_path / 'source'}/", folder=ROOT)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "source")
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "env")
    run(programs / "python", *pip, "install", f"{wheel}[all]")
    assert "fiot run mongo" in run(programs / "complex-system", "init", "my-plant")
    run(programs / "fiot", "build", "--dry", folder=tmp_path / "my-plant")  # what it takes from the package is there
    said = run(programs / "fiot", "run", "mongo", "--once", folder=tmp_path / "my-plant")
    assert "installing MLflow's server" in said
    assert "The full cycle of 'mongo' worked" in said
    assert "No git tag" not in said
