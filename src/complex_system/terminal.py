"""Text of other people on a terminal: without the characters that move the cursor, change its settings, or hide what is there."""

from __future__ import annotations

import logging
import re

from typing_extensions import override

CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # text that runs the other way
    "\u2028\u2029\ud800-\udfff]"  # other line ends; surrogates, which no terminal can be sent
)
"""What moves a terminal's cursor, changes its settings, or hides what is there."""


def printable(text: str) -> str:
    """Return a text with its control characters written out as escapes of Python; tabs and line feeds stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PrintableFormatter(logging.Formatter):
    """Formats as another one does, without control characters: log lines quote records, subjects and errors of others."""

    def __init__(self, inside: logging.Formatter) -> None:
        super().__init__()
        self._inside = inside

    @override
    def format(self, record: logging.LogRecord) -> str:
        return printable(self._inside.format(record))
