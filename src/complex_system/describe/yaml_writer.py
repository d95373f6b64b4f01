"""Writes YAML with comments, as a person would: one line for each column and step, values that are read back as they were."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import yaml

_PLAIN = re.compile(r"[^\W\d_](?:[\w ./%°+-]*[\w.%°+-])?")


def scalar(value: Any) -> str:
    """Return a value as YAML that is read back as the same value."""
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
    # YAML 1.1 reads 1e+16 as a text; with a point it is a number.
    return written if "." in written or "e" not in written else written.replace("e", ".0e")


def flow(content: dict[str, Any]) -> str:
    """Return a mapping on one line."""
    return "{" + ", ".join(f"{key}: {_of(value)}" for key, value in content.items()) + "}"


def comment(text: str, indent: str = "") -> str:
    """Return a text as comment lines."""
    return "".join(f"{indent}# {line}\n" for line in textwrap.wrap(_printable(text), 118, break_long_words=False))


def other_line(when: str, declared: dict[str, Any]) -> str:
    """Return another line for the column above, as a comment."""
    return comment(f"{when}, put this line in place of the one above, without '#':", "  ") + f"  # - {flow(declared)}\n"


def _of(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {_of(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(scalar, value)) + "]" if isinstance(value, list | tuple) else scalar(value)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
