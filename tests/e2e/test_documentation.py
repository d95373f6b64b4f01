"""The documentation's commands, page by page, as a reader calls them: in a clone, on ports of its own, beside what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from documented import ROOT, RUN, Block, Machine, Terminal, beside, blocks, pages

SETTINGS = {
    "COMPLEX_SYSTEM_RECORDS": "1500",
    "COMPLEX_SYSTEM_EPOCHS": "20",
    "COMPLEX_SYSTEM_LIGHTGBM_TRIALS": "5",
    "COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT": "8011",
}
"""Of runs: small ones, with the port that docs/serving.md names."""
PAGES = [page for page in pages() if any(block.mark.startswith("run") for block in blocks(page))]


def clone(folder: Path) -> Path:
    """A clone with what `make install` installs; deployments are its own."""
    folder.mkdir()
    for found in ROOT.iterdir():
        if found.name not in (".git", ".run", "deployments", "build", "dist", ".env"):
            (folder / found.name).symlink_to(found)
    for name in subprocess.run(
        ["git", "ls-files", "deployments"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def environment(home: Path, settings: dict[str, str] = SETTINGS) -> dict[str, str]:
    """What a reader's shell has after `make install`, and small runs."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTIOT_", "WANDB_", "MLFLOW_", "COMPLEX_SYSTEM_"))
    }
    kept["HOME"] = str(home)
    programs = home / "programs"
    programs.mkdir(exist_ok=True)
    # It would install from the network, which is not there; this is what `make test` has installed.
    (programs / "uvx").write_text(f'#!/bin/sh\nprogram=$1; shift; exec "{ROOT}/.venv-clients/bin/$program" "$@"\n')
    (programs / "uvx").chmod(0o755)
    kept["PATH"] = os.pathsep.join([str(programs), str(ROOT / ".venv" / "bin"), kept["PATH"]])
    return {**kept, **settings}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Machine, Path]]]:
    """What runs beside pages: started by the first that needs it, ended after the last."""
    started: dict[str, tuple[Machine, Path, Terminal]] = {}

    def of(command: str) -> tuple[Machine, Path]:
        if command not in started:
            base = tmp_path_factory.mktemp("beside")
            machine = Machine()
            folder = clone(base / "clone")
            started[command] = machine, folder, Terminal(machine, folder, environment(base), base / "outputs")
            started[command][2].do(Block("", 0, "", "run", "output varies", command))
        return started[command][:2]

    yield of
    for machine, _, terminal in started.values():
        terminal.close()
        machine.close()


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page: str, running: Callable[[str], tuple[Machine, Path]], tmp_path: Path) -> None:
    own = None
    if command := beside(page):
        machine, folder = running(command)
    else:
        machine, folder = (own := Machine()), clone(tmp_path / "clone")
    # What a run is shown to say is what it says with the usual settings.
    shown = any(block.more == "numbers vary" for block in blocks(page))
    terminal = Terminal(machine, folder, environment(tmp_path, {} if shown else SETTINGS), tmp_path / "outputs")
    try:
        for block in blocks(page):
            if block.mark in RUN:
                terminal.do(block)
    finally:
        try:
            terminal.close()
        finally:
            if own is not None:
                own.close()
