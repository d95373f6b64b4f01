"""Every command block of the documentation says what becomes of it, and the reader of the marks finds what is in a page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from documented import LANGUAGES, ROOT, blocks, commands, difference, pages


@pytest.mark.parametrize("page", pages())
def test_every_command_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.mark or block.language not in LANGUAGES, (
            f"{where}: mark it with <!-- run --> or <!-- not run: WHY -->, or name its language, such as ```text"
        )
        assert block.mark != "not run" or block.more, f"{where}: say why"
        if block.mark == "not run":
            assert not (wrong := uncovered(page, block.text, block.more)), f"{where}: {wrong}"


def uncovered(page: str, text: str, mark: str) -> str:
    """Say what the tests that a mark names do not have of a block; nothing if they call all its commands of ``fiot``.

    Other commands are the shell's own, or make ready. ```without `fiot run` ``` in a mark takes one out.
    """
    files = [ROOT / word.rstrip(",;:") for word in mark.split() if word.startswith("tests/")]
    if missing := [path for path in files if not path.is_file()]:
        return f"there is no {missing[0]}"
    commands = set(re.findall(r"^(?:.*?[\s/])?(fiot (?:extras )?[a-z][\w-]*)", text.replace("&& ", "\n"), re.MULTILINE))
    for command in sorted(commands - set(re.findall(r"without `(.+?)`", mark))) if files else ():
        if not any(calls(path, command, page) for path in files):
            return f"none of the named tests calls `{command}`"
    return ""


def calls(path: Path, command: str, page: str) -> bool:
    """Return whether a test file names a command in its code, or the page whose blocks it runs; docstrings do not count."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return command in text
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings}
    words = {each for each in strings if isinstance(each, str)}
    handed = [each for node in nodes if isinstance(node, ast.Call) for each in node.args]
    handed += [each for node in nodes if isinstance(node, ast.List | ast.Tuple) for each in node.elts]
    last = command.rsplit(maxsplit=1)[-1]
    return (
        any(isinstance(each, ast.Constant) and each.value == last for each in handed)
        or any(command in each or each.endswith(page.rpartition("/")[2]) for each in words)
        or any(isinstance(node, ast.Name) and node.id == f"fiot_{last}" for node in nodes)
    )


def test_a_mark_names_tests_that_call_the_commands() -> None:
    named = "tests/unit/test_backup_command.py"
    none = "none of the named tests calls"
    assert uncovered("docs/x.md", "$ fiot extras backup mongo x\ncd x", named) == ""
    assert uncovered("docs/x.md", "a && /x/bin/fiot extras undo mongo", f"x; {named}: it") == f"{none} `fiot extras undo`"
    assert uncovered("docs/x.md", "A=b fiot run mongo", named) == f"{none} `fiot run`"
    assert uncovered("docs/x.md", "A=b fiot run mongo", f"{named} without `fiot run`") == ""
    assert uncovered("docs/x.md", "fiot run mongo", "needs Docker") == ""
    assert uncovered("docs/x.md", "ls", "tests/unit/test_nothing.py, which ...").startswith("there is no ")


def test_a_block_is_cut_into_commands_with_what_they_print() -> None:
    assert list(commands("a \\\n  b 'c\nd'\n# why\nf  # g\n")) == [("a \\\n  b 'c\nd'\n", ""), ("# why\nf  # g\n", "")]
    assert list(commands("$ a\n1 ... 2\n\n$ b\n3")) == [("a\n", "1 ... 2\n\n"), ("b\n", "3\n")]


def test_what_is_shown_is_compared_as_far_as_it_is_stable() -> None:
    assert difference("a  ... c\n", "a b\nc\n", "") == ""
    assert difference("a ... c\n", "a b d\n", "") == "a ... c\n"
    assert difference(" 10.0 s  b: 1,234 saved\n", "x\n 7.25 s b: 2 saved\n", "numbers vary") == ""
    assert difference(" 10.0 s  b: 1,234 saved\n", "7 s  b: 2 read\n", "numbers vary") == " 10.0 s  b: 1,234 saved"
    assert difference("a\n", "b\n", "output varies") == ""
