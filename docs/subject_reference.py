"""Writes docs/subjects.md, the reference of all subjects and messages, from their declarations: ``make docs``."""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from complex_system.messaging import subjects
from complex_system.protocol import collection, database, documents, operations, promotion, serving, training, trial
from complex_system.protocol.base import Event, Message, Request

PAGE = Path(__file__).with_name("subjects.md")
_HEAD = """# Subjects and messages

Generated from `src/complex_system/protocol` by `make docs`; a test compares the two.

Requests and replies are FastIoT `Thing`s, the payload is `Thing.value`: a mapping with the fields below. Fields with a default may
be left out, unknown fields are ignored. `kio` is KIOptiPack's published Python package, whose
subjects and payloads stay as they are. An error reply is kio's (`__error_occured__`, `error_type`, `error_msg`, `error_args`) with
our stable `error_code`. "Arrow page" is a page of records as Arrow IPC bytes (`domain/pages.py`).
"""
_TOPICS: tuple[tuple[str, ModuleType], ...] = (
    ("Published by kio, and the ingest", subjects),
    ("Database", database),
    ("Documents of monitoring", documents),
    ("Collection of readings", collection),
    ("Training", training),
    ("Decisions about the champion", promotion),
    ("Serving", serving),
    ("Trying a model", trial),
    ("Operations", operations),
)


def subject_reference() -> str:
    """Return the whole reference."""
    parts = [_HEAD]
    for title, module in _TOPICS:
        found = [each for each in vars(module).values() if isinstance(each, Request | Event)]
        if module is operations:
            found.insert(0, operations.health_request("<service>"))
        described: list[type[Message]] = []
        rows = []
        for subject in found:
            rows.append(_row(subject))
            for kind in _kinds(subject):
                _collect(kind, described)
        parts.append(f"## {title}\n")
        parts.append("| subject | request or message | reply | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
        parts += [_fields(each) for each in described]
    return "\n".join(parts)


def _row(subject: Request[Any, Any] | Event[Any]) -> str:
    if isinstance(subject, Event):
        return f"| `{subject.name}` | {_name(subject.message)} | none (event) | {subject.description or _summary(subject.message)} |"
    return f"| `{subject.name}` | {_name(subject.request)} | {_name(subject.reply)} | {subject.description} |"


def _kinds(subject: Request[Any, Any] | Event[Any]) -> list[Any]:
    return [subject.message] if isinstance(subject, Event) else [subject.request, subject.reply]


def _name(kind: Any) -> str:
    if kind is Any:
        return "kio's"
    if kind is bytes:
        return "Arrow page"
    plain = isinstance(kind, type) and not hasattr(kind, "__args__")
    text = kind.__name__ if plain else re.sub(r"\b(?:[a-z_]+\.)+", "", str(kind))
    return f"`{text.replace(' | ', ' or ').replace('None', 'null')}`"


def _summary(kind: Any) -> str:
    return (kind.__doc__ or "").split("\n")[0] if kind is not Any else ""


def _collect(kind: Any, into: list[type[Message]]) -> None:
    """Add the messages that a type is made of, outermost first."""
    for argument in getattr(kind, "__args__", ()):
        _collect(argument, into)
    if isinstance(kind, type) and issubclass(kind, Message) and kind not in into and kind.__struct_fields__:
        into.append(kind)
        for field in msgspec.structs.fields(kind):
            _collect(field.type, into)


def _fields(kind: type[Message]) -> str:
    documented: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for match in re.finditer(r"^    (\w+): (.+(?:\n        .+)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE):
            documented[match[1]] = " ".join(match[2].split())
    lines = [f"### {kind.__name__}\n", f"{_summary(kind)}\n", "| field | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(kind):
        default = "required" if field.required else f"`{_default(field)}`"
        text = documented.get(field.name, "").replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{field.encode_name}` | {_of_schema(msgspec.json.schema(field.type))} | {default} | {text} |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "{}" if isinstance(value, msgspec.Struct) else msgspec.json.encode(value).decode()


def _of_schema(schema: Any) -> str:
    if "anyOf" in schema:
        return " or ".join(_of_schema(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return f"list of {_of_schema(items)}" if items else "list"
    if schema.get("type") == "object":
        return "mapping"
    return {"string": "text", "null": "null", "integer": "integer", "number": "number", "boolean": "true or false"}.get(
        str(schema.get("type")), "any"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(subject_reference(), encoding="utf-8")
