"""A declaration as commented YAML, one line a column and a step, as a person would write it."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import yaml

_PLAIN = re.compile(r"[^\W\d_](?:[\w ./%°+-]*[\w.%°+-])?")


def scalar(value: Any) -> str:
    """A value that YAML reads back as the same."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else _real(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text and yaml.safe_load(f"[{text}]") == [text]:
        return text
    quoted: str = yaml.dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.removesuffix("\n")


def _real(value: float) -> str:
    written = repr(value)
    # YAML 1.1 takes 1e+16 for a text; with a point it is a number.
    return written if "." in written or "e" not in written else written.replace("e", ".0e")


def flow(content: dict[str, Any]) -> str:
    """A mapping on one line."""
    return "{" + ", ".join(f"{key}: {_of(value)}" for key, value in content.items()) + "}"


def comment(text: str, indent: str = "") -> str:
    """A text as comment lines."""
    return "".join(f"{indent}# {line}\n" for line in textwrap.wrap(_printable(text), 118, break_long_words=False))


def _of(value: Any) -> str:
    return "[" + ", ".join(map(scalar, value)) + "]" if isinstance(value, list | tuple) else scalar(value)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
