"""What ``make`` tells uv of pip's configuration, and what it says, with scripts in place of Python and uv; pins for every Python."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from complex_system.errors import how_to_install

ROOT = Path(__file__).parents[2]
PYTHON = '#!/bin/sh\ncat "$(dirname "$0")/settings"\n'
UV = """#!/bin/sh
echo "uv $* index=$UV_INDEX strategy=$UV_INDEX_STRATEGY default=$UV_DEFAULT_INDEX"
case "$*" in *--torch-backend*) exit 1;; *"-e .["*) echo " + nvidia-cublas";; esac
"""
TARGETS = f"include {ROOT}/Makefile\npackages:\n\t@$(UV_INSTALL) x\npytorch:\n\t@$(CPU_TORCH)\n"


def make(folder: Path, target: str, settings: str, *arguments: str) -> str:
    """Run one of the recipes where pip's configuration has these settings."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("python", PYTHON), ("uv", UV)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "settings").write_text(settings)
    (folder / "constraints.txt").write_text("torch==2.0\n")
    (folder / "own.mk").write_text(TARGETS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "MAKE"))}
    command = ["make", "-s", "-f", "own.mk", target, "PYTHON=python3", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("settings", "asked"), [
    ("", "x index= strategy= default="),
    ("global.no-index='true'", "--no-index x index= strategy= default="),
    ("global.no-index='true'\n:env:.no-index='0'", "x index= strategy= default="),
    ("global.extra-index-url='\\nfile:///a\\nhttp://b'", "x index=file:///a http://b strategy=unsafe-best-match default="),
    ("global.index-url='http://a'", "x index= strategy= default=http://a"),
])  # fmt: skip
def test_uv_asks_where_pip_would(tmp_path: Path, settings: str, asked: str) -> None:
    said = make(tmp_path, "packages", settings)
    assert said.removeprefix("uv pip install --compile-bytecode ") == asked


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="a machine with an NVIDIA driver takes CUDA")
@pytest.mark.parametrize(("settings", "why"), [
    ("", "its index of CPU builds is not reached"),
    ("global.index-url='http://a'", "PyTorch's is not asked"),
    ("global.no-index='1'", "PyTorch's is not asked"),
])  # fmt: skip
def test_pytorch_with_cuda_is_announced_with_its_reason(tmp_path: Path, settings: str, why: str) -> None:
    assert why in make(tmp_path, "pytorch", settings)


def test_a_named_index_of_pytorch_is_the_only_one_that_is_asked_for_it(tmp_path: Path) -> None:
    said = make(tmp_path, "pytorch", "global.extra-index-url='http://a'\nglobal.no-index='1'", "TORCH_INDEX=http://torch")
    assert "--no-deps" in said
    assert "--default-index http://torch torch==2.0 index= " in said
    assert "--no-index" not in said


def test_every_package_runs_on_the_python_of_debian_12() -> None:
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    installed = [found for found in distributions() if canonicalize_name(found.name) in pinned]
    assert len(installed) > 200
    wanted = {found.name: (found.metadata.get_all("Requires-Python") or [""])[0] for found in installed}
    assert {name: version for name, version in wanted.items() if "3.11.2" not in SpecifierSet(version)} == {}


def test_messages_name_an_extra_that_there_is_and_no_package_of_an_index() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert "complex_system-" in how_to_install("units")
    named: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"how_to_install\(['\"](.+?)['\"]\)", text))
        assert "complex-system[" not in text, path
        assert "pip install -e" not in text, path
    assert named >= {"units", "messages", "cluster", "local", "sql", "tracing"}
    assert named <= set(extras)
