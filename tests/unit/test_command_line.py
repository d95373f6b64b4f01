"""``fiot`` and ``complex-system`` as one tool: help that is grouped and has examples, and the right command for a wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import site_references
from typer.main import get_command
from typer.testing import CliRunner

from complex_system import __version__, cli
from complex_system.cli.project import main as complex_system

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:In Typer, only the parameter:DeprecationWarning")  # of FastIoT's commands
LEFTOVERS = re.compile(r":(class|file|meth|func):|\bThis command\b|unittests|withouth")


@pytest.fixture(scope="module")
def fiot() -> Iterator[Any]:
    """Its commands, as they are in this repository's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        import fastiot.cli.typer_app
        from fastiot.cli.model.project import ProjectContext

        assert ProjectContext.default.extensions
        cli._import_extensions()
        yield fastiot.cli.typer_app.app


def said(fiot: Any, *arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(fiot, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}, prog_name="fiot")
    return found.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", found.output).split())


def listed(group: Any, path: str = "fiot") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{path} {name}", command
            yield from listed(command, f"{path} {name}") if getattr(command, "commands", None) else ()


def test_every_command_that_is_listed_reads_like_the_others(fiot: Any) -> None:
    found = dict(listed(get_command(fiot)))
    assert {"fiot run", "fiot config", "fiot extras predict", "fiot extras champion pin", "fiot create new-service"} <= set(
        found
    )
    for path, command in found.items():
        help_ = command.help or ""
        assert help_[0].isupper(), path
        assert re.search(r"[.)]$", help_.strip()), path
        assert not LEFTOVERS.search(help_), path
        assert command.rich_help_panel, f"{path}: is in no group"
        if not getattr(command, "commands", None):
            assert (command.epilog or "").startswith(("Example:", "Examples:")), f"{path}: has no example"
            assert f"{path}" in command.epilog, path
        for each in command.params:
            assert each.name == "help" or re.search(r"[.)]$", each.help or ""), f"{path}: {each.name}"


def test_the_reference_has_every_command_that_is_listed(fiot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = site_references.commands()
    leaves = [path for path, command in listed(get_command(fiot)) if not getattr(command, "commands", None)]
    assert [path for path in leaves if f"## `{path}`\n" not in page and f"| `{path}` |" not in page] == []


def test_what_is_not_of_this_system_is_not_listed_and_works(fiot: Any) -> None:
    code, text = said(fiot, "extras", "--help")
    assert code == 0
    assert "nuitka" not in text
    assert "remove-all" not in text
    assert text.index("Prepare") < text.index("init-env") < text.index("Predict and decide") < text.index(" restore ")
    assert said(fiot, "print", "project_namespace") == (0, "complex_system")


@pytest.mark.parametrize(("arguments", "right"), [
    ("rnu", "fiot run"), ("backup mongo x", "fiot extras backup"), ("bakcup mongo x", "fiot extras backup"),
    ("extras servise mongo", "fiot extras service"), ("extras run", "fiot run"), ("extras champion pni", "fiot extras champion pin"),
    ("run mogno", "mongo"), ("run mongo --onse", "--once"), ("extras backup mraia x", "maria"),
    ("stop mogno", "mongo"), ("deploy mogno", "mongo"), ("start mogno", "mongo"), ("build ml_servng", "ml_serving"),
])  # fmt: skip
def test_a_wrong_command_says_the_right_one(fiot: Any, arguments: str, right: str) -> None:
    code, text = said(fiot, *arguments.split())
    assert code in (1, 2)
    assert f"Did you mean '{right}'?" in text or f"Possible options: {right}" in text


def test_no_command_shows_the_help_and_the_version_is_the_librarys(fiot: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(fiot)
    assert code == 2
    assert "With Docker" in text
    assert said(fiot, "--version") == (0, f"complex-system {__version__}")
    with pytest.raises(SystemExit):
        complex_system(["--version"])
    assert capsys.readouterr().out == f"complex-system {__version__}\n"


@pytest.mark.parametrize(("word", "hint"), [("ini", "Did you mean 'complex-system init'?"), ("run", "in it, fiot runs")])
def test_a_wrong_word_of_complex_system_says_the_right_one(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        complex_system([word])
    assert hint in capsys.readouterr().err


def test_complex_system_init_describes_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        complex_system(["init", "--help"])
    text = capsys.readouterr().out
    assert "Make a project folder" in text
    assert "complex-system init my-plant" in text


@pytest.mark.parametrize(("arguments", "text"), [
    ("run mongo", "is not a project's folder"), ("create new-service a", "is not a project's folder"),
    ("extras backup mongo x", "complex-system init my-plant"), ("rnu", "Did you mean 'fiot run'?"),
    ("extras servise", "Did you mean 'fiot extras service'?"), ("run --help", "--scenario"), ("extras", "init-env"),
    ("create new-project --help", "new-project"), ("--version", __version__),
])  # fmt: skip
def test_outside_of_a_project_a_command_says_where_it_works_or_which_is_right(
    fiot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fiot", *arguments.split()])
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr()
    assert text in (said.out + said.err).replace("python -m pytest.fiot", "fiot")


def test_every_option_that_has_a_text_of_ours_is_a_parameter(fiot: Any) -> None:
    from fastiot.cli.typer_app import create_cmd, extras_cmd

    from complex_system.cli import tool

    for group, name in ((fiot, ""), (extras_cmd, "extras"), (create_cmd, "create")):
        for command in group.registered_commands:
            shown = tool._TABLES[name].get(tool._name(command))
            if shown is not None:
                assert set(shown.options) <= {option for option, _ in tool._options(command)}, command.callback
