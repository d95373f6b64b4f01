"""Benchmarks and scripts: each prints its help and refuses what it does not know, instead of beginning its work."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.in_short import in_short

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "docs", "requirements")
Said = Callable[..., tuple[object, str]]


def programs() -> list[str]:
    files = [*(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")), ROOT / "tests" / "simulation.py"]
    begins = '\nif __name__ == "__main__":'
    return sorted(str(file.relative_to(ROOT)) for file in files if begins in file.read_text(encoding="utf-8"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a program in this process, so that what they all import is imported once."""

    def run(program: str, *arguments: str) -> tuple[object, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.syspath_prepend(str(ROOT))
        monkeypatch.setattr("sys.argv", [program, *arguments])
        module = program.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
        monkeypatch.delitem(sys.modules, module, raising=False)
        is_module = program.startswith("benchmarks/")
        with pytest.raises(SystemExit) as end:
            runpy.run_module(module, None, "__main__", True) if is_module else runpy.run_path(program, None, "__main__")
        found = capsys.readouterr()
        return end.value.code, found.out + found.err

    return run


@pytest.mark.parametrize("program", programs())
def test_a_program_prints_its_help_and_refuses_an_unknown_option(program: str, said: Said) -> None:
    code, text = said(program, "--help")
    assert (code, text[:6]) == (0, "usage:")
    if program.startswith("benchmarks/"):
        assert "python -m benchmarks." in text
    if program != "requirements/audit.py":  # further options are pip-audit's
        code, text = said(program, "--halp")
        assert code == 2
        assert "--halp" in text or "required: " in text


@pytest.mark.parametrize(("program", "word", "right"), [
    ("benchmarks/run.py", "ingets", "processor_time"), ("benchmarks/validity/__main__.py", "drfit", "champion"),
    ("benchmarks/quality/__main__.py", "films2", "concrete"), ("benchmarks/intervals.py", "films2", "concrete"),
    ("benchmarks/scale.py", "Mongo", "MongoDB"), ("benchmarks/echo.py", "out", "plain"),
])  # fmt: skip
def test_a_wrong_word_is_answered_with_the_right_ones(program: str, word: str, right: str, said: Said) -> None:
    code, text = said(program, word)
    assert code == 2
    assert word in text
    assert right in text.partition("error:")[2]


def test_the_programs_that_make_bench_runs_are_named_and_so_are_the_others(said: Said) -> None:
    text = " ".join(said("benchmarks/run.py", "--help")[1].split())
    assert "ingest, reading, processing" in text
    assert "python -m benchmarks.scale --keep" in text


def test_the_first_screen_of_the_benchmarks_is_of_the_kept_results_and_names_every_missed_aim() -> None:
    kept = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))
    text = in_short({file.stem: json.loads(file.read_text(encoding="utf-8"))["tables"] for file in kept})
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    screen, _, tables = page.partition("## In short")[2].partition("\n## ")
    assert sorted(screen.splitlines()) == sorted(text.removeprefix("## In short").splitlines())
    missed = [line for line in screen.splitlines() if line.startswith("- [")]
    assert len(missed) == sum(
        line.startswith("| ") and ("missed |" in line or "**no**" in line) for line in tables.splitlines()
    )
