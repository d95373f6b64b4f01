"""The unit of systemd that `fiot extras service` writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from complex_system.deploy.systemd import service_unit
from complex_system.errors import StartError


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    folder = tmp_path / "50 % of it"
    folder.mkdir()
    program = folder / "fiot"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "plant.service"
    unit.write_text(service_unit(program, folder, "mongo", "root", ["--locked"]))
    text = unit.read_text()
    assert f'ExecStart="{str(program).replace("%", "%%")}" run mongo --locked' in text
    if analyze := shutil.which("systemd-analyze"):
        checked = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
        assert "plant.service" not in checked.stderr, checked.stderr
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("user", "folder"), [("a b", "/srv"), ("", "/srv"), ("root\nExecStart=/bin/sh", "/srv"), ("root", "/s\nrv")]
)
def test_what_would_be_another_unit_is_refused(user: str, folder: str) -> None:
    with pytest.raises(StartError):
        service_unit(Path("/usr/bin/fiot"), Path(folder), "mongo", user)
