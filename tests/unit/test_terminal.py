"""What other people's data may do to a terminal: nothing."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from complex_system.describe.command import describe_to
from complex_system.local.display import LogDisplay
from complex_system.local.live import Printable
from complex_system.local.state import RunState
from complex_system.terminal import PrintableFormatter, printable

HOSTILE = "press\x1b[2J\x1b]0;owned\x07 \x9b31m\x7f\r\u202egnp.exe\u2028"


def test_control_characters_are_written_out_and_texts_stay() -> None:
    assert printable("Größe\t1 µm\n\U0001f600 日本") == "Größe\t1 µm\n\U0001f600 日本"
    assert printable(HOSTILE) == r"press\x1b[2J\x1b]0;owned\x07 \x9b31m\x7f\r\u202egnp.exe\u2028"
    assert printable("\ud83d") == r"\ud83d"


def test_a_view_keeps_its_styles_and_loses_theirs() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=60)
    table = Table(box=None)
    table.add_column("name")
    table.add_row(Text(HOSTILE, style="red"))
    console.print(Printable(table))
    shown = out.getvalue()
    assert "\x1b[31m" in shown  # ours
    for theirs in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\x7f", "\r", "\u202e"):
        assert theirs not in shown


def test_a_run_without_a_view_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    LogDisplay(RunState("here")).note(HOSTILE)
    assert r"press\x1b[2J" in capsys.readouterr().out


def test_a_description_of_a_file_shows_none(tmp_path: Path) -> None:
    file = tmp_path / "hostile\x1b[2J.csv"
    rows = "".join(f"{i},{i % 7},k\x1b]0;owned\x07{i % 3}\n" for i in range(60))
    file.write_text(f"a\x1b[2J,b,c\x9b31m\n{rows}", encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    describe_to(file, "b", None, force=False, out=out, err=err)
    assert r"a\x1b[2J" in err.getvalue()
    for theirs in ("\x1b", "\x07", "\x9b"):
        assert theirs not in err.getvalue()


def test_a_log_line_quotes_without_them(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("Refused '%s'", HOSTILE)
    line = PrintableFormatter(logging.Formatter("%(levelname)s %(message)s")).format(caplog.records[-1])
    assert line.startswith(r"WARNING Refused 'press\x1b[2J")
    assert "\x1b" not in line
