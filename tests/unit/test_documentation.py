"""Every command block of the documentation says what becomes of it, and the reader of the marks finds what is in a page."""

from __future__ import annotations

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
        for word in block.more.split() if block.mark == "not run" else ():
            assert not word.startswith("tests/") or (ROOT / word.rstrip(",;")).exists(), f"{where}: there is no {word}"


def test_a_block_is_cut_into_commands_with_what_they_print() -> None:
    assert list(commands("a \\\n  b 'c\nd'\n# why\nf  # g\n")) == [("a \\\n  b 'c\nd'\n", ""), ("# why\nf  # g\n", "")]
    assert list(commands("$ a\n1 ... 2\n\n$ b\n3")) == [("a\n", "1 ... 2\n\n"), ("b\n", "3\n")]


def test_what_is_shown_is_compared_as_far_as_it_is_stable() -> None:
    assert difference("a  ... c\n", "a b\nc\n", "") == ""
    assert difference("a ... c\n", "a b d\n", "") == "a ... c\n"
    assert difference(" 10.0 s  b: 1,234 saved\n", "x\n 7.25 s b: 2 saved\n", "numbers vary") == ""
    assert difference(" 10.0 s  b: 1,234 saved\n", "7 s  b: 2 read\n", "numbers vary") == " 10.0 s  b: 1,234 saved"
    assert difference("a\n", "b\n", "output varies") == ""
