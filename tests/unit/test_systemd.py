"""The unit of systemd that `fiot extras service` writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from complex_system.deploy.systemd import service_unit
from complex_system.errors import StartError
from runs import FIOT, ROOT


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


def test_the_command_writes_the_unit_and_says_what_is_next(tmp_path: Path) -> None:
    unit = tmp_path / "my-plant.service"
    command = [FIOT, "extras", "service", "mongo", "--user", "plant", "-o", str(unit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "`systemctl enable --now my-plant.service`" in done.stdout
    text = unit.read_text()
    program = text.partition("ExecStart=")[2].partition(" run mongo --locked\n")[0]  # a linked environment has another path
    assert Path(program).name == "fiot"
    assert text == service_unit(Path(program), ROOT, "mongo", "plant", ["--locked"])
